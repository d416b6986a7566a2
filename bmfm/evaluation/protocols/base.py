"""The contract of protocols: which methods can do a task, which metrics it has, and how they come about.

A protocol is a class that a task names: by the name of a YAML with its ``_target_`` in ``conf/protocol`` (or in that group of a folder
of your own), or by a mapping with ``_target_`` itself.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from bmfm.cli import config_file, instantiate, options
from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.methods.base import Method
from bmfm.evaluation.task_spec import TaskSpec
from bmfm.metrics import Metric

NeededMethod = TypeVar("NeededMethod", bound=Method)
NeededExamples = TypeVar("NeededExamples", bound=Examples)


@dataclass
class Outcome:
    """Figures of one method on one task with one seed.

    Parameters
    ----------
    metrics, intervals
        {name: figure}, {name: (low, high)}.
    duration
        Seconds that the method itself took: training, forward passes, fits.
    counts
        What was left out of the figures, in words.
    arrays
        What the figures were computed from, {name: array}, kept beside the record.
    test_uses
        How often the labels of the test part were read.
    overlap
        Test examples that training has seen, see `evaluation.overlap`.
    umap
        ``{x, y, label, batch}`` for a picture, or None.
    strata
        Figures of parts of the test part: ``kind``, ``name``, ``n`` and whatever else is said of each, see `report.strata`.
    """

    metrics: dict[str, float]
    duration: float
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    test_uses: int = 1
    overlap: dict[str, int] = field(default_factory=dict)
    umap: dict[str, Any] | None = None
    strata: list[dict[str, Any]] = field(default_factory=list)


class Protocol(ABC, Generic[NeededMethod, NeededExamples]):
    """How methods are scored on a task; generic in the type of methods and of examples that `run` takes.

    Attributes
    ----------
    needs
        The type of method that it scores: a subclass of `Method` with what it calls.
    draws_by_seed
        Whether the seed also chooses what is scored, so that a method without chance is run with every seed as well.
    scores_test_part
        Whether figures are those of the test part, so that they depend on how the parts are drawn.
    modes
        Modes that can score such a task; None for any. A submission in another mode is refused.
    """

    needs: type[NeededMethod]
    draws_by_seed: ClassVar[bool] = False
    scores_test_part: ClassVar[bool] = True
    modes: ClassVar[tuple[str, ...] | None] = None

    @abstractmethod
    def metrics(self, task: TaskSpec) -> Mapping[str, Metric]:
        """{name: words, range and direction} of all figures that it can give of a task, so that reports know them."""

    def check(self, task: TaskSpec) -> None:
        """Raise a ValueError for a task that cannot be scored in this way; the message begins with the key, as ``task.label``."""
        if task.metrics:
            raise ValueError(f"task.metrics are of predictions: they do not go with task.protocol={task.protocol!r}")

    def components(self, task: TaskSpec) -> list[Any]:
        """Objects whose source code the figures of a task depend on."""
        return [self]

    @abstractmethod
    def run(self, examples: NeededExamples, method: NeededMethod, seed: int, folder: Path, n_bootstrap: int) -> Outcome:
        """Score a method.

        Parameters
        ----------
        examples
            Of the task, `examples.task`.
        seed
            Of the method, and of what is scored where `draws_by_seed`.
        folder
            Of the job; may not be there yet.
        n_bootstrap
            Times that test examples are drawn again for the intervals.
        """


def protocol_settings(task: TaskSpec) -> dict[str, Any]:
    """``_target_`` and arguments of a task's protocol; ValueError where there is no protocol of that name."""
    if isinstance(task.protocol, Mapping):
        return dict(task.protocol)
    from omegaconf import OmegaConf

    file = config_file("protocol", task.protocol)
    if file is None:
        raise ValueError(f"task.protocol={task.protocol!r} is unknown; choose {', '.join(options('protocol'))}, or give a _target_")
    settings: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    return settings


def protocol_of(task: TaskSpec) -> Protocol[Any, Any]:
    """The protocol of a task; ValueError where there is none of that name, or the ``_target_`` is no protocol."""
    protocol = instantiate(protocol_settings(task), _convert_="all")
    if not isinstance(protocol, Protocol):
        raise ValueError(f"task.protocol={task.protocol!r} makes a {type(protocol).__name__}, which is no Protocol")
    return protocol
