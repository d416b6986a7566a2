"""Genotypes of VCF and BCF records: the two copies of chosen samples, and the alleles that all samples carry."""

from typing import NamedTuple

import numba
import numpy as np

from bmfm.genome.vcf_scan import INT8, INT32, TEXT, _digits, integer, same_bytes, typed, width

NO_GT, NOT_CALLED, POLYPLOID, UNPHASED, BEYOND = range(5)
NOTES = (
    "genotypes lack GT (read as the reference)",
    "genotype not called (read as the reference)",
    "genotype of more than two copies (the first two are read)",
    "heterozygous genotype without phase (order in the file used)",
    "genotype names an allele that its record lacks (read as the reference)",
)


class Format(NamedTuple):
    """How genotypes are written: as text or as BCF, the numbers of GT and PS in a BCF's header, and how many samples there are."""

    in_bcf: bool
    gt_key: int
    ps_key: int
    n_samples: int


class Genotypes(NamedTuple):
    """What is read from the genotypes of one record.

    Attributes
    ----------
    copies : int16 [chosen, 2]
        Alleles of the chosen samples; -1 where not called.
    phase_sets : int64 [chosen]
        A number for the phase set of each phased heterozygous genotype.
    noted : int64 [NOTES]
        Oddities of the chosen samples are added.
    counts : int64 [n_alts + 1] or [0]
        Carriers of each allele among all samples are added; not if empty.
    """

    copies: np.ndarray
    phase_sets: np.ndarray
    noted: np.ndarray
    counts: np.ndarray


_MOST = 64  # copies of one genotype that are looked at
_GT = np.frombuffer(b"GT", np.uint8)
_PS = np.frombuffer(b"PS", np.uint8)


@numba.njit(nogil=True, cache=True)
def _text_genotype(data, start, end, alleles):
    """Number of copies (-1: no genotype) and whether all are phased; `alleles` are filled, -1 where not called."""
    n, phased, i = 0, True, start
    if i < end and (data[i] == 124 or data[i] == 47):  # VCF 4.4 may begin with the phase of the first copy
        i += 1
    if i == end:
        return (0, True) if start == end else (-1, True)
    while True:
        stop = i
        while stop < end and data[stop] != 124 and data[stop] != 47:
            stop += 1
        called = not (stop == i + 1 and data[i] == 46)
        allele = _digits(data, i, stop) if called else -1
        if called and allele < 0:
            return -1, True
        if n < _MOST:
            alleles[n] = allele
        n += 1
        if stop == end:
            return n, phased
        phased &= data[stop] == 124
        i = stop + 1


@numba.njit(nogil=True, cache=True)
def _binary_genotype(data, at, kind, n_values, alleles):
    """Like `_text_genotype`, for a GT of BCF."""
    n, phased = 0, True
    least = -(1 << (8 * width(kind) - 1))
    for v in range(n_values):
        value = integer(data, at + v * width(kind), kind)
        if value == least + 1:  # the end of a genotype that is shorter than others
            break
        if value < 0:
            value = 0
        if n < _MOST:
            alleles[n] = (value >> 1) - 1
        if n:
            phased &= (value & 1) == 1
        n += 1
    return n, phased


@numba.njit(nogil=True, cache=True)
def _write_copies(alleles, n, phased, n_alts, out, noted):
    """Write the two copies of one genotype, and count what is odd about it; whether it is phased and heterozygous."""
    if n > 2:
        noted[POLYPLOID] += 1
    one = alleles[0] if n else -1
    two = alleles[1] if n > 1 else one
    if one < 0 or two < 0:
        noted[NOT_CALLED] += 1
    if one > n_alts or two > n_alts:
        noted[BEYOND] += 1
        one, two = -1 if one > n_alts else one, -1 if two > n_alts else two
    out[0], out[1] = one, two
    if one >= 0 and two >= 0 and one != two:
        noted[UNPHASED] += not phased
        return phased
    return False


@numba.njit(nogil=True, cache=True)
def _field_of(data, start, end, name):
    """Number of the field `name` of a FORMAT column, or -1."""
    field = 0
    i = start
    while i < end:
        stop = i
        while stop < end and data[stop] != 58:
            stop += 1
        if same_bytes(data, i, stop, name, 0, len(name)):
            return field
        field += 1
        i = stop + 1
    return -1


@numba.njit(nogil=True, cache=True)
def _field(data, start, end, number):
    """Bytes of a field of a sample's column; an empty range where it is left out."""
    while number and start < end:
        if data[start] == 58:
            number -= 1
        start += 1
    if number:
        return end, end
    stop = start
    while stop < end and data[stop] != 58:
        stop += 1
    return start, stop


@numba.njit(nogil=True, cache=True)
def _text_phase_set(data, start, end):
    """A number for the name of a phase set, 0 for none."""
    if start == end or (end == start + 1 and data[start] == 46):
        return 0
    value = _digits(data, start, end)
    if value < 0:
        value = 0
        for i in range(start, end):
            value = value * 1_000_003 + data[i]
    return value + 1


@numba.njit(nogil=True, cache=True)
def read_text(data, start, end, slot, n_alts, counted, into):
    """Genotypes of one record of text.

    Parameters
    ----------
    slot : int64 [samples]
        Row of `into` for each sample, -1 for one that was not asked for.
    counted
        Whether oddities and phase sets of the chosen samples are noted.
    into : Genotypes

    Returns
    -------
    bool
        False if a column is no genotype.
    """
    alleles = np.empty(_MOST, np.int64)
    counts = into.counts
    noted = into.noted if counted else np.empty_like(into.noted)
    format_end = start
    while format_end < end and data[format_end] != 9:
        format_end += 1
    gt, ps = _field_of(data, start, format_end, _GT), _field_of(data, start, format_end, _PS)
    if gt < 0:
        noted[NO_GT] += len(into.copies)
        return True
    i = format_end + 1
    for sample in range(len(slot)):
        stop = i
        while stop < end and data[stop] != 9:
            stop += 1
        row = slot[sample]
        if row >= 0 or len(counts):
            first, last = _field(data, i, stop, gt)
            n, phased = _text_genotype(data, first, last, alleles)
            if n < 0:
                return False
            for a in range(min(n, _MOST) if len(counts) else 0):
                if 0 <= alleles[a] < len(counts):
                    counts[alleles[a]] += 1
            if row >= 0 and _write_copies(alleles, n, phased, n_alts, into.copies[row], noted) and ps >= 0 and counted:
                first, last = _field(data, i, stop, ps)
                into.phase_sets[row] = _text_phase_set(data, first, last)
        i = stop + 1
    return True


@numba.njit(nogil=True, cache=True)
def read_bcf(data, start, end, n_fields, slot, n_alts, counted, form, into):
    """Genotypes of one record of a BCF, whose `Format` is `form` and which has so many fields of FORMAT; see `read_text`."""
    alleles = np.empty(_MOST, np.int64)
    n_samples, counts = len(slot), into.counts
    noted = into.noted if counted else np.empty_like(into.noted)
    gt_kind, gt_n, gt_at = 0, 0, np.int64(-1)
    ps_kind, ps_n, ps_at = 0, 0, np.int64(-1)
    at = start
    while at < end:
        key_kind, n_key, key_at = typed(data, at, end)
        if key_at < 0 or n_key != 1 or not INT8 <= key_kind <= INT32:
            return False
        key = integer(data, key_at, key_kind)
        kind, n, first = typed(data, key_at + width(key_kind), end)
        if first < 0:
            return False
        if first + n_samples * n * width(kind) > end:
            return False
        if key == form.gt_key and kind <= INT32:
            gt_kind, gt_n, gt_at = kind, n, first
        if key == form.ps_key:
            ps_kind, ps_n, ps_at = kind, n, first
        at = first + n_samples * n * width(kind)
        n_fields -= 1
    if n_fields:
        return False
    if gt_at < 0:
        noted[NO_GT] += len(into.copies)
        return True
    for sample in range(n_samples):
        row = slot[sample]
        if row >= 0 or len(counts):
            n, phased = _binary_genotype(data, gt_at + sample * gt_n * width(gt_kind), gt_kind, gt_n, alleles)
            for a in range(min(n, _MOST) if len(counts) else 0):
                if 0 <= alleles[a] < len(counts):
                    counts[alleles[a]] += 1
            if row >= 0 and _write_copies(alleles, n, phased, n_alts, into.copies[row], noted) and ps_at >= 0 and counted:
                into.phase_sets[row] = _binary_phase_set(data, ps_at + sample * ps_n * width(ps_kind), ps_kind, ps_n)
    return True


@numba.njit(nogil=True, cache=True)
def _binary_phase_set(data, at, kind, n):
    if kind == TEXT:
        end = at + n
        while end > at and data[end - 1] == 0:
            end -= 1
        return _text_phase_set(data, at, end)
    if n == 0 or not INT8 <= kind <= INT32:
        return 0
    value = integer(data, at, kind)
    return value + 1 if value >= 0 else 0


@numba.njit(nogil=True, cache=True)
def read_genotypes(data, r, form, slot, eligible, copies, phase_sets, noted, first_noted):
    """Genotypes of the chosen samples in all records; -1 if all can be read, or else the record that cannot.

    Parameters
    ----------
    eligible : bool [R]
        Records whose alleles may be taken: only their oddities are counted.
    copies : int16 [R, chosen, 2], phase_sets : int64 [R, chosen]
        Both hold -1 and 0 before.
    noted, first_noted : int64 [NOTES]
        Genotypes that are odd in each way, and the first record with one.
    """
    nothing = np.empty(0, np.int64)
    before = np.empty_like(noted)
    for i in range(len(r.position)):
        n_alts = r.first_alt[i + 1] - r.first_alt[i]
        before[:] = noted
        start, end = r.genotypes_start[i], r.line_end[i]
        into = Genotypes(copies[i], phase_sets[i], noted, nothing)
        if form.in_bcf:
            good = read_bcf(data, start, end, data[r.line_start[i] + 31], slot, n_alts, eligible[i], form, into)
        else:
            good = read_text(data, start, end, slot, n_alts, eligible[i], into)
        if not good:
            return i
        for k in range(len(noted)):
            if noted[k] > before[k] and first_noted[k] < 0:
                first_noted[k] = i
    return -1


@numba.njit(nogil=True, cache=True)
def count_carriers(data, r, record, form, counts):
    """Carriers of each allele of one record among all samples, into `counts` [n_alts + 1]; False if it cannot be read."""
    start, end = r.genotypes_start[record], r.line_end[record]
    into = Genotypes(np.empty((0, 2), np.int16), np.empty(0, np.int64), np.zeros(5, np.int64), counts)
    nobody = np.full(form.n_samples, -1, np.int64)
    if form.in_bcf:
        return read_bcf(data, start, end, data[r.line_start[record] + 31], nobody, 0, False, form, into)
    return read_text(data, start, end, nobody, 0, False, into)
