"""Allele frequencies from located INFO values and genotypes, as `frequency` defines them.

A record whose figures are out of the ordinary (more digits than float64 holds, no number, below 0 or above 1) is left to
the functions of `frequency`, which read every number and say what is wrong.
"""

import numba
import numpy as np

from bmfm.genome.vcf_edits import ELIGIBLE, HARD, MISFIT, PARTIAL, STATED, UNSTATED
from bmfm.genome.vcf_genotypes import count_carriers
from bmfm.genome.vcf_scan import ABSENT, FLAG, FLOAT, TEXT, integer, uint32, width

FIGURES, COUNTS, FREQ, CAF, GENOTYPES = range(5)  # steps of a plan to find frequencies
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
        if first == i and not (stop == i or (stop == i + 1 and data[i] == 46)):
            return HARD, 0  # no name of a study
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
def _by_step(data, r, i, step, key, figures, out, form):
    """(state, note) of one record after one step of the plan."""
    if step == GENOTYPES:
        counts = np.zeros(len(out) + 1, np.int64)
        if not count_carriers(data, r, i, form, counts):
            return HARD, 0
        n_called = 0
        for count in counts:
            n_called += count
        for a in range(len(out) if n_called else 0):
            out[a] = counts[a + 1] / n_called
        return STATED if n_called else UNSTATED, 0
    kind, start, end = r.value_type[i, key], r.value_start[i, key], r.value_end[i, key]
    if kind == ABSENT or (step == FREQ and kind == FLAG):
        return UNSTATED, 0
    if step == FREQ and kind != TEXT:
        return HARD, 0
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
def read_frequencies(data, r, steps, step_key, form, verdicts):
    """Frequencies of the alleles of eligible records, by the first step of a plan that finds them.

    Parameters
    ----------
    steps, step_key : int64 [steps]
        What is tried, and the number of the INFO value that it reads.
    form : vcf_genotypes.Format
    """
    reason, state, notes, frequency, _ = verdicts
    for i in range(len(reason)):
        state[i] = notes[i] = 0
        if reason[i] != ELIGIBLE:
            continue
        out = frequency[r.first_alt[i] : r.first_alt[i + 1]]
        figures = np.empty(len(out) + 2)
        for s in range(len(steps)):
            state[i], note = _by_step(data, r, i, steps[s], step_key[s], figures, out, form)
            notes[i] |= note
            if state[i] != UNSTATED:
                break
