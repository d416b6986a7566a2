"""Settings of ``conf/`` with their defaults, types and meanings: what stands in the YAML files, and the comments beside it.

The meaning of a key is the comment on its line, or the lines of comments above it; a comment above also speaks of the keys right after it that it
names. A key that several files of a group share is explained in one of them. A key without a meaning is an error.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

CONF = Path(__file__).resolve().parents[2] / "conf"
STRUCTURE = ("_target_", "_recursive_", "_partial_", "_convert_", "defaults", "hydra")
"""Keys that put a configuration together, which nobody sets."""
COMPOSED = ("task", "suite", "recipe", "published", "debug", "omics")
"""Groups whose files set what others define; of a task, ``task.*`` is explained by `bmfm.evaluation.task_spec`."""

NAMED = ("objective", "baseline", "callbacks", "logger", "mode")
"""Groups whose files add parts under names, which have their settings in common."""


@dataclass
class Setting:
    """One key of one file."""

    path: str
    default: str
    meaning: str = ""
    line: int = 0


@dataclass
class SettingsFile:
    """A YAML file of ``conf/``: the comment at its top, and its settings in their order."""

    name: str
    about: str
    settings: list[Setting]
    package: str
    target: str = ""


KEY = re.compile(r"""^( *)(?:- )?(["']?)([\w.+*/-]+)\2:(?:\s+(.*))?$""")
COMMENT = re.compile(r"""^((?:[^"'#]|"[^"]*"|'[^']*')*?)(?:(?:^|\s)#\s?(.*))?$""")


def parts_of(line: str) -> tuple[str, str]:
    """What stands before a comment, and the comment; one that is indented is a command, and becomes code."""
    match = COMMENT.match(line)
    assert match is not None, line
    comment = match[2] or ""
    return match[1].rstrip(), f"`{comment.strip()}`" if comment.startswith("  ") else comment.strip()


def read(file: Path) -> SettingsFile:
    """Read the settings of one file."""
    settings: list[Setting] = []
    about: list[str] = []
    above: list[str] = []  # the comment that is being read
    spoken = ""  # the last comment above a key, and the keys that follow it
    stack: list[tuple[int, str]] = []
    skipped, target, started = None, "", False
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), 1):
        text, comment = parts_of(line)
        if not text.strip():
            if comment and not comment.startswith("@package"):
                (above if started or settings else about).append(comment)
            elif not line.strip():
                if not started:
                    started = bool(about)
                above, spoken = [], ""
            continue
        started = True
        match = KEY.match(text)
        if not match or match[0].lstrip().startswith("- "):
            continue
        indent, key, value = len(match[1]), match[3], match[4] or ""
        if skipped is not None and indent > skipped:
            continue
        skipped = indent if key in STRUCTURE else None
        while stack and stack[-1][0] >= indent:
            stack.pop()
        if key == "_target_" and not stack:
            target = value
        if key in STRUCTURE:
            above = []
            continue
        path = ".".join([*(k for _, k in stack), key])
        stack.append((indent, key))
        if above:
            spoken, meaning = " ".join(above), " ".join(above)
        else:
            meaning = spoken if re.search(rf"(?<![\w.]){re.escape(key)}(?!\w|\.\w)", spoken) else ""
        above = []
        settings.append(Setting(path, value, comment or meaning, number))
    name = file.relative_to(CONF).with_suffix("").as_posix()
    package = re.search(r"^# @package (\S+)", file.read_text(encoding="utf-8"), re.M)
    default = name.rpartition("/")[0].replace("/", ".")
    return SettingsFile(name, " ".join(about), settings, package[1].replace("_global_", "") if package else default, target)


def files() -> list[SettingsFile]:
    """All files whose settings are explained, entry points first."""
    paths = [*sorted(CONF.glob("*.yaml")), *sorted(p for p in CONF.glob("*/*.yaml") if p.parent.name not in COMPOSED)]
    return explained([read(p) for p in paths])


def group_of(file: SettingsFile) -> str:
    return file.name.rpartition("/")[0]


def explained(read_files: list[SettingsFile]) -> list[SettingsFile]:
    """The files, with meanings carried over within a group where a key is explained in another file."""
    for group in {group_of(f) for f in read_files} - {""}:
        members = [f for f in read_files if group_of(f) == group]
        known = {within(s.path, group): s.meaning for f in reversed(members) for s in f.settings if s.meaning}
        for f in members:
            for s in f.settings:
                s.meaning = s.meaning or known.get(within(s.path, group), "")
    return read_files


def within(path: str, group: str) -> str:
    """What a setting is called by in its group: the weight of every objective is a weight, elsewhere it is the whole path that counts."""
    return path.rpartition(".")[2] if group in NAMED else path


def is_section(setting: Setting, file: SettingsFile) -> bool:
    """Whether a key holds other keys alone, which say what it is for."""
    return not setting.default and any(s.path.startswith(setting.path + ".") for s in file.settings)


def is_entry(setting: Setting, file: SettingsFile) -> bool:
    """Whether a key is an entry of a table, ``NAME: {...}``, that the comment of the table speaks of."""
    parent = setting.path.rpartition(".")[0]
    return setting.default.startswith("{") and any(s.path == parent and s.meaning for s in file.settings)


def missing(read_files: list[SettingsFile]) -> list[str]:
    """``file:line: key`` of keys without a meaning."""
    return [
        f"conf/{f.name}.yaml:{s.line}: {s.path}"
        for f in read_files
        for s in f.settings
        if not (s.meaning or is_section(s, f) or is_entry(s, f))
    ]


def type_of(default: str) -> str:
    """The type of a setting in words, by its default."""
    value = yaml.safe_load(default) if default and not default.startswith("$") else None
    if default == "???":
        return "required"
    if default.startswith("${asset:"):
        return "path"
    if default.startswith("$"):
        return f"as `{default[2:-1]}`" if re.fullmatch(r"\$\{[\w.]+\}", default) else "text"
    if value is None:
        return "optional"
    return {bool: "true or false", int: "whole number", float: "number", str: "text", list: "list", dict: "mapping"}[type(value)]


def cell(text: str) -> str:
    """A text in a cell of a table of Markdown, where names of settings, files and patterns stand as they are."""
    return re.sub(r"(?<!`)([\[\]{}<>|*_$~]|\\)", r"\\\1", text) if "`" not in text else text.replace("|", "\\|")


def table(file: SettingsFile) -> str:
    """The settings of a file as a table."""
    prefix = f"{file.package}." if file.package else ""
    rows = ["{.settings}", "| setting | default | type | meaning |", "|---|---|---|---|"]
    for s in (s for s in file.settings if s.meaning or not is_section(s, file)):
        section = is_section(s, file)
        default = "" if section or not s.default else f"`{s.default}`".replace("|", "\\|")
        words = "section" if section else type_of(s.default)
        rows.append(f"| `{prefix}{s.path}` | {default} | {words} | {cell(s.meaning)} |")
    return "\n".join(rows) if len(rows) > 3 else "It has no settings."


def _checked() -> list[SettingsFile]:
    read_files = files()
    if unexplained := missing(read_files):
        raise ValueError(f"settings without a comment that says what they mean, {len(unexplained)}:\n" + "\n".join(unexplained))
    return read_files


def commands_page() -> str:
    """Settings of the commands, a section for each."""
    sections = [f"## bmfm {f.name}\n\n{cell(f.about)}\n\n{table(f)}\n" for f in _checked() if "/" not in f.name]
    return COMMANDS + "\n".join(sections)


def choices_page() -> str:
    """Choices of groups, a section for each group."""
    read_files, parts = [f for f in _checked() if "/" in f.name], [CHOICES]
    for group in sorted({group_of(f) for f in read_files}):
        parts.append(f"## {group}\n")
        for f in (f for f in read_files if group_of(f) == group):
            target = f" Class: `{f.target}`." if f.target else ""
            parts.append(f"### {group}={f.name.rpartition('/')[2]}\n\n{cell(f.about)}{target}\n\n{table(f)}\n")
    return "\n".join(parts)


COMMANDS = """# Settings of the commands

Every setting with its default, read from `conf/`. A recipe (`+recipe=NAME`) changes some of them, and the command line has the last word; which
settings a command comes to, `--cfg job` shows. `???` stands for what has to be named. Settings of [groups](choices.md), as `data.batch_size`, have a page of
their own.

"""

CHOICES = """# Choices and their settings

A group is chosen by its name: `model=llama` takes `conf/model/llama.yaml`. A list of them is chosen for `objective`, `mode` and `baseline`:
`'objective=[genes,values]'`. The class behind a choice is named, for those who look for how it works.

"""
