"""Labels of the tokens of DNA, from labels of bases: variant or not, exon or intron."""

from functools import reduce
from typing import Any

import numpy as np
import torch

from bmfm import label_kinds
from bmfm.data.spec import DataSpec
from bmfm.objectives.labels.classification import Classification
from bmfm.objectives.objective import HasHeads
from bmfm.special import IGNORE
from bmfm.tokenizers.batch import Batch


class TokenClassification(Classification):
    """One class a token.

    The column holds a label for each base: as many characters as the sequence has bases, or names with a separator
    between them. A token of several bases has the first of their labels that is not the background.

    Parameters
    ----------
    separator
        Between the labels of neighbouring bases; empty where each is one character.
    background
        The label that yields to others within a token.
    shared
        What every `Classification` takes.
    """

    kind = label_kinds.Bases
    loss_name = "token_cross_entropy"
    is_of_examples = False
    as_text = False  # characters that were read as numbers are refused, rather than read once more

    def __init__(self, separator: str = "", background: str = "0", **shared: Any):
        super().__init__(**{"pooling": "token"} | shared)
        if self.pooling != "token":
            raise ValueError(f"token labels are read from every token: pooling={self.pooling!r} has no meaning")
        self.separator, self.background = separator, background

    def setup(self, name: str, spec: DataSpec) -> None:
        if spec.token_spans is None:
            raise ValueError(f"objective {name}: only DNA from tables (data=table) has labels of tokens")
        self.name, self.column, self.where = name, self.column or name, spec.where
        self.bases = [self._of_bases(value) for value in self.read_column(spec, self.column)]
        if not any(self.bases[n] for n in spec.training_examples):
            raise ValueError(f"objective {name}: no training example has a label in column {self.column!r}")
        spans = spec.token_spans()
        is_cut = spec.is_cut if spec.is_cut is not None else np.zeros(len(spans), bool)
        values = [self._of_tokens(row, bases, spans[row], bool(is_cut[row])) for row, bases in enumerate(self.bases)]
        n_tokens = [len(v) for v in values]
        train = np.repeat(np.isin(np.arange(len(values)), spec.training_examples), n_tokens)
        flat = np.concatenate(values)
        has_value = np.array([v is not None for v in flat])
        labels = self.encode(flat, train & has_value)
        of_examples = np.split(labels, np.cumsum(n_tokens)[:-1])
        self.labels = {name: of_examples}
        n_unknown = int(((labels == IGNORE) & has_value).sum())
        text = f"{int((labels[train] != IGNORE).sum()):,} training tokens, classes {', '.join(self.classes)}"
        text += f"; {n_unknown:,} held-out tokens have classes that training lacks, not scored" if n_unknown else ""
        self.notes = {f"labels {name}": text}
        self.finish_setup({p: any((of_examples[n] != IGNORE).any() for n in numbers) for p, numbers in spec.parts.items() if len(numbers)})

    def describe(self) -> dict[str, Any]:
        return {"separator": self.separator}

    def benchmark_labels(self) -> np.ndarray:
        return label_kinds.ragged(self.bases)

    def _of_bases(self, value: Any) -> list[str] | None:
        """The labels of the bases of one example; None where it has none."""
        if value is None or value != value:
            return None
        if not isinstance(value, str):
            raise ValueError(f"column {self.column!r} was read as numbers, which lose leading zeros: add data.text=[{self.column}]")
        return value.split(self.separator) if self.separator else list(value)

    def _of_tokens(self, row: int, bases: list[str] | None, spans: np.ndarray, is_cut: bool) -> np.ndarray:
        """The label of each token, whose bases are given [L, 2] half-open; or None."""
        labels = np.full(len(spans), None, object)
        if bases is None:
            return labels
        n_bases = int(spans[-1, 1]) if len(spans) else 0
        if not is_cut and len(bases) != n_bases:
            raise ValueError(f"column {self.column!r}, {self.where(row)}: {len(bases)} labels for {n_bases} bases; write one a base")
        for i, (start, end) in enumerate(spans.tolist()):
            of_token = [b for b in bases[start:end] if b not in self.ignore_labels]
            if of_token:
                labels[i] = reduce(lambda chosen, b: b if chosen == self.background else chosen, of_token)
        return labels

    def _logits(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        labels = batch["labels"][self.name].flatten()
        places = torch.nonzero(labels != IGNORE)[:, 0]
        return model.head(self.name, hidden_BLH.flatten(0, 1)[places]).float(), labels[places]
