"""Figures of perturbation tasks: by what training has seen, beside ceilings, against the best baseline, and change by change."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import mean
from typing import Any

import numpy as np

from bmfm.evaluation.report.comparison import GREY, MISSING, MODE_COLOURS, ComparedMethod, Comparison, Score, TaskScores, failure
from bmfm.evaluation.report.drawings import Bar, bar_panel, line, svg, text
from bmfm.evaluation.report.tables import Rows, html_table, markdown_table, plain
from bmfm.metrics import Metric

SHOWN = ("pearson_delta_gears", "pearson_delta_ref", "r2w_delta", "wmse", "centroid_accuracy", "vcc2026_pds_cosine", "vcc2026_sig_jaccard")
"""Metrics that are drawn, after the one that ranks and as far as there are such."""
N_DRAWN, N_DRAWS = 6, 2000
"""Metrics that are drawn, and draws of the bootstrap over conditions."""


@dataclass(frozen=True)
class PerturbationTask:
    """A task of the report with what its records say of splits, conditions and bounds.

    Attributes
    ----------
    records
        {method: {(kind, name): mean record over seeds}}, in the order of the report.
    baselines
        Of these methods.
    """

    task: TaskScores
    records: Mapping[ComparedMethod, Mapping[tuple[str, str], dict[str, Any]]]
    baselines: Sequence[ComparedMethod]
    described: Mapping[str, Metric]

    def of_kind(self, method: ComparedMethod, kind: str) -> list[dict[str, Any]]:
        return [record for (k, _), record in self.records[method].items() if k == kind]

    @property
    def metrics(self) -> list[str]:
        """Metrics to draw."""
        known = {m for records in self.records.values() for record in records.values() for m in record}
        return [m for m in dict.fromkeys((str(self.task.metric), *SHOWN)) if m in known and m in self.described][:N_DRAWN]

    @property
    def best_baseline(self) -> ComparedMethod | None:
        ranked = [m for m in self.baselines if m in self.task.scores]
        sign = 1 if self.task.more_is_better else -1
        return max(ranked, key=lambda m: sign * self.task.scores[m].mean) if ranked else None

    @property
    def drawn(self) -> list[ComparedMethod]:
        """The best model and the best baseline, as far as there are such."""
        sign = 1 if self.task.more_is_better else -1
        models = [m for m in self.task.scores if m not in self.baselines]
        best = [max(models, key=lambda m: sign * self.task.scores[m].mean)] if models else []
        return [*best, *([self.best_baseline] if self.best_baseline else [])]


def perturbation_html(c: Comparison) -> str:
    """The section of perturbation tasks; empty without any."""
    out = []
    for t in _tasks(c):
        out.append(f"<h2>{escape(t.task.name)}: predicted and measured changes</h2>")
        out += [f"<p>{escape(sentence)}</p>" for sentence in sentences(t)]
        out.append(html_table(bounds_table(t), f"what is possible: {t.task.name}"))
        panels = [*_ceiling_panels(t), *_heat_maps(t)]
        out.append(f'<div class="panels">{"".join(f"<div><h3>{escape(title)}</h3>{drawing}</div>" for title, drawing in panels)}</div>')
        if scatters := list(_scatters(t)):
            out.append(
                '<p class="soft">Changes of genes from the controls: measured to the right, predicted upwards; grey is a perfect prediction.</p>'
            )
            out.append(
                f'<div class="panels">{"".join(f"<div><h3>{escape(title)}</h3>{drawing}</div>" for title, drawing in scatters)}</div>'
            )
    return "\n".join(out)


def perturbation_markdown(c: Comparison) -> list[str]:
    """The same as text, without drawings."""
    out = []
    for t in _tasks(c):
        out += [f"## {plain(t.task.name)}: predicted and measured changes", *map(plain, sentences(t)), markdown_table(bounds_table(t))]
        out += [f"{plain(title)}\n\n{markdown_table(rows)}" for title, rows in split_tables(t)]
    return out


def sentences(t: PerturbationTask) -> list[str]:
    """Whether each model beats the best baseline: the paired difference, with a bootstrap over conditions."""
    baseline, metric = t.best_baseline, str(t.task.metric)
    if baseline is None:
        return []
    out = [f"The best baseline by {t.task.words} is {baseline.model}, at {t.task.scores[baseline].mean:.3f}."]
    for method in t.task.scores:
        if method in t.baselines:
            continue
        found = paired_difference(t.of_kind(method, "condition"), t.of_kind(baseline, "condition"), metric)
        if found is None:
            out.append(f"{method} cannot be compared with it condition by condition.")
            continue
        sign = 1 if t.task.more_is_better else -1
        low, high = sorted((sign * found.low, sign * found.high))
        verdict = "beats" if low > 0 else "does worse than" if high < 0 else "does not beat"
        out.append(
            f"{method} {verdict} {baseline.model}: the paired difference is {sign * found.mean:+.3f} [{low:+.3f}, {high:+.3f}], above 0 where the model is "
            "better, with the 95% interval of a bootstrap over conditions."
        )
    return out


def paired_difference(a: Sequence[Mapping[str, Any]], b: Sequence[Mapping[str, Any]], metric: str, n_draws: int = N_DRAWS) -> Score | None:
    """The difference of a metric over the conditions that both records have it of; None without any.

    It is the mean over contexts of the mean over their conditions. Conditions are drawn with replacement, each in all of its contexts.
    """
    other = {record["name"]: record[metric] for record in b if metric in record}
    pairs = [(r["name"], r["condition"], r[metric] - other[r["name"]]) for r in a if metric in r and r["name"] in other]
    if not pairs:
        return None
    names, number = np.unique([condition for _, condition, _ in pairs], return_inverse=True)
    contexts = np.unique([name.removesuffix(f"|{condition}") for name, condition, _ in pairs], return_inverse=True)[1]
    values = np.array([x for *_, x in pairs])
    rng = np.random.default_rng(0)
    drawn = np.stack([np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names)) for _ in range(n_draws)])
    weights = np.concatenate([np.ones((1, len(names))), drawn])[:, number]
    sums = np.stack([(weights * values)[:, contexts == i].sum(1) for i in range(contexts.max() + 1)])
    sizes = np.stack([weights[:, contexts == i].sum(1) for i in range(contexts.max() + 1)])
    with np.errstate(invalid="ignore"):
        figures = np.nanmean(np.where(sizes > 0, sums / sizes, np.nan), 0)
    low, high = np.quantile(figures[1:], [0.025, 0.975])
    return Score(float(figures[0]), float(low), float(high))


def bounds_table(t: PerturbationTask) -> Rows:
    """Of each metric the ceiling of halves of the cells, the dynamic range fraction, and shares of the ceiling of the drawn methods."""
    bounds = {m: {r["name"]: r for r in t.of_kind(m, "bound")} for m in t.drawn}
    body = []
    for name in dict.fromkeys(name for of_method in bounds.values() for name in of_method):
        any_record = next(of_method[name] for of_method in bounds.values() if name in of_method)
        shares = (bounds[m].get(name, {}).get("share_of_ceiling") for m in t.drawn)
        row = [_number(any_record["split_half_ceiling"]), _number(any_record.get("dynamic_range_fraction"))]
        body.append([t.described[name].words if name in t.described else name, *row, *map(_number, shares)])
    head = ["metric", "ceiling: half of the cells for the other half", "dynamic range fraction"]
    return Rows([*head, *(f"share of ceiling: {m}" for m in t.drawn)], body)


def split_tables(t: PerturbationTask) -> list[tuple[str, Rows]]:
    """A table for each drawn metric: a row a method, a column what training has seen of a condition."""
    tables = []
    for metric in t.metrics:
        head, rows = _by_split(t, metric)
        body = [[str(m), *(_number(x) for x in values)] for m, values in rows]
        tables.append((f"{t.task.name}: {t.described[metric].words}", Rows(["method", *head], body)))
    return tables


def _tasks(c: Comparison) -> Iterator[PerturbationTask]:
    for task in c.tasks:
        records: dict[ComparedMethod, dict[tuple[str, str], dict[str, Any]]] = {}
        for method in c.methods:
            of_task = [r for r in c.records[method] if r["task"] == task.name and not failure(r)]
            strata: dict[tuple[str, str], list[dict[str, Any]]] = {}
            for s in (s for r in of_task for s in r.get("strata") or [] if s["kind"] in ("split", "condition", "bound")):
                strata.setdefault((s["kind"], s["name"]), []).append(s)
            if strata:
                records[method] = {key: _mean_of(same) for key, same in strata.items()}
        if any(kind == "condition" for of_method in records.values() for kind, _ in of_method):
            baselines = [m for m in records if c.records[m][0]["model_kind"] == "baseline"]
            yield PerturbationTask(task, records, baselines, c.described)


def _mean_of(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One record of the seeds': numbers are means over those that have them (of a figure with its interval, of the figure)."""
    merged: dict[str, Any] = {}
    for key in dict.fromkeys(key for record in records for key in record):
        values = [r[key][0] if isinstance(r[key], list) else r[key] for r in records if r.get(key) is not None]
        merged[key] = mean(values) if values and all(isinstance(v, int | float) for v in values) else values[0] if values else None
    return merged


def _by_split(t: PerturbationTask, metric: str) -> tuple[list[str], list[tuple[ComparedMethod, list[float | None]]]]:
    """Names of strata with their numbers of groups, and of each method a metric in each."""
    sizes = {r["name"]: r["n"] for m in t.records for r in t.of_kind(m, "split")}
    rows = []
    for method in t.records:
        values = {r["name"]: r.get(metric) for r in t.of_kind(method, "split")}
        rows.append((method, [values.get(name) for name in sizes]))
    return [f"{name.replace('_', ' ')} ({n})" for name, n in sizes.items()], rows


def _heat_maps(t: PerturbationTask) -> Iterator[tuple[str, str]]:
    """Of each metric a map of methods by strata, darker where better."""
    for metric in t.metrics:
        head, rows = _by_split(t, metric)
        known = [x for _, values in rows for x in values if x is not None]
        if not known or not head:
            continue
        low, high = min(known), max(known)
        label, width, top = 200.0, 270 / len(head), 30.0
        parts = [text(label + width * (j + 0.5), 14 if j % 2 == 0 else 26, name, "middle", 22) for j, name in enumerate(head)]
        for i, (method, values) in enumerate(rows):
            y = top + 22 * i
            parts.append(text(4, y + 15, method.model if method in t.baselines else str(method), limit=32))
            for j, x in enumerate(values):
                if x is not None:
                    share = (x - low) / (high - low or 1)
                    shade = 0.06 + 0.44 * (share if t.described[metric].more_is_better else 1 - share)
                    box = f'x="{label + width * j:.1f}" y="{y}" width="{width - 2:.1f}" height="20"'
                    parts.append(f'<rect {box} fill="{MODE_COLOURS["zero_shot"]}" fill-opacity="{shade:.2f}"/>')
                parts.append(text(label + width * (j + 0.5), y + 15, _number(x), "middle"))
        words = t.described[metric].words
        yield f"{words}, by what was trained", svg(500, top + 22 * len(rows) + 4, f"{words} by split", "".join(parts))


def _ceiling_panels(t: PerturbationTask) -> Iterator[tuple[str, str]]:
    """Of each metric a bar a method, and a line at the ceiling."""
    for metric in t.metrics:
        described, bars, ceilings = t.described[metric], [], []
        for method, records in t.records.items():
            strata = [r for (kind, _), r in records.items() if kind == "split" and r.get(metric) is not None]
            if strata:
                total = sum(r["n"] for r in strata)
                bars.append(Bar(str(method), Score(sum(r["n"] * r[metric] for r in strata) / total), MODE_COLOURS.get(method.mode, GREY)))
            ceilings += [r["split_half_ceiling"] for r in t.of_kind(method, "bound") if r["name"] == metric]
        if bars:
            mark = ceilings[0] if ceilings else None
            yield (
                f"{described.words}{'' if mark is None else ', with its ceiling'}",
                bar_panel(bars, described.low, described.high, described.words, mark),
            )


def _scatters(t: PerturbationTask) -> Iterator[tuple[str, str]]:
    """Predicted against measured changes of the conditions whose genes a record has, of the drawn methods."""
    for method in t.drawn:
        for record in t.of_kind(method, "condition"):
            if record.get("points"):
                title = f"{record['name'].replace('|', ', ')}: {method.model}"
                yield (
                    title,
                    _scatter(record["points"]["measured"], record["points"]["predicted"], MODE_COLOURS.get(method.mode, GREY), title),
                )


def _scatter(x: Sequence[float], y: Sequence[float], colour: str, label: str) -> str:
    """Points on axes of the same range, with the diagonal."""
    end = max(1e-3, *(abs(v) for v in (*x, *y)))

    def at(value: float) -> float:
        return 110 + 104 * value / end

    parts = [line(6, 214, 214, 6, "grid"), line(6, 110, 214, 110, "axis"), line(110, 6, 110, 214, "axis")]
    places = "".join(f"M{at(a):.1f} {220 - at(b):.1f}h0" for a, b in zip(x, y, strict=True))
    parts.append(f'<path d="{places}" stroke="{colour}" stroke-linecap="round" class="points round"/>')
    parts += [text(214, 124, f"{end:.2g}", "end"), text(114, 16, f"{end:.2g}")]
    return svg(220, 220, label, "".join(parts))


def _number(x: float | None) -> str:
    return MISSING if x is None or not math.isfinite(x) else f"{x:.3f}"
