"""The same figures from SciPy, statsmodels, scanpy and scikit-learn, and from plain twins in numpy."""

from dataclasses import replace

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix, random
from scipy.stats import energy_distance, mannwhitneyu, pearsonr, ttest_ind, ttest_ind_from_stats
from sklearn.metrics import r2_score
from statsmodels.stats.multitest import multipletests

from bmfm.evaluation.perturbation.centroids import against_others, e_distance, gears, markers, pearson, weighted_r2, weights
from bmfm.evaluation.perturbation.comparison import CONTROL, Comparison, GroupedCells
from bmfm.evaluation.perturbation.moments import group_moments, jackknife_noise, lognormalised, scale_counts
from bmfm.evaluation.perturbation.ranksum import changes_against, rank_sum, sorted_columns
from tests.evaluation.perturbation.toy import toy


@pytest.mark.parametrize("levels", [3, 1000])
def test_rank_sums_are_those_of_scipy(levels):
    """Also with hardly anything but ties, without any value, and with the same value everywhere."""
    rng = np.random.default_rng(levels)
    a, b = (np.where(rng.random((n, 60)) < 0.4, rng.integers(1, levels, (n, 60)), 0).astype(float) for n in (17, 90))
    a[:, 3:] += (rng.random((17, 57)) < 0.3) * 2
    a[:, 0], b[:, 0], a[:, 1], b[:, 1] = 0, 0, 2, 2
    changes = changes_against([(csr_matrix(a), a.mean(0))], (csr_matrix(b), b.mean(0)), np.arange(1, 60))
    expected = mannwhitneyu(a, b, method="asymptotic").pvalue
    assert changes.p[0, 2:] == pytest.approx(expected[2:], rel=1e-12) and changes.p[0, 1] == 1
    assert rank_sum(csr_matrix(a), sorted_columns(csr_matrix(b)), np.array([0])) == [1]
    assert changes.p_adjusted[0, 1:] == pytest.approx(multipletests(changes.p[0, 1:], method="fdr_bh")[1], rel=1e-12)
    assert changes.lfc[0, 2:] == pytest.approx(np.log2((a.mean(0) + 1e-9) / (b.mean(0) + 1e-9))[2:])
    assert np.isnan([x[0, 0] for x in (changes.p, changes.lfc, changes.p_adjusted)]).all()


def test_negative_values_are_refused():
    with pytest.raises(ValueError, match="negative values"):
        sorted_columns(csr_matrix(np.array([[1.0, -1.0]])))


@pytest.mark.slow  # scanpy compiles for seconds
def test_scaled_counts_are_those_of_scanpy():
    counts = random(40, 30, 0.3, format="csr", random_state=0, data_rvs=lambda n: np.arange(1, n + 1) % 7 + 1)
    counts = csr_matrix(counts.toarray() * (np.arange(40) != 5)[:, None])
    import scanpy as sc

    expected = sc.pp.normalize_total(anndata.AnnData(counts.copy()), target_sum=1e6, inplace=False)["X"]
    assert np.array_equal(scale_counts(counts, 1e6).toarray(), expected.toarray())


def test_noise_is_that_of_profiles_without_each_cell():
    counts = np.random.default_rng(0).poisson(2, (7, 20)).astype(float)
    counts[:, 4] = 0
    rest = counts.sum(0) - counts
    without = np.log1p(5e4 * rest / rest.sum(1, keepdims=True))
    assert jackknife_noise(csr_matrix(counts), counts.sum(0)) == pytest.approx(6 * without.var(0).sum())
    assert jackknife_noise(csr_matrix(counts[:1]), counts[0]) == 0


def test_t_of_a_condition_against_all_others():
    """The twin has all cells; only the number of the others is taken as that of the condition."""
    comparison = lognormalised(toy())
    x, codes = comparison.real.values.toarray(), comparison.real.codes
    a, rest = x[codes == 5], x[(codes != 5) & (codes != CONTROL)]
    expected = ttest_ind_from_stats(a.mean(0), a.std(0, ddof=1), 40, rest.mean(0), rest.std(0, ddof=1), 40, equal_var=False)
    t, p = against_others(comparison)
    assert t[5] == pytest.approx(np.nan_to_num(expected.statistic))
    assert p[5] == pytest.approx(multipletests(np.nan_to_num(expected.pvalue, nan=1.0), method="fdr_bh")[1])
    size = np.abs(np.delete(t[5], 5))  # its own target has no weight
    scaled = ((size - size.min()) / (size.max() - size.min())) ** 2
    assert weights(comparison)[5] == pytest.approx(np.insert(scaled / scaled.sum(), 5, 0))
    against = ttest_ind(a, x[codes == CONTROL], equal_var=False).statistic
    best = np.argsort(-np.abs(np.nan_to_num(against)), kind="stable")
    assert markers(comparison)[5].tolist() == best[best != 5][:20].tolist()


@pytest.mark.slow  # scanpy compiles for seconds
def test_t_weights_and_markers_are_those_of_scanpy():
    import scanpy as sc

    comparison = lognormalised(replace(toy(), targets=[np.empty(0, int)] * 8))
    labels = np.array([*comparison.conditions, "control"])[comparison.real.codes]
    adata = anndata.AnnData(comparison.real.values, pd.DataFrame({"condition": pd.Categorical(labels)}, index=map(str, range(len(labels)))))
    adata.var_names = list(comparison.genes)
    adata.uns["log1p"] = {"base": None}
    of_others = adata[labels != "control"].copy()
    sc.tl.rank_genes_groups(of_others, "condition", method="t-test_overestim_var")
    sc.tl.rank_genes_groups(adata, "condition", reference="control", method="t-test", rankby_abs=True)
    t, p = against_others(comparison)
    for i, name in enumerate(comparison.conditions):
        expected = sc.get.rank_genes_groups_df(of_others, name).set_index("names").loc[list(comparison.genes)]
        assert t[i] == pytest.approx(expected["scores"].to_numpy(), rel=1e-4)
        assert p[i] == pytest.approx(expected["pvals_adj"].to_numpy(), rel=1e-6)
        size = np.abs(t[i])
        scaled = ((size - size.min()) / (size.max() - size.min())) ** 2
        assert weights(comparison)[i] == pytest.approx(scaled / scaled.sum())
        best = sc.get.rank_genes_groups_df(adata, name)["names"].head(20)
        assert [comparison.genes[g] for g in markers(comparison)[i]] == list(best)


def test_moments_and_correlations_are_plain_ones():
    comparison = toy()
    means, variances, sizes = group_moments(comparison.real, 8)
    for code in (2, CONTROL):
        cells = comparison.real.of(code).toarray().astype(float)
        assert means[code] == pytest.approx(cells.mean(0)) and variances[code] == pytest.approx(cells.var(0, ddof=1))
        assert sizes[code] == len(cells)
    table, logs = gears(comparison), lognormalised(comparison)
    predicted, real, control = (logs.predicted.of(3).mean(0), logs.real.of(3).mean(0), logs.real.of(CONTROL).mean(0))
    kept = np.arange(150) != 3
    a, b = (np.asarray(x - control).ravel()[kept] for x in (predicted, real))
    assert table["pearson_delta"].iloc[3] == pytest.approx(pearsonr(a, b).statistic)
    assert table["mse"].iloc[3] == pytest.approx(((a - b) ** 2).mean())
    rounded = np.asarray(control, np.float32).ravel()
    assert np.isnan(pearson(rounded, np.asarray(real).ravel(), np.asarray(control).ravel()))  # what is rounded has not changed


def test_weighted_r2_is_that_of_scikit_learn():
    truth, guess, weight = np.random.default_rng(0).random((3, 50))
    assert weighted_r2(truth, guess, weight) == pytest.approx(r2_score(truth, guess, sample_weight=weight))


def test_energy_distance_is_that_of_scipy_in_one_dimension():
    a, b = np.random.default_rng(0).gamma(2, 1, (2, 30, 1))
    cells = GroupedCells(csr_matrix(b), np.zeros(30, int)), GroupedCells(csr_matrix(a), np.zeros(30, int))
    comparison = Comparison("k", ["A"], ["g"], [np.empty(0, int)], *cells, "lognorm")
    assert e_distance(comparison)[0] == pytest.approx(energy_distance(a.ravel(), b.ravel()) ** 2)
