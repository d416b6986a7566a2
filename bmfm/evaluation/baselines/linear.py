"""Linear models on simple features."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.methods.base import LabelMethod
from bmfm.evaluation.methods.probe import fit_and_predict, labels_as


class LinearBaseline(LabelMethod):
    """Logistic or ridge regression on k-mers of sequences, or on normalised log counts of all genes."""

    def __init__(self, name: str, omics: Sequence[str]):
        super().__init__(name)
        self.omics = tuple(omics)

    def predict(self, examples: Examples, seed: int, folder: Path) -> dict[str, np.ndarray]:
        from sklearn.linear_model import LogisticRegression, Ridge
        from sklearn.multiclass import OneVsRestClassifier

        features = {part: examples.features(part) for part in ("train", "test")}
        linear = LogisticRegression(max_iter=300)
        estimators = {"classification": linear, "multilabel": OneVsRestClassifier(linear), "regression": Ridge(1.0)}
        return {name: fit_and_predict(estimators[labels_as(examples, name)], features, examples, name) for name in examples.kinds}
