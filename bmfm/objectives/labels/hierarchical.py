"""A term of an ontology an example."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from bmfm import label_kinds
from bmfm.objectives.labels.label import Label, check_at_least_two
from bmfm.special import IGNORE


class Hierarchical(Label):
    """A term of an ontology an example: right is every leaf below it.

    The head's classes are the leaves among the terms that training has; loss = logsumexp(all) - logsumexp(leaves below).

    Parameters
    ----------
    ontology
        OBO file, as the Cell Ontology's ``cl-basic.obo``. Labels are term ids or names.
    renamed
        {label in the data: term}, for labels that are not in the ontology's words.
    shared
        What every `Label` takes.
    """

    kind = label_kinds.Terms
    loss_name = "hierarchical_cross_entropy"

    def __init__(self, ontology: str, renamed: Mapping[str, str] | None = None, **shared: Any):
        super().__init__(**shared)
        self.ontology, self.renamed = ontology, dict(renamed or {})

    def encode(self, values: np.ndarray, train: np.ndarray) -> np.ndarray:
        """Numbers of the terms that training has, in the order of their ids."""
        from bmfm.cells.ontology import Ontology

        ontology = Ontology.from_obo(self.ontology)
        distinct = {str(v) for v in values if v is not None}
        try:
            term = {v: ontology.resolve(self.renamed.get(v, v)) for v in distinct}
        except KeyError as error:
            raise ValueError(
                f"column {self.column!r}: {error.args[0]} Write the term's id or name into `renamed`, or name it in `ignore_labels`."
            ) from None
        terms = sorted({term[str(v)] for v in values[train]})
        leaves, below = ontology.leaf_sets(terms)
        self.classes = [ontology.names[leaf] for leaf in leaves]
        self.size = len(leaves)
        check_at_least_two(self.classes, self.column)
        is_below = np.zeros((len(terms), self.size), bool)
        for i, t in enumerate(terms):
            is_below[i, below[t]] = True
        self.is_below = torch.from_numpy(is_below)
        number = {t: i for i, t in enumerate(terms)}
        labels = np.array([IGNORE if v is None else number.get(term[str(v)], IGNORE) for v in values], np.int64)
        share = is_below[labels[train]].astype(np.float64)
        share = (share / share.sum(1, keepdims=True)).sum(0) + 0.5
        self.baseline = torch.from_numpy(np.log(share / share.sum())).float()
        return labels

    def describe(self) -> dict[str, Any]:
        """The leaves below each term, which is what `label_kinds.Terms` counts as right."""
        return {"leaves_below": [row.nonzero()[:, 0].tolist() for row in self.is_below]}

    def loss_per_example(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        is_below = self.is_below.to(logits.device)[labels.clamp(min=0)]
        return logits.logsumexp(1) - logits.masked_fill(~is_below, -torch.inf).logsumexp(1)

    def label_weights(self, labels: torch.Tensor) -> torch.Tensor:
        return (labels != IGNORE).float()
