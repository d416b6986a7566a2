"""The examples of a task as any method can take them: inputs, parts, labels; how often the test labels were read."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bmfm.cli import instantiate
from bmfm.evaluation.tasks import TaskSpec, content_hash, data_paths
from bmfm.label_kinds import Bases, Classification, MultiLabel, Regression

KINDS = {Classification: "classification", MultiLabel: "multilabel", Regression: "regression", Bases: "bases"}


@dataclass(frozen=True)
class ObjectiveLabels:
    """ObjectiveLabels of all examples, for one objective of a card.

    Parameters
    ----------
    kind
        ``classification`` (class numbers [n], -100 for none), ``multilabel`` (0, 1 or NaN [n, C]), ``regression``
        (numbers [n]), or ``bases`` (lists with a class for each base, None for no labels).
    classes
        Names, in the order of their numbers; from the training part.
    """

    kind: str
    classes: list[str]
    values: np.ndarray


class Examples:
    """What a card's files hold, read by the same data module that fine-tuning reads it with.

    Attributes
    ----------
    inputs
        Sequences (a Series; of pairs a frame), or an AnnData.
    parts
        {train, validation, test: numbers of the examples}.
    data
        The data module, bound to a tokenizer that loses nothing (single bases; all genes of the file).
    test_uses
        How often labels of the test part were asked for.
    """

    def __init__(self, card: TaskSpec, root: str | Path):

        from bmfm.objectives.multitask import Objectives

        self.card, self.test_uses = card, 0
        self.hash = content_hash(data_paths(card, root))
        self.data = instantiate(card.config.data, num_workers=0, packing=False, _convert_="all")
        self.data.connect(_lossless_tokenizer(card))
        self._compare_rows()
        objectives = Objectives({name: instantiate(o, _convert_="all") for name, o in card.config.objectives.items() if o})
        objectives.setup(self.data.spec())
        for name, labels in objectives.labels.items():
            self.data.add_labels(name, labels)
        self.parts = {part: numbers for part, numbers in self.data.numbers.items() if len(numbers)}
        self._labels = {name: self._read(name, o) for name, o in objectives.tasks.items()}

    def _compare_rows(self) -> None:
        """Warn if the card says that its files hold another number of examples."""
        said = [f.rows for f in self.card.files]
        n = len(self.data.table if self.card.omics == "dna" else self.data.cells)
        if said and all(said) and n != sum(map(int, filter(None, said))):
            import warnings

            warnings.warn(f"{self.card.name} holds {n:,} examples, its card says {said}: these may be other data", stacklevel=2)

    def _read(self, name: str, objective) -> ObjectiveLabels:
        if objective.kind not in KINDS:
            raise ValueError(f"{self.card.name}: labels learned by {objective.loss_name} cannot be scored; {', '.join(KINDS.values())} can")
        kind = KINDS[objective.kind]
        return ObjectiveLabels(kind, objective.classes, objective.benchmark_labels())

    @property
    def kinds(self) -> dict[str, tuple[str, list[str]]]:
        """{objective: (kind of label, classes)}."""
        return {name: (labels.kind, labels.classes) for name, labels in self._labels.items()}

    @property
    def inputs(self) -> Any:
        if self.card.omics == "rna":
            return self.adata
        table, sequence, second = self.data.table, self.data.sequence, self.data.second
        return table[[sequence, second]].set_axis(["sequence", "second"], axis=1) if second else table[sequence]

    @cached_property
    def adata(self):
        """The cells of all files, in the order of their numbers."""
        import anndata

        from bmfm.cells.formats import AnnDataView, find_sources

        read = [AnnDataView(source).whole() for source in find_sources(self.data.path)]
        return read[0] if len(read) == 1 else anndata.concat(read, join="outer", fill_value=0)

    def column(self, name: str) -> np.ndarray:
        """A column of all examples as text: batches, donors."""
        return self.data.column(name).astype(str)

    def of(self, part: str) -> Any:
        """The inputs of a part."""
        numbers = self.parts[part]
        return self.inputs[numbers].copy() if self.card.omics == "rna" else self.inputs.iloc[numbers]

    def labels(self, part: str, name: str) -> np.ndarray:
        """ObjectiveLabels of a part; those of the test part are counted."""
        self.test_uses += part == "test"
        return self._labels[name].values[self.parts[part]]

    def features(self, part: str) -> Any:
        """Rows for simple methods, CSR [n, features]: k-mers of sequences, or normalised log counts of all genes."""
        name = next(iter(self._labels))
        return self.data.features(part, name)[0]


def _lossless_tokenizer(card: TaskSpec):
    if card.omics == "rna":
        from bmfm.tokenizers.rna import CellTokenizer

        return CellTokenizer("from_data", values={"kind": "log_normalise" if card.config.data.expects == "counts" else "as_is"})
    from bmfm.tokenizers import dna

    return dna.single_base()
