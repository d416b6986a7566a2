"""Cells that never were: the counts of a cell at other genes, so that a model learns to keep what it is shown, whatever the tissue.

A model of a few tissues learns how their genes go together, and reads every cell as one of theirs: what tells two cells of another tissue
apart is lost. Where some training cells have their genes permuted, afresh each time, a gene says hardly anything of another in them, and the
way to predict hidden molecules is to keep which genes were shown with which counts; genes that no training cell expresses are learned too.
It is domain randomisation (Tobin et al., IROS 2017) by genes. What `rna_mini` gains by it, and what that costs, is in docs/results.md.
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

    Each permutation is drawn by the cell's key from those of gene i, of the n that the cell's source measures, to gene a i + b modulo n,
    with a and n coprime. A cell keeps its counts, and its genes are ones that its source measures. Two genes come to any two others, but for
    divisors of n that their distance in the vocabulary has: these it keeps.

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

    Raises
    ------
    ValueError
        If a cell has a count in a gene that its source does not measure.
    """
    counts, ids = cells.counts, cells.counts.ids.copy()
    present, sources = np.unique(cells.source_ids, return_inverse=True)
    panels = [cells.gene_panels[source] for source in present]
    ends = np.cumsum([0, *map(len, panels)])
    n_permuted = _permute(ids, counts.offsets, keys, probability, sources, np.concatenate([np.empty(0, np.int32), *panels]), ends)
    if n_permuted < 0:
        raise ValueError(f"cell {-n_permuted} of {len(cells)} has counts in a gene that its source does not measure (gene_panels)")
    return replace(cells, counts=Counts(ids, counts.counts, counts.offsets)), n_permuted


@numba.njit(cache=True)
def _permute(ids, offsets, keys, probability, source_ids, panels, ends):
    """Genes of the chosen cells, in place; returns how many cells are chosen, or -number of one with a gene that is not in its panel."""
    n_permuted = 0
    n_genes = 1 + max(panels.max() if len(panels) else 0, ids.max() if len(ids) else 0)
    place, of_source = np.empty(n_genes, np.int64), -1  # of each gene, among those of a source
    for cell in range(len(offsets) - 1):
        panel = panels[ends[source_ids[cell]] : ends[source_ids[cell] + 1]]
        n = len(panel)
        if n < 2 or uniform(keys[cell], CHOICE) >= probability:
            continue
        n_permuted += 1
        if of_source != source_ids[cell]:
            place[:], of_source = -1, source_ids[cell]
            place[panel] = np.arange(n)
        step = np.int64(1 + mix(keys[cell], STEP) % np.uint64(n - 1))
        while np.gcd(step, n) != 1:
            step = step % (n - 1) + 1
        shift = np.int64(mix(keys[cell], SHIFT) % np.uint64(n))
        for i in range(offsets[cell], offsets[cell + 1]):
            if place[ids[i]] < 0:
                return -(cell + 1)
            ids[i] = panel[(step * place[ids[i]] + shift) % n]
    return n_permuted
