"""Labels of the tokens of DNA, from labels of bases: variant or not, exon or intron."""

from functools import reduce

import numpy as np
import torch

from bmfm.objectives.labels import Classification, parts_without_labels
from bmfm.special import IGNORE


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
    """

    kind = "token_cross_entropy"

    def __init__(self, separator: str = "", background: str = "0", **shared):
        super().__init__(**{"pooling": "token"} | shared)
        if self.pooling != "token":
            raise ValueError(f"token labels are read from every token: pooling={self.pooling!r} has no meaning")
        self.separator, self.background = separator, background

    def bind(self, name: str, data) -> None:
        if not hasattr(data, "add_token_labels"):
            raise ValueError(f"objective {name}: only DNA from tables (data=table) has labels of tokens")
        self.name, self.column, self.where = name, self.column or name, data.where
        bases = [self.of_bases(value) for value in data.column(self.column)]
        if not any(bases[n] for n in data.training_examples):
            raise ValueError(f"objective {name}: no training example has a label in column {self.column!r}")
        per_token = [
            self._of_tokens(row, b, lengths, cut)
            for row, (b, lengths, cut) in enumerate(zip(bases, data.token_lengths, data.cut, strict=True))
        ]
        n_tokens = [len(t) for t in per_token]
        train = np.repeat(np.isin(np.arange(len(bases)), data.training_examples), n_tokens)
        flat = np.concatenate(per_token)
        known = np.array([v is not None for v in flat])
        labels = self.encode(flat, train & known)
        of_examples = np.split(labels, np.cumsum(n_tokens)[:-1])
        data.add_token_labels(name, of_examples)
        labelled = {part: any((of_examples[n] != IGNORE).any() for n in numbers) for part, numbers in data.numbers.items() if len(numbers)}
        self.unscored = parts_without_labels(name, self.column, labelled)
        unknown = int(((labels == IGNORE) & known).sum())
        said = f"{int((labels[train] != IGNORE).sum()):,} training tokens, classes {', '.join(self.classes)}"
        said += f"; {unknown:,} held-out tokens have classes that training lacks, not scored" if unknown else ""
        data.note(f"labels {name}", said)
        head = {"size": self.size, "kind": self.kind, "column": self.column, "pooling": "token", "classes": self.classes}
        self.heads = {name: head | {"separator": self.separator, "dropout": self.dropout}}

    def of_bases(self, value) -> list[str] | None:
        """The labels of the bases of one example; None where it has none."""
        if value is None or value != value:
            return None
        if not isinstance(value, str):
            raise ValueError(f"column {self.column!r} was read as numbers, which lose leading zeros: add data.text=[{self.column}]")
        return str(value).split(self.separator) if self.separator else list(str(value))

    def _of_tokens(self, row: int, bases: list[str] | None, lengths: np.ndarray, cut: bool) -> np.ndarray:
        """The label of each token, or None."""
        out = np.full(len(lengths), None, object)
        if bases is None:
            return out
        if not cut and len(bases) != lengths.sum():
            raise ValueError(f"column {self.column!r}, {self.where(row)}: {len(bases)} labels for {lengths.sum()} bases; write one a base")
        starts = np.concatenate([[0], np.cumsum(lengths)])
        for i in range(len(lengths)):
            own = [b for b in bases[starts[i] : starts[i + 1]] if b not in self.silenced]
            if own:
                out[i] = reduce(lambda chosen, b: b if chosen == self.background else chosen, own)
        return out

    def _logits(self, model, batch: dict, hidden_BLH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        labels = batch["labels"][self.name].flatten()
        places = torch.nonzero(labels != IGNORE)[:, 0]
        return model.head(self.name, hidden_BLH.flatten(0, 1)[places]).float(), labels[places]
