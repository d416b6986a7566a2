"""Commands, recipes, tasks and suites, as the package itself lists them."""

import contextlib
import importlib
import io
import os
import re
from functools import cache
from pathlib import Path
from unittest import mock

import settings
import yaml

from bmfm.console import commands


@cache
def help_of(command: str) -> str:
    """What ``bmfm COMMAND --help`` prints, of a command with arguments; its usage, of one with settings."""
    config = settings.CONF / f"{command}.yaml"
    if config.is_file():
        return str(yaml.safe_load(config.read_text(encoding="utf-8"))["hydra"]["help"]["header"]).strip()
    printed = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "100"}),
        mock.patch("sys.argv", [f"bmfm {command}", "--help"]),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        importlib.import_module(f"bmfm.{command}").main()
    return re.sub(r"usage: (python -m bmfm\.)(\w+)", r"usage: bmfm \2", printed.getvalue()).strip()


def commands_page() -> str:
    """All commands with their help."""
    parts = [COMMANDS]
    for name, sentence in commands().items():
        has_settings = (settings.CONF / f"{name}.yaml").is_file()
        link = f"\n[Settings](settings.md#bmfm-{name})\n" if has_settings else ""
        parts.append(f"## bmfm {name}\n\n{sentence}\n\n```text\n{help_of(name)}\n```\n{link}")
    return "\n".join(parts)


def _about(folder: str, name: str) -> str:
    return settings.cell(settings.read(settings.CONF / folder / f"{name}.yaml").about)


def recipes_page() -> str:
    """Recipes with what they say of themselves; suites with their tasks."""
    recipes = sorted(p.stem for p in (settings.CONF / "recipe").glob("*.yaml"))
    parts = [RECIPES, "| recipe | what it is |", "|---|---|", *(f"| `{r}` | {_about('recipe', r)} |" for r in recipes)]
    parts += [
        "",
        "## Suites",
        "",
        "`bmfm benchmark +suite=NAME` runs all tasks of a suite.",
        "",
        "| suite | title | tasks |",
        "|---|---|---|",
    ]
    for file in sorted((settings.CONF / "suite").glob("*.yaml")):
        suite = yaml.safe_load(file.read_text(encoding="utf-8"))
        parts.append(f"| `{file.stem}` | {suite.get('title', '')} | {', '.join(f'`{t}`' for t in _tasks(suite))} |")
    parts += ["", "## Tasks", "", "A suite composes them; `bmfm train +recipe=dna_finetune +task=NAME` fine-tunes on one.", ""]
    parts += ["| task | title | metric | licence |", "|---|---|---|---|"]
    for file in sorted((settings.CONF / "task").glob("*/*.yaml")):
        task = _task(file)
        if not file.stem.startswith("_") and "title" in task:
            parts.append(
                f"| `{file.parent.name}/{file.stem}` | {settings.cell(task['title'])} | `{task.get('metric', '')}` | {task.get('licence') or ''} |"
            )
    return "\n".join(parts) + "\n"


def _tasks(suite: dict) -> list[str]:
    """Tasks that a suite lists, or those of the suites that it is made of."""
    listed = list(suite.get("tasks") or [])
    for name in (d for d in suite.get("defaults", []) if isinstance(d, str) and d != "_self_"):
        listed += _tasks(yaml.safe_load((settings.CONF / "suite" / f"{Path(name).name}.yaml").read_text(encoding="utf-8")))
    return listed


def _task(file: Path) -> dict:
    """``task`` of a file and of those that it is built upon."""
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    task: dict = {}
    for base in content.get("defaults", []):
        if isinstance(base, str) and base.startswith("/task/"):
            task |= _task(settings.CONF / f"{base[1:]}.yaml")
    return task | (content.get("task") or {})


COMMANDS = """# Commands

`bmfm COMMAND ...` is `python -m bmfm.COMMAND ...`. Those with settings take words of the form `key=value`, as
[How configuration works](../README.md#how-configuration-works) says; the others take arguments.
"""

RECIPES = """# Recipes, suites and tasks

`bmfm train +recipe=NAME` takes a recipe, a file of `recipes/`.

## Recipes
"""
