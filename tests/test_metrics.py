"""Metrics against scikit-learn and SciPy, with weights as repeated examples."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn import metrics as sk

from bmfm.metrics import METRICS, classification, multilabel, regression, score


def _classes(n_classes, n=300, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, n_classes, n)
    logits = rng.normal(size=(n, n_classes)) + np.eye(n_classes)[truth]
    scores = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return truth, np.round(scores, 2)  # rounded: there are ties


@pytest.mark.parametrize("n_classes", [2, 4])
def test_classification(n_classes):
    truth, scores = _classes(n_classes)
    found, _ = score(classification, truth, scores)
    said = scores.argmax(1)
    positive = scores[:, 1] if n_classes == 2 else scores
    truth_of = truth if n_classes == 2 else np.eye(n_classes)[truth]
    expected = {
        "accuracy": sk.accuracy_score(truth, said),
        "macro_f1": sk.f1_score(truth, said, average="macro"),
        "mcc": sk.matthews_corrcoef(truth, said),
        "auroc": sk.roc_auc_score(truth_of, positive, average="macro"),
        "auprc": sk.average_precision_score(truth_of, positive, average="macro"),
    }
    assert found == pytest.approx(expected, abs=1e-12)


def test_macro_f1_counts_classes_that_are_said_and_do_not_occur():
    truth, scores = np.array([0, 0, 1]), np.eye(3)[[0, 2, 1]]
    assert score(classification, truth, scores)[0]["macro_f1"] == pytest.approx(sk.f1_score(truth, scores.argmax(1), average="macro"))


def test_bootstrap_draws_groups_whole():
    """Ten copies of each example add nothing to what is known."""
    truth, scores = _classes(2, 200)
    alone = score(classification, truth, scores, 300)[1]["mcc"]
    again = [np.repeat(x, 10, 0) for x in (truth, scores, np.arange(200))]
    grouped = score(classification, again[0], again[1], 300, groups=again[2])[1]["mcc"]
    assert grouped[1] - grouped[0] == pytest.approx(alone[1] - alone[0], rel=1e-6)


def test_multilabel_with_gaps():
    rng = np.random.default_rng(0)
    truth = (rng.random((200, 3)) < 0.3).astype(float)
    scores = np.clip(0.3 * truth + 0.7 * rng.random((200, 3)), 0, 1)
    found, _ = score(multilabel, truth, scores)
    assert found["macro_f1"] == pytest.approx(sk.f1_score(truth, scores > 0.5, average="macro"))
    assert found["auroc"] == pytest.approx(sk.roc_auc_score(truth, scores, average="macro"))
    truth[:50, 0] = np.nan
    found, _ = score(multilabel, truth, scores)
    each = [sk.roc_auc_score(truth[50 * (c == 0) :, c], scores[50 * (c == 0) :, c]) for c in range(3)]
    assert found["auroc"] == pytest.approx(np.mean(each))


def test_regression():
    rng = np.random.default_rng(0)
    truth = np.round(rng.normal(size=200), 1)
    scores = truth + rng.normal(size=200)
    found, _ = score(regression, truth, scores)
    expected = {
        "pearson": np.corrcoef(truth, scores)[0, 1],
        "spearman": spearmanr(truth, scores)[0],
        "mae": sk.mean_absolute_error(truth, scores),
        "mse": sk.mean_squared_error(truth, scores),
    }
    assert found == pytest.approx(expected, abs=1e-12)
    assert score(regression, truth, np.zeros(200))[0]["pearson"] == 0


@pytest.mark.parametrize("measure", [classification, multilabel, regression])
def test_a_weight_is_a_repetition(measure):
    rng = np.random.default_rng(1)
    truth, scores = _classes(3, 60)
    if measure is multilabel:
        truth = np.eye(3)[truth]
    elif measure is regression:
        scores = scores[:, 0] + truth
    weight = rng.integers(0, 4, 60)
    again = np.repeat(np.arange(60), weight)
    assert measure(truth, scores)(weight.astype(float)) == pytest.approx(measure(truth[again], scores[again])(np.ones(len(again))))


def test_bootstrap_holds_the_figure_and_narrows():
    widths = []
    for n in (100, 3000):
        truth, scores = _classes(2, n)
        found, intervals = score(classification, truth, scores, 200)
        assert set(found) == set(intervals) <= set(METRICS)
        assert all(low <= found[name] <= high for name, (low, high) in intervals.items())
        widths.append(intervals["mcc"][1] - intervals["mcc"][0])
    assert widths[1] < widths[0] / 3
    assert score(classification, truth, scores, 50, seed=1) == score(classification, truth, scores, 50, seed=1)


def test_what_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="1 of 3 predictions are not finite"):
        score(regression, np.zeros(3), np.array([0, np.nan, 1]))


def test_a_figure_that_no_draw_has_gets_no_interval():
    def measure(truth, scores):
        return lambda weight: {"n": float(weight.sum())} | ({"whole": 1.0} if (weight == 1).all() else {})

    metrics, intervals = score(measure, np.zeros(50), np.zeros(50), n_bootstrap=20)
    assert metrics == {"n": 50.0, "whole": 1.0} and intervals == {"n": (50.0, 50.0)}
