"""Cells that never were: the counts of a cell at other genes, so that a model learns to keep what it is shown, whatever the tissue.

A model of a few tissues learns how their genes go together, and reads every cell as one of theirs: what tells two cells of another tissue
apart is lost. Where some training cells have their genes permuted, afresh each time, no gene says anything of another in them, and the one
way to predict hidden molecules is to keep which genes were shown with which counts; genes that no training cell expresses are learned too.
It is domain randomisation (Tobin et al., IROS 2017) by genes. What `rna_mini` gains by it is in docs/results.md.
"""

from dataclasses import replace

import numba
import numpy as np

from bmfm.cells.counts import CellBatch, Counts
from bmfm.hashing import mix, uniform

CHOICE, STEP, SHIFT = 0x5045524D0, 0x5045524D1, 0x5045524D2
"""What a permutation is drawn by, beside the cell's key: numbers that nothing else is drawn by."""


def permute_genes(cells: CellBatch, keys: np.ndarray, probability: float) -> tuple[CellBatch, int]:
    """Some cells with their counts at other genes.

    Each permutation is drawn by the cell's key among those of gene i, of the n that the cell's source measures, to gene a i + b modulo n,
    with a and n coprime. A cell keeps its counts, and its genes are ones that its source measures.

    Parameters
    ----------
    cells
        n cells; they are not changed.
    keys
        [n] uint64, the only source of randomness.
    probability
        Of a permutation.

    Returns
    -------
    cells, n_permuted
        The cells, with the order of entries of each as it was, and how many were permuted.
    """
    panels, counts = list(cells.gene_panels), cells.counts
    ends = np.cumsum([0, *map(len, panels)])
    ids = counts.ids.copy()
    n_permuted = _permute(ids, counts.offsets, keys, probability, cells.source_ids, np.concatenate(panels), ends)
    return replace(cells, counts=Counts(ids, counts.counts, counts.offsets)), n_permuted


@numba.njit(cache=True)
def _permute(ids, offsets, keys, probability, source_ids, panels, ends):
    """Genes of the chosen cells, in place; returns how many cells are chosen."""
    n_permuted = 0
    place, of_source = np.zeros(panels.max() + 1, np.int64), -1  # of each gene, among those of a source
    for cell in range(len(offsets) - 1):
        panel = panels[ends[source_ids[cell]] : ends[source_ids[cell] + 1]]
        n = len(panel)
        if n < 3 or uniform(keys[cell], CHOICE) >= probability:
            continue
        n_permuted += 1
        if of_source != source_ids[cell]:
            place[panel], of_source = np.arange(n), source_ids[cell]
        step = np.int64(1 + mix(keys[cell], STEP) % np.uint64(n - 1))
        while np.gcd(step, n) != 1:
            step = step % (n - 1) + 1
        shift = np.int64(mix(keys[cell], SHIFT) % np.uint64(n))
        for i in range(offsets[cell], offsets[cell + 1]):
            ids[i] = panel[(step * place[ids[i]] + shift) % n]
    return n_permuted
