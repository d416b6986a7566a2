"""Kernels that write both chromosome copies at once, as pair symbols; `representation.BiAllele` says what is written."""

import numba
import numpy as np

from bmfm.genome.alphabet import DEL, INSERTED, VARIANT_BIT
from bmfm.genome.copies import any_reaches, applied_edits, begun_before, carried_edits, gives_way
from bmfm.genome.haplotype import _complement_base


@numba.njit(cache=True, inline="always")
def _n_alt(edits, e):
    return edits.alt_start[e + 1] - edits.alt_start[e]


@numba.njit(cache=True, inline="always")
def _mark_dirty(place, b, target, copies, window_of, dirty, n_dirty):
    """Make both copies valid at a place of window b, and list the place once."""
    if window_of[place] != b:
        window_of[place] = b
        copies[0, place] = copies[1, place] = target[place]
        dirty[n_dirty] = place
        n_dirty += 1
    return n_dirty


@numba.njit(cache=True)
def _first_carried(edits, place, key, sample, copy, carried):
    """The first insertion at `place` that a copy carries, and the applied longer edit that begins there; -1 for none."""
    first, last = np.searchsorted(edits.start, place), np.searchsorted(edits.start, place, "right")
    insertion = longer = np.int64(-1)
    for e in range(first, last):
        n = carried_edits(edits, e, e + 1, key, sample, carried)
        if n and (carried[0, 1] >> copy) & 1:
            if edits.end[e] == place:
                insertion = e if insertion < 0 else insertion
            elif longer < 0 and not gives_way(edits, e, key, sample, copy):
                longer = e
    return insertion, longer


@numba.njit(cache=True)
def _insertion_after(edits, end, key, sample, copy, chosen, n, scratch):
    """The insertion that stands behind deleted bases only from the end of a window on, or -1."""
    e = chosen[n - 1] if n else np.int64(-1)
    while (
        e >= 0 and edits.end[e] >= end and edits.end[e] > edits.start[e] and edits.start[e] + _n_alt(edits, e) <= max(end, edits.start[e])
    ):
        insertion, e_next = _first_carried(edits, edits.end[e], key, sample, copy, scratch)
        if insertion >= 0:
            return insertion if edits.start[insertion] > end else np.int64(-1)
        e = e_next
    return np.int64(-1)


@numba.njit(cache=True)
def _insertion_before(edits, begun, start, key, sample, copy, scratch, chain):
    """The edit with inserted bases that stands before deleted bases only up to the start of a window, or -1."""
    e = begun
    while e >= 0 and _n_alt(edits, e) == 0:
        insertion, _ = _first_carried(edits, edits.start[e], key, sample, copy, scratch)
        if insertion >= 0:
            return insertion
        e = begun_before(edits, np.searchsorted(edits.start, edits.start[e]), edits.start[e], key, sample, copy, chain)
        if e >= 0 and _n_alt(edits, e) > edits.end[e] - edits.start[e]:
            return e
    return np.int64(-1)


@numba.njit(cache=True)
def write_pairs(windows, edits, samples, out, pair):
    """Write over the reference in `out` the loci where either copy of a window has an edit."""
    start, end, reverse, key, offsets = windows
    longest = 0
    for b in range(len(start)):
        longest = max(longest, end[b] - start[b])
    copies = np.empty((2, longest), np.uint8)  # valid where `window_of` names the window
    window_of = np.full(longest, -1, np.int64)
    dirty = np.empty(longest, np.int64)
    carried, chain, scratch = np.empty((1024, 2), np.int64), np.empty(16, np.int64), np.empty((2, 2), np.int64)
    chosen = np.empty(1024, np.int64)
    v_start, v_end, alt_start, alt, reach = edits.start, edits.end, edits.alt_start, edits.alt, edits.reach
    sample = samples[0] if len(samples) else np.int64(-1)
    for b in range(len(start)):
        target = out[offsets[b] : offsets[b + 1]]
        length, n_dirty = end[b] - start[b], 0
        first, last = np.searchsorted(v_start, start[b]), np.searchsorted(v_start, end[b], "right")
        if last - first + 3 > len(carried):
            carried, chosen = np.empty((2 * (last - first) + 3, 2), np.int64), np.empty(2 * (last - first) + 3, np.int64)
        n_carried = carried_edits(edits, first, last, key[b], sample, carried)
        may_have_begun = any_reaches(v_end, reach, first, start[b])
        for copy in range(2):
            bases = copies[copy]
            begun = beyond = np.int64(-1)
            if may_have_begun:
                begun = begun_before(edits, first, start[b], key[b], sample, copy, chain)
            n = applied_edits(edits, begun, carried, n_carried, key[b], sample, copy, chosen)
            if reverse[b] and begun >= 0:
                beyond = _insertion_before(edits, begun, start[b], key[b], sample, copy, scratch, chain)
            elif not reverse[b] and n and v_end[chosen[n - 1]] >= end[b]:
                beyond = _insertion_after(edits, end[b], key[b], sample, copy, chosen, n, scratch)
            # In the order of reading, so that a base that an insertion follows has been written when it is marked.
            for i in range(n):
                e = chosen[n - 1 - i] if reverse[b] else chosen[i]
                from_locus, to_locus, n_alt = v_start[e] - start[b], v_end[e] - start[b], alt_start[e + 1] - alt_start[e]
                for locus in range(max(0, from_locus), min(to_locus, length)):
                    place = length - 1 - locus if reverse[b] else locus
                    n_dirty = _mark_dirty(place, b, target, copies, window_of, dirty, n_dirty)
                    if locus - from_locus < n_alt:
                        base = alt[alt_start[e] + locus - from_locus]
                        bases[place] = _complement_base(base) if reverse[b] else base
                    else:
                        bases[place] = DEL
                if n_alt > to_locus - from_locus:
                    place = length - to_locus - 1 if reverse[b] else to_locus - 1
                    n_dirty = _mark_insertion(place, b, target, copies, bases, window_of, dirty, n_dirty)
            if beyond >= 0:
                n_dirty = _mark_insertion(length - 1, b, target, copies, bases, window_of, dirty, n_dirty)
        for t in range(n_dirty):
            place = dirty[t]
            target[place] = pair[copies[0, place], copies[1, place]] | VARIANT_BIT


@numba.njit(cache=True, inline="always")
def _mark_insertion(place, b, target, copies, bases, window_of, dirty, n_dirty):
    """Mark the base at a place of window b, or over deleted ones the last before it; those outside the window are not."""
    while place >= 0 and place < len(target) and window_of[place] == b and bases[place] == DEL:
        place -= 1
    if place >= 0 and place < len(target):
        n_dirty = _mark_dirty(place, b, target, copies, window_of, dirty, n_dirty)
        if bases[place] < DEL:
            bases[place] += INSERTED
    return n_dirty
