"""Kinds of labels: how labels of a kind are scored, and what is predicted from the logits of a head.

A kind is a class, named by its path: in the description of a head, and so in ``config.json``, as
``"kind": "bmfm.label_kinds.Classification"``. There is no list of kinds. One of your own is a subclass of `LabelKind` in a module
that Python can import, beside an objective (`objectives.labels.Label`) whose `kind` it is; training, `Predictor.predict` and the
benchmark find it by its name and ask it alone.

A kind is made from the description of a head, {size, classes, ...}, which holds whatever the objective put there: a
kind keeps nothing else, so that a saved model predicts as it did in training.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bmfm import metrics
from bmfm.metrics import Metric, Weighted
from bmfm.special import IGNORE
from bmfm.targets import class_path, find_class


class LabelKind(ABC):
    """What labels of one kind are.

    Attributes
    ----------
    head
        The description of a head, {size, kind, classes, pooling, ...}.
    classes
        Names of the classes in the order of the logits; empty where there are none.
    described
        Metrics that do not ship with this package, {name: words, range and direction}.
    simple_as
        What simple methods (probes, baselines) take the labels for: ``classification``, ``multilabel``, ``regression``; empty
        where they cannot learn them.
    needs_classes
        Whether nothing can be predicted without names of classes.
    """

    described: ClassVar[Mapping[str, Metric]] = {}
    simple_as: ClassVar[str] = ""
    needs_classes: ClassVar[bool] = False

    def __init__(self, head: Mapping[str, Any]):
        self.head = dict(head)
        self.classes: list[str] = [str(c) for c in head.get("classes") or []]

    def check(self, where: str) -> None:
        """Raise a ValueError, which begins with `where`, if a saved description would give predictions that are nonsense."""
        if self.head.get("pooling") == "token":
            raise ValueError(f"{where} is a {type(self).__name__} of whole examples, its pooling cannot be token")

    @abstractmethod
    def scores(self, logits: np.ndarray) -> np.ndarray:
        """What is scored and kept of predictions, [n] or [n, ...], from logits [n, size]: probabilities, or numbers in the column's unit."""

    @abstractmethod
    def columns(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of `Predictor.predict` from scores: ``""`` is the one that has the head's name, others are put behind that name."""

    @abstractmethod
    def from_columns(self, columns: Callable[[str], np.ndarray]) -> np.ndarray:
        """Scores from the columns again; `columns` gives the one with such an ending."""

    @abstractmethod
    def metrics(self, truth: np.ndarray, scores: np.ndarray) -> Weighted:
        """Figures of examples that all have a label, as a function of the weights [n] of the examples (`metrics.score` draws them again)."""

    def has_label(self, truth: np.ndarray) -> np.ndarray:
        """Which examples have a label, bool [n]; `IGNORE` (of integers) and NaN are none."""
        has_number = truth != IGNORE if truth.dtype.kind in "iu" else ~np.isnan(truth)
        return has_number if has_number.ndim == 1 else has_number.any(tuple(range(1, has_number.ndim)))

    def scored_rows(self, truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Labels, scores, and the group of each row that is drawn whole (None: each row for itself), of a part's examples.

        Rows without a label are among them.

        Raises
        ------
        ValueError
            Where scores are not of the form of the labels.
        """
        n_columns = len(self.classes)
        expected = (len(truth), n_columns) if n_columns else (len(truth),)
        if scores.shape != expected:
            raise ValueError(f"scores have the shape {scores.shape}, the labels need {expected}")
        return truth, scores, None


class _Classes(LabelKind):
    needs_classes = True

    def check(self, where: str) -> None:
        super().check(where)
        self.check_classes(where)

    def check_classes(self, where: str) -> None:
        classes = self.head.get("classes") or []
        if len(set(self.classes)) != len(classes):
            raise ValueError(f"{where}.classes names a class twice")
        if classes and len(classes) != self.head["size"]:
            raise ValueError(f"{where} has {len(classes):,} classes, and its size is {self.head['size']:,}")

    def from_columns(self, columns: Callable[[str], np.ndarray]) -> np.ndarray:
        return np.stack([columns(f"_p_{c}") for c in self.classes], 1).astype(float)

    def _probabilities(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        return {f"_p_{c}": scores[:, i] for i, c in enumerate(self.classes)}


class Classification(_Classes):
    """One class an example: labels are class numbers [n] (`IGNORE`: none), scores are probabilities [n, C]."""

    simple_as = "classification"

    def scores(self, logits: np.ndarray) -> np.ndarray:
        return metrics.probabilities(logits)

    def columns(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        """The likeliest class, and each class's probability under ``_p_CLASS``."""
        return {"": np.array(self.classes, object)[scores.argmax(1)]} | self._probabilities(scores)

    def metrics(self, truth: np.ndarray, scores: np.ndarray) -> Weighted:
        return metrics.classification(truth, scores)


class MultiLabel(_Classes):
    """Any number of classes an example: labels are 0, 1 or NaN [n, C], scores are probabilities [n, C]."""

    simple_as = "multilabel"

    def scores(self, logits: np.ndarray) -> np.ndarray:
        return metrics.probabilities(logits, multilabel=True)

    def columns(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        """The classes of a probability above one half with ``|`` between them, and each class's probability."""
        likely = ["|".join(c for c, p in zip(self.classes, row, strict=True) if p > 0.5) for row in scores]
        return {"": np.array(likely, object)} | self._probabilities(scores)

    def metrics(self, truth: np.ndarray, scores: np.ndarray) -> Weighted:
        return metrics.multilabel(truth, scores)


class Regression(LabelKind):
    """A number an example: labels are numbers in the column's unit [n] (NaN: none), and so are scores.

    Logits are numbers less ``center`` over ``scale``, both in the head's description.
    """

    simple_as = "regression"

    def check(self, where: str) -> None:
        super().check(where)
        if self.head["size"] != 1 or self.classes:
            raise ValueError(f"{where} is a regression, one number: its size is {self.head['size']:,}, of {len(self.classes):,} classes")

    def scores(self, logits: np.ndarray) -> np.ndarray:
        return logits[:, 0].astype(np.float64) * self.head.get("scale", 1.0) + self.head.get("center", 0.0)

    def columns(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        return {"": scores}

    def from_columns(self, columns: Callable[[str], np.ndarray]) -> np.ndarray:
        return columns("")

    def metrics(self, truth: np.ndarray, scores: np.ndarray) -> Weighted:
        return metrics.regression(truth, scores)


class Bases(Classification):
    """One class a base, of heads that read every token (``pooling: token``).

    Labels of a part are lists of a class for each base (None: no labels); scores are such lists, too, or probabilities of all bases
    [bases, C] of the examples with labels, one after the other. The head's ``separator`` stands between the classes in a column.
    """

    simple_as = ""

    def check(self, where: str) -> None:
        if self.head.get("pooling") != "token":
            raise ValueError(f"{where} has labels of bases, which are read from every token: its pooling must be token")
        self.check_classes(where)

    def columns(self, scores: np.ndarray) -> dict[str, np.ndarray]:
        """The classes of each sequence [n] as one text; None for a sequence without."""
        separator = self.head.get("separator", "")
        return {"": np.array([None if bases is None else separator.join(bases) for bases in scores], object)}

    def from_columns(self, columns: Callable[[str], np.ndarray]) -> np.ndarray:
        separator = self.head.get("separator", "")
        return ragged([text.split(separator) if separator else list(text) for text in columns("")])

    def has_label(self, truth: np.ndarray) -> np.ndarray:
        return super().has_label(truth) if truth.dtype != object else np.array([bases is not None for bases in truth], bool)

    def scored_rows(self, truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Class numbers and certain scores of the bases of labelled sequences; the group of a base is its sequence."""
        number = {c: i for i, c in enumerate(self.classes)}
        labelled = [i for i, bases in enumerate(truth) if bases is not None]
        true = np.array([number.get(base, IGNORE) for i in labelled for base in truth[i]], np.int64)
        group = np.repeat(labelled, [len(truth[i]) for i in labelled])
        if scores.dtype == object:
            for i in labelled:
                if len(truth[i]) != len(scores[i]):
                    raise ValueError(f"test example {i} has labels for {len(truth[i])} bases, {len(scores[i])} were predicted")
            scores = np.eye(len(self.classes))[[number[base] for i in labelled for base in scores[i]]]
        if scores.shape != (len(true), len(self.classes)):
            raise ValueError(f"scores have the shape {scores.shape}, the labels need {(len(true), len(self.classes))}")
        return true, scores, group


class Terms(Classification):
    """A term of an ontology an example: labels are numbers of terms [n], scores are probabilities of the leaves [n, C].

    The head's ``leaves_below`` lists the leaves below each term, all of which are right.
    """

    described: ClassVar[Mapping[str, Metric]] = {"mean_recall": Metric("mean recall of terms")}
    simple_as = ""

    def metrics(self, truth: np.ndarray, scores: np.ndarray) -> Weighted:
        """Share of the examples whose likeliest leaf lies below their term, over all and as a mean over terms."""
        n_terms = len(self.head["leaves_below"])
        is_below = np.zeros((n_terms, len(self.classes)), bool)
        for term, leaves in enumerate(self.head["leaves_below"]):
            is_below[term, leaves] = True
        hits = is_below[truth, scores.argmax(1)]

        def of(weight: np.ndarray) -> dict[str, float]:
            n, right = np.bincount(truth, weight, n_terms), np.bincount(truth, weight * hits, n_terms)
            return {"accuracy": float(right.sum() / n.sum()), "mean_recall": float((right[n > 0] / n[n > 0]).mean())}

        return of


def ragged(lists: Sequence[list[str] | None]) -> np.ndarray:
    """Lists of any lengths as one object array [n]."""
    array = np.empty(len(lists), object)
    for i, values in enumerate(lists):
        array[i] = values
    return array


def kind_of(head: Mapping[str, Any], where: object = "heads", outside: Path | None = None) -> LabelKind:
    """The kind of a head's labels, `Classification` where the description names none.

    Parameters
    ----------
    head
        The description.
    where
        File and head, for errors.
    outside
        Folder of a saved model, whose own modules are not imported.

    Raises
    ------
    ValueError
        Where there is no such kind.
    """
    named: type[LabelKind] = find_class(head.get("kind", class_path(Classification)), LabelKind, f"{where}.kind", outside)
    return named(head)
