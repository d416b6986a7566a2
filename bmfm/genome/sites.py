"""Loci with more than one possible state, whatever their frequency: what `representation.BiAllele` reads for ``always``."""

from itertools import pairwise
from typing import NamedTuple

import numba
import numpy as np

from bmfm.genome.alphabet import CODE_BITS, DEL, INSERTED, VARIANT_BIT
from bmfm.genome.derived import derived_arrays
from bmfm.genome.reference import Reference
from bmfm.genome.variants import VariantTable
from bmfm.hashing import mix, uniform

_PIECE = 4_000_000  # edits whose states are sorted at a time


class Sites(NamedTuple):
    """Loci with more than one possible state on one strand.

    Attributes
    ----------
    position : int64 [S]
        Places in `Reference.codes`, ascending.
    first_state : int64 [S + 1]
        Site s has states ``state[first_state[s]:first_state[s + 1]]``, that of the reference among them.
    state : uint8
        State codes.
    frequency : float32
        Frequency of each state; that of the reference is what the others leave (at least 1e-6).
    """

    position: np.ndarray
    first_state: np.ndarray
    state: np.ndarray
    frequency: np.ndarray


def stored_sites(reference: Reference, variants: VariantTable, reverse: bool) -> Sites:
    """`site_table`, kept beside the store of the variants."""
    key = {"format": 1, "reverse": reverse}
    return Sites(**derived_arrays("sites", variants.folder, key, lambda: site_table(reference, variants, reverse)._asdict()))


def site_table(reference: Reference, variants: VariantTable, reverse: bool) -> Sites:
    """The sites of all edits; an insertion is a state of the base before it, or with `reverse` of the base after it."""
    v = variants
    cuts = _cuts(v.start, v.end, _PIECE)
    pieces = [
        _sites_of(reference, v.start[a:b], v.end[a:b], v.alt_start[a : b + 1], v.alt, v.high[a:b] - v.low[a:b], reverse)
        for a, b in pairwise(cuts)
    ]
    n_states = np.concatenate([np.diff(p.first_state) for p in pieces])
    first_state = np.concatenate([[0], np.cumsum(n_states)]).astype(np.int64)
    position, state, frequency = (np.concatenate([getattr(p, n) for p in pieces]) for n in ("position", "state", "frequency"))
    return Sites(position, first_state, state, frequency)


@numba.njit(cache=True)
def _cuts(start, end, size):
    """Numbers of edits that cut a table into pieces of about `size`, so that no locus has states in two of them."""
    cuts = [0]
    reach = np.int64(-1)
    for e in range(len(start)):
        if e - cuts[-1] >= size and start[e] > reach + 1:  # an insertion is also a state of a base beside it
            cuts.append(e)
        reach = max(reach, end[e])
    cuts.append(len(start))
    return cuts


def _sites_of(reference: Reference, start, end, alt_start, alt, width, reverse: bool) -> Sites:
    position, state, frequency = _states_of_edits(reference.codes, reference.ends, start, end, alt_start, alt, width, reverse)
    order = np.argsort(position * 16 + state, kind="stable")
    position, state, frequency = position[order], state[order], frequency[order]
    return Sites(*_joined(reference.codes, position, state, frequency))


@numba.njit(cache=True)
def _joined(codes, position, state, frequency):
    """Sites of states sorted by position and state: equal ones are added up, and that of the reference stands first."""
    n_sites = 0
    for i in range(len(position)):
        n_sites += i == 0 or position[i] != position[i - 1]
    places, first_state = np.empty(n_sites, np.int64), np.zeros(n_sites + 1, np.int64)
    states, frequencies = np.empty(len(position) + n_sites, np.uint8), np.empty(len(position) + n_sites, np.float32)
    n = site = i = 0
    while i < len(position):
        place = position[i]
        reference, n = n, n + 1  # room for the state of the reference
        total = np.float32(0)
        while i < len(position) and position[i] == place:
            if n > reference + 1 and states[n - 1] == state[i]:
                frequencies[n - 1] += frequency[i]
            else:
                states[n], frequencies[n] = state[i], frequency[i]
                n += 1
            total += frequency[i]
            i += 1
        states[reference] = codes[place] & CODE_BITS
        frequencies[reference] = max(np.float32(1) - total, np.float32(1e-6))
        places[site] = place
        site += 1
        first_state[site] = n
    return places, first_state, states[:n].copy(), frequencies[:n].copy()


@numba.njit(cache=True)
def _states_of_edits(codes, contig_ends, start, end, alt_start, alt, width, reverse):
    n = 0
    for e in range(len(start)):
        n += end[e] - start[e] + 1
    position, state, frequency = np.empty(n, np.int64), np.empty(n, np.uint8), np.empty(n, np.float32)
    n = 0
    for e in range(len(start)):
        n_ref, n_alt = end[e] - start[e], alt_start[e + 1] - alt_start[e]
        for j in range(n_ref):
            new = alt[alt_start[e] + j] if j < n_alt else np.uint8(DEL)
            if new != codes[start[e] + j] & CODE_BITS:
                position[n], state[n], frequency[n] = start[e] + j, new, width[e]
                n += 1
        if n_alt > n_ref:
            anchor = end[e] if reverse else end[e] - 1
            c = np.searchsorted(contig_ends, anchor)
            if anchor >= 0 and c < len(contig_ends) and contig_ends[c] != anchor:  # a base of a contig, not what is between
                position[n], state[n], frequency[n] = anchor, (codes[anchor] & CODE_BITS) + INSERTED, width[e]
                n += 1
    return position[:n], state[:n], frequency[:n]


@numba.njit(cache=True)
def write_sites(windows, chosen, reverse, sites, out, pair, complement):
    """Write a pair symbol at each of the `Sites` of one strand, over the reference in `out`, in those windows that are `chosen`.

    Parameters
    ----------
    windows
        A `windows.WindowLayout`.
    chosen : int64
        Numbers of the windows on this strand.
    """
    start, end, key, offsets = windows.start, windows.end, windows.key, windows.offsets
    position, first_state, state, frequency = sites
    for b in chosen:
        s = np.searchsorted(position, start[b])
        while s < len(position) and position[s] < end[b]:
            low, high = first_state[s], first_state[s + 1]
            one, two = low, low + 1
            if high - low > 2:
                draw_key = mix(key[b], position[s])
                one = _weighted(frequency, low, high, -1, uniform(draw_key, 1))
                two = _weighted(frequency, low, high, one, uniform(draw_key, 2))
            symbol = pair[state[one], state[two]]
            place = offsets[b + 1] - 1 - (position[s] - start[b]) if reverse else offsets[b] + position[s] - start[b]
            out[place] = (complement[symbol] if reverse else symbol) | VARIANT_BIT
            s += 1


@numba.njit(cache=True)
def _weighted(weights, low, high, excluded, draw):
    total = 0.0
    for i in range(low, high):
        if i != excluded:
            total += weights[i]
    draw *= total
    last = low
    for i in range(low, high):
        if i != excluded:
            last = i
            draw -= weights[i]
            if draw < 0:
                return i
    return last
