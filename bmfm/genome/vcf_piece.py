"""Some whole records of a VCF or BCF to edits, and what is to be said of them; many pieces are read at the same time."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bmfm.genome import frequency as plain
from bmfm.genome import vcf_edits as edits
from bmfm.genome import vcf_figures
from bmfm.genome import vcf_genotypes as genotypes
from bmfm.genome.alphabet import base_table
from bmfm.genome.reference import Reference
from bmfm.genome.regions import inside_regions
from bmfm.genome.vcf_filter import KINDS, VariantFilter, VariantReport
from bmfm.genome.vcf_header import Header
from bmfm.genome.vcf_scan import ABSENT, FLAG, FLOAT, TEXT, TROUBLE, Records, bcf_records, integer, scan_bcf, scan_text, width

NO_FLAG = "no INFO flag {}"
MORE_COLUMNS = "record has more columns than the header names (not read)"
RECORD_NOTES = {
    edits.MISFIT: plain.NOTES["misfit"],
    edits.PARTIAL: plain.NOTES["partial"],
    edits.DEFAULT: "no frequency stated (default used)",
    edits.RESCALED: "frequencies add up to more than 1 (rescaled)",
}
DISORDER = "record out of order (sorted)"
_STEPS = {"figures": vcf_figures.FIGURES, "counts": vcf_figures.COUNTS, "freq": vcf_figures.FREQ, "caf": vcf_figures.CAF}
_REFERENCE_BLOCKS = (b"<NON_REF>", b"<*>")


class BadRecord(Exception):
    """A record that cannot be read: its number in the piece, and what is wrong."""

    def __init__(self, record: int, where: str, problem: str):
        super().__init__(problem)
        self.record, self.where, self.problem = record, where, problem


@dataclass
class Piece:
    """What was read from some records. Numbers of records count from the beginning of the piece.

    Attributes
    ----------
    columns
        Edits, sorted as by `sort_edits`: the columns of `variants.VariantTable`, with ``alt_length`` for ``alt_start``.
    frontier
        Where the last record lies in `Reference.codes`: no edit of later records of a sorted file begins before it.
    first, last : (contig, position) or None
        Of the first and the last record on a contig of the genome.
    genotypes : int16 [R, samples, 2]
    phase_sets : int64 [R, samples]
        A number for the phase set of each phased heterozygous genotype, 0 for none.
    """

    n_records: int
    report: VariantReport
    columns: dict[str, np.ndarray]
    n_compared: int
    n_mismatched: int
    n_alternatives: int
    first: tuple[int, int] | None
    last: tuple[int, int] | None
    first_where: str
    frontier: int
    genotypes: np.ndarray
    phase_sets: np.ndarray
    contig: np.ndarray = field(repr=False)


class PieceReader:
    """Reads pieces of one file against its genome; many threads may call it at once."""

    def __init__(self, path: Path, header: Header, reference: Reference, keep: VariantFilter, regions: np.ndarray | None):
        self.path, self.header, self.reference, self.keep, self.regions = path, header, reference, keep, regions
        fields = plain.sources(keep.frequency_source)
        self._require_declared(fields)
        self.keys: list[str] = []
        steps: list[int] = []
        step_key: list[int] = []
        for name in fields:
            kind = plain.FORMATS.get(name, "figures")
            steps.append(_STEPS[kind])
            step_key.append(len(self.keys))
            self.keys += [name, "AN"] if kind == "counts" else [name]
        if keep.frequency_source in ("auto", "genotypes") and header.samples:
            steps.append(vcf_figures.GENOTYPES)
            step_key.append(-1)
        self.flag = len(self.keys) if keep.info_flag else -1
        self.keys += [keep.info_flag] if keep.info_flag else []
        self.steps, self.step_key = np.array(steps, np.int64), np.array(step_key, np.int64)
        self.key_bytes = np.frombuffer("".join(self.keys).encode(), np.uint8)
        self.first_key = np.concatenate([[0], np.cumsum([len(k.encode()) for k in self.keys])]).astype(np.int64)
        self.key_ids = np.array([header.keys.get(k, -1) for k in self.keys], np.int64)
        self.form = genotypes.Format(header.is_bcf, header.keys.get("GT", -1), header.keys.get("PS", -1), len(header.samples))
        chosen = [header.samples.index(s) for s in keep.samples]
        columns, self.slot_of_sample = np.unique(np.array(chosen, np.int64), return_inverse=True)
        self.slot = np.full(len(header.samples), -1, np.int64)
        self.slot[columns] = np.arange(len(columns))
        self.n_chosen = len(columns)
        self.contigs: dict[str, int] = {}
        self.genome = edits.Genome(reference.codes, reference.starts, reference.ends, base_table())
        self.bounds = edits.AlleleBounds(
            np.nan if keep.missing_frequency is None else float(keep.missing_frequency),
            np.array([keep.min_frequency, keep.max_frequency], np.float32),
            np.array([kind in keep.kinds for kind in KINDS]),
        )

    def _require_declared(self, fields: tuple[str, ...]) -> None:
        keep, header = self.keep, self.header
        if absent := [s for s in keep.samples if s not in header.samples]:
            shown = ", ".join(header.samples[:5]) + (", ..." if len(header.samples) > 5 else "")
            raise ValueError(
                f"{self.path}: samples {', '.join(absent)} are not in the file, which has {len(header.samples)}{shown and f' ({shown})'}"
            )
        if twice := [s for s in keep.samples if header.samples.count(s) > 1]:
            raise ValueError(
                f"{self.path}: sample {twice[0]} is named more than once in its header; which is meant is not known, rename one"
            )
        if keep.info_flag and keep.info_flag not in header.info:
            flags = [name for name, kind in header.info.items() if kind == "Flag"]
            raise ValueError(
                f"{self.path}: info_flag={keep.info_flag}, but the header declares no such INFO field; it has the flags "
                f"{', '.join(flags[:20]) or '(none)'}. Choose one of them, or info_flag=null to take every record"
            )
        if keep.frequency_source not in ("auto", "genotypes") and fields[0] not in header.info:
            raise ValueError(
                f"{self.path}: frequency_source={keep.frequency_source}, but the header declares no such INFO field; it has "
                f"{', '.join(list(header.info)[:20]) or '(none)'}. Choose one of them, auto, or genotypes"
            )
        if keep.frequency_source == "genotypes" and not header.samples:
            raise ValueError(f"{self.path}: frequency_source=genotypes, but the file has no samples; choose auto or an INFO field")

    def __call__(self, item: tuple[bytes, int]) -> tuple[Piece, int]:
        """The piece, and how much of the file has been read."""
        raw, at = item
        data = np.frombuffer(raw, np.uint8)
        n_samples = len(self.header.samples)
        if self.header.is_bcf:
            n, end = bcf_records(data)
            if end < len(data):
                raise BadRecord(n, "", "the file ends in the middle of it")
            r = scan_bcf(data, n, self.key_ids, n_samples)
        else:
            r = scan_text(data, raw.count(b"\n") + 1, self.key_bytes, self.first_key, n_samples)
        r = Records(*r)
        n = len(r.position)
        if n and r.trouble[n - 1]:
            shown = "" if self.header.is_bcf else bytes(raw[r.line_start[n - 1] : r.line_end[n - 1]])[:60].decode("latin-1")
            raise BadRecord(n - 1, "", TROUBLE[int(r.trouble[n - 1])] + (f": {shown!r}" if shown else ""))
        return self._read(raw, data, r), at

    def _read(self, raw: bytes, data: np.ndarray, r: Records) -> Piece:
        n, n_alts, reference = len(r.position), len(r.alt_start), self.reference
        report = VariantReport(str(self.path), records=n)
        contig, disorder = self._contigs(raw, r), np.zeros(2, np.int64)
        reason, state, notes = np.zeros((3, n), np.uint8)
        verdicts = edits.Verdicts(reason, state, notes, np.zeros(n_alts), np.zeros(n_alts, np.uint8))
        edits.check(data, r, contig, self.genome, self.keep.pass_only, self.flag, reason, disorder)
        copies, phase_sets = self._genotypes(raw, data, r, reason == edits.ELIGIBLE, report)
        vcf_figures.read_frequencies(data, r, self.steps, self.step_key, self.form, verdicts)
        for i in np.flatnonzero(verdicts.state == edits.HARD).tolist():
            self._look_closer(raw, data, r, i, verdicts)
        room = edits.Edits(
            np.empty((6, n_alts), np.int64), np.empty((2, n_alts), np.float32), np.empty(int((r.alt_end - r.alt_start).sum()), np.uint8)
        )  # fmt: skip
        offset = reference.starts[np.maximum(contig, 0)]
        n_edits, n_bases = edits.make_edits(data, r, offset, self.genome.table, self.bounds, verdicts, room)
        where = self._where(raw, r)
        self._count(raw, r, verdicts, disorder, report)
        named = dict(zip(("start", "end", "alt_length", "record", "allele", "kind"), room.numbers[:, :n_edits], strict=True))
        named |= {"low": room.slices[0, :n_edits], "high": room.slices[1, :n_edits], "alt": room.alt[:n_bases]}
        named = self._inside(named, report)
        report.kept = Counter({KINDS[k]: c for k, c in enumerate(np.bincount(named.pop("kind"), minlength=5).tolist()) if c})
        on_genome = np.flatnonzero((reason != edits.NO_ALT) & (reason != edits.NO_CONTIG) & (reason != edits.AMBIGUOUS))
        ends = [(int(contig[i]), int(r.position[i])) for i in on_genome[[0, -1]]] if len(on_genome) else [None, None]
        return Piece(
            n_records=n,
            report=report,
            columns=sort_edits(named),
            n_compared=int((reason[on_genome] != edits.TELOMERE).sum()),
            n_mismatched=int(((reason == edits.MISMATCH) | (reason == edits.BEYOND)).sum()),
            n_alternatives=self._alternatives(raw, r, verdicts.alt_reason),
            first=ends[0],
            last=ends[1],
            first_where=where(int(on_genome[0])) if len(on_genome) else "",
            frontier=int(offset[on_genome[-1]] + r.position[on_genome[-1]]) if len(on_genome) else -1,
            genotypes=copies,
            phase_sets=phase_sets,
            contig=contig,
        )

    def _contigs(self, raw: bytes, r: Records) -> np.ndarray:
        """Number in the genome of each record's contig, -1 where it has none, -2 where it may be either of several; int64 [R]."""
        if self.header.is_bcf:
            numbers, back = np.unique(r.contig, return_inverse=True)
            names = [self.header.contigs.get(int(c), f"contig number {c} of the header") for c in numbers]
        else:
            back = r.contig
            names = [raw[start:end].decode("utf-8", "replace") for start, end in zip(r.run_start.tolist(), r.run_end.tolist(), strict=True)]
        for name in names:
            if name not in self.contigs:
                meant = self.reference.names.meant(name)
                self.contigs[name] = meant[0] if len(meant) == 1 else -2 if meant else -1
        return np.array([self.contigs[name] for name in names], np.int64)[back] if names else np.empty(0, np.int64)

    def _where(self, raw: bytes, r: Records) -> Callable[[int], str]:
        def where(i: int) -> str:
            if self.header.is_bcf:
                name = self.header.contigs.get(int(r.contig[i]), str(r.contig[i]))
            else:
                start, end = r.run_start[r.contig[i]], r.run_end[r.contig[i]]
                name = raw[start:end].decode("utf-8", "replace")
            return f"{name}:{r.position[i] + 1}"

        return where

    def _genotypes(
        self, raw: bytes, data: np.ndarray, r: Records, eligible: np.ndarray, report: VariantReport
    ) -> tuple[np.ndarray, np.ndarray]:
        n = len(r.position)
        copies, phase_sets = np.full((n, self.n_chosen, 2), -1, np.int16), np.zeros((n, self.n_chosen), np.int64)
        if self.n_chosen:
            noted, first = np.zeros(len(genotypes.NOTES), np.int64), np.full(len(genotypes.NOTES), -1)
            bad = genotypes.read_genotypes(data, r, self.form, self.slot, eligible, copies, phase_sets, noted, first)
            where = self._where(raw, r)
            if bad >= 0:
                raise BadRecord(bad, where(bad), "a genotype (GT) is not of the form 0|1")
            for k in np.flatnonzero(noted).tolist():
                report.note(genotypes.NOTES[k], where(int(first[k])), int(noted[k]))
        return copies[:, self.slot_of_sample], phase_sets[:, self.slot_of_sample]

    def _look_closer(self, raw: bytes, data: np.ndarray, r: Records, i: int, verdicts: edits.Verdicts) -> None:
        """Frequencies of a record that the kernel leaves to the plain functions; they tell what is wrong with it."""
        info: dict[str, str] = {}
        for k, key in enumerate(self.keys):
            if r.value_type[i, k] not in (ABSENT, FLAG):
                info.setdefault(key, value_text(data, *(int(c[i, k]) for c in (r.value_type, r.value_start, r.value_end))))
        first, stop = int(r.first_alt[i]), int(r.first_alt[i + 1])
        try:
            figures, noted = plain.stated(info, stop - first, self.keep.frequency_source)
        except ValueError as error:
            raise BadRecord(
                i, self._where(raw, r)(i), f"{error}. Mend the record, or name another INFO field in frequency_source"
            ) from None
        if figures is None and vcf_figures.GENOTYPES in self.steps:
            counts = np.zeros(stop - first + 1, np.int64)
            if not genotypes.count_carriers(data, r, i, self.form, counts):
                raise BadRecord(i, self._where(raw, r)(i), "a genotype (GT) is not of the form 0|1")
            figures = (counts[1:] / counts.sum()).tolist() if counts.sum() else None
        verdicts.notes[i] |= (edits.MISFIT if "misfit" in noted else 0) | (edits.PARTIAL if "partial" in noted else 0)
        verdicts.state[i] = edits.UNSTATED if figures is None else edits.STATED
        if figures is not None:
            verdicts.frequency[first:stop] = figures

    def _count(self, raw: bytes, r: Records, verdicts: edits.Verdicts, disorder: np.ndarray, report: VariantReport) -> None:
        reason, _, notes, _, alt_reason = verdicts
        n_alts, where = np.diff(r.first_alt), self._where(raw, r)
        for code, name in {**edits.SKIPS, edits.NO_FLAG: NO_FLAG.format(self.keep.info_flag)}.items():
            chosen = np.flatnonzero(reason == code)
            if len(chosen):
                i = int(chosen[0])
                shown = " " + raw[r.ref_start[i] : r.ref_end[i]][:20].decode("latin-1").upper() if code == edits.MISMATCH else ""
                report.skip(name, where(i) + shown, len(chosen) if code == edits.NO_ALT else int(n_alts[chosen].sum()))
        wrong_kinds = {edits.WRONG_KIND + k: f"kind {kind} not wanted" for k, kind in enumerate(KINDS)}
        n_of_reason = np.bincount(alt_reason, minlength=256)
        for code, name in {**edits.ALT_SKIPS, **wrong_kinds}.items():
            if n_of_reason[code]:
                a = int((alt_reason == code).argmax())
                i = int(np.searchsorted(r.first_alt, a, "right")) - 1
                shown = " " + raw[r.alt_start[a] : r.alt_end[a]][:20].decode("latin-1").upper() if code == edits.NO_BASES else ""
                report.skip(name, where(i) + shown, int(n_of_reason[code]))
        for bit, name in RECORD_NOTES.items():
            chosen = np.flatnonzero(notes & bit)
            if len(chosen):
                report.note(name, where(int(chosen[0])), int(n_alts[chosen].sum()) if bit == edits.DEFAULT else len(chosen))
        if r.more_columns.any():
            report.note(MORE_COLUMNS, where(int(r.more_columns.argmax())), int(r.more_columns.sum()))
        if disorder[0]:
            report.note(DISORDER, where(int(disorder[1])), int(disorder[0]))

    def _inside(self, columns: dict[str, np.ndarray], report: VariantReport) -> dict[str, np.ndarray]:
        if self.regions is None:
            return columns
        start, end, lengths = columns["start"], columns["end"], columns["alt_length"]
        inside = inside_regions(start, end, self.regions)
        if not inside.all():
            report.skip("outside the regions", "", int((~inside).sum()))
        alt = columns.pop("alt")[np.repeat(inside, lengths)]
        return {name: column[inside] for name, column in columns.items()} | {"alt": alt}

    def _alternatives(self, raw: bytes, r: Records, alt_reason: np.ndarray) -> int:
        """Alleles other than those that stand for "any" in the reference blocks of a gVCF; counting stops at the first."""
        if len(alt_reason) > (alt_reason == edits.NO_BASES).sum() + (alt_reason == edits.OF_SKIPPED).sum():
            return 1
        return int(any(raw[a:b] not in _REFERENCE_BLOCKS for a, b in zip(r.alt_start.tolist(), r.alt_end.tolist(), strict=True)))


def value_text(data: np.ndarray, kind: int, start: int, end: int) -> str:
    """An INFO value as a VCF writes it."""
    if kind == TEXT:
        return data[start:end].tobytes().decode("utf-8", "replace")
    if kind == FLOAT:
        figures = np.frombuffer(data[start:end].tobytes(), "<f4")
        return ",".join("." if np.isnan(f) else str(f).removesuffix(".0") for f in figures)
    least = -(1 << (8 * width(kind) - 1))
    values = [integer(data, i, kind) for i in range(start, end, width(kind))]
    return ",".join("." if v == least else str(v) for v in values if v != least + 1)


def places(start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """What edits are sorted by, int64: their start, and there insertions come before what replaces bases."""
    return 2 * start + (end > start)


def sort_edits(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Edits by `places`, equal ones in the order in which they came: that of their records and alleles."""
    place = places(columns["start"], columns["end"])
    if (place[1:] >= place[:-1]).all():
        return columns
    order = np.argsort(place, kind="stable")
    lengths = columns["alt_length"]
    alt = np.empty_like(columns["alt"])
    edits.gather(columns["alt"], np.cumsum(lengths) - lengths, lengths, order, alt)
    return {name: column[order] for name, column in columns.items() if name != "alt"} | {"alt": alt}
