"""Sums, means and sampling noise of groups of cells, from sparse rows that are never made dense as a whole."""

from dataclasses import replace

import numba
import numpy as np
from scipy.sparse import csr_matrix

from bmfm.evaluation.perturbation.comparison import CONTROL, Comparison, GroupedCells

PROFILE_TOTAL = 5e4
"""Counts that a pseudobulk profile is scaled to before its logarithm."""


def group_sums(cells: GroupedCells, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the values of each condition.

    Returns
    -------
    sums, sizes : [P + 1, G] float64, [P + 1] int64
        The last row is that of the controls, so that the code of a condition, or `CONTROL`, is its row.
    """
    sums = np.zeros((n_groups + 1, cells.values.shape[1]))
    _add_rows(cells.values.indptr, cells.values.indices, cells.values.data, cells.codes, sums, 1)
    return sums, sizes_of(cells, n_groups)


def group_moments(cells: GroupedCells, n_groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means and variances (ddof 1; NaN of a single cell) of each condition, the controls last.

    Returns
    -------
    means, variances, sizes : [P + 1, G], [P + 1, G], [P + 1]
    """
    sums, sizes = group_sums(cells, n_groups)
    squares = np.zeros_like(sums)
    _add_rows(cells.values.indptr, cells.values.indices, cells.values.data, cells.codes, squares, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        n = sizes[:, None].astype(float)
        means = sums / n
        variances = np.maximum(squares / n - means**2, 0) * n / (n - 1)
    return means, variances, sizes


def sizes_of(cells: GroupedCells, n_groups: int) -> np.ndarray:
    """Cells of each condition and, last, of the controls, [P + 1]."""
    return np.bincount(np.where(cells.codes == CONTROL, n_groups, cells.codes), minlength=n_groups + 1)


def mean_profiles(comparison: Comparison) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean log-normalised profiles: measured [P, G], predicted [P, G], of the measured controls [G].

    Raises
    ------
    ValueError
        Where a condition has no measured or no predicted cell, or the context no control.
    """
    p = len(comparison.conditions)
    both = lognormalised(comparison)
    real, n_real = group_sums(both.real, p)
    if comparison.means is not None:
        check_sizes(comparison, n_real, np.ones(p + 1))
        predicted = np.asarray(comparison.means, float)
    else:
        sums, n_predicted = group_sums(both.predicted, p)
        check_sizes(comparison, n_real, n_predicted)
        predicted = sums[:p] / n_predicted[:p, None]
    return real[:p] / n_real[:p, None], predicted, real[CONTROL] / n_real[CONTROL]


def check_sizes(comparison: Comparison, n_real: np.ndarray, n_predicted: np.ndarray) -> None:
    """Raise a ValueError that names the first condition without cells; sizes are those of `group_sums`."""
    if not n_real[CONTROL]:
        raise ValueError(f"context {comparison.context}: there are no control cells, which every metric compares with")
    for side, sizes in (("measured", n_real), ("predicted", n_predicted)):
        if (empty := np.flatnonzero(sizes[: len(comparison.conditions)] == 0)).size:
            raise ValueError(
                f"context {comparison.context}: condition {comparison.conditions[empty[0]]} has no {side} cells"
                f" ({len(empty)} such): leave it out of the conditions that are compared"
            )


def lognormalised(comparison: Comparison, total: float = 1e4) -> Comparison:
    """The comparison in log-normalised values: ``log(1 + total * count / counts of the cell)`` where it is of counts, else itself."""
    if comparison.unit == "lognorm":
        return comparison
    real, predicted = (GroupedCells(log_counts(side.values, total), side.codes) for side in (comparison.real, comparison.predicted))
    return replace(comparison, real=real, predicted=predicted, unit="lognorm")


def log_counts(counts: csr_matrix, total: float) -> csr_matrix:
    """``log(1 + total * count / counts of the cell)``, CSR float64 [n, G]; cells without counts stay empty."""
    scaled = scale_counts(counts, total)
    np.log1p(scaled.data, out=scaled.data)
    return scaled


def scale_counts(counts: csr_matrix, total: float) -> csr_matrix:
    """Counts scaled to a total, CSR float64 [n, G], as scanpy's `normalize_total` does, to the last bit (ties of ranks hang on it)."""
    data = counts.data.astype(np.float64)
    sums = np.asarray(csr_matrix((data, counts.indices, counts.indptr), counts.shape).sum(1)).ravel() / total
    sums[sums == 0] = 1
    return csr_matrix((data / np.repeat(sums, np.diff(counts.indptr)), counts.indices, counts.indptr), counts.shape)


def pseudobulks(sums: np.ndarray, total: float = PROFILE_TOTAL) -> np.ndarray:
    """``log(1 + total * P_g / sum of P)`` from sums of counts [P, G]; zeros for a group without counts."""
    mass = sums.sum(1)
    scale = np.divide(total, mass, out=np.zeros_like(mass), where=mass > 0)
    return np.log1p(sums * scale[:, None])


def jackknife_noise(counts: csr_matrix, sums: np.ndarray, total: float = PROFILE_TOTAL) -> float:
    """Sampling noise of a pseudobulk, the delete-one-cell jackknife estimate of its variance summed over genes.

    ``(n - 1) / n * sum over genes and cells of (v_ig - mean_i v_ig)^2`` with ``v_ig`` the pseudobulk without cell i. It is 0 of a single
    cell, of which nothing is known.

    Parameters
    ----------
    counts
        [n, G] CSR, of the group.
    sums
        [G] float64, its column sums.
    """
    n, mass = counts.shape[0], float(sums.sum())
    if n < 2 or mass <= 0:
        return 0.0
    expressed = np.flatnonzero(sums)
    place = np.full(len(sums), -1)
    place[expressed] = np.arange(len(expressed))
    return max((n - 1) / n * _jackknife(counts.indptr, place[counts.indices], counts.data, sums[expressed], mass, total), 0.0)


@numba.njit(cache=True, nogil=True)
def _add_rows(indptr, indices, data, codes, out, power):  # type: ignore[no-untyped-def]
    """Add values, or their squares, to the row of their cell's code; `CONTROL` is the last row."""
    for i in range(len(codes)):
        row = codes[i] if codes[i] >= 0 else out.shape[0] - 1
        for k in range(indptr[i], indptr[i + 1]):
            x = np.float64(data[k])
            out[row, indices[k]] += x if power == 1 else x * x


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _jackknife(indptr, indices, data, sums, mass, total):  # type: ignore[no-untyped-def]
    """Sum over genes and cells of squared deviations of leave-one-out profiles, about the whole profile for accuracy."""
    n, g = len(indptr) - 1, len(sums)
    whole = np.log1p(total * sums / mass)
    first, second, counts = np.zeros(g), np.zeros(g), np.zeros(g)
    for i in range(n):
        size = 0.0
        for k in range(indptr[i], indptr[i + 1]):
            counts[indices[k]] += data[k]
            size += data[k]
        rest = mass - size
        for j in range(g):
            v = (np.log1p(total * (sums[j] - counts[j]) / rest) if rest > 0 else 0.0) - whole[j]
            first[j] += v
            second[j] += v * v
        for k in range(indptr[i], indptr[i + 1]):
            counts[indices[k]] = 0.0
    return (second - first**2 / n).sum()
