"""Variants of a VCF or BCF as a table of edits of the reference, sorted, with frequencies; and a report of every skip.

One ALT allele is one *edit*: bases [start, end) of the reference become `alt`. Alleles are trimmed of the bases that
they share with REF, so a deletion has an empty `alt` and an insertion an empty interval. The alleles of one record
exclude each other: each owns a slice [low, high) of the unit interval, as wide as its frequency, and a chromosome copy
carries the allele in whose slice its draw for that record falls.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from bmfm.files import cached_folder, fingerprint, require_file
from bmfm.genome.alphabet import base_table
from bmfm.genome.frequency import allele_frequencies
from bmfm.genome.reference import Reference
from bmfm.genome.regions import read_regions, within

_FORMAT = 2
_FLUSH = 20_000  # records held as Python objects at a time
KINDS = ("snv", "mnv", "insertion", "deletion", "complex")


@dataclass(frozen=True)
class VariantFilter:
    """Which alleles of a VCF to take; whatever is left out is counted by reason.

    Attributes
    ----------
    min_frequency, max_frequency
        Bounds of the allele frequency, inclusive.
    missing_frequency
        Frequency to give an allele whose record states none; None leaves such alleles out.
    frequency_source
        See `frequency.allele_frequencies`.
    pass_only
        Take only records whose FILTER is PASS or absent.
    info_flag
        Take only records with this INFO flag (``COMMON`` for the published dbSNP scheme).
    kinds
        Subset of ``snv mnv insertion deletion complex``.
    regions
        BED file or ``contig:start-end`` words (1-based, inclusive) that an edit must lie in.
    samples
        Samples whose genotypes are kept, for phased haplotypes.
    max_ref_mismatch
        Share of records whose REF may disagree with the genome before the file is refused.
    """

    min_frequency: float = 0.0
    max_frequency: float = 1.0
    missing_frequency: float | None = None
    frequency_source: str = "auto"
    pass_only: bool = False
    info_flag: str | None = None
    kinds: Sequence[str] = KINDS
    regions: str | Sequence[str] | None = None
    samples: Sequence[str] = ()
    max_ref_mismatch: float = 0.01

    def __post_init__(self) -> None:
        for name in ("kinds", "samples"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if unknown := set(self.kinds) - set(KINDS):
            raise ValueError(f"variant kinds {sorted(unknown)} are unknown; choose from {', '.join(KINDS)}")


@dataclass
class VariantReport:
    """What a VCF held and what became of it."""

    path: str
    records: int = 0
    kept: Counter = field(default_factory=Counter)
    skipped: Counter = field(default_factory=Counter)
    noted: Counter = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def skip(self, reason: str, where: str, n: int = 1) -> None:
        self.skipped[reason] += n
        self.examples.setdefault(reason, where)

    def note(self, reason: str, where: str, n: int = 1) -> None:
        self.noted[reason] += n
        self.examples.setdefault(reason, where)

    def rows(self) -> list[tuple[str, str, int, str]]:
        """(verdict, kind or reason, alleles, first example) for a table."""
        rows = [("kept", kind, self.kept[kind], "") for kind in KINDS if self.kept[kind]]
        rows += [("left out", reason, n, self.examples.get(reason, "")) for reason, n in self.skipped.most_common()]
        rows += [("noted", reason, n, self.examples.get(reason, "")) for reason, n in self.noted.most_common()]
        return rows


@dataclass(frozen=True)
class VariantTable:
    """Edits of one genome, sorted by (start, end). Positions index `Reference.codes`.

    Attributes
    ----------
    start, end : int64 [E]
    alt_start : int64 [E + 1]
        Edit e writes ``alt[alt_start[e]:alt_start[e + 1]]``.
    alt : uint8
        State codes of the alternative bases of all edits.
    low, high : float32 [E]
        The edit's slice of the unit interval of its record.
    record : int32 [E]
        Number of the record in the VCF, the key of its draw.
    allele : int8 [E]
        Number of the ALT in the record, from 1.
    genotypes : int8 [records, samples, 2]
        Allele on each chromosome copy of the chosen samples; -1 where not called.
    samples : tuple of str
    folder : Path or None
        Where the store lies, for tables that are derived from it; None for a table that was made in memory.
    """

    start: np.ndarray
    end: np.ndarray
    alt_start: np.ndarray
    alt: np.ndarray
    low: np.ndarray
    high: np.ndarray
    record: np.ndarray
    allele: np.ndarray
    genotypes: np.ndarray
    samples: tuple[str, ...]
    report: VariantReport
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.start)

    @cached_property
    def longest(self) -> int:
        """Most reference bases that one edit replaces."""
        return int((self.end - self.start).max(initial=0))

    @classmethod
    def from_vcf(
        cls,
        vcf: str | Path,
        reference: Reference,
        keep: VariantFilter | None = None,
        cache_dir: str | Path | None = None,
    ) -> "VariantTable":
        """Read a VCF or BCF (plain or bgzip, index not needed) against its genome; cached like the genome.

        Raises
        ------
        FileNotFoundError
            With near matches, if the file is not there.
        ValueError
            If it cannot be parsed, lacks a sample, or disagrees with the genome in more than
            `VariantFilter.max_ref_mismatch` of its records (the wrong assembly, most often).
        """
        path = require_file(vcf, "variant file")
        keep = keep or VariantFilter()
        key = {"format": _FORMAT, "vcf": fingerprint(path), "genome": fingerprint(reference.source), "filter": asdict(keep)}
        if isinstance(keep.regions, str) and Path(keep.regions).is_file():
            key["regions"] = fingerprint(Path(keep.regions))
        folder = cached_folder("variants", key, lambda partial: _build(path, reference, keep, partial), cache_dir)
        columns = {
            f.name: np.load(folder / f"{f.name}.npy", mmap_mode="r").view(np.ndarray)
            for f in fields(cls)
            if f.name not in ("samples", "report", "folder")
        }
        saved = json.loads((folder / "report.json").read_text())
        counters = {name: Counter(saved[name]) for name in ("kept", "skipped", "noted")}
        report = VariantReport(saved["path"], saved["records"], **counters, examples=saved["examples"])
        return cls(**columns, samples=tuple(keep.samples), report=report, folder=folder)


def trim(ref: str, alt: str) -> tuple[int, str, str]:
    """Shift, REF and ALT after the bases that both share at the end, then at the start, are cut away."""
    shared = 0
    while shared < min(len(ref), len(alt)) - 1 and ref[-1 - shared] == alt[-1 - shared]:
        shared += 1
    ref, alt = ref[: len(ref) - shared], alt[: len(alt) - shared]
    shift = 0
    while shift < min(len(ref), len(alt)) and ref[shift] == alt[shift]:
        shift += 1
    return shift, ref[shift:], alt[shift:]


def kind_of(ref: str, alt: str) -> str:
    """Kind of a trimmed allele."""
    if len(ref) == len(alt):
        return "snv" if len(ref) == 1 else "mnv"
    return "insertion" if not ref else "deletion" if not alt else "complex"


_COLUMNS = {
    "start": np.int64, "end": np.int64, "alt_length": np.int32, "low": np.float32, "high": np.float32, "record": np.int32, "allele": np.int8,
}  # fmt: skip


class _Columns:
    """Edits as they grow: Python lists for one flush of records, arrays for what lies behind."""

    def __init__(self) -> None:
        self.rows: list[tuple] = []
        self.alts: list[str] = []
        self.done: list[dict[str, np.ndarray]] = []

    def flush(self, table: np.ndarray) -> None:
        columns = list(zip(*self.rows, strict=True)) or [()] * len(_COLUMNS)
        part = {name: np.array(c, t) for (name, t), c in zip(_COLUMNS.items(), columns, strict=True)}
        part["alt"] = table[np.frombuffer("".join(self.alts).encode(), np.uint8)] & 0x7F
        self.done.append(part)
        self.rows, self.alts = [], []

    def sorted(self) -> dict[str, np.ndarray]:
        merged = {}
        for name in (*_COLUMNS, "alt"):
            merged[name] = np.concatenate([part.pop(name) for part in self.done])
        start, end = merged["start"], merged["end"]
        falls = (start[1:] < start[:-1]) | ((start[1:] == start[:-1]) & (end[1:] < end[:-1]))
        if not falls.any():  # as in nearly every file: no copy of the columns is made
            merged["alt_start"] = np.concatenate([[0], np.cumsum(merged.pop("alt_length"), dtype=np.int64)])
            return merged
        order = np.lexsort((merged["end"], merged["start"]))
        alt_start = np.concatenate([[0], np.cumsum(merged["alt_length"])]).astype(np.int64)
        lengths = merged.pop("alt_length")[order]
        out = {name: merged.pop(name)[order] for name in list(merged) if name != "alt"}
        out["alt_start"] = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        source = np.repeat(alt_start[:-1][order] - out["alt_start"][:-1], lengths) + np.arange(out["alt_start"][-1])
        out["alt"] = merged["alt"][source]
        return out


def _build(path: Path, reference: Reference, keep: VariantFilter, folder: Path) -> None:
    import pysam

    pysam.set_verbosity(0)
    report = VariantReport(str(path))
    table = base_table()
    columns, genotypes = _Columns(), []
    contig_index: dict[str, int | None] = {}
    compared = mismatched = 0
    last = (-1, -1)
    try:
        source = pysam.VariantFile(str(path))
        if lacking := [s for s in keep.samples if s not in source.header.samples]:
            raise ValueError(f"{path}: samples {', '.join(lacking)} are not in the file, which has {len(source.header.samples)}")
        if not keep.samples and keep.frequency_source not in ("auto", "genotypes"):
            source.subset_samples([])
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as VCF or BCF: {error}") from error

    records = iter(source)
    while True:
        try:
            record = next(records, None)
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: record {report.records + 1} cannot be read: {error}") from error
        if record is None:
            break
        number = report.records
        report.records += 1
        chrom, position, ref, alts = record.chrom, record.start, (record.ref or "").upper(), record.alts or ()
        where = f"{chrom}:{position + 1}"
        if chrom not in contig_index:
            contig_index[chrom] = reference.names.find(chrom)
        contig = contig_index[chrom]
        if keep.samples:
            genotypes.append([_copies(record.samples[s], report, where) for s in keep.samples])
        if not alts:
            report.skip("no ALT allele", where)
            continue
        if contig is None:
            report.skip("contig not in the genome", where, len(alts))
            continue
        if (contig, position) < last:
            report.note("record out of order (sorted)", where)
        last = (contig, position)
        compared += 1
        offset = int(reference.starts[contig])
        if not _agrees(reference.codes, table, offset + position, int(reference.ends[contig]), ref):
            mismatched += 1
            report.skip("REF disagrees with the genome", f"{where} {ref[:20]}", len(alts))
            continue
        if keep.pass_only and list(record.filter) not in ([], ["PASS"]):
            report.skip("FILTER is not PASS", where, len(alts))
            continue
        if keep.info_flag and not record.info.get(keep.info_flag):
            report.skip(f"no INFO flag {keep.info_flag}", where, len(alts))
            continue
        try:
            frequencies = allele_frequencies(record, len(alts), keep.frequency_source)
        except ValueError as error:
            raise ValueError(f"{path}: record {number + 1} at {where} states a frequency that is no number: {error}") from error
        if frequencies is None:
            if keep.missing_frequency is None:
                report.skip("no frequency stated", where, len(alts))
                continue
            report.note("no frequency stated (default used)", where, len(alts))
            frequencies = [keep.missing_frequency] * len(alts)
        if (total := sum(frequencies)) > 1:
            report.note("frequencies add up to more than 1 (rescaled)", where)
            frequencies = [f / total for f in frequencies]
        high = 0.0
        for allele, (alt, frequency) in enumerate(zip(alts, frequencies, strict=True), start=1):
            low, high = high, high + frequency
            alt = alt.upper()
            if not set(alt) <= set("ACGTN"):
                report.skip("symbolic, spanning or non-ACGTN ALT", f"{where} {alt[:20]}")
            elif not keep.min_frequency <= frequency <= keep.max_frequency:
                report.skip("frequency out of bounds", where)
            elif alt == ref:
                report.skip("ALT equals REF", where)
            else:
                shift, short_ref, short_alt = (0, ref, alt) if len(ref) == len(alt) == 1 else trim(ref, alt)
                kind = kind_of(short_ref, short_alt)
                if kind not in keep.kinds:
                    report.skip(f"kind {kind} not wanted", where)
                    continue
                report.kept[kind] += 1
                start = offset + position + shift
                columns.rows.append((start, start + len(short_ref), len(short_alt), low, high, number, allele))
                columns.alts.append(short_alt)
        if len(columns.rows) >= _FLUSH:
            columns.flush(table)
    source.close()
    if compared and mismatched / compared > keep.max_ref_mismatch:
        raise ValueError(
            f"{path}: REF disagrees with {reference.source} in {mismatched:,} of {compared:,} records "
            f"(first: {report.examples['REF disagrees with the genome']}). This looks like the wrong assembly: use the "
            "FASTA that the variants were called against, or raise max_ref_mismatch to leave those records out"
        )
    if not compared and report.records:
        raise ValueError(
            f"{path}: none of its {report.records:,} records lies on a contig of {reference.source} "
            f"({', '.join(reference.names.names[:5])}); first: {next(iter(report.examples.values()))}"
        )
    columns.flush(table)
    edits = columns.sorted()
    if keep.regions is not None:
        edits = _inside(edits, read_regions(keep.regions, reference), report)
    overlapping = int((edits["start"][1:] < np.maximum.accumulate(edits["end"])[:-1]).sum())
    if overlapping:
        report.note("edit overlaps an earlier one (one of them is applied at a time)", "", overlapping)
    edits["genotypes"] = np.array(genotypes, np.int8).reshape(len(genotypes), len(keep.samples), 2)
    for name, column in edits.items():
        np.save(folder / f"{name}.npy", column)
    (folder / "report.json").write_text(json.dumps(vars(report), indent=1))


def _agrees(codes: np.ndarray, table: np.ndarray, start: int, contig_end: int, ref: str) -> bool:
    if start + len(ref) > contig_end:
        return False
    if len(ref) == 1:
        return (codes[start] & 0x7F) == (table[ord(ref)] & 0x7F)
    return bool(((codes[start : start + len(ref)] & 0x7F) == (table[np.frombuffer(ref.encode(), np.uint8)] & 0x7F)).all())


def _copies(sample, report: VariantReport, where: str) -> tuple[int, int]:
    alleles = [-1 if a is None else a for a in sample.allele_indices or (None,)]
    if len(alleles) == 1:
        alleles *= 2  # haploid: X and Y of males, MT
    if not sample.phased and alleles[0] != alleles[1]:
        report.note("heterozygous genotype without phase (order in the file used)", where)
    return alleles[0], alleles[1]


def _inside(edits: dict[str, np.ndarray], regions: np.ndarray, report: VariantReport) -> dict[str, np.ndarray]:
    inside = within(edits["start"], np.maximum(edits["end"], edits["start"] + 1), regions)
    lengths = np.diff(edits["alt_start"])
    report.skip("outside the regions", "", int((~inside).sum()))
    kinds = np.where(edits["end"] - edits["start"] == lengths, np.where(lengths == 1, "snv", "mnv"), "complex")
    kinds = np.where(lengths == 0, "deletion", np.where(edits["end"] == edits["start"], "insertion", kinds))
    report.kept = Counter(kinds[inside].tolist())
    out = {name: c[inside] for name, c in edits.items() if name not in ("alt", "alt_start")}
    out["alt_start"] = np.concatenate([[0], np.cumsum(lengths[inside])]).astype(np.int64)
    out["alt"] = edits["alt"][np.repeat(inside, lengths)]
    return out
