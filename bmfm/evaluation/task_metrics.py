"""Metrics of a task's own: functions that its ``task.metrics`` names by ``_target_``, described and scored like those that ship."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from functools import partial
from typing import Any

import numpy as np

from bmfm.metrics import METRICS, Measure, Metric, Weighted

Function = Callable[[np.ndarray, np.ndarray], float]
"""One number from truth and scores of the test part."""
DESCRIPTION = tuple(f.name for f in fields(Metric))


def describe(settings: Mapping[str, Mapping]) -> dict[str, Metric]:
    """What a task says of its metrics, {name: words, range and direction}.

    Raises
    ------
    ValueError
        Where a metric has the name of one that ships, has no ``_target_``, or says nothing of its direction.
    """
    described = {}
    for name, metric in settings.items():
        if name in METRICS:
            raise ValueError(f"task.metrics.{name} has the name of a metric that ships; choose another")
        if not isinstance(metric, Mapping) or "_target_" not in metric or "more_is_better" not in metric:
            raise ValueError(f"task.metrics.{name} needs _target_ (a function of truth and scores) and more_is_better (true or false)")
        description: dict[str, Any] = {"words": name.replace("_", " ")} | {k: v for k, v in metric.items() if k in DESCRIPTION}
        described[name] = Metric(**description | {k: float(description[k]) for k in ("low", "high") if k in description})
    return described


def to_record(described: Mapping[str, Metric]) -> dict[str, dict]:
    """Descriptions for a record in JSON, where an end of the range that is infinite is null."""
    return {
        name: {k: None if k in ("low", "high") and math.isinf(v) else v for k, v in asdict(metric).items()}
        for name, metric in described.items()
    }


def from_record(described: Mapping[str, Mapping]) -> dict[str, Metric]:
    """What `to_record` has written."""
    ends = {"low": -math.inf, "high": math.inf}
    metrics: dict[str, Metric] = {}
    for name, metric in described.items():
        settings: dict[str, Any] = {k: ends[k] if v is None else v for k, v in metric.items()}
        metrics[name] = Metric(**settings)
    return metrics


def import_functions(settings: Mapping[str, Mapping]) -> dict[str, Function]:
    """The functions themselves, with whatever else a task sets as their arguments; ValueError where one cannot be imported."""
    from hydra.utils import get_method

    imported: dict[str, Function] = {}
    for name, metric in settings.items():
        arguments = {k: v for k, v in metric.items() if k not in (*DESCRIPTION, "_target_")}
        try:
            imported[name] = partial(get_method(metric["_target_"]), **arguments)
        except Exception as error:  # whatever an import can raise
            raise ValueError(
                f"task.metrics.{name}: {metric['_target_']} cannot be imported ({' '.join(str(error).split())[:200]}); "
                "a module of your own lies in the folder of --config-dir, is installed, or is on PYTHONPATH"
            ) from error
    return imported


def extend(measure: Measure, functions: Mapping[str, Function], described: Mapping[str, Metric]) -> Measure:
    """A measure of figures that ship, together with a task's own.

    A function gets the rows that the bootstrap drew, the same row as often as it was drawn. A figure that is NaN is left out.

    Raises
    ------
    ValueError
        When it is called: where a function gives no number, or one outside the range that is stated.
    """

    def extended(truth: np.ndarray, scores: np.ndarray) -> Weighted:
        shipped = measure(truth, scores)

        def figures(weight: np.ndarray) -> dict[str, float]:
            rows = np.repeat(np.arange(len(truth)), weight.astype(np.int64))
            task_figures = {
                name: check_range(name, function(truth[rows], scores[rows]), described[name]) for name, function in functions.items()
            }
            return shipped(weight) | {name: figure for name, figure in task_figures.items() if not math.isnan(figure)}

        return figures

    return extended if functions else measure


def check_range(name: str, value: Any, metric: Metric) -> float:
    """A figure as a number; ValueError where it is none, or lies outside the range of its metric."""
    try:
        figure = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"metric {name} gave {value!r:.60}; it must give one number") from None
    if not (math.isnan(figure) or metric.low <= figure <= metric.high):
        raise ValueError(
            f"metric {name} gave {figure}, outside of {metric.low} to {metric.high}; correct it, or state low and high in the task"
        )
    return figure
