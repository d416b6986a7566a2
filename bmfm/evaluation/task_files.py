"""Tasks and suites from their YAML files: those that ship, and those in the user's own folder (see `bmfm.cli`)."""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from bmfm.cli import compose, config_file, config_folders, instantiate, options
from bmfm.data.splits import split_seed as split_seed_of
from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.protocols.base import protocol_of
from bmfm.evaluation.task_spec import DataFile, PublishedScore, Suite, TaskSpec
from bmfm.metrics import METRICS
from bmfm.targets import find_class

Record = TypeVar("Record", DataFile, PublishedScore, Suite, TaskSpec, "OmicsDefaults")


@dataclass(frozen=True)
class OmicsDefaults:
    """What tasks of one kind of data take where they name none: see `TaskSpec.recipe` and `TaskSpec.examples`."""

    recipe: str
    examples: dict[str, Any]


def task_names() -> list[str]:
    """Names of all tasks, sorted."""
    roots = [folder / "task" for folder in config_folders()]
    return sorted(
        {p.relative_to(root).with_suffix("").as_posix() for root in roots for p in root.glob("*/*.yaml") if not p.name.startswith("_")}
    )


def suite_names() -> list[str]:
    """Names of all suites, sorted."""
    return options("suite")


def read_task(name: str, overrides: Sequence[str] = (), split_seed: int | None = None) -> TaskSpec:
    """The task of a name, with the training configuration that it makes of its recipe.

    Parameters
    ----------
    name
        ``suite/task``.
    overrides
        More of the configuration, as on the command line: ``checkpoint=...``, ``data_root=...``, ``seed=1``.
    split_seed
        Draws the parts otherwise; None is the task's own drawing.

    Raises
    ------
    ValueError
        Where there is no such task (with near matches), or a key of its ``task`` is missing, unknown or has a value that is.
    """
    from omegaconf import OmegaConf

    file = _file("task", name, task_names())
    omics = read_omics(_key(name, "omics"), str(file))
    recipe = _key(name, "recipe") or omics.recipe
    drawn_by = [] if split_seed is None else [f"++data.split.seed={split_seed}"]
    config = compose("train", [f"+recipe={recipe}", f"+task={name}", *overrides, *drawn_by])
    settings: Any = OmegaConf.to_container(config.task, resolve=True)
    files = [_record(DataFile, f, f"{file}: task.files[{i}]") for i, f in enumerate(settings.get("files") or ())]
    published = [_record(PublishedScore, p, f"{file}: task.published[{i}]") for i, p in enumerate(settings.get("published") or ())]
    settings |= {"files": tuple(files), "published": tuple(published), "metrics": settings.get("metrics") or {}, "config": config}
    settings |= {"recipe": recipe, "examples": settings.get("examples") or omics.examples, "split_seed": split_seed}
    task = _record(TaskSpec, settings, f"{file}: task")
    _check(task, file)
    return task


def read_examples(task: TaskSpec, root: str | Path) -> Examples:
    """The examples of a task, whose data lie below a root."""
    return instantiate({**task.examples, "_partial_": True}, _convert_="all")(task, root)


def in_other_splits(task: TaskSpec, seeds: Sequence[int], overrides: Sequence[str] = ()) -> list[TaskSpec]:
    """The task with its parts drawn by each of these seeds; the task alone where none is given, or nothing is drawn.

    The parts are drawn where the protocol scores a test part and the data have no test part of their own.

    Parameters
    ----------
    overrides
        With which the task was read.
    """
    split = task.config.data.get("split") or {}
    reads: type[Examples] = find_class(task.examples["_target_"], Examples, "task.examples._target_")
    if not seeds or not protocol_of(task).scores_test_part or not reads.draws_test_part(task.config.data):
        return [task]
    own = split_seed_of(split)
    return [task if seed == own else read_task(task.name, overrides, seed) for seed in dict.fromkeys(seeds)]


def read_omics(name: str | None, where: str) -> OmicsDefaults:
    """What ``conf/omics`` says of a kind of data; ValueError where it has none of that name."""
    from omegaconf import OmegaConf

    file = config_file("omics", name) if name else None
    if file is None:
        raise ValueError(f"{where}: task.omics={name!r}; choose {' or '.join(options('omics'))}")
    return _record(OmicsDefaults, OmegaConf.to_container(OmegaConf.load(file)), str(file))


def read_suite(name: str) -> Suite:
    """The suite of a name; ValueError where it does not exist, or lists a task that does not."""
    from omegaconf import OmegaConf

    file = _file("suite", name, suite_names())
    content: Any = OmegaConf.to_container(OmegaConf.load(file))
    lists = {key: tuple(content.get(key) or ()) for key in ("tasks", "split_seeds", "modes")}
    suite = _record(Suite, content | lists, str(file))
    if suite.name != name:
        raise ValueError(f"{file}: name={suite.name!r} must be the file's, {name!r}")
    for task in suite.tasks:
        _file("task", task, task_names())
    return suite


def _file(group: str, name: str, names: list[str]) -> Path:
    file = config_file(group, name) if name in names else None
    if file is None:
        near = get_close_matches(name, names, n=3, cutoff=0.5)
        looked = " and ".join(str(folder / group) for folder in config_folders()[1:]) or f"conf/{group}"
        raise ValueError(f"no {group} is named {name!r}; " + (f"did you mean {' or '.join(near)}?" if near else f"see {looked}"))
    return file


def _key(name: str, key: str) -> str | None:
    """A key of ``task`` that is needed before the task is composed: of its YAML, or of the first that it builds on."""
    import yaml

    file = config_file("task", name)
    try:
        content = (yaml.safe_load(file.read_text(encoding="utf-8")) if file else None) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    if value := (content.get("task") or {}).get(key):
        return value
    built_on = (d.removeprefix("/task/") for d in content.get("defaults") or () if isinstance(d, str) and d.startswith("/task/"))
    return next((value for task in built_on if (value := _key(task, key))), None)


def _record(kind: type[Record], settings: Any, where: str) -> Record:
    """A dataclass from a mapping, with errors that name the key."""
    if not isinstance(settings, dict):
        raise ValueError(f"{where} must be a mapping of {', '.join(f.name for f in fields(kind))}")
    is_required = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(kind)}
    if unknown := sorted(set(settings) - set(is_required)):
        raise ValueError(f"{where}.{unknown[0]} is no key of a {kind.__name__}; it has {', '.join(is_required)}")
    if missing := [key for key, required in is_required.items() if required and key not in settings]:
        raise ValueError(f"{where}.{missing[0]} is missing")
    return kind(**settings)


def _check(task: TaskSpec, file: Path) -> None:
    expected = "/".join(file.with_suffix("").parts[-2:])
    if task.name != expected:
        raise ValueError(f"{file}: task.name={task.name!r} must be the file's, {expected!r}")
    try:
        protocol = protocol_of(task)
        metrics = protocol.metrics(task)
        if task.metric not in metrics:
            raise ValueError(f"task.metric={task.metric!r} is not of task.protocol={task.protocol!r}; choose {', '.join(metrics)}")
        protocol.check(task)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if not task.how and (unreachable := [f.path for f in task.files if not f.url]):
        raise ValueError(f"{file}: {unreachable[0]} has no url; say in task.how where to get it")
    for score in task.published:
        if score.metric not in METRICS and score.metric not in metrics:
            raise ValueError(f"{file}: task.published: metric {score.metric!r} of {score.model} is unknown; choose {', '.join(METRICS)}")
