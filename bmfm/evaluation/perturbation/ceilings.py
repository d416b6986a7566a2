"""What is possible on a data set: halves of the measured cells against each other, and predictions that know nothing of the condition."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from bmfm.evaluation.perturbation.centroids import against_others, no_cells
from bmfm.evaluation.perturbation.comparison import CONTROL, Comparison, GroupedCells
from bmfm.evaluation.perturbation.moments import group_sums, mean_profiles, sizes_of
from bmfm.evaluation.perturbation.profiles import VCC2026, Profile
from bmfm.metrics import Metric

N_SPLITS = 5
LOWEST_NMAE = -6.0
"""The least that a scaled `lfc_nmae` counts as."""


@dataclass(frozen=True)
class Ceiling:
    """Metrics of one half of the cells as the prediction of the other: means over splits.

    Attributes
    ----------
    table
        By condition; NaN of conditions of a single cell.
    figures
        {metric: figure over conditions}.
    dropped
        Conditions of fewer than two cells, which cannot be halved.
    """

    table: pd.DataFrame
    figures: dict[str, float]
    dropped: int


def halves(comparison: Comparison, seed: int, n_splits: int = N_SPLITS, split_controls: bool = False) -> Iterator[Comparison]:
    """Comparisons of a half of each condition's measured cells, as the truth, with another half, as the prediction.

    Parameters
    ----------
    comparison
        Every condition has two cells at least; of an odd number, one cell is left out.
    seed
        Splits are drawn by numbers that numpy's `SeedSequence` makes of it.
    split_controls
        Whether each half gets a half of the controls; if not, the truth has all of them, which metrics take for both sides.
    """
    codes = comparison.real.codes
    for drawn in np.random.SeedSequence(seed).generate_state(n_splits):
        rng = np.random.default_rng(int(drawn))
        first, second = [], []
        for code in (*range(len(comparison.conditions)), CONTROL):
            cells = rng.permutation(np.flatnonzero(codes == code))
            half = len(cells) // 2
            if code == CONTROL and not split_controls:
                first.append(cells)
            else:
                first.append(cells[:half])
                second.append(cells[half : 2 * half])
        real, predicted = (np.sort(np.concatenate(rows)) for rows in (first, second))
        sides = (GroupedCells(comparison.real.values[rows], codes[rows]) for rows in (real, predicted))
        yield replace(comparison.with_cells(*sides), means=None)


def split_half_ceiling(profile: Profile, comparison: Comparison, seed: int = 0, n_splits: int = N_SPLITS) -> Ceiling:
    """What a profile's metrics are of another sample of the same cells, half as large: means over splits.

    Controls are all of the context's on both sides, as they are of a prediction, except in profile vcc2026, whose reference has controls
    of its own for each half.
    """
    kept = can_be_halved(comparison)
    whole = comparison.of_conditions(kept)
    dropped = len(comparison.conditions) - len(kept)
    if not len(kept):
        return Ceiling(pd.DataFrame(index=pd.Index(comparison.conditions, name="condition")), {}, dropped)
    table = profile.table if profile.of_halves is None else profile.of_halves(whole)
    tables = [table(half) for half in halves(whole, seed, n_splits, profile.of_halves is not None)]
    figures = [profile.figures(t) for t in tables]
    means = {name: float(np.mean([f[name][0] for f in figures])) for name in figures[0]}
    mean_table = sum(tables[1:], tables[0]) / len(tables)
    return Ceiling(mean_table.reindex(list(comparison.conditions)), means, dropped)


def can_be_halved(comparison: Comparison) -> np.ndarray:
    """Codes of the conditions of two measured cells at least."""
    return np.flatnonzero(sizes_of(comparison.real, len(comparison.conditions))[:-1] >= 2)


def share_of_ceiling(figure: float, ceiling: float, metric: Metric) -> float:
    """A figure over the ceiling's; of errors the ceiling's over the figure. NaN where that is not defined."""
    above, below = (figure, ceiling) if metric.more_is_better else (ceiling, figure)
    return above / below if below > 0 else float("nan")


def dynamic_range(profile: Profile, comparison: Comparison, seed: int = 0, n_splits: int = N_SPLITS) -> pd.DataFrame:
    """Dynamic range fraction of metrics of mean profiles: how far a good prediction moves from a trivial one, towards a perfect one.

    ``(m_positive - m_baseline) / (m_perfect - m_baseline)`` with, against one half of the cells, the mean of training perturbations as
    the baseline and the interpolated duplicate as the positive control: ``(1 - p) * mean of the other half + p * training mean``, where
    p is that half's adjusted p of a gene against all other conditions (Miller et al., bioRxiv 2025.10.20.683304). A metric whose fraction
    is near 0 tells nothing on these data. A correlation that is not defined counts as 0.

    Returns
    -------
    pandas.DataFrame
        By condition and metric, means over splits; NaN where it is not defined.
    """
    kept = can_be_halved(comparison)
    whole = comparison.of_conditions(kept)
    reference = np.asarray(comparison.training["mean"], float)
    fractions = []
    for half in halves(whole, seed, n_splits) if len(kept) else ():
        _, duplicate, _ = mean_profiles(half)
        _, p = against_others(half.with_cells(half.predicted, half.predicted))
        good, trivial = (1 - p) * duplicate + p * reference, np.broadcast_to(reference, duplicate.shape)
        tables = [profile.table(replace(half, predicted=no_cells(len(reference)), means=means)) for means in (good, trivial)]
        positive, baseline = (t[[name for name in profile.metrics if name in t]] for t in tables)
        undefined = {name: 0.0 for name in baseline if profile.metrics[str(name)].low == -1}
        positive, baseline = positive.fillna(undefined), baseline.fillna(undefined)
        perfect = pd.Series({name: profile.perfect(str(name)) for name in baseline})
        fractions.append((positive - baseline) / (perfect - baseline).replace(0, np.nan))
    mean = sum(fractions[1:], fractions[0]) / len(fractions) if fractions else pd.DataFrame()
    return mean.reindex(list(comparison.conditions))


def mean_submission(comparison: Comparison, seed: int = 0) -> GroupedCells:
    """The mean over perturbations as a prediction of every one, in cells: the zero of the challenge's scale.

    Counts are means over conditions with equal weight, a gene's own perturbation left out; they are emitted as control cells, drawn anew
    for each condition, whose genes are scaled to that mean (so they are no integers).
    """
    p = len(comparison.conditions)
    sums, sizes = group_sums(comparison.real, p)
    means, counts = sums[:p] / sizes[:p, None], ~comparison.own
    n = counts.sum(0)
    profile = np.divide(np.where(counts, means, 0).sum(0), n, out=np.zeros(len(n)), where=n > 0)
    control = sums[CONTROL] / sizes[CONTROL]
    scale = np.divide(profile, control, out=np.zeros_like(control), where=control > 0)
    rng, controls = np.random.default_rng(seed), comparison.real.of(CONTROL)
    drawn = controls[rng.integers(0, controls.shape[0], sizes[:p].sum())]
    values = csr_matrix(((drawn.data * scale[drawn.indices]).astype(np.float32), drawn.indices, drawn.indptr), drawn.shape)
    values.eliminate_zeros()
    return GroupedCells(values, np.repeat(np.arange(p), sizes[:p]))


def vcc2026_references(
    comparison: Comparison, seed: int = 0, replicate: dict[str, float] | None = None
) -> tuple[dict[str, float], dict[str, float]]:
    """Figures of the mean submission, the zero of the challenge's scale, and of halves of the cells, its one (where not given)."""
    submission = replace(comparison, predicted=mean_submission(comparison, seed))
    baseline = {name: float(x[0]) for name, x in VCC2026.figures(VCC2026.table(submission)).items()}
    return baseline, split_half_ceiling(VCC2026, comparison, seed).figures if replicate is None else replicate


def scale_vcc2026(figures: Mapping[str, float], baseline: Mapping[str, float], replicate: Mapping[str, float]) -> dict[str, float]:
    """Scores ``(u - b) / (r - b)``, 0 as good as the mean submission and 1 as halves of the cells, and their mean, ``score``.

    Scores are not clipped, except that of the expression error, to 0 to 1, and that of the fold changes, at -6 from below. NaN where the
    replicate is no better than the baseline.
    """
    scores = {}
    for name, metric in VCC2026.metrics.items():
        span = replicate[name] - baseline[name]
        usable = span > 0 if metric.more_is_better else span < 0
        scores[name] = (figures[name] - baseline[name]) / span if usable else float("nan")
    error = "expr_mse_unbiased_capped_norm"
    scores[error] = float(np.clip(scores[error], 0, 1))
    scores["lfc_nmae"] = float(np.maximum(scores["lfc_nmae"], LOWEST_NMAE))
    return scores | {"score": float(np.mean(list(scores.values())))}
