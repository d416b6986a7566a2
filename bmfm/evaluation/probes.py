"""Probes: simple estimators on the embeddings of a model that stays as it is, in scikit-learn's terms."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

KINDS = ("classification", "multilabel", "regression")


class Embedder(TransformerMixin, BaseEstimator):
    """A model as the first step of a scikit-learn pipeline: sequences or cells in, embeddings [n, H] out.

    >>> make_pipeline(Embedder(bmfm.load("runs/dna_snp/model")), LogisticRegression())

    Parameters
    ----------
    model
        A `bmfm.inference.Predictor`, or a name that `bmfm.load` takes.
    pooling, layer, options
        As `Predictor.embed` takes them; pooling None is the model's own.
    """

    def __init__(self, model: Any, pooling: str | int | None = None, layer: int | None = None, options: dict | None = None):
        self.model, self.pooling, self.layer, self.options = model, pooling, layer, options

    def fit(self, X: Any, y: Any = None) -> "Embedder":
        """Nothing is learned."""
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Embeddings [n, H] of sequences, pairs of them, or an AnnData."""
        import bmfm

        if isinstance(self.model, str):
            self.model = bmfm.load(self.model)
        return self.model.embed(X, pooling=self.pooling, layer=self.layer, **(self.options or {}))

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_clone__(self) -> "Embedder":
        """Clones, as cross-validation makes of them, share the model: it has nothing to learn, and whatever it reads need not be copied."""
        return Embedder(**self.get_params(deep=False))


def estimator(kind: str, method: str = "linear", seed: int = 0) -> Pipeline:
    """What is fitted to embeddings (or any features): standardised, then ``linear`` or ``knn``.

    Parameters
    ----------
    kind
        ``classification``, ``multilabel`` or ``regression``.
    method
        ``linear``: logistic regression (C = 1) or ridge regression (penalty chosen by leave-one-out on the training
        examples); ``knn``: the 10 nearest training examples.
    """
    if kind not in KINDS or method not in ("linear", "knn"):
        raise ValueError(f"no probe of kind {kind!r} by {method!r}: kinds are {', '.join(KINDS)}; methods linear and knn")
    if method == "knn":
        return make_pipeline(StandardScaler(), KNeighborsRegressor(10) if kind == "regression" else KNeighborsClassifier(10))
    if kind == "regression":
        return make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 5, 15)))
    linear = LogisticRegression(max_iter=1000, random_state=seed)
    return make_pipeline(StandardScaler(), OneVsRestClassifier(linear) if kind == "multilabel" else linear)


def probe(model: Any, kind: str = "classification", method: str = "linear", **embedding) -> Pipeline:
    """A model and an estimator in one: ``probe(model).fit(sequences, labels).predict(others)``.

    Parameters
    ----------
    model, embedding
        As `Embedder` takes them.
    kind, method
        As `estimator` takes them.
    """
    return make_pipeline(Embedder(model, **embedding), *(step for _, step in estimator(kind, method).steps))
