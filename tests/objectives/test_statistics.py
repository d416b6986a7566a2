"""Metrics that are functions of sums, against scikit-learn and SciPy on the same numbers."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from bmfm.objectives.statistics import histogram, rank_counts, ranking_metrics, spearman


@pytest.mark.parametrize("n_classes", [1, 3])
def test_ranking_metrics(n_classes):
    rng = np.random.default_rng(0)
    truth = rng.random((4000, n_classes)) < 0.3
    logits = 2 * truth + rng.normal(size=truth.shape)
    parts = [histogram(torch.from_numpy(logits[s]), torch.from_numpy(truth[s])) for s in (slice(1000), slice(1000, None))]
    found = ranking_metrics(parts[0] + parts[1])
    assert found["auroc"] == pytest.approx(roc_auc_score(truth, logits, average="macro"), abs=2e-3)
    assert found["auprc"] == pytest.approx(average_precision_score(truth, logits, average="macro"), abs=5e-3)


def test_ranking_metrics_of_one_outcome_are_none():
    assert ranking_metrics(histogram(torch.randn(5, 2), torch.zeros(5, 2))) == {}


@pytest.mark.parametrize("strength", [0.0, 0.5, 2.0])
def test_spearman(strength):
    rng = np.random.default_rng(1)
    y = rng.normal(size=5000)
    x = 0.5 * (strength * y + rng.normal(size=5000)) / (1 + strength)
    found = spearman(
        rank_counts(torch.from_numpy(x[:999]), torch.from_numpy(y[:999]))
        + rank_counts(torch.from_numpy(x[999:]), torch.from_numpy(y[999:]))
    )
    assert found == pytest.approx(spearmanr(x, y)[0], abs=2e-3)
    assert np.isnan(spearman(rank_counts(torch.zeros(4), torch.randn(4))))
