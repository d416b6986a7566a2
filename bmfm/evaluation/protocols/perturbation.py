"""How well a method says what a perturbation does to cells, in conditions and contexts that it has not seen together."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.evaluation.examples.perturbations import PerturbationExamples
from bmfm.evaluation.methods.perturbation import PerturbationMethod, Responses
from bmfm.evaluation.perturbation.ceilings import dynamic_range, scale_vcc2026, share_of_ceiling, split_half_ceiling, vcc2026_references
from bmfm.evaluation.perturbation.measured import MeasuredContext, draw_cells, measured_contexts
from bmfm.evaluation.perturbation.profiles import PROFILES, VCC2026, Profile, over_contexts
from bmfm.evaluation.protocols.base import Outcome, Protocol
from bmfm.evaluation.task_spec import TaskSpec
from bmfm.metrics import Metric

SCORE = "vcc2026_score"
Tables = Mapping[str, Sequence[pd.DataFrame]]
"""{profile: the table of each context}."""


@dataclass(frozen=True, eq=False)
class Bounds:
    """What is possible on the data, whatever the method, of each metric by its reported name.

    Attributes
    ----------
    ceilings, ranges
        Figures of halves of the measured cells, and the median dynamic range fraction over conditions (of metrics of mean profiles).
    scales
        Of each context: figures of the mean submission and of halves, the ends of the scale of profile vcc2026.
    counts
        What was left out.
    """

    ceilings: dict[str, float]
    ranges: dict[str, float]
    scales: list[tuple[dict[str, float], dict[str, float]]]
    counts: dict[str, int]


class PerturbationPrediction(Protocol[PerturbationMethod, PerturbationExamples]):
    """Predicted responses against measured cells, by the published definitions of several profiles of metrics.

    Figures are means over the conditions of a context and then over contexts, with the controls of the data on both sides. Intervals are
    of a bootstrap over conditions. Beside them stand figures of halves of the measured cells, the share of these that is reached, and the
    dynamic range fraction, which is near 0 for a metric that tells nothing on these data.

    Parameters
    ----------
    profiles
        Names of `perturbation.profiles.PROFILES`; ``vcc2026`` needs raw counts.
    n_cells
        Cells that are drawn of each condition where a method predicts means and a metric needs cells; None: as many as were measured.
    bounds
        Whether to compute ceilings, dynamic range fractions and the scale of profile vcc2026, which do not depend on the method.
    bounds_seed
        Of the halves that these are of.
    max_drawn, max_points
        Conditions that are drawn in the report, and genes of each.
    """

    needs = PerturbationMethod

    def __init__(
        self,
        profiles: Sequence[str] = ("gears", "calibrated"),
        n_cells: int | None = None,
        bounds: bool = True,
        bounds_seed: int = 0,
        max_drawn: int = 6,
        max_points: int = 300,
    ):
        if unknown := [name for name in profiles if name not in PROFILES]:
            raise ValueError(f"task.protocol.profiles has {unknown[0]!r}, which is unknown; choose of {', '.join(PROFILES)}")
        self.profiles = [PROFILES[name] for name in profiles]
        self.n_cells, self.bounds, self.bounds_seed, self.max_drawn, self.max_points = n_cells, bounds, bounds_seed, max_drawn, max_points

    @property
    def _with_counts(self) -> bool:
        return any(p.needs_counts for p in self.profiles)

    def metrics(self, task: TaskSpec) -> Mapping[str, Metric]:
        described: dict[str, Metric] = {}
        for profile in self.profiles:
            described |= profile.described()
        if self.bounds and VCC2026 in self.profiles:
            described[SCORE] = Metric(
                "score of the Virtual Cell Challenge 2026, 0 the mean over perturbations, 1 a replicate", -np.inf, np.inf
            )
        return described

    def check(self, task: TaskSpec) -> None:
        super().check(task)
        if task.metric not in (named := self.metrics(task)):
            raise ValueError(f"task.metric={task.metric} is in none of task.protocol.profiles; these have {', '.join(named)}")

    def run(self, examples: PerturbationExamples, method: PerturbationMethod, seed: int, folder: Path, n_bootstrap: int) -> Outcome:
        start_time, read_before = time.perf_counter(), examples.test_uses
        responses = method.respond(examples, seed, folder)
        duration = time.perf_counter() - start_time
        check_responses(examples, method.name, responses)
        test_uses = examples.test_uses - read_before + 1
        contexts = _measured(examples, self._with_counts)
        tables = self.tables(contexts, responses, seed)
        bounds = _bounds(examples, tuple(p.name for p in self.profiles), self._with_counts, self.bounds_seed) if self.bounds else None
        outcome = self._outcome(examples, contexts, tables, bounds, n_bootstrap)
        outcome.duration, outcome.test_uses = duration, test_uses
        outcome.counts |= {f"left out of the data: {what}": n for what, n in examples.source.left_out.items()}
        outcome.counts |= {f"groups {note}" if "groups" not in note else note: n for note, n in responses.notes.items()}
        deltas = self._deltas(examples, contexts, responses)
        outcome.arrays |= {"predicted_delta": deltas[0], "measured_delta": deltas[1]}
        if not seed:
            self._add_points(outcome.strata, deltas)
        return outcome

    def tables(self, contexts: Sequence[MeasuredContext], responses: Responses, seed: int) -> Tables:
        """Figures of each condition, by profile and context."""
        tables: dict[str, list[pd.DataFrame]] = {p.name: [] for p in self.profiles}
        for context in contexts:
            keep_logs = any(p.uses_cells and not p.needs_counts for p in self.profiles)
            cells = draw_cells(context, responses, self.n_cells, seed, keep_logs) if any(p.uses_cells for p in self.profiles) else None
            for profile in self.profiles:
                comparison = context.of(profile)
                if profile.uses_cells and cells is not None:
                    comparison = cells.comparison(comparison)
                if profile.of_means:
                    comparison = replace(comparison, means=np.asarray(responses.means[context.rows], float))
                tables[profile.name].append(profile.table(comparison))
        return tables

    def _outcome(
        self, examples: PerturbationExamples, contexts: Sequence[MeasuredContext], tables: Tables, bounds: Bounds | None, n_bootstrap: int
    ) -> Outcome:
        scales = bounds.scales if bounds is not None else []
        names, row_of = np.unique(examples.asked["condition"].to_numpy(str), return_inverse=True)
        rng = np.random.default_rng(0)
        drawn = [np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names)) for _ in range(n_bootstrap)]
        weights = np.stack([np.ones(len(names)), *drawn])

        def estimate(of_rows: np.ndarray) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
            """Figures of some of the groups, bool [Q], and their intervals."""
            by_context = [self._figures(tables, i, weights[:, row_of[c.rows]] * of_rows[c.rows], scales) for i, c in enumerate(contexts)]
            figures = over_contexts(by_context)
            known = {name: x for name, x in figures.items() if np.isfinite(x[0])}
            ends = {name: np.nanquantile(x[1:], [0.025, 0.975]) for name, x in known.items() if np.isfinite(x[1:]).any()}
            return {name: float(x[0]) for name, x in known.items()}, {name: (float(a), float(b)) for name, (a, b) in ends.items()}

        metrics, intervals = estimate(np.ones(len(examples.asked), bool))
        outcome = Outcome(metrics, 0.0, intervals)
        for name in dict.fromkeys(examples.asked["stratum"]):
            inside = (examples.asked["stratum"] == name).to_numpy()
            of_stratum, ends = estimate(inside)
            record = {"kind": "split", "name": str(name), "n": int(inside.sum())}
            record["n_cells"] = int(examples.asked["n_cells"][inside].median())
            outcome.strata.append(record | {m: [v, *ends.get(m, ())] for m, v in of_stratum.items() if m != SCORE})
        outcome.strata += self._condition_records(examples, contexts, tables)
        outcome.counts = self._counts(contexts, tables)
        if bounds is not None:
            described = self.metrics(examples.task)
            outcome.strata += [bound_record(m, metrics.get(m), bounds, described[m]) for m in bounds.ceilings]
            outcome.counts |= bounds.counts
        return outcome

    def _figures(self, tables: Tables, context: int, weights: np.ndarray, scales: Sequence[tuple]) -> dict[str, np.ndarray]:
        """All figures of a context, {metric: [B]}, for B sets of weights of its conditions."""
        figures: dict[str, np.ndarray] = {}
        for profile in self.profiles:
            of_profile = profile.figures(tables[profile.name][context], weights)
            figures |= {profile.prefix + name: x for name, x in of_profile.items()}
            if profile is VCC2026 and scales and scales[context][1]:
                drawn = ({name: float(x[i]) for name, x in of_profile.items()} for i in range(len(weights)))
                figures[SCORE] = np.array([scale_vcc2026(d, *scales[context])["score"] for d in drawn])
        return figures

    def _condition_records(
        self, examples: PerturbationExamples, contexts: Sequence[MeasuredContext], tables: Tables
    ) -> list[dict[str, Any]]:
        """A record of each group with the figures of its own, in the order in which it was asked."""
        asked = examples.asked
        records: list[dict[str, Any]] = [{}] * len(asked)
        for i, context in enumerate(contexts):
            for code, row in enumerate(context.rows):
                group = asked.iloc[row]
                record = {"kind": "condition", "name": f"{group['context']}|{group['condition']}", "n": int(group["n_cells"])}
                record |= {"condition": str(group["condition"]), "split": str(group["stratum"])}
                for profile in self.profiles:
                    values = tables[profile.name][i].iloc[code]
                    known = {m: float(values[m]) for m in profile.metrics if m in values and np.isfinite(values[m])}
                    zero = {f"{m}_gears": known.get(m, 0.0) for m in profile.undefined_as_zero}
                    record |= {profile.prefix + m: v for m, v in (known | zero).items()}
                records[row] = record
        return records

    def _counts(self, contexts: Sequence[MeasuredContext], tables: Tables) -> dict[str, int]:
        counts: dict[str, int] = {}
        for profile in self.profiles:
            for table in tables[profile.name]:
                for name, n in profile.undefined(table).items():
                    what = f"conditions not scored by {profile.prefix}{name}, which is not defined there"
                    counts[what] = counts.get(what, 0) + n
        elsewhere = sum(not c.trains_here for c in contexts)
        return counts | ({"contexts without training conditions, whose training mean is of others": elsewhere} if elsewhere else {})

    def _deltas(
        self, examples: PerturbationExamples, contexts: Sequence[MeasuredContext], responses: Responses
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predicted and measured mean changes from the controls, [Q, G] float32."""
        predicted, measured = np.empty((2, len(examples.asked), len(examples.genes)), np.float32)
        for context in contexts:
            predicted[context.rows] = responses.means[context.rows] - context.control_mean
            measured[context.rows] = context.deltas
        return predicted, measured

    def _add_points(self, strata: list[dict[str, Any]], deltas: tuple[np.ndarray, np.ndarray]) -> None:
        """Changes of genes to some records of conditions, for a picture: half of the genes are those that change most."""
        records = [record for record in strata if record["kind"] == "condition"]
        for row in chosen_rows([record["split"] for record in records], self.max_drawn):
            predicted, measured = deltas[0][row], deltas[1][row]
            ranked = np.argsort(-np.abs(measured), kind="stable")
            half = self.max_points // 2
            rest = ranked[half:]
            genes = np.concatenate([ranked[:half], rest[np.unique(np.linspace(0, len(rest) - 1, half).astype(int))] if len(rest) else rest])
            records[row]["points"] = {"measured": measured[genes].round(3).tolist(), "predicted": predicted[genes].round(3).tolist()}


def chosen_rows(strata: Sequence[str], n: int) -> list[int]:
    """Rows of n conditions, of all strata in turn."""
    queues = [[row for row, stratum in enumerate(strata) if stratum == name] for name in dict.fromkeys(strata)]
    turns = [row for turn in range(max(map(len, queues), default=0)) for queue in queues for row in queue[turn : turn + 1]]
    return turns[:n]


def check_responses(examples: PerturbationExamples, name: str, responses: Responses) -> None:
    """Raise a ValueError where means are of another shape than was asked for, or not finite."""
    shape = (len(examples.asked), len(examples.genes))
    if responses.means.shape != shape:
        raise ValueError(f"{name} gave means of shape {responses.means.shape}; {shape[0]} groups of {shape[1]:,} genes were asked for")
    if bad := np.flatnonzero(~np.isfinite(responses.means).all(1)).tolist():
        group = examples.asked.iloc[bad[0]]
        raise ValueError(
            f"{name}: the prediction of {group['condition']} in {group['context']} is not finite, and those of {len(bad) - 1} others"
        )


def bound_record(name: str, figure: float | None, bounds: Bounds, metric: Metric) -> dict[str, Any]:
    """What a record says of what is possible: ``split_half_ceiling``, ``share_of_ceiling`` and ``dynamic_range_fraction``."""
    ceiling = bounds.ceilings[name]
    record = {"kind": "bound", "name": name, "n": 0, "split_half_ceiling": ceiling, "dynamic_range_fraction": bounds.ranges.get(name)}
    share = share_of_ceiling(figure, ceiling, metric) if figure is not None else float("nan")
    return record | ({"share_of_ceiling": share} if np.isfinite(share) else {})


@lru_cache(1)
def _measured(examples: PerturbationExamples, with_counts: bool) -> list[MeasuredContext]:
    """Kept, as a process often has several methods of one task to score."""
    return measured_contexts(examples, with_counts)


@lru_cache(1)
def _bounds(examples: PerturbationExamples, profiles: tuple[str, ...], with_counts: bool, seed: int) -> Bounds:
    """Of all contexts; kept like `_measured`."""
    contexts = _measured(examples, with_counts)
    bounds, dropped = Bounds({}, {}, [], {}), {}
    for profile in (PROFILES[name] for name in profiles):
        figures, fractions = [], []
        for context in contexts:
            measured = context.of(profile)
            ceiling = split_half_ceiling(profile, measured, seed)
            figures.append({name: np.array([x]) for name, x in ceiling.figures.items()})
            dropped[context.logs.context] = ceiling.dropped
            if profile is VCC2026:
                bounds.scales.append(vcc2026_references(measured, seed, ceiling.figures))
            if profile.of_means:
                fractions.append(dynamic_range(profile, measured, seed))
        ceilings = {name: float(x[0]) for name, x in over_contexts(figures).items() if name in profile.metrics}
        bounds.ceilings.update({profile.prefix + name: x for name, x in ceilings.items() if np.isfinite(x)})
        bounds.ranges.update({profile.prefix + str(k): float(v) for k, v in _medians(fractions).items() if np.isfinite(v)})
        _add_ranges_of_cells(profile, bounds)
    if n := sum(dropped.values()):
        bounds.counts["conditions of one cell, which have no ceiling"] = n
    return bounds


def _medians(fractions: Sequence[pd.DataFrame]) -> pd.Series:
    return pd.concat(fractions).median() if fractions else pd.Series(dtype=float)


def _add_ranges_of_cells(profile: Profile, bounds: Bounds) -> None:
    """Dynamic range fractions of profile vcc2026: how far halves move from the mean submission, towards a perfect prediction."""
    scales = [scale for scale in bounds.scales if scale[1]]
    for name in profile.metrics if profile is VCC2026 and scales else ():
        baseline, replicate = (np.mean([scale[end][name] for scale in scales]) for end in (0, 1))
        span = profile.perfect(name) - baseline
        if span:
            bounds.ranges[profile.prefix + name] = float((replicate - baseline) / span)
