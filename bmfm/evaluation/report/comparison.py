"""What the records of a run say: scores by task and method, means, ranks."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from statistics import mean
from typing import NamedTuple

from bmfm.evaluation.task_metrics import from_record
from bmfm.metrics import METRICS, Metric
from bmfm.training.seeds import mean_and_half_width

MODES = {
    "zero_shot": "zero-shot",
    "linear_probe": "linear probe",
    "knn_probe": "nearest-neighbour probe",
    "finetune": "fine-tuned",
    "lora": "LoRA",
    "from_scratch": "trained from new weights",
    "baseline": "baseline",
    "variant_llr": "log-likelihood ratio",
    "variant_l2": "distance of embeddings",
    "variant_cosine": "cosine of embeddings",
    "variant_probe": "probe on variant scores",
    "variant_table": "scores made elsewhere",
}
# Okabe and Ito's colours without yellow and black: told apart by every kind of colour vision, on white and on black.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
GREY = "#8a8f98"
MODE_COLOURS = dict(zip(MODES, (*COLOURS, GREY, *COLOURS), strict=False))
MISSING = "-"


Run = tuple[int | None, int | None]
"""The seed of a run, and that of the parts where the task's own does not draw them; both None of what has no runs of its own."""


class ComparedMethod(NamedTuple):
    """Who is compared: a model, and how it was used."""

    model: str
    mode: str

    def __str__(self) -> str:
        return f"{self.model}, {MODES.get(self.mode, self.mode)}"


@dataclass(frozen=True)
class Score:
    """A metric of a method on a task: its mean over seeds and an interval, NaN where there is none."""

    mean: float
    low: float = math.nan
    high: float = math.nan
    over_seeds: bool = False
    n_failed: int = 0

    def __str__(self) -> str:
        spread = f" ± {self.high - self.mean:.3f}" if self.over_seeds else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.mean:.3f}" + ("" if math.isnan(self.low) else spread) + ("†" if self.n_failed else "")

    def overlaps(self, other: "Score") -> bool:
        return self.low <= other.high and other.low <= self.high


def score_over_seeds(records: Sequence[dict], metric: str, n_failed: int = 0) -> Score:
    """One score from the records of its seeds: Student's interval, or the bootstrap's where seeds are one or agree."""
    values = [float(r["metrics"][metric]) for r in records]
    if len(set(values)) > 1:
        centre, half = mean_and_half_width(values)
        return Score(centre, centre - half, centre + half, True, n_failed)
    ends = (records[0].get("intervals") or {}).get(metric) or []
    low, high = ends if len(ends) == 2 and all(map(is_finite, ends)) else (math.nan, math.nan)
    return Score(values[0], low, high, False, n_failed)


def _score(of_runs: Sequence[float]) -> Score:
    """The mean over runs, with Student's interval where there are several."""
    if len(of_runs) < 2:
        return Score(mean(of_runs))
    centre, half = mean_and_half_width(list(of_runs))
    return Score(centre, centre - half, centre + half, True)


def _leads(
    by_run: Mapping[ComparedMethod, dict[Run, float]], more_is_better: bool
) -> tuple[ComparedMethod, dict[ComparedMethod, Score]] | None:
    """The best baseline, and how far each method is from it, run by run; None where there is no baseline."""
    centres = {m: mean(of_runs.values()) * (1 if more_is_better else -1) for m, of_runs in by_run.items() if m.mode == "baseline"}
    if not centres:
        return None
    best = max(centres, key=lambda m: centres[m])
    return best, {method: _difference(of, by_run[best]) for method, of in by_run.items() if method != best}


def _added(by_run: Mapping[ComparedMethod, dict[Run, float]]) -> dict[ComparedMethod, Score]:
    """How far each way of using a model is from the same network that was trained from new weights, run by run, where both are there."""
    new = {m.model: of_runs for m, of_runs in by_run.items() if m.mode == "from_scratch"}
    return {m: _difference(of, new[m.model]) for m, of in by_run.items() if m.model in new and m.mode not in ("from_scratch", "baseline")}


def _difference(of: Mapping[Run, float], than: Mapping[Run, float]) -> Score:
    """Of two methods: runs on the same parts with the same seed beside each other, or all beside the only one on these parts; else that of the means.

    Where the only one stands beside several seeds on each of several drawings of the parts, it is the drawings that are counted: what they share is no
    further evidence.
    """
    runs_on = [Counter(split for _, split in runs) for runs in (of, than)]
    pairs = [(a, b) for a, b in product(of, than) if a[1] == b[1] and (a[0] == b[0] or 1 in (runs_on[0][a[1]], runs_on[1][b[1]]))]
    if {a for a, _ in pairs} != of.keys() or {b for _, b in pairs} != than.keys():
        return _score([mean(of.values()) - mean(than.values())])
    if runs_on[0] != runs_on[1] and len(runs_on[0]) > 1:
        return _score([mean(of[a] - than[b] for a, b in pairs if a[1] == split) for split in runs_on[0]])
    return _score([of[a] - than[b] for a, b in pairs])


@dataclass
class TaskScores:
    """A task of the suite, with its scores by method."""

    name: str
    title: str
    metric: str | None
    description: Metric
    records: list[dict]
    scores: dict[ComparedMethod, Score] = field(default_factory=dict)

    @property
    def words(self) -> str:
        return self.description.words if self.metric else "not run"

    @property
    def more_is_better(self) -> bool:
        return self.description.more_is_better

    @property
    def best(self) -> Score | None:
        """The best score of those without a failed seed."""
        whole = [score for score in self.scores.values() if not score.n_failed]
        return (max if self.more_is_better else min)(whole, key=lambda score: score.mean) if whole else None


class Comparison:
    """The records of a run by task and method, and what can be said over all tasks.

    Methods come by mean rank, those that lack a task last. `ranks`, `means`, `leads` and `added` are of methods with every task alone:
    `means` of each metric over its tasks, with an interval over runs, `leads` how far each is from that of the best baseline, run by run, and `added`
    how far from the same network from new weights.
    """

    def __init__(self, results: dict):
        self.suite, records = results["suite"], results["records"]
        self.described = described_metrics(records)
        method_of = _method_names(records)
        names = list(dict.fromkeys([*self.suite["tasks"], *(r["task"] for r in records)]))
        self.tasks = [self._task(n, [r for r in records if r["task"] == n], method_of) for n in names]
        self.records = {m: [r for r in records if method_of(r) == m] for m in dict.fromkeys(map(method_of, records))}
        self.failures = [(method_of(r), r, why) for r in records if (why := failure(r))]
        self.n_finished = len(records) - len(self.failures)
        whole = [m for m in self.records if all(m in t.scores and not t.scores[m].n_failed for t in self.tasks)]
        self.ranks = _mean_ranks(self.tasks, whole)
        self.methods = sorted(self.records, key=lambda m: (self.ranks.get(m, math.inf), -sum(m in t.scores for t in self.tasks)))
        metrics = dict.fromkeys(t.metric for t in self.tasks if t.metric)
        self.groups = {metric: [t for t in self.tasks if t.metric == metric] for metric in metrics}
        by_run = {metric: {m: self._means_by_run(ts, m) for m in whole} for metric, ts in self.groups.items()}
        self.means = {metric: {m: _score(list(of_runs.values())) for m, of_runs in of.items()} for metric, of in by_run.items()}
        self.added = {metric: _added(of) for metric, of in by_run.items()}
        self.leads = {metric: _leads(of, self.groups[metric][0].more_is_better) for metric, of in by_run.items()}

    def in_words(self, metric: str) -> str:
        """A metric in words."""
        return in_words(metric, self.described)

    def _means_by_run(self, tasks: Sequence[TaskScores], method: ComparedMethod) -> dict[Run, float]:
        """Mean over tasks of each run of a method, by its seeds, a task that was run once being in all of them; one mean over everything
        where tasks were run with different seeds."""
        by_task: list[dict[Run, float]] = [
            {(r["seed"], r.get("split_seed")): float(r["metrics"][task.metric]) for r in self.records[method] if r["task"] == task.name}
            for task in tasks
        ]
        runs = {frozenset(of_runs) for of_runs in by_task if len(of_runs) > 1}
        if len(runs) != 1:
            return {(None, None): mean(task.scores[method].mean for task in tasks)}
        return {run: mean(of_runs[run] if len(of_runs) > 1 else next(iter(of_runs.values())) for of_runs in by_task) for run in min(runs)}

    def _task(self, name: str, records: list[dict], method_of: Callable[[dict], ComparedMethod]) -> TaskScores:
        metric = records[0]["metric"] if records else None
        described = self.described.get(str(metric)) or Metric(in_words(str(metric), self.described))
        task = TaskScores(name, records[0]["title"] if records else name, metric, described, records)
        for method in dict.fromkeys(map(method_of, records)):
            of_method = [r for r in records if method_of(r) == method]
            finished = [r for r in of_method if not failure(r)]
            if finished and task.metric:
                task.scores[method] = score_over_seeds(finished, task.metric, len(of_method) - len(finished))
        return task


def described_metrics(records: Sequence[dict]) -> dict[str, Metric]:
    """What is known of metrics, {name: words, range and direction}: of those that ship, and of those that the records describe.

    Raises
    ------
    ValueError
        Where two tasks describe a metric in different ways.
    """
    described = dict(METRICS)
    for record in records:
        for name, metric in from_record(record.get("metric_descriptions") or {}).items():
            if described.setdefault(name, metric) != metric:
                raise ValueError(f"metric {name!r} is described in two ways: {described[name]} and {metric}; give one of them another name")
    return described


def failure(record: dict) -> str | None:
    """Why a record counts as failed; None where it does not."""
    if record["status"] != "ok":
        return record.get("error") or "failed without saying why"
    value = record["metrics"].get(record["metric"])
    return None if is_finite(value) else f"{record['metric']} is {value}"


def which_run(record: dict) -> str:
    """The seed of a run, and that of the parts where the task's own does not draw them."""
    drawn_by = record.get("split_seed")
    return f"seed {record['seed']}" + (f", split {drawn_by}" if drawn_by is not None else "")


def is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def in_words(metric: str, described: Mapping[str, Metric] = METRICS) -> str:
    """A metric in words."""
    return described[metric].words if metric in described else metric.replace("_", " ")


def _method_names(records: list[dict]) -> Callable[[dict], ComparedMethod]:
    """The method of a record; where checkpoints of different content go by one name, the start of their hash is added."""
    hashes: dict[str, set[str]] = {}
    for r in records:
        if r["model_kind"] != "baseline":
            hashes.setdefault(r["model"], set()).add(r["model_hash"])

    def method_of(r: dict) -> ComparedMethod:
        several = r["model_kind"] != "baseline" and len(hashes[r["model"]]) > 1
        return ComparedMethod(f"{r['model']} ({r['model_hash'][:8]})" if several else r["model"], r["mode"])

    return method_of


def score_matrix(tasks: list[TaskScores], methods: list[ComparedMethod]) -> list[list[float]]:
    """[task][method], turned so that less is better."""
    return [[t.scores[m].mean * (-1 if t.more_is_better else 1) for m in methods] for t in tasks]


def _mean_ranks(tasks: list[TaskScores], methods: list[ComparedMethod]) -> dict[ComparedMethod, float]:
    from scipy.stats import rankdata

    if not methods:
        return {}
    return dict(zip(methods, map(float, rankdata(score_matrix(tasks, methods), axis=1).mean(0)), strict=True))
