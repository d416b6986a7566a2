"""A fine-tuning's metrics.json is what scikit-learn says of `model.predict` on the same held-out examples."""

import json
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sk

import bmfm
from bmfm.cli import compose
from bmfm.files import ASSETS
from bmfm.training.run import assemble, train
from tests.training.test_finetune import SHORT

FEW = [*SHORT, "optimizer.lr=2e-2", "trainer.max_steps=6", "trainer.val_check_interval=3", "logistic_regression=false"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """{dna, rna: file} with labels that the held-out parts lack in part: one class is rare, some labels are missing."""
    folder, rng = tmp_path_factory.mktemp("labelled"), np.random.default_rng(0)
    n = 120
    table = pd.DataFrame({"sequence": ["".join(rng.choice(list("ACGT"), k)) for k in rng.integers(20, 60, n)]})
    adata = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")
    adata = adata[
        np.argsort(np.asarray((adata.X > 0).sum(1)).ravel(), kind="stable")[:n]
    ].copy()  # cells of few genes, none of which is cut away
    for frame in (table, adata.obs):
        kinds = np.array(["a", "b", "c", None], object)[rng.choice(4, n, p=[0.5, 0.3, 0.1, 0.1])]
        kinds[:3] = "rare"
        frame["kind"] = kinds
        frame["number"] = np.where(rng.random(n) < 0.1, np.nan, 5 + 2 * rng.normal(size=n))
        frame["tags"] = ["|".join(t for t in ("x", "y", "z") if rng.random() < 0.4) or "w" for _ in range(n)]
    table.to_csv(folder / "t.csv", index=False)
    adata.write_h5ad(folder / "c.h5ad")
    return {"dna": folder / "t.csv", "rna": folder / "c.h5ad"}


def expected_of(said, truth, heads):
    """{objective/metric: figure} by scikit-learn and SciPy, of a table of predictions and the true columns."""
    out = {}
    given = truth["kind"].isin(heads["kind"]["classes"]).to_numpy()
    classes = heads["kind"]["classes"]
    true, found = truth["kind"][given].to_numpy(), said["kind"][given].to_numpy()
    out |= {"kind/accuracy": sk.accuracy_score(true, found), "kind/macro_f1": sk.f1_score(true, found, average="macro")}
    out["kind/mcc"] = sk.matthews_corrcoef(true, found)
    there = [c for c in classes if 0 < (true == c).sum() < len(true)]
    chance = said[[f"kind_p_{c}" for c in there]].to_numpy()[given]
    binary = np.stack([true == c for c in there], 1)
    out |= {"kind/auroc": sk.roc_auc_score(binary, chance, average="macro"), "kind/auprc": sk.average_precision_score(binary, chance)}
    given = truth["number"].notna().to_numpy()
    true, found = truth["number"][given].to_numpy(float), said["number"][given].to_numpy(float)
    out |= {"number/mae": sk.mean_absolute_error(true, found), "number/mse": sk.mean_squared_error(true, found)}
    out |= {"number/pearson": stats.pearsonr(true, found)[0], "number/spearman": stats.spearmanr(true, found)[0]}
    classes = heads["tags"]["classes"]
    true = np.array([[c in t.split("|") for c in classes] for t in truth["tags"]])
    chance = said[[f"tags_p_{c}" for c in classes]].to_numpy()
    there = [i for i in range(len(classes)) if 0 < true[:, i].sum() < len(true)]
    out |= {f"tags/{a}_f1": sk.f1_score(true, chance > 0.5, average=a, zero_division=0) for a in ("macro", "micro")}
    out["tags/accuracy"] = (true == (chance > 0.5)).mean()
    out["tags/auroc"] = sk.roc_auc_score(true[:, there], chance[:, there])
    out["tags/auprc"] = sk.average_precision_score(true[:, there], chance[:, there])
    return out


@pytest.mark.parametrize("omics", ["dna", "rna"])
def test_metrics_are_those_of_predictions(tmp_path, data, dna_model, cells_model, omics):
    target = "{_target_: bmfm.objectives.labels."
    settings = [
        f"+recipe={omics}_finetune", *FEW, f"run_dir={tmp_path}", f"checkpoint={dict(dna=dna_model, rna=cells_model)[omics]}",
        f"data.path={data[omics]}", "data.split.test=0.4", "data.batch_size=7", "trainer.precision=bf16-mixed", "~objectives.label",
        f"+objectives.kind={target}Classification, pooling: mean, class_weights: balanced}}", f"+objectives.number={target}Regression, pooling: mean}}",
        f"+objectives.tags={target}MultiLabel, pooling: mean}}",
    ]  # fmt: skip
    settings += (
        ["data.max_tokens=12"]  # many sequences are longer: they are read in windows, as predictions are
        if omics == "dna"
        else ["data.max_tokens=512", "+tokenizer.read_depth={mode: none}", "tokenizer.sequence_dropout=0"]
    )
    train(compose("train", settings))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    module = assemble(compose("train", settings))[0]
    held_out = module.numbers["test"]
    assert omics == "rna" or module.is_cut[held_out].any()
    model = bmfm.load(tmp_path / "model")
    if omics == "dna":
        truth = pd.read_csv(data["dna"]).iloc[held_out]
        said = model.predict(truth["sequence"])
    else:
        cells = anndata.read_h5ad(data["rna"])[held_out]
        truth, said = cells.obs, model.predict(cells.copy())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = expected_of(said, truth, model.model.config.heads)
    # batches are padded otherwise, so that two scores that differ in the last digit may change places: one pair of the ranking
    for name, figure in expected.items():
        ranking = name.endswith(("auroc", "auprc", "spearman"))
        assert metrics[f"test/{name}"] == pytest.approx(figure, rel=1e-4, abs=2e-3 if ranking else 1e-5), name


def test_labels_that_cannot_be_used_are_told_before_training(tmp_path, dna_model, data, write):
    sequences = pd.read_csv(data["dna"])["sequence"][:40]

    def refused(labels, match, **columns):
        table = pd.DataFrame({"sequence": sequences, "label": labels, **columns})
        table.to_csv(tmp_path / "t.csv", index=False)
        by = ["data.split.by=column", "+data.split.column=part"] if columns else ["data.split.test=0.2"]
        with pytest.raises(ValueError, match=match), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            objective = "regression" if np.issubdtype(table["label"].dtype, np.number) else "label"
            settings = [f"checkpoint={dna_model}", f"data.path={tmp_path / 't.csv'}", f"objective=[{objective}]", *by]
            train(compose("train", ["+recipe=dna_finetune", *FEW, f"run_dir={tmp_path / 'run'}", *settings]))
        assert not (tmp_path / "run" / "checkpoints").exists()

    refused(["a"] * 40, "have only the class 'a', and one class cannot be learned")
    refused([1.5] * 40, r"all training examples have the number 1\.5")
    numbers = np.arange(40.0)
    numbers[11] = np.inf
    refused(numbers, r"column 'label', .*t\.csv, row 13: regression needs finite numbers, found inf")
    part = np.array(["train"] * 30 + ["validation"] * 5 + ["test"] * 5)
    refused(np.where(part == "validation", None, ["a", "b"] * 20), "no validation example has a label of label", part=part)


def test_what_fails_beside_the_model_does_not_cost_the_run(tmp_path, dna_model, data, monkeypatch):
    from bmfm.training import logistic, report

    def fail(*args, **options):
        raise ZeroDivisionError("as it happens")

    monkeypatch.setattr(logistic, "logistic_regression", fail)
    monkeypatch.setattr(report, "plot_loss", fail)
    settings = [f"checkpoint={dna_model}", f"data.path={data['dna']}", "objectives.label.column=kind", "logistic_regression=true"]
    with pytest.warns(UserWarning) as warned:
        metrics = train(compose("train", ["+recipe=dna_finetune", *FEW[:-1], f"run_dir={tmp_path}", *settings]))
    said = "\n".join(str(w.message) for w in warned)
    assert "logistic regression beside the model could not be made (ZeroDivisionError: as it happens)" in said
    assert "loss curve could not be made" in said
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics and "test/label/macro_f1" in metrics
    assert "test/label/macro_f1" in (tmp_path / "model" / "README.md").read_text()
    assert bmfm.load(tmp_path / "model").predict(["ACGT"]).shape[0] == 1


def test_a_test_part_without_labels_is_warned_of_and_the_run_ends_well(tmp_path, dna_model, data):
    table = pd.read_csv(data["dna"]).assign(part=["train"] * 80 + ["validation"] * 20 + ["test"] * 20)
    table.loc[table.part == "test", "kind"] = None
    table.to_csv(tmp_path / "t.csv", index=False)
    settings = [f"checkpoint={dna_model}", f"data.path={tmp_path / 't.csv'}", "data.split.by=column", "+data.split.column=part"]
    with pytest.warns(UserWarning, match="no test example has a label in column 'kind'"):
        metrics = train(
            compose(
                "train",
                ["+recipe=dna_finetune", *FEW[:-1], f"run_dir={tmp_path / 'run'}", *settings, "objectives.label.column=kind"],
            )
        )
    assert "val/label/macro_f1" in metrics and (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_a_cell_with_an_infinite_label_is_named(tmp_path, cells_model, data):
    cells = anndata.read_h5ad(data["rna"])
    cells.obs["number"] = np.where(np.arange(cells.n_obs) == 5, -np.inf, 1.0 * np.arange(cells.n_obs))
    cells.write_h5ad(tmp_path / "c.h5ad")
    settings = [f"checkpoint={cells_model}", f"data.path={tmp_path / 'c.h5ad'}", "objective=[regression]", "objectives.label.column=number"]
    with pytest.raises(ValueError, match=rf"column 'number', c\.h5ad, cell '{cells.obs_names[5]}': regression needs finite numbers"):
        assemble(compose("train", ["+recipe=rna_finetune", *settings]))
