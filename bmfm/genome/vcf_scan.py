"""Where the fields of VCF or BCF records lie in a piece of the file: one pass over the bytes, nothing copied.

Both formats give the same `Records`, from which `vcf_edits` and `vcf_genotypes` go on. The layout of BCF is that of the
specification, VCF 4.3 section 6.
"""

from typing import NamedTuple

import numba
import numpy as np

ABSENT, INT8, INT16, INT32, FLOAT, TEXT, FLAG = 0, 1, 2, 3, 5, 7, 8  # of an INFO value; 1 to 7 are the codes of BCF
GOOD, COLUMNS, POSITION, SAMPLES, BINARY, ALLELES = 0, 1, 2, 3, 4, 5  # what is wrong with a record
MOST_ALTS = 32767  # tables of variants and genotypes number alleles by int16
TROUBLE = {
    COLUMNS: "it has fewer than the 8 columns of a VCF, apart by tabs",
    POSITION: "its POS is no whole number",
    SAMPLES: "it has fewer columns than the header names samples",
    BINARY: "its binary fields do not fit its length",
    ALLELES: f"it has more than {MOST_ALTS:,} ALT alleles; split it: bcftools norm -m -",
}


class Records(NamedTuple):
    """R records with A ALT alleles in all; every ``*_start`` and ``*_end`` is a half-open range of bytes of the piece.

    Attributes
    ----------
    contig : int64 [R]
        Text: number of the stretch of records that name the same contig, see `run_start`. BCF: number in the header.
    run_start, run_end : int64 [stretches]
        Bytes of the contig's name; empty for BCF.
    position : int64 [R]
        0-based; -1 is POS 0, the telomere.
    first_alt : int64 [R + 1]
        Record r has the alleles ``first_alt[r]:first_alt[r + 1]``.
    passes : bool [R]
        Whether FILTER is PASS or absent.
    value_type, value_start, value_end : [R, K]
        Type code and bytes of each INFO value that was asked for.
    genotypes_start : int64 [R]
        Where the FORMAT column begins, or the same part of a BCF record; `line_end` where there is none.
    more_columns : bool [R]
        Whether a record has columns for which the header has no name.
    trouble : uint8 [R]
        Key of `TROUBLE`; 0 for a good record. Nothing is read after a bad one.
    """

    contig: np.ndarray
    run_start: np.ndarray
    run_end: np.ndarray
    position: np.ndarray
    ref_start: np.ndarray
    ref_end: np.ndarray
    first_alt: np.ndarray
    alt_start: np.ndarray
    alt_end: np.ndarray
    passes: np.ndarray
    value_type: np.ndarray
    value_start: np.ndarray
    value_end: np.ndarray
    line_start: np.ndarray
    line_end: np.ndarray
    genotypes_start: np.ndarray
    more_columns: np.ndarray
    trouble: np.ndarray


@numba.njit(nogil=True, cache=True)
def _empty_records(n, n_keys):
    wide = np.zeros((9, n), np.int64)
    return Records(
        wide[0], wide[7, :0], wide[8, :0], wide[1], wide[2], wide[3], np.zeros(n + 1, np.int64), np.empty(2 * n + 16, np.int64),
        np.empty(2 * n + 16, np.int64), np.zeros(n, np.bool_), np.zeros((n, n_keys), np.uint8), np.zeros((n, n_keys), np.int64),
        np.zeros((n, n_keys), np.int64), wide[4], wide[5], wide[6], np.zeros(n, np.bool_), np.zeros(n, np.uint8),
    )  # fmt: skip


@numba.njit(nogil=True, cache=True)
def _grown(array):
    out = np.empty(2 * len(array), np.int64)
    for i in range(len(array)):  # a copy of slices takes numba seconds to compile
        out[i] = array[i]
    return out


@numba.njit(nogil=True, cache=True)
def _finished(r, n, alt_start, alt_end, run_start, run_end):
    """The first `n` records, with the columns whose length was not known before."""
    a = r.first_alt[n]
    return Records(
        r.contig[:n], run_start, run_end, r.position[:n], r.ref_start[:n], r.ref_end[:n], r.first_alt[: n + 1], alt_start[:a], alt_end[:a],
        r.passes[:n], r.value_type[:n], r.value_start[:n], r.value_end[:n], r.line_start[:n], r.line_end[:n], r.genotypes_start[:n],
        r.more_columns[:n], r.trouble[:n],
    )  # fmt: skip


@numba.njit(nogil=True, cache=True, inline="always")
def same_bytes(data, start, end, other, other_start, other_end):
    """Whether two stretches of bytes are equal."""
    if end - start != other_end - other_start:
        return False
    for i in range(end - start):  # noqa: SIM110 (a kernel)
        if data[start + i] != other[other_start + i]:
            return False
    return True


@numba.njit(nogil=True, cache=True)
def _find_columns(data, at, tabs):
    """End of the line at `at`, and how many tabs it has; the first of them go to `tabs`."""
    n = 0
    i = at
    size = len(data)
    while i < size and data[i] != 10:
        if data[i] == 9:
            if n < len(tabs):
                tabs[n] = i
            n += 1
        i += 1
    return i, n


@numba.njit(nogil=True, cache=True)
def _find_values(data, start, end, keys, first_key, types, starts, ends):
    """Note the value of each wanted key of a text INFO column; where a key stands twice, the first counts."""
    i = start
    while i < end:
        item = i
        equals = -1
        while i < end and data[i] != 59:
            if equals < 0 and data[i] == 61:
                equals = i
            i += 1
        name_end = equals if equals >= 0 else i
        for k in range(len(first_key) - 1):
            if types[k] == ABSENT and same_bytes(data, item, name_end, keys, first_key[k], first_key[k + 1]):
                types[k] = TEXT if equals >= 0 else FLAG
                starts[k], ends[k] = equals + 1, i
        i += 1


@numba.njit(nogil=True, cache=True)
def _digits(data, start, end):
    """A whole number without sign, or -1."""
    if end - start < 1 or end - start > 17:
        return -1
    value = 0
    for i in range(start, end):
        if data[i] < 48 or data[i] > 57:
            return -1
        value = 10 * value + data[i] - 48
    return value


@numba.njit(nogil=True, cache=True)
def scan_text(data, n_lines, keys, first_key, n_samples):
    """`Records` of whole lines of VCF text; blank lines are passed over.

    Parameters
    ----------
    n_lines
        At least the number of lines.
    keys, first_key
        Names of the wanted INFO fields, in one array of bytes, and where each begins.
    """
    r = _empty_records(n_lines, len(first_key) - 1)
    alt_start, alt_end, run_start, run_end = r.alt_start, r.alt_end, np.empty(16, np.int64), np.empty(16, np.int64)
    tabs = np.empty(9, np.int64)
    n = n_runs = n_alts = at = 0
    while at < len(data):
        newline, n_tabs = _find_columns(data, at, tabs)
        end = newline
        if end > at and data[end - 1] == 13:
            end -= 1
        if end == at:
            at = newline + 1
            continue
        r.line_start[n], r.line_end[n], r.genotypes_start[n] = at, end, end
        r.first_alt[n + 1] = n_alts
        if n_tabs < 7 or (n_samples and n_tabs < 8 + n_samples):
            r.trouble[n] = COLUMNS if n_tabs < 7 else SAMPLES
            n += 1
            break
        if n_tabs >= 8 and n_samples:
            r.genotypes_start[n] = tabs[7] + 1
        r.more_columns[n] = n_tabs > 8 + n_samples
        if n_runs == 0 or not same_bytes(data, at, tabs[0], data, run_start[n_runs - 1], run_end[n_runs - 1]):
            if n_runs == len(run_start):
                run_start, run_end = _grown(run_start), _grown(run_end)
            run_start[n_runs], run_end[n_runs] = at, tabs[0]
            n_runs += 1
        r.contig[n] = n_runs - 1
        r.position[n] = _digits(data, tabs[0] + 1, tabs[1]) - 1
        if r.position[n] < -1:
            r.trouble[n] = POSITION
            n += 1
            break
        r.ref_start[n], r.ref_end[n] = tabs[2] + 1, tabs[3]
        start, stop = tabs[3] + 1, tabs[4]
        if stop > start and not (stop == start + 1 and data[start] == 46):
            for i in range(start, stop + 1):
                if i == stop or data[i] == 44:
                    if n_alts == len(alt_start):
                        alt_start, alt_end = _grown(alt_start), _grown(alt_end)
                    alt_start[n_alts], alt_end[n_alts] = start, i
                    n_alts += 1
                    start = i + 1
        r.first_alt[n + 1] = n_alts
        if n_alts - r.first_alt[n] > MOST_ALTS:
            r.trouble[n] = ALLELES
            n += 1
            break
        start, stop = tabs[5] + 1, tabs[6]
        r.passes[n] = (stop == start + 1 and data[start] == 46) or (
            stop == start + 4 and data[start] == 80 and data[start + 1] == 65 and data[start + 2] == 83 and data[start + 3] == 83
        )
        stop = tabs[7] if n_tabs > 7 else end
        _find_values(data, tabs[6] + 1, stop, keys, first_key, r.value_type[n], r.value_start[n], r.value_end[n])
        n += 1
        at = newline + 1
    return _finished(r, n, alt_start, alt_end, run_start[:n_runs], run_end[:n_runs])


@numba.njit(nogil=True, cache=True, inline="always")
def uint32(data, i):
    """The little-endian number in the four bytes at `i`, as int64."""
    return np.int64(data[i]) | np.int64(data[i + 1]) << 8 | np.int64(data[i + 2]) << 16 | np.int64(data[i + 3]) << 24


@numba.njit(nogil=True, cache=True)
def integer(data, i, kind):
    """The signed integer at byte i, of the BCF type `kind`."""
    if kind == INT8:
        return np.int64(np.int8(data[i]))
    if kind == INT16:
        return np.int64(np.int16(np.uint16(data[i]) | np.uint16(data[i + 1]) << 8))
    return np.int64(np.int32(np.uint32(uint32(data, i))))


@numba.njit(nogil=True, cache=True, inline="always")
def width(kind):
    """Bytes of one value of a BCF type."""
    return 2 if kind == INT16 else 4 if kind in (INT32, FLOAT) else 1


@numba.njit(nogil=True, cache=True)
def typed(data, i, end):
    """Type, number of values and first byte of the typed value at byte i of a record; the first byte is -1 past its end.

    So it is for a type that BCF does not have.
    """
    if i < 0 or i >= end:
        return 0, 0, np.int64(-1)
    kind, n = np.int64(data[i] & 15), np.int64(data[i] >> 4)
    i += 1
    if n == 15:
        if i >= end or data[i] >> 4 != 1 or not INT8 <= data[i] & 15 <= INT32 or i + 1 + width(data[i] & 15) > end:
            return 0, 0, np.int64(-1)
        n = integer(data, i + 1, data[i] & 15)
        i += 1 + width(data[i] & 15)
    if kind == 0:
        n = 0
    elif kind not in (INT8, INT16, INT32, FLOAT, TEXT):
        return 0, 0, np.int64(-1)
    if n < 0 or i + n * width(kind) > end:
        return 0, 0, np.int64(-1)
    return kind, n, np.int64(i)


@numba.njit(nogil=True, cache=True)
def bcf_records(data):
    """Number of whole BCF records, and where the last of them ends."""
    n = at = 0
    while at + 8 <= len(data):
        size = 8 + uint32(data, at) + uint32(data, at + 4)
        if at + size > len(data):
            break
        at += size
        n += 1
    return n, at


@numba.njit(nogil=True, cache=True)
def _scan_alleles(data, at, end, n_alleles, alt_start, alt_end, n_alts):
    """Note REF and ALT of a BCF record; returns REF's bytes, where the alleles end (-1: past the record) and the grown arrays."""
    ref_start = ref_end = np.int64(0)
    for allele in range(n_alleles):
        kind, size, start = typed(data, at, end)
        if start < 0 or (size and kind != TEXT):
            return ref_start, ref_end, np.int64(-1), alt_start, alt_end
        at = start + size
        if allele == 0:
            ref_start, ref_end = start, at
            continue
        if n_alts == len(alt_start):
            alt_start, alt_end = _grown(alt_start), _grown(alt_end)
        alt_start[n_alts], alt_end[n_alts] = start, at
        n_alts += 1
    return ref_start, ref_end, at, alt_start, alt_end


@numba.njit(nogil=True, cache=True)
def _scan_info(data, at, end, n_info, key_ids, types, starts, ends):
    """Note the wanted INFO values of a BCF record; False where they run past its end."""
    for _ in range(n_info):
        key_kind, n_key, key_at = typed(data, at, end)
        if key_at < 0 or n_key != 1 or key_kind < INT8 or key_kind > INT32:
            return False
        key = integer(data, key_at, key_kind)
        kind, size, start = typed(data, key_at + width(key_kind), end)
        if start < 0:
            return False
        at = start + size * width(kind)
        for k in range(len(key_ids)):
            if key_ids[k] == key and types[k] == ABSENT:
                types[k] = kind if kind else FLAG
                starts[k], ends[k] = start, at
                if kind == TEXT:
                    while ends[k] > start and data[ends[k] - 1] == 0:
                        ends[k] -= 1
    return True


@numba.njit(nogil=True, cache=True)
def scan_bcf(data, n_records, key_ids, n_samples):
    """`Records` of whole BCF records; `key_ids` are the header's numbers of the wanted INFO fields, -1 if it has none."""
    r = _empty_records(n_records, len(key_ids))
    alt_start, alt_end = r.alt_start, r.alt_end
    n_alts = at = 0
    for n in range(n_records):
        n_shared, n_genotypes = uint32(data, at), uint32(data, at + 4)
        start, end = at + 8, at + 8 + n_shared
        r.line_start[n], r.line_end[n], r.genotypes_start[n] = at, end + n_genotypes, end
        r.first_alt[n + 1] = n_alts
        n_alleles, good = 0, n_shared >= 24
        if good:
            r.contig[n], r.position[n] = integer(data, start, INT32), integer(data, start + 4, INT32)
            n_info, n_alleles = uint32(data, start + 16) & 0xFFFF, uint32(data, start + 16) >> 16
            good = (uint32(data, start + 20) & 0xFFFFFF) == n_samples
            kind, size, i = typed(data, start + 24, end)
            good &= i >= 0 and (size == 0 or kind == TEXT) and r.position[n] >= -1
            r.ref_start[n], r.ref_end[n], i, alt_start, alt_end = _scan_alleles(data, i + size, end, n_alleles, alt_start, alt_end, n_alts)
            kind, size, first = typed(data, i, end)
            good &= i >= 0 and first >= 0 and n_alleles > 0
            if good:
                n_alts += n_alleles - 1
                r.first_alt[n + 1] = n_alts
                r.passes[n] = size == 0 or (size == 1 and INT8 <= kind <= INT32 and integer(data, first, kind) == 0)
                i = first + size * width(kind)
                good = _scan_info(data, i, end, n_info, key_ids, r.value_type[n], r.value_start[n], r.value_end[n])
        at = end + n_genotypes
        if not good or n_alleles - 1 > MOST_ALTS:
            r.trouble[n] = ALLELES if good else BINARY
            return _finished(r, n + 1, alt_start, alt_end, r.run_start, r.run_end)
    return _finished(r, n_records, alt_start, alt_end, r.run_start, r.run_end)
