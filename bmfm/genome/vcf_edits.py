"""From located fields to edits: is a record for this genome, how frequent are its alleles, and what do they change."""

import numba
import numpy as np

from bmfm.genome.vcf_genotypes import count_carriers
from bmfm.genome.vcf_scan import ABSENT, FLAG, FLOAT, INT8, INT32, TEXT, integer, uint32, width

ELIGIBLE, NO_ALT, NO_CONTIG, TELOMERE, MISMATCH, NOT_PASSED, NO_FLAG, NO_FREQUENCY = range(8)  # of a record
SKIPS = {
    NO_ALT: "no ALT allele",
    NO_CONTIG: "contig not in the genome",
    TELOMERE: "before the first or after the last base of the contig",
    MISMATCH: "REF disagrees with the genome",
    NOT_PASSED: "FILTER is not PASS",
    NO_FREQUENCY: "no frequency stated",
}
TAKEN, NO_BASES, OUT_OF_BOUNDS, IS_REF, WRONG_KIND, OF_SKIPPED = 0, 1, 2, 3, 4, 255  # of an allele; a WRONG_KIND is 4 + its kind
ALT_SKIPS = {
    NO_BASES: "symbolic, spanning or non-ACGTN ALT",
    OUT_OF_BOUNDS: "frequency out of bounds",
    IS_REF: "ALT equals REF",
}
FIGURES, COUNTS, FREQ, CAF, GENOTYPES = range(5)  # steps of a plan to find frequencies
MISFIT, PARTIAL, DEFAULT, RESCALED = 1, 2, 4, 8  # bits of what is noted of a record
UNSTATED, STATED, HARD = 0, 1, 2  # whether frequencies are stated; HARD: the plain functions of `frequency` must look
SNV, MNV, INSERTION, DELETION, COMPLEX = range(5)


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
def check(data, r, contig, codes, table, starts, ends, pass_only, flag, reason, disorder):
    """Why each record is left out, or `ELIGIBLE`.

    Parameters
    ----------
    contig : int64 [R]
        Number of the record's contig in the genome, -1 if it has none.
    flag
        Number of the INFO value that must be set, -1 for none.
    reason : uint8 [R]
        Written.
    disorder : int64 [2]
        Written: records that stand before their predecessor, and the first of them.
    """
    last_contig = last_position = np.int64(-1)
    disorder[0], disorder[1] = 0, -1
    for i in range(len(reason)):
        c, position = contig[i], r.position[i]
        if r.first_alt[i] == r.first_alt[i + 1]:
            reason[i] = NO_ALT
            continue
        if c < 0:
            reason[i] = NO_CONTIG
            continue
        if c < last_contig or (c == last_contig and position < last_position):
            disorder[1] = i if disorder[0] == 0 else disorder[1]
            disorder[0] += 1
        last_contig, last_position = c, position
        if position < 0 or position == ends[c] - starts[c]:
            reason[i] = TELOMERE
        elif not _agrees(codes, table, starts[c] + position, ends[c], data, r.ref_start[i], r.ref_end[i]):
            reason[i] = MISMATCH
        elif pass_only and not r.passes[i]:
            reason[i] = NOT_PASSED
        elif flag >= 0 and not _is_set(data, r.value_type[i, flag], r.value_start[i, flag], r.value_end[i, flag]):
            reason[i] = NO_FLAG
        else:
            reason[i] = ELIGIBLE


_POWERS = np.array([10.0**k for k in range(23)])


@numba.njit(nogil=True, cache=True)
def _number(data, start, end):
    """(whether it is plain, value): a decimal figure that float64 holds exactly up to one rounding; NaN for ``.``."""
    if start == end or (end == start + 1 and data[start] == 46):
        return True, np.nan
    i = start
    mantissa, n_digits, n_fraction, exponent, some = np.int64(0), 0, 0, 0, False
    in_fraction = False
    while i < end:
        byte = data[i]
        if 48 <= byte <= 57:
            some = True
            mantissa = 10 * mantissa + byte - 48
            n_digits += mantissa > 0
            n_fraction += in_fraction
            if n_digits > 15:
                return False, 0.0
        elif byte == 46 and not in_fraction:
            in_fraction = True
        else:
            break
        i += 1
    if not some:
        return False, 0.0
    if i < end:
        if data[i] | 32 != 101 or i + 1 == end:
            return False, 0.0
        negative = data[i + 1] == 45
        i += 2 if negative or data[i + 1] == 43 else 1
        if i == end or end - i > 3:
            return False, 0.0
        while i < end:
            if data[i] < 48 or data[i] > 57:
                return False, 0.0
            exponent = 10 * exponent + data[i] - 48
            i += 1
        exponent = -exponent if negative else exponent
    exponent -= n_fraction
    if exponent < -22 or exponent > 22:
        return False, 0.0
    return True, mantissa / _POWERS[-exponent] if exponent < 0 else mantissa * _POWERS[exponent]


@numba.njit(nogil=True, cache=True)
def _text_figures(data, start, end, passed_over, out):
    """Figures between commas, without the first `passed_over`; -1 if one needs a closer look."""
    n, i = -passed_over, start
    while True:
        stop = i
        while stop < end and data[stop] != 44:
            stop += 1
        if n >= 0:
            plain, value = _number(data, i, stop)
            if not plain:
                return -1
            if n < len(out):
                out[n] = value
        n += 1
        if stop == end:
            return max(n, 0)
        i = stop + 1


@numba.njit(nogil=True, cache=True)
def _binary_figures(data, kind, start, end, passed_over, out):
    n, size = -passed_over, width(kind)
    bits = np.empty(1, np.uint32)
    for i in range(start, end, size):
        if kind == FLOAT:
            bits[0] = uint32(data, i)
            if bits[0] == 0x7F800002:  # the end of a value that is shorter than others
                break
            value = np.float64(bits.view(np.float32)[0])
        else:
            whole, least = integer(data, i, kind), -(1 << (8 * size - 1))
            if whole == least + 1:
                break
            value = np.nan if whole == least else np.float64(whole)
        if 0 <= n < len(out):
            out[n] = value
        n += 1
    return max(n, 0)


@numba.njit(nogil=True, cache=True)
def _figures(data, kind, start, end, passed_over, out):
    if kind == TEXT:
        return _text_figures(data, start, end, passed_over, out)
    if kind in (FLAG, ABSENT):
        return 0
    return _binary_figures(data, kind, start, end, passed_over, out)


@numba.njit(nogil=True, cache=True)
def _settle(figures, n, out):
    """(state, note): copy the figures of one record to `out` if there is one for each ALT; see `frequency._per_alt`."""
    missing = 0
    for i in range(min(n, len(figures))):
        missing += np.isnan(figures[i])
        if figures[i] < 0 or figures[i] > 1:
            return HARD, 0
    if missing == n:
        return UNSTATED, 0
    if n != len(out):
        return UNSTATED, MISFIT
    for i in range(n):
        out[i] = 0.0 if np.isnan(figures[i]) else figures[i]
    return STATED, PARTIAL if missing else 0


@numba.njit(nogil=True, cache=True)
def _single(figures, n):
    for i in range(min(n, len(figures))):
        figures[i] = np.float64(np.float32(figures[i]))


@numba.njit(nogil=True, cache=True)
def _mean_over_studies(data, start, end, figures, out):
    """See `frequency.dbsnp_freq`."""
    n_alts, note = len(out), 0
    sums, counts = np.zeros(n_alts), np.zeros(n_alts, np.int64)
    i = start
    while i <= end:
        stop, first = i, i
        while stop < end and data[stop] != 124:
            if data[stop] == 58:
                first = stop + 1
            stop += 1
        n = _text_figures(data, first, stop, 1, figures)
        if n < 0:
            return HARD, 0
        missing = 0
        for k in range(min(n, len(figures))):
            missing += np.isnan(figures[k])
            if figures[k] < 0 or figures[k] > 1:
                return HARD, 0
        if missing < n and n != n_alts:
            note = MISFIT
        elif missing < n:
            for k in range(n_alts):
                if not np.isnan(figures[k]):
                    sums[k] += figures[k]
                    counts[k] += 1
        i = stop + 1
    for k in range(n_alts):
        sums[k] = sums[k] / counts[k] if counts[k] else np.nan
    state, other = _settle(sums, n_alts, out)
    return state, note | other


@numba.njit(nogil=True, cache=True)
def _by_step(data, r, i, step, key, figures, out, in_bcf, gt_key, n_samples):
    """(state, note) of one record after one step of the plan."""
    if step == GENOTYPES:
        counts = np.zeros(len(out) + 1, np.int64)
        if not count_carriers(data, r, i, in_bcf, gt_key, n_samples, counts):
            return HARD, 0
        for a in range(len(out) if counts.sum() else 0):
            out[a] = counts[a + 1] / counts.sum()
        return STATED if counts.sum() else UNSTATED, 0
    kind, start, end = r.value_type[i, key], r.value_start[i, key], r.value_end[i, key]
    if kind == ABSENT or (step == FREQ and kind != TEXT):
        return UNSTATED, 0
    if step == FREQ:
        return _mean_over_studies(data, start, end, figures, out)
    if step == CAF and kind == TEXT and end > start + 1 and data[start] == 91 and data[end - 1] == 93:
        start, end = start + 1, end - 1
    if step == COUNTS:  # the key after that of the counts is AN
        n = _figures(data, r.value_type[i, key + 1], r.value_start[i, key + 1], r.value_end[i, key + 1], 0, figures)
        total = figures[0] if n else np.nan
        if n < 0 or n > 1:
            return HARD, 0
        if total == 0 or np.isnan(total):
            return UNSTATED, 0
    n = _figures(data, kind, start, end, 1 if step == CAF else 0, figures)
    if n < 0 or n > len(figures):
        return HARD, 0
    if step == COUNTS:
        for a in range(n):
            figures[a] = figures[a] / total
    else:
        _single(figures, n)
    return _settle(figures, n, out)


@numba.njit(nogil=True, cache=True)
def read_frequencies(data, r, reason, steps, step_key, in_bcf, gt_key, n_samples, frequency, state, notes):
    """Frequencies of the alleles of eligible records, by the first step of a plan that finds them.

    Parameters
    ----------
    steps, step_key : int64 [steps]
        What is tried, and the number of the INFO value that it reads.
    frequency : float64 [A], state : uint8 [R], notes : uint8 [R]
        Written.
    """
    for i in range(len(reason)):
        state[i] = notes[i] = 0
        if reason[i] != ELIGIBLE:
            continue
        out = frequency[r.first_alt[i] : r.first_alt[i + 1]]
        figures = np.empty(len(out) + 2)
        for s in range(len(steps)):
            state[i], note = _by_step(data, r, i, steps[s], step_key[s], figures, out, in_bcf, gt_key, n_samples)
            notes[i] |= note
            if state[i] != UNSTATED:
                break


@numba.njit(nogil=True, cache=True)
def _plain_bases(data, start, end, table):
    for i in range(start, end):
        if table[data[i]] & 0x7F > 4 or (table[data[i]] & 0x7F == 4 and data[i] | 32 != 110) or data[i] | 32 == 117:
            return False
    return end > start


@numba.njit(nogil=True, cache=True)
def _trimmed(data, ref, ref_end, alt, alt_end, table):
    """REF and ALT without the bases that both share at the end, then at the start; how many were cut at the start."""
    while ref_end - ref > 1 and alt_end - alt > 1 and (table[data[ref_end - 1]] ^ table[data[alt_end - 1]]) & 0x7F == 0:
        ref_end -= 1
        alt_end -= 1
    shift = 0
    while ref + shift < ref_end and alt + shift < alt_end and (table[data[ref + shift]] ^ table[data[alt + shift]]) & 0x7F == 0:
        shift += 1
    return shift, ref_end, alt_end


@numba.njit(nogil=True, cache=True)
def _kind(n_ref, n_alt):
    if n_ref == n_alt:
        return SNV if n_ref == 1 else MNV
    return INSERTION if n_ref == 0 else DELETION if n_alt == 0 else COMPLEX


@numba.njit(nogil=True, cache=True)
def make_edits(data, r, reason, offset, table, default, frequency, state, notes, bounds, wanted, alt_reason, columns, slices, alt):
    """Write the edits of eligible records, and why each other allele is left out.

    Parameters
    ----------
    offset : int64 [R]
        Where the record's contig begins in `Reference.codes`.
    default
        Frequency of alleles whose record states none; NaN leaves them out.
    bounds : float32 [2]
        Least and greatest frequency.
    wanted : bool [5]
        Kinds to take.
    alt_reason : uint8 [A]
        Written: `TAKEN`, a key of `ALT_SKIPS` or `WRONG_KIND` + kind; `OF_SKIPPED` where the whole record is left out.
    columns : int64 [6, A], slices : float32 [2, A], alt : uint8
        Written: start, end, bases of ALT, record, allele, kind; low, high; state codes.

    Returns
    -------
    (edits, bases of ALT)
    """
    n = n_bases = 0
    for i in range(len(reason)):
        first, stop = r.first_alt[i], r.first_alt[i + 1]
        if reason[i] == ELIGIBLE and state[i] != STATED:
            if np.isnan(default):
                reason[i] = NO_FREQUENCY
            else:
                notes[i] |= DEFAULT
                frequency[first:stop] = default
        if reason[i] != ELIGIBLE:
            alt_reason[first:stop] = OF_SKIPPED
            continue
        total = 0.0
        for a in range(first, stop):
            total += frequency[a]
        if total > 1:
            notes[i] |= RESCALED
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
            if not bounds[0] <= rounded <= bounds[1]:
                alt_reason[a] = OUT_OF_BOUNDS
                continue
            shift, short_ref_end, short_alt_end = _trimmed(data, ref, ref_end, r.alt_start[a], r.alt_end[a], table)
            n_ref, n_alt = short_ref_end - ref - shift, short_alt_end - r.alt_start[a] - shift
            if n_ref == 0 and n_alt == 0:
                alt_reason[a] = IS_REF
                continue
            kind = _kind(n_ref, n_alt)
            if not wanted[kind]:
                alt_reason[a] = WRONG_KIND + kind
                continue
            alt_reason[a] = TAKEN
            start = offset[i] + r.position[i] + shift
            columns[0, n], columns[1, n], columns[2, n] = start, start + n_ref, n_alt
            columns[3, n], columns[4, n], columns[5, n] = i, a - first + 1, kind
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
