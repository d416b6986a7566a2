"""Cells as rows of (gene id, count) pairs, and the kernels that make them from a file's matrix."""

from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np

from bmfm.cells.perturbations import Perturbations
from bmfm.hashing import mix


@dataclass
class Counts:
    """Counts of some cells: cell b is ``ids[offsets[b]:offsets[b + 1]]`` with ``counts`` alike.

    Attributes
    ----------
    ids
        Vocabulary ids, ``int32`` [nnz], each once a cell; in the file's order, or ascending (`by_gene`).
    counts
        ``float32`` [nnz], none of them 0.
    offsets
        ``int64`` [B + 1].
    """

    ids: np.ndarray
    counts: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def totals(self) -> np.ndarray:
        """Sum of each cell over the genes of the vocabulary, ``float64`` [B]."""
        return np.add.reduceat(np.append(self.counts, 0).astype(np.float64), self.offsets[:-1]) * (np.diff(self.offsets) > 0)


@dataclass
class CellBatch:
    """Cells as a tokenizer takes them: their counts, and which genes could have been counted.

    Attributes
    ----------
    counts
        Of n cells.
    source_ids
        [n] int64, number of the source (a file, say) of each cell.
    gene_panels
        For each source the vocabulary ids of the genes that it measures, ``int32``, ascending.
    perturbations
        What is done to each cell, where a model is asked what becomes of it; None where nothing is.
    """

    counts: Counts
    source_ids: np.ndarray
    gene_panels: Sequence[np.ndarray]
    perturbations: Perturbations | None = None

    def __len__(self) -> int:
        return len(self.counts)


NEGATIVE, NOT_A_NUMBER, INFINITE, FRACTION = 1, 2, 3, 4
FAULTS = {NEGATIVE: "is negative", NOT_A_NUMBER: "is not a number", INFINITE: "is infinite", FRACTION: "is not a whole number"}


@numba.njit(cache=True)
def first_fault(data, whole):
    """Place and kind of the first value that is no count; kind 0 if there is none."""
    for i in range(len(data)):
        x = data[i]
        if np.isnan(x):
            return i, NOT_A_NUMBER
        if np.isinf(x):
            return i, INFINITE
        if x < 0:
            return i, NEGATIVE
        if whole and x != np.floor(x):
            return i, FRACTION
    return 0, 0


@numba.njit(cache=True)
def _align(indptr, indices, data, gene_ids, vocab_size, ids, counts, offsets):
    """CSR rows of a file to vocabulary ids: unknown genes and zeros left out, entries of one id added up."""
    n = 0
    place = np.full(vocab_size, -1, np.int64)
    sums = np.empty(vocab_size, np.float64)  # so that a sum hardly depends on the order of its parts
    for row in range(len(indptr) - 1):
        begin = n
        for i in range(indptr[row], indptr[row + 1]):
            g = gene_ids[indices[i]]
            if g < 0 or data[i] == 0:
                continue
            if place[g] >= begin:
                sums[g] += data[i]
                counts[place[g]] = sums[g]
                continue
            place[g] = n
            sums[g] = data[i]
            ids[n] = g
            counts[n] = data[i]
            n += 1
        offsets[row + 1] = n
    return n


def align(
    indptr: np.ndarray, indices: np.ndarray, data: np.ndarray, gene_ids: np.ndarray, vocab_size: int, dtype: type = np.float32
) -> Counts:
    """Rows of a CSR matrix in the genes of a vocabulary.

    Parameters
    ----------
    indptr, indices, data
        As scipy has them; a row may hold several entries of one column, which are added as scipy adds them.
    gene_ids
        Vocabulary id of each column, -1 for none; several columns may share one, their counts are added.
    dtype
        Of the counts.
    """
    ids = np.empty(len(indices), np.int32)
    counts: np.ndarray = np.empty(len(indices), dtype)
    offsets = np.zeros(len(indptr), np.int64)
    n = _align(indptr, indices, data, gene_ids, vocab_size, ids, counts, offsets)
    return Counts(ids[:n].copy() if n < 0.7 * len(ids) else ids[:n], counts[:n].copy() if n < 0.7 * len(ids) else counts[:n], offsets)


@numba.njit(cache=True)
def _is_ascending(ids, offsets):
    for b in range(len(offsets) - 1):
        for i in range(offsets[b] + 1, offsets[b + 1]):
            if ids[i] < ids[i - 1]:
                return False
    return True


@numba.njit(cache=True)
def _by_gene(ids, counts, offsets, vocab_size, out_ids, out_counts):
    """Two counting sorts: all entries by gene, then, in that order, back to their cells."""
    begins = np.zeros(vocab_size + 1, np.int64)
    for i in range(len(ids)):
        begins[ids[i] + 1] += 1
    for g in range(vocab_size):
        begins[g + 1] += begins[g]
    entry, cell = np.empty(len(ids), np.int64), np.empty(len(ids), np.int64)
    for b in range(len(offsets) - 1):
        for i in range(offsets[b], offsets[b + 1]):
            at = begins[ids[i]]
            entry[at], cell[at] = i, b
            begins[ids[i]] += 1
    place = offsets[:-1].copy()
    for k in range(len(ids)):
        at = place[cell[k]]
        out_ids[at], out_counts[at] = ids[entry[k]], counts[entry[k]]
        place[cell[k]] += 1


def by_gene(counts: Counts, vocab_size: int) -> Counts:
    """The same cells, each with its genes by ascending id: what a file's order of genes has no part in."""
    if _is_ascending(counts.ids, counts.offsets):
        return counts
    out = Counts(np.empty_like(counts.ids), np.empty_like(counts.counts), counts.offsets)
    _by_gene(counts.ids, counts.counts, counts.offsets, vocab_size, out.ids, out.counts)
    return out


@numba.njit(cache=True)
def _content_keys(ids, bits, offsets, keys):
    for b in range(len(offsets) - 1):
        total = np.uint64(0)
        for i in range(offsets[b], offsets[b + 1]):
            total += mix(mix(np.uint64(71), ids[i]), bits[i])
        keys[b] = mix(total, 73)


def content_keys(counts: Counts) -> np.ndarray:
    """A ``uint64`` key for each cell [B] from its (gene id, count) pairs alone, whatever their order."""
    keys = np.empty(len(counts), np.uint64)
    _content_keys(counts.ids, counts.counts.view(np.uint32), counts.offsets, keys)
    return keys


@numba.njit(cache=True)
def _gather(source_ids, source_counts, source_offsets, rows, ids, counts, offsets):
    n = 0
    for b in range(len(rows)):
        begin, end = source_offsets[rows[b]], source_offsets[rows[b] + 1]
        ids[n : n + end - begin] = source_ids[begin:end]
        counts[n : n + end - begin] = source_counts[begin:end]
        n += end - begin
        offsets[b + 1] = n


def gather(source: Counts, rows: np.ndarray) -> Counts:
    """Some rows [B], in the order asked for."""
    size = int((source.offsets[rows + 1] - source.offsets[rows]).sum())
    out = Counts(np.empty(size, np.int32), np.empty(size, source.counts.dtype), np.zeros(len(rows) + 1, np.int64))
    _gather(source.ids, source.counts, source.offsets, rows, out.ids, out.counts, out.offsets)
    return out


@numba.njit(cache=True)
def _gather_into(source_ids, source_counts, source_offsets, rows, places, ids, counts, offsets):
    for b in range(len(rows)):
        begin, size, at = source_offsets[rows[b]], source_offsets[rows[b] + 1] - source_offsets[rows[b]], offsets[places[b]]
        ids[at : at + size] = source_ids[begin : begin + size]
        counts[at : at + size] = source_counts[begin : begin + size]


def gather_from(sources: Sequence[Counts], rows: Sequence[np.ndarray], places: Sequence[np.ndarray]) -> Counts:
    """Some rows of several sources, copied once.

    Parameters
    ----------
    rows, places
        Of each source, some of its rows, and at which places they come; all places together are 0, 1, 2, ...
    """
    lengths = np.zeros(sum(map(len, rows)), np.int64)
    for source, mine, at in zip(sources, rows, places, strict=True):
        lengths[at] = source.offsets[mine + 1] - source.offsets[mine]
    offsets = np.zeros(len(lengths) + 1, np.int64)
    lengths.cumsum(out=offsets[1:])
    out = Counts(np.empty(offsets[-1], np.int32), np.empty(offsets[-1], sources[0].counts.dtype), offsets)
    for source, mine, at in zip(sources, rows, places, strict=True):
        _gather_into(source.ids, source.counts, source.offsets, mine, at, out.ids, out.counts, offsets)
    return out


def concatenate(parts: list[Counts]) -> Counts:
    """The cells of all parts, one after another."""
    if len(parts) == 1:
        return parts[0]
    begins = np.cumsum([0, *(p.offsets[-1] for p in parts)])
    offsets = np.concatenate([[0], *(p.offsets[1:] + b for p, b in zip(parts, begins, strict=False))])
    return Counts(np.concatenate([p.ids for p in parts]), np.concatenate([p.counts for p in parts]), offsets)
