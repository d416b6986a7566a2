"""Metrics of predictions of which the answer is known without computing them."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix, vstack

from bmfm.evaluation.perturbation.ceilings import can_be_halved, dynamic_range, halves, scale_vcc2026, share_of_ceiling, split_half_ceiling
from bmfm.evaluation.perturbation.comparison import CONTROL, Comparison, GroupedCells
from bmfm.evaluation.perturbation.profiles import CALIBRATED, GEARS, PROFILES, VCC2025, VCC2026, over_contexts
from bmfm.evaluation.perturbation.ranksum import DifferentialExpression
from bmfm.evaluation.perturbation.vcc2026 import lfc_nmae, pds_cosine
from bmfm.metrics import METRICS, Metric
from tests.evaluation.perturbation.toy import N_GENES, controls, draw, effects, joined, toy


def figures(profile, comparison):
    return {name: float(x[0]) for name, x in profile.figures(profile.table(comparison)).items()}


def test_the_measured_cells_are_a_perfect_prediction():
    real = toy("real")
    for profile in PROFILES.values():
        for name, value in figures(profile, real).items():
            if name == "expr_mse_unbiased_capped_norm":
                assert value < 0  # sampling noise is subtracted that copies do not have
            else:
                assert value == pytest.approx(profile.perfect(name), abs=1e-7), name


def test_no_change_has_no_skill():
    comparison = toy()
    base, _ = effects()
    cells = comparison.real.of(CONTROL)
    p = len(comparison.conditions)
    same = GroupedCells(vstack([cells] * p, format="csr"), np.repeat(np.arange(p), cells.shape[0]))
    of_counts = figures(VCC2026, replace(comparison, predicted=same))
    assert of_counts["pds_cosine"] == 0.5
    assert of_counts["lfc_nmae"] == pytest.approx(1)
    assert of_counts["sig_jaccard"] == of_counts["direction_fidelity_yield"] == 0
    fresh = joined(*(GroupedCells(controls(base, 100 + i).values, np.full(120, i)) for i in range(p)))
    assert figures(VCC2026, replace(comparison, predicted=fresh))["expr_mse_unbiased_capped_norm"] == pytest.approx(1, abs=0.1)
    of_means = GEARS.table(replace(comparison, predicted=same))
    assert of_means["pearson_delta"].isna().all() and GEARS.undefined(of_means)["pearson_delta"] == p
    assert GEARS.figures(of_means)["pearson_delta_gears"] == 0


def test_one_profile_for_all_conditions_is_chance():
    comparison = toy()
    p, g = len(comparison.conditions), N_GENES
    cell = csr_matrix(np.random.default_rng(5).poisson(4, (1, g)).astype(np.float32))
    constant = replace(comparison, predicted=GroupedCells(vstack([cell] * (2 * p), format="csr"), np.repeat(np.arange(p), 2)))
    assert figures(VCC2026, constant)["pds_cosine"] == pytest.approx(0.5, abs=1e-12)
    without_targets = replace(constant, targets=[np.empty(0, int)] * p)
    assert figures(VCC2025, without_targets)["pds_l1"] == pytest.approx((p + 1) / (2 * p))
    assert figures(CALIBRATED, constant)["centroid_accuracy"] == pytest.approx(0.5)


def test_ties_share_their_ranks():
    axes = np.eye(3)
    assert pds_cosine(np.roll(axes, 1, 0), axes, np.zeros(3, bool)).tolist() == [0.25] * 3
    assert pds_cosine(axes, 7 * axes, np.array([True, False, False])).tolist() == [0.5, 1, 1]  # nothing is left of the first


def test_twice_the_fold_changes_are_as_well_told_apart_and_as_wrong_as_none():
    rng = np.random.default_rng(0)
    lfc = rng.normal(size=(4, 30))
    changed = DifferentialExpression(lfc, np.zeros_like(lfc), np.zeros_like(lfc))
    assert lfc_nmae(changed, DifferentialExpression(2 * lfc, changed.p, changed.p)) == pytest.approx(np.ones(4))
    assert pds_cosine(2 * lfc, lfc, np.zeros(30, bool)).tolist() == [1] * 4


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_order_is_of_no_matter(profile):
    comparison, rng = toy(), np.random.default_rng(3)
    conditions, genes = rng.permutation(len(comparison.conditions)), rng.permutation(N_GENES)
    place = np.argsort(genes)

    def turned(cells: GroupedCells) -> GroupedCells:
        rows = rng.permutation(len(cells.codes))
        codes = np.append(np.argsort(conditions), CONTROL)[cells.codes[rows]]
        return GroupedCells(cells.values[rows][:, genes].tocsr(), codes)

    other = replace(
        comparison,
        conditions=[comparison.conditions[i] for i in conditions],
        genes=[comparison.genes[i] for i in genes],
        targets=[place[comparison.targets[i]] for i in conditions],
        real=turned(comparison.real),
        predicted=turned(comparison.predicted),
        training={"mean": comparison.training["mean"][genes]},
    )
    a, b = profile.table(comparison), profile.table(other).loc[list(comparison.conditions)]
    assert np.allclose(a, b, rtol=1e-9, atol=1e-12, equal_nan=True)


def test_predicted_controls_move_nothing():
    comparison = toy()
    base, _ = effects()
    fives = controls(5 * base, 9)
    with_controls = replace(comparison, predicted=joined(comparison.predicted, fives))
    assert VCC2026.table(with_controls).equals(VCC2026.table(comparison))


def test_additive_data_are_predicted_by_addition():
    rng = np.random.default_rng(0)
    control, a, b = rng.gamma(2, 1, (3, N_GENES))
    double = np.maximum(a + b - control, 0)
    a = double - b + control
    cells = csr_matrix(np.stack([double, double, control, control]))
    comparison = Comparison("k", ["A+B"], list(map(str, range(N_GENES))), [np.empty(0, int)], GroupedCells(cells, np.array([0, 0, -1, -1])),
        GroupedCells(csr_matrix((0, N_GENES)), np.empty(0, int)), "lognorm", {"mean": control}, means=(a + b - control)[None])  # fmt: skip
    found = GEARS.table(comparison).iloc[0]
    assert found["mse"] == pytest.approx(0, abs=1e-20) and found["pearson_delta"] == pytest.approx(1)
    assert CALIBRATED.table(comparison).iloc[0]["l2_top1000"] == pytest.approx(0, abs=1e-10)


def test_log_normalised_values_are_refused_where_counts_are_needed():
    with pytest.raises(ValueError, match=r"needs raw counts.*gears, calibrated and vcc2025"):
        VCC2026.table(replace(toy(), unit="lognorm"))


def test_conditions_without_cells_are_named():
    comparison = toy()
    cut = replace(comparison, predicted=GroupedCells(comparison.predicted.values[40:], comparison.predicted.codes[40:]))
    for profile in PROFILES.values():
        with pytest.raises(ValueError, match="condition G000 has no predicted cells"):
            profile.table(cut)
    with pytest.raises(ValueError, match="no control cells"):
        GEARS.table(comparison.with_cells(draw(*effects(), 1), comparison.predicted))


def test_halves_share_no_cell_and_are_as_large():
    comparison = toy()
    rows = np.arange(comparison.real.values.shape[0], dtype=np.float32)
    numbered = comparison.with_cells(GroupedCells(csr_matrix(rows[:, None] + 1), comparison.real.codes), comparison.predicted)
    for half in halves(numbered, 0, 2, split_controls=True):
        a, b = (set(side.values.data) for side in (half.real, half.predicted))
        assert not a & b and len(a) == len(b) == len(rows) / 2
        assert np.array_equal(np.bincount(half.real.codes + 1), np.bincount(half.predicted.codes + 1))
    assert len(can_be_halved(comparison)) == len(comparison.conditions)


def test_ceilings_and_scale():
    comparison = toy("replicate")
    ceiling = split_half_ceiling(VCC2026, comparison)
    assert ceiling.figures["pds_cosine"] > 0.9 and ceiling.dropped == 0
    found, worst = figures(VCC2026, comparison), figures(VCC2026, toy("no change"))
    scores = scale_vcc2026(found, worst, ceiling.figures)
    assert scores["expr_mse_unbiased_capped_norm"] <= 1
    by_hand = (found["sig_jaccard"] - worst["sig_jaccard"]) / (ceiling.figures["sig_jaccard"] - worst["sig_jaccard"])
    assert scores["sig_jaccard"] == pytest.approx(by_hand)
    assert scale_vcc2026(worst, worst, ceiling.figures)["score"] == 0
    assert share_of_ceiling(0.4, 0.8, METRICS["pearson"]) == 0.5 == share_of_ceiling(2.0, 1.0, METRICS["mse"])
    fractions = dynamic_range(CALIBRATED, comparison)
    informative = fractions[["pearson_delta_ref", "wmse", "r2w_delta"]]
    assert ((informative > 0.3) & (informative <= 1)).to_numpy().all() and fractions["e_distance"].isna().all()


def test_figures_are_weighted_means_and_contexts_count_alike():
    table = GEARS.table(toy())
    weights = np.zeros((1, len(table)))
    weights[0, [1, 4]] = 1, 3
    by_hand = (table["mse"].iloc[1] + 3 * table["mse"].iloc[4]) / 4
    assert GEARS.figures(table, weights)["mse"][0] == pytest.approx(by_hand)
    assert over_contexts([{"a": np.array([1.0, np.nan])}, {"a": np.array([3.0, 5.0])}])["a"].tolist() == [2, 5]
    assert isinstance(GEARS.described()["pearson_delta_gears"], Metric) and set(VCC2026.described()) == {
        f"vcc2026_{m}" for m in VCC2026.metrics
    }
