"""Pairs of control and perturbed cells: who is paired with whom, what is left out and said, and the figures of conditions."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

from bmfm.data.perturbations import PERTURBED, PerturbationPairs, gene_weights
from bmfm.data.sources import INPUT
from bmfm.tokenizers.rna import CellTokenizer

GENES = ["KLF1", "GATA1", "TP53", "MYC", "HLA-A"]


def screen(conditions, contexts=None, batches=None, **obs) -> anndata.AnnData:
    """Cells with a count of 1 + their number in every gene."""
    n = len(conditions)
    table = {"condition": conditions, "line": contexts or ["a"] * n, "lane": batches or ["0"] * n, **obs}
    counts = np.tile(1.0 + np.arange(n, dtype=np.float32)[:, None], (1, len(GENES)))
    return anndata.AnnData(counts, pd.DataFrame(table, index=[f"c{i}" for i in range(n)]), pd.DataFrame(index=GENES))


def connected(adata, genes="from_data", **settings) -> PerturbationPairs:
    source = PerturbationPairs(adata, **{"min_cells": 1, "min_matched": 0.0} | settings)
    source.connect({INPUT: CellTokenizer(genes)})
    return source


def controls_of(source, epochs=200) -> dict[int, set[int]]:
    """{perturbed cell: control cells that it was paired with}, by their counts."""
    found: dict[int, set[int]] = {}
    for key in range(epochs):
        keys = np.arange(len(source), dtype=np.uint64) * np.uint64(7919) + np.uint64(key)
        parts = source.take(np.arange(len(source)), keys).parts
        first = [part.counts.counts[part.counts.offsets[:-1]].astype(int) - 1 for part in (parts[INPUT], parts[PERTURBED])]
        for control, cell in zip(*first, strict=True):
            found.setdefault(int(cell), set()).add(int(control))
    return found


def test_pairs_are_of_one_context_and_of_one_batch_where_it_has_controls():
    conditions = ["ctrl", "ctrl", "KLF1+ctrl", "KLF1+ctrl", "ctrl", "MYC+ctrl", "ctrl"]
    contexts, batches = ["a", "a", "a", "a", "b", "b", "a"], ["0", "1", "0", "2", "0", "1", "0"]
    adata = screen(conditions, contexts, batches)
    source = connected(adata, context="line", batch="lane")
    # cell 2 has controls 0 and 6 in its lane, cell 3 none in its lane, cell 5 none in its lane: all of their context
    assert controls_of(source) == {2: {0, 6}, 3: {0, 1, 6}, 5: {4}}
    assert source.facts()["perturbed cells whose batch has no control"].startswith("2,")
    assert controls_of(connected(adata, context="line")) == {2: {0, 1, 6}, 3: {0, 1, 6}, 5: {4}}


def test_a_pair_is_a_function_of_its_key_alone():
    source = connected(screen(["ctrl"] * 50 + ["KLF1"] * 4))
    keys = np.array([5, 9, 5, 7], np.uint64)
    all_at_once = source.take(np.arange(4), keys).parts[INPUT].counts.counts
    one = source.take(np.array([2]), keys[2:3]).parts[INPUT].counts.counts
    np.testing.assert_array_equal(all_at_once[2 * len(GENES) : 3 * len(GENES)], one)


def test_what_is_done_is_told_by_ids_and_doses():
    adata = screen(["control", "KLF1+GATA1", "KLF1", "JQ1@100nM"], what=["", "CRISPRa", "CRISPRi", "drug"])
    source = connected(adata, kind="what")
    tokenizer = source.tokenizer
    perturbations = source.take(np.arange(3), np.zeros(3, np.uint64)).parts[INPUT].perturbations
    ids = {name: tokenizer.vocabulary.ids[name] for name in ("KLF1", "GATA1")}
    by_cell = [sorted(map(tuple, row[row[:, 0] >= 0])) for row in perturbations.ids]
    assert by_cell == [sorted([(ids["KLF1"], 2), (ids["GATA1"], 2)]), [(ids["KLF1"], 1)], [(len(tokenizer), 4)]]
    assert perturbations.doses[2, 0] == pytest.approx(-1.0)  # 0.1 uM
    assert tokenizer.drugs == ["JQ1"] and tokenizer.fields["perturbation"] == {"size": len(tokenizer), "n_drugs": 1}


def test_targets_that_are_not_measured_are_in_the_vocabulary_of_the_data():
    source = connected(screen(["ctrl", "RUNX1", "RUNX1"]))
    number = source.tokenizer.vocabulary.ids["RUNX1"]
    assert not source.cells.gene_panel_mask[0, number]


@pytest.mark.parametrize(
    ("adata", "settings", "message"),
    [
        (screen(["KLF1", "MYC"]), {}, "no control cell in context 'all'"),
        (screen(["ctrl", "KLF1", "KLF1"], ["a", "b", "b"]), {"context": "line"}, "no control cell in context 'b'"),
        (screen(["ctrl", "KLF1"]), {"min_cells": 2}, "no condition has 2 cells"),
        (screen(["ctrl", "ctrl"]), {}, "every cell is a control"),
        (screen(["ctrl", "KLF1"]), {"condition": "guide"}, "no .obs column 'guide'"),
        (screen(["ctrl", "KLF1"]), {"keep": {"line": "z"}}, "no cell has 'z'"),
        (screen(["ctrl", "KLF1"]), {"kind": "magic"}, "'magic' is no kind"),
        (screen(["ctrl", "XYZ9"]), {"genes": "protein_coding"}, "no gene 'XYZ9'.*tokenizer.genes=all_genes"),
        (screen(["ctrl", "KLF1+KLF1"]), {}, "KLF1"),
        (screen(["ctrl", "KLF1"], ["a", np.nan]), {"context": "line"}, r"obs\['line'\].*1 cells have no context \(first: 'c1'"),
        (screen(["ctrl", "A@1uM", "A@1ug/ml"]), {"kind": "drug"}, "cannot be compared"),
    ],
)
def test_mistakes_name_the_column_and_a_remedy(adata, settings, message):
    with pytest.raises((KeyError, ValueError), match=message):
        connected(adata, **settings)


def test_what_is_left_out_is_counted():
    adata = screen(["ctrl", "ctrl", "KLF1", "KLF1", "MYC", "TP53", "TP53"], batches=list("0000001"))
    adata.X[1] = 0
    source = connected(adata, min_cells=2, keep={"lane": "0"})
    facts = source.facts()
    assert list(source.groups["condition"]) == ["KLF1"]
    assert source.left_out == {
        "cells without any count": 1,
        "cells without what data.source.keep names": 1,
        "conditions of fewer than 2 cells (data.source.min_cells)": 2,
    }
    assert facts["left out: conditions of fewer than 2 cells (data.source.min_cells)"] == "2 (MYC in all, TP53 in all)"


def test_genes_that_the_vocabulary_lacks_can_be_left_out():
    source = connected(screen(["ctrl", "KLF1", "XYZ9", "XYZ9+MYC"]), "protein_coding", unknown="leave_out")
    assert list(source.groups["condition"]) == ["KLF1"]
    assert source.left_out == {"conditions with genes that the vocabulary lacks (data.source.unknown)": 2}


def test_targets_that_are_not_measured_are_named():
    facts = connected(screen(["ctrl", "KLF1", "NegCtrl0", "intergenic"])).facts()
    assert facts["targets that are not among the measured genes"] == "2 of 3: NegCtrl0, intergenic"


def test_cells_without_a_batch_are_paired_within_their_context():
    adata = screen(["ctrl", "ctrl", "KLF1", "KLF1"])
    adata.obs["lane"] = ["0", None, "0", None]
    assert controls_of(connected(adata, batch="lane")) == {2: {0}, 3: {0, 1}}


def test_values_that_are_no_logarithms_are_refused():
    source = PerturbationPairs(screen(["ctrl", "KLF1"]), min_cells=1)
    with pytest.raises(ValueError, match=r"tokenizer\.values\.kind=log1p"):
        source.connect({INPUT: CellTokenizer("from_data", values={"kind": "log1p"})})


def test_weights_are_those_of_scanpy_t_scores():
    rng = np.random.default_rng(0)
    values = rng.gamma(2.0, 1.0, (60, 12))
    values[:20, 3] += 3
    condition = np.repeat(["KLF1", "MYC", "TP53"], 20)
    adata = anndata.AnnData(np.log1p(values), pd.DataFrame({"condition": condition}))
    sc.tl.rank_genes_groups(adata, "condition", method="t-test_overestim_var", reference="rest")
    found = adata.uns["rank_genes_groups"]
    stacked = [np.log1p(values)[condition == name] for name in ("KLF1", "MYC", "TP53")]
    weights = gene_weights(np.stack([x.sum(0) for x in stacked]), np.stack([(x**2).sum(0) for x in stacked]), np.full(3, 20))
    for row, name in enumerate(("KLF1", "MYC", "TP53")):
        scores = pd.Series(np.abs(found["scores"][name]), index=found["names"][name].astype(int)).sort_index().to_numpy()
        scaled = ((scores - scores.min()) / (scores.max() - scores.min())) ** 2
        np.testing.assert_allclose(weights[row], scaled / scaled.mean(), rtol=1e-4, atol=1e-5)


def test_the_mean_change_counts_each_condition_once_and_each_target():
    """By hand: values of normalised data are taken as they are."""
    values = np.array([[1, 2], [3, 2], [5, 2], [7, 2], [9, 2], [4, 8]], np.float32)  # 2 controls, 3 cells of KLF1, 1 of KLF1+MYC
    obs = pd.DataFrame({"condition": ["ctrl", "ctrl", "KLF1", "KLF1", "KLF1", "KLF1+MYC"]}, index=list("abcdef"))
    adata = anndata.AnnData(values + 0.5, obs, pd.DataFrame(index=["KLF1", "MYC"]))
    source = PerturbationPairs(adata, min_cells=1, expects="normalised")
    source.connect({INPUT: CellTokenizer("from_data")})
    first, end = source.tokenizer.plain_ids
    # KLF1 changes by (5, 0), KLF1+MYC by (2, 6), for two targets (1, 3): their mean
    np.testing.assert_allclose(source.statistics(np.arange(4))["response_mean"][first:end], [3, 1.5], atol=1e-6)
    np.testing.assert_allclose(source.control_profiles[0, first:end], [2.5, 2.5])
