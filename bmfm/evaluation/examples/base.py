"""The examples of a task: inputs, parts, labels; how often the test labels were read."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from bmfm.cli import instantiate
from bmfm.evaluation.checksums import content_hash
from bmfm.evaluation.task_spec import TaskSpec
from bmfm.label_kinds import LabelKind
from bmfm.objectives.labels.label import Label
from bmfm.objectives.multitask import Objectives


class Examples(ABC):
    """What a task's files hold, read by the same data module that fine-tuning reads it with.

    A subclass is for one kind of data. A task names it by ``task.examples``, or takes that of its omics (``conf/omics``).

    Attributes
    ----------
    task
        What the examples are of.
    hash
        `content_hash` of the data.
    parts
        {train, validation, test: numbers of the examples}.
    kinds
        {objective: kind of its labels, with the names of the classes}, of those that learn labels; classes are those of the
        training part.
    data
        The data module, connected to a tokenizer that loses nothing.
    test_uses
        How often labels of the test part were asked for.
    read_by
        Settings of the task's ``data`` that say how an example is read; what is made of examples is kept under their values.
    """

    read_by: ClassVar[tuple[str, ...]] = ()

    def __init__(self, task: TaskSpec, root: str | Path):
        self.task, self.test_uses = task, 0
        self.hash = content_hash(task.data_paths(root))
        self.data = instantiate(task.config.data, num_workers=0, packing=False, _convert_="all")
        self.data.connect(self.lossless_tokenizer())
        self._compare_rows()
        self.parts: dict[str, np.ndarray] = {part: numbers for part, numbers in self.data.numbers.items() if len(numbers)}
        self.kinds: dict[str, LabelKind] = {}
        self._labels: dict[str, np.ndarray] = {}
        tasks = {name: instantiate(o, _convert_="all") for name, o in (task.config.get("objectives") or {}).items() if o}
        if tasks:
            Objectives(tasks).connect(self.data)
        for name, objective in tasks.items():
            if isinstance(objective, Label):
                self.kinds[name], self._labels[name] = objective.label_kind, objective.benchmark_labels()

    @abstractmethod
    def __len__(self) -> int:
        """Examples of all parts together, and those of none."""

    @abstractmethod
    def lossless_tokenizer(self) -> Any:
        """A tokenizer that keeps everything of an example."""

    @property
    @abstractmethod
    def inputs(self) -> Any:
        """All examples, as `Predictor.embed` takes them."""

    @abstractmethod
    def of(self, part: str) -> Any:
        """The inputs of a part."""

    @abstractmethod
    def input_hashes(self) -> list[bytes]:
        """A hash of each input [n], the same for inputs that are the same to a biologist; empty for an input that is like no other."""

    @property
    def texts(self) -> list[str] | None:
        """The inputs as sequences [n], where they are sequences."""
        return None

    @staticmethod
    def predictor_options(data: Mapping[str, Any]) -> dict[str, Any]:
        """How `Predictor.embed` and `predict` shall read the inputs, from the ``data`` of a configuration."""
        return {"max_tokens": data["max_tokens"]}

    @staticmethod
    def draws_test_part(data: Mapping[str, Any]) -> bool:
        """Whether the test part is drawn by ``data.split.seed``, from the ``data`` of a configuration."""
        split = data.get("split") or {}
        return split.get("by") in ("random", "stratified", "group") and bool(split.get("test"))

    def stored_embeddings(self, key: str) -> np.ndarray:
        """Embeddings [n, H] that the data themselves hold under a name; ValueError where they hold none."""
        raise ValueError(f"{self.task.name}: only cells have embeddings in .obsm, {key!r} was asked for; give path=TABLE instead")

    def name_columns(self, table: pd.DataFrame) -> list:
        """Leading columns of a table that say which example a row is; none where its rows are numbers alone."""
        return []

    def names(self, columns: Sequence, table_names: Sequence[str]) -> list[str] | None:
        """The name of each example [n] as these columns of a table hold it; None where the table has the examples in their order."""
        raise ValueError(f"{self.task.name}: its examples have no names; give a table of numbers alone, and ordered: true")

    @property
    def names_in_words(self) -> str:
        """What the columns of names must hold."""
        return "names of the examples"

    def read_table(self, file: Path) -> pd.DataFrame:
        """A table of the user's, with names of its rows as the first column where it has such."""
        from bmfm.data.tables import read_table

        table = read_table(file)
        return table if isinstance(table.index, pd.RangeIndex) else table.reset_index()

    def _compare_rows(self) -> None:
        """Warn if the task says that its files hold another number of examples."""
        rows = [f.rows for f in self.task.files]
        if rows and all(rows) and len(self) != sum(map(int, filter(None, rows))):
            warnings.warn(
                f"{self.task.name} holds {len(self):,} examples, its specification says {rows}: these may be other data", stacklevel=2
            )

    def column(self, name: str) -> np.ndarray:
        """A column of all examples as text: batches, donors."""
        return self.data.column(name).astype(str)

    def where(self, number: int) -> str:
        """An example as messages name it: its file and row, or cell."""
        return self.data.where(number)

    def labels(self, part: str, name: str) -> np.ndarray:
        """Labels of a part for one objective, as its kind describes them; those of the test part are counted."""
        self.test_uses += part == "test"
        return self._labels[name][self.parts[part]]

    def labels_of_all(self, name: str) -> np.ndarray:
        """Labels of the examples of every part [n, ...], for what describes the data; methods and protocols ask for those of a part."""
        return self._labels[name]

    def features(self, part: str) -> Any:
        """Rows for simple methods, CSR [n, features]: k-mers of sequences, or normalised log counts of all genes."""
        return self.data.features(part, next(iter(self.kinds)))[0]
