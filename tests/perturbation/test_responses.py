"""Predicted cells against a screen whose answers are known."""

import anndata
import numpy as np
import pandas as pd
import pytest

import bmfm
from bmfm.cli import compose
from bmfm.ledger import Ledger
from bmfm.perturbation import responses
from bmfm.perturbation.asked import read_asked
from bmfm.predict import predict
from tests.perturbation.conftest import GENES, TARGETS

READING = {"condition": "target_gene", "context": "cell_type", "n_cells": None}


@pytest.fixture(scope="module")
def model(screen_model):
    return bmfm.load(str(screen_model))


@pytest.fixture(scope="module")
def predicted(model, screen_file):
    return model.predict_responses(screen_file, GENES[:TARGETS], **READING)


def log_normalised(adata) -> np.ndarray:
    """By hand, as the tokenizer's docstring has it."""
    counts = np.asarray(adata.X)
    return np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)


def test_the_gene_that_a_target_switches_on_rises_most(predicted, screen_cells):
    values = predicted.to_df()
    for context in ("a", "b"):
        of_context = values[predicted.obs["context"] == context]
        condition = predicted.obs.loc[of_context.index, "condition"]
        change = of_context.groupby(condition.to_numpy()).mean() - of_context[condition == "control"].mean()
        found = {gene: change.loc[gene].idxmax() for gene in GENES[:TARGETS]}
        assert found == {GENES[t]: GENES[10 + t] for t in range(TARGETS)}


def test_control_cells_stand_beside_as_they_are(predicted, screen_cells):
    controls = predicted[predicted.obs["condition"] == "control"]
    truth = screen_cells[list(controls.obs["control_cell"])]
    np.testing.assert_allclose(controls.X.toarray(), log_normalised(truth), rtol=1e-5)
    assert set(controls.obs["target_gene"]) == {"non-targeting"}
    assert list(predicted.var_names) == GENES
    assert (predicted.obs.groupby(["context", "condition"], observed=True).size() == 80).all()


def test_profiles_are_the_means_of_all_controls_and_of_the_changes(model, predicted, screen_file):
    profiles = model.predict_responses(screen_file, GENES[:TARGETS], rows="profiles", **READING)
    assert profiles.n_obs == 2 * (TARGETS + 1)
    cells = predicted.to_df().groupby([predicted.obs["context"].to_numpy(), predicted.obs["condition"].to_numpy()]).mean()
    for row, (context, condition) in zip(profiles.X.toarray(), profiles.obs[["context", "condition"]].to_numpy(), strict=True):
        # shifts are fitted before what is a cell's own is added, so that cells near 0 leave a little
        np.testing.assert_allclose(row, cells.loc[(context, condition)], atol=0.06)


def test_counts_change_by_the_predicted_fold_and_keep_their_noise(model, screen_file, screen_cells):
    drawn = model.predict_responses(screen_file, ["GENE0"], unit="counts", **READING)
    assert (drawn.X.data == np.round(drawn.X.data)).all()
    controls = drawn[drawn.obs["condition"] == "control"]
    np.testing.assert_array_equal(controls.X.toarray(), screen_cells[list(controls.obs["control_cell"])].X)
    profiles = model.predict_responses(screen_file, ["GENE0"], rows="profiles", **READING).to_df()
    for context in ("a", "b"):
        of_context = drawn[drawn.obs["context"] == context]
        cells = of_context.X.toarray()
        is_control = (of_context.obs["condition"] == "control").to_numpy()
        expected, base = (np.expm1(profiles.iloc[place]) for place in ((0, 2) if context == "a" else (1, 3)))
        # the gene that is knocked down, and the one that is switched on
        for gene in (0, 10):
            found = cells[~is_control, gene].mean() / cells[is_control, gene].mean()
            assert found == pytest.approx(expected.iloc[gene] / base.iloc[gene], rel=0.1)
        # where nothing much changes, a cell is its control but for a few molecules
        still = np.flatnonzero(np.abs(np.log(expected / base)) < 0.1)
        assert len(still) > 5
        assert np.corrcoef(cells[~is_control][:, still].ravel(), cells[is_control][:, still].ravel())[0, 1] > 0.9


def test_a_response_depends_on_neither_batch_nor_company(model, screen_file):
    options = READING | {"rows": "profiles", "with_controls": False}
    alone = model.predict_responses(screen_file, ["GENE3"], batch_size=7, **options).X.toarray()
    among = model.predict_responses(screen_file, ["GENE1", "GENE3", "GENE2+GENE4"], batch_size=64, **options)
    np.testing.assert_allclose(alone, among[among.obs["condition"] == "GENE3"].X.toarray(), atol=1e-5)


def test_the_command_writes_what_the_model_says(screen_model, screen_file, model, tmp_path):
    (tmp_path / "asked.csv").write_text("target_gene,cell_type\nGENE2,b\nGENE1+GENE5,a\n")
    asked = [
        f"checkpoint={screen_model}",
        f"data.path={screen_file}",
        f"perturbations={tmp_path / 'asked.csv'}",
        f"output={tmp_path / 'out.h5ad'}",
    ]
    predict(
        compose(
            "predict", [*asked, "responses.condition=target_gene", "responses.context=cell_type", "responses.n_cells=20", "progress=false"]
        )
    )
    written = anndata.read_h5ad(tmp_path / "out.h5ad")
    sizes = written.obs.groupby(["condition", "context"], observed=True).size()
    assert sizes.to_dict() == {("GENE2", "b"): 20, ("GENE1+GENE5", "a"): 20, ("control", "a"): 20, ("control", "b"): 20}
    table = pd.DataFrame({"condition": ["GENE2", "GENE1+GENE5"], "context": ["b", "a"]})
    here = model.predict_responses(screen_file, table, condition="target_gene", context="cell_type", n_cells=20)
    np.testing.assert_allclose(written.X.toarray(), here.X.toarray(), rtol=1e-6)


def test_lists_are_read_row_by_row(tmp_path):
    table = pd.DataFrame({"drug": ["D1", "D2"], "dose": [1.0, 100.0], "unit": ["uM", "nM"], "kind": "drug"})
    asked = read_asked(table, ["a"], "crispri", {"D1", "D2"})
    assert asked.texts == ["D1@1uM", "D2@0.1uM"] and asked.kinds == ["drug", "drug"]
    (tmp_path / "list.txt.csv").write_text("GENE0\nGENE1\n")
    with pytest.raises(ValueError, match="its first line, 'GENE0', is a perturbation"):
        read_asked(tmp_path / "list.txt.csv", ["a"], "crispri", set(GENES))
    with pytest.raises(ValueError, match="row 2: 'zap' is no kind"):
        read_asked(pd.DataFrame({"condition": ["GENE0", "GENE1"], "kind": ["KO", "zap"]}), ["a"], "crispri", set(GENES))


def test_kinds_and_doses_are_those_of_training(model, screen_file):
    about = model.predict_responses(screen_file, ["GENE0"], kind="crispra", **READING).uns["bmfm_perturbation"]
    assert about["kinds_not_trained"] == ["crispra"]
    assert not model.predict_responses(screen_file, ["GENE0"], **READING).uns["bmfm_perturbation"]["kinds_not_trained"]
    with pytest.raises(ValueError, match="trained without doses"):
        model.predict_responses(screen_file, ["GENE0@1uM"], **READING)


def test_what_was_never_perturbed_is_named(model, screen_file):
    about = model.predict_responses(screen_file, ["GENE0", "GENE25"], **READING).uns["bmfm_perturbation"]
    assert about["not_perturbed_in_training"] == ["GENE25"]


@pytest.mark.parametrize(
    ("asked", "options", "message"),
    [
        (["GENE0", "XYZ1"], {}, "no gene 'XYZ1'"),
        (["control"], {}, "controls alone"),
        (["GENE0"], {"condition": "perturbation"}, "no .obs column 'perturbation'"),
        (["GENE0"], {"context": "line"}, "no .obs column 'line'"),
        (["GENE0"], {"control": ["nothing"]}, "no control cell by"),
        (["GENE0"], {"kind": "magic"}, "'magic' is no kind"),
        (pd.DataFrame({"condition": ["GENE0"], "context": ["c"]}), {}, "no context 'c'"),
        (["GENE0"], {"rows": "all"}, "rows='all' is unknown"),
        (["GENE0"], {"rows": "profiles", "unit": "counts"}, "means have no counts"),
    ],
)
def test_mistakes_are_named(model, screen_file, asked, options, message):
    with pytest.raises((KeyError, ValueError), match=message):
        model.predict_responses(screen_file, asked, **READING | options)


def test_a_model_without_the_head_says_how_to_get_one(screen_file):
    with pytest.raises(ValueError, match="recipe=rna_perturbation"):
        bmfm.load("bmfm-rna-mini").predict_responses(screen_file, ["GENE0"])


def test_control_cells_without_a_context_are_named(model, screen_cells):
    cells = screen_cells.copy()
    cells.obs["cell_type"] = cells.obs["cell_type"].astype(object)
    cells.obs.loc["cell3", "cell_type"] = None
    with pytest.raises(ValueError, match=r"obs\['cell_type'\] \(context\): 1 cells have no context \(first: 'cell3'\)"):
        model.predict_responses(cells, ["GENE0"], **READING)


def test_rows_are_kept_and_shared(model, screen_file, tmp_path, monkeypatch, unit="counts"):
    asked = screen_file, GENES[:3]
    alone = model.predict_responses(*asked, unit=unit, **READING)
    monkeypatch.setattr(responses, "PART", 100)  # of 80 cells each, so that a perturbation is a part
    assert model.predict_responses(*asked, unit=unit, ledger=Ledger(tmp_path, is_worker=True), **READING) is None
    assert Ledger(tmp_path).n_finished() == 6
    monkeypatch.setattr(responses, "changes", lambda *_: pytest.fail("computed again"))
    shared = model.predict_responses(*asked, unit=unit, ledger=Ledger(tmp_path), **READING)
    np.testing.assert_allclose(shared.X.toarray(), alone.X.toarray(), atol=1e-4)
    assert shared.obs.equals(alone.obs)
