"""The leaderboard: ``python -m bmfm.leaderboard submit RESULTS.json ...``, ``check FILE...``, ``sign FILE...``, ``build FOLDER``."""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from bmfm.evaluation.metrics import METRICS
from bmfm.evaluation.report.comparison import MISSING, MODES, in_words
from bmfm.evaluation.report.pages import page
from bmfm.evaluation.report.tables import scroll
from bmfm.evaluation.submission import check, digest, make_submission, read


class Board(NamedTuple):
    """A suite, as the leaderboard sees it: metric, omics and SHA-256 of the data (where known) by task."""

    name: str
    title: str
    metrics: dict[str, str]
    omics: dict[str, str]
    hashes: dict[str, str]


@cache
def read_board(suite: str) -> Board:
    """The board of a suite; ValueError where there is no such suite."""
    from bmfm.evaluation.cards import known_hash, read_card, read_suite

    found = read_suite(suite)
    cards = [read_card(task) for task in found.tasks]
    hashes = {c.name: h for c in cards if (h := known_hash(c))}
    return Board(suite, found.title, {c.name: c.metric for c in cards}, {c.name: c.omics for c in cards}, hashes)


def inspect(file: Path) -> tuple[dict, list[str]]:
    """The submission in a file, and every reason why it is invalid."""
    try:
        submission = read(file)
    except OSError as error:
        return {}, [f"{file}: cannot be read: {error.strerror}"]
    except ValueError as error:
        return {}, [str(error)]
    suite = submission.get("suite") if isinstance(submission, dict) else None
    try:
        board = read_board(suite) if isinstance(suite, str) else None
    except ValueError as error:
        return submission, [f"suite: {error}"]
    return submission, check(submission, board.metrics if board else {}, board.hashes if board else {})


def build(folder: Path, target: Path) -> tuple[Path, dict[Path, list[str]]]:
    """Write ``index.html`` from every valid submission below a folder.

    Parameters
    ----------
    folder
        Searched for ``*.json``, however deep.
    target
        Folder of the site; made if it is not there.

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
    refused: dict[Path, list[str]] = {}
    boards: dict[str, list[dict]] = {}
    seen: dict[str, Path] = {}
    for file in sorted(folder.rglob("*.json")):
        submission, reasons = inspect(file)
        if not reasons and submission["digest"] in seen:
            reasons = [f"the same submission as {seen[submission['digest']]}; keep one"]
        if reasons:
            refused[file] = reasons
            continue
        seen[submission["digest"]] = file
        boards.setdefault(submission["suite"], []).append(submission)
    sections = "".join(_section(read_board(name), boards[name]) for name in sorted(boards))
    target.mkdir(parents=True, exist_ok=True)
    index = target / "index.html"
    index.write_text(page("bmfm leaderboard", INTRODUCTION + (sections or "<p>No submissions yet.</p>"), STYLE, SCRIPT), encoding="utf-8")
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
<p><span class="badge good">measured</span> was run by this package: three seeds or more (one where it has no say), the test part used once, data compared by
checksum; ± is half the 95% interval over seeds by Student's t, and in bold stands the best of a task.
<span class="badge note">reported</span> is copied from the work named beside it, where other code and choices were used: it is shown
for orientation and competes with nothing. A mean is given to those with every task.</p>
<p id="filters" hidden><label>Find <input type="search" id="find"></label>
<label>Omics <select id="omics"><option value="">all</option><option value="dna">DNA</option><option value="rna">RNA</option></select></label></p>
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


def _section(board: Board, submissions: list[dict]) -> str:
    """A suite: its table, and what works report for groups of tasks."""
    with_tasks = [s for s in submissions if s["tasks"]]
    with_groups = [s for s in submissions if s["groups"]]
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
    return {m: mean(scores[t] for t, own in board.metrics.items() if own == m) for m in dict.fromkeys(board.metrics.values())}


def _table(board: Board, submissions: list[dict]) -> str:
    metrics = list(dict.fromkeys(board.metrics.values()))
    columns = [Column("model", number=False), Column("mode", number=False), Column("tasks", "descending")]
    columns += [Column(f"{in_words(m)}, mean", _order(m)) for m in metrics if len(board.metrics) > 1]
    columns += [
        Column(f"{task} {in_words(m) if len(metrics) > 1 else ''}", _order(m), True, board.omics[task]) for task, m in board.metrics.items()
    ]
    columns += [Column(name) for name in ("parameters", "s a run", "peak GiB")]
    columns += [Column("hardware", number=False), Column("date", "descending", False), Column("source", number=False)]
    best = {task: _best(submissions, task, m) for task, m in board.metrics.items()}
    rows = "".join(_row(board, s, best) for s in sorted(submissions, key=lambda s: _place(board, s)))
    head = "".join(c.html() for c in columns)
    table = f'<table class="board"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return scroll(table, f"leaderboard of {board.title}")


def _order(metric: str) -> str:
    return "descending" if METRICS[metric].more_is_better else "ascending"


def _place(board: Board, submission: dict) -> tuple[bool, float, int, str]:
    """Best mean of the first metric first, those without one last."""
    metric = next(iter(board.metrics.values()))
    value = _means(board, submission).get(metric, math.inf)
    return value == math.inf, -value if METRICS[metric].more_is_better else value, -len(submission["tasks"]), submission["model"]["name"]


def _best(submissions: list[dict], task: str, metric: str) -> float | None:
    values = [t["mean"] for s in submissions if s["status"] == "measured" for t in s["tasks"] if t["task"] == task]
    return (max if METRICS[metric].more_is_better else min)(values, default=None)


def _row(board: Board, s: dict, best: dict[str, float | None]) -> str:
    measured, tasks, means = s["status"] == "measured", {t["task"]: t for t in s["tasks"]}, _means(board, s)
    cells = [_model(s), _td(MODES[s["mode"]], MODES[s["mode"]]), _td(len(tasks), f"{len(tasks)} of {len(board.metrics)}")]
    cells += [
        _td(v := means.get(m), f"{v:.3f}" if v is not None else "") for m in dict.fromkeys(board.metrics.values()) if len(board.metrics) > 1
    ]
    for task in board.metrics:
        t = tasks.get(task)
        cells.append(
            _td(t and t["mean"], _score(t) if t else "", board.omics[task], measured and t is not None and t["mean"] == best[task])
        )
    size, cost, hardware = s["model"]["parameters"], s["cost"] or {}, s["hardware"] or {}
    seconds, memory = cost.get("seconds"), cost.get("peak_memory_bytes")
    cells += [_td(size, f"{size:,}" if size is not None else ""), _td(seconds, f"{seconds:,.1f}" if seconds is not None else "")]
    cells += [_td(memory, f"{memory / 2**30:.2f}" if memory is not None else ""), _td(hardware.get("device"), hardware.get("device") or "")]
    cells += [_td(s["date"], s["date"][:10]), _td(s["model"]["citation"], s["model"]["citation"] or "", kind="long")]
    return f'<tr class="{"own" if measured else "taken"}">{"".join(cells)}</tr>\n'


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


def _model(s: dict) -> str:
    name, url = escape(s["model"]["name"]), s["model"]["url"]
    if url and url.startswith(("http://", "https://")):
        name = f'<a href="{escape(url)}" rel="nofollow noopener noreferrer">{name}</a>'
    kind = "good" if s["status"] == "measured" else "note"
    return f'<th scope="row" data-v="{escape(s["model"]["name"])}">{name} <span class="badge {kind}">{escape(s["status"])}</span></th>'


def _group_table(board: Board, submissions: list[dict]) -> str:
    groups = list(dict.fromkeys((g["group"], g["metric"]) for s in submissions for g in s["groups"]))
    columns = [Column("model", number=False), *(Column(f"{g}, {m}", "descending") for g, m in groups), Column("source", number=False)]
    rows = ""
    for s in submissions:
        values = {(g["group"], g["metric"]): g["value"] for g in s["groups"]}
        cells = (_td(values.get(g), f"{values[g]:.3f}" if g in values else "") for g in groups)
        source = _td(s["model"]["citation"], s["model"]["citation"] or "", kind="long")
        rows += f'<tr class="taken">{_model(s)}{"".join(cells)}{source}</tr>\n'
    head = "".join(c.html() for c in columns)
    table = f'<table class="board"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return scroll(table, f"groups of tasks of {board.title}")


# --- command line -------------------------------------------------------------------------------------------------------


def _complaints(refused: Mapping[Path, Sequence[str]]) -> Iterator[str]:
    for file, reasons in refused.items():
        yield from (f"{file}: {why.removeprefix(f'{file}: ')}" for why in reasons)


def _submit(given: argparse.Namespace) -> int:
    results = json.loads(given.results.read_text(encoding="utf-8"))
    if not isinstance(results, dict) or not {"suite", "records"} <= set(results):
        raise ValueError(f"{given.results} has no suite and records; give the results.json that a benchmark run left")
    submission = make_submission(results, given.model, given.mode, url=given.url, citation=given.citation, contact=given.contact)
    if reasons := check(submission, read_board(submission["suite"]).metrics):
        print(*_complaints({given.results: reasons}), sep="\n", file=sys.stderr)
        return 1
    given.output.write_text(json.dumps(submission, indent=1) + "\n")
    print(f"{given.output}: {given.model} ({given.mode}) on {len(submission['tasks'])} tasks of {submission['suite']}")
    return 0


def _sign(given: argparse.Namespace) -> int:
    for file in given.files:
        content = read(file)
        if not isinstance(content, dict) or content.get("status") != "reported":
            raise ValueError(f"{file}: status is not reported; measured submissions are made by submit, from a run's results")
        file.write_text(json.dumps(content | {"digest": digest(content)}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return _check(given)


def _check(given: argparse.Namespace) -> int:
    found = {file: inspect(file)[1] for file in given.files}
    print(*_complaints(found), *(f"{file}: valid" for file, reasons in found.items() if not reasons), sep="\n")
    return int(any(found.values()))


def _build(given: argparse.Namespace) -> int:
    index, refused = build(given.folder, given.output)
    print(*_complaints(refused), f"{index}: written" + (f", without {len(refused)} invalid" if refused else ""), sep="\n")
    return int(bool(refused))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; status 1 where a submission is invalid, 2 where the command cannot be run."""
    parser = argparse.ArgumentParser(prog="python -m bmfm.leaderboard", description="Make, check and show submissions.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    submit = commands.add_parser("submit", help="make a submission from a run's results")
    submit.add_argument("results", type=Path, metavar="RESULTS.json")
    submit.add_argument("--model", required=True, help="as in the report")
    submit.add_argument("--mode", required=True, choices=MODES)
    for name, what in (("url", "where the model is"), ("citation", "work to cite"), ("contact", "whom to ask")):
        submit.add_argument(f"--{name}", help=what)
    submit.add_argument("--output", type=Path, default=Path("submission.json"))
    submit.set_defaults(run=_submit)
    checked = commands.add_parser("check", help="say why submissions are invalid")
    checked.add_argument("files", type=Path, nargs="+", metavar="FILE")
    checked.set_defaults(run=_check)
    signed = commands.add_parser("sign", help="write the digest of reported submissions, which are written by hand, and check them")
    signed.add_argument("files", type=Path, nargs="+", metavar="FILE")
    signed.set_defaults(run=_sign)
    built = commands.add_parser("build", help="write the site from the submissions below a folder")
    built.add_argument("folder", type=Path)
    built.add_argument("--output", type=Path, default=Path("site"))
    built.set_defaults(run=_build)
    given = parser.parse_args(arguments)
    try:
        return given.run(given)
    except (ValueError, OSError) as error:
        print(f"bmfm: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
