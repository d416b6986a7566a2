"""How counts become the values that a model sees.

A transform takes the counts of a batch of cells at once. To add one, write a subclass of `ValueTransform` in any module, and
name it by its path: ``tokenizer.values.kind=my_package.my_module.MyTransform``; the short names below are those of this module.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numba
import numpy as np

_MEMO = 64


@dataclass(frozen=True)
class ValueSettings:
    """Settings of transforms.

    Attributes
    ----------
    target_sum
        Total of counts to which cells are normalised.
    n_bins
        Number of bins, that of counts of 0 included.
    upper
        Value at which the last of equally wide bins ends.
    """

    target_sum: float
    n_bins: int
    upper: float


class ValueTransform(ABC):
    """Values of cells from their counts; of a cell alone, whatever else is in the batch.

    Attributes
    ----------
    is_binned
        Whether values are numbers of bins, from 1 (0 is for counts of 0).
    needs_counts
        Whether values that are normalised already would be normalised twice.
    is_relative
        Whether it takes, in place of counts, counts over the medians of their genes, see `cells.gene_medians`.
    """

    is_binned = False
    needs_counts = False
    is_relative = False

    @abstractmethod
    def __call__(self, counts: np.ndarray, offsets: np.ndarray, totals: np.ndarray, settings: ValueSettings) -> np.ndarray:
        """Values of the counts, ``float32`` [nnz].

        Parameters
        ----------
        counts
            ``float32`` [nnz], all above 0; those of cell b are ``counts[offsets[b]:offsets[b + 1]]``.
        totals
            ``float64`` [B], the sum of each cell's counts.
        """


class LogNormalise(ValueTransform):
    """log(1 + x / total * target_sum)"""

    needs_counts = True

    def __call__(self, counts, offsets, totals, settings):
        return _log1p(counts, offsets, _scales(totals, settings), 0, 1.0)


class Normalise(ValueTransform):
    """x / total * target_sum"""

    needs_counts = True

    def __call__(self, counts, offsets, totals, settings):
        return (counts * np.repeat(_scales(totals, settings), np.diff(offsets))).astype(np.float32)


class Log1p(ValueTransform):
    """log(1 + x)"""

    needs_counts = True

    def __call__(self, counts, offsets, totals, settings):
        return _log1p(counts, offsets, np.ones(len(totals)), 0, 1.0)


class AsIs(ValueTransform):
    """x"""

    def __call__(self, counts, offsets, totals, settings):
        return counts.astype(np.float32)


class Bins(ValueTransform):
    """log(1 + x / total * target_sum), cut into bins of equal width up to `upper`."""

    is_binned = True
    needs_counts = True

    def __call__(self, counts, offsets, totals, settings):
        return _log1p(counts, offsets, _scales(totals, settings), settings.n_bins, settings.upper)


class PercentileBins(ValueTransform):
    """Bins by rank within the cell, of equally many genes each."""

    is_binned = True

    def __call__(self, counts, offsets, totals, settings):
        return _ranks(counts, offsets, settings.n_bins)


class Ranks(ValueTransform):
    """Average rank within the cell over its number of genes, in (0, 1]."""

    def __call__(self, counts, offsets, totals, settings):
        return _ranks(counts, offsets, 0)


class DistinctiveRanks(Ranks):
    """As `Ranks`, by counts over the medians of their genes: 1 for the gene that is furthest above its median (Geneformer)."""

    is_relative = True


TRANSFORMS: dict[str, type[ValueTransform]] = {
    "log_normalise": LogNormalise,
    "normalise": Normalise,
    "log1p": Log1p,
    "as_is": AsIs,
    "bins": Bins,
    "percentile_bins": PercentileBins,
    "ranks": Ranks,
    "distinctive_ranks": DistinctiveRanks,
}


def _scales(totals: np.ndarray, settings: ValueSettings) -> np.ndarray:
    return np.divide(settings.target_sum, totals, out=np.ones(len(totals)), where=totals > 0)


@numba.njit(cache=True)
def _log1p(counts, offsets, scales, n_bins, upper):
    """log(1 + x * scale) of each cell's counts, or its bin; most counts are small whole numbers, with one logarithm each."""
    out = np.empty(len(counts), np.float32)
    memo = np.empty(_MEMO)
    for b in range(len(offsets) - 1):
        memo[:] = -1.0
        scale = scales[b]
        for i in range(offsets[b], offsets[b + 1]):
            x = counts[i]
            c = np.int64(x)
            if x == c and c < _MEMO:
                if memo[c] < 0:
                    memo[c] = math.log1p(x * scale)
                y = memo[c]
            else:
                y = math.log1p(x * scale)
            out[i] = 1 + min(n_bins - 2, np.int64(y / upper * (n_bins - 1))) if n_bins else y
    return out


@numba.njit(cache=True)
def _ranks(counts, offsets, n_bins):
    """Average rank of each count within its cell over the number of genes there, or the bin of that."""
    out = np.empty(len(counts), np.float32)
    for b in range(len(offsets) - 1):
        cell, values = counts[offsets[b] : offsets[b + 1]], out[offsets[b] : offsets[b + 1]]
        n = len(cell)
        order = np.argsort(cell)
        i = 0
        while i < n:
            j = i
            while j < n and cell[order[j]] == cell[order[i]]:
                j += 1
            rank = (i + j + 1) / 2 / n  # mean of the ranks i + 1 .. j
            for k in range(i, j):
                values[order[k]] = 1 + min(n_bins - 2, np.int64((rank - 0.5 / n) * (n_bins - 1))) if n_bins else rank
            i = j
    return out
