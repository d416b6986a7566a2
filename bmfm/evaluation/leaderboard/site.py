"""The leaderboard's page, of every valid submission."""

import math
from html import escape
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from bmfm.evaluation.leaderboard.board import Board, read_board
from bmfm.evaluation.leaderboard.entries import Entry, gather
from bmfm.evaluation.report.comparison import MISSING, MODES
from bmfm.evaluation.report.pages import page
from bmfm.evaluation.report.tables import scroll


def build(folder: Path, target: Path, data_root: str | Path = "data") -> tuple[Path, dict[Path, list[str]]]:
    """Write ``index.html`` from every valid submission below a folder.

    Parameters
    ----------
    folder
        Searched for ``*.json``, however deep.
    target
        Folder of the site; made if it is not there.
    data_root
        Where the data of tasks are; scores are computed again of tasks whose data are there.

    Returns
    -------
    Path, dict
        The page; reasons of the submissions that were refused, by file.

    Raises
    ------
    FileNotFoundError
        Where the folder does not exist.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist; give the folder of the submissions")
    entries, refused = gather(list(folder.rglob("*.json")), data_root)
    by_suite: dict[str, list[Entry]] = {}
    for file in sorted(entries):
        by_suite.setdefault(entries[file].submission["suite"], []).append(entries[file])
    shown = {name: read_board(name) for name in sorted(by_suite)}
    sections = "".join(_section(board, by_suite[name]) for name, board in shown.items())
    omics = sorted({kind for board in shown.values() for kind in board.omics.values()})
    options = "".join(f'<option value="{escape(kind)}">{escape(kind.upper())}</option>' for kind in omics)
    target.mkdir(parents=True, exist_ok=True)
    index = target / "index.html"
    index.write_text(
        page("bmfm leaderboard", INTRODUCTION.replace("{omics}", options) + (sections or "<p>No submissions yet.</p>"), STYLE, SCRIPT),
        encoding="utf-8",
    )
    return index, refused


# --- the page -----------------------------------------------------------------------------------------------------------

STYLE = """
.board td,.board th{vertical-align:middle}.board thead th{min-width:6.5rem;padding:0}
.board button{all:unset;box-sizing:border-box;display:block;width:100%;padding:.4rem .65rem;cursor:pointer;font-weight:600}
.board button:focus-visible{outline:2px solid var(--link);outline-offset:-2px}
.board button::after{content:" ↕";color:var(--soft);font-weight:400}
.board [aria-sort=ascending] button::after{content:" ↑";color:var(--link)}
.board [aria-sort=descending] button::after{content:" ↓";color:var(--link)}
.board tr.taken>*{color:var(--soft);font-style:italic}.board tr.taken .badge{font-style:normal}.board tbody th{min-width:11rem}
#filters{display:flex;flex-wrap:wrap;gap:.6rem 1rem;margin:1rem 0}#filters label{display:flex;gap:.5rem;align-items:center}
#filters input,#filters select{font:inherit;padding:.25rem .5rem;max-width:14rem;color:inherit;background:var(--ground);border:1px solid var(--rule);border-radius:4px}
[hidden]{display:none!important}
"""

INTRODUCTION = """<h1>bmfm leaderboard</h1>
<p>Whoever submits says that this package's runner left the figures: three seeds or more (one where it has no say), the test part
used once, data compared by checksum; ± is half the 95% interval over seeds by Student's t. What is known of that is written
beside the name. <span class="badge note">submitted, not repeated</span>: nobody else has run it.
<span class="badge good">scores recomputed from its predictions</span>: its predictions came along, and the task's labels give
these scores; where the predictions come from is not known by that. <span class="badge good">repeated by</span>: another submitter ran
the same weights in the same way, and each mean lies within the other's interval. Of these two kinds the best of a task
stands in bold, and they come first.
<span class="badge note">reported</span> is copied from the work named beside it, where other code and choices were used: it is shown
for orientation and competes with nothing. A mean is given to those with every task.</p>
<p id="filters" hidden><label>Find <input type="search" id="find"></label>
<label>Omics <select id="omics"><option value="">all</option>{omics}</select></label></p>
"""

SCRIPT = """
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
for (const table of all("table.board")) {
  const heads = all("thead th", table), body = table.tBodies[0];
  heads.forEach((head, column) => head.firstChild.addEventListener("click", () => {
    const first = head.dataset.first, last = head.getAttribute("aria-sort");
    const order = last === null ? first : last === "ascending" ? "descending" : "ascending";
    heads.forEach(h => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", order);
    const value = row => row.cells[column].dataset.v ?? "", sign = order === "ascending" ? 1 : -1;
    const compare = (a, b) => head.dataset.kind === "number" ? a - b : a.localeCompare(b);
    body.append(...[...body.rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)];
      return x === "" || y === "" ? (x === "") - (y === "") : sign * compare(x, y);
    }));
  }));
}
const find = document.getElementById("find"), omics = document.getElementById("omics");
function filter() {
  const words = find.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const row of all("tbody tr")) row.hidden = !words.every(w => row.textContent.toLowerCase().includes(w));
  for (const part of all("[data-o]")) part.hidden = omics.value !== "" && !part.dataset.o.split(" ").includes(omics.value);
}
find.addEventListener("input", filter);
omics.addEventListener("change", filter);
document.getElementById("filters").hidden = false;
"""


class Column(NamedTuple):
    """A column: its name, the order of a first click, and for a task its omics."""

    name: str
    first: str = "ascending"
    number: bool = True
    omics: str = ""

    def html(self) -> str:
        omics = f' data-o="{escape(self.omics)}"' if self.omics else ""
        kind = "number" if self.number else "text"
        return (
            f'<th scope="col" data-first="{self.first}" data-kind="{kind}"{omics}><button type="button">{escape(self.name)}</button></th>'
        )


def _section(board: Board, entries: list[Entry]) -> str:
    """A suite: its table, and what works report for groups of tasks."""
    with_tasks = [e for e in entries if e.submission["tasks"]]
    with_groups = [e for e in entries if e.submission["groups"]]
    inner = _table(board, with_tasks) if with_tasks else ""
    if with_groups:
        inner += '<h3>By group of tasks <span class="badge note">reported</span></h3>' + _group_table(board, with_groups)
    omics = " ".join(dict.fromkeys(board.omics.values()))
    heading = f"<h2>{escape(board.title)}</h2>"
    return f'<section id="{escape(board.name)}" data-o="{escape(omics)}">{heading}{inner}</section>\n'


def _means(board: Board, submission: dict) -> dict[str, float]:
    """Mean of each metric; nothing where a task is missing."""
    scores = {t["task"]: t["mean"] for t in submission["tasks"]}
    if any(task not in scores for task in board.metrics):
        return {}
    return {m: mean(scores[t] for t, metric in board.metrics.items() if metric == m) for m in dict.fromkeys(board.metrics.values())}


def _table(board: Board, entries: list[Entry]) -> str:
    metrics = list(dict.fromkeys(board.metrics.values()))
    columns = [Column("model", number=False), Column("mode", number=False), Column("tasks", "descending")]
    columns += [Column(f"{board.in_words(m)}, mean", _order(board, m)) for m in metrics if len(board.metrics) > 1]
    columns += [
        Column(f"{task} {board.in_words(m) if len(metrics) > 1 else ''}", _order(board, m), True, board.omics[task])
        for task, m in board.metrics.items()
    ]
    columns += [Column(name) for name in ("parameters", "s a run", "peak GiB")]
    columns += [Column("hardware", number=False), Column("date", "descending", False), Column("source", number=False)]
    best = {task: _best(board, entries, task, m) for task, m in board.metrics.items()}
    rows = "".join(_row(board, e, best) for e in sorted(entries, key=lambda e: (not e.verified, _place(board, e.submission))))
    head = "".join(c.html() for c in columns)
    table = f'<table class="board"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return scroll(table, f"leaderboard of {board.title}")


def _order(board: Board, metric: str) -> str:
    return "descending" if board.described[metric].more_is_better else "ascending"


def _place(board: Board, submission: dict) -> tuple[bool, float, int, str]:
    """Best mean of the first metric first, those without one last."""
    metric = next(iter(board.metrics.values()))
    value = _means(board, submission).get(metric, math.inf)
    return (
        value == math.inf,
        -value if board.described[metric].more_is_better else value,
        -len(submission["tasks"]),
        submission["model"]["name"],
    )


def _best(board: Board, entries: list[Entry], task: str, metric: str) -> float | None:
    values = [t["mean"] for e in entries if e.verified for t in e.submission["tasks"] if t["task"] == task]
    return (max if board.described[metric].more_is_better else min)(values, default=None)


def _row(board: Board, entry: Entry, best: dict[str, float | None]) -> str:
    s = entry.submission
    tasks, means = {t["task"]: t for t in s["tasks"]}, _means(board, s)
    cells = [_model(entry), _td(MODES[s["mode"]], MODES[s["mode"]]), _td(len(tasks), f"{len(tasks)} of {len(board.metrics)}")]
    cells += [
        _td(v := means.get(m), f"{v:.3f}" if v is not None else "") for m in dict.fromkeys(board.metrics.values()) if len(board.metrics) > 1
    ]
    for task in board.metrics:
        t = tasks.get(task)
        cells.append(
            _td(t and t["mean"], _score(t) if t else "", board.omics[task], entry.verified and t is not None and t["mean"] == best[task])
        )
    size, cost, hardware = s["model"]["parameters"], s["cost"] or {}, s["hardware"] or {}
    seconds, memory = cost.get("seconds"), cost.get("peak_memory_bytes")
    cells += [_td(size, f"{size:,}" if size is not None else ""), _td(seconds, f"{seconds:,.1f}" if seconds is not None else "")]
    cells += [_td(memory, f"{memory / 2**30:.2f}" if memory is not None else ""), _td(hardware.get("device"), hardware.get("device") or "")]
    cells += [_td(s["date"], s["date"][:10]), _td(s["model"]["citation"], s["model"]["citation"] or "", kind="long")]
    return f'<tr class="{"own" if s["status"] == "submitted" else "taken"}">{"".join(cells)}</tr>\n'


def _score(t: dict) -> str:
    if t["low"] is None:
        return f"{t['mean']:.3f}"
    below, above = t["mean"] - t["low"], t["high"] - t["mean"]
    alike = abs(below - above) < 5e-4
    return f"{t['mean']:.3f} ± {above:.3f}" if alike else f"{t['mean']:.3f} [{t['low']:.3f}, {t['high']:.3f}]"


def _td(value, shown: str, omics: str = "", best: bool = False, kind: str = "n") -> str:
    data = "" if value is None else f' data-v="{escape(str(value))}"'
    inner = escape(shown) or MISSING
    where = f' data-o="{escape(omics)}"' if omics else ""
    return f'<td class="{kind}"{data}{where}>{f"<strong>{inner}</strong>" if best else inner}</td>'


def _model(entry: Entry) -> str:
    s = entry.submission
    name, url = escape(s["model"]["name"]), s["model"]["url"]
    if url and url.startswith(("http://", "https://")):
        name = f'<a href="{escape(url)}" rel="nofollow noopener noreferrer">{name}</a>'
    badges = (f'<span class="badge {"good" if good else "note"}">{escape(words)}</span>' for words, good in entry.words)
    return f'<th scope="row" data-v="{escape(s["model"]["name"])}">{name} {" ".join(badges)}</th>'


def _group_table(board: Board, entries: list[Entry]) -> str:
    groups = list(dict.fromkeys((g["group"], g["metric"]) for e in entries for g in e.submission["groups"]))
    columns = [Column("model", number=False), *(Column(f"{g}, {m}", "descending") for g, m in groups), Column("source", number=False)]
    rows = ""
    for entry in entries:
        s = entry.submission
        values = {(g["group"], g["metric"]): g["value"] for g in s["groups"]}
        cells = (_td(values.get(g), f"{values[g]:.3f}" if g in values else "") for g in groups)
        source = _td(s["model"]["citation"], s["model"]["citation"] or "", kind="long")
        rows += f'<tr class="taken">{_model(entry)}{"".join(cells)}{source}</tr>\n'
    head = "".join(c.html() for c in columns)
    table = f'<table class="board"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return scroll(table, f"groups of tasks of {board.title}")
