"""A simple estimator on embeddings."""

from pathlib import Path
from typing import Any

import numpy as np

from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.methods.base import EmbeddingMethod, LabelMethod, OfSource, check_finite
from bmfm.evaluation.probes import estimator
from bmfm.evaluation.task_spec import TaskSpec


class Probe(OfSource, LabelMethod):
    """A simple estimator on a method's embeddings, see `probes.estimator`.

    Parameters
    ----------
    source
        What embeds.
    method
        ``linear`` or ``knn``.
    """

    source: EmbeddingMethod

    def __init__(self, source: EmbeddingMethod, method: str = "linear"):
        super().__init__(source.name)
        self.source, self.method, self.kind = source, method, source.kind
        self.mode = f"{method}_probe" if source.mode == "zero_shot" else source.mode
        self.deterministic = source.deterministic

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        return {"source": self.source.identity(task), "method": self.method}

    def predict(self, examples: Examples, seed: int, folder: Path) -> dict[str, np.ndarray]:
        embeddings = check_finite(self.source.embed(examples, seed), examples)
        self.counts = self.source.counts
        features = {part: embeddings[numbers] for part, numbers in examples.parts.items()}
        return {
            name: fit_and_predict(estimator(labels_as(examples, name), self.method, seed), features, examples, name)
            for name in examples.kinds
        }


def labels_as(examples: Examples, name: str) -> str:
    """What a simple estimator takes the labels of an objective for; ValueError where it cannot learn them."""
    kind = examples.kinds[name]
    if not kind.simple_as:
        raise ValueError(f"{examples.task.name}: labels of the kind {type(kind).__name__} are not for simple estimators")
    return kind.simple_as


def fit_and_predict(estimator: Any, features: dict[str, Any], examples: Examples, name: str) -> np.ndarray:
    """Scores of the test part [n, C], or numbers [n], by an estimator that sees the training part alone.

    Parameters
    ----------
    estimator
        Of scikit-learn, for the labels as `labels_as` says.
    features
        {part: rows [n, F]}, dense or sparse.
    """
    kind, labels = labels_as(examples, name), examples.labels("train", name)
    if kind == "multilabel":
        rows = ~np.isnan(labels).any(1)  # an estimator of several labels needs all of them
        scores = estimator.fit(features["train"][rows], labels[rows].astype(int)).predict_proba(features["test"])
        return scores if not isinstance(scores, list) else np.stack([_last_column(p) for p in scores], 1)
    rows = examples.kinds[name].has_label(labels)
    fitted = estimator.fit(features["train"][rows], labels[rows])
    return fitted.predict(features["test"]) if kind == "regression" else fitted.predict_proba(features["test"])


def _last_column(probabilities: np.ndarray) -> np.ndarray:
    """Probability of a label [n] from those of its outcomes; 0 where training has it nowhere."""
    return probabilities[:, -1] if probabilities.shape[1] > 1 else np.zeros(len(probabilities))
