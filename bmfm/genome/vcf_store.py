"""The store of a variant table: columns are written as the file is read, so that memory does not grow with the file."""

import itertools
import json
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
from numpy.lib import format as npy

from bmfm.genome.reference import Reference
from bmfm.genome.regions import read_regions
from bmfm.genome.vcf_edits import BEYOND, MISMATCH, SKIPS, TELOMERE
from bmfm.genome.vcf_filter import VariantFilter, VariantReport
from bmfm.genome.vcf_header import read_header
from bmfm.genome.vcf_piece import DISORDER, BadRecord, Piece, PieceReader, places, sort_edits
from bmfm.genome.vcf_scan import bcf_records
from bmfm.genome.vcf_stream import cut_at_records, in_order, read_pieces

COLUMNS = {
    "start": np.int64, "end": np.int64, "low": np.float32, "high": np.float32, "record": np.int32, "allele": np.int16,
}  # fmt: skip
OVERLAP = "edit overlaps an earlier one (one of them is applied at a time)"
PHASE_SETS = "phase set (PS) changes within a contig (the phase between sets is unknown)"
_MANY = 1 << 20  # edits that are held at a time when a store is put in order


class GrowingColumn:
    """A ``.npy`` file that grows by its first axis."""

    def __init__(self, path: Path, dtype: type, row: tuple[int, ...] = ()):
        self.path, self.dtype, self.row, self.rows = path, np.dtype(dtype), row, 0
        self.file = path.open("wb+")
        self._write_header()

    def _write_header(self) -> None:
        # NumPy leaves room in the header for the first axis to grow.
        npy.write_array_header_1_0(
            self.file, {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.rows, *self.row)}
        )

    def append(self, values: np.ndarray) -> None:
        """Write rows behind those that are there."""
        self.file.write(np.ascontiguousarray(values, self.dtype).data)
        self.rows += len(values)

    def close(self) -> None:
        """Write how many rows there are into the header."""
        self.file.seek(0)
        self._write_header()
        self.file.close()


class StoreWriter:
    """Puts the edits of pieces, in the order of the file, into one sorted table.

    Edits of one record may begin after those of the next (its alleles are trimmed), so the last ones wait until no
    later record can come before them. A file whose records are not in the order of the genome gives several sorted
    `runs`, each within a contig, which `finish` puts in order.
    """

    def __init__(self, folder: Path, n_samples: int, starts: np.ndarray):
        self.folder, self.starts = folder, starts
        self.columns = {name: GrowingColumn(folder / f"{name}.npy", dtype) for name, dtype in COLUMNS.items()}
        self.alt = GrowingColumn(folder / "alt.npy", np.uint8)
        self.alt_start = GrowingColumn(folder / "alt_start.npy", np.int64)
        self.alt_start.append(np.zeros(1, np.int64))
        self.genotypes = GrowingColumn(folder / "genotypes.npy", np.int16, (n_samples, 2))
        self.waiting: dict[str, np.ndarray] | None = None
        self.frontier = -1
        self.runs: list[_Run] = []
        self.n_records = 0

    def append(self, piece: Piece) -> None:
        """Write the edits of a piece, but those that edits of later records may still begin before."""
        columns = piece.columns | {"record": piece.columns["record"] + self.n_records}
        self.genotypes.append(piece.genotypes)
        self.n_records += piece.n_records
        if not len(columns["start"]):
            return
        follows = columns["start"][0] >= self.frontier and not piece.report.noted[DISORDER]
        self.frontier = piece.frontier
        if self.waiting is not None:
            if follows:
                n = int(np.searchsorted(columns["start"], self.waiting["start"][-1], "right"))
                head, tail = _split(columns, n)
                columns = _joined(sort_edits(_joined(self.waiting, head)), tail)
            else:
                self._write(self.waiting)
            self.waiting = None
        if follows:
            columns, waiting = _split(columns, int(np.searchsorted(columns["start"], self.frontier)))
            self.waiting = waiting if len(waiting["start"]) else None
        self._write(columns)

    def _write(self, columns: dict[str, np.ndarray]) -> None:
        start, end = columns["start"], columns["end"]
        if not len(start):
            return
        contigs = np.searchsorted(self.starts, start[[0, -1]], "right")
        borders = np.searchsorted(start, self.starts[contigs[0] : contigs[1]])
        for row, stop in zip([0, *borders.tolist()], [*borders.tolist(), len(start)], strict=True):
            if row == stop:
                continue
            first, last = places(start[[row, stop - 1]], end[[row, stop - 1]]).tolist()
            at = self.columns["start"].rows
            if self.runs and row == 0 and self.runs[-1].contig == contigs[0] and first >= self.runs[-1].last:
                self.runs[-1].last, self.runs[-1].stop = last, at + stop
            else:
                contig = int(np.searchsorted(self.starts, start[row], "right"))
                self.runs.append(_Run(contig, at + row, at + stop, first, last))
        for name, column in self.columns.items():
            column.append(columns[name])
        self.alt_start.append(np.cumsum(columns["alt_length"]) + self.alt.rows)
        self.alt.append(columns["alt"])

    def finish(self) -> None:
        """Write what waits; where records were in disorder, sort what was written."""
        if self.waiting is not None:
            self._write(self.waiting)
        for column in (*self.columns.values(), self.alt, self.alt_start, self.genotypes):
            column.close()
        if any(after.first < before.last for before, after in itertools.pairwise(self.runs)):
            _put_in_order(self.folder, self.runs)


@dataclass
class _Run:
    """Sorted rows [row, stop) of one contig, and the `places` of the first and the last of them."""

    contig: int
    row: int
    stop: int
    first: int
    last: int


def _split(columns: dict[str, np.ndarray], n: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    bases = int(columns["alt_length"][:n].sum())
    first = {name: c[: bases if name == "alt" else n] for name, c in columns.items()}
    return first, {name: c[bases if name == "alt" else n :] for name, c in columns.items()}


def _joined(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if not len(first["start"]):
        return second
    return {name: np.concatenate([column, second[name]]) for name, column in first.items()}


def _put_in_order(folder: Path, runs: list[_Run]) -> None:
    """Rewrite the columns so that runs follow each other in the genome; runs that interlock are sorted together."""
    old = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in (*COLUMNS, "alt", "alt_start")}
    new = {name: GrowingColumn(folder / f"new-{name}.npy", old[name].dtype.type) for name in old}
    new["alt_start"].append(np.zeros(1, np.int64))
    groups: list[list[_Run]] = []
    reached = -1
    for run in sorted(runs, key=lambda run: (run.first, run.row)):
        if run.first > reached:
            groups.append([])
        groups[-1].append(run)
        reached = max(reached, run.last)
    for group in groups:
        rows = None
        first, stop = group[0].row, group[0].stop
        if len(group) > 1:
            rows = np.concatenate([np.arange(run.row, run.stop) for run in sorted(group, key=lambda run: run.row)])
            rows = rows[np.argsort(places(old["start"][rows], old["end"][rows]), kind="stable")]
            first, stop = 0, len(rows)
        for at in range(first, stop, _MANY):
            _copy_rows(old, new, np.arange(at, min(at + _MANY, stop)) if rows is None else rows[at : at + _MANY])
    for name, column in new.items():
        column.close()
        column.path.replace(folder / f"{name}.npy")


def _copy_rows(old: dict[str, np.ndarray], new: dict[str, GrowingColumn], rows: np.ndarray) -> None:
    for name in COLUMNS:
        new[name].append(old[name][rows])
    first = old["alt_start"][rows]
    lengths = old["alt_start"][rows + 1] - first
    ends = np.cumsum(lengths)
    new["alt_start"].append(ends + new["alt"].rows)
    new["alt"].append(old["alt"][np.repeat(first - ends + lengths, lengths) + np.arange(lengths.sum())])


@numba.njit(cache=True)
def _overlaps(start, end, record):
    """How many edits begin before an earlier one of another record ends."""
    n = reached = others = 0  # the furthest end, and the furthest of the records but the one that reaches it
    furthest = -1
    for e in range(len(start)):
        n += start[e] < (others if record[e] == furthest else reached)
        if record[e] == furthest:
            reached = max(reached, end[e])
        elif end[e] > reached:
            reached, others, furthest = end[e], reached, record[e]
        else:
            others = max(others, end[e])
    return n


class _PhaseSets:
    """Counts how often the phase set of a sample changes within a contig."""

    def __init__(self, n_samples: int):
        self.contig, self.last, self.n = np.full(n_samples, -1, np.int64), np.zeros(n_samples, np.int64), 0

    def add(self, piece: Piece) -> None:
        for sample in range(piece.phase_sets.shape[1]):
            rows = np.flatnonzero(piece.phase_sets[:, sample])
            if not len(rows):
                continue
            sets = np.concatenate([[self.last[sample]], piece.phase_sets[rows, sample]])
            contigs = np.concatenate([[self.contig[sample]], piece.contig[rows]])
            self.n += int(((sets[1:] != sets[:-1]) & (contigs[1:] == contigs[:-1])).sum())
            self.last[sample], self.contig[sample] = sets[-1], contigs[-1]


def build(paths: Sequence[Path], reference: Reference, keep: VariantFilter, folder: Path) -> None:
    """Fill `folder` with the columns of a variant table and its report; see `variants.VariantTable.from_vcf`.

    Records of several files are numbered on, in the order of `paths`.
    """
    regions = None if keep.regions is None else read_regions(keep.regions, reference)
    writer, phase = StoreWriter(folder, len(keep.samples), reference.starts), _PhaseSets(len(keep.samples))
    name = str(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
    report, n_compared, n_alternatives = VariantReport(name), 0, 0
    for path in paths:
        part = VariantReport(str(path))
        counts = _read_file(path, reference, keep, regions, writer, phase, part)
        _require_assembly(path, reference, keep, part, *counts[:2])
        n_compared, n_alternatives = n_compared + counts[0], n_alternatives + counts[2]
        _add(report, part)
    report.records = writer.n_records
    _require_sense(name, reference, report, n_compared, n_alternatives)
    writer.finish()
    n_overlaps = _overlaps(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("start", "end", "record")))
    for reason, n in ((OVERLAP, int(n_overlaps)), (PHASE_SETS, phase.n)):
        if n:
            report.note(reason, "", n)
    (folder / "report.json").write_text(json.dumps(vars(report), indent=1))


def _add(report: VariantReport, other: VariantReport) -> None:
    """Add the counts of a part, and of what is new its example."""
    for reason in (*other.skipped, *other.noted):
        report.examples.setdefault(reason, other.examples[reason])
    for name in ("kept", "skipped", "noted"):
        getattr(report, name).update(getattr(other, name))


def _read_file(path, reference, keep, regions, writer: StoreWriter, phase: _PhaseSets, report: VariantReport) -> tuple[int, int, int]:
    """Read one file to its end; how many records were compared with the genome, disagree with it, and have an alternative."""
    n_threads = max(1, min(8, os.cpu_count() or 1))
    n_compared = n_mismatched = n_alternatives = 0
    last, n_before = (-1, -1), writer.n_records
    with ThreadPoolExecutor(n_threads) as pool, _progress(path) as bar:
        inflated = read_pieces(path, pool, n_threads)
        header, first = read_header(path, inflated)
        reader = PieceReader(path, header, reference, keep, regions)
        whole = _end_of_bcf if header.is_bcf else _end_of_lines
        try:
            for piece, at in in_order(pool, reader, cut_at_records(inflated, first, whole, path), n_threads):
                _add(report, piece.report)
                if piece.first is not None and piece.last is not None:
                    if piece.first < last:
                        report.note(DISORDER, piece.first_where)
                    last = piece.last
                n_compared += piece.n_compared
                n_mismatched += piece.n_mismatched
                n_alternatives += piece.n_alternatives
                writer.append(piece)
                phase.add(piece)
                bar.update(at - bar.n)
        except BadRecord as bad:
            where, number = f" at {bad.where}" if bad.where else "", writer.n_records - n_before + bad.record + 1
            raise ValueError(f"{path}: record {number}{where} cannot be read: {bad.problem}") from None
    report.records = writer.n_records - n_before
    return n_compared, n_mismatched, n_alternatives


def _require_assembly(path, reference, keep, report, n_compared, n_mismatched) -> None:
    """Refuse a file that belongs to another genome."""
    if n_mismatched > keep.max_ref_mismatch * n_compared:
        raise ValueError(
            f"{path}: REF disagrees with {reference.source} in {n_mismatched:,} of {n_compared:,} records "
            f"(first: {next(report.examples[r] for r in (SKIPS[MISMATCH], SKIPS[BEYOND]) if r in report.examples)}). This looks like the "
            "wrong assembly: use the FASTA that the variants were called against, or raise max_ref_mismatch to leave those records out"
        )


def _require_sense(path, reference, report, n_compared, n_alternatives) -> None:
    """Refuse files that have nothing to give."""
    if not report.records:
        raise ValueError(f"{path}: a header and no records; give a VCF with variants, or representation=reference for the genome alone")
    if not n_alternatives:
        raise ValueError(
            f"{path}: no alternative alleles in its {report.records:,} records (ALT is . or <NON_REF>, as in the blocks of a gVCF); "
            "give the file of called variants"
        )
    if not n_compared and (n := report.skipped[SKIPS[TELOMERE]]):
        raise ValueError(
            f"{path}: none of its {report.records:,} records can be applied: those on a contig of {reference.source} ({n:,} alleles) "
            f"stand before its first base or after its last, on the telomere; first: {report.examples[SKIPS[TELOMERE]]}"
        )
    if not n_compared:
        raise ValueError(
            f"{path}: none of its {report.records:,} records lies on a contig of {reference.source} "
            f"({', '.join(reference.names.names[:5])}); first: {next(iter(report.examples.values()))}"
        )


def _end_of_lines(data: bytes) -> int:
    return data.rfind(b"\n") + 1


def _end_of_bcf(data: bytes) -> int:
    return bcf_records(np.frombuffer(data, np.uint8))[1]


def _progress(path: Path):
    """A bar over the bytes of the file, shown where work goes on for seconds; none in the workers of a data loader."""
    from tqdm import tqdm

    in_worker = multiprocessing.parent_process() is not None
    return tqdm(
        total=path.stat().st_size, desc=f"Reading {path.name}", unit="B", unit_scale=True, delay=3, leave=False, disable=in_worker or None
    )  # fmt: skip
