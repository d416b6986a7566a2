"""Tables of a report, each written as HTML and as Markdown."""

from collections.abc import Iterable, Sequence
from html import escape
from statistics import mean
from typing import NamedTuple

from bmfm.evaluation.overlap import IDENTITY, sentences
from bmfm.evaluation.report.comparison import (
    MISSING,
    Comparison,
    Score,
    TaskScores,
    failure,
    is_finite,
    score_over_seeds,
    which_run,
)


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
        for method in c.methods:
            score = task.scores.get(method)
            row.append(Shown(str(score), _mark(score, best)) if score else Shown(MISSING))
        body.append(row)
    for metric, tasks in c.groups.items():
        if len(tasks) > 1:
            means = c.means[metric]
            body.append([f"mean of {len(tasks)} tasks", c.in_words(metric), *(str(means.get(m, MISSING)) for m in c.methods)])
            if beside := c.leads[metric]:
                baseline, leads = beside
                body.append([f"less that of {baseline.model}", c.in_words(metric), *(_signed(leads.get(m)) for m in c.methods)])
            if added := c.added[metric]:
                body.append(["less that of new weights", c.in_words(metric), *(_signed(added.get(m)) for m in c.methods)])
    body.append(["mean rank", "1 is best", *(_figure(c.ranks.get(e), 2) for e in c.methods)])
    return Rows(["task", "metric", *map(str, c.methods)], body)


def _signed(difference: Score | None) -> str:
    """A difference with its sign."""
    return MISSING if difference is None else f"{'+' if difference.mean > 0 else ''}{difference}"


def _mark(score: Score, best: Score | None) -> str:
    if best is None or score.n_failed:
        return ""
    return "best" if score.mean == best.mean else "level" if score.overlaps(best) else ""


LEGEND = (
    "In bold the best of a task; ≈ where the interval overlaps that of the best. ± is half the 95% interval by Student's t over "
    "seeds and splits; [low, high] is the 95% bootstrap interval over test examples, where there was one seed or all seeds agreed. "
    "Where nothing is trained (zero-shot), a seed is a draw of 90% of the cells. † some seeds failed: not compared. - not run or failed. Means and ranks are of methods with every task; differences to the best baseline, and to the same network from new weights, are taken run by run, of means over tasks."
)


def published_table(c: Comparison) -> tuple[Rows, list[str]] | None:
    """Scores that the tasks state, and the works they come from."""
    published = {t.name: (t.records[0].get("published") or []) if t.records else [] for t in c.tasks}
    works = list(dict.fromkeys(p["citation"] for ps in published.values() for p in ps))
    models = list(dict.fromkeys(p["model"] for ps in published.values() for p in ps))
    if not models:
        return None
    body = []
    for task in c.tasks:
        if scores := published[task.name]:
            by_model = {m: [p for p in scores if p["model"] == m] for m in models}
            cells = ("; ".join(_reported(p, task, works, c) for p in by_model[m]) or MISSING for m in models)
            body.append([task.name, task.words, *cells])
    return Rows(["task", "metric", *models], body), works


def _reported(p: dict, task: TaskScores, works: list[str], c: Comparison) -> str:
    other = "" if p["metric"] == task.metric else f" {c.in_words(p['metric'])}"
    return f"{p['score']:.3f}{other} ({works.index(p['citation']) + 1})"


def cost_table(c: Comparison) -> Rows:
    body = []
    for number, e in enumerate(c.methods, 1):
        done = [r for r in c.records[e] if not failure(r)]
        size = next((r["parameters"] for r in done if r.get("parameters")), None)
        quality = (_figure(c.means[m][e].mean if e in c.means[m] else None, 3) for m in c.groups)
        cost = _figure(mean_of(done, "seconds"), 1), _figure(mean_of(done, "train_seconds"), 1), _figure(peak_memory(done), 2)
        tasks = f"{sum(e in t.scores and not t.scores[e].n_failed for t in c.tasks)} of {len(c.tasks)}"
        body.append([str(number), str(e), tasks, *quality, *cost, f"{size:,}" if size else MISSING])
    means = [f"{c.in_words(m)}, mean" for m in c.groups]
    return Rows(["no.", "method", "tasks", *means, "s a run", "s of training", "peak GiB", "parameters"], body)


def metric_tables(c: Comparison) -> list[tuple[TaskScores, Rows]]:
    """Every metric of every task."""
    tables = []
    for task in c.tasks:
        names = list(dict.fromkeys(m for r in task.records if not failure(r) for m in r["metrics"]))
        body: list[list[str | Shown]] = []
        for e in task.scores:
            done = [r for r in c.records[e] if r["task"] == task.name and not failure(r)]
            whole = (all(is_finite(r["metrics"].get(m)) for r in done) for m in names)
            body.append([str(e), *(Shown(str(score_over_seeds(done, m)) if w else MISSING) for m, w in zip(names, whole, strict=True))])
        if body:
            tables.append((task, Rows(["method", *map(c.in_words, names)], body)))
    return tables


def data_table(c: Comparison) -> Rows:
    body = []
    for task in c.tasks:
        r = next((r for r in task.records if not failure(r)), None)
        counts = [f"{r[k]:,}" if r and r.get(k) is not None else MISSING for k in ("n_train", "n_validation", "n_test")]
        shared = (r or {}).get("overlap") or {}
        again = [f"{shared[k]:,}" if k in shared else MISSING for k in ("exact", "near", "contradicting")]
        body.append([task.name, task.title, *counts, *again, ((r or {}).get("data_hash") or MISSING)[:12]])
    seen = ["of test in train", f"nearly ({IDENTITY:.0%} identity)", "with two labels"]
    return Rows(["task", "title", "train", "validation", "test", *seen, "SHA-256 of data"], body)


def loss_table(c: Comparison) -> Rows:
    """What methods did not see or could not read, and what was not scored: of each task, counts that are not 0."""
    losses = ("truncated", "unknown", "read_as_N", "not scored", "empty")
    body: dict[tuple, None] = {}
    for task in c.tasks:
        for method, records in c.records.items():
            for r in (r for r in records if r["task"] == task.name):
                for what, n in (r.get("counts") or {}).items():
                    if n and any(word in what for word in losses):
                        body[(task.name, str(method), what.replace("_", " "), f"{n:,}")] = None
    return Rows(["task", "method", "what", "how many"], [list(row) for row in body])


def failure_table(c: Comparison) -> Rows:
    return Rows(
        ["task", "method", "seed", "error"], [[r["task"], str(e), which_run(r).removeprefix("seed "), why] for e, r, why in c.failures]
    )


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
        ["runs", f"{c.n_finished} finished, {len(c.failures)} failed"],
        ["seeds", _list(sorted({r["seed"] for r in records}))],
        *([["other splits", _list(splits)]] if (splits := sorted({s for r in records if (s := r.get("split_seed")) is not None})) else []),
        ["date", " to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else MISSING],
        ["versions", "; ".join(f"{name} {_list(v)}" for name, v in versions.items()) or MISSING],
        ["hardware", "; ".join(dict.fromkeys(hardware)) or MISSING],
        ["commit", _list(r["commit"][:12] for r in records if r.get("commit")) or MISSING],
        ["time", f"{sum(r.get('seconds') or 0 for r in records):,.1f} s in all"],
    ]
    if odd := [f"{r['task']} ({r['model']}, {which_run(r)})" for r in records if not failure(r) and r.get("test_uses") != 1]:
        body.append(["warning", f"the test part was used more than once by {_list(odd)}: its figures are too good"])
    body += [["warning", sentence] for sentence in dict.fromkeys(x for r in records for x in sentences(r["task"], r.get("overlap") or {}))]
    return Rows(["", ""], body)


def _list(values: Iterable) -> str:
    return ", ".join(dict.fromkeys(map(str, values)))


def _figure(value: float | None, digits: int) -> str:
    return MISSING if value is None else f"{value:,.{digits}f}"


def mean_of(records: list[dict], key: str) -> float | None:
    values = [r[key] for r in records if r.get(key) is not None]
    return mean(values) if values else None


def peak_memory(records: list[dict]) -> float | None:
    """GiB."""
    return max((r["peak_memory_bytes"] / 2**30 for r in records if r.get("peak_memory_bytes") is not None), default=None)


def markdown_table(rows: Rows) -> str:
    """A table in Markdown; text that could be read as markup is escaped."""
    marks = {"best": "**{}**", "level": "≈ {}", "": "{}"}
    lines = [rows.head, ["---"] * len(rows.head)] if any(rows.head) else [["", ""], ["---", "---"]]
    for row in rows.body:
        lines.append([marks[x.mark].format(x.text) if isinstance(x, Shown) else plain(x) for x in row])
    lines[0] = [plain(x) for x in lines[0]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def plain(text: str) -> str:
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
