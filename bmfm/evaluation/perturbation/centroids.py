"""Metrics of mean profiles: those of GEARS, and those that were calibrated against trivial predictions.

All are of log-normalised values, in which counts are brought first. A condition's own target genes are left out of each; to keep them, as
GEARS itself does, compare with empty `Comparison.targets`.
"""

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.stats import false_discovery_control, ttest_ind_from_stats

from bmfm.evaluation.perturbation.comparison import CONTROL, Comparison, GroupedCells
from bmfm.evaluation.perturbation.moments import group_moments, lognormalised, mean_profiles

N_MARKERS = 20
"""Genes of the figures that are called ``top20_de``."""
N_EXPRESSED = 1000
"""Genes of highest control mean in `l2_top1000`."""
NOISE = 1e-6
"""Spread of a profile, relative to its largest value, below which it does not vary: rounding of single precision lies well below."""


def gears(comparison: Comparison) -> pd.DataFrame:
    """The metrics of GEARS (Roohani et al., Nature Biotechnology 2024) of each condition.

    Returns
    -------
    pandas.DataFrame
        By condition: ``mse`` and ``pearson`` of mean profiles, ``pearson_delta`` of their differences from the controls' mean, and
        ``mse_top20_de`` and ``pearson_delta_top20_de`` of the genes that the data state as markers or, without, of those of the
        largest absolute t against the controls (`markers`). A correlation with what does not vary is NaN.
    """
    real, predicted, control = mean_profiles(comparison)
    chosen = markers(comparison)
    rows = []
    for p, own in enumerate(comparison.own):
        kept, top = np.flatnonzero(~own), chosen[p]
        rows.append(
            {
                "mse": mse(predicted[p, kept], real[p, kept]),
                "pearson": pearson(predicted[p, kept], real[p, kept]),
                "pearson_delta": pearson(predicted[p, kept], real[p, kept], control[kept]),
                "mse_top20_de": mse(predicted[p, top], real[p, top]),
                "pearson_delta_top20_de": pearson(predicted[p, top], real[p, top], control[top]),
            }
        )
    return _table(comparison, rows)


def calibrated(comparison: Comparison) -> pd.DataFrame:
    """Metrics under which a mean over training perturbations, or no change, does not look good, of each condition.

    Returns
    -------
    pandas.DataFrame
        By condition: ``pearson_delta_ref``, of differences from the mean of training perturbations, and ``centroid_accuracy``, the share
        of other conditions whose measured mean is farther from the predicted than its own is, over genes that are no condition's target
        (Systema, Nature Biotechnology 2025); ``wmse`` and ``r2w_delta``, weighted by `weights`, the second of differences from the mean
        over conditions (Mejia et al., arXiv 2506.22641); ``e_distance``, the energy distance of predicted and measured cells;
        ``l2_top1000``, the Euclidean distance over the genes of highest control mean (Ahlmann-Eltze et al., Nature Methods 2025). A
        prediction that is the training mean correlates by 0, so that every method is scored on the same conditions. NaN where a metric is
        not defined: ranks and weights of one condition alone, the energy distance of means without cells.

    Raises
    ------
    ValueError
        Where ``training["mean"]`` is missing.
    """
    if "mean" not in comparison.training:
        raise ValueError(f"context {comparison.context}: training['mean'] is missing, to which profile calibrated refers")
    real, predicted, control = mean_profiles(comparison)
    reference, centre = np.asarray(comparison.training["mean"], float), real.mean(0)
    weight = weights(comparison)
    expressed = np.argsort(-control, kind="stable")[:N_EXPRESSED]
    ranks = centroid_accuracy(predicted, real, comparison.panel)
    distances = e_distance(comparison)
    rows = []
    for p, own in enumerate(comparison.own):
        kept, highest = np.flatnonzero(~own), expressed[~own[expressed]]
        rows.append(
            {
                "pearson_delta_ref": pearson(predicted[p, kept], real[p, kept], reference[kept], of_flat=0.0),
                "centroid_accuracy": ranks[p],
                "wmse": float(weight[p] @ (predicted[p] - real[p]) ** 2),
                "r2w_delta": weighted_r2(real[p] - centre, predicted[p] - centre, weight[p]),
                "e_distance": distances[p],
                "l2_top1000": float(np.linalg.norm(predicted[p, highest] - real[p, highest])),
            }
        )
    return _table(comparison, rows)


def _table(comparison: Comparison, rows: list[dict[str, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, index=pd.Index(comparison.conditions, name="condition"), dtype=float)


def mse(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared difference; NaN of no genes."""
    return float(np.mean((a - b) ** 2)) if len(a) else float("nan")


def pearson(a: np.ndarray, b: np.ndarray, reference: np.ndarray | None = None, of_flat: float = float("nan")) -> float:
    """Pearson correlation of profiles [G], or of their differences from a reference.

    NaN where the second does not vary, and `of_flat` where the first, the prediction, does not.
    """
    if len(a) < 2:
        return float("nan")
    scale = NOISE * max(np.abs(a).max(), np.abs(b).max())
    x, y = (a, b) if reference is None else (a - reference, b - reference)
    x, y = x - x.mean(), y - y.mean()
    if min(x.std(), y.std()) <= scale:
        return float("nan") if y.std() <= scale else of_flat
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


def weighted_r2(truth: np.ndarray, guess: np.ndarray, weight: np.ndarray) -> float:
    """Share of the weighted variance of a profile [G] that is explained, as scikit-learn's `r2_score`; NaN where there is none."""
    total = weight.sum()
    if not total > 0:
        return float("nan")
    spread = weight @ (truth - weight @ truth / total) ** 2
    return float(1 - weight @ (truth - guess) ** 2 / spread) if spread > 0 else float("nan")


def centroid_accuracy(predicted: np.ndarray, real: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Share of other conditions whose measured mean is farther from the predicted one than its own is, [P]; NaN of one alone."""
    from scipy.spatial.distance import cdist

    if len(real) < 2:
        return np.full(len(real), np.nan)
    distance = cdist(predicted[:, ~targets], real[:, ~targets])
    return (distance > distance.diagonal()[:, None]).sum(1) / (len(real) - 1)


def markers(comparison: Comparison) -> list[np.ndarray]:
    """Columns of the marker genes of each condition, best first: those of the data, or of the largest absolute t against controls.

    t is Welch's, as scanpy's ``rank_genes_groups(method="t-test")``; genes without a value in either group are left out.
    """
    own = comparison.own
    stated = [comparison.de_genes.get(name) for name in comparison.conditions]
    if all(genes is not None for genes in stated):
        return [genes[~own[p, genes]][:N_MARKERS] for p, genes in enumerate(stated) if genes is not None]
    means, variances, sizes = group_moments(lognormalised(comparison).real, len(comparison.conditions))
    chosen = []
    for p, genes in enumerate(stated):
        if genes is None:
            t, _ = welch((means[p], variances[p], sizes[p]), (means[CONTROL], variances[CONTROL], sizes[CONTROL]))
            is_expressed = (means[p] != 0) | (means[CONTROL] != 0)
            genes = np.argsort(np.where(is_expressed, -np.abs(t), np.inf), kind="stable")[: is_expressed.sum()]
        chosen.append(genes[~own[p, genes]][:N_MARKERS])
    return chosen


def weights(comparison: Comparison) -> np.ndarray:
    """Weights of genes [P, G] that sum to 1: squared absolute t of the condition against all others, scaled to 0 to 1.

    Of a condition without others, or whose t are all alike, they are NaN.
    """
    t, _ = against_others(comparison)
    size = np.where(comparison.own, np.nan, np.abs(t))
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = np.nanmin(size, 1, keepdims=True), np.nanmax(size, 1, keepdims=True)
        weight = np.where(comparison.own, 0, (size - low) / (high - low)) ** 2
        weight /= weight.sum(1, keepdims=True)
    return weight if len(weight) > 1 else np.full_like(weight, np.nan)


def against_others(comparison: Comparison) -> tuple[np.ndarray, np.ndarray]:
    """t [P, G] and its p, adjusted over genes, of each condition against the cells of all others, controls left out.

    As scanpy's ``rank_genes_groups(method="t-test_overestim_var")``, in which the variance of the others is that of as few cells as the
    condition has. 0 and 1 where nothing varies.
    """
    n = len(comparison.conditions)
    means, variances, sizes = (x[:n] for x in group_moments(lognormalised(comparison).real, n))
    sizes = sizes[:, None].astype(float)
    sums, squares = means * sizes, np.nan_to_num(variances) * (sizes - 1) + sizes * means**2
    with np.errstate(invalid="ignore", divide="ignore"):
        rest = sizes.sum(0) - sizes
        mean = (sums.sum(0) - sums) / rest
        variance = np.maximum((squares.sum(0) - squares) / rest - mean**2, 0) * rest / (rest - 1)
    results = [welch((means[p], variances[p], sizes[p]), (mean[p], variance[p], sizes[p])) for p in range(n)]
    return np.stack([t for t, _ in results]), np.stack([false_discovery_control(p) for _, p in results])


Moments = tuple[np.ndarray, np.ndarray, np.ndarray]


def welch(a: Moments, b: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Welch's t and p of each gene from means, variances and numbers of cells; 0 and 1 where nothing varies."""
    with np.errstate(invalid="ignore", divide="ignore"):
        t, p = ttest_ind_from_stats(a[0], np.sqrt(a[1]), a[2], b[0], np.sqrt(b[1]), b[2], equal_var=False)
    return np.nan_to_num(t, nan=0.0), np.nan_to_num(p, nan=1.0)


def e_distance(comparison: Comparison) -> np.ndarray:
    """Energy distance of predicted and measured cells of each condition, [P]: 0 where they are distributed alike.

    ``2 E|X - Y| - E|X - X'| - E|Y - Y'|`` over all pairs of cells, with Euclidean distances of log-normalised values (Székely and Rizzo
    2013). NaN where means alone are predicted.
    """
    from sklearn.metrics import euclidean_distances

    both, own = lognormalised(comparison), comparison.own
    distances = np.full(len(comparison.conditions), np.nan)
    for p in range(len(distances)):
        x, y = (_without(side.of(p), own[p]) for side in (both.predicted, both.real))
        if x.shape[0]:
            distances[p] = 2 * euclidean_distances(x, y).mean() - euclidean_distances(x).mean() - euclidean_distances(y).mean()
    return distances


def _without(cells: csr_matrix, own: np.ndarray) -> csr_matrix:
    cells = cells.astype(np.float64)
    cells.data[own[cells.indices]] = 0
    return cells


def no_cells(n_genes: int) -> GroupedCells:
    """Predicted cells of a method that predicts means alone, see `Comparison.means`."""
    return GroupedCells(csr_matrix((0, n_genes)), np.empty(0, np.int64))
