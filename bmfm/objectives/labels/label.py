"""What all label tasks share: from a column to labels, from a state to a loss, from logits of all held-out examples to metrics."""

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from bmfm.data.spec import DataSpec
from bmfm.label_kinds import LabelKind
from bmfm.metrics import score
from bmfm.objectives.objective import HasHeads, Loss, Objective
from bmfm.special import IGNORE
from bmfm.targets import class_path
from bmfm.tokenizers.batch import Batch

POOLINGS = ("auto", "mean", "mean_all", "max_mean", "pooler")


class Label(Objective):
    """A label task.

    A subclass says three things: what its labels are (`kind`, a class of `bmfm.label_kinds`), how they are learned from a column
    (`encode`), and what they cost (`loss_per_example`, `label_weights`). Held-out examples are scored from the logits of all of them
    by `bmfm.metrics.score`, which are kept for it: 4 bytes an example and class.

    Parameters
    ----------
    column
        Where the labels are: ``.obs`` column or table column. None takes the objective's name.
    pooling
        Number of the CLS token that the head reads (0 is the first), ``mean``, ``mean_all``, ``max_mean`` or ``pooler``, see
        `BmfmModel.pool`; ``auto`` is the model's own.
    weight
        Of this loss among all.
    ignore_labels
        Labels that count as missing, as ``unknown``.
    gradient_reversal
        Coefficient of gradient reversal, for labels that the encoder shall forget (donor, batch); None does not reverse.
    dropout
        Of the state before the head.
    places
        Whether the head also reads what stands at each place (`models.heads.Places`), for sequences that are all cut out around something;
        ``auto``: where `data.dependence.place_gain` finds that labels depend on it.

    Attributes
    ----------
    kind
        How logits become predictions and metrics.
    loss_name
        Of its one loss.
    as_text
        Labels are names, read as they are written though they look like numbers: 01 is not 1.
    is_of_examples
        The head gives one row of logits an example, from the example alone, as `Predictor.logits` does, which then scores the test part.
    size, classes, baseline
        Learned by `encode`: number of logits; names of the classes; logits that say nothing but what is frequent.
    """

    kind: ClassVar[type[LabelKind]]
    loss_name: ClassVar[str]
    as_text: bool = True
    is_of_examples: ClassVar[bool] = True
    size: int
    classes: list[str]

    def __init__(
        self,
        column: str | None = None,
        pooling: str | int = "auto",
        weight: float = 1.0,
        ignore_labels: Sequence[str] = (),
        gradient_reversal: float | None = None,
        dropout: float = 0.0,
        places: bool | str = "auto",
    ):
        super().__init__()
        if places not in (True, False, "auto"):
            raise ValueError(f"places={places!r}: true, false or auto is expected")
        self.places = places
        self.column, self.pooling, self.ignore_labels = column or "", pooling, {str(label) for label in ignore_labels}
        self.weights, self.gradient_reversal, self.dropout = {self.loss_name: weight}, gradient_reversal, dropout
        self.monitored = not gradient_reversal

    @abstractmethod
    def encode(self, values: np.ndarray, train: np.ndarray) -> np.ndarray:
        """Labels of all examples, from a column's values (None where missing), learning `size`, `classes` and `baseline` from those in
        `train` [n] bool. `IGNORE` (of integers) and NaN are "no label"."""

    @abstractmethod
    def loss_per_example(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Loss of every label, of the shape of `label_weights`; any finite number where there is none."""

    @abstractmethod
    def label_weights(self, labels: torch.Tensor) -> torch.Tensor:
        """Weight of every label in the mean loss; 0 where there is none."""

    def describe(self) -> dict[str, Any]:
        """What else `kind` needs to know, for the description of the head."""
        return {}

    def truth(self, labels: np.ndarray) -> np.ndarray:
        """Labels as `kind` scores them, in the unit of the column."""
        return labels

    def setup(self, name: str, spec: DataSpec) -> None:
        """Learn classes and baselines from the training part.

        Raises
        ------
        ValueError
            Naming the column, and the example where there is one, if nothing can be learned from the labels.
        """
        self.name, self.column, self.where = name, self.column or name, spec.where
        self._check_pooling(spec)
        values, missing = self.read(spec)
        train = np.zeros(len(values), bool)
        train[spec.training_examples] = True
        labels = self.encode(values, train & ~missing)
        has_label = _has_label(labels)
        if not has_label[train].any():
            raise ValueError(f"objective {name}: no training example has a label in column {self.column!r}")
        self.labels = {name: labels}
        self.n_missing, self.n_unknown = int(missing.sum()), int((~has_label & ~missing).sum())
        self.notes = {f"labels {name}": self.summary(int(has_label[train].sum()), values[~has_label & ~missing])}
        labelled = {part: bool(has_label[numbers].any()) for part, numbers in spec.parts.items() if len(numbers)}
        self.finish_setup(labelled)

    def finish_setup(self, labelled: Mapping[str, bool]) -> None:
        """Describe the head, and warn of parts (`labelled` false) that have no label."""
        self.unscored = _parts_without_labels(self.name, self.column, labelled)
        head = {"size": self.size, "kind": class_path(self.kind), "column": self.column, "pooling": self.pooling, "classes": self.classes}
        head |= {"gradient_reversal": self.gradient_reversal, "dropout": self.dropout}
        self.heads = {self.name: head | self.describe()}

    def read_places(self, length: int) -> None:
        """Let the head read so many places beside the pooled state."""
        self.heads[self.name]["places"] = length

    def _check_pooling(self, spec: DataSpec) -> None:
        if isinstance(self.pooling, int):
            spec.check_cls(self.pooling, self.name)
        elif self.pooling not in POOLINGS:
            raise ValueError(
                f"objective {self.name}: pooling={self.pooling!r} is unknown; give the number of a CLS token, mean, mean_all, max_mean, pooler or auto"
            )

    def read_column(self, spec: DataSpec, name: str) -> np.ndarray:
        """A column of all examples, object [n]."""
        if spec.column is None:
            raise ValueError(f"objective {self.name}: these data have no columns of labels; choose data that have, as data=table")
        return spec.column(name, as_text=self.as_text)

    def read(self, spec: DataSpec) -> tuple[np.ndarray, np.ndarray]:
        """Values of all examples, None where missing, and which are missing [n]."""
        values = pd.Series(self.read_column(spec, self.column), dtype=object)
        text = values.astype(str)
        missing = values.isna() | text.isin(self.ignore_labels) | text.str.lower().isin(["", "nan"])
        return values.where(~missing, None).to_numpy(), missing.to_numpy()

    def summary(self, n_train: int, unknown: np.ndarray) -> str:
        """What a run says of the labels: how many training examples have one, and values that training does not know."""
        text = f"{n_train:,} training examples"
        if self.classes:
            text += f", {len(self.classes)} classes"
        if self.n_missing:
            text += f"; {self.n_missing:,} examples have none (missing or ignored)"
        if self.n_unknown:
            text += f"; {self.n_unknown:,} held-out examples have classes that training lacks (first: {unknown[0]!r}), not scored"
        return text

    @property
    def label_kind(self) -> LabelKind:
        """The kind, with the description of this head."""
        return self.kind(self.heads[self.name])

    def benchmark_labels(self) -> np.ndarray:
        """Labels of all examples as the benchmark keeps them and `kind` scores them."""
        labels = self.labels[self.name]
        assert isinstance(labels, np.ndarray)
        return self.truth(labels)

    def label_counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {self.loss_name: self.label_weights(batch["labels"][self.name]).sum()}

    def _logits(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return model.label(self.name, hidden_BLH, batch).float(), batch["labels"][self.name]

    def losses(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> dict[str, Loss]:
        logits, labels = self._logits(model, batch, hidden_BLH)
        loss, weight = self.loss_per_example(logits, labels), self.label_weights(labels)
        return {self.loss_name: Loss((loss * weight).sum(), weight.sum(), self.weights[self.loss_name])}

    def update_metrics(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.metrics_of(*self._logits(model, batch, hidden_BLH))

    def metrics_of(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """What `update_metrics` gives, from logits [n, size] and labels [n, ...]."""
        loss, weight = self.loss_per_example(logits, labels), self.label_weights(labels)
        baseline = self.loss_per_example(self.baseline.to(logits.device).expand_as(logits), labels)
        sums = torch.stack([(x * weight).sum().double() for x in (loss, torch.ones_like(loss), baseline)])
        return {f"loss/{self.loss_name}": sums} | self.labelled_rows(logits, labels)

    def labelled_rows(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits and labels of the examples that have one: what `compute_metrics` scores."""
        has_label = ~labels.isnan() if labels.is_floating_point() else labels != IGNORE
        has_label = has_label if has_label.ndim == 1 else has_label.flatten(1).any(1)
        return {"each/logits": logits[has_label].float(), "each/labels": labels[has_label]}

    def compute_metrics(self, sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Metrics of the examples that have a label; none where there are none, or where training came to numbers that are none."""
        logits, labels = sums["each/logits"].numpy(), sums["each/labels"].numpy()
        return self.score_logits(logits, labels) if len(labels) and np.isfinite(logits).all() else {}

    def score_logits(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Metrics of examples that all have a label [n, ...]."""
        kind = self.label_kind
        return score(kind.metrics, self.truth(labels), kind.scores(logits))[0]

    def rows(self, metrics: Mapping[str, float]) -> list[tuple[str, str]]:
        simple, loss = "logistic_regression_", self.loss_name
        shown = [k for k in metrics if not k.startswith((loss, simple))]
        beside = {k: f" (logistic regression {metrics[simple + k]:.4f})" for k in shown if simple + k in metrics}
        text = ", ".join(f"{k.replace('_', ' ')} {metrics[k]:.4f}{beside.get(k, '')}" for k in shown)
        if loss in metrics:
            text += f", loss {metrics[loss]:.4f} (frequencies {metrics[f'{loss}_baseline']:.4f}), n = {metrics[f'{loss}_n']:,.0f}"
        return [("", text)] if text else []


def _has_label(labels: np.ndarray) -> np.ndarray:
    known = labels != IGNORE if labels.dtype.kind == "i" else ~np.isnan(labels)
    return known if known.ndim == 1 else known.reshape(len(known), -1).any(1)


def _parts_without_labels(name: str, column: str, labelled: Mapping[str, bool]) -> set[str]:
    """The parts that have no label, which is told before training begins: nothing can be scored there."""
    parts = {part for part, there in labelled.items() if not there}
    for part in sorted(parts):
        warnings.warn(
            f"objective {name}: no {part} example has a label in column {column!r} that training knows: it is not scored there; "
            "a split by data.split.by=stratified +data.split.column=... gives every part its share",
            stacklevel=3,
        )
    return parts


def check_at_least_two(classes: list[str], column: str) -> None:
    """Raise a ValueError where there is but one class, and nothing to tell apart."""
    if len(classes) == 1:
        raise ValueError(
            f"column {column!r}: the training examples have only the class {classes[0]!r}, and one class cannot be learned; "
            "choose another column or data.split, or leave this objective out"
        )
