"""Benchmark tasks as cards: data, split, labels, metric and published scores in one YAML each; a suite is a list of cards."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from bmfm.cli import compose, config_file, config_folders, options
from bmfm.evaluation import own_metrics
from bmfm.evaluation.protocols import protocol_names
from bmfm.files import cache_root, fingerprint, open_whole
from bmfm.metrics import METRICS

RECIPES = {"dna": "dna_finetune", "rna": "rna_finetune"}
RECORD = "checksums.json"
"""Below the data root: SHA-256 of files that were downloaded before anyone had published theirs."""


@dataclass(frozen=True)
class DataFile:
    """A file of a task.

    Parameters
    ----------
    path
        Relative to the data root; the file may also be there with ``.gz`` added.
    url
        ``https://...`` or ``hf://datasets/OWNER/NAME@REVISION/path``; None where there is no direct download.
    sha256
        Of the decompressed content, hexadecimal; None until known.
    rows
        Examples in the file.
    """

    path: str
    url: str | None = None
    sha256: str | None = None
    rows: int | None = None


@dataclass(frozen=True)
class Published:
    """A score that others report on this task's test part, as a fraction (0.742), with its source."""

    model: str
    metric: str
    score: float
    citation: str


@dataclass(frozen=True)
class TaskSpec:
    """A benchmark task.

    Parameters
    ----------
    name
        ``suite/task``: the path of its YAML below ``conf/task``.
    title
        One line for tables.
    omics
        ``dna`` or ``rna``: which fine-tuning recipe it composes with.
    protocol
        ``labels``: predict the test part's labels. ``integration``: how well embeddings keep `label` and mix `batch`.
    metric
        The one that ranks; averaged over the task's objectives.
    length
        Longest input in bp (for pairs, of both sequences together) or genes; None where it varies.
    split
        Where the parts come from, in words.
    citation, home, licence
        Paper, web page of the source, licence of the data where it is known.
    files
        What has to lie below the data root; none where the data ship with the package.
    how
        Where to get data that have no direct download, and what to name them.
    published
        Scores of others.
    metrics
        Of the card's own, {name: settings}: ``_target_``, a function of truth and scores; ``more_is_better``; if need be
        ``words``, ``low``, ``high`` (0 to 1), and arguments of the function. See `own_metrics`.
    label, batch
        ``.obs`` columns of `integration`; `batch` may be None.
    config
        The training configuration, composed.
    """

    name: str
    title: str
    omics: str
    protocol: str
    metric: str
    length: int | None
    split: str
    citation: str
    home: str | None = None
    licence: str | None = None
    files: tuple[DataFile, ...] = ()
    how: str | None = None
    published: tuple[Published, ...] = ()
    metrics: dict[str, dict] = field(default_factory=dict)
    label: str | None = None
    batch: str | None = None
    config: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Suite:
    """Tasks that are run and averaged together."""

    name: str
    title: str
    tasks: tuple[str, ...]


def task_names() -> list[str]:
    """Names of all cards, sorted: those that ship, and those in the user's own folder (see `bmfm.cli`)."""
    roots = [folder / "task" for folder in config_folders()]
    return sorted(
        {p.relative_to(root).with_suffix("").as_posix() for root in roots for p in root.glob("*/*.yaml") if not p.name.startswith("_")}
    )


def suite_names() -> list[str]:
    """Names of all suites, sorted."""
    return options("suite")


def read_task(name: str, overrides: Sequence[str] = ()) -> TaskSpec:
    """The card of a name, with the training configuration that it makes of its omics' fine-tuning recipe.

    Parameters
    ----------
    name
        ``suite/task``.
    overrides
        More of the configuration, as on the command line: ``checkpoint=...``, ``data_root=...``, ``seed=1``.

    Raises
    ------
    ValueError
        Where there is no such card (with near matches), or a key of its ``task`` is missing, unknown or has a value that is.

    Its own metrics are known to report and leaderboard from then on.
    """
    from omegaconf import OmegaConf

    file = _file("task", name, task_names())
    omics = _omics(name)
    if omics not in RECIPES:
        raise ValueError(f"{file}: task.omics={omics!r}; choose {' or '.join(RECIPES)}")
    config = compose("train", [f"+recipe={RECIPES[omics]}", f"+task={name}", *overrides])
    task = OmegaConf.to_container(config.task, resolve=True)
    assert isinstance(task, dict)
    files = [_record(DataFile, f, f"{file}: task.files[{i}]") for i, f in enumerate(task.get("files") or ())]
    published = [_record(Published, p, f"{file}: task.published[{i}]") for i, p in enumerate(task.get("published") or ())]
    own = {"files": tuple(files), "published": tuple(published), "metrics": task.get("metrics") or {}, "config": config}
    card = _record(TaskSpec, task | own, f"{file}: task")
    own_metrics.register(own_metrics.describe(card.metrics, f"{file}: task.metrics"))
    _validate(card, file)
    return card


def read_suite(name: str) -> Suite:
    """The suite of a name; ValueError where it does not exist, or lists a card that does not."""
    from omegaconf import OmegaConf

    file = _file("suite", name, suite_names())
    content = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(content, dict)
    suite = _record(Suite, content | {"tasks": tuple(content.get("tasks") or ())}, str(file))
    if suite.name != name:
        raise ValueError(f"{file}: name={suite.name!r} must be the file's, {name!r}")
    for task in suite.tasks:
        _file("task", task, task_names())
    return suite


def _file(group: str, name: str, known: list[str]) -> Path:
    from difflib import get_close_matches

    file = config_file(group, name) if name in known else None
    if file is None:
        near = get_close_matches(name, known, n=3, cutoff=0.5)
        looked = " and ".join(str(folder / group) for folder in config_folders()[1:]) or f"conf/{group}"
        raise ValueError(f"no {group} is named {name!r}; " + (f"did you mean {' or '.join(near)}?" if near else f"see {looked}"))
    return file


def _omics(name: str) -> str | None:
    """``task.omics`` of a card's YAML, or of the first that it builds on."""
    import yaml

    file = config_file("task", name)
    try:
        content = (yaml.safe_load(file.read_text(encoding="utf-8")) if file else None) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from error
    if own := (content.get("task") or {}).get("omics"):
        return own
    below = (d.removeprefix("/task/") for d in content.get("defaults") or () if isinstance(d, str) and d.startswith("/task/"))
    return next((found for d in below if (found := _omics(d))), None)


def _record(kind, given: Any, where: str):
    """A dataclass from a mapping, with errors that name the key."""
    if not isinstance(given, dict):
        raise ValueError(f"{where} must be a mapping of {', '.join(f.name for f in fields(kind))}")
    known = {f.name: f.default is MISSING and f.default_factory is MISSING for f in fields(kind)}
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"{where}.{unknown[0]} is no key of a {kind.__name__}; it has {', '.join(known)}")
    if missing := [key for key, required in known.items() if required and key not in given]:
        raise ValueError(f"{where}.{missing[0]} is missing")
    return kind(**given)


def _validate(card: TaskSpec, file: Path) -> None:
    for key, value, allowed in (("protocol", card.protocol, protocol_names()), ("metric", card.metric, METRICS)):
        if value not in allowed:
            raise ValueError(f"{file}: task.{key}={value!r} is unknown; choose {', '.join(allowed)}")
    expected = "/".join(file.with_suffix("").parts[-2:])
    if card.name != expected:
        raise ValueError(f"{file}: task.name={card.name!r} must be the file's, {expected!r}")
    if card.metrics and card.protocol != "labels":
        raise ValueError(f"{file}: task.metrics are of predictions: they do not go with task.protocol={card.protocol!r}")
    if (card.protocol == "integration") != (card.metric in ("avg_bio", "avg_batch")):
        raise ValueError(f"{file}: task.metric={card.metric!r} does not go with task.protocol={card.protocol!r}")
    split = (card.config.get("data") or {}).get("split") or {}
    drawn = card.omics == "rna" and split.get("by") not in ("column", "file")
    if card.protocol == "labels" and drawn and split.get("seed") is None:
        raise ValueError(f"{file}: data.split.seed is missing: without it every seed would test on other examples")
    if card.protocol == "integration" and not card.label:
        raise ValueError(f"{file}: task.label is missing: the .obs column of cell types that integration is scored with")
    if not card.how and (lost := [f.path for f in card.files if not f.url]):
        raise ValueError(f"{file}: {lost[0]} has no url; say in task.how where to get it")
    for entry in card.published:
        if entry.metric not in METRICS:
            raise ValueError(f"{file}: task.published: metric {entry.metric!r} of {entry.model} is unknown; choose {', '.join(METRICS)}")


def find_file(data_file: DataFile, root: str | Path) -> Path | None:
    """Where a file lies below the data root, as named or with ``.gz`` added; None where it does not."""
    path = Path(root).expanduser() / data_file.path
    return next((p for p in (path, path.with_name(path.name + ".gz")) if p.is_file()), None)


def missing_files(card: TaskSpec, root: str | Path) -> list[Path]:
    """Files of a card that do not lie below the data root."""
    return [Path(root).expanduser() / f.path for f in card.files if find_file(f, root) is None]


def data_paths(card: TaskSpec, root: str | Path) -> list[Path]:
    """What a card's figures rest on: its files below the data root, or what ships with the package.

    Raises
    ------
    FileNotFoundError
        Where files are missing: names them and says how to get them.
    """
    if missing := missing_files(card, root):
        remedy = card.how or "download them with bmfm.evaluation.fetch"
        raise FileNotFoundError(f"{card.name} needs {', '.join(map(str, missing))}, which do not exist; {' '.join(remedy.split())}")
    found = [p for f in card.files if (p := find_file(f, root))]
    return found or [Path(card.config.data.path)]


def content_hash(paths: Iterable[str | Path]) -> str:
    """SHA-256 of decompressed contents, hexadecimal: of one file its own, of several (or a folder's) that of their hashes in order.

    Hashes are remembered below the cache root by path, size and modification time.
    """
    given = [Path(p) for p in paths]
    files = [f for p in given for f in ([q for q in sorted(p.rglob("*")) if q.is_file()] if p.is_dir() else [p])]
    memory = cache_root() / RECORD
    known = json.loads(memory.read_text()) if memory.is_file() else {}
    fresh, hashes = {}, []
    for file in files:
        identity = fingerprint(file)
        entry = known.get(identity["path"])
        if entry is None or entry | {"sha256": None} != identity | {"sha256": None}:
            entry = fresh[identity["path"]] = identity | {"sha256": sha256(file)}
        hashes.append(entry["sha256"])
    if fresh:
        write_json(memory, known | fresh)
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


def known_hash(card: TaskSpec) -> str | None:
    """The `content_hash` that a card's data must have; None where it does not give the checksum of every file."""
    if not card.files:
        return content_hash([card.config.data.path])
    given = [f.sha256 for f in card.files]
    if not all(given):
        return None
    return given[0] if len(given) == 1 else hashlib.sha256("\n".join(map(str, given)).encode()).hexdigest()


def sha256(file: Path) -> str:
    """SHA-256 of a file's decompressed content, hexadecimal."""
    with open_whole(file) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]


def write_json(path: Path, content: dict) -> None:
    """Write at once and whole, so that another process never reads half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    partial.replace(path)


def recorded(root: str | Path) -> dict[str, str]:
    """{path: SHA-256} of first downloads below a data root."""
    record = Path(root).expanduser() / RECORD
    return json.loads(record.read_text()) if record.is_file() else {}


def verify(card: TaskSpec, root: str | Path) -> None:
    """Compare the files of a card with their checksums: the card's, or those recorded at first download.

    Raises
    ------
    FileNotFoundError
        Where files are missing.
    ValueError
        Where a checksum differs: names the file, what was expected and what was found.
    """
    data_paths(card, root)
    known = recorded(root)
    for data_file in card.files:
        expected, path = data_file.sha256 or known.get(data_file.path), find_file(data_file, root)
        assert path is not None
        if expected and (found := content_hash([path])) != expected:
            raise ValueError(
                f"{path}: SHA-256 of its content is {found}, expected {expected}; these are other data than the card's: move the file away"
            )
