"""One class an example."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from bmfm import label_kinds
from bmfm.objectives.labels.label import Label, check_at_least_two
from bmfm.special import IGNORE

MIN_EXAMPLES = 20
MAX_CLASSES_PER_EXAMPLE = {"numbers": 0.5, "names": 0.9}
"""Of so many training examples or more, there are no more classes than this share of them, else the column holds numbers, or names of
examples."""


class Classification(Label):
    """One class an example, by cross-entropy.

    Parameters
    ----------
    focal
        Exponent gamma of the focal loss (Lin et al., ICCV 2017); 0 is cross-entropy.
    class_weights
        {class: weight}, or ``balanced``: inverse to the class's frequency in training, mean 1.
    shared
        What every `Label` takes.
    """

    kind = label_kinds.Classification
    loss_name = "cross_entropy"

    def __init__(self, focal: float = 0.0, class_weights: str | Mapping[str, float] | None = None, **shared: Any):
        super().__init__(**shared)
        self.focal, self.class_weights = focal, class_weights

    def encode(self, values: np.ndarray, train: np.ndarray) -> np.ndarray:
        self.classes = _learn_classes(values, train, self.column)
        self.size = len(self.classes)
        number = {c: i for i, c in enumerate(self.classes)}
        labels = np.array([IGNORE if v is None else number.get(str(v), IGNORE) for v in values], np.int64)
        counts = np.bincount(labels[train], minlength=self.size)
        self.baseline = torch.from_numpy(np.log((counts + 0.5) / (counts + 0.5).sum())).float()
        self.weight_of_class = torch.from_numpy(self._weights(counts)).float()
        return labels

    def _weights(self, counts: np.ndarray) -> np.ndarray:
        """Weight of each class [C], from its number of training examples [C]."""
        if self.class_weights == "balanced":
            return counts.sum() / np.maximum(counts, 1) / self.size
        if isinstance(self.class_weights, str):
            raise ValueError(f"class_weights={self.class_weights!r}: give `balanced` or a weight for each class")
        weights = dict(self.class_weights or {})
        if unknown := sorted(set(weights) - set(self.classes)):
            raise ValueError(f"class_weights names {unknown}, which are no classes of {self.column!r}: {self.classes}")
        return np.array([weights.get(c, 1.0) for c in self.classes])

    def loss_per_example(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
        return loss * (1 - (-loss).exp()) ** self.focal if self.focal else loss

    def label_weights(self, labels: torch.Tensor) -> torch.Tensor:
        return self.weight_of_class.to(labels.device)[labels.clamp(min=0)] * (labels != IGNORE)


def _learn_classes(values: np.ndarray, train: np.ndarray, column: str) -> list[str]:
    classes, n = sorted({str(v) for v in values[train]}), int(train.sum())
    are_numbers = bool(pd.to_numeric(pd.Series(classes, dtype=object), errors="coerce").notna().all())
    if n >= MIN_EXAMPLES and len(classes) > MAX_CLASSES_PER_EXAMPLE["numbers" if are_numbers else "names"] * n:
        raise ValueError(
            f"column {column!r}: {n:,} training examples have {len(classes):,} classes, so that it looks like "
            f"{'numbers' if are_numbers else 'ids'} rather than classes; learn numbers by objective=[regression], or choose another column"
        )
    check_at_least_two(classes, column)
    return classes
