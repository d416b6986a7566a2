"""Pages of submissions, models and the citation, from the files that they are in."""

import json
import re
from pathlib import Path

import settings
import yaml

ROOT = Path(__file__).resolve().parents[2]
MODELS = ROOT / "bmfm" / "assets" / "models"


def submissions(kind: str) -> list[dict]:
    """All submissions below ``leaderboard/KIND``."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted((ROOT / "leaderboard" / kind).rglob("*.json"))]


def score(task: dict) -> str:
    """A mean, with its interval where there is one."""
    interval = f" [{task['low']:.3f}, {task['high']:.3f}]" if task["low"] is not None else ""
    return f"{task['mean']:.3f}{interval}"


def suite_table(entries: list[dict]) -> str:
    """Tasks by rows, models by columns, with the mean over tasks that all of them have."""
    names = [f"{e['model']['name']}, {e['mode']}" for e in entries]
    tasks = list(dict.fromkeys(t["task"] for e in entries for t in e["tasks"]))
    by_task = [{t["task"]: t for t in e["tasks"]} for e in entries]
    rows = [f"| task | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for task in tasks:
        metric = next(of[task]["metric"] for of in by_task if task in of)
        rows.append(f"| `{task}`, {metric} | {' | '.join(score(of[task]) if task in of else '' for of in by_task)} |")
    return "\n".join(rows)


def cost_table(entries: list[dict]) -> str:
    """What a submission took, on which machine, with which versions."""
    rows = ["| submission | parameters | seconds a task and seed | hardware | memory | date | commits |", "|---|---|---|---|---|---|---|"]
    for e in entries:
        cost, hardware = e.get("cost") or {}, e.get("hardware") or {}
        n = e["model"]["parameters"]
        rows.append(
            f"| {e['model']['name']}, {e['mode']} | {f'{n:,}' if n else ''} | {cost.get('seconds') or 0:.0f} | "
            f"{hardware.get('device', '')}, {hardware.get('cores', '')} cores | {(cost.get('peak_memory_bytes') or 0) / 1e9:.1f} GB | "
            f"{(e.get('date') or '')[:10]} | {len((e.get('commit') or '').split(', '))} |"
        )
    return "\n".join(rows)


def results_page() -> str:
    """Submissions by suite, and what others report."""
    parts = [RESULTS]
    submitted, reported = submissions("submissions"), submissions("reported")
    for suite in dict.fromkeys(e["suite"] for e in submitted):
        entries = sorted((e for e in submitted if e["suite"] == suite), key=lambda e: -sum(t["mean"] for t in e["tasks"]))
        parts.append(f"## {suite}\n\nMeans over seeds with 95% intervals.\n\n{suite_table(entries)}\n\n{cost_table(entries)}\n")
    parts.append(REPORTED)
    for suite in dict.fromkeys(e["suite"] for e in reported):
        entries = [e for e in reported if e["suite"] == suite]
        parts.append(f"### Reported for {suite}\n")
        if by_task := [e for e in entries if e["tasks"]]:
            parts.append(suite_table(by_task) + "\n")
        for e in entries:
            groups = "; ".join(f"{g['group']} {g['metric']} {g['value']:.3f}" for g in e.get("groups") or [])
            parts.append(f"- **{e['model']['name']}**, {e['mode']}: {e['model']['citation']}{f' ({groups})' if groups else ''}")
        parts.append("")
    return "\n".join(parts)


def zoo_page() -> str:
    """The cards of the models that ship, and what is in their folders."""
    parts = [ZOO]
    for folder in sorted(MODELS.iterdir()):
        card = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
        size = sum(f.stat().st_size for f in folder.iterdir()) / 1e6
        text = re.sub(r"^(#+) ", r"#\1 ", card.strip(), flags=re.M)
        parts.append(text.replace("\n\n", f'\n\n`bmfm.load("{folder.name}")`: {size:.1f} MB, in the package.\n\n', 1) + "\n")
    return "\n".join(parts)


def citation_page() -> str:
    """What to cite, from ``CITATION.cff``."""
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    parts = [f"# Citation\n\n{cff['message']}\n\n> {cff['title']} {cff['version']}. {cff['abstract']} Licence: {cff['license']}.\n"]
    for r in cff["references"]:
        people = ", ".join(f"{p['given-names']} {p['family-names']}" for p in r["authors"])
        parts.append(f"- {people}. *{r['title']}*. {r['year']}. doi {r['doi']}. {settings.cell(r['notes'])}")
    return "\n".join(parts) + "\n\nThe file `CITATION.cff` at the top of the repository is for programs.\n"


RESULTS = """# Submissions

Read from `leaderboard/submissions` and `leaderboard/reported`, where every figure is in a file for programs. How they are checked, and how to add
one: [leaderboard](leaderboard.md).
"""

REPORTED = """## Reported by others

Other code and other choices: shown beside, compared with nothing.
"""

ZOO = """# Model zoo

Models that ship with the package, by their cards. What they are worth beside simple baselines is measured in [results](../results.md); how published
checkpoints of others become models here says [Published checkpoints](../howto/published_checkpoints.md).
"""
