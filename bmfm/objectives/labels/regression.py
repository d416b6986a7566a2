"""A number an example."""

from typing import Any

import numpy as np
import torch

from bmfm import label_kinds
from bmfm.objectives.labels.label import Label


class Regression(Label):
    """A number an example; squared error of the number scaled to mean 0 and deviation 1 over the training examples."""

    kind = label_kinds.Regression
    loss_name = "mse"
    as_text = False
    size = 1

    def encode(self, values: np.ndarray, train: np.ndarray) -> np.ndarray:
        labels = np.array([self._number(i, v) for i, v in enumerate(values)], np.float64)
        self.center, self.scale = float(np.mean(labels[train])), float(np.std(labels[train]))
        if np.ptp(labels[train]) == 0 or not self.scale:  # of equal numbers the mean is rounded, and the deviation then not 0
            raise ValueError(
                f"column {self.column!r}: all training examples have the number {self.center:g}, from which nothing can be learned; "
                "choose another column or data.split, or leave this objective out"
            )
        self.classes = []
        self.baseline = torch.zeros(1)
        return ((labels - self.center) / self.scale).astype(np.float32)

    def _number(self, row: int, value: Any) -> float:
        """A label as a number; NaN where there is none."""
        if value is None:
            return np.nan
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise ValueError(
                f"column {self.column!r}, {self.where(row)}: regression needs numbers, found {value!r}; "
                f"what stands for no label can be named: objectives.{self.name}.ignore_labels=[...]"
            ) from None
        if np.isinf(number) or abs(number) > float(np.finfo(np.float32).max):
            raise ValueError(
                f"column {self.column!r}, {self.where(row)}: regression needs finite numbers, found {value!r}; leave the label empty or mend it"
            )
        return number

    def describe(self) -> dict[str, Any]:
        return {"center": self.center, "scale": self.scale}

    def truth(self, labels: np.ndarray) -> np.ndarray:
        return labels.astype(np.float64) * self.scale + self.center

    def loss_per_example(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (logits[:, 0] - labels.nan_to_num(0.0)) ** 2

    def label_weights(self, labels: torch.Tensor) -> torch.Tensor:
        return (~labels.isnan()).float()
