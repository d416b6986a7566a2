"""Objectives of cells: masked values, whole-cell decoding, labels, and their sum."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from sklearn.metrics import f1_score, roc_auc_score
from torch.nn import functional

from bmfm.models.heads import reverse_gradient
from bmfm.objectives import labels as label_tasks
from bmfm.objectives.masking import Masking
from bmfm.objectives.mlm import MaskedLanguageModel
from bmfm.objectives.multitask import Objectives, weighted_mean
from bmfm.objectives.statistics import binary_metrics, histogram, moments, pearson, row_pearson
from bmfm.objectives.values import MaskedValues
from bmfm.objectives.wced import WholeCellDecoder
from bmfm.special import IGNORE
from tests.cells.test_cells import OBO
from tests.conftest import VALUES
from tests.objectives.conftest import made_up_spec
from tests.objectives.test_mlm import KEYS, LENGTHS, bound, rows

FIELDS = {"input_ids": {"size": 100}, "values": {"n_special": 5}}


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
    one_outcome = binary_metrics(histogram(a, torch.zeros(200, dtype=torch.bool)))
    assert np.isnan(one_outcome["auc"])


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
    objectives = bound(values=MaskedValues(Masking(mask_prob=0.3), {"mse": 1.0, "is_zero": 0.5}, ignore_zeros))
    batch = objectives.prepare(rows(values=True), KEYS)
    model = small_model(objectives.heads, FIELDS, VALUES["mlp_special"])
    hidden = model.encode(batch)
    truth = batch["labels"]["values"]
    on = ~truth.isnan()
    out = model.head("values", hidden)
    losses = objectives.losses(model, batch, hidden)
    counted = on & (truth > 0) if ignore_zeros else on
    torch.testing.assert_close(losses["values/mse"].total, ((out[..., 0] - truth)[counted] ** 2).sum())
    assert losses["values/mse"].n == counted.sum() and losses["values/is_zero"].weight == 0.5
    bce = functional.binary_cross_entropy_with_logits(out[..., 1][on], (truth[on] == 0).float(), reduction="sum")
    torch.testing.assert_close(losses["values/is_zero"].total, bce)
    sums = objectives.update_metrics(model, batch, hidden)
    metrics = objectives.compute_metrics(sums)
    predicted = torch.where(out[..., 1] > 0, 0.0, out[..., 0])[on].detach()
    assert metrics["values/mae"] == pytest.approx((predicted - truth[on]).abs().mean().item(), rel=1e-5)
    assert metrics["values/pearson"] == pytest.approx(stats.pearsonr(predicted, truth[on]).statistic, rel=1e-4)
    assert 0 <= metrics["values/zero_auc"] <= 1 and objectives.rows(metrics)
    table = objectives.tables(sums | {"values/by_gene": sums["values/by_gene"] * 10})["values_genes"]
    assert table[0]["pearson"] >= table[-1]["pearson"] and table[0]["gene"].startswith("t")


def test_values_as_bins(small_model):
    objectives = bound(made_up_spec(n_bins=4), values=MaskedValues(Masking(mask_prob=0.3), {"bins": 1.0}))
    batch = objectives.prepare(rows(values=True), KEYS)
    model = small_model(objectives.heads, FIELDS | {"values": {"n_special": 5, "n_bins": 4}}, VALUES["token"])
    metrics = objectives.compute_metrics(objectives.update_metrics(model, batch, model.encode(batch)))
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
        "full_profile": {"row": torch.tensor(rows_), "gene": torch.tensor(genes), "value": torch.tensor(values)},
        "gene_panel_mask": measured,
        "source_ids": torch.tensor([0, 1]),
    }


def test_a_summary_does_not_tell_what_is_hidden():
    """Genes that are masked are out of it; those that were kept, and those that are no tokens, stay."""
    for name, task in {"genes": MaskedLanguageModel, "values": lambda m: MaskedValues(m, {"mse": 1.0})}.items():
        objectives = bound(**{name: task(Masking(0.5, 0.6))})
        batch = rows(values=True)
        is_content = ~batch["special_tokens_mask"]
        tokens = set(zip(batch["example_ids"][is_content].tolist(), batch["input_ids"][is_content].tolist(), strict=True))
        profile = sorted(tokens | {(b, 99) for b in range(len(LENGTHS))})
        batch["shown_profile"] = {
            "row": torch.tensor(profile)[:, 0],
            "gene": torch.tensor(profile)[:, 1],
            "value": torch.rand(len(profile)),
        }
        before = batch["shown_profile"]
        batch = objectives.prepare(batch, KEYS)
        changed = (batch["input_ids"] != batch["original_ids"]) | (batch["values"] != rows(values=True)["values"])
        hidden = set(zip(batch["example_ids"][changed].tolist(), batch["original_ids"][changed].tolist(), strict=True))
        assert 5 < len(hidden) < len(tokens)
        left = zip(*(batch["shown_profile"][k].tolist() for k in ("row", "gene", "value")), strict=True)
        assert list(left) == [(*pair, v) for pair, v in zip(profile, before["value"].tolist(), strict=True) if pair not in hidden]


def test_whole_cell_decoding_equals_a_loop_over_genes(small_model):
    objectives = bound(wced=WholeCellDecoder(["input", "non_input", "all"], {"mse": 1.0, "is_zero": 2.0}))
    batch = objectives.prepare(_cells_batch(), KEYS[:2])
    model = small_model(objectives.heads)
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
    losses = objectives.losses(model, batch, hidden)
    for name, (total, n) in expected.items():
        assert losses[f"wced/{name}"].total.item() == pytest.approx(total, rel=1e-4) and losses[f"wced/{name}"].n == n
    assert losses["wced/all_is_zero"].weight == 2.0
    metrics = objectives.compute_metrics(objectives.update_metrics(model, batch, hidden))
    assert metrics["wced/all_mse_n"] == 18 and -1 <= metrics["wced/profile_pearson"] <= 1 and objectives.rows(metrics)
    with pytest.raises(ValueError, match="choose from input"):
        WholeCellDecoder(["inputs"], {"mse": 1.0})
    with pytest.raises(ValueError, match="CLS token 1"):
        bound(wced=WholeCellDecoder(["all"], {"mse": 1.0}, cls=1))


CLASSES = np.array([*(["a", "b", "b", "c", None, "unknown"] * 7)[:38], "new", "a"], object)


def run_labels(task, columns, small_model, n_cls=1):
    objectives = bound(made_up_spec(columns=columns, n_cls=n_cls), y=task)
    batch = rows(LENGTHS)
    batch["labels"] = {"y": torch.from_numpy(objectives.labels["y"][[0, 1, 3, 4]])}
    model = small_model(objectives.heads)
    hidden = model.encode(batch)
    return objectives, model, batch, hidden


@pytest.mark.parametrize("pooling", [0, "mean"])
@pytest.mark.parametrize("focal", [0.0, 2.0])
def test_classification(small_model, pooling, focal):
    task = label_tasks.Classification(column="t", pooling=pooling, focal=focal, ignore_labels=["unknown"], class_weights={"b": 3.0})
    objectives, model, batch, hidden = run_labels(task, {"t": CLASSES}, small_model)
    assert objectives.heads["y"]["classes"] == ["a", "b", "c"] and (objectives.labels["y"] == IGNORE).sum() == 13
    assert "3 classes" in objectives.notes["labels y"] and "'new'" in objectives.notes["labels y"]
    states = hidden[:, 0] if pooling == 0 else torch.stack([hidden[batch["example_ids"] == b][1:].mean(0) for b in range(4)])
    logits = model.head("y", states)
    labels = batch["labels"]["y"]
    assert labels.tolist() == [0, 1, 2, IGNORE]
    each = functional.cross_entropy(logits[:3], labels[:3], reduction="none")
    each = each * (1 - (-each).exp()) ** focal
    total, n, _ = objectives.losses(model, batch, hidden)["y/cross_entropy"]
    torch.testing.assert_close(total, each[0] + 3 * each[1] + each[2])
    assert n == 5
    metrics = objectives.compute_metrics(objectives.update_metrics(model, batch, hidden))
    assert metrics["y/accuracy"] == pytest.approx((logits[:3].argmax(1) == labels[:3]).float().mean().item()) and objectives.rows(metrics)


def test_other_kinds_of_labels(small_model, write):
    columns = {
        "many": np.array(["x|y", "y", None, "x | z"] * 10, object),
        "number": np.arange(40).astype(float).astype(object),
        "term": np.array(["cell", "T cell", "CL:3", "CD4 T cell"] * 10, object),
    }
    objectives, model, batch, hidden = run_labels(label_tasks.MultiLabel(pooling=0, column="many"), columns, small_model)
    assert objectives.heads["y"]["classes"] == ["x", "y", "z"] and objectives.labels["y"][3].tolist() == [1, 0, 1]
    total, n, _ = objectives.losses(model, batch, hidden)["y/binary_cross_entropy"]
    logits = model.head("y", hidden[:, 0])
    torch.testing.assert_close(
        total, functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(objectives.labels["y"][[0, 1, 3, 4]]), reduction="sum")
    )
    assert n == 12 and 0 <= objectives.compute_metrics(objectives.update_metrics(model, batch, hidden))["y/macro_f1"] <= 1

    objectives, model, batch, hidden = run_labels(label_tasks.Regression(pooling=0, column="number"), columns, small_model)
    assert np.mean(objectives.labels["y"][:30]) == pytest.approx(0, abs=1e-6) and objectives.heads["y"]["center"] == pytest.approx(14.5)
    metrics = objectives.compute_metrics(objectives.update_metrics(model, batch, hidden))
    scale = objectives.heads["y"]["scale"]
    expected = (model.head("y", hidden[:, 0])[:, 0] - batch["labels"]["y"]).abs().mean().item() * scale
    assert metrics["y/mae"] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="regression needs numbers"):
        run_labels(label_tasks.Regression(pooling=0, column="many"), columns, small_model)

    ontology = str(write("cl.obo", OBO))
    objectives, model, batch, hidden = run_labels(label_tasks.Hierarchical(ontology, pooling=0, column="term"), columns, small_model)
    assert objectives.heads["y"]["classes"] == ["B cell", "CD4 T cell"]
    total, n, _ = objectives.losses(model, batch, hidden)["y/hierarchical_cross_entropy"]
    logits = model.head("y", hidden[:, 0])
    log_p = logits.log_softmax(1)
    torch.testing.assert_close(total, -(log_p[1, 1] + log_p[2, 1]))  # examples 0 and 4 are "cell": any leaf is right
    assert n == 4 and objectives.compute_metrics(objectives.update_metrics(model, batch, hidden))["y/accuracy"] >= 0.5
    columns["term"] = np.array(["t cells", "B cell"] * 20, object)
    with pytest.raises(ValueError, match=r"did you mean 't cell'.*renamed"):
        run_labels(label_tasks.Hierarchical(ontology, pooling=0, column="term"), columns, small_model)
    run_labels(label_tasks.Hierarchical(ontology, {"t cells": "T cell"}, column="term"), columns, small_model)


def test_mistakes_in_labels(small_model):
    with pytest.raises(ValueError, match="no training example has a label"):
        run_labels(label_tasks.Classification(column="t", ignore_labels=["a"]), {"t": np.array(["a"] * 40, object)}, small_model)
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
    bound(made_up_spec(columns={"t": np.array((["a"] * 20 + ["b"] * 10 + ["a"] * 10), object)}), y=task)
    assert task.weight_of_class.tolist() == pytest.approx([0.75, 1.5])


def test_the_monitored_loss_has_no_adversarial_part(small_model):
    """A model that forgets the donor better has a higher donor loss; that must not make it look worse."""
    columns = {"t": CLASSES, "donor": np.array(["d1", "d2"] * 20, object)}
    kept = label_tasks.Classification(column="t", pooling=0)
    forgotten = label_tasks.Classification(column="donor", pooling=0, gradient_reversal=1.0)
    objectives = bound(made_up_spec(columns=columns), kept=kept, forgotten=forgotten)
    batch = rows(LENGTHS)
    batch["labels"] = {"kept": torch.tensor([0, 1, 2, IGNORE]), "forgotten": torch.tensor([0, 1, 0, 1])}
    model = small_model(objectives.heads)
    hidden = model.encode(batch)
    metrics = objectives.compute_metrics(objectives.update_metrics(model, batch, hidden))
    expected = functional.cross_entropy(model.head("kept", hidden[:, 0])[:3], batch["labels"]["kept"][:3]).item()
    assert metrics["loss"] == pytest.approx(expected, rel=1e-6) and metrics["baseline_loss"] == metrics["kept/cross_entropy_baseline"]
    assert metrics["forgotten/cross_entropy"] > 0 and "forgotten/accuracy" in metrics
    total = weighted_mean(objectives.losses(model, batch, hidden))  # which training goes by
    assert total.item() == pytest.approx((expected + metrics["forgotten/cross_entropy"]) / 2, rel=1e-6)
    objectives.check_monitored()
    with pytest.raises(ValueError, match="all reversed"):
        bound(made_up_spec(columns=columns), y=label_tasks.Classification(column="donor", gradient_reversal=1.0)).check_monitored()


def test_labels_that_cannot_be_learned_or_scored_are_told_before_training(small_model):
    one = np.array(["a"] * 30 + ["b"] * 10, object)
    with pytest.raises(ValueError, match=r"column 't': the training examples have only the class 'a'"):
        bound(made_up_spec(columns={"t": one}), y=label_tasks.Classification(column="t"))
    with pytest.raises(ValueError, match=r"all training examples have the number 2"):
        bound(made_up_spec(columns={"t": np.array([2.0] * 30 + [3.0] * 10, object)}), y=label_tasks.Regression(column="t"))
    absent = np.array(["a", "b"] * 15 + [None] * 10, object)
    with pytest.warns(UserWarning, match=r"objective y: no validation example has a label in column 't'"):
        objectives = bound(made_up_spec(columns={"t": absent}), y=label_tasks.Classification(column="t"))
    with pytest.raises(ValueError, match=r"no validation example has a label of y.*stratified"):
        objectives.check_monitored()


@pytest.mark.parametrize("wrong", [np.inf, -np.inf, "inf", 1e300])
def test_numbers_without_end_are_refused(wrong):
    numbers = np.arange(40).astype(object)
    numbers[7] = wrong
    with pytest.raises(ValueError, match=r"column 't', row 8: regression needs finite numbers"):
        bound(made_up_spec(columns={"t": numbers}), y=label_tasks.Regression(column="t"))
    numbers[7] = np.nan  # which is no label
    labels = bound(made_up_spec(columns={"t": numbers}), y=label_tasks.Regression(column="t")).labels["y"]
    assert np.isnan(labels[7]) and np.isfinite(np.delete(labels, 7)).all()


@pytest.mark.parametrize("kind", ["classification", "absent class", "multilabel", "regression"])
def test_label_metrics_are_those_of_scikit_learn(small_model, kind):
    """From logits of several batches, with missing labels, and with a class that the held-out part lacks."""
    from sklearn import metrics as sk

    rng = np.random.default_rng(3)
    n = 200
    if kind == "regression":
        task, columns = label_tasks.Regression(column="t"), {"t": (10 + 3 * rng.normal(size=40)).astype(object)}
    elif kind == "multilabel":
        task, columns = label_tasks.MultiLabel(column="t"), {"t": np.array(["x|y", "y", "z", "x|z"] * 10, object)}
    else:
        task, columns = label_tasks.Classification(column="t"), {"t": np.array(["a", "b", "c", "d"] * 10, object)}
    bound(made_up_spec(columns=columns), y=task)
    logits = 2 * torch.from_numpy(rng.normal(size=(n, task.size))).float()
    if kind == "regression":
        labels = logits[:, 0] + torch.from_numpy(rng.normal(size=n)).float()
        labels[::7] = torch.nan
    elif kind == "multilabel":
        labels = (logits + torch.from_numpy(2 * rng.normal(size=(n, 3))).float() > 0).float()
        labels[::7] = torch.nan
    else:
        labels = (logits + torch.from_numpy(2 * rng.normal(size=(n, 4))).float()).argmax(1)
        labels[(labels == 3) if kind == "absent class" else slice(None, None, 7)] = IGNORE
    parts = [task.labelled_rows(logits[s], labels[s]) for s in (slice(60), slice(60, 61), slice(61, None))]
    found = task.compute_metrics({k: torch.cat([p[k] for p in parts]) for k in parts[0]})
    given = ~labels.isnan().reshape(n, -1).any(1) if labels.is_floating_point() else labels != IGNORE
    true, z = labels[given].numpy(), logits[given].double()
    if kind == "regression":
        said, true = (x.numpy() * task.scale + task.center for x in (z[:, 0], labels[given].double()))
        expected = {"pearson": stats.pearsonr(true, said)[0], "spearman": stats.spearmanr(true, said)[0]}
        expected |= {"mae": sk.mean_absolute_error(true, said), "mse": sk.mean_squared_error(true, said)}
    elif kind == "multilabel":
        chance = z.sigmoid().numpy()
        expected = {f"{a}_f1": sk.f1_score(true, chance > 0.5, average=a) for a in ("macro", "micro")}
        expected |= {"auroc": sk.roc_auc_score(true, chance), "auprc": sk.average_precision_score(true, chance)}
        expected["accuracy"] = np.mean(true == (chance > 0.5))
    else:
        chance = z.softmax(1).numpy()
        said = chance.argmax(1)
        expected = {"accuracy": sk.accuracy_score(true, said), "macro_f1": sk.f1_score(true, said, average="macro")}
        expected["mcc"] = sk.matthews_corrcoef(true, said)
        there = np.eye(4)[true][:, np.unique(true)]
        chance = chance[:, np.unique(true)]
        expected |= {"auroc": sk.roc_auc_score(there, chance, average="macro"), "auprc": sk.average_precision_score(there, chance)}
    assert found == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("ignore_zeros", [False, True])
def test_labels_are_counted_without_a_model(small_model, ignore_zeros):
    """What a step's losses are divided by is known before any of them is computed."""
    tasks = {
        "values": MaskedValues(Masking(mask_prob=0.3), {"mse": 1.0, "is_zero": 1.0}, ignore_zeros),
        "genes": MaskedLanguageModel(Masking(mask_prob=0.3)),
        "wced": WholeCellDecoder(["input", "non_input", "all"], {"mse": 1.0, "is_zero": 1.0}, ignore_zeros),
        "y": label_tasks.Classification(column="t", class_weights={"b": 3.0}),
        "z": label_tasks.MultiLabel(column="many"),
    }
    many = np.array(["x|y", "y", None, "x"] * 10, object)
    objectives = bound(made_up_spec(columns={"t": CLASSES, "many": many}), **tasks)
    batch = _cells_batch()
    batch["values"] = torch.where(batch["special_tokens_mask"], -3.0, torch.randint(0, 3, batch["special_tokens_mask"].shape).float())
    batch["labels"] = {name: torch.from_numpy(objectives.labels[name][[1, 2]]) for name in "yz"}
    batch = objectives.prepare(batch, KEYS[:2])
    model = small_model(objectives.heads, FIELDS, VALUES["mlp_special"])
    losses = objectives.losses(model, batch, model.encode(batch))
    assert objectives.label_counts(batch) == {name: float(loss.n) for name, loss in losses.items()}
    assert objectives.label_counts(batch)["y/cross_entropy"] == 6.0 and objectives.label_counts(batch)["z/binary_cross_entropy"] == 2.0


def test_labels_of_many_columns_are_missing_where_all_are():
    """The first of 40 rows lacks one column, the second both: only that one has no label; frequencies are over what is there."""
    table = np.tile(np.array([[1.0, 0.0], [0.0, 1.0]]), (20, 1))
    table[0, 0], table[1] = np.nan, np.nan
    columns = {"m1": table[:, 0].astype(object), "m2": pd.Series(table[:, 1]).astype("Int64"), "other": np.full(40, "x")}
    task = label_tasks.MultiLabel(columns="m.")
    objectives = bound(made_up_spec(columns=columns), y=task)
    assert task.n_missing == 1 and "1 examples have none" in objectives.notes["labels y"]
    assert objectives.labels["y"].dtype == np.float32 and objectives.heads["y"]["classes"] == ["m1", "m2"]
    np.testing.assert_array_equal(objectives.labels["y"], table)
    for wrong, found in ((2, "2"), ("often", "often")):
        columns["m2"] = np.array([0, 1, wrong, 1] * 10, object)
        with pytest.raises(ValueError, match=rf"objective y: column 'm2', row 3: found {found}, 0 or 1 is needed"):
            bound(made_up_spec(columns=columns), y=label_tasks.MultiLabel(columns="m."))
    share = [(14 + 0.5) / (28 + 1), (14 + 0.5) / (29 + 1)]  # of the 30 training rows
    assert torch.sigmoid(task.baseline).tolist() == pytest.approx(share)
