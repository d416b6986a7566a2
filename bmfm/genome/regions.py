"""Sets of intervals of a genome: BED files, region words, intersection, and the split into training and held-out parts.

An interval set is ``int64`` [I, 2] of half-open positions in `Reference.codes`, sorted, without overlap.
"""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bmfm.files import open_whole, require_file
from bmfm.genome.reference import Reference
from bmfm.hashing import example_keys

_PLACE = re.compile("[0-9]{1,18}")
"""A position, as it is written; no genome has longer ones."""


def merge(intervals: np.ndarray) -> np.ndarray:
    """Sort an interval set and join what overlaps or touches."""
    intervals = np.asarray(intervals, np.int64).reshape(-1, 2)
    intervals = intervals[np.argsort(intervals[:, 0], kind="stable")]
    if len(intervals) < 2:
        return intervals
    reach = np.maximum.accumulate(intervals[:, 1])
    first = np.concatenate([[True], intervals[1:, 0] > reach[:-1]])
    last = np.concatenate([first[1:], [True]])
    return np.stack([intervals[first, 0], reach[last]], axis=1)


def intersect(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection of two interval sets; pieces keep the boundaries of both."""
    first = np.searchsorted(b[:, 1], a[:, 0], "right")
    last = np.searchsorted(b[:, 0], a[:, 1], "left")
    counts = np.maximum(last - first, 0)
    ia = np.repeat(np.arange(len(a)), counts)
    ib = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(first, counts)
    return np.stack([np.maximum(a[ia, 0], b[ib, 0]), np.minimum(a[ia, 1], b[ib, 1])], axis=1)


def within(start: np.ndarray, end: np.ndarray, intervals: np.ndarray) -> np.ndarray:
    """Whether each [start, end) lies wholly inside one interval, ``bool`` [N]."""
    if not len(intervals):
        return np.zeros(len(start), bool)
    holder = np.maximum(np.searchsorted(intervals[:, 0], start, "right") - 1, 0)
    return (intervals[holder, 0] <= start) & (end <= intervals[holder, 1])


def inside_regions(start: np.ndarray, end: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Whether each edit [start, end) lies in one interval, ``bool`` [N]; an insertion, by the base before or after it."""
    insertion = start == end
    return within(start, np.maximum(end, start + 1), regions) | (insertion & within(start - 1, start, regions))


def regions_file(regions: object) -> Path | None:
    """The BED file that these regions are, or None if they are words."""
    if not isinstance(regions, (str, Path)):
        return None
    path = Path(regions).expanduser()
    return path if path.is_file() or path.is_fifo() or str(regions).endswith((".bed", ".bed.gz")) else None


def read_regions(regions: str | Path | int | Sequence[str | int], reference: Reference) -> np.ndarray:
    """Interval set of a BED file (plain or gzip), or of words.

    A word is a contig, ``chr20``, or a part of it, 1-based and inclusive: ``chr20:1,001-2,000``, ``chr20:1,001-`` from
    there to its end, ``chr20:-2,000`` from its beginning. ``chr20:1,001`` is refused: it is one base to bcftools, and all
    from there to samtools. Numbers are names of contigs.

    Raises
    ------
    ValueError
        Naming file and line, if a line is malformed, its contig unknown, or its interval empty or outside the contig; or
        if there is no region at all.
    """
    if path := regions_file(regions):
        rows = [(r.where, *locate(r, reference)) for r in bed_rows(require_file(path, "BED file"))]
    else:
        words = [str(regions)] if isinstance(regions, (str, Path, int)) else [str(word) for word in regions]
        rows = [(f"region {word!r}", *locate_word(word, reference)) for word in words]
        if not rows:
            raise ValueError("the list of regions is empty: name some, or leave regions out for the whole genome")
    return merge(np.array([(reference.starts[contig] + start, reference.starts[contig] + end) for _, contig, start, end in rows], np.int64))


@dataclass(frozen=True)
class BedRow:
    """A line of a BED file, 0-based and half-open; `strand` is its sixth column, None where there is none."""

    where: str
    contig: str
    start: int
    end: int
    strand: str | None

    @property
    def name(self) -> str:
        """``contig:start-end``, with a strand ``contig:start-end(-)``: what ``bedtools getfasta`` (with ``-s``) calls it."""
        return f"{self.contig}:{self.start}-{self.end}" + (f"({self.strand})" if self.strand else "")


def bed_rows(path: Path) -> Iterator[BedRow]:
    """The lines of a BED file, plain or gzip; comments and lines of the words ``track`` and ``browser`` are passed over.

    Raises
    ------
    ValueError
        Naming file and line, of a line without contig, start and end; or if the file holds no region.
    """
    n_rows = 0
    with open_whole(path) as lines:
        for number, line in enumerate(io.TextIOWrapper(lines, "utf-8-sig", "replace"), start=1):
            line = line.strip("\n")
            if not line.strip() or line.startswith("#"):
                continue
            columns = [c.strip(" ") for c in line.split("\t")] if "\t" in line else re.findall("[^ ]+", line)
            has_interval = len(columns) > 2 and all(_PLACE.fullmatch(c) for c in columns[1:3])
            if not has_interval and line.split()[0] in ("track", "browser"):
                continue
            where = f"{path}:{number}"
            if not has_interval:
                raise ValueError(f"{where}: expected contig, start and end, apart by tabs or blanks, found {line.strip()[:60]!r}")
            strand = columns[5] if len(columns) > 5 else None
            n_rows += 1
            yield BedRow(where, columns[0], int(columns[1]), int(columns[2]), strand)
    if not n_rows:
        raise ValueError(f"{path}: the BED file holds no region")


def locate(row: BedRow, reference: Reference) -> tuple[int, int, int]:
    """Number of the contig, start and end of a line of a BED file; a ValueError names the line if they are not in the genome."""
    contig = reference.names.require(row.contig, row.where)
    return contig, *_inside(row.where, row.contig, row.start, row.end, reference.contigs[contig]["length"])


def locate_word(word: str, reference: Reference) -> tuple[int, int, int]:
    """Number of the contig, 0-based start and end of a word, see `read_regions`; a ValueError names the word if it is no region."""
    where = f"region {word!r}"
    if ":" not in word or word in reference.names:
        contig = reference.names.require(word, where)
        return contig, 0, reference.contigs[contig]["length"]
    match = re.fullmatch(r"(.+):([0-9,]{0,24})-([0-9,]{0,24})", word, re.DOTALL)
    if match is None or (":" in match[1] and not reference.names.meant(match[1])):
        raise ValueError(
            f"{where}: it is no contig of the genome, nor contig:start-end, contig:start- or contig:-end; one base is "
            "contig:7-7, and several regions are a list of words"
        )
    contig = reference.names.require(match[1], where)
    length = reference.contigs[contig]["length"]
    start, end = (int(match[i].replace(",", "") or default) for i, default in ((2, 1), (3, length)))
    return contig, *_inside(where, match[1], start - 1, end, length)


def _inside(where: str, contig: str, start: int, end: int, length: int) -> tuple[int, int]:
    if start >= end:
        raise ValueError(f"{where}: interval {start}-{end} (0-based, half-open) of {contig} is empty")
    if start < 0 or end > length:
        raise ValueError(f"{where}: interval {start}-{end} (0-based, half-open) is not inside {contig}, which has {length} bases")
    return start, end


def split_by_contig(reference: Reference, held_out: Mapping[str, Sequence[str | int]]) -> dict[str, np.ndarray]:
    """Interval sets ``train``, ``validation``, ``test``: whole contigs held out by name, the rest for training."""
    part_of = {}
    for part, names in held_out.items():
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise ValueError(
                f"data.split.{part}={names!r}: a split by contig takes lists of names, as {part}=[chr8]; shares are for by=block"
            )
        for name in names:
            part_of[reference.names.require(name, f"split {part}")] = part
    parts: dict[str, list] = {"train": [], "validation": [], "test": []}
    for contig in range(len(reference.contigs)):
        parts[part_of.get(contig, "train")].append((reference.starts[contig], reference.ends[contig]))
    return {part: np.array(rows, np.int64).reshape(-1, 2) for part, rows in parts.items()}


def split_by_block(reference: Reference, block_size: int, shares: Mapping[str, float], seed: int = 0) -> dict[str, np.ndarray]:
    """Interval sets ``train``, ``validation``, ``test`` of blocks of the genome, drawn by seed.

    Parameters
    ----------
    block_size
        Bases a block; no window crosses a block's edge, so no locus is in two parts.
    shares
        ``validation`` and ``test``: share of the blocks held out (at least one block where the share is above 0).
    """
    blocks = []
    for contig in range(len(reference.contigs)):
        start, end = int(reference.starts[contig]), int(reference.ends[contig])
        edges = np.append(np.arange(start, end, block_size), end)
        blocks.append(np.stack([edges[:-1], edges[1:]], axis=1))
    every = np.concatenate(blocks)
    order = np.argsort(example_keys(seed, 0, np.arange(len(every))), kind="stable")
    parts, taken = {}, 0
    for part in ("validation", "test"):
        share = shares.get(part, 0.0)
        n = max(1, round(share * len(every))) if share > 0 else 0
        parts[part] = merge(every[np.sort(order[taken : taken + n])])
        taken += n
    if taken >= len(every):
        raise ValueError(
            f"split by blocks of {block_size:,} bases holds out all {len(every)} blocks of {reference.source}; "
            "make block_size smaller, or split by contig"
        )
    parts["train"] = merge(every[np.sort(order[taken:])])
    return parts
