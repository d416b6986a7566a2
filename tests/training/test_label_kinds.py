"""Labels of bases, labels in many columns, pairs, derived columns: from a table to a prediction."""

import numpy as np
import pandas as pd
import pytest

import bmfm
from bmfm.cli import compose
from tests.training.test_finetune import finetune


def _sequences(n, seed=0):
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACGT"), 48)) for _ in range(n)]


@pytest.mark.slow
def test_labels_of_bases(tmp_path, dna_model):
    """The label is 1 at every base of TA: single tokens tell."""
    table = pd.DataFrame({"sequence": _sequences(120)})
    table["label"] = [
        "".join("1" if s[max(0, i - 1) : i + 1] == "TA" or s[i : i + 2] == "TA" else "0" for i in range(48)) for s in table.sequence
    ]
    table.to_csv(tmp_path / "bases.csv", index=False)
    options = [
        f"checkpoint={dna_model}",
        f"data.path={tmp_path / 'bases.csv'}",
        "objective=[token_label]",
        "trainer.max_steps=150",
        "data.split.validation=0.2",
    ]
    metrics = finetune(tmp_path / "run", *options, "data.text=[label]")
    assert metrics["test/label/mcc"] > 0.5 and metrics["test/label/auroc"] > 0.8
    model = bmfm.load(tmp_path / "run" / "model")
    said = model.predict(table.sequence)["label"]
    assert said.str.len().eq(48).all()
    right = np.mean([a == b for s, t in zip(said, table.label, strict=True) for a, b in zip(s, t, strict=True)])
    assert right > 0.75
    cut = model.predict(table.sequence, max_tokens=12)["label"]  # windows are joined again
    assert cut.str.len().eq(48).all()
    # every base of a token has the class that the token was given
    raw, _ = model.tokenizer.read_texts([table.sequence[0]])
    for start, stop in model.tokenizer.spans(model.tokenizer.encode(raw)[0], 48):
        assert len(set(said[0][start:stop])) == 1


def test_labels_of_bases_that_were_read_as_numbers_are_refused(tmp_path, dna_model):
    pd.DataFrame({"sequence": ["ACGT"] * 20, "label": ["0010"] * 20}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=r"add data\.text=\[label\]"):
        finetune(tmp_path / "no", f"checkpoint={dna_model}", f"data.path={tmp_path / 't.csv'}", "objective=[token_label]")


def test_labels_of_bases_that_do_not_fit_are_named(tmp_path, dna_model):
    table = pd.DataFrame({"sequence": _sequences(20), "label": ["01" * 24] * 19 + ["01"]})
    table.to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(ValueError, match=r"t\.csv, row 21: 2 labels for 48 bases"):
        finetune(
            tmp_path / "run", f"checkpoint={dna_model}", f"data.path={tmp_path / 't.csv'}", "objective=[token_label]", "data.text=[label]"
        )


def test_many_columns_of_zero_and_one(tmp_path, dna_model):
    table = pd.DataFrame({"sequence": _sequences(80)})
    table["mark_a"], table["mark_b"] = table.sequence.str.contains("TATA").astype(int), table.sequence.str.count("G").gt(12).astype(float)
    table.loc[3, "mark_b"] = np.nan
    table.to_parquet(tmp_path / "t.parquet")
    options = [f"checkpoint={dna_model}", f"data.path={tmp_path / 't.parquet'}", "objective=[multilabel]", "data.split.validation=0.2"]
    metrics = finetune(tmp_path / "run", *options, "objectives.label.columns=mark_.*", "logistic_regression=false")
    assert {"test/label/auroc", "test/label/auprc", "test/label/macro_f1"} <= set(metrics)
    said = bmfm.load(tmp_path / "run" / "model").predict(table.sequence[:5])
    assert {"label_p_mark_a", "label_p_mark_b"} <= set(said)
    with pytest.raises(ValueError, match="no column's name matches"):
        finetune(tmp_path / "no", *options, "objectives.label.columns=peak_.*")
    table.assign(mark_a=3).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"'mark_a', .*t\.parquet, row 2: found 3, 0 or 1"):
        finetune(tmp_path / "no", *options, "objectives.label.columns=mark_.*")


def test_pairs_and_derived_columns(tmp_path, dna_model, sequence_table):
    options = [f"checkpoint={dna_model}", f"data.path={sequence_table}", "data.second=second", "objective=[regression]"]
    metrics = finetune(
        tmp_path / "run", *options, "objectives.label.column=double", "data.derived={double: 2 * number}", "objectives.label.pooling=mean"
    )
    assert metrics["test/label/pearson"] > 0.6 and abs(metrics["test/label/spearman"] - metrics["test/label/pearson"]) < 0.3
    table = pd.read_csv(sequence_table / "test.csv")
    model = bmfm.load(tmp_path / "run" / "model")
    said = model.predict(table[["sequence", "second"]])["label"]
    assert np.corrcoef(said, 2 * table.number)[0, 1] == pytest.approx(metrics["test/label/pearson"], abs=1e-4)
    np.testing.assert_allclose(model.predict(list(zip(table.sequence, table.second, strict=True)))["label"], said, atol=1e-5)
    with pytest.raises(ValueError, match="larger max_tokens"):
        model.predict(table[["sequence", "second"]], max_tokens=8)
    with pytest.raises(ValueError, match=r"data\.derived\.double='2 \* absent' cannot be computed"):
        finetune(tmp_path / "no", *options, "objectives.label.column=double", "data.derived={double: 2 * absent}")


def test_rna_is_read_as_dna(tmp_path, dna_model):
    model = bmfm.load(dna_model)
    np.testing.assert_allclose(model.embed(["ACGUUGCA"]), model.embed(["ACGTTGCA"]))
    table = pd.DataFrame({"sequence": [s.replace("T", "U") for s in _sequences(40)], "label": ["a", "b"] * 20})
    table.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    from bmfm.data.table import SequenceTable

    data = SequenceTable(tmp_path / "t.tsv", {"by": "random", "validation": 0.2, "test": 0.1}, 64, 4)
    data.connect(model.tokenizer)
    assert "U is read as T" in data.notes["column sequence"] and "characters read as N" not in data.notes


@pytest.mark.parametrize("what", ["genome", pytest.param("cells", marks=pytest.mark.slow), "table"])
def test_the_run_seed_moves_training_alone(what, sequence_table):
    """The same blocks, cells or rows are held out, with the same windows and masks in them; training sees others."""
    import torch

    from bmfm.training.run import assemble
    from tests.test_conf import SMALL_MODEL

    overrides = {
        "genome": ["+recipe=dna_ref"],
        "cells": ["+recipe=rna_mlm", "data.max_tokens=32", "data.statistics_cells=32"],
        "table": ["tokenizer=dna_demo", "~representation", "data=table", f"data.path={sequence_table / 'train.csv'}"],
    }[what]
    made = {}
    for name, more in {"0": ["seed=0"], "1": ["seed=1"], "other split": ["seed=0", "++data.split.seed=1"]}.items():
        data, _, _ = assemble(compose("train", [*overrides, *SMALL_MODEL, *more]))
        raw = {part: data.parts[part].__getitems__([(0, i) for i in range(8)]) for part in ("train", "validation", "test")}
        made[name] = {part: data.prepare_batch(batch, training=part == "train")["input_ids"] for part, batch in raw.items()}

    def same(a, b, part):
        return torch.equal(made[a][part], made[b][part])

    assert same("0", "1", "validation") and same("0", "1", "test") and not same("0", "1", "train")
    assert not same("0", "other split", "validation") and not same("0", "other split", "test")


def test_probe_is_a_scikit_learn_pipeline(dna_model, sequence_table):
    from sklearn.model_selection import cross_val_score

    from bmfm.evaluation.probes import estimator, probe

    model = bmfm.load(dna_model)
    train, test = (pd.read_csv(sequence_table / f"{part}.csv") for part in ("train", "test"))
    for method in ("linear", "knn"):
        fitted = probe(model, method=method).fit(train.sequence, train.label)
        assert fitted.score(test.sequence, test.label) > 0.8 and set(fitted.classes_) == {"rich", "poor"}
    assert cross_val_score(probe(model), train.sequence, train.label, cv=3).mean() > 0.9
    assert probe(str(dna_model), "regression").fit(train.sequence, train.number).score(test.sequence, test.number) > 0.5
    with pytest.raises(ValueError, match="no probe of kind 'tokens'"):
        estimator("tokens")


def test_pushing_to_the_hub(dna_model, monkeypatch):
    """Only the network is replaced: what would be sent is looked at."""
    import huggingface_hub

    sent = {}
    monkeypatch.setattr(
        huggingface_hub.HfApi, "create_repo", lambda self, repo_id, private, exist_ok: sent.update(repo=repo_id, private=private)
    )
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", lambda self, **options: sent.update(options) or "https://hub/commit")
    assert bmfm.load(dna_model).push_to_hub("me/dna") == "https://hub/commit"
    assert sent["repo"] == "me/dna" and sent["private"] and sent["folder_path"] == str(dna_model)
    from huggingface_hub.utils import filter_repo_objects

    files = [p.name for p in dna_model.iterdir()] + ["weights.bin", "last.ckpt"]
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= set(
        kept := list(filter_repo_objects(files, allow_patterns=sent["allow_patterns"]))
    )
    assert not {"weights.bin", "last.ckpt"} & set(kept)


def test_a_hub_id_is_fetched_at_its_revision(dna_model, monkeypatch):
    import huggingface_hub

    asked = {}

    def snapshot(repo_id, revision, allow_patterns):
        asked.update(repo=repo_id, revision=revision, patterns=allow_patterns)
        return str(dna_model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert bmfm.load("me/dna", revision="v2").embed(["ACGT"]).shape == (1, 16)
    assert asked["repo"] == "me/dna" and asked["revision"] == "v2" and not any("bin" in p or "ckpt" in p for p in asked["patterns"])
