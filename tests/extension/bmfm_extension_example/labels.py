"""A kind of label: whole numbers from 0 on, learned as the rate of a Poisson distribution."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional

from bmfm.label_kinds import LabelKind
from bmfm.metrics import Metric, Weighted, regression
from bmfm.objectives.labels import Label


def poisson_deviance(truth: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Deviance of each example [n]: 0 for a perfect prediction."""
    log_ratio = np.log(np.where(truth > 0, truth, 1.0) / np.where(truth > 0, rates, 1.0))
    return 2 * (truth * log_ratio - (truth - rates))


class Count(LabelKind):
    """Labels and scores are numbers [n]; a logit is the logarithm of the rate."""

    described: ClassVar[Mapping[str, Metric]] = {"poisson_deviance": Metric("mean Poisson deviance", 0.0, np.inf, more_is_better=False)}
    simple_as = "regression"

    def scores(self, logits: np.ndarray) -> np.ndarray:
        return np.exp(logits[:, 0].astype(np.float64))

    def columns(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        return {"": scores}

    def from_columns(self, columns: Callable[[str], np.ndarray]) -> np.ndarray:
        return columns("")

    def metrics(self, truth: np.ndarray, scores: np.ndarray) -> Weighted:
        deviance, of_numbers = poisson_deviance(truth, scores), regression(truth, scores)
        return lambda weight: of_numbers(weight) | {"poisson_deviance": float(weight @ deviance / weight.sum())}


class CountLabel(Label):
    """A count an example; the negative log-likelihood of a Poisson distribution."""

    kind = Count
    loss_name = "poisson"
    as_text = False
    size = 1

    def encode(self, values: np.ndarray, train: np.ndarray) -> np.ndarray:
        labels = np.array([np.nan if value is None else float(value) for value in values], np.float32)
        if (labels < 0).any():
            raise ValueError(f"column {self.column!r}, {self.where(int((labels < 0).argmax()))}: a count is 0 or more")
        self.classes, self.baseline = [], torch.tensor([float(np.log(labels[train].mean() + 1e-8))])
        return labels

    def loss_per_example(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.poisson_nll_loss(logits[:, 0], labels.nan_to_num(0.0), full=True, reduction="none")

    def label_weights(self, labels: torch.Tensor) -> torch.Tensor:
        return (~labels.isnan()).float()
