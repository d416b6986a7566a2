"""The contract of methods under test: models as they are, under a probe or fine-tuned, embeddings made elsewhere, baselines.

A method is a class that configuration names by ``_target_`` (``conf/baseline``, or a folder of your own). What it can do says its
type: a `LabelMethod` predicts labels, an `EmbeddingMethod` embeds examples, and a protocol takes the methods of the type that it
needs. A protocol that asks for something else (scores of variants) comes with a subclass of `Method` of its own.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.task_spec import TaskSpec


class Method:
    """What all methods share; the defaults are those of a baseline with neither chance nor weights.

    Attributes
    ----------
    name
        Shown in tables.
    kind
        ``checkpoint``, ``embedding`` or ``baseline``.
    mode
        How the model is used: a name of ``conf/mode``, ``baseline``, or a word of your own.
    omics
        Kinds of data that it reads; None for any.
    deterministic
        Whether one seed says all.
    counts
        {what: how many} of what the last call did not see or could not read.
    """

    kind: str = "baseline"
    mode: str = "baseline"
    omics: tuple[str, ...] | None = None
    deterministic: bool = True

    def __init__(self, name: str):
        self.name = name
        self.counts: dict[str, int] = {}

    def takes(self, task: TaskSpec) -> bool:
        """Whether it can do a task whose protocol needs a method of its type."""
        return self.omics is None or task.omics in self.omics

    def check(self, task: TaskSpec) -> None:
        """Raise a ValueError for settings that are mistaken, before anything is run."""

    def unavailable(self) -> str | None:
        """Why it cannot be run on this machine, so that it is left out rather than fails; None where it can."""
        return None

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        """Everything that its figures depend on, beside data, seed and code; finished work is found again by it."""
        return {"class": type(self).__name__, "name": self.name}

    @property
    def model_hash(self) -> str:
        """SHA-256 of the model, or of a baseline's settings."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True, default=str).encode()).hexdigest()

    @property
    def parameters(self) -> int | None:
        """Weights of the model; None of what has none, or where that is not known."""
        return None

    def shared_work(self, data_hash: str) -> str | None:
        """A key of work that several jobs on these data share, so that one of them does it before the others start; or None."""
        return None

    def components(self) -> list[Any]:
        """Objects whose source code its figures depend on."""
        return [self]


class LabelMethod(Method, ABC):
    """A method that predicts the labels of the test part."""

    @abstractmethod
    def predict(self, examples: Examples, seed: int, folder: Path) -> dict[str, np.ndarray]:
        """Scores of the test part for every objective, having seen labels of the other parts alone.

        Parameters
        ----------
        examples
            Inputs and labels of all parts.
        seed
            Of every choice that chance makes.
        folder
            For whatever it leaves; may not be there yet.

        Returns
        -------
        dict
            {objective: scores}, as `examples.kinds[objective]` describes them: probabilities [n, classes], numbers [n], ...
        """


class EmbeddingMethod(Method, ABC):
    """A method that embeds examples without seeing any label."""

    @abstractmethod
    def embed(self, examples: Examples, seed: int = 0, learn_from: np.ndarray | None = None) -> np.ndarray:
        """Embeddings [n, H] of all examples.

        Parameters
        ----------
        seed
            Of every choice that chance makes.
        learn_from
            Numbers of the examples that may be learned from; None is the training part.
        """


class OfSource(Method):
    """What methods share that go on from what another one makes."""

    source: Method

    def takes(self, task: TaskSpec) -> bool:
        return self.source.takes(task)

    def unavailable(self) -> str | None:
        return self.source.unavailable()

    def check(self, task: TaskSpec) -> None:
        self.source.check(task)

    @property
    def model_hash(self) -> str:
        return self.source.model_hash

    @property
    def parameters(self) -> int | None:
        return self.source.parameters

    def shared_work(self, data_hash: str) -> str | None:
        return self.source.shared_work(data_hash)

    def components(self) -> list[Any]:
        return [self, *self.source.components()]


def check_finite(embeddings: np.ndarray, examples: Examples) -> np.ndarray:
    """Embeddings [n, H] as they are; ValueError, naming the first example, where any is NaN or infinite."""
    if (bad := np.flatnonzero(~np.isfinite(embeddings).all(1))).size:
        raise ValueError(
            f"{examples.task.name}: {len(bad):,} of {len(embeddings):,} embeddings are not finite (first: {examples.where(int(bad[0]))}); "
            "they cannot be scored: embed without half precision, or mend the model's weights"
        )
    return embeddings
