"""Profiles of metrics: what each gives for a condition, and how conditions and contexts add up to one figure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from bmfm.evaluation.perturbation.centroids import calibrated, gears
from bmfm.evaluation.perturbation.comparison import Comparison
from bmfm.evaluation.perturbation.vcc2025 import vcc2025
from bmfm.evaluation.perturbation.vcc2026 import vcc2026, vcc2026_of_halves
from bmfm.metrics import METRICS, Metric

Table = Callable[[Comparison], pd.DataFrame]


def _error(words: str) -> Metric:
    return Metric(words, 0.0, np.inf, False)


@dataclass(frozen=True)
class Profile:
    """Metrics that are reported together.

    Attributes
    ----------
    table
        Figures of each condition, by condition.
    metrics
        {name: words, range and direction}, of columns of the table and of `ratios`.
    prefix
        Of the names of metrics where several profiles are reported.
    ratios
        {metric: (numerator, denominator)}: columns whose sums over conditions are divided.
    undefined_as_zero
        Metrics that are also given, with ``_gears`` at their end, with 0 where they are not defined.
    needs_counts
        Whether it takes raw counts alone.
    of_means
        Whether it is of mean profiles, so that a method's stated means stand for those of its cells.
    uses_cells
        Whether predicted cells are of use to it.
    of_halves
        Makes the table of one half of the measured cells against the other, from all of them.
    """

    name: str
    table: Table
    metrics: Mapping[str, Metric]
    prefix: str = ""
    ratios: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    undefined_as_zero: tuple[str, ...] = ()
    needs_counts: bool = False
    of_means: bool = False
    uses_cells: bool = True
    of_halves: Callable[[Comparison], Table] | None = None

    def figures(self, table: pd.DataFrame, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Figures over conditions, {metric: [B]}, as functions of B sets of weights.

        A mean is over the conditions in which the metric is defined; NaN where it is so in none, or a denominator is not above 0.

        Parameters
        ----------
        table
            [P] rows.
        weights
            [B, P]; None: each condition counts once, and B is 1.
        """
        w = np.ones((1, len(table))) if weights is None else weights
        out = {}
        for name in self.metrics:
            if name in self.ratios:
                numerator, denominator = (w @ table[column].to_numpy(float) for column in self.ratios[name])
                out[name] = np.divide(numerator, denominator, out=np.full(len(w), np.nan), where=denominator > 0)
            elif name in table:
                out[name] = _mean(table[name].to_numpy(float), w)
        return out | {f"{name}_gears": _mean(table[name].fillna(0).to_numpy(float), w) for name in self.undefined_as_zero}

    def undefined(self, table: pd.DataFrame) -> dict[str, int]:
        """In how many conditions each metric is not defined, of those in which it is not."""
        counts = {name: int(table[name].isna().sum()) for name in self.metrics if name in table}
        return {name: n for name, n in counts.items() if n}

    def described(self) -> dict[str, Metric]:
        """All figures with their prefix, {name: words, range and direction}."""
        zero = {f"{name}_gears": Metric(f"{self.metrics[name].words}, 0 where undefined", -1.0) for name in self.undefined_as_zero}
        return {self.prefix + name: metric for name, metric in ({**self.metrics, **zero}).items()}

    def perfect(self, name: str) -> float:
        """The value of a perfect prediction."""
        metric = self.metrics[name.removesuffix("_gears")]
        return metric.high if metric.more_is_better else 0.0


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    n = weights @ known
    return np.divide(weights @ np.where(known, values, 0), n, out=np.full(len(weights), np.nan), where=n > 0)


def over_contexts(figures: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Unweighted means over contexts, {metric: [B]}; a context in which a figure is not defined does not count in it."""
    names = dict.fromkeys(name for f in figures for name in f)
    stacked = {name: np.stack([f[name] for f in figures if name in f]) for name in names}
    return {name: np.array([_mean(column, np.ones((1, len(column))))[0] for column in x.T]) for name, x in stacked.items()}


GEARS = Profile(
    "gears",
    gears,
    {
        "mse": METRICS["mse"],
        "pearson": METRICS["pearson"],
        "pearson_delta": Metric("Pearson correlation of changes from the controls", -1.0),
        "mse_top20_de": _error("mean squared error of 20 marker genes"),
        "pearson_delta_top20_de": Metric("Pearson correlation of changes of 20 marker genes", -1.0),
    },
    undefined_as_zero=("pearson", "pearson_delta", "pearson_delta_top20_de"),
    of_means=True,
    uses_cells=False,
)
CALIBRATED = Profile(
    "calibrated",
    calibrated,
    {
        "pearson_delta_ref": Metric("Pearson correlation of changes from the training mean", -1.0),
        "centroid_accuracy": Metric("share of other conditions that are farther than its own"),
        "wmse": _error("mean squared error weighted by what sets the condition apart"),
        "r2w_delta": Metric("weighted R² of changes from the mean of conditions", -np.inf),
        "e_distance": _error("energy distance of predicted and measured cells"),
        "l2_top1000": _error("Euclidean distance over the 1,000 genes of highest control mean"),
    },
    of_means=True,
)
VCC2026 = Profile(
    "vcc2026",
    vcc2026,
    {
        "pds_cosine": Metric("perturbation discrimination by cosine"),
        "expr_mse_unbiased_capped_norm": Metric("expression error less sampling noise, over that of no change", -np.inf, np.inf, False),
        "direction_fidelity_yield": Metric("changed genes with the right sign, over the larger number of changed genes"),
        "direction_reach": Metric("share of changed genes down to which 90% of signs are right"),
        "sig_jaccard": Metric("overlap of changed genes over their union"),
        "lfc_nmae": _error("absolute error of log2 fold changes over their size"),
    },
    prefix="vcc2026_",
    ratios={"expr_mse_unbiased_capped_norm": ("expr_mse_unbiased_capped", "expr_distance_unbiased")},
    needs_counts=True,
    of_halves=vcc2026_of_halves,
)
VCC2025 = Profile(
    "vcc2025",
    vcc2025,
    {
        "des": Metric("overlap of changed genes of largest fold change"),
        "pds_l1": Metric("perturbation discrimination by city-block distance"),
        "mae": METRICS["mae"],
    },
    prefix="vcc2025_",
)
PROFILES: Mapping[str, Profile] = {p.name: p for p in (GEARS, CALIBRATED, VCC2026, VCC2025)}
"""All profiles by name; a new one is a `Profile` here."""
