"""Genes edited in silico, of toys that are known by hand and of a model that was taught planted markers."""

import numpy as np
import pytest
from scipy.stats import ranksums

from bmfm.interpret import edit_run
from bmfm.interpret.edits import Edit, edit_tokens
from bmfm.interpret.in_silico import rank_sum
from bmfm.ledger import Ledger
from bmfm.tokenizers.base import Profiles, Tokens
from tests.interpret.conftest import MARKERS, TOY_GENES, Shared, Sum, gene_weights, toy_model


@pytest.mark.parametrize(("kind", "change"), [("delete", lambda v: -v), ("set=5", lambda v: 5 - v), ("scale=3", lambda v: 2 * v)])
def test_a_linear_model_moves_by_its_weights(toy_cells, kind, change):
    model = toy_model(Sum)
    table = model.perturb_in_silico(toy_cells, "all", kind, readout="head:score", min_cells=1, batch_size=16).set_index("gene")
    weights, values = 2 * gene_weights(model, "score", 0), toy_cells.X[:, :-1]
    for i, gene in enumerate(TOY_GENES):
        edited = values[:, i] if kind == "set=5" else values[values[:, i] > 0, i]
        assert table.loc[gene, "n_cells"] == len(edited)
        assert table.loc[gene, "value"] == pytest.approx(weights[i] * change(edited).mean(), rel=1e-3, abs=1e-4)
        assert table.loc[gene, "value_sd"] == pytest.approx(abs(weights[i]) * change(edited).std(ddof=1), rel=1e-3, abs=1e-4)


def test_genes_that_are_edited_together(toy_cells):
    model = toy_model(Sum)
    table = model.perturb_in_silico(toy_cells, ["GENE0+GENE3"], "set=2", readout="head:score")
    weights, values = 2 * gene_weights(model, "score", 0), toy_cells.X
    expected = weights[0] * (2 - values[:, 0]) + weights[3] * (2 - values[:, 3])
    assert table["value"][0] == pytest.approx(expected.mean(), rel=1e-3)
    assert np.isnan(table["p"][0])


def test_a_decoder_names_what_moves(toy_cells):
    model = toy_model(Sum)
    table, profiles = model.perturb_in_silico(toy_cells, ["GENE2"], "scale=2", readout="decoder:wced", profiles=True)
    assert list(profiles) == TOY_GENES
    genes = [2 * model.tokenizer.names.index(gene) for gene in TOY_GENES]
    shown = toy_cells.X[toy_cells.X[:, 2] > 0, 2].mean()
    expected = [gene_weights(model, "wced", gene)[2] * shown for gene in genes]
    np.testing.assert_allclose(profiles.loc["GENE2", TOY_GENES], expected, rtol=1e-3, atol=1e-4)
    most = profiles.loc["GENE2"].abs().idxmax()
    assert table["downstream"][0].startswith(f"{most} {profiles.loc['GENE2', most]:+.3g}, ")
    nowhere = toy_cells.copy()
    nowhere.X[:, 2] = 0
    assert model.perturb_in_silico(nowhere, ["GENE2"], readout="decoder:wced")[["n_cells", "downstream"]].to_numpy().tolist() == [[0, ""]]


def test_deleting_a_gene_that_no_cell_expresses_changes_nothing(planted_model, planted_cells):
    cells = planted_cells.copy()
    cells.X[:, 20] = 0
    table = planted_model.perturb_in_silico(cells, ["GENE20"], max_cells=20)
    assert table.loc[0, ["n_cells", "cosine_shift", "distance"]].tolist() == [0, 0, 0]


def test_planted_markers_move_the_class(planted_model, planted_cells):
    cells = planted_cells[planted_cells.obs["cell_type"] == "a"].copy()
    every = planted_model.perturb_in_silico(cells, "all", "scale=0.2", readout="head:cell_type:a", n_matched=10)
    assert len(set(every["gene"][every["log_odds"].argsort()[:5]]) & set(MARKERS["a"])) >= 4
    some = planted_model.perturb_in_silico(cells, ["GENE1", "GENE30"], "scale=0.2", readout="head:cell_type:a", n_matched=10).set_index(
        "gene"
    )
    assert some.attrs["n_genes_compared"] > 10
    np.testing.assert_allclose(some["log_odds"], every.set_index("gene").loc[some.index, "log_odds"], rtol=1e-5)


def test_the_way_to_a_goal_is_that_of_the_embeddings(toy_cells):
    model, cells = toy_model(Sum), toy_cells[[*range(9), 8]].copy()
    cells.obs_names_make_unique()
    cells.obs["state"] = ["from"] * 4 + ["to"] * 6
    cells.X[9, :-1] = 0  # a cell that shows no gene of the model is of neither state
    goal = {"column": "state", "start": "from", "end": "to"}
    table = model.perturb_in_silico(cells, TOY_GENES, readout="embedding", goal=goal).set_index("gene")
    first, end = model.tokenizer.plain_ids
    vectors, values = model.model.embedding_table()[first:end].detach().double().numpy(), cells.X[:, :-1]
    embeddings = values @ vectors
    line = embeddings[4:9].mean(0) - embeddings[:4].mean(0)
    for i, gene in enumerate(TOY_GENES):
        shown = values[:4, i][values[:4, i] > 0]
        expected = (-shown[:, None] * vectors[i]) @ line / (line @ line) if len(shown) else np.zeros(1)
        assert table.loc[gene, "goal_shift"] == pytest.approx(expected.mean(), rel=1e-3, abs=1e-5)
        assert table.loc[gene, "n_cells"] == len(shown)


@pytest.mark.parametrize(("kind", "change"), [("delete", lambda v: -v), ("set=5", lambda v: 5 - v)])
def test_what_becomes_of_all_other_genes(toy_cells, kind, change):
    """Where tokens keep their embeddings it is nothing; where all see the sum of all, it moves by what the edited gene's embedding does."""
    for backbone, size in ((Sum, 0.0), (Shared, 1.0)):
        model = toy_model(backbone)
        model.model.config.pooling = "mean"
        table = model.perturb_in_silico(toy_cells, TOY_GENES, kind, batch_size=4).set_index("gene")
        first, end = model.tokenizer.plain_ids
        vectors, values = model.model.embedding_table()[first:end].detach().numpy(), toy_cells.X[:, :-1]
        for i, gene in enumerate(TOY_GENES):
            edited = values[:, i] if kind == "set=5" else values[values[:, i] > 0, i]
            expected = size * np.abs(change(edited)).mean() * np.linalg.norm(vectors[i])
            assert table.loc[gene, "distance_others"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
            assert table.loc[gene, "distance"] > 0
    assert (table["cosine_shift_others"] > 0).all()


def test_edits_read_off_a_decoder_go_on_where_they_were(toy_cells, tmp_path, monkeypatch):
    model, of_edits, calls = toy_model(Sum), edit_run.EditRun.of_edits, []
    options = {"readout": "decoder:wced", "min_cells": 1, "profiles": True}
    whole, of_whole = model.perturb_in_silico(toy_cells, "all", "scale=2", **options)

    def interrupted(self, edits):
        calls.append(len(edits))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return of_edits(self, edits)

    monkeypatch.setattr(edit_run, "EDITS", 5)
    monkeypatch.setattr(edit_run.EditRun, "of_edits", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.perturb_in_silico(toy_cells, "all", "scale=2", ledger=Ledger(tmp_path), **options)
    table, profiles = model.perturb_in_silico(toy_cells, "all", "scale=2", ledger=Ledger(tmp_path), **options)
    assert calls == [5, 5, 2, 2]
    np.testing.assert_allclose(profiles.loc[of_whole.index], of_whole, rtol=1e-5)
    assert table.set_index("gene").loc[whole["gene"], "downstream"].tolist() == whole["downstream"].tolist()


def test_shifts_are_tested_against_genes_of_like_expression():
    rng = np.random.default_rng(0)
    edit, expression = np.repeat(np.arange(40), 12), rng.permutation(40).astype(float)
    shift = rng.normal(size=len(edit)) + 5 * expression[edit] + 2 * (edit == 7)
    p = rank_sum(edit, shift, np.arange(40), expression, 0)
    order = np.argsort(expression)
    place = int(np.flatnonzero(order == 7)[0]) // 4 * 4
    others = [i for i in order[place : place + 4] if i != 7]
    assert p[7] == pytest.approx(ranksums(shift[edit == 7], shift[np.isin(edit, others)]).pvalue)


def test_edits_of_tokens():
    profile = Profiles(np.array([7, 8, 9], np.int32), np.array([1, 2, 3], np.float32), np.array([0, 1, 3]))
    tokens = Tokens(np.array([7, 8], np.int32), np.array([0, 1, 2]), {"values": np.array([1, 2], np.float32)}, shown_profile=profile)
    genes = np.array([[7, -1], [9, 8]])
    deleted = edit_tokens(tokens, genes, Edit("delete"))
    assert len(deleted.ids) == len(deleted.shown_profile.gene_ids) == 0 and deleted.offsets.tolist() == [0, 0, 0]
    settled = edit_tokens(tokens, genes, Edit("set", 4.0))
    assert settled.ids.tolist() == [7, 8, 9] and settled.offsets.tolist() == [0, 1, 3] and settled.fields["values"].tolist() == [4, 4, 4]
    assert settled.shown_profile.values.tolist() == [4, 4, 4]
    scaled = edit_tokens(tokens, genes, Edit.parse("scale=.5"))
    assert scaled.fields["values"].tolist() == [0.5, 1] and scaled.shown_profile.values.tolist() == [0.5, 1, 1.5]


@pytest.mark.parametrize("text", ["knockout", "set", "delete=3", "scale=-1", "set=inf", "set=x"])
def test_kinds_that_are_none(text):
    with pytest.raises(ValueError, match="give delete, set=VALUE or scale=FACTOR"):
        Edit.parse(text)


def test_numbers_that_are_not_finite_are_no_result(toy_cells):
    model = toy_model(Sum)
    model.model.heads.decoder("score").weight.data.fill_(float("inf"))
    for explain in (
        lambda: model.explain(toy_cells, "head:score"),
        lambda: model.perturb_in_silico(toy_cells, readout="head:score", min_cells=1),
    ):
        with pytest.raises(ValueError, match=r"are not finite \(first: '"):
            explain()
