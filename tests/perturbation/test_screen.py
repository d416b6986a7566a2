"""Screens: known regulators come first, and what genes are compared with is computed by hand."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control, t

import bmfm
from bmfm.cli import compose
from bmfm.perturbation import screen as module
from bmfm.perturbation.screen import matched
from bmfm.screen import run_screen
from tests.perturbation.conftest import GENES, TARGETS

READING = {"condition": "target_gene", "context": "cell_type", "n_cells": 20, "n_matched": 25}


@pytest.fixture(scope="module")
def model(screen_model):
    return bmfm.load(str(screen_model))


@pytest.mark.parametrize("target", [0, 4])
def test_the_regulator_of_a_marker_is_found(model, screen_file, screen_cells, target):
    table = model.screen(screen_file, {"genes": [GENES[10 + target]]}, **READING)
    assert list(table["gene"][:2]) == [GENES[target]] * 2  # in either context
    assert (table["z"][:2] > 2).all()
    counts = np.asarray(screen_cells.X)
    marker = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)[:, 10 + target]
    condition = screen_cells.obs["target_gene"].to_numpy()
    measured = marker[condition == GENES[target]].mean() - marker[condition == "non-targeting"].mean()
    assert (abs(table["effect"][:2] / measured - 1) < 0.25).all()
    assert set(table.loc[table["in_readout"], "gene"]) == {GENES[10 + target]}
    assert set(table.loc[table["perturbed_in_training"], "gene"]) == set(GENES[:TARGETS])


def test_the_perturbation_of_a_state_leads_to_it(model, screen_file):
    readout = {"column": "target_gene", "start": "non-targeting", "end": "GENE2"}
    table = model.screen(screen_file, readout, **READING)
    assert list(table["gene"][:2]) == ["GENE2"] * 2
    # a linear readout of the mean change: the state itself would be 1
    assert (abs(table["effect"][:2] - 1) < 0.35).all()
    assert table.attrs["readout"] == "share of the way from non-targeting to GENE2 (target_gene)"


def test_genes_of_interest_are_compared_with_the_same_others(model, screen_file):
    every = model.screen(screen_file, {"genes": ["GENE13"]}, **READING).set_index(["gene", "context"])
    some = model.screen(screen_file, {"genes": ["GENE13"]}, genes=["GENE3", "GENE8"], **READING).set_index(["gene", "context"])
    assert len(some) == 4
    np.testing.assert_allclose(some["effect"], every["effect"][some.index], atol=1e-5)


def test_matched_genes_are_the_nearest_in_expression():
    rng = np.random.default_rng(0)
    effect, expression = rng.normal(size=40), rng.permutation(40).astype(float)
    found = matched(effect, expression, 10)
    ranked = np.argsort(expression)
    for place in (0, 20, 39):
        first = min(max(0, place - 5), 29)
        others = [ranked[p] for p in range(first, first + 11) if p != place]
        z = (effect[ranked[place]] - effect[others].mean()) / effect[others].std(ddof=1)
        assert found["z"][ranked[place]] == pytest.approx(z)
        assert found["p"][ranked[place]] == pytest.approx(2 * t.sf(abs(z) / np.sqrt(1.1), 9))


def test_the_command_writes_table_and_picture(screen_model, screen_file, tmp_path, capsys):
    outputs = f"output=[{tmp_path / 'ranks.tsv'},{tmp_path / 'ranks.png'}]"
    chosen = [f"checkpoint={screen_model}", f"data.path={screen_file}", "data.condition=target_gene", "data.context=cell_type"]
    run_screen(compose("screen", [*chosen, "readout={genes: [GENE11]}", "n_cells=10", "n_matched=25", "progress=false", outputs]))
    import pandas as pd

    table = pd.read_csv(tmp_path / "ranks.tsv", sep="\t")
    assert table["gene"][0] == "GENE1"
    np.testing.assert_allclose(table["fdr"], false_discovery_control(table["p"]))
    assert (tmp_path / "ranks.png").stat().st_size > 10_000
    assert "mean change of GENE11" in capsys.readouterr().out
    made, whole = [], module._effects  # by workers, in parts of ten genes: the same table
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "GENES_A_PART", 10)
        patch.setattr(module, "_effects", lambda *a: made.append(len(a[2])) or whole(*a))
        patch.setattr("bmfm.launch.LocalPool.__call__", lambda self, work, numbers, failed: map(work, numbers))
        shared = [*chosen, "readout={genes: [GENE11]}", "n_cells=10", "n_matched=25", "progress=false", f"output={tmp_path / 'shared.tsv'}"]
        run_screen(compose("screen", [*shared, "launcher=local"]))
    assert max(made) == 10 and sum(made) == len(table)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "shared.tsv", sep="\t"), table, atol=1e-6)


@pytest.mark.parametrize(
    ("readout", "options", "message"),
    [
        ({}, {}, "readout has nothing"),
        ({"genes": ["GENE1"], "column": "cell_type"}, {}, "readout has column, genes"),
        ({"genes": ["XYZ1"]}, {}, "XYZ1 is not among"),
        ({"column": "cell_type", "start": "a", "end": "c"}, {}, "no cell has 'c'"),
        ({"genes": ["GENE1"]}, {"min_expressed": 1.1}, "lower min_expressed"),
        ({"genes": ["GENE1"]}, {"genes": ["XYZ1"]}, "does not know XYZ1"),
    ],
)
def test_mistakes_are_named(model, screen_file, readout, options, message):
    with pytest.raises((KeyError, ValueError), match=message):
        model.screen(screen_file, readout, **READING | options)
