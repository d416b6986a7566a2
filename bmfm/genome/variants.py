"""Variants of a VCF or BCF as a table of edits of the reference, sorted, with frequencies; and a report of every skip.

One ALT allele is one *edit*: bases [start, end) of the reference become `alt`. Alleles are trimmed of the bases that
they share with REF, so a deletion has an empty `alt` and an insertion an empty interval. The alleles of one record
exclude each other: each owns a slice [low, high) of the unit interval, as wide as its frequency, and a chromosome copy
carries the allele in whose slice its draw for that record falls.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from bmfm.files import cached_folder, fingerprint, require_file
from bmfm.genome import vcf_store
from bmfm.genome.reference import Reference
from bmfm.genome.regions import regions_file
from bmfm.genome.vcf_filter import KINDS, NO_FREQUENCY, VariantFilter, VariantReport

__all__ = ["KINDS", "NO_FREQUENCY", "VariantFilter", "VariantReport", "VariantTable"]

_FORMAT = 4


@dataclass(frozen=True)
class VariantTable:
    """Edits of one genome. Positions index `Reference.codes`.

    They are sorted by start; of those that begin at the same base, insertions come first, and then each in the order of
    records and alleles.

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
    allele : int16 [E]
        Number of the ALT in the record, from 1.
    genotypes : int16 [records, samples, 2]
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

    @classmethod
    def from_vcf(
        cls,
        vcf: str | Path | Sequence[str | Path],
        reference: Reference,
        keep: VariantFilter | None = None,
        cache_dir: str | Path | None = None,
    ) -> "VariantTable":
        """Read a VCF or BCF (plain, gzip or bgzip; no index needed) against its genome; cached like the genome.

        Several files, as one for each chromosome, are given as a list or as a pattern (``chr*.vcf.gz``). They make one
        table: their records are numbered on, and each must have the samples and fields that the filter asks for.

        Records on the telomeres (POS 0, or one past the contig's end) are left out and counted, as is everything else
        that is not taken. A bar shows how far the file has been read.

        Raises
        ------
        FileNotFoundError
            With near matches, if the file is not there.
        ValueError
            If it cannot be parsed or ends early (names the record), if it lacks a sample, the flag or the INFO field of
            the filter, if it has no records or no alternative alleles, or if it disagrees with the genome in more than
            `VariantFilter.max_ref_mismatch` of its records (the wrong assembly, most often).
        """
        paths = variant_files(vcf)
        keep = keep or VariantFilter()
        key = {
            "format": _FORMAT,
            "vcf": [fingerprint(path) for path in paths],
            "genome": fingerprint(reference.source),
            "filter": asdict(keep),
        }
        if bed := regions_file(keep.regions):
            key["regions"] = fingerprint(require_file(bed, "BED file"))
        folder = cached_folder("variants", key, lambda partial: vcf_store.build(paths, reference, keep, partial), cache_dir)
        columns = {
            f.name: np.load(folder / f"{f.name}.npy", mmap_mode="r").view(np.ndarray)
            for f in fields(cls)
            if f.name not in ("samples", "report", "folder")
        }
        saved = json.loads((folder / "report.json").read_text())
        counters = {name: Counter(saved[name]) for name in ("kept", "skipped", "noted")}
        report = VariantReport(saved["path"], saved["records"], **counters, examples=saved["examples"])
        return cls(**columns, samples=tuple(keep.samples), report=report, folder=folder)


def variant_files(names: str | Path | Sequence[str | Path]) -> list[Path]:
    """The variant files that a name, a pattern or a list of them stands for."""
    paths: list[Path] = []
    for name in [names] if isinstance(names, (str, Path)) else names:
        path = Path(name).expanduser()
        matches = sorted(path.parent.glob(path.name)) if any(c in path.name for c in "*?[") and not path.exists() else []
        paths += matches or [require_file(name, "variant file", folder=True)]
    if not paths:
        raise ValueError("the list of variant files is empty")
    if folders := [path for path in paths if path.is_dir()]:
        raise ValueError(
            f"variant file {str(folders[0])!r} is a folder; give the VCF or BCF itself, or a pattern such as {folders[0]}/*.vcf.gz"
        )
    if len(set(paths)) < len(paths):
        raise ValueError(f"variant files: {next(str(p) for p in paths if paths.count(p) > 1)!r} is given more than once")
    return paths
