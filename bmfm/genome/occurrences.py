"""Where sequences occur in a genome, on either strand: exactly, or with a few bases that differ.

A sequence with at most m differences has, among m + 1 pieces that do not overlap, one without any. The genome is read once; wherever
16 bases are a piece of a sequence, the whole sequence is compared.
"""

from typing import NamedTuple

import numba
import numpy as np

from bmfm.genome.alphabet import base_table
from bmfm.genome.reference import SOFT_MASK_BIT, Reference
from bmfm.hashing import mix

K = 16
"""Bases of a piece; shorter sequences occur anywhere by chance, and are not looked for."""

_FILTER_BITS = np.uint64(22)


class Occurrences(NamedTuple):
    """Places of sequences in a genome, sorted by start.

    Attributes
    ----------
    intervals : int64 [I, 2]
        Half-open positions in `Reference.codes`; they may overlap.
    sequence : int64 [I]
        Number of the sequence that stands there, as it is or as its reverse complement.
    reverse : bool [I]
        Whether it is its reverse complement.
    """

    intervals: np.ndarray
    sequence: np.ndarray
    reverse: np.ndarray


class _Queries(NamedTuple):
    """Both strands of all sequences, one after the other, and their pieces in the order of the pieces' 2-bit codes."""

    codes: np.ndarray
    offsets: np.ndarray
    mismatches: np.ndarray
    seeds: np.ndarray
    seed_query: np.ndarray
    seed_offset: np.ndarray


def find_occurrences(sequences: list[str], reference: Reference, max_mismatches: int = 0) -> Occurrences:
    """All places of the genome where one of these sequences stands, on either strand.

    Parameters
    ----------
    sequences
        Bases; upper and lower case are the same, U is T, N is the same as N alone.
    max_mismatches
        Bases that may differ. A sequence that has fewer than `max_mismatches` + 1 pieces of 16 bases without N is allowed one
        difference less than it has pieces; one that has none is not looked for.

    Raises
    ------
    ValueError
        Naming the sequence and the character that is no nucleotide code.
    """
    queries = _queries(sequences, max_mismatches)
    if not len(queries.seeds):
        return Occurrences(np.empty((0, 2), np.int64), np.empty(0, np.int64), np.empty(0, bool))
    rows = np.unique(_scan(reference.codes, *queries), axis=0)  # start, query: several pieces may lead to the same place
    start, query = rows[:, 0], rows[:, 1]
    end = start + np.diff(queries.offsets)[query]
    contig = np.searchsorted(reference.starts, start, "right") - 1
    inside = (contig >= 0) & (end <= reference.ends[contig])
    return Occurrences(np.stack([start, end], 1)[inside], query[inside] // 2, query[inside] % 2 == 1)


def is_searched(sequences: list[str]) -> np.ndarray:
    """Whether each sequence [n] has a piece of 16 bases by which `find_occurrences` looks for it."""
    queries = _queries(sequences, 0)
    return np.isin(np.arange(len(sequences)), queries.seed_query // 2)


def _queries(sequences: list[str], max_mismatches: int) -> _Queries:
    table = base_table()
    forward = []
    for number, text in enumerate(sequences):
        codes = table[np.frombuffer(text.encode("ascii", "replace"), np.uint8)]
        if (bad := np.flatnonzero(codes == 255)).size:
            raise ValueError(f"sequence {number + 1} has {text[bad[0]]!r} at position {bad[0] + 1}, which is no nucleotide code")
        forward.append(codes & ~SOFT_MASK_BIT)
    strands = [strand for codes in forward for strand in (codes, _reverse_complement(codes))]
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in strands])]).astype(np.int64)
    codes = np.concatenate(strands) if strands else np.empty(0, np.uint8)
    seeds, query, offset, pieces = _pieces(codes, offsets, max_mismatches + 1)
    order = np.argsort(seeds, kind="stable")
    return _Queries(codes, offsets, pieces - 1, seeds[order], query[order], offset[order])


def _reverse_complement(codes: np.ndarray) -> np.ndarray:
    """Of codes A, G, T, C, N = 0 to 4."""
    return np.where(codes < 4, codes ^ 2, codes)[::-1].astype(np.uint8)


@numba.njit(cache=True)
def _pieces(codes, offsets, most):
    """2-bit codes of up to `most` pieces of each query, the query and the offset of each, and how many each query has."""
    seeds, query, offset = [np.uint64(0)], [np.int64(0)], [np.int64(0)]
    pieces = np.zeros(len(offsets) - 1, np.int64)
    for q in range(len(offsets) - 1):
        place = offsets[q]
        while place + K <= offsets[q + 1] and pieces[q] < most:
            seed, unknown = np.uint64(0), -1
            for i in range(K):
                if codes[place + i] > 3:
                    unknown = i
                seed = (seed << np.uint64(2)) | np.uint64(codes[place + i] & 3)
            if unknown >= 0:
                place += unknown + 1
                continue
            seeds.append(seed)
            query.append(np.int64(q))
            offset.append(np.int64(place - offsets[q]))
            pieces[q] += 1
            place += K
    return np.array(seeds)[1:], np.array(query)[1:], np.array(offset)[1:], pieces


@numba.njit(cache=True)
def _scan(genome, codes, offsets, mismatches, seeds, seed_query, seed_offset):
    """(start, query) of every place where a query stands, ``int64`` [I, 2]; a place may come several times, or lie across contigs."""
    shift = np.uint64(64) - _FILTER_BITS
    may_be = np.zeros(1 << 22, np.bool_)
    for seed in seeds:
        may_be[mix(np.uint64(0), seed) >> shift] = True
    mask, seed, known = np.uint64(4**K - 1), np.uint64(0), 0
    found = [(np.int64(0), np.int64(0))]
    for place in range(len(genome)):
        code = genome[place] & 0x7F
        if code > 3:
            known = 0
            continue
        seed = ((seed << np.uint64(2)) | np.uint64(code)) & mask
        known += 1
        if known < K or not may_be[mix(np.uint64(0), seed) >> shift]:
            continue
        row = np.searchsorted(seeds, seed)
        while row < len(seeds) and seeds[row] == seed:
            q = seed_query[row]
            start = place - K + 1 - seed_offset[row]
            length = offsets[q + 1] - offsets[q]
            if start >= 0 and start + length <= len(genome):
                left = mismatches[q]
                for i in range(length):
                    left -= (genome[start + i] & 0x7F) != codes[offsets[q] + i]
                    if left < 0:
                        break
                if left >= 0:
                    found.append((np.int64(start), np.int64(q)))
            row += 1
    out = np.empty((len(found) - 1, 2), np.int64)
    for i in range(1, len(found)):
        out[i - 1, 0], out[i - 1, 1] = found[i]
    return out
