"""Figures of scores of variants, each a function of weights, so that a bootstrap over clusters is the same function of other weights.

Average precision a chromosome weighted by its variants, and clusters of matched variants, after TraitGym (Benegas et al., bioRxiv
2025.02.11.637758); correlations an element, after saturation mutagenesis (Kircher et al., Nature Communications 2019).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from bmfm.metrics import Weighted, classification, rank_correlations

MIN_SCORED = 3
"""Variants that a stratum needs for a correlation."""


class Stratum(NamedTuple):
    """Some of the variants: what they share (``consequence``, ``frequency``, ``element``), its value, and which they are [n]."""

    kind: str
    name: str
    rows: np.ndarray

    def key(self, metric: str) -> str:
        return f"{metric}|{self.kind}|{self.name}"


@dataclass(frozen=True)
class ScoredVariants:
    """What figures are computed from; all arrays [n], of the variants that have a score.

    Parameters
    ----------
    score
        More of it means more effect.
    label
        1 or 0, NaN of what has none; None where there are effects alone.
    effect
        More of it is more effect, NaN of what has none; None where there are labels alone.
    chrom
        Chromosomes.
    match_group
        Matched positives and negatives; None where nothing is matched.
    strata
        By element, kind of allele, class of consequence and bin of frequency.
    signed
        Log-likelihood ratios and effects as they are, before the card turns them; None of magnitudes, and of labels.
    covariate
        What the error of measured effects depends on; None where nothing is known of it.
    """

    score: np.ndarray
    label: np.ndarray | None
    effect: np.ndarray | None
    chrom: np.ndarray
    match_group: np.ndarray | None
    strata: tuple[Stratum, ...] = ()
    signed: tuple[np.ndarray, np.ndarray] | None = None
    covariate: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> "ScoredVariants":
        """Some of the variants, by their numbers in ascending order."""
        place = np.full(len(self.score), -1)
        place[rows] = np.arange(len(rows))

        def some(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[rows]

        return ScoredVariants(
            score=self.score[rows],
            label=some(self.label),
            effect=some(self.effect),
            chrom=self.chrom[rows],
            match_group=some(self.match_group),
            strata=tuple(Stratum(s.kind, s.name, place[s.rows][place[s.rows] >= 0]) for s in self.strata),
            signed=None if self.signed is None else (self.signed[0][rows], self.signed[1][rows]),
            covariate=some(self.covariate),
        )


Areas = Callable[[np.ndarray], tuple[float, float]]


def areas(label: np.ndarray, score: np.ndarray) -> Areas:
    """Area under the ROC curve and average precision as a function of weights [n]; NaN where an outcome is absent."""
    of = classification(label.astype(np.int64), np.stack([-score, score], 1))

    def figures(weight: np.ndarray) -> tuple[float, float]:
        if not weight.any():
            return float("nan"), float("nan")
        both = of(weight)
        return both.get("auroc", float("nan")), both.get("auprc", float("nan"))

    return figures


def without(correlations: np.ndarray) -> float:
    """The partial correlation of the first two of three columns, from their correlations [3, 3]; 0 where the third leaves nothing."""
    (_, xy, xz), (_, _, yz), _ = correlations
    rest = (1 - xz**2) * (1 - yz**2)
    return float((xy - xz * yz) / np.sqrt(rest)) if rest > 1e-12 else 0.0


def pairwise_accuracy(label: np.ndarray, score: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often a positive of a group has a higher score than a negative of it, ties counting half.

    Returns
    -------
    share, first : [groups with both outcomes]
        The share of each group's pairs, and the number of a variant of the group.
    """
    order = np.argsort(group, kind="stable")
    bounds = np.flatnonzero(np.append(True, group[order][1:] != group[order][:-1]))
    shares, first = [], []
    for rows in np.split(order, bounds[1:]):
        positive, negative = score[rows][label[rows] == 1], score[rows][label[rows] == 0]
        if len(positive) and len(negative):
            difference = positive[:, None] - negative[None, :]
            shares.append(((difference > 0) + (difference == 0) / 2).mean())
            first.append(rows[0])
    return np.array(shares, float), np.array(first, np.int64)


def measure(scored: ScoredVariants, min_positives: int = 30) -> Weighted:
    """All figures as a function of weights [n] of the variants; those that are not defined are left out.

    Those of strata are called ``metric|kind|name``.

    Parameters
    ----------
    min_positives
        That a class of consequence needs to be in the means over classes.
    """
    parts: list[tuple[np.ndarray, Weighted]] = []
    for known, of in ((scored.label, partial(_labelled, min_positives=min_positives)), (scored.effect, _measured)):
        if known is not None and (rows := np.flatnonzero(~np.isnan(known))).size:
            parts.append((rows, of(scored.take(rows))))

    def figures(weight: np.ndarray) -> dict[str, float]:
        together: dict[str, float] = {}
        for rows, of in parts:
            if weight[rows].any():
                together |= of(weight[rows])
        return {name: value for name, value in together.items() if not np.isnan(value)}

    return figures


def _labelled(scored: ScoredVariants, min_positives: int) -> Weighted:
    assert scored.label is not None
    label, score = scored.label, scored.score
    whole = areas(label, score)
    chromosomes = [
        (rows, areas(label[rows], score[rows])) for c in np.unique(scored.chrom) if _both(label, rows := np.flatnonzero(scored.chrom == c))
    ]
    strata = [(s, areas(label[s.rows], score[s.rows])) for s in scored.strata if _both(label, s.rows)]
    in_macro = {s.name for s, _ in strata if s.kind == "consequence" and label[s.rows].sum() >= min_positives}
    shares, first = (
        pairwise_accuracy(label, score, scored.match_group) if scored.match_group is not None else (np.empty(0), np.empty(0, int))
    )

    def figures(weight: np.ndarray) -> dict[str, float]:
        auroc, auprc = whole(weight)
        out = {"auroc": auroc, "auprc": auprc, "base_rate": float(weight @ label / weight.sum())}
        by_chrom = np.array([(weight[rows].sum(), *of(weight[rows])) for rows, of in chromosomes]).reshape(-1, 3)
        by_chrom = by_chrom[~np.isnan(by_chrom[:, 1])]
        if by_chrom.size:
            out["auroc_by_chrom"], out["auprc_by_chrom"] = (float(by_chrom[:, 0] @ by_chrom[:, i] / by_chrom[:, 0].sum()) for i in (1, 2))
        if shares.size and weight[first].any():
            out["pairwise_accuracy"] = float(weight[first] @ shares / weight[first].sum())
        of_strata = [(s, of(weight[s.rows])) for s, of in strata]
        for i, metric in enumerate(("auroc", "auprc")):
            macro = [v[i] for s, v in of_strata if s.kind == "consequence" and s.name in in_macro and not np.isnan(v[i])]
            out |= {f"{metric}_by_consequence": float(np.mean(macro))} if macro else {}
            out |= {s.key(metric): v[i] for s, v in of_strata}
        return out

    return figures


def _measured(scored: ScoredVariants) -> Weighted:
    assert scored.effect is not None
    columns = [scored.effect, scored.score, *(() if scored.covariate is None else (scored.covariate,))]
    whole = rank_correlations(*columns[:2])
    strata = [s for s in scored.strata if len(s.rows) >= MIN_SCORED]
    of_strata = [(s, rank_correlations(*(c[s.rows] for c in columns))) for s in strata]
    signed = (
        [(s.rows, rank_correlations(*(c[s.rows] for c in scored.signed))) for s in strata if s.kind == "element"] if scored.signed else []
    )

    def figures(weight: np.ndarray) -> dict[str, float]:
        known = [(s, of(weight[s.rows])) for s, of in of_strata if weight[s.rows].any()]
        elements = [c for s, c in known if s.kind == "element"]
        by_element = {
            "spearman_by_element": [c[0, 1] for c in elements],
            "spearman_partial_by_element": [without(c) for c in elements if len(c) == 3],
            "spearman_signed_by_element": [of(weight[rows])[0, 1] for rows, of in signed if weight[rows].any()],
        }
        means = {name: float(np.mean(values)) for name, values in by_element.items() if values}
        return {"spearman": float(whole(weight)[0, 1])} | means | {s.key("spearman"): float(c[0, 1]) for s, c in known}

    return figures


def _both(label: np.ndarray, rows: np.ndarray) -> bool:
    return bool(len(rows)) and 0 < label[rows].sum() < len(rows)


class Estimate(NamedTuple):
    """A figure, the middle 95% of the bootstrap's, and their standard deviation (ddof 1); NaN without a bootstrap."""

    value: float
    low: float
    high: float
    se: float


def bootstrap(of: Weighted, cluster: np.ndarray, n_draws: int, seed: int = 0) -> Mapping[str, Estimate]:
    """Figures with their spread when clusters are drawn again with replacement.

    Parameters
    ----------
    of
        Figures as a function of weights.
    cluster
        What is drawn whole, [n]: matched variants, or those at one place.
    """
    group = np.unique(cluster, return_inverse=True)[1]
    n, rng = int(group.max()) + 1, np.random.default_rng(seed)
    figures = of(np.ones(len(cluster)))
    drawn: dict[str, list[float]] = {name: [] for name in figures}
    for _ in range(n_draws):
        weights = np.bincount(rng.integers(0, n, n), minlength=n).astype(float)[group]
        for name, value in of(weights).items():
            if name in drawn:
                drawn[name].append(value)
    return {name: _estimate(value, np.array(drawn[name])) for name, value in figures.items()}


def _estimate(value: float, draws: np.ndarray) -> Estimate:
    if len(draws) < 2:
        return Estimate(value, float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(draws, [0.025, 0.975])
    return Estimate(value, float(low), float(high), float(draws.std(ddof=1)))
