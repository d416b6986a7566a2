"""The same figures as the public scorer of the Virtual Cell Challenge, from what it gave once and, where it is installed, from itself."""

import json
import math

import pytest

from bmfm.evaluation.perturbation.ceilings import vcc2026_references
from bmfm.evaluation.perturbation.moments import lognormalised
from bmfm.evaluation.perturbation.profiles import PROFILES
from tests.evaluation.perturbation.scorer import PREDICTIONS, STORED, digest, median_total, score
from tests.evaluation.perturbation.toy import toy

EXACT = ("pds_cosine", "direction_fidelity_yield", "direction_reach", "sig_jaccard", "des", "pds_l1")
"""Ratios of numbers of genes and conditions: these agree, or a gene or a rank is another."""


def compare(comparison, figures):
    """Every figure of every condition, and the means."""
    assert figures and all(values for theirs in figures.values() for values in (theirs, *theirs.values()))
    for profile, theirs in figures.items():
        table = PROFILES[profile].table(comparison)
        means = PROFILES[profile].figures(table)
        for name, values in theirs.items():
            ours = dict(table[name]) if name in table else {}
            ours |= {"mean": float(means[name][0])} if name in means else {"mean": table[name].mean()}
            for who, expected in values.items():
                tolerance = 1e-12 if name in EXACT else 1e-6
                assert ours[who] == pytest.approx(math.nan if expected is None else expected, abs=tolerance, nan_ok=True), (name, who)
            left_out = set(ours) - set(values)
            assert all(math.isnan(ours[who]) for who in left_out), (name, left_out)


@pytest.fixture(scope="module")
def stored():
    return json.loads(STORED.read_text())


@pytest.mark.parametrize("predicted", PREDICTIONS)
def test_figures_are_those_that_the_scorer_gave(stored, predicted):
    comparison, of_scorer = toy(predicted), dict(stored["predictions"][predicted])
    assert digest(comparison) == of_scorer.pop("digest"), "numpy draws other counts: write scorer.json anew (see scorer.py)"
    assert len(of_scorer["vcc2026"]) == 9 and len(of_scorer["vcc2025"]) == 3
    compare(comparison, of_scorer)


def test_ends_of_the_scale_are_those_that_the_scorer_gave(stored):
    """Halves are drawn alike, with its seeds and in its order."""
    for ours, theirs in zip(vcc2026_references(toy()), stored["references"].values(), strict=True):
        assert {name: theirs[name] for name in ours} == pytest.approx(ours, abs=1e-6)


def test_log_normalised_values_are_taken_as_they_are(stored):
    comparison = toy("imperfect")
    compare(lognormalised(comparison, median_total(comparison)), {"vcc2025": stored["predictions"]["imperfect"]["vcc2025"]})


@pytest.mark.slow
def test_figures_are_those_of_the_scorer():
    pytest.importorskip("cell_eval2", reason="pip install cell-eval2==0.20.0 pdex==0.3.0, in an environment of its own")
    for predicted in PREDICTIONS:
        compare(toy(predicted), score(toy(predicted)))
