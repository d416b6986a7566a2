"""The protocol on made-up cells of two contexts, with a stand-in for the examples and methods whose answers are known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix, vstack

from bmfm.cells.conditions import Condition
from bmfm.evaluation.methods.perturbation import PerturbationMethod, Responses
from bmfm.evaluation.perturbation.measured import measured_contexts
from bmfm.evaluation.perturbation.moments import log_counts
from bmfm.evaluation.protocols.perturbation import PerturbationPrediction, chosen_rows
from bmfm.perturbation.draws import changed_counts, fold_changes, poisson_counts, shift_curve, shifted_cells, shifts
from tests.evaluation.perturbation.toy import NAMES, controls, draw, effects

CONTEXTS = ("K562", "RPE1")
TRAINED, ASKED = (0, 1, 2), (3, 4, 5, 6)
SEEN = {3: "unseen_single", 4: "unseen_single", 5: "combo_seen1", 6: "combo_seen1"}


class StandIn:
    """What `examples.perturbations.PerturbationExamples` gives: conditions 0 to 2 are training, 3 to 6 are asked; RPE1 has no training."""

    def __init__(self):
        base, lfc = effects()
        self.task, self.genes, self.unit, self.test_uses = SimpleNamespace(name="toy"), NAMES, "counts", 0
        self.source = SimpleNamespace(left_out={})
        cells = {c: (draw(base, lfc, 10 + i), controls(base, 20 + i)) for i, c in enumerate(CONTEXTS)}
        self.matrix = vstack([x.values for pair in cells.values() for x in pair], "csr")
        labels = [(c, code) for c, pair in cells.items() for x in pair for code in x.codes]
        self.context_of, self.code_of = np.array([c for c, _ in labels]), np.array([code for _, code in labels])
        groups = [(c, code) for c in CONTEXTS for code in range(8)]
        rows = {g: {"context": c, "condition": NAMES[k], "kind": "crispri", "n_cells": 40} for g, (c, k) in enumerate(groups)}
        self.groups, table = groups, pd.DataFrame.from_dict(rows, orient="index")
        self.trained = table[[c == "K562" and k in TRAINED for c, k in groups]]
        self.asked = table[[k in ASKED for _, k in groups]].assign(stratum=[SEEN[k] for _, k in groups if k in ASKED])
        self.asked_conditions = [Condition((name,), (None,)) for name in self.asked["condition"]]

    def cells_of(self, group):
        context, code = self.groups[group]
        return np.flatnonzero((self.context_of == context) & (self.code_of == code))

    def control_cells(self, context):
        return np.flatnonzero((self.context_of == context) & (self.code_of == -1))

    def counts(self, cells):
        return self.matrix[cells]

    def values(self, cells):
        return log_counts(self.matrix[cells], 1e4)

    def mean_of(self, part, group):
        return np.asarray(self.values(self.cells_of(group)).mean(0)).ravel()

    def control_mean(self, context):
        return np.asarray(self.values(self.control_cells(context)).mean(0)).ravel()

    def markers(self, group):
        return None

    def targets(self, condition):
        return np.array([NAMES.index(t) for t in condition.targets])


class Known(PerturbationMethod):
    def __init__(self, means, cells=None):
        super().__init__("known")
        self.means, self.cells = means, cells

    def respond(self, examples, seed, folder):
        return Responses(self.means, self.cells, {"predicted by chance": 2})


@pytest.fixture(scope="module")
def examples():
    return StandIn()


@pytest.fixture(scope="module")
def truth(examples):
    return np.stack([examples.mean_of("test", g) for g in examples.asked.index])


def run(examples, method, tmp_path, **settings):
    protocol = PerturbationPrediction(**settings)
    return protocol.run(examples, method, 0, tmp_path, 20)


def test_the_truth_is_best(examples, truth, tmp_path):
    outcome = run(examples, Known(truth), tmp_path)
    assert outcome.metrics["pearson_delta"] == outcome.metrics["centroid_accuracy"] == pytest.approx(1)
    assert max(outcome.metrics["wmse"], outcome.metrics["mse"]) == pytest.approx(0, abs=1e-12)
    assert outcome.counts["groups predicted by chance"] == 2
    assert outcome.counts["contexts without training conditions, whose training mean is of others"] == 1
    assert outcome.arrays["predicted_delta"] == pytest.approx(outcome.arrays["measured_delta"], abs=1e-5)
    splits = {s["name"]: s for s in outcome.strata if s["kind"] == "split"}
    assert {name: (s["n"], s["n_cells"]) for name, s in splits.items()} == {"unseen_single": (4, 40), "combo_seen1": (4, 40)}
    conditions = [s for s in outcome.strata if s["kind"] == "condition"]
    assert [s["name"] for s in conditions] == [f"{c}|{NAMES[k]}" for c in CONTEXTS for k in ASKED]
    assert sum("points" in s for s in conditions) == 6 and outcome.test_uses == 1
    bounds = {s["name"]: s for s in outcome.strata if s["kind"] == "bound"}
    assert 0.5 < bounds["pearson_delta"]["split_half_ceiling"] < 1
    assert bounds["pearson_delta"]["share_of_ceiling"] == pytest.approx(1 / bounds["pearson_delta"]["split_half_ceiling"])
    assert 0.2 < bounds["wmse"]["dynamic_range_fraction"] <= 1


def test_figures_are_means_over_contexts_of_means_over_conditions(examples, truth, tmp_path):
    wrong = truth + np.linspace(0, 1, len(truth))[:, None]
    outcome = run(examples, Known(wrong), tmp_path, bounds=False)
    errors = np.array([s["mse"] for s in outcome.strata if s["kind"] == "condition"]).reshape(2, 4)
    assert errors.ravel() == pytest.approx(np.linspace(0, 1, 8) ** 2, abs=1e-9)
    assert outcome.metrics["mse"] == pytest.approx(errors.mean(1).mean())
    of_split = {s["name"]: s["mse"][0] for s in outcome.strata if s["kind"] == "split"}
    assert of_split["combo_seen1"] == pytest.approx(errors[:, 2:].mean())
    low, high = outcome.intervals["mse"]
    assert low < outcome.metrics["mse"] < high


def test_no_change_has_no_correlation_and_says_so(examples, tmp_path):
    means = np.stack([examples.control_mean(c) for c in examples.asked["context"]]).astype(np.float32)
    outcome = run(examples, Known(means), tmp_path, bounds=False)
    assert "pearson_delta" not in outcome.metrics and outcome.metrics["pearson_delta_gears"] == 0
    assert outcome.counts["conditions not scored by pearson_delta, which is not defined there"] == 8
    of_cells = run(examples, Known(means), tmp_path, bounds=False, profiles=["vcc2026"]).metrics
    assert of_cells["vcc2026_lfc_nmae"] == pytest.approx(1, abs=0.3) and of_cells["vcc2026_sig_jaccard"] < 0.05
    assert of_cells["vcc2026_expr_mse_unbiased_capped_norm"] == pytest.approx(1, abs=0.5)


def test_counts_are_drawn_where_the_challenge_needs_them(examples, truth, tmp_path):
    outcome = run(examples, Known(truth), tmp_path, profiles=["vcc2026", "vcc2025"])
    assert outcome.metrics["vcc2026_pds_cosine"] > 0.9 and outcome.metrics["vcc2026_sig_jaccard"] > 0.3
    assert outcome.metrics["vcc2026_expr_mse_unbiased_capped_norm"] < 0.2
    assert outcome.metrics["vcc2025_pds_l1"] > 0.8 and outcome.metrics["vcc2026_score"] > 0.3
    assert {"vcc2026_lfc_nmae", "vcc2025_des"} <= outcome.intervals.keys()


def test_cells_of_a_method_are_taken_as_they_are(examples, truth, tmp_path):
    groups = list(examples.asked.index)
    exact = Known(truth, lambda row: examples.values(examples.cells_of(groups[row])))
    assert run(examples, exact, tmp_path, bounds=False).metrics["e_distance"] == pytest.approx(0, abs=1e-9)
    assert run(examples, Known(truth), tmp_path, bounds=False).metrics["e_distance"] > 0.001


@pytest.mark.parametrize(("single", "n"), [((3, 4), 4), (ASKED, 8)])
def test_conditions_of_one_cell_have_no_ceiling_and_are_counted(truth, tmp_path, single, n):
    few = StandIn()
    all_cells = few.cells_of
    few.cells_of = lambda group: all_cells(group)[:1] if few.groups[group][1] in single else all_cells(group)
    outcome = run(few, Known(truth), tmp_path, profiles=["gears", "calibrated", "vcc2026"])
    assert outcome.counts["conditions of one cell, which have no ceiling"] == n
    assert ("vcc2026_score" in outcome.metrics) == bool([s for s in outcome.strata if s["kind"] == "bound"]) == (n == 4)


def test_mistakes_are_named(examples, truth, tmp_path):
    with pytest.raises(ValueError, match=r"profiles has 'vcc', which is unknown"):
        PerturbationPrediction(profiles=["vcc"])
    with pytest.raises(ValueError, match="8 groups of 150 genes were asked for"):
        run(examples, Known(truth[1:]), tmp_path)
    with pytest.raises(ValueError, match="known: the prediction of G004 in K562 is not finite"):
        run(examples, Known(np.where(np.arange(8)[:, None] == 1, np.nan, truth)), tmp_path)
    with pytest.raises(ValueError, match=r"task.metric=accuracy is in none of task.protocol.profiles"):
        PerturbationPrediction().check(SimpleNamespace(metric="accuracy", metrics={}))


def test_controls_are_changed_to_any_predicted_mean():
    """Of no change the cells are the controls."""
    rng = np.random.default_rng(0)
    counts = csr_matrix(rng.poisson([0.7, 0.2, 3.0, 40.0, 0.0, 1.0, 500.0], (400, 7)).astype(np.float32))
    logs = log_counts(counts, 1e4)
    mean, change = np.asarray(logs.mean(0)).ravel(), np.array([0.5, -0.1, -1.5, -0.4, 0.3, -9.0, 0.0])
    shifted = shifted_cells(logs, shifts(shift_curve(logs), change)).toarray()
    assert shifted.min() >= 0 and shifted.mean(0) == pytest.approx((mean + change).clip(0), abs=0.01)
    none = np.zeros(7)
    assert shifted_cells(logs, shifts(shift_curve(logs), none)).toarray() == pytest.approx(logs.toarray(), rel=1e-6)

    totals = np.asarray(counts.sum(1)).ravel()
    share = (counts.toarray() / totals[:, None]).mean(0)
    ratio = fold_changes(np.log1p([0.0, 2.0, 3.0, 0.5, 0.0]), np.log1p([1.0, 1.0, 0.0, 1.0, 0.0]))
    assert ratio.tolist() == pytest.approx([0, 2, np.inf, 0.5, 1])
    ratio = np.array([3.0, 1.0, 0.25, 1.5, np.inf, 0.0, 1.0])
    drawn = changed_counts(vstack([counts] * 20, "csr"), ratio, share, np.full(7, 0.01), rng).toarray()
    expected = np.asarray(counts.mean(0)).ravel() * np.where(np.isinf(ratio), 1, ratio)
    expected[4] = 0.01 * totals.mean()
    assert drawn.mean(0) == pytest.approx(expected, rel=0.03)
    assert (drawn[:, 0] > 0).mean() > 0.8 > 0.55 > (counts.toarray()[:, 0] > 0).mean()  # cells without a count may get one
    assert np.array_equal(changed_counts(counts, np.ones(7), share, none, rng).toarray(), counts.toarray())


def test_counts_are_drawn_with_their_expectation():
    rng = np.random.default_rng(0)
    cell = csr_matrix(np.log1p(1e4 * np.array([[0.5, 0.3, 0.2, 0.0]])))
    counts = poisson_counts(vstack([cell] * 2000, "csr"), np.full(2000, 50.0), rng).toarray()
    assert counts.mean(0) == pytest.approx([25, 15, 10, 0], abs=0.5)
    rare = csr_matrix(np.full((2, 9), 1e-3))
    before = rare.toarray()
    poisson_counts(rare, np.ones(2), rng)
    assert np.array_equal(rare.toarray(), before)


def test_conditions_are_drawn_of_all_strata(examples):
    assert chosen_rows(["a", "a", "a", "b", "a", "c"], 4) == [0, 3, 5, 1]
    assert [c.trains_here for c in measured_contexts(examples, False)] == [True, False]
