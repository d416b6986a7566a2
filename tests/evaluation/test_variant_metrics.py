"""Figures of scores of variants against scikit-learn, SciPy and by hand."""

import numpy as np
import pytest
from scipy.stats import rankdata, spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

from bmfm.evaluation.variant_metrics import ScoredVariants, Stratum, bootstrap, measure


def scored_at_random(n=300, effect=False):
    rng = np.random.default_rng(1)
    label = (rng.random(n) < 0.3).astype(float)
    score = np.round(label + rng.normal(0, 1.5, n), 1)  # with ties
    classes = rng.choice(["missense", "intron", "rare"], n, p=[0.5, 0.45, 0.05])
    strata = tuple(Stratum("consequence", c, np.flatnonzero(classes == c)) for c in np.unique(classes))
    return ScoredVariants(score, label, None, rng.choice(["1", "2", "X"], n), rng.integers(0, 40, n).astype(str), strata), classes


def test_figures_of_labels_are_those_of_scikit_learn():
    s, classes = scored_at_random()
    rng = np.random.default_rng(2)
    for weight in (np.ones(300), rng.integers(0, 3, 300).astype(float)):  # as a bootstrap draws
        got, rows = measure(s, 10)(weight), np.repeat(np.arange(300), weight.astype(int))
        label, score, chrom = s.label[rows], s.score[rows], s.chrom[rows]
        assert got["auroc"] == pytest.approx(roc_auc_score(label, score)) and got["auprc"] == pytest.approx(
            average_precision_score(label, score)
        )
        by_chrom = [((chrom == c).mean(), average_precision_score(label[chrom == c], score[chrom == c])) for c in ("1", "2", "X")]
        assert got["auprc_by_chrom"] == pytest.approx(sum(w * v for w, v in by_chrom))
        assert got["base_rate"] == pytest.approx(label.mean())
        of_classes = {c: roc_auc_score(label[classes[rows] == c], score[classes[rows] == c]) for c in ("missense", "intron")}
        assert got["auroc_by_consequence"] == pytest.approx(np.mean(list(of_classes.values())))  # `rare` has too few positives
        assert got["auroc|consequence|intron"] == pytest.approx(of_classes["intron"])


def test_pairs_of_match_groups_by_hand():
    label, group = np.array([1, 0, 0, 1, 0, 1.0, 0]), np.array(["a", "a", "a", "b", "b", "c", "d"])
    scored = ScoredVariants(np.array([2, 1, 2, 0, 3, 5, 4.0]), label, None, np.array(["1"] * 7), group)
    # a: one pair won and one tied, b: lost; c and d lack an outcome
    assert measure(scored)(np.ones(7))["pairwise_accuracy"] == pytest.approx((0.75 + 0) / 2)


def test_a_bootstrap_draws_clusters_whole():
    s, _ = scored_at_random()
    estimate = bootstrap(measure(s), s.match_group, 200)["auprc"]
    rng, names = np.random.default_rng(0), np.unique(s.match_group)
    draws = []
    for _ in range(200):  # the same draws, by rows
        rows = np.concatenate([np.flatnonzero(s.match_group == names[i]) for i in rng.integers(0, len(names), len(names))])
        draws.append(average_precision_score(s.label[rows], s.score[rows]))
    assert estimate.se == pytest.approx(np.std(draws, ddof=1)) and (estimate.low, estimate.high) == pytest.approx(
        np.quantile(draws, [0.025, 0.975])
    )
    one_cluster = bootstrap(measure(s), np.zeros(300), 5)["auprc"]
    assert one_cluster.se == 0


def test_correlations_of_elements_are_those_of_scipy():
    rng = np.random.default_rng(3)
    n, element = 200, np.repeat(["a", "b"], 100)
    noise = rng.integers(1, 50, n).astype(float)  # few barcodes, large effects
    ratio, effect = rng.normal(size=n), rng.normal(size=n) / noise
    score, size = np.abs(ratio) - noise / 40, np.abs(effect)
    strata = tuple(Stratum("element", e, np.flatnonzero(element == e)) for e in "ab")
    got = measure(ScoredVariants(score, None, size, np.array(["1"] * n), None, strata, (ratio, effect), noise))(np.ones(n))
    parts = [element == e for e in "ab"]
    assert got["spearman_by_element"] == pytest.approx(np.mean([spearmanr(score[p], size[p])[0] for p in parts]))
    assert got["spearman_signed_by_element"] == pytest.approx(np.mean([spearmanr(ratio[p], effect[p])[0] for p in parts]))

    def rest(x, z):  # of ranks, after a straight line through those of the covariate
        line = np.stack([np.ones(len(z)), rankdata(z)], 1)
        return rankdata(x) - line @ np.linalg.lstsq(line, rankdata(x), rcond=None)[0]

    partial = [np.corrcoef(rest(score[p], noise[p]), rest(size[p], noise[p]))[0, 1] for p in parts]
    assert got["spearman_partial_by_element"] == pytest.approx(np.mean(partial))
    assert abs(got["spearman_partial_by_element"]) < 0.2 < got["spearman_by_element"]


# tables
