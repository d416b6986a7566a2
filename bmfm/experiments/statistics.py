"""Inference over blocks of a genome: paired bootstrap, sign flips, several tests at once, what could have been seen."""

from collections.abc import Mapping

import numpy as np


def draw_counts(groups: np.ndarray, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """How often each unit [B] is drawn in bootstraps with replacement within its group, ``int64`` [n_draws, B]."""
    counts = np.zeros((n_draws, len(groups)), np.int64)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        counts[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), n_draws)
    return counts


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The middle 95% of bootstrapped figures, of those draws in which they are defined; NaN where there are none."""
    defined = draws[~np.isnan(draws)]
    low, high = np.quantile(defined, [0.025, 0.975]) if len(defined) else (np.nan, np.nan)
    return float(low), float(high)


def bootstrap_means(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means of the units that each draw took, [n_draws], of their values [B]."""
    return counts @ values / counts.sum(1)


def sign_flip(differences: np.ndarray, n_draws: int, rng: np.random.Generator) -> float:
    """Two-sided p of the mean of paired differences [B], by flipping signs: of all 2^B patterns where these are no more than `n_draws`."""
    n = len(differences)
    if 2**n <= n_draws:
        signs = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((np.abs(signs @ differences) >= np.abs(differences.sum()) * (1 - 1e-12)).mean())
    signs = 1 - 2 * rng.integers(0, 2, (n_draws, n), dtype=np.int8)
    extreme = np.abs(signs @ differences) >= np.abs(differences.sum()) * (1 - 1e-12)
    return float((1 + extreme.sum()) / (1 + n_draws))


def bootstrap_p(draws: np.ndarray, null: float = 0.0) -> float:
    """Two-sided p of bootstrapped figures: twice the share of them on the wrong side of `null`; NaN where none is defined."""
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return float("nan")
    wrong = min((1 + (draws <= null).sum()) / (1 + len(draws)), (1 + (draws >= null).sum()) / (1 + len(draws)))
    return float(min(1.0, 2 * wrong))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values of several tests (Holm, Scandinavian Journal of Statistics 1979)."""
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def detectable(sd: float, n: int) -> float:
    """The smallest true mean of `n` paired differences with this standard deviation that is seen in 80 of 100 experiments at the level 0.05."""
    return 2.8 * sd / n**0.5


def rankings(positive: np.ndarray, scores: np.ndarray, unit: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Area under the ROC curve and average precision of one class, for each draw of units [n_draws]; ties stand at their middle.

    Parameters
    ----------
    positive, scores, unit
        Of the examples [n]: bool, larger for what is taken for positive, and number of the unit that is drawn.
    counts
        [n_draws, B], see `draw_counts`.
    """
    if not len(scores):
        return np.full(len(counts), np.nan), np.full(len(counts), np.nan)
    order = np.argsort(-scores, kind="stable")
    is_last = np.append(np.diff(scores[order]) != 0, True)  # of those with one score
    present, unit = np.unique(unit, return_inverse=True)
    one_hot = np.eye(len(present))[unit[order]]
    hits, shown = np.cumsum(one_hot * positive[order, None], 0)[is_last], np.cumsum(one_hot, 0)[is_last]
    gained, false = np.diff(hits, axis=0, prepend=0), shown - hits
    above = false - np.diff(false, axis=0, prepend=0) / 2
    all_hits, all_false = hits[-1], false[-1]
    useful = gained.any(1)  # nothing is gained at other scores
    adds = np.stack([gained, hits, shown, above])[:, useful]
    pieces = [_of_draws(counts[first : first + 1000, present], adds, all_hits, all_false) for first in range(0, len(counts), 1000)]
    auroc, precision = np.concatenate(pieces, 1)
    return auroc, precision


def _of_draws(counts: np.ndarray, adds: np.ndarray, all_hits: np.ndarray, all_false: np.ndarray) -> np.ndarray:
    """Both figures [2, draws] from what every unit adds [4, scores, units] to what is gained at each score, to the positives and to all
    examples up to it, and to the negatives above it; and in all [units]."""
    counts = counts.astype(np.float64)
    n_hits, n_false = counts @ all_hits, counts @ all_false
    gained, hits, shown, above = (counts @ add.T for add in adds)
    with np.errstate(invalid="ignore", divide="ignore"):
        auroc = 1 - (gained * above).sum(1) / (n_hits * n_false)
        precision = np.divide(gained * hits, shown, out=np.zeros_like(shown), where=shown > 0).sum(1) / n_hits
    return np.where((n_hits > 0) & (n_false > 0), np.stack([auroc, precision]), np.nan)
