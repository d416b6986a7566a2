"""Read depth: how many molecules of a cell were counted, and cells as a shallower sequencing run would have found them.

Where counts are split, what that run did not find is kept: it is as a second run of the same cell, independent of the first
(`objectives.counts` says when), and what a model predicts from it.

To add a way of lowering it, write a subclass of `ReadDepth` in any module, and name it by its path:
``tokenizer.read_depth.mode=my_package.my_module.MyMode``; the short names below are those of this module.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numba
import numpy as np

from bmfm.cells.counts import Counts
from bmfm.hashing import mix, uniform


@dataclass(frozen=True)
class DepthSettings:
    """Settings of read depth.

    Attributes
    ----------
    min_total
        Least total of counts of a cell that is downsampled.
    rate
        Share of molecules that are lost, of ``poisson``.
    target
        Total of counts to which [T] is aligned.
    share
        Least and largest share of a cell's molecules that is shown where counts are split.
    """

    min_total: float
    rate: float
    target: float
    share: tuple[float, float] = (0.2, 0.8)


class ReadDepth(ABC):
    """What an input says of read depth, and whether it is lowered.

    Attributes
    ----------
    has_tokens
        Whether [S] and [T] stand in front, with log(1 + total) of the input and of the target.
    is_lowered
        Whether `lower` does anything.
    aligns
        Whether [T] is a total that was chosen, rather than the cell's own.
    fits_target
        Whether that total is the largest of the training cells where it is not given.
    is_split
        Whether `lower` splits counts: what it leaves out is kept, as the counts that are to be predicted.
    needs_counts
        Whether counts must be whole numbers of molecules.
    for_inference
        Short name or path of the mode that stands in, where this one lowers read depth and the whole cell is to be shown.
    """

    has_tokens = True
    is_lowered = False
    aligns = False
    fits_target = False
    is_split = False
    needs_counts = False
    for_inference = "auto"

    @abstractmethod
    def lower(self, counts: Counts, totals: np.ndarray, keys: np.ndarray, settings: DepthSettings) -> np.ndarray:
        """Counts of a shallower run, ``float32`` [nnz] like ``counts.counts``, drawn by each cell's key [B]; `totals` are its sums [B]."""


class Unaware(ReadDepth):
    """No tokens of read depth."""

    has_tokens = False

    def lower(self, counts, totals, keys, settings):
        return counts.counts


class Equal(ReadDepth):
    """[S] and [T] are both the cell's total."""

    def lower(self, counts, totals, keys, settings):
        return counts.counts


class Downsample(ReadDepth):
    """scFoundation: with probability 1/2, and only of cells of at least `min_total` counts, every molecule is kept with one
    probability b ~ Beta(2, 2)."""

    is_lowered = True
    fits_target = True

    def lower(self, counts, totals, keys, settings):
        return downsample_counts(counts.counts, counts.ids, counts.offsets, totals, keys, settings.min_total)


class Poisson(ReadDepth):
    """scPRINT: Poisson(rate / 2 * x) molecules of a gene are lost, and each gene as a whole with probability rate / 2."""

    is_lowered = True
    fits_target = True

    def lower(self, counts, totals, keys, settings):
        return lose_molecules(counts.counts, counts.ids, counts.offsets, keys, settings.rate)


class Split(ReadDepth):
    """Every molecule of a cell is shown with one probability, drawn uniformly from `share`; the others are hidden. No tokens of read depth."""

    has_tokens = False
    is_lowered = True
    is_split = True
    needs_counts = True
    for_inference = "none"

    def lower(self, counts, totals, keys, settings):
        shown, fault = split_counts(counts.counts, counts.ids, counts.offsets, keys, *settings.share)
        if fault >= 0:
            raise ValueError(
                f"tokenizer.read_depth.mode: molecules can be split where they are counted, and a cell has {counts.counts[fault]:g} of a gene; "
                "give raw counts (data.expects=counts), or choose tokenizer.read_depth.mode=none and an objective other than counts"
            )
        return shown


class SplitAware(Split):
    """As `Split`; [S] is the total that is shown, and [T] the total that is hidden."""

    has_tokens = True
    fits_target = True
    for_inference = "auto"


class Align(Equal):
    """[T] is the total `target`, which is given."""

    aligns = True


class Auto(Align):
    """[T] is the total `target`, the largest of the training cells where it is not given."""

    fits_target = True


MODES: dict[str, type[ReadDepth]] = {
    "none": Unaware,
    "equal": Equal,
    "downsample": Downsample,
    "poisson": Poisson,
    "split": Split,
    "split_aware": SplitAware,
    "align": Align,
    "auto": Auto,
}


@numba.njit(cache=True)
def sums(counts, offsets):
    """Sum of each cell's counts, ``float64`` [B], added in their order."""
    out = np.empty(len(offsets) - 1)
    for b in range(len(out)):
        total = 0.0
        for i in range(offsets[b], offsets[b + 1]):
            total += counts[i]
        out[b] = total
    return out


def log_totals(totals: np.ndarray, target_totals: np.ndarray) -> np.ndarray:
    """log(1 + total) of the input and of the target, ``float32`` [B, 2]: what [S] and [T] say."""
    return np.log1p(np.stack([totals, target_totals], 1)).astype(np.float32)


@numba.njit(cache=True)
def counts_left(counts, offsets, changed):
    """Counts above 0 of the cells that changed [B], ``float32`` [nnz], and offsets [B + 1]; no count of the other cells."""
    out, out_offsets, n = np.empty(len(counts), np.float32), np.zeros(len(offsets), np.int64), 0
    for b in range(len(changed)):
        if changed[b]:
            for i in range(offsets[b], offsets[b + 1]):
                out[n] = counts[i]
                n += counts[i] > 0
        out_offsets[b + 1] = n
    return out[:n], out_offsets


@numba.njit(cache=True)
def values_where_changed(values, counts, offsets, changed, full_values):
    """Values of `counts_left`, put where they were found, and 0 where counts are 0; `full_values` of cells that did not change."""
    out, n = np.empty(len(counts), np.float32), 0
    for b in range(len(changed)):
        if not changed[b]:
            out[offsets[b] : offsets[b + 1]] = full_values[offsets[b] : offsets[b + 1]]
            continue
        for i in range(offsets[b], offsets[b + 1]):
            is_left = counts[i] > 0
            out[i] = values[min(n, len(values) - 1)] * np.float32(is_left) if len(values) else np.float32(0.0)
            n += is_left  # without a branch, which would be mispredicted
    return out


@numba.njit(cache=True)
def popcount(x):
    """Bits that are set in a ``uint64``."""
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@numba.njit(cache=True)
def binomial(n, p, key):
    """An exact draw from Binomial(n, p): 64 coins at a time, compared with p bit by bit from its highest bit down.

    A coin is heads if its random bits, read as a fraction, are below p; it is decided at the first bit that differs.
    """
    if p >= 1.0:
        return n
    threshold = np.uint64(p * 18446744073709551616.0)
    heads, place = 0, 0
    while n > 0:
        coins = min(n, 64)
        open_ = ~np.uint64(0) if coins == 64 else (np.uint64(1) << np.uint64(coins)) - np.uint64(1)
        below = np.uint64(0)
        bit = 63
        while open_ and bit >= 0:
            word = mix(key, place)
            place += 1
            if (threshold >> np.uint64(bit)) & np.uint64(1):
                below |= open_ & ~word
                open_ &= word
            else:
                open_ &= ~word
            bit -= 1
        heads += popcount(below)
        n -= coins
    return heads


@numba.njit(cache=True)
def beta_2_2(key):
    """A draw from Beta(2, 2): the median of three uniform numbers."""
    a, b, c = uniform(key, 0), uniform(key, 1), uniform(key, 2)
    return max(min(a, b), min(max(a, b), c))


@numba.njit(cache=True)
def poisson(mean, key):
    """A draw from Poisson(mean): products of uniform numbers, a large mean in parts."""
    drawn, place = 0, 0
    while mean > 0.0:
        part = min(mean, 16.0)
        mean -= part
        limit, product = math.exp(-part), 1.0
        while True:
            product *= uniform(key, place)
            place += 1
            if product <= limit:
                break
            drawn += 1
    return drawn


@numba.njit(cache=True)
def downsample_counts(counts, ids, offsets, totals, keys, min_total):
    """Counts of some cells as a shallower sequencing run would have found them, ``float32`` [nnz]; see `Downsample`."""
    out = np.empty(len(counts), np.float32)
    for b in range(len(totals)):
        key = mix(keys[b], 41)
        if totals[b] < min_total or uniform(key, 0) >= 0.5:
            out[offsets[b] : offsets[b + 1]] = counts[offsets[b] : offsets[b + 1]]
            continue
        kept = beta_2_2(mix(key, 1))
        for i in range(offsets[b], offsets[b + 1]):
            gene = mix(mix(key, 2), ids[i])
            c = np.int64(counts[i])
            out[i] = np.float32(uniform(gene, 0) < kept) if c == 1 else np.float32(binomial(c, kept, gene))
    return out


@numba.njit(cache=True)
def lose_molecules(counts, ids, offsets, keys, rate):
    """Counts of cells after molecules, and whole genes, were lost, ``float32`` [nnz]; see `Poisson`."""
    out = np.empty(len(counts), np.float32)
    for b in range(len(offsets) - 1):
        key = mix(keys[b], 41)
        for i in range(offsets[b], offsets[b + 1]):
            gene = mix(mix(key, 3), ids[i])
            lost = poisson(rate / 2 * counts[i], mix(gene, 1))
            out[i] = 0.0 if uniform(gene, 0) < rate / 2 else max(0.0, counts[i] - lost)
    return out


@numba.njit(cache=True)
def split_counts(counts, ids, offsets, keys, least, largest):
    """What is shown of counts, ``float32`` [nnz], see `Split`; and the place of the first that is no whole number, or -1."""
    out = np.empty(len(counts), np.float32)
    for b in range(len(offsets) - 1):
        key = mix(keys[b], 79)
        shown = least + (largest - least) * uniform(key, 0)
        of_genes = mix(key, 1)
        for i in range(offsets[b], offsets[b + 1]):
            c = np.int64(counts[i])
            if counts[i] != c:
                return out, i
            gene = mix(of_genes, ids[i])
            if c > 4:
                out[i] = binomial(c, shown, gene)
                continue
            n = np.int64(uniform(gene, 0) < shown)
            for coin in range(1, c):  # most genes have few molecules
                n += uniform(gene, coin) < shown
            out[i] = n
    return out, -1
