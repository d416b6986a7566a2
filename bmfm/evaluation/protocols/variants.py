"""How well scores of variants tell which have an effect, or how large it is."""

import time
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.evaluation.examples.variants import VariantExamples, turned
from bmfm.evaluation.methods.variants import VariantMethod, VariantScores
from bmfm.evaluation.protocols.base import Outcome, Protocol
from bmfm.evaluation.task_spec import TaskSpec
from bmfm.evaluation.variant_card import VariantCard, card_of
from bmfm.evaluation.variant_metrics import Estimate, ScoredVariants, Stratum, bootstrap, measure
from bmfm.metrics import METRICS, Metric

OF_LABELS: Mapping[str, Metric] = {
    "auroc": METRICS["auroc"],
    "auprc": METRICS["auprc"],
    "auroc_by_chrom": Metric("area under the ROC curve, mean over chromosomes weighted by variants"),
    "auprc_by_chrom": Metric("average precision, mean over chromosomes weighted by variants"),
    "auroc_by_consequence": Metric("area under the ROC curve, mean over classes of consequence"),
    "auprc_by_consequence": Metric("average precision, mean over classes of consequence"),
    "pairwise_accuracy": Metric("accuracy of pairs within match groups"),
    "base_rate": Metric("share of positives"),
}
OF_EFFECTS: Mapping[str, Metric] = {
    "spearman": METRICS["spearman"],
    "spearman_by_element": Metric("Spearman correlation, mean over elements", -1.0),
    "spearman_partial_by_element": Metric("Spearman correlation without what the covariate says, mean over elements", -1.0),
    "spearman_signed_by_element": Metric("Spearman correlation of ratios and effects with their signs, mean over elements", -1.0),
}
KINDS = ("SNV", "MNV", "insertion", "deletion")
COVERAGE = {"coverage": Metric("share of variants that are scored")}


class VariantEffects(Protocol[VariantMethod, VariantExamples]):
    """Labels or measured effects of variants against scores whose direction the card states.

    Intervals and standard errors are of a bootstrap over clusters: match groups, or where there are none the variants at one place.
    Variants without a score are left out of the figures and counted, and ``coverage`` is the share of those with one among all labelled
    rows of the table.

    Parameters
    ----------
    min_positives
        That a class of consequence needs to be in the means over classes.
    max_strata
        Classes and elements beyond so many, the rarest, are not reported one by one.
    """

    needs = VariantMethod
    modes = ("variant_llr", "variant_l2", "variant_cosine", "variant_probe", "variant_table", "baseline")

    def __init__(self, min_positives: int = 30, max_strata: int = 40):
        self.min_positives, self.max_strata = min_positives, max_strata

    def metrics(self, task: TaskSpec) -> Mapping[str, Metric]:
        card = card_of(task)
        named = dict(OF_LABELS if card.is_labelled else {}) | dict(OF_EFFECTS if card.is_measured else {})
        errors = {f"{name}_se": Metric(f"standard error of {name}", 0.0, np.inf, False) for name in named if name != "base_rate"}
        return named | COVERAGE | errors

    def check(self, task: TaskSpec) -> None:
        super().check(task)
        needed = {"auroc_by_consequence": "consequence", "auprc_by_consequence": "consequence", "pairwise_accuracy": "match_group", "spearman_by_element": "element", "spearman_signed_by_element": "element", "spearman_partial_by_element": "covariate"}  # fmt: skip
        column = needed.get(task.metric)
        if column and column not in card_of(task).columns:
            raise ValueError(f"task.metric={task.metric} needs task.examples.columns.{column}")

    def run(self, examples: VariantExamples, method: VariantMethod, seed: int, folder: Path, n_bootstrap: int) -> Outcome:
        start_time = time.perf_counter()
        scores = method.score(examples, seed)
        duration = time.perf_counter() - start_time
        has_score = np.isfinite(scores.values)
        if not has_score.any():
            raise ValueError(f"{method.name} scored none of {len(examples):,} variants: {_counted(scores.status)}")
        rows = np.flatnonzero(has_score)
        scored = self.scored(examples, scores, rows)
        estimates = bootstrap(measure(scored, self.min_positives), clusters(examples)[rows], n_bootstrap)
        outcome = self._outcome(estimates, scored, duration)
        outcome.metrics["coverage"] = len(rows) / max(1, examples.n_rows - examples.unusable.get("NO_LABEL", 0))
        outcome.counts = self._counts(examples, scores)
        outcome.arrays = {"score": scores.values, "row": examples.table.index.to_numpy()}
        outcome.test_uses = examples.test_uses
        return outcome

    def scored(self, examples: VariantExamples, scores: VariantScores, rows: np.ndarray) -> ScoredVariants:
        """What figures are computed from, of the variants [rows] that have a score."""
        card, table, target = examples.card, examples.table.iloc[rows], examples.target().iloc[rows]
        values, is_ratio = scores.values[rows], scores.scale == "log_ratio"
        return ScoredVariants(
            score=turned(values, card.sign) if is_ratio else values,
            label=target["label"].to_numpy(float) if card.is_labelled else None,
            effect=target["effect"].to_numpy(float) if card.is_measured else None,
            chrom=table["chrom"].to_numpy(str),
            match_group=table["match_group"].to_numpy(str) if "match_group" in card.columns else None,
            strata=tuple(self._strata(card, table, examples.variants.iloc[rows])),
            signed=(values, table["effect"].to_numpy(float)) if is_ratio and card.is_measured else None,
            covariate=table["covariate"].to_numpy(float) if "covariate" in card.columns else None,
        )

    def _strata(self, card: VariantCard, table: pd.DataFrame, variants: pd.DataFrame) -> list[Stratum]:
        kinds = np.array([kind_of(ref, alt) for ref, alt in zip(variants["ref"], variants["alt"], strict=True)])
        strata = [Stratum("allele", kind, np.flatnonzero(kinds == kind)) for kind in KINDS if (kinds == kind).any()]
        for kind in ("element", "consequence"):
            if kind in card.columns:
                names = table[kind].fillna("none").astype(str).to_numpy()
                commonest = [name for name, _ in Counter(names.tolist()).most_common(self.max_strata)]
                strata += [Stratum(kind, name, np.flatnonzero(names == name)) for name in sorted(commonest)]
        if "frequency" in card.columns:
            frequency, ends = table["frequency"].to_numpy(float), list(card.frequency_bins)
            for low, high in pairwise(ends):
                last = high == ends[-1]
                inside = np.flatnonzero((frequency >= low) & ((frequency <= high) if last else (frequency < high)))
                strata += [Stratum("frequency", f"{low:g} to {high:g}", inside)] if inside.size else []
        return strata

    def _outcome(self, estimates: Mapping[str, Estimate], scored: ScoredVariants, duration: float) -> Outcome:
        whole = {name: e for name, e in estimates.items() if "|" not in name}
        outcome = Outcome({name: e.value for name, e in whole.items()}, duration)
        outcome.metrics |= {f"{name}_se": e.se for name, e in whole.items() if name != "base_rate" and np.isfinite(e.se)}
        outcome.intervals = {name: (e.low, e.high) for name, e in whole.items() if np.isfinite(e.low)}
        outcome.strata = [stratum_record(s, scored, estimates) for s in scored.strata]
        return outcome

    def _counts(self, examples: VariantExamples, scores: VariantScores) -> dict[str, int]:
        not_scored = Counter(str(s) for s in scores.status[~np.isfinite(scores.values)])
        counts = {f"rows of the table not scored by any method: {status}": n for status, n in sorted(examples.unusable.items())}
        counts |= {"rows that the card leaves out": examples.left_out} if examples.left_out else {}
        return counts | {f"variants not scored: {status}": n for status, n in sorted(not_scored.items())}


def stratum_record(stratum: Stratum, scored: ScoredVariants, estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    """What a record says of a stratum: its size, the mean percentile of its scores (0 to 100, of more effect), and its figures."""
    percentile = (pd.Series(scored.score).rank().to_numpy() - 0.5) / len(scored.score) * 100
    record: dict[str, Any] = {"kind": stratum.kind, "name": stratum.name, "n": len(stratum.rows)}
    if scored.label is not None:
        record["n_positive"] = int(np.nansum(scored.label[stratum.rows]))
    record["mean_percentile"] = float(percentile[stratum.rows].mean())
    for metric in ("auroc", "auprc", "spearman"):
        if e := estimates.get(stratum.key(metric)):
            record[metric] = [e.value, *((e.low, e.high) if np.isfinite(e.low) else ())]
    return record


def kind_of(ref: str, alt: str) -> str:
    """One of `KINDS`."""
    if len(ref) == len(alt):
        return "SNV" if len(ref) == 1 else "MNV"
    return "insertion" if len(alt) > len(ref) else "deletion"


def clusters(examples: VariantExamples) -> np.ndarray:
    """What a bootstrap draws whole, [n]: match groups, or places."""
    if "match_group" in examples.card.columns:
        return examples.table["match_group"].to_numpy(str)
    table = examples.table
    return (table["element"].astype(str) + ":" + table["chrom"] + ":" + table["pos"].astype(str)).to_numpy(str)


def _counted(status: np.ndarray) -> str:
    return ", ".join(f"{n:,} {name}" for name, n in Counter(status.tolist()).most_common())
