"""The report of a benchmark run: one page of HTML that needs nothing beside it, and the same figures as Markdown."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from bmfm.evaluation.metrics import METRICS
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


# --- what the records say -----------------------------------------------------------------------------------------------


class Entrant(NamedTuple):
    """Who is compared: a model, and how it was used."""

    model: str
    mode: str

    def __str__(self) -> str:
        return f"{self.model}, {MODES.get(self.mode, self.mode)}"


@dataclass(frozen=True)
class Cell:
    """A metric of an entrant on a task: its mean over seeds and an interval, NaN where there is none."""

    mean: float
    low: float = math.nan
    high: float = math.nan
    over_seeds: bool = False
    failed: int = 0

    def __str__(self) -> str:
        spread = f" ± {self.high - self.mean:.3f}" if self.over_seeds else f" [{self.low:.3f}, {self.high:.3f}]"
        return f"{self.mean:.3f}" + ("" if math.isnan(self.low) else spread) + ("†" if self.failed else "")

    def overlaps(self, other: "Cell") -> bool:
        return self.low <= other.high and other.low <= self.high


def summarise(records: Sequence[dict], metric: str, failed: int = 0) -> Cell:
    """One cell from the records of its seeds: Student's interval, or the bootstrap's where seeds are one or agree."""
    values = [float(r["metrics"][metric]) for r in records]
    if len(set(values)) > 1:
        centre, half = interval(values)
        return Cell(centre, centre - half, centre + half, True, failed)
    ends = (records[0].get("intervals") or {}).get(metric) or []
    low, high = ends if len(ends) == 2 and all(map(_finite, ends)) else (math.nan, math.nan)
    return Cell(values[0], low, high, False, failed)


@dataclass
class Task:
    """A task of the suite, with its cells by entrant."""

    name: str
    title: str
    metric: str | None
    records: list[dict]
    cells: dict[Entrant, Cell] = field(default_factory=dict)

    @property
    def words(self) -> str:
        return in_words(self.metric) if self.metric else "not run"

    @property
    def more_is_better(self) -> bool:
        return self.metric is None or METRICS[self.metric].more_is_better

    @property
    def best(self) -> Cell | None:
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
    """Entrant of a record; where checkpoints of different content go by one name, the start of their hash is added."""
    hashes: dict[str, set[str]] = {}
    for r in records:
        if r["model_kind"] != "baseline":
            hashes.setdefault(r["model"], set()).add(r["model_hash"])

    def name(r: dict) -> Entrant:
        several = r["model_kind"] != "baseline" and len(hashes[r["model"]]) > 1
        return Entrant(f"{r['model']} ({r['model_hash'][:8]})" if several else r["model"], r["mode"])

    return name


def _task(name: str, records: list[dict], entrant) -> Task:
    task = Task(name, records[0]["title"] if records else name, records[0]["metric"] if records else None, records)
    for e in dict.fromkeys(map(entrant, records)):
        own = [r for r in records if entrant(r) == e]
        done = [r for r in own if not failure(r)]
        if done and task.metric:
            task.cells[e] = summarise(done, task.metric, len(own) - len(done))
    return task


def _scores(tasks: list[Task], entrants: list[Entrant]) -> list[list[float]]:
    """[task][entrant], turned so that less is better."""
    return [[t.cells[e].mean * (-1 if t.more_is_better else 1) for e in entrants] for t in tasks]


def _mean_ranks(tasks: list[Task], entrants: list[Entrant]) -> dict[Entrant, float]:
    from scipy.stats import rankdata

    if not entrants:
        return {}
    return dict(zip(entrants, map(float, rankdata(_scores(tasks, entrants), axis=1).mean(0)), strict=True))


# --- tables, written both ways ------------------------------------------------------------------------------------------


class Shown(NamedTuple):
    """A figure in a table; `mark` is ``best``, ``level`` (not told apart from the best) or empty."""

    text: str
    mark: str = ""


class Rows(NamedTuple):
    """A table: its heading, and rows whose first cell names them."""

    head: Sequence[str]
    body: Sequence[Sequence[str | Shown]]


def main_table(c: Comparison) -> Rows:
    body: list[list[str | Shown]] = []
    for task in c.tasks:
        row: list[str | Shown] = [task.name, task.words]
        best = task.best
        for entrant in c.entrants:
            cell = task.cells.get(entrant)
            row.append(Shown(str(cell), _mark(cell, best)) if cell else Shown(MISSING))
        body.append(row)
    for metric, tasks in c.groups.items():
        if len(tasks) > 1:
            means = c.means[metric]
            body.append([f"mean of {len(tasks)} tasks", in_words(metric), *(_figure(means.get(e), 3) for e in c.entrants)])
    body.append(["mean rank", "1 is best", *(_figure(c.ranks.get(e), 2) for e in c.entrants)])
    return Rows(["task", "metric", *map(str, c.entrants)], body)


def _mark(cell: Cell, best: Cell | None) -> str:
    if best is None or cell.failed:
        return ""
    return "best" if cell.mean == best.mean else "level" if cell.overlaps(best) else ""


LEGEND = (
    "In bold the best of a task; ≈ where the interval overlaps that of the best. ± is half the 95% interval by Student's t over "
    "seeds; [low, high] is the 95% bootstrap interval over test examples, where there was one seed or all seeds agreed. "
    "† some seeds failed: not compared. - not run or failed. Means and ranks are of entrants with every task."
)


def published_table(c: Comparison) -> tuple[Rows, list[str]] | None:
    """Scores from the cards, and the works they come from."""
    published = {t.name: (t.records[0].get("published") or []) if t.records else [] for t in c.tasks}
    works = list(dict.fromkeys(p["citation"] for ps in published.values() for p in ps))
    models = list(dict.fromkeys(p["model"] for ps in published.values() for p in ps))
    if not models:
        return None
    body = []
    for task in c.tasks:
        if own := published[task.name]:
            by = {m: [p for p in own if p["model"] == m] for m in models}
            cells = ("; ".join(_reported(p, task, works) for p in by[m]) or MISSING for m in models)
            body.append([task.name, task.words, *cells])
    return Rows(["task", "metric", *models], body), works


def _reported(p: dict, task: Task, works: list[str]) -> str:
    other = "" if p["metric"] == task.metric else f" {in_words(p['metric'])}"
    return f"{p['score']:.3f}{other} ({works.index(p['citation']) + 1})"


def cost_table(c: Comparison) -> Rows:
    body = []
    for number, e in enumerate(c.entrants, 1):
        done = [r for r in c.records[e] if not failure(r)]
        size = next((r["parameters"] for r in done if r.get("parameters")), None)
        quality = (_figure(c.means[m].get(e), 3) for m in c.groups)
        cost = _figure(_typical(done, "seconds"), 1), _figure(_typical(done, "train_seconds"), 1), _figure(_peak(done), 2)
        tasks = f"{sum(e in t.cells and not t.cells[e].failed for t in c.tasks)} of {len(c.tasks)}"
        body.append([str(number), str(e), tasks, *quality, *cost, f"{size:,}" if size else MISSING])
    means = [f"{in_words(m)}, mean" for m in c.groups]
    return Rows(["no.", "entrant", "tasks", *means, "s a run", "s of training", "peak GiB", "parameters"], body)


def metric_tables(c: Comparison) -> list[tuple[Task, Rows]]:
    """Every metric of every task."""
    found = []
    for task in c.tasks:
        names = list(dict.fromkeys(m for r in task.records if not failure(r) for m in r["metrics"]))
        body: list[list[str | Shown]] = []
        for e in task.cells:
            done = [r for r in c.records[e] if r["task"] == task.name and not failure(r)]
            whole = (all(_finite(r["metrics"].get(m)) for r in done) for m in names)
            body.append([str(e), *(Shown(str(summarise(done, m)) if w else MISSING) for m, w in zip(names, whole, strict=True))])
        if body:
            found.append((task, Rows(["entrant", *map(in_words, names)], body)))
    return found


def data_table(c: Comparison) -> Rows:
    body = []
    for task in c.tasks:
        r = next((r for r in task.records if not failure(r)), None)
        counts = [f"{r[k]:,}" if r and r.get(k) is not None else MISSING for k in ("n_train", "n_validation", "n_test")]
        body.append([task.name, task.title, *counts, ((r or {}).get("data_hash") or MISSING)[:12]])
    return Rows(["task", "title", "train", "validation", "test", "SHA-256 of data"], body)


def failure_table(c: Comparison) -> Rows:
    return Rows(["task", "entrant", "seed", "error"], [[r["task"], str(e), str(r["seed"]), why] for e, r, why in c.failures])


def facts(c: Comparison) -> Rows:
    """What was run, with what, on what, and when."""
    records = [r for rs in c.records.values() for r in rs]
    dates = sorted(r["date"][:10] for r in records if r.get("date"))
    versions: dict[str, list[str]] = {}
    for r in records:
        for name, version in (r.get("versions") or {}).items():
            versions.setdefault(name, []).append(str(version))
    hardware = (f"{r['device']}, {r['cores']} cores" for r in records if r.get("device"))
    body = [
        ["suite", f"{c.suite['title']} ({c.suite['name']})"],
        ["tasks", f"{len(c.tasks)}: {', '.join(t.name for t in c.tasks)}"],
        ["runs", f"{c.finished} finished, {len(c.failures)} failed"],
        ["seeds", _list(sorted({r["seed"] for r in records}))],
        ["date", " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else MISSING],
        ["versions", "; ".join(f"{name} {_list(v)}" for name, v in versions.items()) or MISSING],
        ["hardware", "; ".join(dict.fromkeys(hardware)) or MISSING],
        ["commit", _list(r["commit"] for r in records if r.get("commit")) or MISSING],
        ["time", f"{sum(r.get('seconds') or 0 for r in records):,.1f} s in all"],
    ]
    if odd := [f"{r['task']} ({r['model']}, seed {r['seed']})" for r in records if not failure(r) and r.get("test_uses") != 1]:
        body.append(["warning", f"the test part was used more than once by {_list(odd)}: its figures are too good"])
    return Rows(["", ""], body)


def _list(values: Iterable) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def _figure(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:,.{digits}f}"


def _typical(records: list[dict], key: str) -> float | None:
    values = [r[key] for r in records if r.get(key) is not None]
    return mean(values) if values else None


def _peak(records: list[dict]) -> float | None:
    """GiB."""
    return max((r["peak_memory_bytes"] / 2**30 for r in records if r.get("peak_memory_bytes") is not None), default=None)


def markdown_table(rows: Rows) -> str:
    """A table in Markdown; text that could be read as markup is escaped."""
    marks = {"best": "**{}**", "level": "≈ {}", "": "{}"}
    lines = [rows.head, ["---"] * len(rows.head)] if any(rows.head) else [["", ""], ["---", "---"]]
    for row in rows.body:
        lines.append([marks[x.mark].format(x.text) if isinstance(x, Shown) else _plain(x) for x in row])
    lines[0] = [_plain(x) for x in lines[0]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _plain(text: str) -> str:
    """Text as Markdown shows it unchanged, on one line."""
    text = escape(" ".join(str(text).split()), quote=False)
    return "".join(f"\\{x}" if x in "\\`*[]|" else x for x in text)


def html_table(rows: Rows, label: str) -> str:
    """A table in a box of its own that scrolls sideways."""
    marks = {"best": '<td class="n"><strong>{}</strong></td>', "level": '<td class="n">≈ {}</td>', "": '<td class="n">{}</td>'}
    names = "".join(f'<th scope="col">{escape(x)}</th>' for x in rows.head)
    head = f"<thead><tr>{names}</tr></thead>" if any(rows.head) else ""
    body = ""
    for first, *rest in rows.body:
        cells = (marks[x.mark].format(escape(x.text)) if isinstance(x, Shown) else f"<td>{escape(str(x))}</td>" for x in rest)
        body += f'<tr><th scope="row">{escape(str(first))}</th>{"".join(cells)}</tr>\n'
    return scroll(f"<table>{head}<tbody>{body}</tbody></table>", label)


def scroll(inner: str, label: str) -> str:
    """A box that scrolls sideways, by keyboard too."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{inner}</div>'


# --- drawings -----------------------------------------------------------------------------------------------------------


def svg(width: float, height: float, label: str, inner: str, wide: bool = False) -> str:
    """A drawing that grows with its box, up to its own size; a `wide` one keeps its size, in a box that scrolls."""
    size = f'style="max-width:{width:.0f}px' + (f";min-width:{width:.0f}px" if wide else "") + '"'
    return f'<svg viewBox="0 0 {width:.0f} {height:.0f}" {size} role="img" aria-label="{escape(label)}">{inner}</svg>'


def text(x: float, y: float, said: str, anchor: str = "start", limit: int = 44) -> str:
    """A line of text, cut at `limit` characters."""
    short = said if len(said) <= limit else said[: limit - 1] + "…"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(short)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "ink") -> str:
    return f'<path class="{kind}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def bars(task: Task, entrants: list[Entrant]) -> str:
    """A bar an entrant with the whisker of its interval, on an axis that begins at zero."""
    shown = [(e, task.cells[e]) for e in entrants if e in task.cells]
    assert task.metric is not None
    metric = METRICS[task.metric]
    ends = [v for _, c in shown for v in (c.mean, c.low, c.high) if math.isfinite(v)]
    low, high = max(min(0.0, *ends), metric.low), metric.high if math.isfinite(metric.high) else max(*ends, 1e-9)

    def at(value: float) -> float:
        return 4 + 332 * (min(max(value, low), high) - low) / (high - low)

    parts = []
    for i, (e, c) in enumerate(shown):
        y = 12 + 34 * i
        x, width = min(at(0), at(c.mean)), abs(at(c.mean) - at(0))
        parts.append(text(4, y, str(e), limit=36) + text(336, y, f"{c.mean:.3f}" + "†" * bool(c.failed), "end"))
        parts.append(f'<rect x="{x:.1f}" y="{y + 5}" width="{width:.1f}" height="10" fill="{MODE_COLOURS.get(e.mode, GREY)}"/>')
        if math.isfinite(c.low):
            a, b = at(c.low), at(c.high)
            parts.append(line(a, y + 10, b, y + 10) + line(a, y + 6, a, y + 14) + line(b, y + 6, b, y + 14))
    end = 34 * len(shown) + 2
    parts.append(line(at(0), 16, at(0), end, "axis"))
    parts += [text(at(v), end + 12, f"{v:.3g}", anchor) for v, anchor in {low: "start", high: "end"}.items()]
    return svg(340, end + 16, f"{task.name}: {task.words} of {len(shown)} entrants", "".join(parts))


class RankTest(NamedTuple):
    """Friedman's p, and the difference of mean ranks that Nemenyi's test asks for at 5%."""

    p: float
    critical_difference: float


def rank_test(c: Comparison) -> RankTest | None:
    """None with fewer than five tasks or three entrants that have them all."""
    from scipy.stats import friedmanchisquare, studentized_range

    n, k = len(c.tasks), len(c.ranks)
    if n < 5 or k < 3:
        return None
    by_entrant = list(zip(*_scores(c.tasks, list(c.ranks)), strict=True))
    p = math.nan if len(set(by_entrant)) == 1 else float(friedmanchisquare(*by_entrant).pvalue)
    return RankTest(p, float(studentized_range.ppf(0.95, k, math.inf)) * math.sqrt(k * (k + 1) / (12 * n)))


def rank_sentence(c: Comparison, test: RankTest | None) -> str:
    n, k = len(c.tasks), len(c.ranks)
    if test is None:
        return (
            f"Mean ranks of the {k} entrants with all {n} tasks, without a test: Friedman's and Nemenyi's want at least 5 tasks "
            "and 3 entrants."
        )
    differ = "the entrants are not all alike" if test.p < 0.05 else "no difference between entrants is shown"
    return (
        f"Critical-difference diagram of the {k} entrants with all {n} tasks. Friedman's test: p = {test.p:.3g}, {differ}. "
        f"Entrants joined by a bar are not told apart: their mean ranks are closer than {test.critical_difference:.2f} (Nemenyi, 5%)."
    )


def rank_plot(c: Comparison, test: RankTest | None) -> str:
    """Mean ranks, best first; with a test as a critical-difference diagram."""
    ranked = sorted(c.ranks.items(), key=lambda item: item[1])
    return _critical_difference_diagram(ranked, test.critical_difference) if test else _rank_dots(ranked)


def _rank_dots(ranked: list[tuple[Entrant, float]]) -> str:
    k = len(ranked)
    parts = [line(4, 34 * k + 4, 336, 34 * k + 4, "axis")]
    for i, (e, rank) in enumerate(ranked):
        x, y = 10 + 320 * (rank - 1) / (k - 1), 14 + 34 * i
        parts += [text(4, y, str(e), limit=40), text(336, y, f"{rank:.2f}", "end"), line(4, y + 10, 336, y + 10, "grid")]
        parts.append(f'<circle cx="{x:.1f}" cy="{y + 10}" r="5" fill="{MODE_COLOURS.get(e.mode, GREY)}"/>')
    parts += [text(10 + 320 * i / (k - 1), 34 * k + 18, str(i + 1), "middle") for i in range(k)]
    return svg(340, 34 * k + 24, "mean ranks", "".join(parts))


def _critical_difference_diagram(ranked: list[tuple[Entrant, float]], difference: float) -> str:
    """After Demšar 2006: the better half is named at the left, the other at the right; bars join those not told apart."""
    k, half = len(ranked), (len(ranked) + 1) // 2
    groups = _level_groups([rank for _, rank in ranked], difference)
    left, right, axis = 250.0, 510.0, 50.0
    top = axis + 14 + 9 * len(groups)

    def at(rank: float) -> float:
        return left + (right - left) * (rank - 1) / (k - 1)

    end = min(at(1 + difference), right)
    parts = [text(left, 13, f"critical difference {difference:.2f}"), line(left, axis, right, axis, "axis")]
    parts += [line(left, 22, end, 22), line(left, 18, left, 26), line(end, 18, end, 26)]
    parts += [line(at(i), axis - 5, at(i), axis, "axis") + text(at(i), axis - 9, str(i), "middle") for i in range(1, k + 1)]
    parts += [line(at(a) - 3, axis + 10 + 9 * i, at(b) + 3, axis + 10 + 9 * i, "thick") for i, (a, b) in enumerate(groups)]
    for i, (e, rank) in enumerate(ranked):
        row, edge, anchor, name = (i, 4, "start", f"{rank:.2f}  {e}") if i < half else (k - 1 - i, 756, "end", f"{e}  {rank:.2f}")
        y = top + 24 * row + 16
        parts += [line(at(rank), axis, at(rank), y), line(at(rank), y, edge, y), text(edge, y - 4, name, anchor, 38)]
    label = "critical-difference diagram"
    return scroll(svg(760, top + 24 * half + 8, label, "".join(parts), wide=True), label)


def _level_groups(ranks: list[float], difference: float) -> list[tuple[float, float]]:
    """Longest runs of sorted ranks within the difference, of two or more."""
    groups: list[tuple[int, int]] = []
    for i in range(len(ranks)):
        j = max(j for j in range(i, len(ranks)) if ranks[j] - ranks[i] <= difference)
        if j > i and (not groups or j > groups[-1][1]):
            groups.append((i, j))
    return [(ranks[i], ranks[j]) for i, j in groups]


def cost_plots(c: Comparison) -> list[str]:
    """Mean of each metric against seconds and memory, on logarithmic axes; numbers are those of the table."""
    plots = []
    for metric, means in c.means.items():
        for what, cost in (("seconds a run", lambda rs: _typical(rs, "seconds")), ("peak memory, GiB", _peak)):
            points = [(i, e, cost(c.records[e]), means[e]) for i, e in enumerate(c.entrants, 1) if e in means]
            drawn = [(i, e, math.log10(x), y) for i, e, x, y in points if x]
            if len(drawn) > 1:
                plots.append(_scatter(drawn, what, f"{in_words(metric)}, mean"))
    return plots


def _scatter(points: list[tuple[int, Entrant, float, float]], across: str, up: str) -> str:
    x0 = math.floor(min(p[2] for p in points))
    x1 = max(math.ceil(max(p[2] for p in points)), x0 + 1)
    ys = [p[3] for p in points]
    margin = 0.12 * (max(ys) - min(ys)) or 0.05
    y0, y1 = min(ys) - margin, max(ys) + margin
    parts = [line(46, 26, 46, 212, "axis"), line(46, 212, 330, 212, "axis"), text(4, 14, up), text(330, 246, across, "end")]
    for power in range(x0, x1 + 1):
        x = 46 + 284 * (power - x0) / (x1 - x0)
        parts += [line(x, 212, x, 26, "grid"), text(x, 228, f"{10.0**power:g}", "middle")]
    parts += [text(42, 216, f"{y0:.3f}", "end"), text(42, 34, f"{y1:.3f}", "end")]
    for number, e, cost, quality in points:
        x, y = 46 + 284 * (cost - x0) / (x1 - x0), 212 - 182 * (quality - y0) / (y1 - y0)
        dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{MODE_COLOURS.get(e.mode, GREY)}"/>'
        parts.append(f"<g><title>{escape(str(e))}</title>{dot}{text(x + 8, y - 5, str(number))}</g>")
    return svg(340, 252, f"{up} against {across}", "".join(parts))


def umap_panel(points: dict, by: str) -> str:
    """Points of an embedding, coloured by `by`: six colours, round then square; what is left is grey."""
    groups: dict[str, list[str]] = {}
    span = [(min(points[a]), (max(points[a]) - min(points[a])) or 1) for a in ("x", "y")]
    for x, y, name in zip(points["x"], points["y"], points[by], strict=True):
        place = f"M{6 + 328 * (x - span[0][0]) / span[0][1]:.1f} {294 - 288 * (y - span[1][0]) / span[1][1]:.1f}h0"
        groups.setdefault(str(name), []).append(place)
    names = sorted(groups, key=lambda n: -len(groups[n]))
    styles = {n: (COLOURS[i % 6], "round" if i < 6 else "square") for i, n in enumerate(names[:12])}
    drawn, legend = "", ""
    for name in reversed(names):
        colour, cap = styles.get(name, (GREY, "round"))
        drawn += f'<path d="{"".join(groups[name])}" stroke="{colour}" stroke-linecap="{cap}" class="points {cap}"/>'
    for name in names[:12]:
        colour, cap = styles[name]
        legend += f'<span class="key"><i class="{cap}" style="background:{colour}"></i>{escape(name)}</span>'
    if len(names) > 12:
        legend += f'<span class="key"><i class="round" style="background:{GREY}"></i>{len(names) - 12} others</span>'
    return f"{svg(340, 300, f'UMAP by {by}', drawn)}<p class=legend>{legend}</p>"


# --- pages --------------------------------------------------------------------------------------------------------------

STYLE = """
:root{color-scheme:light dark;--ground:#fff;--ink:#1c2024;--soft:#5b6470;--rule:#d5dae0;--band:#f4f6f8;--link:#0b5fa5;--note:#8a4b00}
@media(prefers-color-scheme:dark){:root{--ground:#14171a;--ink:#e6e9ec;--soft:#9aa4af;--rule:#343b43;--band:#1d2227;--link:#74b9f0;--note:#f0b060}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem 1rem 4rem;max-width:76rem;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,sans-serif;overflow-wrap:anywhere}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 .3rem}h2{font-size:1.25rem;margin:2.2rem 0 .5rem}h3{font-size:1rem;margin:1rem 0 .3rem}
p{margin:.4rem 0;max-width:62rem}a{color:var(--link)}.soft{color:var(--soft);font-size:.9rem}
.scroll{overflow-x:auto;margin:.6rem 0;border:1px solid var(--rule);border-radius:6px}
table{border-collapse:collapse;font-size:.875rem;width:100%;overflow-wrap:normal}
th,td{padding:.35rem .65rem;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule)}
tbody tr:last-child>*{border-bottom:0}tbody tr:nth-child(even)>*{background:var(--band)}
thead th{vertical-align:bottom;background:var(--band);min-width:5.5rem}
tbody th{font-weight:500;position:sticky;left:0;background:var(--ground);min-width:7rem;max-width:14rem}
td.n{white-space:nowrap;font-variant-numeric:tabular-nums}td.long{min-width:18rem}
.reported{border:2px dashed var(--note);border-radius:8px;padding:.2rem 1rem 1rem;margin-top:2rem}
.reported h2{margin-top:.8rem}.badge{display:inline-block;font-size:.75rem;font-weight:600;padding:0 .5rem;border-radius:1rem;border:1px solid;white-space:nowrap}
.badge.note{color:var(--note);border-style:dashed}.badge.good{color:var(--link)}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(18rem,100%),1fr));gap:1.2rem 2rem}
.panels>*{min-width:0}
svg{display:block;width:100%;height:auto;font:12px system-ui,sans-serif}
svg text{fill:var(--ink)}svg path{fill:none}.ink{stroke:var(--ink);stroke-width:1.3}.axis{stroke:var(--soft);stroke-width:1}
.grid{stroke:var(--rule);stroke-width:1}.thick{stroke:var(--ink);stroke-width:5;stroke-linecap:round}.points{stroke-width:3.2;opacity:.75}.points.square{stroke-width:5}
.legend{font-size:.85rem;margin:.3rem 0}.key{display:inline-block;margin-right:1rem}
.key i{display:inline-block;width:.7em;height:.7em;margin-right:.4em}.key i.round{border-radius:50%}
details{margin:1rem 0}summary{cursor:pointer;font-weight:600;padding:.3rem 0}
ol{padding-left:1.4rem;font-size:.9rem}
"""


def page(title: str, body: str, style: str = "", script: str = "") -> str:
    """A page of HTML that needs no other file and is allowed to fetch none."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:" + ("; script-src 'unsafe-inline'" if script else "")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="referrer" content="no-referrer">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<link rel="icon" href="data:,">\n<style>{STYLE}{style}</style>\n'
        f"</head>\n<body>\n{body}\n{f'<script>{script}</script>' if script else ''}\n</body>\n</html>\n"
    )


def _html(c: Comparison) -> str:
    out = [f"<h1>{escape(c.suite['title'])}</h1>", html_table(facts(c), "what was run")]
    if c.failures:
        out.append(
            f'<p><span class="badge note">failed</span> <a href="#failures">{len(c.failures)} of {len(c.failures) + c.finished} runs</a>: see below.</p>'
        )
    out += ["<h2>Results</h2>", html_table(main_table(c), "results"), f'<p class="soft">{escape(LEGEND)}</p>']
    if found := published_table(c):
        rows, works = found
        out.append('<section class="reported"><h2>Published figures <span class="badge note">reported, not run here</span></h2>')
        out.append('<p class="soft">Copied from the works below; other code, hardware and choices than the table above.</p>')
        out += [html_table(rows, "published figures"), f"<ol>{''.join(f'<li>{escape(w)}</li>' for w in works)}</ol></section>"]
    used = dict.fromkeys(e.mode for e in c.entrants)
    keys = (f'<span class="key"><i style="background:{MODE_COLOURS.get(m, GREY)}"></i>{escape(MODES.get(m, m))}</span>' for m in used)
    legend = f'<p class="legend">{"".join(keys)}</p>'
    panels = (f"<div><h3>{escape(t.name)}: {escape(t.words)}</h3>{bars(t, c.entrants)}</div>" for t in c.tasks if t.cells)
    out += ["<h2>Each task</h2>", legend, f'<div class="panels">{"".join(panels)}</div>']
    if len(c.ranks) > 1:
        test = rank_test(c)
        out += ["<h2>Ranks</h2>", f"<p>{escape(rank_sentence(c, test))}</p>", rank_plot(c, test)]
    out += ["<h2>Cost beside quality</h2>", html_table(cost_table(c), "cost")]
    out.append(
        '<p class="soft">Seconds are means over runs, memory is the highest of all. Numbers in the drawings are those of the table.</p>'
    )
    out.append(legend + f'<div class="panels">{"".join(f"<div>{p}</div>" for p in cost_plots(c))}</div>')
    if seen := _umaps(c):
        out.append("<h2>Embeddings</h2>" + "".join(seen))
    if c.failures:
        out += ['<h2 id="failures">Failures</h2>', html_table(failure_table(c), "failures")]
    every = "".join(f"<h3>{escape(t.name)}</h3>{html_table(rows, f'metrics of {t.name}')}" for t, rows in metric_tables(c))
    out.append(f"<details><summary>Every metric of every task</summary>{every}</details>")
    out.append(f"<details><summary>Data of the tasks</summary>{html_table(data_table(c), 'data')}</details>")
    return page(c.suite["title"], "\n".join(out))


def _umaps(c: Comparison) -> Iterable[str]:
    for task in c.tasks:
        for e in c.entrants:
            if points := next((r["umap"] for r in c.records[e] if r["task"] == task.name and r.get("umap")), None):
                panels = "".join(f"<div><h3>by {by}</h3>{umap_panel(points, by)}</div>" for by in ("label", "batch") if points.get(by))
                yield f"<h3>{escape(task.name)}: {escape(str(e))}</h3><div class=panels>{panels}</div>"


def _markdown(c: Comparison) -> str:
    out = [f"# {_plain(c.suite['title'])}", markdown_table(facts(c)), "## Results", markdown_table(main_table(c)), LEGEND]
    if found := published_table(c):
        rows, works = found
        out += ["## Published figures: reported, not run here", markdown_table(rows)]
        out.append("\n".join(f"{i}. {_plain(w)}" for i, w in enumerate(works, 1)))
    if len(c.ranks) > 1:
        out += ["## Ranks", rank_sentence(c, rank_test(c)).replace("diagram", "comparison")]
    out += ["## Cost beside quality", markdown_table(cost_table(c))]
    if c.failures:
        out += ["## Failures", markdown_table(failure_table(c))]
    out += ["## Every metric of every task", *(f"{_plain(t.name)}\n\n{markdown_table(rows)}" for t, rows in metric_tables(c))]
    out += ["## Data of the tasks", markdown_table(data_table(c))]
    return "\n\n".join(part.strip() for part in out) + "\n"


def write_report(results: dict, folder: Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.md``.

    Parameters
    ----------
    results
        The content of ``results.json``: ``suite`` with its name, title and tasks; ``records``, one for each task, model, mode and seed.
    folder
        Where to write; made if it is not there.

    Returns
    -------
    tuple of Path
        The page and the text. The page holds its drawings and fetches nothing.

    Raises
    ------
    ValueError
        Where there is no record to report.
    """
    if not results["records"]:
        raise ValueError(f"results of suite {results['suite']['name']} hold no record: run it before you report it")
    comparison = Comparison(results)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "report.html", folder / "report.md"
    for file, content in zip(files, (_html(comparison), _markdown(comparison)), strict=True):
        file.write_text(content, encoding="utf-8", errors="replace")
    return files
