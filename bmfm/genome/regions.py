"""Sets of intervals of a genome: BED files, region words, intersection, and the split into training and held-out parts.

An interval set is ``int64`` [I, 2] of half-open positions in `Reference.codes`, sorted, without overlap.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bmfm.files import require_file
from bmfm.genome.reference import Reference
from bmfm.hashing import example_keys


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


def read_regions(regions: str | Path | Sequence[str], reference: Reference) -> np.ndarray:
    """Interval set of a BED file (plain or gzip), or of words: ``chr20`` or ``chr20:1,001-2,000`` (1-based, inclusive).

    Raises
    ------
    ValueError
        Naming file and line, if a line is malformed, its contig unknown, or its interval outside the contig.
    """
    if isinstance(regions, (str, Path)) and (Path(regions).is_file() or str(regions).endswith((".bed", ".bed.gz"))):
        rows = bed_rows(require_file(regions, "BED file"))
    else:
        rows = (_region_row(word) for word in ([str(regions)] if isinstance(regions, (str, Path)) else regions))
    found = []
    for where, name, start, end in rows:
        contig = reference.names.require(name, where)
        offset, length = int(reference.starts[contig]), reference.contigs[contig]["length"]
        end = length if end is None else end
        if not 0 <= start < end <= length:
            raise ValueError(f"{where}: interval {start}-{end} (0-based) is not inside {name}, which has {length} bases")
        found.append((offset + start, offset + end))
    return merge(np.array(found, np.int64))


def bed_rows(path: Path):
    import gzip

    opener = gzip.open if path.suffix in (".gz", ".bgz") else open
    with opener(path, "rt") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip() or line.startswith(("#", "track", "browser")):
                continue
            columns = line.split()
            if len(columns) < 3 or not (columns[1].isdigit() and columns[2].isdigit()):
                raise ValueError(f"{path}:{number}: expected contig, start and end, found {line.strip()[:60]!r}")
            yield f"{path}:{number}", columns[0], int(columns[1]), int(columns[2])


def _region_row(word: str):
    match = re.fullmatch(r"(.+?)(?::([\d,]+)-([\d,]+))?", word)
    if match is None or match[2] is None:
        return f"region {word!r}", word, 0, None
    return f"region {word!r}", match[1], int(match[2].replace(",", "")) - 1, int(match[3].replace(",", ""))


def split_by_contig(reference: Reference, held_out: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Interval sets ``train``, ``validation``, ``test``: whole contigs held out by name, the rest for training."""
    part_of = {}
    for part, names in held_out.items():
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
