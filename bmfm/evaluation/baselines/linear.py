"""Linear models on simple features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from scipy.sparse import csr_matrix

from bmfm.evaluation.baselines.network import N_BASES, base_codes
from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.methods.base import LabelMethod
from bmfm.evaluation.methods.probe import fit_and_predict, labels_as
from bmfm.evaluation.task_spec import TaskSpec


class LinearBaseline(LabelMethod):
    """Logistic or ridge regression on k-mers of sequences, or on normalised log counts of all genes."""

    def __init__(self, name: str, omics: Sequence[str]):
        super().__init__(name)
        self.omics = tuple(omics)

    def predict(self, examples: Examples, seed: int, folder: Path) -> dict[str, np.ndarray]:
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.multiclass import OneVsRestClassifier

        features = {part: self.features(examples, part) for part in ("train", "test")}
        linear = LogisticRegression(max_iter=300)
        estimators = {"classification": linear, "multilabel": OneVsRestClassifier(linear), "regression": Ridge(1.0)}
        return {name: fit_and_predict(estimators[labels_as(examples, name)], features, examples, name) for name in examples.kinds}

    def features(self, examples: Examples, part: str) -> Any:
        """Rows of a part, CSR [n, features]."""
        return examples.features(part)


class PlacesBaseline(LinearBaseline):
    """The same on which base stands where, of sequences that all have one length, as a task's card says.

    Where they are cut out around something, as a start of transcription, no count of k-mers says as much.
    """

    longest: ClassVar[int] = 1024

    def takes(self, task: TaskSpec) -> bool:
        return super().takes(task) and 0 < (task.length or 0) <= self.longest

    def features(self, examples: Examples, part: str) -> csr_matrix:
        texts = examples.texts or []
        codes = base_codes([texts[number] for number in examples.parts[part]])[:, : examples.task.length]
        row, place = np.nonzero(codes < N_BASES)
        shape = len(codes), N_BASES * (examples.task.length or 0)
        return csr_matrix((np.full(len(row), shape[1] ** -0.5), (row, N_BASES * place + codes[row, place])), shape)
