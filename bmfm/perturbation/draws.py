"""Cells of a prediction that is a mean: controls, changed until their mean is the predicted one."""

import numpy as np
from scipy.sparse import csr_matrix

MAX_CONTROLS = 1000
"""Control cells that shifts are fitted on; of more, these are taken at even distances."""
SHIFTS = np.linspace(-10, 0, 101)
"""Shifts of log-normalised values at which the mean of what is left above 0 is computed; between them it is interpolated."""


def shift_curve(logs: csr_matrix) -> np.ndarray:
    """Mean of log-normalised control cells [n, G] that are shifted and cut at 0, [len(SHIFTS), G]."""
    cells = logs[np.unique(np.linspace(0, logs.shape[0] - 1, MAX_CONTROLS).astype(int))]
    sums = [np.bincount(cells.indices, np.maximum(cells.data + shift, 0), cells.shape[1]) for shift in SHIFTS]
    return np.stack(sums) / cells.shape[0]


def shifts(curve: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The shift of each gene [G] that moves the mean of log-normalised controls by a change [G], with what falls below 0 cut.

    `curve` is theirs, of `shift_curve`. Where the mean would be below 0, it becomes 0.
    """
    target, genes = curve[-1] + change, np.arange(curve.shape[1])
    upper = np.clip((curve < target).sum(0), 1, len(SHIFTS) - 1)
    low, high = curve[upper - 1, genes], curve[upper, genes]
    share = np.divide(target - low, high - low, out=np.zeros_like(low), where=high > low)
    lowered = SHIFTS[upper - 1] + np.clip(share, 0, 1) * (SHIFTS[upper] - SHIFTS[upper - 1])
    return np.where(change < 0, lowered, change)


def shifted_cells(controls: csr_matrix, shift: np.ndarray) -> csr_matrix:
    """Log-normalised cells [n, G] shifted by [G] and cut at 0, float32. Few of their values are 0."""
    return csr_matrix(np.maximum(controls.toarray() + shift, 0).astype(np.float32))


def fold_changes(mean: np.ndarray, control_mean: np.ndarray) -> np.ndarray:
    """Ratio of expression [G] of mean log-normalised profiles [G], as scanpy takes it: of the means with their logarithm undone.

    Infinite of a gene that controls do not express, and 1 where neither does.
    """
    predicted, control = np.expm1(np.maximum(mean, 0)), np.expm1(control_mean)
    return np.divide(predicted, control, out=np.where(predicted > 0, np.inf, 1.0), where=control > 0)


def changed_counts(
    counts: csr_matrix, fold_change: np.ndarray, share: np.ndarray, new_share: np.ndarray, rng: np.random.Generator
) -> csr_matrix:
    """Counts [n, G] of control cells whose expression changes, float32.

    Genes that fall are thinned, so that they have the noise of counts as before; to those that rise, Poisson counts are added at the
    total of the cell. Where nothing changes, cells are the controls.

    Parameters
    ----------
    fold_change
        [G].
    share
        [G] mean share of a gene in the counts of controls, which rising genes are raised from.
    new_share
        [G] the share of genes that controls do not express.
    """
    thinned = rng.binomial(counts.data.astype(np.int64), np.minimum(fold_change, 1)[counts.indices])
    cells = csr_matrix((thinned.astype(np.float32), counts.indices.copy(), counts.indptr.copy()), counts.shape)
    rising = np.flatnonzero(fold_change > 1)
    with np.errstate(invalid="ignore"):
        rate = np.where(np.isinf(fold_change), new_share, (fold_change - 1) * share)[rising]
    added = csr_matrix(rng.poisson(np.asarray(counts.sum(1), float) * rate).astype(np.float32))
    cells = cells + csr_matrix((added.data, rising[added.indices], added.indptr), cells.shape)
    cells.eliminate_zeros()
    return cells


def poisson_counts(logs: csr_matrix, totals: np.ndarray, rng: np.random.Generator) -> csr_matrix:
    """Counts float32 [n, G] whose expectation are the shares of log-normalised cells at totals [n]."""
    share = csr_matrix((np.expm1(logs.data.astype(np.float64)), logs.indices, logs.indptr), logs.shape)
    sums = np.asarray(share.sum(1)).ravel()
    rate = np.repeat(np.divide(totals, sums, out=np.zeros_like(sums), where=sums > 0), np.diff(share.indptr)) * share.data
    counts = csr_matrix((rng.poisson(rate).astype(np.float32), share.indices.copy(), share.indptr.copy()), share.shape)
    counts.eliminate_zeros()  # in place: `logs` keeps its own indices
    return counts
