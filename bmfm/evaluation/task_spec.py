"""What a benchmark task is: data, split, labels, protocol, metric and published scores; a suite is a list of tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bmfm.evaluation.checksums import combined, content_hash, recorded


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

    def find(self, root: str | Path) -> Path | None:
        """Where the file lies below the data root, as named or with ``.gz`` added; None where it does not."""
        path = Path(root).expanduser() / self.path
        return next((p for p in (path, path.with_name(path.name + ".gz")) if p.is_file()), None)


@dataclass(frozen=True)
class PublishedScore:
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
        ``dna``, ``rna`` or another kind of data that has a YAML in ``conf/omics``, which says what a task of it takes for
        `recipe` and `examples` where it names none.
    protocol
        How methods are scored: the name of a YAML in ``conf/protocol``, or a mapping with the ``_target_`` of a
        `protocols.base.Protocol` and its arguments.
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
        The task's own, {name: settings}: ``_target_``, a function of truth and scores; ``more_is_better``; if need be
        ``words``, ``low``, ``high`` (0 to 1), and arguments of the function. See `evaluation.task_metrics`.
    label, batch
        ``.obs`` columns of the protocol ``integration``; `batch` may be None.
    recipe
        The recipe that the task's configuration is composed on, and that models are fine-tuned by.
    examples
        A mapping with the ``_target_`` of an `examples.base.Examples`: what reads the data.
    config
        The training configuration, composed.
    split_seed
        Where the parts are drawn otherwise than the task's own ``data.split.seed`` draws them, by what; None is the task's own drawing.
    """

    name: str
    title: str
    omics: str
    protocol: str | Mapping[str, Any]
    metric: str
    length: int | None
    split: str
    citation: str
    home: str | None = None
    licence: str | None = None
    files: tuple[DataFile, ...] = ()
    how: str | None = None
    published: tuple[PublishedScore, ...] = ()
    metrics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    label: str | None = None
    batch: str | None = None
    recipe: str | None = None
    examples: Mapping[str, Any] = field(default_factory=dict)
    config: Any = field(default=None, repr=False, compare=False)
    split_seed: int | None = None

    def missing_files(self, root: str | Path) -> list[Path]:
        """Files that do not lie below the data root."""
        return [Path(root).expanduser() / f.path for f in self.files if f.find(root) is None]

    def data_paths(self, root: str | Path) -> list[Path]:
        """What the task's figures rest on: its files below the data root, or what ships with the package.

        Raises
        ------
        FileNotFoundError
            Where files are missing: names them and says how to get them.
        """
        if missing := self.missing_files(root):
            remedy = self.how or "download them with bmfm.evaluation.fetch"
            raise FileNotFoundError(f"{self.name} needs {', '.join(map(str, missing))}, which do not exist; {' '.join(remedy.split())}")
        return [p for f in self.files if (p := f.find(root))] or self.shipped_paths

    @property
    def shipped_paths(self) -> list[Path]:
        """What a task without files reads: ``data.path``, or that of ``data.source``; one or a list."""
        data = self.config.data
        path = data.path if "path" in data else data.source.path
        return [Path(path)] if isinstance(path, str) else [Path(p) for p in path]

    @property
    def expected_hash(self) -> str | None:
        """The `content_hash` that the data must have; None where the task does not give the checksum of every file."""
        if not self.files:
            return content_hash(self.shipped_paths)
        stated = [f.sha256 for f in self.files if f.sha256]
        return combined(stated) if len(stated) == len(self.files) else None

    def verify(self, root: str | Path) -> None:
        """Compare the files with their checksums: the task's, or those recorded at first download.

        Raises
        ------
        FileNotFoundError
            Where files are missing.
        ValueError
            Where a checksum differs: names the file, what was expected and what was found.
        """
        self.data_paths(root)
        first_downloads = recorded(root)
        for data_file in self.files:
            expected, path = data_file.sha256 or first_downloads.get(data_file.path), data_file.find(root)
            assert path is not None
            if expected and (actual := content_hash([path])) != expected:
                raise ValueError(
                    f"{path}: SHA-256 of its content is {actual}, expected {expected}; these are other data than the task's: move the file away"
                )


@dataclass(frozen=True)
class Suite:
    """Tasks that are run and averaged together.

    Parameters
    ----------
    split_seeds
        By which the parts are drawn, of tasks whose parts are drawn; none is the task's own.
    modes
        How a checkpoint takes part, where the benchmark's own modes have nothing to do in its tasks; none is the benchmark's.
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    split_seeds: tuple[int, ...] = ()
    modes: tuple[str, ...] = ()
