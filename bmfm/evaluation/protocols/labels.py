"""Predict the labels of the test part, having seen those of the other parts alone."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bmfm.evaluation import task_metrics
from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.methods.base import LabelMethod
from bmfm.evaluation.overlap import overlap
from bmfm.evaluation.protocols.base import Outcome, Protocol
from bmfm.evaluation.task_spec import TaskSpec
from bmfm.metrics import METRICS, Metric, score
from bmfm.objectives.labels.label import Label
from bmfm.objectives.objective import Objective
from bmfm.targets import find_class

METRICS_OF_LABELS = ("accuracy", "macro_f1", "mcc", "auroc", "auprc", "pearson", "spearman", "mae", "mse")


class LabelPrediction(Protocol[LabelMethod, Examples]):
    """Metrics over the labels of the test part, each with its interval over test examples drawn again."""

    needs = LabelMethod
    modes = ("linear_probe", "knn_probe", "finetune", "lora", "from_scratch", "baseline")

    def metrics(self, task: TaskSpec) -> Mapping[str, Metric]:
        """Those that ship, those of kinds of labels that do not, and the task's own."""
        of_kinds = {k: v for objective in label_objectives(task).values() for k, v in objective.kind.described.items()}
        return {name: METRICS[name] for name in METRICS_OF_LABELS} | of_kinds | task_metrics.describe(task.metrics)

    def check(self, task: TaskSpec) -> None:
        """Every objective learns labels, and a split that is drawn needs a seed of its own."""
        if others := {name for name, settings in (task.config.get("objectives") or {}).items() if settings} - label_objectives(task).keys():
            raise ValueError(f"objectives.{min(others)} learns no labels: it does not go with task.protocol={task.protocol!r}")
        split = (task.config.get("data") or {}).get("split") or {}
        if split.get("by", "file") not in ("column", "file") and split.get("seed") is None:
            raise ValueError("data.split.seed is missing: without it every seed would test on other examples")

    def components(self, task: TaskSpec) -> list[Any]:
        return [self, *task_metrics.import_functions(task.metrics).values()]

    def run(self, examples: Examples, method: LabelMethod, seed: int, folder: Path, n_bootstrap: int) -> Outcome:
        start_time = time.perf_counter()
        scores = method.predict(examples, seed, folder)
        duration = time.perf_counter() - start_time
        outcome = score_predictions(examples, scores, n_bootstrap)
        outcome.duration, outcome.overlap = duration, overlap(examples)
        outcome.test_uses = examples.test_uses // max(1, len(examples.kinds))
        return outcome


def label_objectives(task: TaskSpec) -> dict[str, type[Label]]:
    """{name: class} of the task's objectives that learn labels; ValueError where a class cannot be imported."""
    classes: dict[str, type[Label]] = {}
    for name, settings in (task.config.get("objectives") or {}).items():
        learned_by = find_class(settings._target_, Objective, f"objectives.{name}._target_") if settings else Objective
        if issubclass(learned_by, Label):
            classes[name] = learned_by
    return classes


def score_predictions(examples: Examples, scores: Mapping[str, np.ndarray], n_bootstrap: int) -> Outcome:
    """Metrics over the test part; where a task has several objectives, each one's and their means (of intervals, too).

    Parameters
    ----------
    scores
        {objective: scores of the test part}, as the kind of its labels describes them, or what `Outcome.arrays` kept of them.

    Raises
    ------
    ValueError
        Where scores are missing, or not of the form of the labels.
    """
    task, outcome, figures = examples.task, Outcome({}, 0.0), []
    functions, described = task_metrics.import_functions(task.metrics), task_metrics.describe(task.metrics)
    for name, kind in examples.kinds.items():
        if name not in scores:
            raise ValueError(f"objective {name} has no scores; there are {', '.join(scores) or 'none'}")
        try:
            truth, rows, groups = kind.scored_rows(examples.labels("test", name), np.asarray(scores[name]))
        except ValueError as error:
            raise ValueError(f"objective {name}: {error}") from None
        is_labelled = kind.has_label(truth)
        outcome.counts[f"{name}: test labels missing or unknown to training, not scored"] = int((~is_labelled).sum())
        measure = task_metrics.extend(kind.metrics, functions, described)
        labelled_groups = groups[is_labelled] if groups is not None else None
        figures.append(score(measure, truth[is_labelled], rows[is_labelled], n_bootstrap, groups=labelled_groups))
        outcome.arrays |= {f"{name}/truth": truth, f"{name}/scores": rows}
        if len(examples.kinds) > 1:
            outcome.metrics |= {f"{name}/{k}": v for k, v in figures[-1][0].items()}
    of_all = [k for k in figures[0][0] if all(k in metrics for metrics, _ in figures)]
    outcome.metrics |= {k: float(np.mean([metrics[k] for metrics, _ in figures])) for k in of_all}
    outcome.intervals = {
        k: tuple(np.mean([intervals[k] for _, intervals in figures], 0).tolist())
        for k in of_all
        if all(k in intervals for _, intervals in figures)
    }
    return outcome
