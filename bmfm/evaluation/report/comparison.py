"""What the records of a run say: cells by task and entrant, means, ranks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import NamedTuple

from bmfm.metrics import METRICS
from bmfm.training.seeds import interval

MODES = {
    "zero_shot": "zero-shot",
    "linear_probe": "linear probe",
    "knn_probe": "nearest-neighbour probe",
    "finetune": "fine-tuned",
    "lora": "LoRA",
    "from_scratch": "trained from new weights",
    "baseline": "baseline",
}
# Okabe and Ito's colours without yellow and black: told apart by every kind of colour vision, on white and on black.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
GREY = "#8a8f98"
MODE_COLOURS = dict(zip(MODES, (*COLOURS, GREY), strict=True))
MISSING = "-"


class ComparedMethod(NamedTuple):
    """Who is compared: a model, and how it was used."""

    model: str
    mode: str

    def __str__(self) -> str:
        return f"{self.model}, {MODES.get(self.mode, self.mode)}"


@dataclass(frozen=True)
class Score:
    """A metric of an entrant on a task: its mean over seeds and an interval, NaN where there is none."""

    mean: float
    low: float = math.nan
    high: float = math.nan
    over_seeds: bool = False
    failed: int = 0

    def __str__(self) -> str:
        spread = f" ± {self.high - self.mean:.3f}" if self.over_seeds else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.mean:.3f}" + ("" if math.isnan(self.low) else spread) + ("†" if self.failed else "")

    def overlaps(self, other: "Score") -> bool:
        return self.low <= other.high and other.low <= self.high


def summarise(records: Sequence[dict], metric: str, failed: int = 0) -> Score:
    """One cell from the records of its seeds: Student's interval, or the bootstrap's where seeds are one or agree."""
    values = [float(r["metrics"][metric]) for r in records]
    if len(set(values)) > 1:
        centre, half = interval(values)
        return Score(centre, centre - half, centre + half, True, failed)
    ends = (records[0].get("intervals") or {}).get(metric) or []
    low, high = ends if len(ends) == 2 and all(map(_finite, ends)) else (math.nan, math.nan)
    return Score(values[0], low, high, False, failed)


@dataclass
class Task:
    """A task of the suite, with its cells by entrant."""

    name: str
    title: str
    metric: str | None
    records: list[dict]
    cells: dict[ComparedMethod, Score] = field(default_factory=dict)

    @property
    def words(self) -> str:
        return in_words(self.metric) if self.metric else "not run"

    @property
    def more_is_better(self) -> bool:
        return self.metric is None or METRICS[self.metric].more_is_better

    @property
    def best(self) -> Score | None:
        """The best cell of those without a failed seed."""
        whole = [c for c in self.cells.values() if not c.failed]
        return (max if self.more_is_better else min)(whole, key=lambda c: c.mean) if whole else None


class Comparison:
    """The records of a run by task and entrant, and what can be said over all tasks.

    Entrants come by mean rank, those that lack a task last. `ranks` and `means` are of entrants with every task alone.
    """

    def __init__(self, results: dict):
        self.suite, records = results["suite"], results["records"]
        name = _telling_names(records)
        names = list(dict.fromkeys([*self.suite["tasks"], *(r["task"] for r in records)]))
        self.tasks = [_task(n, [r for r in records if r["task"] == n], name) for n in names]
        self.records = {e: [r for r in records if name(r) == e] for e in dict.fromkeys(map(name, records))}
        self.failures = [(name(r), r, why) for r in records if (why := failure(r))]
        self.finished = len(records) - len(self.failures)
        whole = [e for e in self.records if all(e in t.cells and not t.cells[e].failed for t in self.tasks)]
        self.ranks = _mean_ranks(self.tasks, whole)
        self.entrants = sorted(self.records, key=lambda e: (self.ranks.get(e, math.inf), -sum(e in t.cells for t in self.tasks)))
        metrics = dict.fromkeys(t.metric for t in self.tasks if t.metric)
        self.groups = {m: [t for t in self.tasks if t.metric == m] for m in metrics}
        self.means = {m: {e: mean(t.cells[e].mean for t in ts) for e in whole} for m, ts in self.groups.items()}


def failure(record: dict) -> str | None:
    """Why a record counts as failed; None where it does not."""
    if record["status"] != "ok":
        return record.get("error") or "failed without saying why"
    value = record["metrics"].get(record["metric"])
    return None if _finite(value) else f"{record['metric']} is {value}"


def _finite(value) -> bool:
    return value is not None and math.isfinite(value)


def in_words(metric: str) -> str:
    """A metric in words."""
    return METRICS[metric].words if metric in METRICS else metric.replace("_", " ")


def _telling_names(records: list[dict]):
    """ComparedMethod of a record; where checkpoints of different content go by one name, the start of their hash is added."""
    hashes: dict[str, set[str]] = {}
    for r in records:
        if r["model_kind"] != "baseline":
            hashes.setdefault(r["model"], set()).add(r["model_hash"])

    def name(r: dict) -> ComparedMethod:
        several = r["model_kind"] != "baseline" and len(hashes[r["model"]]) > 1
        return ComparedMethod(f"{r['model']} ({r['model_hash'][:8]})" if several else r["model"], r["mode"])

    return name


def _task(name: str, records: list[dict], entrant) -> Task:
    task = Task(name, records[0]["title"] if records else name, records[0]["metric"] if records else None, records)
    for e in dict.fromkeys(map(entrant, records)):
        own = [r for r in records if entrant(r) == e]
        done = [r for r in own if not failure(r)]
        if done and task.metric:
            task.cells[e] = summarise(done, task.metric, len(own) - len(done))
    return task


def _scores(tasks: list[Task], entrants: list[ComparedMethod]) -> list[list[float]]:
    """[task][entrant], turned so that less is better."""
    return [[t.cells[e].mean * (-1 if t.more_is_better else 1) for e in entrants] for t in tasks]


def _mean_ranks(tasks: list[Task], entrants: list[ComparedMethod]) -> dict[ComparedMethod, float]:
    from scipy.stats import rankdata

    if not entrants:
        return {}
    return dict(zip(entrants, map(float, rankdata(_scores(tasks, entrants), axis=1).mean(0)), strict=True))
