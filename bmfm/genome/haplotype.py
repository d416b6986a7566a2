"""Kernels that write one chromosome copy as plain bases; `representation.Haplotype` says what is written."""

import numba
import numpy as np

from bmfm.genome.alphabet import CODE_BITS, VARIANT_BIT
from bmfm.genome.copies import any_reaches, applied_edits, begun_before, carried_edits
from bmfm.hashing import mix, uniform


@numba.njit(cache=True, inline="always")
def _complement_base(code):
    return code ^ np.uint8(2) if code < 4 else code  # A 0 <-> T 2, G 1 <-> C 3, N 4


@numba.njit(cache=True, inline="always")
def _source_of(key, samples):
    """The sample (or -1) and copy that a window shows."""
    if len(samples) == 0:
        return np.int64(-1), 0
    which = mix(key, 13)
    return samples[np.int64(uniform(which, 0) * len(samples))], np.int64(uniform(which, 1) * 2)


@numba.njit(cache=True)
def haplotype_edits(start, limit, key, edits, samples):
    """Applied edits of the copy that each window shows: window b has ``chosen[first[b]:first[b + 1]]``.

    Parameters
    ----------
    limit : int64 [B]
        Edits that begin before it belong to the window: its end, or where that is its contig's, one more.
    """
    chosen = np.empty(1024, np.int64)
    first_edit = np.zeros(len(start) + 1, np.int64)
    carried, chain = np.empty((1024, 2), np.int64), np.empty(16, np.int64)
    v_start, v_end, reach = edits.start, edits.end, edits.reach
    n = 0
    for b in range(len(start)):
        sample, copy = _source_of(key[b], samples)
        first, last = np.searchsorted(v_start, start[b]), np.searchsorted(v_start, limit[b])
        begun = np.int64(-1)
        if any_reaches(v_end, reach, first, start[b]):
            begun = begun_before(edits, first, start[b], key[b], sample, copy, chain)
        if last - first >= len(carried):
            carried = np.empty((2 * (last - first), 2), np.int64)
        n_carried = carried_edits(edits, first, last, key[b], sample, carried)
        if n + n_carried >= len(chosen):
            grown = np.empty(2 * (n + n_carried + 1), np.int64)
            grown[:n] = chosen[:n]
            chosen = grown
        n += applied_edits(edits, begun, carried, n_carried, key[b], sample, copy, chosen[n:])
        first_edit[b + 1] = n
    return chosen[:n], first_edit


@numba.njit(cache=True)
def _written(edits, e, start, end):
    """Which bases of an edit's `alt` a window shows: [from, to).

    Base k stands at the k-th base that is replaced, and what is longer at the last of them; an insertion stands before
    the base that follows it.
    """
    n_alt = edits.alt_start[e + 1] - edits.alt_start[e]
    if edits.start[e] < start and edits.end[e] <= start:
        return n_alt, n_alt
    first = min(max(start - edits.start[e], 0), n_alt)
    return first, n_alt if edits.end[e] <= end else max(first, min(end - edits.start[e], n_alt))


@numba.njit(cache=True)
def haplotype_lengths(start, end, edits, chosen, first_edit):
    """Bases of each window [B] once its `haplotype_edits` are applied."""
    lengths = end - start
    for b in range(len(start)):
        for e in chosen[first_edit[b] : first_edit[b + 1]]:
            lengths[b] -= max(0, min(edits.end[e], end[b]) - max(edits.start[e], start[b]))
            first, last = _written(edits, e, start[b], end[b])
            lengths[b] += last - first
    return lengths


@numba.njit(cache=True)
def write_haplotypes(codes, windows, contig_start, edits, chosen, first_edit, out, positions):
    """Write the bases of each window with its `haplotype_edits` applied; the place of each base where `positions` has room for them.

    Parameters
    ----------
    windows
        A `windows.WindowLayout`; its offsets follow from `haplotype_lengths`.
    contig_start : int64 [B]
        Where the contig of each window begins.
    """
    start, end, reverse, offsets = windows.start, windows.end, windows.reverse, windows.offsets
    for b in range(len(start)):
        n = offsets[b]
        at = start[b]
        mark = np.uint8(0)  # the next base stands beside a deletion
        for i in range(first_edit[b], first_edit[b + 1] + 1):
            e = chosen[i] if i < first_edit[b + 1] else -1
            stop = edits.start[e] if e >= 0 else end[b]
            if at < stop:
                source, target = codes[at:stop], out[n : n + stop - at]
                for k in range(len(source)):
                    target[k] = source[k] & CODE_BITS
                target[0] |= mark
                if len(positions):
                    for k in range(len(source)):
                        positions[n + k] = at + k
                n += stop - at
                at = stop
                mark = np.uint8(0)
            if e < 0:
                break
            first, last = _written(edits, e, start[b], end[b])
            for k in range(first, last):
                out[n] = edits.alt[edits.alt_start[e] + k] | VARIANT_BIT
                if len(positions):
                    positions[n] = max(min(edits.start[e] + k, edits.end[e] - 1), edits.start[e] - 1, contig_start[b])
                n += 1
            if edits.end[e] - edits.start[e] > edits.alt_start[e + 1] - edits.alt_start[e]:
                mark = VARIANT_BIT
            elif last > first:
                mark = np.uint8(0)
            at = max(at, min(edits.end[e], end[b]))
        if reverse[b]:
            i, j = offsets[b], n - 1
            while i <= j:
                left, right = out[i], out[j]
                out[i] = _complement_base(right & CODE_BITS) | (right & VARIANT_BIT)
                out[j] = _complement_base(left & CODE_BITS) | (left & VARIANT_BIT)
                i += 1
                j -= 1
            if len(positions):
                positions[offsets[b] : n] = positions[offsets[b] : n][::-1].copy()
