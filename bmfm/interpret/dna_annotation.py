"""What is known of a region: genes of a GTF file and variants of a VCF, as far as they lie in some windows of a genome."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bmfm.files import open_whole, require_file
from bmfm.genome.contigs import ContigNames
from bmfm.variants.reading import read_variants

SHARD = 100_000
"""Alleles that are read at a time."""


@dataclass(frozen=True)
class Window:
    """Bases ``start`` to ``end`` (0-based, half-open) of a contig."""

    chrom: str
    start: int
    end: int


@dataclass
class Transcript:
    """A transcript that reaches into a window, 0-based and half-open; its exons and coding parts as far as the file has them."""

    gene: str
    name: str
    strand: str
    start: int
    end: int
    exons: list[tuple[int, int]] = field(default_factory=list)
    coding: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Variant:
    """One ALT of a record; `position` counts from 0."""

    position: int
    name: str
    ref: str
    alt: str


def read_transcripts(gtf: str | Path, windows: Sequence[Window], contigs: ContigNames) -> list[list[Transcript]]:
    """Transcripts of a GTF file (plain or gzip) that overlap each window, by their start.

    Lines of ``transcript``, ``exon`` and ``CDS`` are read. Contigs may be named in another style than the genome's.

    Raises
    ------
    ValueError
        Naming file and line, of a line that is no GTF.
    """
    path = require_file(gtf, "GTF file (genes)")
    found: list[dict[str, Transcript]] = [{} for _ in windows]
    of_contig = _by_contig(windows)
    with open_whole(path) as lines:
        for number, line in enumerate(io.TextIOWrapper(lines, "utf-8", "replace"), start=1):
            if line.startswith("#") or not line.strip():
                continue
            columns = line.rstrip("\n").split("\t")
            if len(columns) != 9 or not columns[3].isdigit() or not columns[4].isdigit():
                raise ValueError(f"{path}:{number}: expected the nine columns of GTF, apart by tabs, found {line.strip()[:60]!r}")
            meant = contigs.find(columns[0])
            if columns[2] not in ("transcript", "exon", "CDS") or meant is None or contigs.names[meant] not in of_contig:
                continue
            start, end = int(columns[3]) - 1, int(columns[4])
            inside = [w for w in of_contig[contigs.names[meant]] if start < windows[w].end and windows[w].start < end]
            if not inside:
                continue
            attributes = dict(re.findall(r'(\w+) "([^"]*)"', columns[8]))
            if not attributes.get("transcript_id"):
                raise ValueError(f'{path}:{number}: column 9 has no transcript_id "..."; a GTF file is needed, not GFF3')
            for w in inside:
                _add(found[w], columns[2], columns[6], start, end, attributes)
    return [sorted(of.values(), key=lambda t: (t.start, t.name)) for of in found]


def _add(transcripts: dict[str, Transcript], kind: str, strand: str, start: int, end: int, attributes: dict[str, str]) -> None:
    name = attributes["transcript_id"]
    gene = attributes.get("gene_name") or attributes.get("gene_id", name)
    transcript = transcripts.setdefault(name, Transcript(gene, name, strand, start, end))
    transcript.start, transcript.end = min(transcript.start, start), max(transcript.end, end)
    if kind == "exon":
        transcript.exons.append((start, end))
    elif kind == "CDS":
        transcript.coding.append((start, end))


def read_variants_in(vcf: str | Path, windows: Sequence[Window], contigs: ContigNames) -> list[list[Variant]]:
    """Alleles of a VCF, BCF or table (see `variants.reading`) whose REF begins in each window, by their position; records without ALT have none."""
    found: list[list[Variant]] = [[] for _ in windows]
    of_contig = _by_contig(windows)
    for records in read_variants(vcf, SHARD):
        names = {name: contigs.find(name) for name in set(records.contigs)}
        wanted = {name for name, meant in names.items() if meant is not None and contigs.names[meant] in of_contig}
        for i in np.flatnonzero([name in wanted for name in records.contigs]).tolist():
            meant = names[records.contigs[i]]
            position = int(records.positions[i]) - 1
            for w in of_contig[contigs.names[meant]]:  # type: ignore[index]
                if windows[w].start <= position < windows[w].end:
                    alts = [alt for alt in records.alts[i].decode().split(",") if alt not in (".", "")]
                    found[w] += [Variant(position, records.ids[i], records.refs[i].decode(), alt) for alt in alts]
    return [sorted(of, key=lambda v: v.position) for of in found]


def _by_contig(windows: Sequence[Window]) -> dict[str, list[int]]:
    of_contig: dict[str, list[int]] = {}
    for number, window in enumerate(windows):
        of_contig.setdefault(window.chrom, []).append(number)
    return of_contig
