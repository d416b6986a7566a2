"""Which edits a chromosome copy carries, and which of them are applied where they overlap.

A copy is read from its contig's first base: an edit that it carries is applied unless it begins inside one that was
applied before, or gives way to an indel of an earlier record (`gives_way`). Of edits that begin at the same base, that
of the earlier record is applied, as by ``bcftools consensus``. Whether an edit at some place is applied thus depends on
what lies to its left, but only on edits that overlap it, or overlap those, and so on. `begun_before` follows these alone,
over an index of how far blocks of edits reach, so that a window costs the same wherever it begins and however long the
longest edit of the table is.
"""

from typing import NamedTuple

import numba
import numpy as np

from bmfm.genome.derived import derived_arrays
from bmfm.genome.variants import VariantTable
from bmfm.hashing import mix

_BLOCK, _GROUP = 3, 9  # edits of a block: 8; of a group of blocks: 512


class Edits(NamedTuple):
    """Columns of a `VariantTable`, and how far its edits reach.

    Attributes
    ----------
    block_end, group_end : int64
        Largest end of each 8 edits, and of each 512.
    reach : int64
        Largest end of all edits up to the end of each block of 8.
    """

    start: np.ndarray
    end: np.ndarray
    alt_start: np.ndarray
    alt: np.ndarray
    low: np.ndarray
    high: np.ndarray
    record: np.ndarray
    allele: np.ndarray
    genotypes: np.ndarray
    block_end: np.ndarray
    group_end: np.ndarray
    reach: np.ndarray


def index_edits(variants: VariantTable) -> Edits:
    """The columns and their index, which is kept beside the store of the variants."""
    v = variants

    def build() -> dict[str, np.ndarray]:
        block_end = _largest(v.end, 1 << _BLOCK)
        group_end = _largest(block_end, 1 << (_GROUP - _BLOCK))
        return {"block_end": block_end, "group_end": group_end, "reach": np.maximum.accumulate(block_end)}

    index = derived_arrays("overlaps", v.folder, {"format": 1}, build)
    return Edits(v.start, v.end, v.alt_start, v.alt, v.low, v.high, v.record, v.allele, v.genotypes, **index)


def _largest(values: np.ndarray, n: int) -> np.ndarray:
    """Of each `n` values."""
    return np.maximum.reduceat(values, np.arange(0, len(values), n)) if len(values) else np.empty(0, np.int64)


@numba.njit(cache=True, inline="always")
def _point(draw, copy):
    """A copy's half of a record's draw, as a float32 in [0, 1)."""
    half = np.uint32(draw >> np.uint64(32)) if copy else np.uint32(draw)
    return np.float32(half >> np.uint32(8)) * np.float32(1.0 / 16777216.0)


@numba.njit(cache=True)
def _is_carried(edits, e, key, sample, copy):
    if sample >= 0:
        return edits.genotypes[edits.record[e], sample, copy] == edits.allele[e]
    point = _point(mix(mix(key, 11), edits.record[e]), copy)
    return edits.low[e] <= point and point < edits.high[e]


@numba.njit(cache=True)
def gives_way(edits, e, key, sample, copy):
    """Whether a copy carries an edit of an earlier record that begins at the second of the bases that edit e replaces.

    That is an indel whose anchor is the first of these bases: its record stands before that of e, though its bases begin
    after those of e.
    """
    place = edits.start[e] + 1
    if edits.end[e] <= place:
        return False
    other = e + 1
    while other < len(edits.start) and edits.start[other] <= place:
        if edits.start[other] == place and edits.record[other] < edits.record[e] and _is_carried(edits, other, key, sample, copy):
            return True
        other += 1
    return False


@numba.njit(cache=True)
def carried_edits(edits, first, last, key, sample, carried):
    """List those of the edits [first, last) that either copy of a window carries; rows of `carried`: edit, copies 1 | 2.

    By the sample's genotypes, or else (`sample` below 0) by a draw for each record: of an edit, it asks only whether the
    copy's point lies in the edit's slice. The loop has no branch, since it runs over every variant of every window.
    """
    n = 0
    low, high, record, allele, genotypes = edits.low, edits.high, edits.record, edits.allele, edits.genotypes
    if sample >= 0:
        for e in range(first, last):
            on_one = genotypes[record[e], sample, 0] == allele[e]
            on_two = genotypes[record[e], sample, 1] == allele[e]
            carried[n, 0] = e
            carried[n, 1] = on_one | (on_two << 1)
            n += on_one | on_two
        return n
    draw_key = mix(key, 11)
    for e in range(first, last):
        draw = mix(draw_key, record[e])
        one, two = _point(draw, 0), _point(draw, 1)
        on_one = (low[e] <= one) & (one < high[e])
        on_two = (low[e] <= two) & (two < high[e])
        carried[n, 0] = e
        carried[n, 1] = on_one | (on_two << 1)
        n += on_one | on_two
    return n


@numba.njit(cache=True)
def _add_reaching(edits, limit, place, key, sample, copy, chain, n):
    """Add to chain[:n] the edits below `limit` that a copy carries and that end after `place`; (chain, n) as it is then."""
    e = limit - 1
    while e >= 0 and edits.reach[e >> _BLOCK] > place:
        if (e + 1) & ((1 << _GROUP) - 1) == 0 and edits.group_end[e >> _GROUP] <= place:
            e -= 1 << _GROUP
            continue
        if (e + 1) & ((1 << _BLOCK) - 1) == 0 and edits.block_end[e >> _BLOCK] <= place:
            e -= 1 << _BLOCK
            continue
        if edits.end[e] > place and _is_carried(edits, e, key, sample, copy):
            is_new = True
            for i in range(n):
                is_new &= chain[i] != e
            if is_new:
                if n == len(chain):
                    chain = np.concatenate((chain, np.empty_like(chain)))
                chain[n] = e
                n += 1
        e -= 1
    return chain, n


@numba.njit(cache=True)
def any_reaches(end, reach, limit, place):
    """Whether an edit below `limit`, carried or not, may end at `place` or later: nearly always not, and soon said."""
    e = limit - 1
    while e >= 0:
        if end[e] >= place:
            return True
        if e & ((1 << _BLOCK) - 1) == 0:
            return e > 0 and reach[(e >> _BLOCK) - 1] >= place
        e -= 1
    return False


@numba.njit(cache=True)
def begun_before(edits, limit, place, key, sample, copy, chain):
    """The applied edit of a copy that begins before `place` and ends there or later, or -1.

    Parameters
    ----------
    limit
        Number of the first edit that begins at `place` or later.
    chain : int64
        Scratch.
    """
    chain, n = _add_reaching(edits, limit, place - 1, key, sample, copy, chain, 0)
    if n == 0:
        return np.int64(-1)
    i = 0
    while i < n:  # and whatever decides whether these are applied
        chain, n = _add_reaching(edits, chain[i], edits.start[chain[i]], key, sample, copy, chain, n)
        i += 1
    reached = last = np.int64(-1)
    for e in np.sort(chain[:n]):
        if edits.start[e] >= reached and not gives_way(edits, e, key, sample, copy):
            reached, last = edits.end[e], e
    return last if reached >= place else np.int64(-1)


@numba.njit(cache=True)
def applied_edits(edits, begun, carried, n_carried, key, sample, copy, chosen):
    """Write to `chosen` the edit that has begun, if one has, and those of the carried ones that are applied; how many."""
    n = 0
    reached = last_insertion = np.int64(-1)
    if begun >= 0:
        chosen[n] = begun
        n += 1
        reached = edits.end[begun]
    for c in range(n_carried):
        e = carried[c, 0]
        start, end = edits.start[e], edits.end[e]
        if not (carried[c, 1] >> copy) & 1 or start < reached or (start == end and start == last_insertion):
            continue
        if end > start + 1 and gives_way(edits, e, key, sample, copy):
            continue
        reached = end
        if start == end:
            last_insertion = start
        chosen[n] = e
        n += 1
    return n
