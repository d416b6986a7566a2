"""Any number of classes an example."""

import re
import warnings
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from bmfm import label_kinds
from bmfm.data.spec import DataSpec
from bmfm.objectives.labels.label import Label


class MultiLabel(Label):
    """Any number of classes an example; binary cross-entropy each.

    Parameters
    ----------
    separator
        Between the classes that the column names.
    columns
        Instead of one column: a regular expression of the names of columns that hold 0 or 1 (or nothing), a class each.
    shared
        What every `Label` takes.
    """

    kind = label_kinds.MultiLabel
    loss_name = "binary_cross_entropy"

    def __init__(self, separator: str = "|", columns: str | None = None, **shared: Any):
        super().__init__(**shared)
        self.separator, self.columns, self.as_text, self.n_partly_unknown = separator, columns, columns is None, 0

    def read(self, spec: DataSpec) -> tuple[np.ndarray, np.ndarray]:
        """Values of the one column; or those of all columns, float32 [n, columns], of which a row without any is missing."""
        if not self.columns:
            return super().read(spec)
        self.classes = [c for c in spec.column_names if re.fullmatch(self.columns, c)]
        if not self.classes:
            raise ValueError(f"objective {self.name}: no column's name matches columns={self.columns!r}")
        written = pd.DataFrame({c: self.read_column(spec, c) for c in self.classes}, dtype=object)
        values = written.apply(pd.to_numeric, errors="coerce").to_numpy(np.float32, na_value=np.nan)
        wrong = (written.notna().to_numpy() & np.isnan(values)) | ~(np.isnan(values) | np.isin(values, (0, 1)))
        if wrong.any():
            row, column = (int(i) for i in np.argwhere(wrong)[0])
            raise ValueError(
                f"objective {self.name}: column {self.classes[column]!r}, {self.where(row)}: found {written.iloc[row, column]}, 0 or 1 is needed"
            )
        self.column = self.classes[0]
        return values, np.isnan(values).all(1)

    def encode(self, values: np.ndarray, train: np.ndarray) -> np.ndarray:
        labels = values if self.columns else self._encode_names(values, train)
        self.size = len(self.classes)
        share = (np.nansum(labels[train], 0) + 0.5) / ((~np.isnan(labels[train])).sum(0) + 1)
        self.baseline = torch.from_numpy(np.log(share / (1 - share))).float()
        return labels

    def _encode_names(self, values: np.ndarray, train: np.ndarray) -> np.ndarray:
        sets = [None if v is None else {s.strip() for s in str(v).split(self.separator) if s.strip()} for v in values]
        self.classes = sorted(set().union(*(s for s, t in zip(sets, train, strict=True) if t and s)))
        number = {c: i for i, c in enumerate(self.classes)}
        labels = np.full((len(values), len(self.classes)), np.nan, np.float32)
        for i, names in enumerate(sets):
            known = [number[c] for c in names or () if c in number]
            if known or names == set():  # of whom only classes are named that training lacks, nothing is known of the others
                labels[i] = 0
                labels[i, known] = 1
        partly = [i for i, names in enumerate(sets) if names and not names <= number.keys()]
        self.n_partly_unknown = len(partly)
        if partly:
            warnings.warn(
                f"objective {self.name}: {len(partly):,} held-out examples have classes in column {self.column!r} that training lacks "
                f"(first: {values[partly[0]]!r}, {self.where(partly[0])}); these classes are not scored, nor examples that have no other",
                stacklevel=2,
            )
        return labels

    def summary(self, n_train: int, unknown: np.ndarray) -> str:
        n = self.n_partly_unknown - self.n_unknown
        return super().summary(n_train, unknown) + (
            f"; {n:,} held-out examples are scored without classes that training lacks" if n else ""
        )

    def loss_per_example(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.binary_cross_entropy_with_logits(logits, labels.nan_to_num(0.0), reduction="none")

    def label_weights(self, labels: torch.Tensor) -> torch.Tensor:
        return (~labels.isnan()).float()

    def score_logits(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The metrics of the kind, and F1 over all labels of all examples."""
        predicted, true = (self.label_kind.scores(logits) > 0.5) & ~np.isnan(labels), labels == 1
        micro = 2 * (predicted & true).sum() / max(predicted.sum() + true.sum(), 1)
        return super().score_logits(logits, labels) | {"micro_f1": float(micro)}
