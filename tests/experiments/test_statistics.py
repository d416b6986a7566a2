"""The statistics against SciPy, scikit-learn and statsmodels."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, roc_auc_score

from bmfm.experiments.statistics import bootstrap_means, bootstrap_p, detectable, draw_counts, holm, interval, rankings, sign_flip

RNG = np.random.default_rng(7)


def test_rankings_are_those_of_scikit_learn_with_weights():
    n = 400
    unit, positive = RNG.integers(0, 12, n), RNG.random(n) < 0.2
    scores = np.round(RNG.normal(size=n) + positive, 1)  # with ties
    counts = np.concatenate([np.ones((1, 12), np.int64), draw_counts(np.repeat([0, 1], 6), 20, np.random.default_rng(0))])
    auroc, precision = rankings(positive, scores, unit, counts)
    for row, a, p in zip(counts, auroc, precision, strict=True):
        assert a == pytest.approx(roc_auc_score(positive, scores, sample_weight=row[unit]))
        assert p == pytest.approx(average_precision_score(positive, scores, sample_weight=row[unit]))
    assert np.isnan(rankings(np.empty(0, bool), np.empty(0), np.empty(0, int), counts)).all()
    assert np.isnan(rankings(np.ones(3, bool), np.arange(3.0), np.zeros(3, int), np.ones((1, 1), int))).all()


def test_draws_are_within_groups_and_bootstrap_that_of_scipy():
    groups, values = np.repeat([0, 1, 2], [20, 10, 20]), RNG.normal(0.3, 1, 50)
    counts = draw_counts(groups, 200, np.random.default_rng(0))
    for group in range(3):
        assert (counts[:, groups == group].sum(1) == (groups == group).sum()).all()
    assert bootstrap_means(values, counts[:1])[0] == pytest.approx(np.repeat(values, counts[0]).mean())
    ours = interval(bootstrap_means(values, draw_counts(np.zeros(50), 10000, np.random.default_rng(1))))
    theirs = stats.bootstrap((values,), np.mean, n_resamples=10000, method="percentile", rng=np.random.default_rng(2)).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_sign_flips_are_the_permutation_test_of_scipy():
    few, many = RNG.normal(0.4, 1, 9), RNG.normal(0.25, 1, 60)

    def peer(values, n):
        return stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=n, rng=np.random.default_rng(0)).pvalue

    assert sign_flip(few, 10000, np.random.default_rng(0)) == pytest.approx(peer(few, np.inf))
    assert sign_flip(many, 20000, np.random.default_rng(0)) == pytest.approx(peer(many, 20000), abs=0.01)
    assert sign_flip(np.ones(4), 100, np.random.default_rng(0)) == 2 / 16


def test_holm():
    p_values = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    assert holm(p_values) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})  # Wright, Biometrics 1992, by hand
    multipletests = pytest.importorskip("statsmodels.stats.multitest").multipletests
    values = dict(enumerate(RNG.random(12) ** 3))
    assert list(holm(values).values()) == pytest.approx(multipletests(list(values.values()), method="holm")[1])


def test_what_is_detectable_is_detected_in_four_of_five():
    n, sd = 50, 0.3
    z = detectable(sd, n) / (sd / n**0.5)
    assert 1 - stats.norm.cdf(stats.norm.isf(0.025) - z) == pytest.approx(0.8, abs=0.005)


def test_p_of_a_bootstrap():
    assert bootstrap_p(np.linspace(-0.1, 0.9, 999)) == pytest.approx(0.2, abs=0.005)
    assert bootstrap_p(np.full(999, 1.0)) == bootstrap_p(np.append(np.full(999, 1.0), np.nan)) == 2 / 1000
    assert np.isnan([bootstrap_p(np.full(3, np.nan)), *interval(np.full(3, np.nan))]).all()
