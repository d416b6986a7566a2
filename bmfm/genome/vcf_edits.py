"""From located fields to edits: is a record for this genome, and what do its alleles change."""

from typing import NamedTuple

import numba
import numpy as np

from bmfm.genome import vcf_filter
from bmfm.genome.frequency import ROUNDING
from bmfm.genome.vcf_scan import ABSENT, FLAG, INT8, INT32, TEXT, integer, width

ELIGIBLE, NO_ALT, NO_CONTIG, TELOMERE, MISMATCH, NOT_PASSED, NO_FLAG, NO_FREQUENCY, BEYOND, AMBIGUOUS = range(10)  # of a record
SKIPS = {
    NO_ALT: "no ALT allele",
    NO_CONTIG: "contig not in the genome",
    TELOMERE: "before the first or after the last base of the contig",
    MISMATCH: "REF disagrees with the genome",
    BEYOND: "beyond the end of the contig",
    AMBIGUOUS: "contig may be either of several in the genome",
    NOT_PASSED: "FILTER is not PASS",
    NO_FREQUENCY: vcf_filter.NO_FREQUENCY,
}
TAKEN, NO_BASES, OUT_OF_BOUNDS, IS_REF, WRONG_KIND, OF_SKIPPED = 0, 1, 2, 3, 4, 255  # of an allele; a WRONG_KIND is 4 + its kind
ALT_SKIPS = {
    NO_BASES: "symbolic, spanning or non-ACGTN ALT",
    OUT_OF_BOUNDS: "frequency out of bounds",
    IS_REF: "ALT equals REF",
}
MISFIT, PARTIAL, DEFAULT, RESCALED = 1, 2, 4, 8  # bits of what is noted of a record
UNSTATED, STATED, HARD = 0, 1, 2  # whether frequencies are stated; HARD: see `vcf_figures`
SNV, MNV, INSERTION, DELETION, COMPLEX = range(5)


class Genome(NamedTuple):
    """`Reference.codes`, the ends of its contigs, and the codes of letters."""

    codes: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    table: np.ndarray


class Verdicts(NamedTuple):
    """What is found out about R records with A alleles; the kernels fill it in turn.

    Attributes
    ----------
    reason : uint8 [R]
        `ELIGIBLE`, or why the record is left out: a key of `SKIPS`, or `NO_FLAG`.
    state : uint8 [R]
        `UNSTATED`, `STATED` or `HARD`.
    notes : uint8 [R]
        Bits `MISFIT`, `PARTIAL`, `DEFAULT`, `RESCALED`.
    frequency : float64 [A]
    alt_reason : uint8 [A]
        `TAKEN`, a key of `ALT_SKIPS` or `WRONG_KIND` + kind; `OF_SKIPPED` where the whole record is left out.
    """

    reason: np.ndarray
    state: np.ndarray
    notes: np.ndarray
    frequency: np.ndarray
    alt_reason: np.ndarray


class Edits(NamedTuple):
    """Room for the edits of A alleles.

    Attributes
    ----------
    numbers : int64 [6, A]
        Start, end, bases of ALT, record, allele, kind.
    slices : float32 [2, A]
        Low and high.
    alt : uint8
        State codes of the bases of all ALTs.
    """

    numbers: np.ndarray
    slices: np.ndarray
    alt: np.ndarray


class AlleleBounds(NamedTuple):
    """What `VariantFilter` asks of alleles.

    Attributes
    ----------
    default
        Frequency of an allele whose record states none; NaN leaves it out.
    frequency : float32 [2]
        Least and greatest frequency.
    kinds : bool
        Whether each of `vcf_filter.KINDS` is taken.
    """

    default: float
    frequency: np.ndarray
    kinds: np.ndarray


@numba.njit(nogil=True, cache=True)
def _agrees(codes, table, start, contig_end, data, ref_start, ref_end):
    if ref_end == ref_start or start + ref_end - ref_start > contig_end:
        return False
    for i in range(ref_end - ref_start):  # noqa: SIM110 (a kernel)
        if (codes[start + i] ^ table[data[ref_start + i]]) & 0x7F:
            return False
    return True


@numba.njit(nogil=True, cache=True)
def _is_set(data, kind, start, end):
    """Whether an INFO value means that a flag is set: it stands alone, or is neither missing nor 0 (``COMMON=1``)."""
    if kind == ABSENT or (kind != FLAG and start == end):
        return False
    if kind == TEXT:
        return not (end == start + 1 and (data[start] == 46 or data[start] == 48))
    if INT8 <= kind <= INT32:
        value = integer(data, start, kind)
        return value != 0 and value != -(1 << (8 * width(kind) - 1))
    return True


@numba.njit(nogil=True, cache=True)
def check(data, r, contig, genome, pass_only, flag, reason, disorder):
    """Why each record is left out, or `ELIGIBLE`.

    Parameters
    ----------
    contig : int64 [R]
        Number of the record's contig in the genome, -1 if it has none, -2 if it may be either of several.
    flag
        Number of the INFO value that must be set, -1 for none.
    reason : uint8 [R]
        Written.
    disorder : int64 [2]
        Written: records that stand before their predecessor, and the first of them.
    """
    codes, starts, ends, table = genome
    last_contig = last_position = np.int64(-1)
    disorder[0], disorder[1] = 0, -1
    for i in range(len(reason)):
        c, position = contig[i], r.position[i]
        if r.first_alt[i] == r.first_alt[i + 1]:
            reason[i] = NO_ALT
            continue
        if c < 0:
            reason[i] = NO_CONTIG if c == -1 else AMBIGUOUS
            continue
        if c < last_contig or (c == last_contig and position < last_position):
            disorder[1] = i if disorder[0] == 0 else disorder[1]
            disorder[0] += 1
        last_contig, last_position = c, position
        if position < 0 or position == ends[c] - starts[c]:
            reason[i] = TELOMERE
        elif position + r.ref_end[i] - r.ref_start[i] > ends[c] - starts[c]:
            reason[i] = BEYOND
        elif not _agrees(codes, table, starts[c] + position, ends[c], data, r.ref_start[i], r.ref_end[i]):
            reason[i] = MISMATCH
        elif pass_only and not r.passes[i]:
            reason[i] = NOT_PASSED
        elif flag >= 0 and not _is_set(data, r.value_type[i, flag], r.value_start[i, flag], r.value_end[i, flag]):
            reason[i] = NO_FLAG
        else:
            reason[i] = ELIGIBLE


@numba.njit(nogil=True, cache=True)
def _plain_bases(data, start, end, table):
    for i in range(start, end):
        if table[data[i]] & 0x7F > 4 or (table[data[i]] & 0x7F == 4 and data[i] | 32 != 110) or data[i] | 32 == 117:
            return False
    return end > start


@numba.njit(nogil=True, cache=True)
def _trimmed(data, ref, ref_end, alt, alt_end, table):
    """REF and ALT without the bases that both share at the end, then at the start; how many were cut at the start.

    One base is kept for the start at first, so that an indel begins after the base before it. What then still ends alike
    is anchored by the base after it, as at the first position of a contig (``C`` to ``TTC``).
    """
    while ref_end - ref > 1 and alt_end - alt > 1 and (table[data[ref_end - 1]] ^ table[data[alt_end - 1]]) & 0x7F == 0:
        ref_end -= 1
        alt_end -= 1
    shift = 0
    while ref + shift < ref_end and alt + shift < alt_end and (table[data[ref + shift]] ^ table[data[alt + shift]]) & 0x7F == 0:
        shift += 1
    while ref_end > ref + shift and alt_end > alt + shift and (table[data[ref_end - 1]] ^ table[data[alt_end - 1]]) & 0x7F == 0:
        ref_end -= 1
        alt_end -= 1
    return shift, ref_end, alt_end


@numba.njit(nogil=True, cache=True)
def _kind(n_ref, n_alt):
    if n_ref == n_alt:
        return SNV if n_ref == 1 else MNV
    return INSERTION if n_ref == 0 else DELETION if n_alt == 0 else COMPLEX


@numba.njit(nogil=True, cache=True)
def make_edits(data, r, offset, table, bounds, verdicts, edits):
    """Write the edits of eligible records, and why each other allele is left out.

    Parameters
    ----------
    offset : int64 [R]
        Where the record's contig begins in `Reference.codes`.

    Returns
    -------
    (edits, bases of ALT)
    """
    reason, state, notes, frequency, alt_reason = verdicts
    numbers, slices, alt = edits
    n = n_bases = 0
    for i in range(len(reason)):
        first, stop = r.first_alt[i], r.first_alt[i + 1]
        if reason[i] == ELIGIBLE and state[i] != STATED:
            if np.isnan(bounds.default):
                reason[i] = NO_FREQUENCY
            else:
                notes[i] |= DEFAULT
                frequency[first:stop] = bounds.default
        if reason[i] != ELIGIBLE:
            alt_reason[first:stop] = OF_SKIPPED
            continue
        total = 0.0
        for a in range(first, stop):
            total += frequency[a]
        if total > 1:
            notes[i] |= RESCALED if total > 1 + ROUNDING else 0
            for a in range(first, stop):
                frequency[a] /= total
        high = 0.0
        ref, ref_end = r.ref_start[i], r.ref_end[i]
        for a in range(first, stop):
            low = high
            high = low + frequency[a]
            rounded = np.float32(frequency[a])
            if not _plain_bases(data, r.alt_start[a], r.alt_end[a], table):
                alt_reason[a] = NO_BASES
                continue
            if not bounds.frequency[0] <= rounded <= bounds.frequency[1]:
                alt_reason[a] = OUT_OF_BOUNDS
                continue
            shift, short_ref_end, short_alt_end = _trimmed(data, ref, ref_end, r.alt_start[a], r.alt_end[a], table)
            n_ref, n_alt = short_ref_end - ref - shift, short_alt_end - r.alt_start[a] - shift
            if n_ref == 0 and n_alt == 0:
                alt_reason[a] = IS_REF
                continue
            kind = _kind(n_ref, n_alt)
            if not bounds.kinds[kind]:
                alt_reason[a] = WRONG_KIND + kind
                continue
            alt_reason[a] = TAKEN
            start = offset[i] + r.position[i] + shift
            numbers[0, n], numbers[1, n], numbers[2, n] = start, start + n_ref, n_alt
            numbers[3, n], numbers[4, n], numbers[5, n] = i, a - first + 1, kind
            slices[0, n], slices[1, n] = low, high
            n += 1
            for k in range(r.alt_start[a] + shift, short_alt_end):
                alt[n_bases] = table[data[k]] & 0x7F
                n_bases += 1
    return n, n_bases


@numba.njit(nogil=True, cache=True)
def gather(alt, alt_start, lengths, order, out):
    """Bring the ALT bases of edits into a new order."""
    n = 0
    for e in order:
        for k in range(alt_start[e], alt_start[e] + lengths[e]):
            out[n] = alt[k]
            n += 1
