"""The pages of a report: one of HTML that needs nothing beside it, and the same figures as Markdown."""

from collections.abc import Iterable
from html import escape
from pathlib import Path

from bmfm.evaluation.report.comparison import GREY, MODE_COLOURS, MODES, Comparison
from bmfm.evaluation.report.drawings import bars, cost_plots, rank_plot, rank_sentence, rank_test, umap_panel
from bmfm.evaluation.report.perturbation import perturbation_html, perturbation_markdown
from bmfm.evaluation.report.strata import strata_panels, strata_tables
from bmfm.evaluation.report.tables import (
    LEGEND,
    cost_table,
    data_table,
    facts,
    failure_table,
    html_table,
    loss_table,
    main_table,
    markdown_table,
    metric_tables,
    plain,
    published_table,
)

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
            f'<p><span class="badge note">failed</span> <a href="#failures">{len(c.failures)} of {len(c.failures) + c.n_finished} runs</a>: see below.</p>'
        )
    out += ["<h2>Results</h2>", html_table(main_table(c), "results"), f'<p class="soft">{escape(LEGEND)}</p>']
    if published := published_table(c):
        rows, works = published
        out.append('<section class="reported"><h2>Published figures <span class="badge note">reported, not run here</span></h2>')
        out.append('<p class="soft">Copied from the works below; other code, hardware and choices than the table above.</p>')
        out += [html_table(rows, "published figures"), f"<ol>{''.join(f'<li>{escape(w)}</li>' for w in works)}</ol></section>"]
    used = dict.fromkeys(e.mode for e in c.methods)
    keys = (f'<span class="key"><i style="background:{MODE_COLOURS.get(m, GREY)}"></i>{escape(MODES.get(m, m))}</span>' for m in used)
    legend = f'<p class="legend">{"".join(keys)}</p>'
    panels = (f"<div><h3>{escape(t.name)}: {escape(t.words)}</h3>{bars(t, c.methods)}</div>" for t in c.tasks if t.scores)
    out += ["<h2>Each task</h2>", legend, f'<div class="panels">{"".join(panels)}</div>']
    if parts := strata_tables(c):
        out.append("<h2>Parts of the test part</h2>")
        for title, rows in parts:
            out += [f"<h3>{escape(title)}</h3>", html_table(rows, title)]
        out.append(f'<div class="panels">{"".join(f"<div><h3>{escape(t)}</h3>{p}</div>" for t, p in strata_panels(c))}</div>')
    out.append(perturbation_html(c))
    if len(c.ranks) > 1:
        test = rank_test(c)
        out += ["<h2>Ranks</h2>", f"<p>{escape(rank_sentence(c, test))}</p>", rank_plot(c, test)]
    out += ["<h2>Cost beside quality</h2>", html_table(cost_table(c), "cost")]
    out.append(
        '<p class="soft">Seconds are means over runs, memory is the highest of all. Numbers in the drawings are those of the table.</p>'
    )
    out.append(legend + f'<div class="panels">{"".join(f"<div>{p}</div>" for p in cost_plots(c))}</div>')
    if seen := list(_umaps(c)):
        out.append("<h2>Embeddings</h2>" + "".join(seen))
    if c.failures:
        out += ['<h2 id="failures">Failures</h2>', html_table(failure_table(c), "failures")]
    every = "".join(f"<h3>{escape(t.name)}</h3>{html_table(rows, f'metrics of {t.name}')}" for t, rows in metric_tables(c))
    out.append(f"<details><summary>Every metric of every task</summary>{every}</details>")
    if (lost := loss_table(c)).body:
        out.append(f"<details><summary>What was cut, unknown or not scored</summary>{html_table(lost, 'losses')}</details>")
    out.append(f"<details><summary>Data of the tasks</summary>{html_table(data_table(c), 'data')}</details>")
    return page(c.suite["title"], "\n".join(out))


def _umaps(c: Comparison) -> Iterable[str]:
    for task in c.tasks:
        for e in c.methods:
            if points := next((r["umap"] for r in c.records[e] if r["task"] == task.name and r.get("umap")), None):
                panels = "".join(f"<div><h3>by {by}</h3>{umap_panel(points, by)}</div>" for by in ("label", "batch") if points.get(by))
                yield f"<h3>{escape(task.name)}: {escape(str(e))}</h3><div class=panels>{panels}</div>"


def _markdown(c: Comparison) -> str:
    out = [f"# {plain(c.suite['title'])}", markdown_table(facts(c)), "## Results", markdown_table(main_table(c)), LEGEND]
    if published := published_table(c):
        rows, works = published
        out += ["## Published figures: reported, not run here", markdown_table(rows)]
        out.append("\n".join(f"{i}. {plain(w)}" for i, w in enumerate(works, 1)))
    if parts := strata_tables(c):
        out += ["## Parts of the test part", *(f"{plain(title)}\n\n{markdown_table(rows)}" for title, rows in parts)]
    out += perturbation_markdown(c)
    if len(c.ranks) > 1:
        out += ["## Ranks", rank_sentence(c, rank_test(c)).replace("diagram", "comparison")]
    out += ["## Cost beside quality", markdown_table(cost_table(c))]
    if c.failures:
        out += ["## Failures", markdown_table(failure_table(c))]
    out += ["## Every metric of every task", *(f"{plain(t.name)}\n\n{markdown_table(rows)}" for t, rows in metric_tables(c))]
    if (lost := loss_table(c)).body:
        out += ["## What was cut, unknown or not scored", markdown_table(lost)]
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
