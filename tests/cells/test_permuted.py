"""Cells with permuted genes: what stays, what is drawn by what, and what training makes of them."""

import anndata
import numpy as np
import pytest
import scipy.sparse as sp

from bmfm.cells.counts import CellBatch, Counts
from bmfm.cells.permuted import permute_genes
from bmfm.data.rna import RnaDataModule
from bmfm.files import ASSETS
from bmfm.tokenizers.rna import CellTokenizer


def cells(n, panels, rng):
    """Cells that express some of what their source measures, and the first of each source all of it."""
    sources = np.arange(n) % len(panels)
    ids = [rng.permutation(panels[s])[: None if i < len(panels) else rng.integers(1, len(panels[s]))] for i, s in enumerate(sources)]
    offsets = np.cumsum([0, *map(len, ids)])
    return CellBatch(
        Counts(np.concatenate(ids).astype(np.int32), rng.integers(1, 9, offsets[-1]).astype(np.float32), offsets), sources, panels
    )


def genes(batch, i):
    return batch.counts.ids[batch.counts.offsets[i] : batch.counts.offsets[i + 1]]


def test_counts_stay_and_genes_are_others_that_the_source_measures():
    rng = np.random.default_rng(0)
    panels = [np.sort(rng.permutation(100)[:n]).astype(np.int32) for n in (40, 12, 97)]
    batch, keys = cells(60, panels, rng), rng.integers(0, 2**63, 60).astype(np.uint64)
    before = batch.counts.ids.copy()
    permuted, n = permute_genes(batch, keys, 1)
    assert n == 60 and np.array_equal(batch.counts.ids, before)
    assert np.array_equal(permuted.counts.counts, batch.counts.counts) and np.array_equal(permuted.counts.offsets, batch.counts.offsets)
    for i in range(60):
        measured, shown = panels[i % 3], genes(permuted, i)
        assert len(set(shown)) == len(shown) and set(shown) <= set(measured)
        if i < 3:
            assert set(shown) == set(measured) and not np.array_equal(shown, genes(batch, i))
    half, n = permute_genes(batch, keys, 0.5)
    changed = [i for i in range(60) if not np.array_equal(genes(half, i), genes(batch, i))]
    assert len(changed) <= n and 15 < n < 45
    assert all(np.array_equal(genes(half, i), genes(permuted, i)) for i in changed)
    backwards = CellBatch(
        Counts(np.concatenate([genes(batch, 5), genes(batch, 4)]), np.ones(len(genes(batch, 4)) + len(genes(batch, 5)), np.float32),
               np.cumsum([0, len(genes(batch, 5)), len(genes(batch, 4))])), batch.source_ids[[5, 4]], panels,
    )  # fmt: skip
    again, _ = permute_genes(backwards, keys[[5, 4]], 1)
    assert np.array_equal(genes(again, 0), genes(permuted, 5)) and np.array_equal(genes(again, 1), genes(permuted, 4))


def test_every_gene_comes_to_every_place_equally_often():
    n, panel = 21_000, np.arange(3, 10, dtype=np.int32)
    batch = CellBatch(Counts(np.tile(panel, n), np.ones(7 * n, np.float32), np.arange(n + 1) * 7), np.zeros(n, np.int64), [panel])
    permuted, _ = permute_genes(batch, np.arange(n, dtype=np.uint64), 1)
    ids = permuted.counts.ids.reshape(n, 7) - 3
    for gene in range(7):  # 3,000 each, with a standard deviation of 51
        assert np.abs(np.bincount(ids[:, gene], minlength=7) - 3000).max() < 230
    steps = np.bincount((ids[:, 1] - ids[:, 0]) % 7, minlength=7)
    assert steps[0] == 0 and np.abs(steps[1:] - 3500).max() < 250


def test_small_panels_and_genes_beyond_them():
    keys = np.arange(40, dtype=np.uint64)

    def of(panel, ids):
        n = len(ids)
        batch = CellBatch(Counts(np.tile(np.array(ids, np.int32), 40), np.ones(40 * n, np.float32), np.arange(41) * n), np.zeros(40, np.int64), [np.array(panel, np.int32)])  # fmt: skip
        permuted, n_permuted = permute_genes(batch, keys, 1)
        return permuted.counts.ids.reshape(40, n), n_permuted

    two, n_permuted = of([4, 8], [4, 8])
    assert n_permuted == 40 and {tuple(ids) for ids in two.tolist()} == {(4, 8), (8, 4)}
    assert of([5], [5]) == (pytest.approx(np.full((40, 1), 5)), 0) and of([], [])[1] == 0
    for beyond in (3, 9, 9000):
        with pytest.raises(ValueError, match="cell 1 of 40 has counts in a gene that its source does not measure"):
            of([4, 6, 8], [4, beyond])
    every, _ = of(range(12), range(12))  # 12 is no prime
    assert all(len(set(ids)) == 12 for ids in every.tolist())


@pytest.fixture(scope="module")
def adata():
    adata = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:60].copy()
    adata.X = sp.csr_matrix(adata.X).astype(np.float32)
    return adata


def module(adata, **settings):
    data = RnaDataModule(adata, {"by": "random", "validation": 0.2, "test": 0.2}, 64, 12, statistics_cells=36, **settings)
    data.connect(CellTokenizer())
    data.need({"full_profile"})
    return data


def test_only_training_cells_are_permuted_and_statistics_are_of_real_ones(adata):
    plain, permuted = module(adata), module(adata, permute_genes=0.5)
    for name in ("gene_counts", "gene_molecules"):
        assert np.array_equal(plain.statistics[name], permuted.statistics[name])
    places = [(0, i) for i in range(12)]
    for part in ("validation", "test"):
        a, b = plain.parts[part].__getitems__(places), permuted.parts[part].__getitems__(places)
        assert np.array_equal(a["input_ids"], b["input_ids"])
    a, b = (data.parts["train"].__getitems__([(0, i) for i in range(36)]) for data in (plain, permuted))
    assert np.array_equal(a["full_profile"]["row"], b["full_profile"]["row"])
    same = [
        np.array_equal(*(x["full_profile"]["gene"][x["full_profile"]["row"] == row].sort().values for x in (a, b))) for row in range(36)
    ]
    assert 36 - sum(same) == int(b["counts"]["cells_with_permuted_genes"]) and 8 < sum(same) < 28
    assert b["gene_panel_mask"][0][b["full_profile"]["gene"]].all()


def test_labels_are_refused(adata):
    data = module(adata, permute_genes=0.5)
    with pytest.raises(ValueError, match=r"data.permute_genes=0.5 trains on cells that never were, and cell_type would learn"):
        data.add_labels("cell_type", np.zeros(60))
    with pytest.raises(ValueError, match="a probability from 0 to 1"):
        module(adata, permute_genes=1.5)
