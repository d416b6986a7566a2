"""Make, check and show submissions to the leaderboard: ``python -m bmfm.leaderboard submit RESULTS.json ...``, ``check FILE...``, ``sign FILE...``, ``build FOLDER``."""

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from bmfm.evaluation import board as suites
from bmfm.evaluation.predictions import of_record, write
from bmfm.evaluation.report.comparison import MISSING, MODES, in_words
from bmfm.evaluation.report.pages import page
from bmfm.evaluation.report.tables import scroll
from bmfm.evaluation.submission import check, digest, make_submission, read
from bmfm.metrics import METRICS


def build(folder: Path, target: Path, data_root: str | Path = "data") -> tuple[Path, dict[Path, list[str]]]:
    """Write ``index.html`` from every valid submission below a folder.

    Parameters
    ----------
    folder
        Searched for ``*.json``, however deep.
    target
        Folder of the site; made if it is not there.
    data_root
        Where the data of cards are; scores are computed again of tasks whose data are there.

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
    entries, refused = suites.gather(list(folder.rglob("*.json")), data_root)
    boards: dict[str, list[suites.Entry]] = {}
    for file in sorted(entries):
        boards.setdefault(entries[file].submission["suite"], []).append(entries[file])
    sections = "".join(_section(suites.read_board(name), boards[name]) for name in sorted(boards))
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
<p>Whoever submits says that this package's runner left the figures: three seeds or more (one where it has no say), the test part
used once, data compared by checksum; ± is half the 95% interval over seeds by Student's t. What is known of that is written
beside the name. <span class="badge note">submitted, not repeated</span>: nobody else has run it.
<span class="badge good">scores recomputed from its predictions</span>: its predictions came along, and the card's labels give
these scores; where the predictions come from is not known by that. <span class="badge good">repeated by</span>: another submitter ran
the same weights in the same way, and each mean lies within the other's interval. Of these two kinds the best of a task
stands in bold, and they come first.
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


def _section(board: suites.Board, entries: list[suites.Entry]) -> str:
    """A suite: its table, and what works report for groups of tasks."""
    with_tasks = [e for e in entries if e.submission["tasks"]]
    with_groups = [e for e in entries if e.submission["groups"]]
    inner = _table(board, with_tasks) if with_tasks else ""
    if with_groups:
        inner += '<h3>By group of tasks <span class="badge note">reported</span></h3>' + _group_table(board, with_groups)
    omics = " ".join(dict.fromkeys(board.omics.values()))
    heading = f"<h2>{escape(board.title)}</h2>"
    return f'<section id="{escape(board.name)}" data-o="{escape(omics)}">{heading}{inner}</section>\n'


def _means(board: suites.Board, submission: dict) -> dict[str, float]:
    """Mean of each metric; nothing where a task is missing."""
    scores = {t["task"]: t["mean"] for t in submission["tasks"]}
    if any(task not in scores for task in board.metrics):
        return {}
    return {m: mean(scores[t] for t, own in board.metrics.items() if own == m) for m in dict.fromkeys(board.metrics.values())}


def _table(board: suites.Board, entries: list[suites.Entry]) -> str:
    metrics = list(dict.fromkeys(board.metrics.values()))
    columns = [Column("model", number=False), Column("mode", number=False), Column("tasks", "descending")]
    columns += [Column(f"{in_words(m)}, mean", _order(m)) for m in metrics if len(board.metrics) > 1]
    columns += [
        Column(f"{task} {in_words(m) if len(metrics) > 1 else ''}", _order(m), True, board.omics[task]) for task, m in board.metrics.items()
    ]
    columns += [Column(name) for name in ("parameters", "s a run", "peak GiB")]
    columns += [Column("hardware", number=False), Column("date", "descending", False), Column("source", number=False)]
    best = {task: _best(entries, task, m) for task, m in board.metrics.items()}
    rows = "".join(_row(board, e, best) for e in sorted(entries, key=lambda e: (not e.verified, _place(board, e.submission))))
    head = "".join(c.html() for c in columns)
    table = f'<table class="board"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return scroll(table, f"leaderboard of {board.title}")


def _order(metric: str) -> str:
    return "descending" if METRICS[metric].more_is_better else "ascending"


def _place(board: suites.Board, submission: dict) -> tuple[bool, float, int, str]:
    """Best mean of the first metric first, those without one last."""
    metric = next(iter(board.metrics.values()))
    value = _means(board, submission).get(metric, math.inf)
    return value == math.inf, -value if METRICS[metric].more_is_better else value, -len(submission["tasks"]), submission["model"]["name"]


def _best(entries: list[suites.Entry], task: str, metric: str) -> float | None:
    values = [t["mean"] for e in entries if e.verified for t in e.submission["tasks"] if t["task"] == task]
    return (max if METRICS[metric].more_is_better else min)(values, default=None)


def _row(board: suites.Board, entry: suites.Entry, best: dict[str, float | None]) -> str:
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


def _model(entry: suites.Entry) -> str:
    s = entry.submission
    name, url = escape(s["model"]["name"]), s["model"]["url"]
    if url and url.startswith(("http://", "https://")):
        name = f'<a href="{escape(url)}" rel="nofollow noopener noreferrer">{name}</a>'
    badges = (f'<span class="badge {"good" if good else "note"}">{escape(said)}</span>' for said, good in entry.words)
    return f'<th scope="row" data-v="{escape(s["model"]["name"])}">{name} {" ".join(badges)}</th>'


def _group_table(board: suites.Board, entries: list[suites.Entry]) -> str:
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


# --- command line -------------------------------------------------------------------------------------------------------


def _complaints(refused: Mapping[Path, Sequence[str]]) -> Iterator[str]:
    for file, reasons in refused.items():
        yield from (f"{file}: {why.removeprefix(f'{file}: ')}" for why in reasons)


def _submit(given: argparse.Namespace) -> int:
    results = json.loads(given.results.read_text(encoding="utf-8"))
    if not isinstance(results, dict) or not {"suite", "records"} <= set(results):
        raise ValueError(f"{given.results} has no suite and records; give the results.json that a benchmark run left")
    used = [r for r in results["records"] if (r["model"], r["mode"]) == (given.model, given.mode)]
    kept = {(r["task"], r["seed"]): p for r in used if (p := of_record(r, given.results.parent / "cells")) is not None}
    about = {"url": given.url, "citation": given.citation, "contact": given.contact}
    submission = make_submission(results, given.model, given.mode, predictions=kept, **about)
    board = suites.read_board(submission["suite"])
    if reasons := check(submission, board.metrics, board.hashes, board.n_test, {c.name: c.protocol for c in board.cards}):
        print(*_complaints({given.results: reasons}), sep="\n", file=sys.stderr)
        return 1
    given.output.write_text(json.dumps(submission, indent=1) + "\n", encoding="utf-8")
    print(f"{given.output}: {given.model} ({given.mode}) on {len(submission['tasks'])} tasks of {submission['suite']}")
    file = given.output.with_suffix(".npz")
    if kept:
        write(file, kept)
        print(f"{file}: predictions of {len(kept)} runs, {file.stat().st_size / 1e6:.1f} MB")
    if lost := sorted({r["task"] for r in used if (r["task"], r["seed"]) not in kept}):
        print(f"without predictions, so that scores cannot be computed again: {', '.join(lost)}")
    return 0


def _sign(given: argparse.Namespace) -> int:
    for file in given.files:
        content = read(file)
        if not isinstance(content, dict) or content.get("status") != "reported":
            raise ValueError(f"{file}: status is not reported; submissions of runs are made by submit, from results.json")
        file.write_text(json.dumps(content | {"digest": digest(content)}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return _check(given)


def _check(given: argparse.Namespace) -> int:
    given.files = [f for f in given.files if f.suffix != ".npz"]
    others = {f for file in given.files for f in (given.beside or file.parent).rglob("*.json")}
    entries, refused = suites.gather(list({f.resolve(): f for f in [*others, *given.files]}.values()), given.data_root, set(given.files))
    bad = {file: refused[file] for file in given.files if file in refused}
    print(
        *_complaints(bad),
        *(f"{file}: valid; {'; '.join(w for w, _ in entries[file].words)}" for file in given.files if file in entries),
        sep="\n",
    )
    return int(bool(bad))


def _build(given: argparse.Namespace) -> int:
    index, refused = build(given.folder, given.output, given.data_root)
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
    checked.add_argument("--beside", type=Path, help="folder of submissions that the files must differ from; their own by default")
    checked.set_defaults(run=_check)
    signed = commands.add_parser("sign", help="write the digest of reported submissions, which are written by hand, and check them")
    signed.add_argument("files", type=Path, nargs="+", metavar="FILE")
    signed.set_defaults(run=_sign, beside=None, data_root="data")
    built = commands.add_parser("build", help="write the site from the submissions below a folder")
    built.add_argument("folder", type=Path)
    built.add_argument("--output", type=Path, default=Path("site"))
    built.set_defaults(run=_build)
    for command in (checked, built):
        where = os.environ.get("BMFM_DATA", "data")
        command.add_argument(
            "--data-root", type=Path, default=Path(where), help="data of the cards: where they are, scores are computed again"
        )
    given = parser.parse_args(arguments)
    try:
        return given.run(given)
    except (ValueError, OSError) as error:
        print(f"bmfm: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
