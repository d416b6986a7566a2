"""Which genes of cells may become tokens, and how they are written: the records and kernels that orders and zeros share."""

from typing import NamedTuple

import numba
import numpy as np

from bmfm.hashing import mix, uniform


class Candidates(NamedTuple):
    """Expressed genes of cells that may be shown; `cell_order` puts those that are shown first.

    Attributes
    ----------
    ids
        Genes of the cells, ``int32`` [nnz].
    counts
        What is left of their counts, ``float32`` [nnz], or of these over the medians of their genes (`GeneOrder.is_relative`); 0 where a
        shallower run would have missed a gene.
    offsets
        [B + 1].
    entries
        ``int32`` [nnz]: the candidates of cell b are ``ids[offsets[b] + entries[offsets[b] : offsets[b] + n[b]]]``.
    n
        Number of candidates of each cell [B].
    keys
        ``uint64`` [B].
    """

    ids: np.ndarray
    counts: np.ndarray
    offsets: np.ndarray
    entries: np.ndarray
    n: np.ndarray
    keys: np.ndarray


class Plan(NamedTuple):
    """How many tokens each cell gets.

    Attributes
    ----------
    n_genes
        Of its candidates [B].
    n_zeros
        Of genes that it does not express [B].
    is_sample
        Whether the candidates must be a random choice, whatever the order: part of a choice from all genes.
    """

    n_genes: np.ndarray
    n_zeros: np.ndarray
    is_sample: bool = False


class Written(NamedTuple):
    """Tokens as they are written: those of cell b from ``offsets[b]``, expressed genes and then zeros.

    Attributes
    ----------
    ids, values, targets
        [T]; `targets`, the values before read depth was lowered, are empty where it is not.
    offsets
        [B + 1].
    n_zeros
        [B].
    keys
        ``uint64`` [B].
    """

    ids: np.ndarray
    values: np.ndarray
    targets: np.ndarray
    offsets: np.ndarray
    n_zeros: np.ndarray
    keys: np.ndarray


@numba.njit(cache=True)
def find_candidates(ids, counts, offsets, keys, dropout):
    """Genes with a count, each left out with the probability `dropout`; a record with the fields of `Candidates`."""
    entries, n = np.empty(len(ids), np.int32), np.zeros(len(keys), np.int64)
    for b in range(len(keys)):
        begin, end, m, key = offsets[b], offsets[b + 1], 0, mix(keys[b], 43)
        for i in range(begin, end):
            m += counts[i] > 0
        if m == end - begin and dropout <= 0.0:  # as most cells are: all genes, without a place that depends on the one before
            for i in range(m):
                entries[begin + i] = i
        else:
            m = 0
            for i in range(begin, end):
                entries[begin + m] = i - begin  # written over by the next one if it is none: a branch would be mispredicted
                m += (counts[i] > 0) & (dropout <= 0.0 or uniform(key, ids[i]) >= dropout)
        n[b] = m
    return Candidates(ids, counts, offsets, entries, n, keys)


def candidate_values(candidates: Candidates, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids and values of all candidates, and offsets [B + 1], from the values [nnz]: the same arrays where every gene is one."""
    if candidates.n.sum() == len(candidates.ids):
        return candidates.ids, values, candidates.offsets
    return _gather_candidates(candidates, values)


@numba.njit(cache=True)
def _gather_candidates(candidates, values):
    total, at = candidates.n.sum(), 0
    ids, out, offsets = np.empty(total, np.int32), np.empty(total, np.float32), np.zeros(len(candidates.offsets), np.int64)
    for b in range(len(candidates.n)):
        begin = candidates.offsets[b]
        for i in range(candidates.n[b]):
            entry = begin + candidates.entries[begin + i]
            ids[at], out[at] = candidates.ids[entry], values[entry]
            at += 1
        offsets[b + 1] = at
    return ids, out, offsets


@numba.njit(cache=True)
def write_genes(candidates, plan, values, full_values, offsets, out_ids, out_values, out_targets):
    """Write the first ``plan.n_genes`` [B] candidates of each cell to its place in `offsets` [B + 1], and 0 behind them.

    Parameters
    ----------
    values, full_values
        [nnz]; `full_values` are written where `out_targets` is not empty.
    """
    for b in range(len(plan.n_genes)):
        begin, at, n = candidates.offsets[b], offsets[b], plan.n_genes[b]
        for i in range(n):
            entry = begin + candidates.entries[begin + i]
            out_ids[at + i] = candidates.ids[entry]
            out_values[at + i] = values[entry]
        out_values[at + n : offsets[b + 1]] = 0.0
        if len(out_targets):
            for i in range(n):
                out_targets[at + i] = full_values[begin + candidates.entries[begin + i]]
            out_targets[at + n : offsets[b + 1]] = 0.0
