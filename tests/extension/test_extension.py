"""A package that is not part of bmfm adds one of each by configuration alone, and is used from end to end as its author would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
import torch

from bmfm.cli import CONFIG_DIR, compose
from tests.conformance.shared import made_once

HERE = Path(__file__).parent
ENVIRONMENT = {"PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), str(HERE)]), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
QUIET = ["trainer.enable_progress_bar=false", "callbacks.progress=null", "trainer.accelerator=cpu", "trainer.devices=1"]


def python(*arguments: str, cwd: Path, status: int = 0) -> str:
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture
def extension(monkeypatch):
    """This process, with the extension installed and its configuration chosen."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv(CONFIG_DIR, str(HERE / "conf"))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with the data and a trained model, made by the commands of the documentation."""

    def make(folder: Path) -> None:
        python("-m", "bmfm_extension_example.make_cells", "data/extension/cells.h5ad", cwd=folder)
        recipe = [
            "-m",
            "bmfm.train",
            "--config-dir",
            str(HERE / "conf"),
            "+recipe=perturbation",
            "data.source.path=data/extension/cells.h5ad",
        ]
        python(*recipe, *QUIET, "test=true", cwd=folder)

    return made_once(tmp_path_factory, "extension", make)


def test_it_learns(place):
    metrics = json.loads((place / "runs" / "perturbation" / "metrics.json").read_text())
    assert metrics["test/response/mse"] < 0.8 * metrics["test/response/mse_baseline"]
    assert metrics["test/response/change_pearson"] > 0.5
    assert {"test/label/poisson", "test/label/poisson_deviance", "test/label/spearman"} <= metrics.keys()
    config = json.loads((place / "runs" / "perturbation" / "model" / "config.json").read_text())
    assert "bmfm_extension_example.backbone.SetMixer" in json.dumps(config["backbone"])
    assert config["heads"]["label"]["kind"] == "bmfm_extension_example.labels.Count"


def test_a_saved_model_is_used_here_and_in_a_fresh_process(place, extension):
    import bmfm

    cells, model = place / "data" / "extension" / "cells.h5ad", bmfm.load(place / "runs" / "perturbation" / "model")
    embeddings, predictions = model.embed(cells), model.predict(cells)
    assert embeddings.shape == (480, 64) and (predictions["label"] > 0).all()
    state = model.embed(cells, layer=0)
    assert state.shape == embeddings.shape and not np.allclose(state, embeddings)
    python(
        "-m", "bmfm.predict", "checkpoint=runs/perturbation/model", "data.path=data/extension/cells.h5ad", "output=out.h5ad", "progress=false", cwd=place
    )  # fmt: skip
    written = anndata.read_h5ad(place / "out.h5ad")
    assert np.array_equal(written.obsm["X_bmfm"], embeddings)
    np.testing.assert_array_equal(written.obs["label"], predictions["label"])


def test_without_the_package_the_remedy_is_told(place):
    """Whoever gets the model, but has not installed the extension."""
    script = "import sys, bmfm\ntry:\n    bmfm.load('runs/perturbation/model')\nexcept ValueError as error:\n    print(error)"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=place, env=os.environ | ENVIRONMENT | {"PYTHONPATH": str(HERE.parents[1])}, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert "bmfm_extension_example" in done.stdout and "install" in done.stdout and "config.json" in done.stdout, done.stdout


@pytest.mark.slow
def test_benchmark_and_report(place):
    suite = [
        "-m",
        "bmfm.benchmark",
        "--config-dir",
        str(HERE / "conf"),
        "+suite=extension",
        "data_root=data",
        "seeds=[0]",
        "n_bootstrap=50",
    ]
    python(*suite, "baseline=[mean_response,model_response]", "baselines.model_response.checkpoint=runs/perturbation/model", cwd=place)
    folder = place / "runs" / "benchmark" / "extension"
    records = {r["model"]: r for r in json.loads((folder / "results.json").read_text())["records"]}
    assert {name: r["status"] for name, r in records.items()} == {"mean response": "ok", "set mixer": "ok"}
    # by hand: the mean of all perturbed cells says the same of every perturbation
    figures = {name: r["metrics"]["delta_pearson"] for name, r in records.items()}
    assert figures["set mixer"] > figures["mean response"] + 0.1
    low, high = records["set mixer"]["intervals"]["delta_pearson"]
    assert low <= figures["set mixer"] <= high
    page = (folder / "report.html").read_text()
    assert "correlation of the change of expression" in page and "Response to CRISPR activation" in page and "set mixer" in page


def test_pairs_are_what_was_said(extension, place):
    """The perturbed gene, and nothing else, is raised in a control; the other part is a cell of that perturbation."""
    from bmfm_extension_example.perturbation import PerturbationPairs

    from bmfm.tokenizers.rna import CellTokenizer

    file = place / "data" / "extension" / "cells.h5ad"
    source, tokenizer, cells = PerturbationPairs(str(file), level=7.0), CellTokenizer("from_data"), anndata.read_h5ad(file)
    source.connect({"input": tokenizer})
    indices, first = np.array([0, 100, 239]), tokenizer.plain_ids[0]
    parts = source.take(indices, np.array([5, 6, 7], np.uint64)).parts
    perturbed = cells[cells.obs["perturbation"] != "control"]
    controls = cells[cells.obs["perturbation"] == "control"].X.toarray() if hasattr(cells.X, "toarray") else cells[cells.obs["perturbation"] == "control"].X  # fmt: skip

    def dense(counts):
        rows = np.zeros((3, cells.n_vars))
        for i in range(3):
            mine = slice(*counts.offsets[i : i + 2])
            rows[i, counts.ids[mine] - first] = counts.counts[mine]
        return rows

    before, after = dense(parts["input"].counts), dense(parts["perturbed"].counts)
    assert np.array_equal(after, np.asarray(perturbed[indices].X))
    for row, number in zip(before, indices, strict=True):
        gene = cells.var_names.get_loc(perturbed.obs["perturbation"].iloc[number])
        changes = row - np.asarray(controls)
        assert any(change[gene] == 7 and np.count_nonzero(change) == 1 for change in changes)


def test_a_metric_is_what_numpy_says(extension):
    from bmfm_extension_example.evaluation import delta_pearson
    from bmfm_extension_example.labels import poisson_deviance
    from sklearn.metrics import mean_poisson_deviance

    rng = np.random.default_rng(0)
    truth, prediction, control = rng.normal(size=(3, 30))
    assert delta_pearson(truth, prediction, control) == pytest.approx(np.corrcoef(truth - control, prediction - control)[0, 1])
    assert delta_pearson(control, prediction, control) == 0.0
    counts, rates = rng.poisson(2, 50).astype(float), rng.gamma(2, 1, 50) + 0.1
    assert poisson_deviance(counts, rates).mean() == pytest.approx(mean_poisson_deviance(counts, rates))


def test_value_encoder_keeps_what_lies_between_bins(extension):
    from bmfm_extension_example.values import SoftBins

    torch.manual_seed(0)
    encoder = SoftBins(hidden_size=6, n_special=5, n_bins=4, largest=3.0)
    encoded = encoder(torch.tensor([-3.0, 0.0, 1.0, 1.4]))
    assert torch.equal(encoded[0], encoder.special.weight[2]) and torch.equal(encoded[1], encoder.special.weight[5])
    weights = np.exp(-((1.4 - np.arange(4.0)) ** 2))
    expected = (weights / weights.sum()) @ encoder.rows.weight.detach().numpy()
    np.testing.assert_allclose(encoded[3].detach(), expected, rtol=1e-5)


def test_choices_are_listed_beside_those_that_ship(extension):
    from bmfm.cli import options

    for group, name in (
        ("model", "set_mixer"),
        ("values", "soft_bins"),
        ("objective", "response"),
        ("data", "perturbation"),
        ("suite", "extension"),
    ):
        assert name in options(group) and len(options(group)) > 1
    assert compose("train", ["+recipe=perturbation", "data.source.path=x"]).model.backbone.endswith("SetMixer")


def test_a_tokenizer_from_outside_trains_is_saved_and_predicts(tmp_path, extension):
    """One token a base, so that lengths and spans are known by hand; and what a folder may not name is refused."""
    import bmfm

    rng = np.random.default_rng(0)
    rows = [("".join(rng.choice(list("AG" if label else "CT"), 20)), label) for label in rng.integers(0, 2, 40)]
    (tmp_path / "t.csv").write_text("sequence,label\n" + "".join(f"{text},{label}\n" for text, label in rows))
    options = ["tokenizer=purines", "~representation", "data=table", "data.path=t.csv", "data.max_tokens=24", "data.batch_size=8", "objective=[label]", "model=conv", "trainer.max_steps=2", "trainer.val_check_interval=2", "name=purines"]  # fmt: skip
    python("-m", "bmfm.train", "--config-dir", str(HERE / "conf"), *options, *QUIET, cwd=tmp_path)
    folder = tmp_path / "runs" / "purines" / "model"
    config = json.loads((folder / "config.json").read_text())
    assert config["tokenizer"]["_target_"] == "bmfm_extension_example.tokenizer.PurineTokenizer"
    model = bmfm.load(folder)
    assert model.tokenizer.names[5:] == ["R", "Y"] and len(model.predict(["AGCT", "GGTT"])) == 2
    assert np.allclose(model.embed(["AGCT"]), model.embed(["GACC"])) and not np.allclose(model.embed(["AGCT"]), model.embed(["CTAG"]))
    for path, why in (("pathlib.Path", "no tokenizer"), ("bmfm_extension_example.nothing.Other", "cannot be imported")):
        (folder / "config.json").write_text(json.dumps(config | {"tokenizer": config["tokenizer"] | {"_target_": path}}))
        with pytest.raises(ValueError, match=why):
            bmfm.load(folder)
    (folder / "smuggled.py").write_text("raise SystemExit('code of a model folder was run')")
    (folder / "config.json").write_text(json.dumps(config | {"tokenizer": {"_target_": "smuggled.Other"}}))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match="code of a model folder is not run"):
        patch.syspath_prepend(str(folder))
        bmfm.load(folder)
