"""Differential expression against controls: Wilcoxon's rank-sum test on sparse values, log fold changes, Benjamini-Hochberg."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numba
import numpy as np
from scipy.sparse import csr_matrix
from scipy.stats import false_discovery_control

ALPHA = 0.05
"""Adjusted p below which a gene counts as changed."""
EPSILON = 1e-9
"""Added to both means of a fold change."""


@dataclass(frozen=True)
class SortedColumns:
    """Non-zero values of cells by gene, in ascending order.

    Attributes
    ----------
    data, indptr
        As of CSC.
    n
        Cells.
    ties
        [G] sum of t^3 - t over values that occur t times, zeros left out.
    """

    data: np.ndarray
    indptr: np.ndarray
    n: int
    ties: np.ndarray


@dataclass(frozen=True)
class DifferentialExpression:
    """Tests of P conditions against controls; all arrays [P, G], NaN of genes that were not tested."""

    lfc: np.ndarray
    p: np.ndarray
    p_adjusted: np.ndarray

    @property
    def significant(self) -> np.ndarray:
        """Whether the adjusted p is below `ALPHA`."""
        return self.p_adjusted < ALPHA

    def without(self, own: np.ndarray) -> "DifferentialExpression":
        """The same without each condition's own targets: `own` is bool [P, G]."""
        return DifferentialExpression(*(np.where(own, np.nan, x) for x in (self.lfc, self.p, self.p_adjusted)))


def sorted_columns(values: csr_matrix) -> SortedColumns:
    """Values [n, G] as `rank_sum` takes the controls; ValueError where one is negative."""
    columns = _columns(values)
    return SortedColumns(columns.data, columns.indptr, values.shape[0], _sort(columns.data, columns.indptr))


def rank_sum(values: csr_matrix, controls: SortedColumns, genes: np.ndarray) -> np.ndarray:
    """Two-sided p of Wilcoxon's rank-sum test (Mann and Whitney's U) of every gene, by the normal approximation.

    With the correction for ties and for continuity, as ``scipy.stats.mannwhitneyu(method="asymptotic")``, and 1 where all values agree.

    Parameters
    ----------
    values
        [m, G] CSR, not negative.
    controls
        Of the same genes.
    genes
        Columns to test.

    Returns
    -------
    numpy.ndarray
        [len(genes)] float64.
    """
    columns = _columns(values)
    return _rank_sum(columns.data, columns.indptr, values.shape[0], controls.data, controls.indptr, controls.n, controls.ties, genes)


def changes_against(
    groups: Iterable[tuple[csr_matrix, np.ndarray]], controls: tuple[csr_matrix, np.ndarray], genes: np.ndarray
) -> DifferentialExpression:
    """Tests of conditions against controls.

    Parameters
    ----------
    groups
        Of each condition the values that are ranked, CSR [m, G], and the means that fold changes are of, [G]. Taken one after another.
    controls
        The same of the controls.
    genes
        Columns to test; p are adjusted over these.
    """
    against, means = sorted_columns(controls[0]), controls[1]

    def test(group: tuple[csr_matrix, np.ndarray]) -> np.ndarray:
        row = np.full((3, len(means)), np.nan)
        row[0, genes] = np.log2((group[1][genes] + EPSILON) / (means[genes] + EPSILON))
        row[1, genes] = rank_sum(group[0], against, genes)
        row[2, genes] = false_discovery_control(row[1, genes]) if len(genes) else row[1, genes]
        return row

    rows = [test(group) for group in groups]
    return DifferentialExpression(*np.stack(rows, 1)) if rows else DifferentialExpression(*np.empty((3, 0, len(means))))


def _columns(values: csr_matrix):  # type: ignore[no-untyped-def]
    columns = values.astype(np.float64).tocsc()
    columns.eliminate_zeros()
    if columns.nnz and columns.data.min() < 0:
        raise ValueError("there are negative values: rank-sum tests of sparse cells take counts or log-normalised values, none below 0")
    return columns


@numba.njit(cache=True, nogil=True)
def _sort_part(x, low, high):  # type: ignore[no-untyped-def]
    """Sort x[low:high] in place (Shell's sort: numpy's takes numba seconds to compile)."""
    gap = 1
    while gap < (high - low) // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(low + gap, high):
            value, k = x[i], i
            while k >= low + gap and x[k - gap] > value:
                x[k] = x[k - gap]
                k -= gap
            x[k] = value
        gap //= 3


@numba.njit(cache=True, nogil=True)
def _sort(data, indptr):  # type: ignore[no-untyped-def]
    """Sort each column in place; the tie terms of its values."""
    ties = np.zeros(len(indptr) - 1)
    for j in range(len(ties)):
        _sort_part(data, indptr[j], indptr[j + 1])
        i = indptr[j]
        while i < indptr[j + 1]:
            k = i
            while k < indptr[j + 1] and data[k] == data[i]:
                k += 1
            ties[j] += float(k - i) ** 3 - (k - i)
            i = k
    return ties


@numba.njit(cache=True, nogil=True)
def _first(x, low, high, value, above):  # type: ignore[no-untyped-def]
    """The first place in sorted x[low:high] that is not below a value, or that is above it."""
    while low < high:
        middle = (low + high) // 2
        if x[middle] < value or (above and x[middle] == value):
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(cache=True, nogil=True)
def _rank_sum(a, indptr, n_a, b, indptr_b, n_b, ties_b, genes):  # type: ignore[no-untyped-def]
    """p of each gene. Only the group's values `a` are walked through, sorted here; the controls' `b` are found by bisection."""
    p = np.ones(len(genes))
    n = n_a + n_b
    for out in range(len(genes)):
        j = genes[out]
        start, end, end_b = indptr[j], indptr[j + 1], indptr_b[j + 1]
        _sort_part(a, start, end)
        n_zeros = n - (end - start) - (end_b - indptr_b[j])
        ranks = (n_a - (end - start)) * (n_zeros + 1.0) / 2.0
        ties = float(n_zeros) ** 3 - n_zeros + ties_b[j]
        i, high = start, indptr_b[j]
        while i < end:
            k = i
            while k < end and a[k] == a[i]:
                k += 1
            low = _first(b, high, end_b, a[i], False)
            high = _first(b, low, end_b, a[i], True)
            t, t_b = float(k - i + high - low), float(high - low)
            ranks += (k - i) * (n_zeros + (i - start) + (low - indptr_b[j]) + (t + 1.0) / 2.0)
            ties += (t**3 - t) - (t_b**3 - t_b)
            i = k
        u = ranks - n_a * (n_a + 1.0) / 2.0
        variance = n_a * n_b / 12.0 * (n + 1.0 - ties / (float(n) * float(n - 1)))
        if variance > 0:
            z = (max(u, n_a * n_b - u) - n_a * n_b / 2.0 - 0.5) / math.sqrt(variance)
            p[out] = min(max(math.erfc(z / math.sqrt(2.0)), 0.0), 1.0)
    return p
