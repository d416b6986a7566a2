"""Figures of parts of the test part: variants by element, class of consequence and frequency."""

import math
from collections.abc import Iterator
from statistics import mean

from bmfm.evaluation.report.comparison import GREY, MODE_COLOURS, ComparedMethod, Comparison, Score, failure
from bmfm.evaluation.report.drawings import Bar, bar_panel
from bmfm.evaluation.report.tables import MISSING, Rows

PERCENTILE = "mean_percentile"
SHOWN = {
    "spearman": ("Spearman correlation", -1.0, 1.0),
    "auroc": ("area under the ROC curve", 0.0, 1.0),
    "auprc": ("average precision", 0.0, 1.0),
    PERCENTILE: ("mean percentile of the score", 0.0, 100.0),
}
"""Figures of strata: words, and the ends of their range."""
Strata = dict[str, dict[ComparedMethod, dict]]
"""{name of a stratum: {method: its record, with means over seeds}}"""


def strata_tables(c: Comparison) -> list[tuple[str, Rows]]:
    """A table for each task, kind of stratum and figure: a row a method, a column a stratum with the number of its examples."""
    tables = []
    for task, kind, strata in _all(c):
        sizes = {name: max(s["n"] for s in by_method.values()) for name, by_method in strata.items()}
        for metric in _metrics(kind, strata):
            body = [[str(m), *(_cell(strata[name].get(m), metric) for name in strata)] for m in _methods(c, strata)]
            tables.append((f"{task}, by {kind}: {SHOWN[metric][0]}", Rows(["method", *(f"{n} ({sizes[n]:,})" for n in strata)], body)))
    return tables


def strata_panels(c: Comparison) -> list[tuple[str, str]]:
    """Drawings: of elements and classes one a stratum with a bar a method; of frequencies one a method with a bar a bin."""
    panels = []
    for task, kind, strata in _all(c):
        metric = PERCENTILE if kind == "frequency" else next(iter(_metrics(kind, strata)), None)
        if metric is None:
            continue
        words, low, high = SHOWN[metric]
        methods = _methods(c, strata)
        drawn: list[tuple[str, list[Bar]]]
        if kind == "frequency":
            drawn = [(str(m), _bars(((name, m, strata[name].get(m)) for name in strata), metric)) for m in methods]
        else:
            drawn = [(name, _bars(((str(m), m, strata[name].get(m)) for m in methods), metric)) for name in strata]
        for title, bars in drawn:
            if bars:
                panels.append((f"{task}, {title}: {words}", bar_panel(bars, low, high, f"{words} of {title}")))
    return panels


def _all(c: Comparison) -> Iterator[tuple[str, str, Strata]]:
    """(task, kind, strata) of all tasks that have such."""
    for task in c.tasks:
        kinds: dict[str, Strata] = {}
        for method, records in c.records.items():
            of_task = [r for r in records if r["task"] == task.name and not failure(r)]
            for first in of_task[0].get("strata") or [] if of_task else []:
                same = [s for r in of_task for s in r["strata"] if (s["kind"], s["name"]) == (first["kind"], first["name"])]
                kinds.setdefault(first["kind"], {}).setdefault(first["name"], {})[method] = _mean_of(same)
        yield from ((task.name, kind, strata) for kind, strata in kinds.items())


def _mean_of(records: list[dict]) -> dict:
    """A stratum's record, each figure the mean over seeds; the interval is kept of one seed alone."""
    first = dict(records[0])
    for metric in SHOWN:
        if metric in first and len(records) > 1:
            values = [_value(r[metric]) for r in records if metric in r]
            first[metric] = [mean(values)]
    return first


def _value(figure: float | list[float]) -> float:
    return figure[0] if isinstance(figure, list) else figure


def _metrics(kind: str, strata: Strata) -> list[str]:
    """The figures that strata of a kind have; mean percentiles are of interest along frequencies."""
    have = {metric for by_method in strata.values() for record in by_method.values() for metric in record}
    return [m for m in SHOWN if m in have and (m != PERCENTILE or kind == "frequency")]


def _methods(c: Comparison, strata: Strata) -> list[ComparedMethod]:
    return [m for m in c.methods if any(m in by_method for by_method in strata.values())]


def _cell(record: dict | None, metric: str) -> str:
    return (
        MISSING
        if record is None or metric not in record
        else f"{_value(record[metric]):.1f}"
        if metric == PERCENTILE
        else str(_score(record[metric]))
    )


def _score(figure: float | list[float]) -> Score:
    ends = figure[1:] if isinstance(figure, list) else []
    return Score(_value(figure), *(ends if len(ends) == 2 else (math.nan, math.nan)))


def _bars(rows: Iterator[tuple[str, ComparedMethod, dict | None]], metric: str) -> list[Bar]:
    return [Bar(name, _score(r[metric]), MODE_COLOURS.get(m.mode, GREY)) for name, m, r in rows if r is not None and metric in r]
