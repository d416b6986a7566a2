"""Metrics of a card's own: functions that its ``task.metrics`` names by ``_target_``, reported beside those that ship."""

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from bmfm.metrics import METRICS, Metric

SHIPPED = frozenset(METRICS)
ABOUT = tuple(f.name for f in fields(Metric))


def describe(settings: Mapping[str, Mapping], where: str) -> dict[str, Metric]:
    """What a card says of its metrics, {name: words, range and direction}.

    Raises
    ------
    ValueError
        Where a metric has the name of one that ships, has no ``_target_``, or says nothing of its direction.
    """
    described = {}
    for name, given in settings.items():
        if name in SHIPPED:
            raise ValueError(f"{where}.{name} has the name of a metric that ships; choose another")
        if not isinstance(given, Mapping) or "_target_" not in given or "more_is_better" not in given:
            raise ValueError(f"{where}.{name} needs _target_ (a function of truth and scores) and more_is_better (true or false)")
        about: dict[str, Any] = {"words": name.replace("_", " ")} | {k: v for k, v in given.items() if k in ABOUT}
        described[name] = Metric(**about | {k: float(about[k]) for k in ("low", "high") if k in about})
    return described


def register(described: Mapping[str, Metric | Mapping]) -> None:
    """Add metrics to `METRICS`, so that report and leaderboard know their words, range and direction; ValueError where one differs."""
    for name, given in described.items():
        metric = given if isinstance(given, Metric) else Metric(**given)
        if METRICS.get(name, metric) != metric:
            raise ValueError(f"metric {name!r} is described in two ways: {METRICS[name]} and {metric}; give one of them another name")
        METRICS[name] = metric  # type: ignore[index]


def as_record(described: Mapping[str, Metric]) -> dict[str, dict]:
    """The same for a record, from which `register` makes it again."""
    return {name: asdict(metric) for name, metric in described.items()}


def functions(settings: Mapping[str, Mapping]) -> dict[str, Callable[[np.ndarray, np.ndarray], float]]:
    """The functions themselves, with whatever else a card sets as their arguments."""
    from functools import partial

    from hydra.utils import get_method

    found: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {}
    for name, given in settings.items():
        try:
            found[name] = partial(get_method(given["_target_"]), **_arguments(given))
        except Exception as error:  # whatever an import can raise
            raise ValueError(
                f"task.metrics.{name}: {given['_target_']} cannot be imported ({' '.join(str(error).split())[:200]}); "
                "a module of your own lies in the folder of --config-dir, is installed, or is on PYTHONPATH"
            ) from error
    return found


def _arguments(settings: Mapping) -> dict[str, Any]:
    return {k: v for k, v in settings.items() if k not in (*ABOUT, "_target_")}


def source_hash(made: Any) -> str | None:
    """SHA-256 of the source of a function, or of an object's class, that lies outside of this package; None of what ships.

    What was measured with another version of it is then not taken for finished.
    """
    code = made.func if hasattr(made, "func") else made if inspect.isfunction(made) else type(made)
    if code.__module__.split(".")[0] == "bmfm":
        return None
    try:
        return hashlib.sha256(inspect.getsource(inspect.getmodule(code) or code).encode()).hexdigest()
    except (OSError, TypeError):
        return None


def score(
    measured: Mapping[str, Callable], truth: np.ndarray, scores: np.ndarray, n_bootstrap: int = 0, groups: np.ndarray | None = None
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Figures of a card's own metrics, and their intervals over test examples drawn again.

    Parameters
    ----------
    truth, scores, n_bootstrap, groups
        As `metrics.score` takes them. A function gets the rows that were drawn, the same row as often as it was.

    Raises
    ------
    ValueError
        Where a function gives no number, or one outside the range that the card states.
    """
    metrics, intervals = {}, {}
    group = np.unique(groups, return_inverse=True)[1] if groups is not None else np.arange(len(truth))
    rows = np.split(np.argsort(group, kind="stable"), np.flatnonzero(np.diff(np.sort(group))) + 1)
    n_bootstrap = min(n_bootstrap, max(20, int(2e9 / scores.size)))
    for name, function in measured.items():
        metrics[name] = _figure(name, function(truth, scores))
        rng, drawn = np.random.default_rng(0), []
        for _ in range(n_bootstrap):
            chosen = np.concatenate([rows[i] for i in rng.integers(0, len(rows), len(rows))])
            drawn.append(_figure(name, function(truth[chosen], scores[chosen])))
        if known := [d for d in drawn if not math.isnan(d)]:
            intervals[name] = (float(np.quantile(known, 0.025)), float(np.quantile(known, 0.975)))
    return metrics, intervals


def _figure(name: str, value: Any) -> float:
    try:
        figure = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"metric {name} gave {value!r:.60}; it must give one number") from None
    low, high = METRICS[name].low, METRICS[name].high
    if not (math.isnan(figure) or low <= figure <= high):
        raise ValueError(f"metric {name} gave {figure}, outside of {low} to {high}; correct it, or state low and high in the card")
    return figure
