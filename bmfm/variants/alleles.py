"""Alleles as records spell them to alleles at one place of the genome: checked against it, trimmed, left-aligned, each with a status."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numba
import numpy as np

from bmfm.genome.alphabet import N, base_table
from bmfm.genome.reference import Reference

STATUSES = (
    "OK", "DUPLICATE_OK", "REF_MISMATCH", "NO_CONTIG", "SYMBOLIC", "SPILL", "N_ALLELE", "N_CONTEXT", "TOO_LONG", "EDGE", "NO_CHANGE",
    "NOT_DEFINED",
)  # fmt: skip
"""What became of an allele; only the first two are scored.

DUPLICATE_OK: the same allele stands before. REF_MISMATCH: REF is not what the genome has there. NO_CONTIG: the genome has no contig of
that name. SYMBOLIC: ``<DEL>``, a breakend. SPILL: ``*``, the locus is inside a deletion of another record. N_ALLELE: REF or ALT holds a
letter that is no base. N_CONTEXT: more than a tenth of the bases around are N. TOO_LONG: REF or ALT is longer than ``max_indel``.
EDGE: fewer than 16 bases on one side, or before the first base (POS 0). NO_CHANGE: ALT is REF. NOT_DEFINED: the rule that was asked for says nothing
of such an allele.
"""

OK, DUPLICATE_OK, REF_MISMATCH, NO_CONTIG, SYMBOLIC, SPILL, N_ALLELE, N_CONTEXT, TOO_LONG, EDGE, NO_CHANGE, NOT_DEFINED = range(
    len(STATUSES)
)

KINDS = ("SNV", "MNV", "INS", "DEL", "DELINS", "OTHER")
SNV, MNV, INS, DEL, DELINS, OTHER = range(len(KINDS))

CONTEXT, LEAST_SIDE = 128, 16
"""Bases on each side in which N are counted; fewest bases that a side must have."""

_STAR, _SIGN, _OTHER_LETTER = 250, 251, 252  # codes of what is no base
_DISAGREES = 100  # above every status


def _letters() -> np.ndarray:
    """256 bytes to codes of bases in upper or lower case (N and IUPAC codes are `N`), ``*``, signs of symbolic alleles, or another letter."""
    table = (base_table() & 0x7F).astype(np.uint8)
    table[base_table() == 255] = _OTHER_LETTER
    for sign in b"<>[]:.":
        table[sign] = _SIGN
    table[ord("*")] = _STAR
    return table


_LETTERS = _letters()


@dataclass
class Alleles:
    """A alleles, one an ALT, in the order of the records.

    Attributes
    ----------
    record : int64 [A]
        Number of the record.
    contig : int64 [A]
        Of the genome; -1 where it has none of that name.
    start : int64 [A]
        0-based place in the contig of the first changed base, after trimming and left alignment; of an insertion, of the base after it.
    n_ref : int64 [A]
        Bases of the genome that ALT stands in place of.
    alt : uint8 [sum], alt_offsets : int64 [A + 1]
        Codes of the bases that stand there instead: allele a has ``alt[alt_offsets[a]:alt_offsets[a + 1]]``.
    shifted : int64 [A]
        By how many bases an insertion or deletion lies to the left of where it is written.
    kind, status : uint8 [A]
        Numbers in `KINDS` and `STATUSES`.
    """

    record: np.ndarray
    contig: np.ndarray
    start: np.ndarray
    n_ref: np.ndarray
    alt: np.ndarray
    alt_offsets: np.ndarray
    shifted: np.ndarray
    kind: np.ndarray
    status: np.ndarray

    def __len__(self) -> int:
        return len(self.record)

    @property
    def n_alt(self) -> np.ndarray:
        """Bases of each ALT after trimming [A]."""
        return np.diff(self.alt_offsets)

    @property
    def is_scored(self) -> np.ndarray:
        """[A] bool."""
        return self.status <= DUPLICATE_OK

    def alt_of(self, number: int) -> np.ndarray:
        """Codes of one allele's bases."""
        return self.alt[self.alt_offsets[number] : self.alt_offsets[number + 1]]

    def take(self, rows: np.ndarray) -> "Alleles":
        """Some alleles, in the order of `rows` [m]."""
        lengths = self.n_alt[rows]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(ends[-1]) + np.repeat(self.alt_offsets[:-1][rows] - ends[:-1], lengths)
        ragged = {"alt": self.alt[places], "alt_offsets": ends}
        return Alleles(**{f.name: ragged[f.name] if f.name in ragged else getattr(self, f.name)[rows] for f in fields(self)})


def _joined(texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Bytes of texts one after the other, and their offsets."""
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(t) for t in texts], out=offsets[1:])
    return np.frombuffer(b"".join(texts), np.uint8), offsets


def prepare(
    reference: Reference,
    contig_names: Sequence[str],
    positions: np.ndarray,
    refs: Sequence[bytes],
    alts: Sequence[bytes],
    max_indel: int = 50,
) -> Alleles:
    """Alleles of R records.

    Parameters
    ----------
    contig_names
        [R], in any style, see `genome.contigs`.
    positions
        [R] int64, 1-based, as in a VCF.
    refs, alts
        [R] each; the alleles of ALT are apart by commas. An ALT of ``.`` (or nothing) has none, and gives no row. ``-``, alone, is
        no base: a deletion or insertion of tables that have no anchor base.
    max_indel
        Longest REF or ALT, after trimming, that is scored.
    """
    number = {name: -1 if (found := reference.names.find(name)) is None else found for name in set(contig_names)}
    contig_of_record = np.fromiter((number[name] for name in contig_names), np.int64, len(contig_names))
    split = [() if alt in (b".", b"") else alt.split(b",") for alt in alts]
    record = np.repeat(np.arange(len(split)), [len(s) for s in split])
    ref_bytes, ref_offsets = _joined([b"" if ref == b"-" else ref for ref in refs])
    alt_bytes, alt_offsets = _joined([b"" if alt == b"-" else alt for of_record in split for alt in of_record])
    n = len(record)
    out = np.zeros((4, n), np.int64)
    kind, status = np.full(n, OTHER, np.uint8), np.zeros(n, np.uint8)
    alt_codes = np.zeros(len(alt_bytes), np.uint8)
    first = np.zeros(n, np.int64)
    _prepare(
        (reference.codes, reference.starts, reference.ends, _LETTERS), (record, contig_of_record, np.asarray(positions, np.int64)),
        (ref_bytes, ref_offsets), (alt_bytes, alt_offsets), max_indel, out, (alt_codes, first), kind, status,
    )  # fmt: skip
    start, n_ref, n_alt, shifted = out
    ends = np.concatenate([[0], np.cumsum(n_alt)])
    gathered = alt_codes[np.arange(ends[-1]) + np.repeat(first - ends[:-1], n_alt)]
    alleles = Alleles(record, contig_of_record[record], start, n_ref, gathered, ends, shifted, kind, status)
    _mark_duplicates(alleles)
    return alleles


def _mark_duplicates(alleles: Alleles) -> None:
    """Give the second and later copies of an allele their status."""
    if not len(alleles):  # records without any ALT
        return
    order = np.lexsort((alleles.n_alt, alleles.n_ref, alleles.start, alleles.contig))
    same = np.ones(len(order) - 1, bool)
    for column in (alleles.contig, alleles.start, alleles.n_ref, alleles.n_alt):
        same &= column[order[1:]] == column[order[:-1]]
    begins = np.flatnonzero(np.concatenate([[True], ~same]))
    for begin, end in zip(begins, np.append(begins[1:], len(order)), strict=True):
        if end - begin < 2:
            continue
        seen: set[bytes] = set()
        for number in sorted(order[begin:end]):
            text = alleles.alt_of(number).tobytes()
            if text in seen and alleles.status[number] == OK:
                alleles.status[number] = DUPLICATE_OK
            elif alleles.status[number] == OK:
                seen.add(text)


@numba.njit(cache=True)
def _prepare(genome, records, refs, alts, max_indel, out, alt_out, kind, status):
    """Fill, for every allele, (start, n_ref, n_alt, shifted), the codes of its bases and where they begin, kind and status.

    Parameters
    ----------
    genome
        Codes, and first and last base of its contigs.
    records
        Of each allele its record; of each record contig and position.
    refs, alts
        Bytes and offsets.
    """
    codes, starts, ends, letters = genome
    record, contigs, positions = records
    alt_bytes, alt_offsets = alts
    alt_codes, first = alt_out
    for a in range(len(record)):
        r = record[a]
        alt = alt_codes[alt_offsets[a] : alt_offsets[a + 1]]
        first[a] = alt_offsets[a]
        start = positions[r] - 1
        out[0, a] = start
        problem = _read(alt_bytes[alt_offsets[a] : alt_offsets[a + 1]], letters, alt)
        contig = contigs[r]
        if problem not in (SYMBOLIC, SPILL):
            ref = refs[0][refs[1][r] : refs[1][r + 1]]
            if contig < 0:
                problem = NO_CONTIG
            elif start < 0:
                problem = EDGE
            else:
                problem = max(problem, _compare(ref, letters, codes[starts[contig] : ends[contig]], start))
                problem = REF_MISMATCH if problem == _DISAGREES else problem
        if problem != OK:
            status[a] = problem
            continue
        start, n_ref, skipped, n_alt, shift = _align(codes[starts[contig] : ends[contig]], start, len(ref), alt)
        first[a] += skipped
        out[0, a], out[1, a], out[2, a], out[3, a] = start, n_ref, n_alt, shift
        if n_ref == n_alt:
            kind[a] = SNV if n_ref == 1 else MNV if n_ref else OTHER
        else:
            kind[a] = INS if not n_ref else DEL if not n_alt else DELINS
        length = ends[contig] - starts[contig]
        if not n_ref and not n_alt:
            status[a] = NO_CHANGE
        elif max(n_ref, n_alt) > max_indel:
            status[a] = TOO_LONG
        elif start < LEAST_SIDE or length - start - n_ref < LEAST_SIDE:
            status[a] = EDGE
        else:
            status[a] = _context(codes[starts[contig] : ends[contig]], start, n_ref)


@numba.njit(cache=True)
def _read(text, letters, alt):
    """Write the codes of an ALT; OK, or what keeps it from being bases."""
    problem = OK
    for i in range(len(text)):
        alt[i] = letters[text[i]]
        if alt[i] == _SIGN or (alt[i] == _STAR and len(text) > 1):
            return SYMBOLIC
        if alt[i] == _STAR:
            return SPILL
        if alt[i] >= N:
            problem = N_ALLELE
    return problem


@numba.njit(cache=True)
def _compare(ref, letters, codes, start):
    """OK; `_DISAGREES` where REF is not what the contig has; N_ALLELE where it holds an unknown base."""
    problem = OK
    if start + len(ref) > len(codes):
        return _DISAGREES
    for i in range(len(ref)):
        code = letters[ref[i]]
        if code >= _STAR or code != codes[start + i] & 0x7F:
            return _DISAGREES
        if code == N:
            problem = N_ALLELE
    return problem


@numba.njit(cache=True)
def _align(codes, start, n_ref, alt):
    """Trim what REF and ALT share, at the end and then at the beginning, and move an insertion or deletion to the left.

    Returns (start, n_ref, first base of `alt`, n_alt, by how many bases it was moved).
    """
    begin, end = 0, len(alt)
    spelled = start  # where the change begins as it is written
    while spelled - start < min(n_ref, end) and alt[spelled - start] == codes[spelled] & 0x7F:
        spelled += 1
    while n_ref and end > begin and alt[end - 1] == codes[start + n_ref - 1] & 0x7F:
        n_ref -= 1
        end -= 1
    while n_ref and end > begin and alt[begin] == codes[start] & 0x7F:
        n_ref -= 1
        begin += 1
        start += 1
    shift = 0
    if n_ref and end == begin:
        while start > shift and codes[start - shift - 1] & 0x7F == codes[start - shift + n_ref - 1] & 0x7F:
            shift += 1
    elif end > begin and not n_ref:
        shift = _rotate_left(codes, start, alt[begin:end])
    start -= shift
    return start, n_ref, begin, end - begin, max(0, spelled - start) if not n_ref or begin == end else 0


@numba.njit(cache=True)
def _rotate_left(codes, start, alt):
    """Move an insertion as far to the left as it stays the same; its bases are rotated in place. Returns by how many bases."""
    shift, n = 0, len(alt)
    while start > shift and codes[start - shift - 1] & 0x7F == alt[n - 1 - shift % n]:
        shift += 1
    bases = alt.copy()
    for i in range(n):
        alt[i] = bases[(i - shift) % n]
    return shift


@numba.njit(cache=True)
def _context(codes, start, n_ref):
    """OK, or N_CONTEXT where more than a tenth of the bases within `CONTEXT` are N."""
    low, high = max(0, start - CONTEXT), min(len(codes), start + n_ref + CONTEXT)
    n_unknown = 0
    for i in range(low, high):
        n_unknown += codes[i] & 0x7F == N
    return N_CONTEXT if n_unknown * 10 > high - low else OK
