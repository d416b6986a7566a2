"""How a window of the genome is written: `reference`, `biallele` or `haplotype`.

Each representation turns `Windows` into `Encoded` symbols of `alphabet`, already on the window's strand. Bit 7
(`alphabet.VARIANT_BIT`) marks what was written from a variant. The kernels take a whole batch of windows and release
no per-window Python objects; `tests/genome/reference_representation.py` says the same in plain Python.
"""

from dataclasses import dataclass
from typing import Protocol

import numba
import numpy as np

from bmfm.genome.alphabet import COMPLEMENT, DEL, INSERTED, PAIR
from bmfm.genome.reference import Reference
from bmfm.genome.variants import VariantTable
from bmfm.genome.windows import Windows
from bmfm.hashing import mix, uniform

_VARIANT = np.uint8(0x80)
_BARE = np.uint8(0x7F)
PAIRINGS = ("frequency", "always")


@dataclass(frozen=True)
class Encoded:
    """Symbols of a batch of windows: window b is ``symbols[offsets[b]:offsets[b + 1]]``.

    `positions`, where asked for, gives each symbol's place in `Reference.codes` (an inserted base has that of the base
    before it).
    """

    symbols: np.ndarray
    offsets: np.ndarray
    positions: np.ndarray | None = None

    def __getitem__(self, b: int) -> np.ndarray:
        return self.symbols[self.offsets[b] : self.offsets[b + 1]]

    def __len__(self) -> int:
        return len(self.offsets) - 1


class Representation(Protocol):
    """What a data module needs of a representation."""

    def __call__(self, windows: Windows) -> Encoded: ...


class ReferenceSequence:
    """The genome as it is, without variants."""

    def __init__(self, reference: Reference, variants: VariantTable | None = None):
        self.reference = reference

    def __call__(self, windows: Windows) -> Encoded:
        offsets = _offsets(windows.end - windows.start)
        out = np.empty(offsets[-1], np.uint8)
        _write_reference(self.reference.codes, windows.start, windows.end, windows.reverse, offsets, out)
        return Encoded(out, offsets)


class BiAllele:
    """Reference coordinates, one symbol a locus; a locus with two alleles is written as their pair symbol.

    Parameters
    ----------
    pairing
        ``frequency``: two chromosome copies are drawn for each window, every record's allele by its frequency (so a
        pair appears with probability 2p(1-p)); a deletion is deleted whole. ``always``: every locus with a variant is
        written as a pair, whatever its frequency; two states are drawn by frequency where it has more (the scheme of
        BMFM-DNA, arXiv 2507.05265).
    sample
        Name of a sample whose genotypes are written instead of drawn alleles.

    An insertion marks the base that it follows on the strand that is read; the inserted letters are not written.
    """

    def __init__(self, reference: Reference, variants: VariantTable | None, pairing: str = "frequency", sample: str | None = None):
        if pairing not in PAIRINGS:
            raise ValueError(f"pairing {pairing!r} is unknown; choose from {', '.join(PAIRINGS)}")
        self.reference, self.pairing = reference, pairing
        self.variants = _require(variants, "biallele")
        self.samples = _sample_numbers(self.variants, [sample] if sample else [])
        if pairing == "always":
            self.sites = [site_table(reference, self.variants, reverse) for reverse in (False, True)]

    def __call__(self, windows: Windows) -> Encoded:
        offsets = _offsets(windows.end - windows.start)
        out = np.empty(offsets[-1], np.uint8)
        _write_reference(self.reference.codes, windows.start, windows.end, windows.reverse, offsets, out)
        if self.pairing == "always":
            for reverse, sites in zip((False, True), self.sites, strict=True):
                chosen = np.flatnonzero(windows.reverse == reverse)
                _write_sites(windows.start, windows.end, windows.key, chosen, reverse, *sites, offsets, out, PAIR, COMPLEMENT)
        else:
            v = self.variants
            lookback = v.longest
            _write_pairs(
                windows.start, windows.end, windows.reverse, windows.key, v.start, v.end, v.alt_start, v.alt, v.low, v.high,
                v.record, v.allele, v.genotypes, self.samples, lookback, offsets, out, PAIR,
            )  # fmt: skip
        return Encoded(out, offsets)


class Haplotype:
    """Plain A, C, G, T of one chromosome copy, insertions and deletions applied; length may differ from the window's.

    Parameters
    ----------
    samples
        Names of samples: each window shows one of their phased copies, chosen at random. Without samples every
        record's allele is drawn by its frequency, independently of the others (no linkage).
    positions
        Also give each base's place in the genome.

    Where edits overlap on a copy, the first in the genome is applied.
    """

    def __init__(self, reference: Reference, variants: VariantTable | None, samples: list[str] | None = None, positions: bool = False):
        self.reference, self.positions = reference, positions
        self.variants = _require(variants, "haplotype")
        self.samples = _sample_numbers(self.variants, samples or [])

    def __call__(self, windows: Windows) -> Encoded:
        v = self.variants
        edits, first_edit = _haplotype_edits(
            windows.start, windows.end, windows.key, v.start, v.end, v.low, v.high, v.record, v.allele, v.genotypes, self.samples, v.longest
        )  # fmt: skip
        offsets = _offsets(_haplotype_lengths(windows.start, windows.end, v.start, v.end, v.alt_start, edits, first_edit))
        out = np.empty(offsets[-1], np.uint8)
        positions = np.empty(offsets[-1] if self.positions else 0, np.int64)
        _write_haplotypes(
            self.reference.codes, windows.start, windows.end, windows.reverse, v.start, v.end, v.alt_start, v.alt, edits, first_edit,
            offsets, out, positions,
        )  # fmt: skip
        return Encoded(out, offsets, positions if self.positions else None)


def _require(variants: VariantTable | None, name: str) -> VariantTable:
    if variants is None:
        raise ValueError(f"representation {name!r} writes variants into the sequence: give a VCF or BCF (data.variants)")
    return variants


def _sample_numbers(variants: VariantTable, names: list[str]) -> np.ndarray:
    if lacking := [name for name in names if name not in variants.samples]:
        raise ValueError(f"genotypes of {', '.join(lacking)} were not read; name them in the variant filter's samples")
    return np.array([variants.samples.index(name) for name in names], np.int64)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


@numba.njit(cache=True, inline="always")
def _complement_base(code):
    return code ^ np.uint8(2) if code < 4 else code  # A 0 <-> T 2, G 1 <-> C 3, N 4


@numba.njit(cache=True)
def _write_reference(codes, start, end, reverse, offsets, out):
    for b in range(len(start)):
        source, target = codes[start[b] : end[b]], out[offsets[b] : offsets[b + 1]]
        if reverse[b]:
            last = len(source) - 1
            for i in range(len(source)):
                code = source[last - i] & _BARE
                target[i] = code ^ ((np.uint8(code >> 2) ^ np.uint8(1)) << np.uint8(1))
        else:
            for i in range(len(source)):
                target[i] = source[i] & _BARE


@numba.njit(cache=True, inline="always")
def _point(draw, copy):
    """A copy's half of a record's draw, as a float32 in [0, 1)."""
    half = np.uint32(draw >> np.uint64(32)) if copy else np.uint32(draw)
    return np.float32(half >> np.uint32(8)) * np.float32(1.0 / 16777216.0)


@numba.njit(cache=True)
def _carried(first, last, key, sample, low, high, record, allele, genotypes, carried):
    """List those of the edits [first, last) that either copy of a window carries; rows of `carried`: edit, copies 1 | 2.

    By the sample's genotypes, or else by a draw for each record: of an edit, it asks only whether the copy's point lies
    in the edit's slice. The loop has no branch, since it runs over every variant of every window.
    """
    n = 0
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


@numba.njit(cache=True, inline="always")
def _collides(start, end, reached, last_insertion):
    return start < reached or (start == end and start == last_insertion)


@numba.njit(cache=True, inline="always")
def _touch(place, b, target, copies, window_of, touched, n_touched):
    """Make both copies valid at a place of window b, and list the place once."""
    if window_of[place] != b:
        window_of[place] = b
        copies[0, place] = copies[1, place] = target[place]
        touched[n_touched] = place
        n_touched += 1
    return n_touched


@numba.njit(cache=True)
def _write_pairs(
    start, end, reverse, key, v_start, v_end, alt_start, alt, low, high, record, allele, genotypes, samples, lookback, offsets, out, pair
):  # fmt: skip
    longest = 0
    for b in range(len(start)):
        longest = max(longest, end[b] - start[b])
    copies = np.empty((2, longest), np.uint8)  # valid where `window_of` names the window
    window_of = np.full(longest, -1, np.int64)
    touched = np.empty(longest, np.int64)
    carried = np.empty((1024, 2), np.int64)
    for b in range(len(start)):
        target = out[offsets[b] : offsets[b + 1]]
        length = end[b] - start[b]
        n_touched = 0
        sample = samples[0] if len(samples) else -1
        first = np.searchsorted(v_start, start[b] - lookback)
        last = np.searchsorted(v_start, end[b], "right")
        if last - first >= len(carried):
            carried = np.empty((2 * (last - first), 2), np.int64)
        n_carried = _carried(first, last, key[b], sample, low, high, record, allele, genotypes, carried)
        for copy in range(2):
            bases = copies[copy]
            reached = last_insertion = np.int64(-1)
            for c in range(n_carried):
                e = carried[c, 0]
                if not (carried[c, 1] >> copy) & 1 or _collides(v_start[e], v_end[e], reached, last_insertion):
                    continue
                reached = v_end[e]
                n_ref, n_alt = v_end[e] - v_start[e], alt_start[e + 1] - alt_start[e]
                for j in range(n_ref):
                    locus = v_start[e] + j - start[b]
                    if locus < 0 or locus >= length:
                        continue
                    place = length - 1 - locus if reverse[b] else locus
                    n_touched = _touch(place, b, target, copies, window_of, touched, n_touched)
                    if j < n_alt:
                        base = alt[alt_start[e] + j]
                        bases[place] = _complement_base(base) if reverse[b] else base
                    else:
                        bases[place] = DEL
                if n_alt > n_ref:
                    last_insertion = v_start[e] if n_ref == 0 else np.int64(-1)
                    # The insertion follows, on this strand, the base before its boundary; deleted bases are passed over.
                    boundary = v_end[e] - start[b]
                    place = length - boundary - 1 if reverse[b] else boundary - 1
                    while place >= 0 and place < length and window_of[place] == b and bases[place] == DEL:
                        place -= 1
                    if place >= 0 and place < length:
                        n_touched = _touch(place, b, target, copies, window_of, touched, n_touched)
                        if bases[place] < DEL:
                            bases[place] += INSERTED
        for t in range(n_touched):
            place = touched[t]
            target[place] = pair[copies[0, place], copies[1, place]] | _VARIANT


@numba.njit(cache=True)
def _write_sites(start, end, key, chosen, reverse, position, first_state, state, frequency, offsets, out, pair, complement):
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
            out[place] = (complement[symbol] if reverse else symbol) | _VARIANT
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


def site_table(reference: Reference, variants: VariantTable, reverse: bool) -> tuple[np.ndarray, ...]:
    """Loci with more than one possible state: the scheme ``always`` reads this table.

    Returns
    -------
    position : int64 [S]
        Places in `Reference.codes`, ascending.
    first_state : int64 [S + 1]
        Site s has states ``state[first_state[s]:first_state[s + 1]]``, that of the reference among them.
    state : uint8
        State codes.
    frequency : float32
        Frequency of each state; that of the reference is what the others leave (at least 1e-6).

    An insertion is a state of the base before it, or with `reverse` of the base after it.
    """
    position, state, frequency = _states_of_edits(
        reference.codes, variants.start, variants.end, variants.alt_start, variants.alt, variants.low, variants.high, reverse
    )
    order = np.argsort(position * 16 + state, kind="stable")
    position, state, frequency = position[order], state[order], frequency[order]
    if not len(position):
        return position, np.zeros(1, np.int64), state, frequency
    first = np.flatnonzero(np.concatenate([[True], (np.diff(position) != 0) | (np.diff(state.astype(np.int16)) != 0)]))
    position, state, frequency = position[first], state[first], np.add.reduceat(frequency, first)
    site = np.flatnonzero(np.concatenate([[True], np.diff(position) != 0]))
    n_alts = np.diff(np.append(site, len(position)))
    reference_state = reference.codes[position[site]] & _BARE
    rest = np.maximum(1 - np.add.reduceat(frequency, site), 1e-6).astype(np.float32)
    first_state = np.concatenate([[0], np.cumsum(n_alts + 1)]).astype(np.int64)
    return position[site], first_state, np.insert(state, site, reference_state), np.insert(frequency, site, rest)


@numba.njit(cache=True)
def _states_of_edits(codes, start, end, alt_start, alt, low, high, reverse):
    n = 0
    for e in range(len(start)):
        n += end[e] - start[e] + 1
    position, state, frequency = np.empty(n, np.int64), np.empty(n, np.uint8), np.empty(n, np.float32)
    n = 0
    for e in range(len(start)):
        n_ref, n_alt = end[e] - start[e], alt_start[e + 1] - alt_start[e]
        for j in range(n_ref):
            new = alt[alt_start[e] + j] if j < n_alt else np.uint8(DEL)
            if new != codes[start[e] + j] & _BARE:
                position[n], state[n], frequency[n] = start[e] + j, new, high[e] - low[e]
                n += 1
        if n_alt > n_ref:
            anchor = end[e] if reverse else end[e] - 1
            if 0 <= anchor < len(codes):
                position[n], state[n], frequency[n] = anchor, (codes[anchor] & _BARE) + INSERTED, high[e] - low[e]
                n += 1
    return position[:n], state[:n], frequency[:n]


@numba.njit(cache=True, inline="always")
def _source_of(key, samples):
    """The sample (or -1) and copy that a window shows."""
    if len(samples) == 0:
        return np.int64(-1), 0
    which = mix(key, 13)
    return samples[np.int64(uniform(which, 0) * len(samples))], np.int64(uniform(which, 1) * 2)


@numba.njit(cache=True)
def _haplotype_edits(start, end, key, v_start, v_end, low, high, record, allele, genotypes, samples, lookback):
    """Edits on the copy that each window shows, overlaps resolved; window b has ``edits[first[b]:first[b + 1]]``."""
    edits = np.empty(1024, np.int64)
    first_edit = np.zeros(len(start) + 1, np.int64)
    carried = np.empty((1024, 2), np.int64)
    n = 0
    for b in range(len(start)):
        sample, copy = _source_of(key[b], samples)
        first = np.searchsorted(v_start, start[b] - lookback)
        last = np.searchsorted(v_start, end[b])
        if last - first >= len(carried):
            carried = np.empty((2 * (last - first), 2), np.int64)
        n_carried = _carried(first, last, key[b], sample, low, high, record, allele, genotypes, carried)
        if n + n_carried > len(edits):
            grown = np.empty(2 * (n + n_carried), np.int64)
            grown[:n] = edits[:n]
            edits = grown
        reached = last_insertion = np.int64(-1)
        for c in range(n_carried):
            e = carried[c, 0]
            if (carried[c, 1] >> copy) & 1 and not _collides(v_start[e], v_end[e], reached, last_insertion):
                reached = v_end[e]
                if v_start[e] == v_end[e]:
                    last_insertion = v_start[e]
                edits[n] = e
                n += 1
        first_edit[b + 1] = n
    return edits[:n], first_edit


@numba.njit(cache=True)
def _haplotype_lengths(start, end, v_start, v_end, alt_start, edits, first_edit):
    lengths = end - start
    for b in range(len(start)):
        for e in edits[first_edit[b] : first_edit[b + 1]]:
            lengths[b] -= max(0, min(v_end[e], end[b]) - max(v_start[e], start[b]))
            if v_start[e] >= start[b]:
                lengths[b] += alt_start[e + 1] - alt_start[e]
    return lengths


@numba.njit(cache=True)
def _write_haplotypes(codes, start, end, reverse, v_start, v_end, alt_start, alt, edits, first_edit, offsets, out, positions):
    for b in range(len(start)):
        n = offsets[b]
        at = start[b]
        mark = np.uint8(0)  # the next base stands beside a deletion
        for i in range(first_edit[b], first_edit[b + 1] + 1):
            e = edits[i] if i < first_edit[b + 1] else -1
            stop = v_start[e] if e >= 0 else end[b]
            if at < stop:
                source, target = codes[at:stop], out[n : n + stop - at]
                for k in range(len(source)):
                    target[k] = source[k] & _BARE
                target[0] |= mark
                if len(positions):
                    for k in range(len(source)):
                        positions[n + k] = at + k
                n += stop - at
                at = stop
                mark = np.uint8(0)
            if e < 0:
                break
            if v_start[e] >= start[b]:
                for k in range(alt_start[e], alt_start[e + 1]):
                    out[n] = alt[k] | _VARIANT
                    if len(positions):
                        positions[n] = max(min(v_start[e] + k - alt_start[e], v_end[e] - 1), v_start[e] - 1)
                    n += 1
            if v_end[e] - v_start[e] > alt_start[e + 1] - alt_start[e]:
                mark = _VARIANT
            at = max(at, min(v_end[e], end[b]))
        if reverse[b]:
            i, j = offsets[b], n - 1
            while i <= j:
                left, right = out[i], out[j]
                out[i] = _complement_base(right & _BARE) | (right & _VARIANT)
                out[j] = _complement_base(left & _BARE) | (left & _VARIANT)
                i += 1
                j -= 1
            if len(positions):
                positions[offsets[b] : n] = positions[offsets[b] : n][::-1].copy()
