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


def leave_one_group_out(features: np.ndarray, target: np.ndarray, groups: np.ndarray, is_class: bool, seed: int = 0) -> np.ndarray:
    """Predictions [n] for the rows of each group, by an estimator that has seen the other groups alone.

    Features are standardised by the other groups. Logistic or ridge regression; its penalty is chosen by cross-validation over the other
    groups, for the log-loss or the squared error, which keep predictions of all groups on one scale.

    Parameters
    ----------
    features
        [n, F], finite.
    target
        Classes 0 and 1, or numbers, [n]; rows of NaN are predicted and not learned from.
    groups
        What is left out whole, [n].

    Raises
    ------
    ValueError
        Where there are fewer than three groups.
    """
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV, GroupKFold

    names = np.unique(groups)
    if len(names) < 3:
        raise ValueError(
            f"a probe that leaves out one chromosome and chooses its penalty on the others needs three; there are {len(names)}"
        )
    predicted = np.full(len(target), np.nan)
    for name in names:
        held = groups == name
        learned = ~held & ~np.isnan(target)
        folds = GroupKFold(min(5, len(names) - 1))
        linear = LogisticRegression(max_iter=1000, random_state=seed) if is_class else Ridge()
        penalties = {"linear__C": np.logspace(-3, 1, 5)} if is_class else {"linear__alpha": np.logspace(-1, 4, 6)}
        scoring = "neg_log_loss" if is_class else "neg_mean_squared_error"
        search = GridSearchCV(Pipeline([("scale", StandardScaler()), ("linear", linear)]), penalties, scoring=scoring, cv=folds)
        search.fit(features[learned], target[learned].astype(int) if is_class else target[learned], groups=groups[learned])
        predicted[held] = search.predict_proba(features[held])[:, 1] if is_class else search.predict(features[held])
    return predicted
