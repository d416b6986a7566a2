"""Sequences that are nearly the same, found by sketches of their k-mers.

The identity of two sequences is estimated as Mash does (Ondov et al., Genome Biology 2016) from the share of k-mers that they
have in common; that share from minimal hashes in buckets (one permutation hashing: Li, Owen and Zhang, NeurIPS 2012).
Compared are those that agree in two buckets that lie side by side.
"""

import math

import numba
import numpy as np

from bmfm.hashing import mix

BUCKETS = 128
EMPTY = np.uint32(0xFFFFFFFF)
MOST = 64
"""References that one query is compared with for each pair of equal buckets."""


def near(queries: list[str], references: list[str], identity: float) -> np.ndarray:
    """Whether each query has a reference of at least an identity [queries], on either strand; an estimate.

    k is 8 where half of the references have 128 bases or fewer, else 12; a sequence of fewer than three times k bases is
    near to none.
    """
    if not queries or not references:
        return np.zeros(len(queries), bool)
    k = 8 if np.median([len(t) for t in references]) <= 128 else 12
    buckets = BUCKETS if len(references) <= 300_000 else BUCKETS // 4
    ours, theirs = (sketches(texts, k, buckets) for texts in (queries, references))
    threshold = jaccard_of(identity, k)
    is_near = np.zeros(len(queries), bool)
    for band in range(0, buckets, 2):
        keys = [s[:, band].astype(np.uint64) << np.uint64(32) | s[:, band + 1] for s in (ours, theirs)]
        filled = [np.flatnonzero((s[:, band : band + 2] != EMPTY).all(1)) for s in (ours, theirs)]
        order = filled[1][np.argsort(keys[1][filled[1]], kind="stable")]
        unmatched = filled[0][~is_near[filled[0]]]
        start, end = (np.searchsorted(keys[1][order], keys[0][unmatched], side) for side in ("left", "right"))
        _compare(ours, theirs, unmatched, order, start, np.minimum(end, start + MOST), threshold, is_near)
    return is_near


def jaccard_of(identity: float, k: int) -> float:
    """Share of k-mers that two sequences have in common, of all that either has, at an identity (Mash's formula turned round)."""
    j = math.exp(-k * (1 - identity))
    return j / (2 - j)


def sketches(texts: list[str], k: int, buckets: int) -> np.ndarray:
    """``uint32`` [texts, buckets]: of the hashes of a text's k-mers (the lesser of both strands) that fall into a bucket the least;
    `EMPTY` where there is none, or the text has fewer than three times k bases."""
    flat = np.frombuffer("".join(texts).encode("ascii", "replace"), np.uint8)
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in texts])]).astype(np.int64)
    codes = np.full(256, 4, np.uint8)
    for code, letters in enumerate(("Aa", "Cc", "Gg", "TtUu")):
        codes[[ord(c) for c in letters]] = code
    return _sketch(codes[flat], offsets, k, buckets)


@numba.njit(cache=True)
def _sketch(codes, offsets, k, buckets):
    out = np.full((len(offsets) - 1, buckets), EMPTY, np.uint32)
    mask, top = np.uint64(4**k - 1), np.uint64(2 * (k - 1))
    for row in range(len(offsets) - 1):
        if offsets[row + 1] - offsets[row] < 3 * k:
            continue
        forward, backward, n = np.uint64(0), np.uint64(0), 0
        for place in range(offsets[row], offsets[row + 1]):
            code = codes[place]
            if code > 3:
                n = 0
                continue
            forward = ((forward << np.uint64(2)) | np.uint64(code)) & mask
            backward = (backward >> np.uint64(2)) | (np.uint64(3 - code) << top)
            n += 1
            if n >= k:
                hashed = mix(np.uint64(0), min(forward, backward))
                bucket = (hashed >> np.uint64(32)) % np.uint64(buckets)
                least = np.uint32(hashed & np.uint64(0xFFFFFFFE))
                out[row, bucket] = min(out[row, bucket], least)
    return out


@numba.njit(cache=True)
def _compare(ours, theirs, queries, order, start, end, threshold, is_near):
    """Mark the queries whose sketch agrees with one of the candidates ``order[start:end]`` in enough buckets that either fills."""
    for i in range(len(queries)):
        for place in range(start[i], end[i]):
            same, filled = 0, 0
            for b in range(ours.shape[1]):
                x, y = ours[queries[i], b], theirs[order[place], b]
                filled += (x != EMPTY) | (y != EMPTY)
                same += (x == y) & (x != EMPTY)
            if same >= threshold * filled:
                is_near[queries[i]] = True
                break
