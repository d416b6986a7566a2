"""Objectives of cells: masked values, whole-cell decoding, labels, and their sum."""

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef, roc_auc_score
from torch.nn import functional

from bmfm.models.heads import reverse_gradient
from bmfm.objectives import labels as label_tasks
from bmfm.objectives.masking import Masking
from bmfm.objectives.statistics import binary_metrics, class_metrics, histogram, moments, pearson, row_pearson
from bmfm.objectives.together import Objectives, weighted_mean
from bmfm.objectives.values import MaskedValues
from bmfm.objectives.wced import WholeCellDecoder
from bmfm.special import IGNORE
from tests.cells.test_cells import OBO
from tests.objectives.conftest import FakeData
from tests.objectives.test_mlm import KEYS, LENGTHS, bound, rows

FIELDS = {"input_ids": {"kind": "embedding", "size": 100}, "values": {"n_special": 5}}


def test_statistics_equal_the_libraries():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=200), rng.normal(size=200)
    a, b = torch.from_numpy(x), torch.from_numpy(y)
    assert float(pearson(moments(a, b))) == pytest.approx(stats.pearsonr(x, y).statistic)
    mask = torch.from_numpy(rng.random((1, 200)) < 0.5)
    kept = mask[0].numpy()
    assert float(row_pearson(a[None], b[None], mask)[0]) == pytest.approx(stats.pearsonr(x[kept], y[kept]).statistic)
    assert pearson(moments(a, torch.ones(200))).isnan()
    truth = y + x > 0
    found = binary_metrics(histogram(a, torch.from_numpy(truth)))
    assert found["auc"] == pytest.approx(roc_auc_score(truth, x), abs=2e-3) and found["f1"] == pytest.approx(f1_score(truth, x > 0))
    true, said = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    confusion = torch.bincount(torch.from_numpy(true * 4 + said), minlength=16).view(4, 4).double()
    expected = {"accuracy": (true == said).mean(), "macro_f1": f1_score(true, said, average="macro"), "mcc": matthews_corrcoef(true, said)}
    assert class_metrics(confusion) == pytest.approx(expected)


def test_weighted_mean_ignores_absent_losses():
    losses = {
        "a": (torch.tensor(6.0), torch.tensor(3), 1.0),
        "b": (torch.tensor(10.0), torch.tensor(2), 3.0),
        "none": (torch.tensor(float("nan"), requires_grad=True), torch.tensor(0), 5.0),
    }
    assert weighted_mean(losses).item() == pytest.approx((2 + 3 * 5) / 4)
    assert weighted_mean({"none": losses["none"]}).item() == 0
    with pytest.raises(ValueError, match="objective=mlm"):
        Objectives({})


@pytest.mark.parametrize("ignore_zeros", [False, True])
def test_masked_values(small_model, ignore_zeros):
    together = bound(values=MaskedValues(Masking(share=0.3), {"mse": 1.0, "is_zero": 0.5}, ignore_zeros))
    batch = together.prepare(rows(values=True), KEYS)
    model = small_model(together.heads, FIELDS, {"kind": "mlp_special"})
    hidden = model.encode(batch)
    truth = batch["labels"]["values"]
    on = ~truth.isnan()
    out = model.head("values", hidden)
    losses = together.losses(model, batch, hidden)
    counted = on & (truth > 0) if ignore_zeros else on
    torch.testing.assert_close(losses["values/mse"].total, ((out[..., 0] - truth)[counted] ** 2).sum())
    assert losses["values/mse"].n == counted.sum() and losses["values/is_zero"].weight == 0.5
    bce = functional.binary_cross_entropy_with_logits(out[..., 1][on], (truth[on] == 0).float(), reduction="sum")
    torch.testing.assert_close(losses["values/is_zero"].total, bce)
    sums = together.score(model, batch, hidden)
    metrics = together.summarise(sums)
    predicted = torch.where(out[..., 1] > 0, 0.0, out[..., 0])[on].detach()
    assert metrics["values/mae"] == pytest.approx((predicted - truth[on]).abs().mean().item(), rel=1e-5)
    assert metrics["values/pearson"] == pytest.approx(stats.pearsonr(predicted, truth[on]).statistic, rel=1e-4)
    assert 0 <= metrics["values/zero_auc"] <= 1 and together.rows(metrics)
    table = together.tables(sums | {"values/by_gene": sums["values/by_gene"] * 10})["values_genes"]
    assert table[0]["pearson"] >= table[-1]["pearson"] and table[0]["gene"].startswith("t")


def test_values_as_bins(small_model):
    together = bound(FakeData(n_bins=4), values=MaskedValues(Masking(share=0.3), {"bins": 1.0}))
    batch = together.prepare(rows(values=True), KEYS)
    model = small_model(together.heads, FIELDS | {"values": {"n_special": 5, "n_bins": 4}}, {"kind": "token"})
    metrics = together.summarise(together.score(model, batch, model.encode(batch)))
    assert metrics["values/bins_baseline"] == pytest.approx(np.log(4), rel=1e-5) and 0.5 < metrics["values/bins"] < 3
    with pytest.raises(ValueError, match=r"tokenizer.values.kind=bins"):
        bound(values=MaskedValues(Masking(), {"bins": 1.0}))
    with pytest.raises(ValueError, match="choose from mse"):
        MaskedValues(Masking(), {"msee": 1.0})


def _cells_batch():
    """Two examples of six genes: example 1 comes from a file that lacks genes 98 and 99."""
    batch = rows([3, 2])
    batch["input_ids"][0, 1:4] = torch.tensor([90, 91, 92])
    batch["input_ids"][1, 1:3] = torch.tensor([90, 94])
    rows_, genes, values = [0, 0, 0, 0, 1, 1], [90, 91, 92, 98, 90, 94], [1.0, 2, 3, 4, 5, 6]
    measured = torch.zeros(2, 100, dtype=torch.bool)
    measured[:, 90:98] = True
    measured[0, 98:] = True
    return batch | {
        "cell": {"row": torch.tensor(rows_), "gene": torch.tensor(genes), "value": torch.tensor(values)},
        "measured": measured,
        "source": torch.tensor([0, 1]),
    }


def test_whole_cell_decoding_equals_a_loop_over_genes(small_model):
    together = bound(wced=WholeCellDecoder(["input", "non_input", "all"], {"mse": 1.0, "is_zero": 2.0}))
    batch = together.prepare(_cells_batch(), KEYS[:2])
    model = small_model(together.heads)
    hidden = model.encode(batch)
    logits = model.head("wced", hidden[:, 0]).view(2, 100, 2)
    truth = {(0, 90): 1.0, (0, 91): 2.0, (0, 92): 3.0, (0, 98): 4.0, (1, 90): 5.0, (1, 94): 6.0}
    seen = [{90, 91, 92}, {90, 94}]
    expected = {f"{t}_{k}": [0.0, 0] for t in ("input", "non_input", "all") for k in ("mse", "is_zero")}
    for b in range(2):
        for g in range(90, 100 if b == 0 else 98):
            y = truth.get((b, g), 0.0)
            squared = (logits[b, g, 0].item() - y) ** 2
            bce = functional.binary_cross_entropy_with_logits(logits[b, g, 1], torch.tensor(float(y == 0))).item()
            for t in ("all", "input" if g in seen[b] else "non_input"):
                for k, value in (("mse", squared), ("is_zero", bce)):
                    expected[f"{t}_{k}"][0] += value
                    expected[f"{t}_{k}"][1] += 1
    losses = together.losses(model, batch, hidden)
    for name, (total, n) in expected.items():
        assert losses[f"wced/{name}"].total.item() == pytest.approx(total, rel=1e-4) and losses[f"wced/{name}"].n == n
    assert losses["wced/all_is_zero"].weight == 2.0
    metrics = together.summarise(together.score(model, batch, hidden))
    assert metrics["wced/all_mse_n"] == 18 and -1 <= metrics["wced/profile_pearson"] <= 1 and together.rows(metrics)
    with pytest.raises(ValueError, match="choose from input"):
        WholeCellDecoder(["inputs"], {"mse": 1.0})
    with pytest.raises(ValueError, match="CLS token 1"):
        bound(wced=WholeCellDecoder(["all"], {"mse": 1.0}, cls=1))


CLASSES = np.array([*(["a", "b", "b", "c", None, "unknown"] * 7)[:38], "new", "a"], object)


def run_labels(task, columns, small_model, n_cls=1):
    data = FakeData(columns=columns, n_cls=n_cls)
    together = bound(data, y=task)
    batch = rows(LENGTHS)
    batch["labels"] = {"y": torch.from_numpy(data.labels["y"][[0, 1, 3, 4]])}
    model = small_model(together.heads)
    hidden = model.encode(batch)
    return data, together, model, batch, hidden


@pytest.mark.parametrize("pooling", [0, "mean"])
@pytest.mark.parametrize("focal", [0.0, 2.0])
def test_classification(small_model, pooling, focal):
    task = label_tasks.Classification(column="t", pooling=pooling, focal=focal, silenced=["unknown"], class_weights={"b": 3.0})
    data, together, model, batch, hidden = run_labels(task, {"t": CLASSES}, small_model)
    assert together.heads["y"]["classes"] == ["a", "b", "c"] and (data.labels["y"] == IGNORE).sum() == 13
    assert "3 classes" in data.notes["labels y"] and "'new'" in data.notes["labels y"]
    states = hidden[:, 0] if pooling == 0 else torch.stack([hidden[batch["example"] == b][1:].mean(0) for b in range(4)])
    logits = model.head("y", states)
    labels = batch["labels"]["y"]
    assert labels.tolist() == [0, 1, 2, IGNORE]
    each = functional.cross_entropy(logits[:3], labels[:3], reduction="none")
    each = each * (1 - (-each).exp()) ** focal
    total, n, _ = together.losses(model, batch, hidden)["y/cross_entropy"]
    torch.testing.assert_close(total, each[0] + 3 * each[1] + each[2])
    assert n == 5
    metrics = together.summarise(together.score(model, batch, hidden))
    assert metrics["y/accuracy"] == pytest.approx((logits[:3].argmax(1) == labels[:3]).float().mean().item()) and together.rows(metrics)


def test_other_kinds_of_labels(small_model, write):
    columns = {
        "many": np.array(["x|y", "y", None, "x | z"] * 10, object),
        "number": np.arange(40).astype(float).astype(object),
        "term": np.array(["cell", "T cell", "CL:3", "CD4 T cell"] * 10, object),
    }
    data, together, model, batch, hidden = run_labels(label_tasks.MultiLabel(pooling=0, column="many"), columns, small_model)
    assert together.heads["y"]["classes"] == ["x", "y", "z"] and data.labels["y"][3].tolist() == [1, 0, 1]
    total, n, _ = together.losses(model, batch, hidden)["y/binary_cross_entropy"]
    logits = model.head("y", hidden[:, 0])
    torch.testing.assert_close(
        total, functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(data.labels["y"][[0, 1, 3, 4]]), reduction="sum")
    )
    assert n == 12 and 0 <= together.summarise(together.score(model, batch, hidden))["y/macro_f1"] <= 1

    data, together, model, batch, hidden = run_labels(label_tasks.Regression(pooling=0, column="number"), columns, small_model)
    assert np.mean(data.labels["y"][:30]) == pytest.approx(0, abs=1e-6) and together.heads["y"]["center"] == pytest.approx(14.5)
    metrics = together.summarise(together.score(model, batch, hidden))
    scale = together.heads["y"]["scale"]
    expected = (model.head("y", hidden[:, 0])[:, 0] - batch["labels"]["y"]).abs().mean().item() * scale
    assert metrics["y/mae"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="regression needs numbers"):
        run_labels(label_tasks.Regression(pooling=0, column="many"), columns, small_model)

    ontology = str(write("cl.obo", OBO))
    data, together, model, batch, hidden = run_labels(label_tasks.Hierarchical(ontology, pooling=0, column="term"), columns, small_model)
    assert together.heads["y"]["classes"] == ["B cell", "CD4 T cell"]
    total, n, _ = together.losses(model, batch, hidden)["y/hierarchical_cross_entropy"]
    logits = model.head("y", hidden[:, 0])
    log_p = logits.log_softmax(1)
    torch.testing.assert_close(total, -(log_p[1, 1] + log_p[2, 1]))  # examples 0 and 4 are "cell": any leaf is right
    assert n == 4 and together.summarise(together.score(model, batch, hidden))["y/accuracy"] >= 0.5
    columns["term"] = np.array(["t cells"] * 40, object)
    with pytest.raises(ValueError, match=r"did you mean 't cell'.*renamed"):
        run_labels(label_tasks.Hierarchical(ontology, pooling=0, column="term"), columns, small_model)
    run_labels(label_tasks.Hierarchical(ontology, {"t cells": "T cell"}, column="term"), columns, small_model)


def test_mistakes_in_labels(small_model):
    with pytest.raises(ValueError, match="no training example has a label"):
        run_labels(label_tasks.Classification(column="t", silenced=["a"]), {"t": np.array(["a"] * 40, object)}, small_model)
    with pytest.raises(ValueError, match="no classes of"):
        run_labels(label_tasks.Classification(column="t", class_weights={"q": 1.0}), {"t": CLASSES}, small_model)
    with pytest.raises(ValueError, match="CLS token 2"):
        run_labels(label_tasks.Classification(column="t", pooling=2), {"t": CLASSES}, small_model)


def test_reversed_gradients():
    x = torch.ones(3, requires_grad=True)
    (reverse_gradient(x, 0.5) * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert x.grad.tolist() == [-0.5, -1.0, -1.5]


def test_labels_balanced():
    task = label_tasks.Classification(column="t", class_weights="balanced")
    bound(FakeData(columns={"t": np.array((["a"] * 20 + ["b"] * 10 + ["a"] * 10), object)}), y=task)
    assert task.weight_of_class.tolist() == pytest.approx([0.75, 1.5])
