"""Label tasks: one head on one state of an example."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from bmfm import metrics
from bmfm.metrics import probabilities, score
from bmfm.objectives import Loss
from bmfm.special import IGNORE

FEW, MANY = 20, {True: 0.5, False: 0.9}
"""Of so many training examples or more, classes (those that could be numbers, and others) are no larger a share, else the column
holds numbers, or names of examples."""


class Label(ABC):
    """What all label tasks share.

    Held-out examples are scored by `bmfm.metrics.score` from the logits of all of them, which are kept for it: 4 bytes an
    example and class.

    Parameters
    ----------
    column
        Where the labels are: ``.obs`` column or table column. None takes the objective's name.
    pooling
        Number of the CLS token that the head reads (0 is the first), ``mean``, ``mean_all`` or ``pooler``, see
        `BmfmModel.pool`; ``auto`` is the model's own.
    weight
        Of this loss among all.
    silenced
        Labels that count as missing, as ``unknown``.
    reversal
        Coefficient of gradient reversal, for labels that the encoder shall forget (donor, batch); None does not reverse.
    dropout
        Of the state before the head.
    """

    kind = ""
    of_text = True
    """Labels are names, read as they are written though they look like numbers: 01 is not 1."""

    def __init__(
        self,
        column: str | None = None,
        pooling: str | int = "auto",
        weight: float = 1.0,
        silenced: Sequence[str] = (),
        reversal: float | None = None,
        dropout: float = 0.0,
    ):
        self.column, self.pooling, self.silenced = column, pooling, {str(s) for s in silenced}
        self.weights, self.reversal, self.dropout = {self.kind: weight}, reversal, dropout

    @property
    def adversarial(self) -> bool:
        return bool(self.reversal)

    def bind(self, name: str, data) -> None:
        self.name = name
        self.column = self.column or name
        if isinstance(self.pooling, int):
            data.tokenizer.check_cls(self.pooling, name)
        elif self.pooling not in ("auto", "mean", "mean_all", "pooler"):
            raise ValueError(
                f"objective {name}: pooling={self.pooling!r} is unknown; give the number of a CLS token, mean, mean_all, pooler or auto"
            )
        self.where = data.where
        values = data.text_column(self.column) if self.of_text else data.column(self.column)
        text = pd.Series(values, dtype=object)
        missing = self._missing(text)
        train = np.zeros(len(values), bool)
        train[data.training_examples] = True
        labels = self.encode(text.where(~missing, None).to_numpy(), train & ~missing.to_numpy())
        if not self._given(labels[train]).any():
            raise ValueError(f"objective {name}: no training example has a label in column {self.column!r}")
        self.n_missing = int(missing.sum())
        unknown = ~self._given(labels) & ~missing.to_numpy()
        self.n_unknown = int(unknown.sum())
        data.add_labels(name, labels)
        data.note(f"labels {name}", self._said(labels[train], text, unknown))
        labelled = {part: bool(self._given(labels[numbers]).any()) for part, numbers in data.numbers.items() if len(numbers)}
        self.unscored = parts_without_labels(name, self.column, labelled)
        head = {"size": self.size, "kind": self.kind, "column": self.column, "pooling": self.pooling, "classes": self.classes}
        self.heads = {name: head | {"reversal": self.reversal, "dropout": self.dropout}}

    def _missing(self, text: pd.Series) -> pd.Series:
        written = text.astype(str)
        return text.isna() | written.isin(self.silenced) | written.str.lower().isin(["", "nan"])

    @staticmethod
    def _given(labels: np.ndarray) -> np.ndarray:
        given = labels != IGNORE if labels.dtype.kind == "i" else ~np.isnan(labels)
        return given if given.ndim == 1 else given.any(1)

    def _said(self, labels: np.ndarray, text: pd.Series, unknown: np.ndarray) -> str:
        said = f"{int(self._given(labels).sum()):,} training examples"
        if self.classes:
            said += f", {len(self.classes)} classes"
        if self.n_missing:
            said += f"; {self.n_missing:,} examples have none (missing or silenced)"
        if self.n_unknown:
            said += (
                f"; {self.n_unknown:,} held-out examples have classes that training lacks (first: {text[unknown].iloc[0]!r}), not scored"
            )
        return said

    def prepare(self, batch: dict, keys: np.ndarray, training: bool = True) -> None:  # noqa: B027 (there is nothing to do)
        """Labels come with the examples."""

    def label_counts(self, batch: dict) -> dict[str, torch.Tensor]:
        return {self.kind: self.weigh(batch["labels"][self.name]).sum()}

    def _logits(self, model, batch: dict, hidden_BLH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return model.head(self.name, model.pool(hidden_BLH, batch, self.pooling)).float(), batch["labels"][self.name]

    def losses(self, model, batch: dict, hidden_BLH: torch.Tensor) -> dict[str, Loss]:
        logits, labels = self._logits(model, batch, hidden_BLH)
        loss, weight = self.each(logits, labels), self.weigh(labels)
        return {self.kind: Loss((loss * weight).sum(), weight.sum(), self.weights[self.kind])}

    def score(self, model, batch: dict, hidden_BLH: torch.Tensor) -> dict[str, torch.Tensor]:
        logits, labels = self._logits(model, batch, hidden_BLH)
        loss, weight = self.each(logits, labels), self.weigh(labels)
        baseline = self.each(self.baseline.to(logits.device).expand_as(logits), labels)
        sums = {f"loss/{self.kind}": torch.stack([(x * weight).sum().double() for x in (loss, torch.ones_like(loss), baseline)])}
        return sums | self.figures(logits, labels)

    def figures(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """What `summarise` computes metrics from: by default the logits and labels of the examples that have one."""
        given = ~labels.isnan() if labels.is_floating_point() else labels != IGNORE
        given = given if given.ndim == 1 else given.any(1)
        return {"each/logits": logits[given].float(), "each/labels": labels[given]}

    def summarise(self, sums: dict[str, torch.Tensor]) -> dict[str, float]:
        """Metrics from what `figures` gave; none where there are no labels, or where training came to numbers that are none."""
        logits, labels = sums["each/logits"].numpy(), sums["each/labels"].numpy()
        return self.metrics(logits, labels) if len(labels) and np.isfinite(logits).all() else {}

    size: int
    classes: list[str]
    baseline: torch.Tensor  # logits that say nothing but what is frequent

    @abstractmethod
    def encode(self, values: np.ndarray, train: np.ndarray) -> np.ndarray:
        """Labels of all examples from a column's values (None where missing), learning classes from `train`."""

    @abstractmethod
    def each(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Loss of every label; any finite number where there is none."""

    @abstractmethod
    def weigh(self, labels: torch.Tensor) -> torch.Tensor:
        """Weight of every label in the mean loss; 0 where there is none."""

    @abstractmethod
    def metrics(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Metrics of the examples that have a label [n, ...]."""

    def rows(self, metrics: dict[str, float]) -> list[tuple[str, str]]:
        simple = "logistic_regression_"
        own = [k for k in metrics if not k.startswith((self.kind, simple))]
        beside = {k: f" (logistic regression {metrics[simple + k]:.4f})" for k in own if simple + k in metrics}
        said = ", ".join(f"{k.replace('_', ' ')} {metrics[k]:.4f}{beside.get(k, '')}" for k in own)
        if self.kind in metrics:
            said += f", loss {metrics[self.kind]:.4f} (frequencies {metrics[f'{self.kind}_baseline']:.4f}), n = {metrics[f'{self.kind}_n']:,.0f}"
        return [("", said)] if said else []


def _classes(values: np.ndarray, train: np.ndarray, column: str | None) -> list[str]:
    classes, n = sorted({str(v) for v in values[train]}), int(train.sum())
    numbers = bool(pd.to_numeric(pd.Series(classes, dtype=object), errors="coerce").notna().all())
    if n >= FEW and len(classes) > MANY[numbers] * n:
        raise ValueError(
            f"column {column!r}: {n:,} training examples have {len(classes):,} classes, so that it looks like "
            f"{'numbers' if numbers else 'ids'} rather than classes; learn numbers by objective=[regression], or choose another column"
        )
    return _at_least_two(classes, column)


def _at_least_two(classes: list[str], column: str | None) -> list[str]:
    """The classes, or a ValueError where there is but one, and nothing to tell apart."""
    if len(classes) == 1:
        raise ValueError(
            f"column {column!r}: the training examples have only the class {classes[0]!r}, and one class cannot be learned; "
            "choose another column or data.split, or leave this objective out"
        )
    return classes


def parts_without_labels(name: str, column: str | None, labelled: Mapping[str, bool]) -> set[str]:
    """The parts that have no label, which is told before training begins: nothing can be scored there."""
    parts = {part for part, there in labelled.items() if not there}
    for part in sorted(parts):
        warnings.warn(
            f"objective {name}: no {part} example has a label in column {column!r} that training knows: it is not scored there; "
            "a split by data.split.by=stratified +data.split.column=... gives every part its share",
            stacklevel=3,
        )
    return parts


class Classification(Label):
    """One class an example.

    Parameters
    ----------
    focal
        Exponent gamma of the focal loss (Lin et al., ICCV 2017); 0 is cross-entropy.
    class_weights
        {class: weight}, or ``balanced``: inverse to the class's frequency in training, mean 1.
    """

    kind = "cross_entropy"

    def __init__(self, focal: float = 0.0, class_weights: str | Mapping[str, float] | None = None, **shared):
        super().__init__(**shared)
        self.focal, self.class_weights = focal, class_weights

    def encode(self, values: np.ndarray, train: np.ndarray) -> np.ndarray:
        self.classes = _classes(values, train, self.column)
        self.size = len(self.classes)
        number = {c: i for i, c in enumerate(self.classes)}
        labels = np.array([IGNORE if v is None else number.get(str(v), IGNORE) for v in values], np.int64)
        counts = np.bincount(labels[train], minlength=self.size)
        self.baseline = torch.from_numpy(np.log((counts + 0.5) / (counts + 0.5).sum())).float()
        if self.class_weights == "balanced":
            weights = counts.sum() / np.maximum(counts, 1) / self.size
        elif isinstance(self.class_weights, str):
            raise ValueError(f"class_weights={self.class_weights!r}: give `balanced` or a weight for each class")
        else:
            given = dict(self.class_weights or {})
            if unknown := sorted(set(given) - set(self.classes)):
                raise ValueError(f"class_weights names {unknown}, which are no classes of {self.column!r}: {self.classes}")
            weights = np.array([given.get(c, 1.0) for c in self.classes])
        self.weight_of_class = torch.from_numpy(weights).float()
        return labels

    def each(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
        return loss * (1 - (-loss).exp()) ** self.focal if self.focal else loss

    def weigh(self, labels: torch.Tensor) -> torch.Tensor:
        return self.weight_of_class.to(labels.device)[labels.clamp(min=0)] * (labels != IGNORE)

    def metrics(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return score(metrics.classification, labels, probabilities(logits))[0]


class MultiLabel(Label):
    """Any number of classes an example; binary cross-entropy each.

    Parameters
    ----------
    separator
        Between the classes that the column names.
    columns
        Instead of one column: a regular expression of the names of columns that hold 0 or 1 (or nothing), a class each.
    """

    kind = "binary_cross_entropy"

    def __init__(self, separator: str = "|", columns: str | None = None, **shared):
        super().__init__(**shared)
        self.separator, self.columns = separator, columns

    def bind(self, name: str, data) -> None:
        self.named = data.columns(self.columns) if self.columns else []
        if self.columns and not self.named:
            raise ValueError(f"objective {name}: no column's name matches columns={self.columns!r}")
        self.given = data.numbers_of(self.named) if self.named else None
        self.of_text = self.given is None
        if self.given is not None:
            if (wrong := ~(np.isnan(self.given) | np.isin(self.given, (0, 1)))).any():
                row, column = np.argwhere(wrong)[0]
                raise ValueError(
                    f"objective {name}: column {self.named[column]!r}, {data.where(row)}: found {self.given[row, column]:g}, 0 or 1 is needed"
                )
            self.column = self.named[0]
        super().bind(name, data)

    def _missing(self, text: pd.Series) -> pd.Series:
        """Examples without a label in any of the columns."""
        return super()._missing(text) if self.given is None else pd.Series(np.isnan(self.given).all(1))

    def encode(self, values: np.ndarray, train: np.ndarray) -> np.ndarray:
        if self.given is not None:
            self.classes, self.size, self.n_partly = self.named, len(self.named), 0
            return self._begin(self.given, train)
        sets = [None if v is None else {s.strip() for s in str(v).split(self.separator) if s.strip()} for v in values]
        self.classes = sorted(set().union(*(s for s, t in zip(sets, train, strict=True) if t and s)))
        self.size = len(self.classes)
        number = {c: i for i, c in enumerate(self.classes)}
        labels = np.full((len(values), self.size), np.nan, np.float32)
        for i, s in enumerate(sets):
            known = [number[c] for c in s or () if c in number]
            if known or s == set():  # of whom only classes are named that training lacks, nothing is known of the others
                labels[i] = 0
                labels[i, known] = 1
        partly = [i for i, s in enumerate(sets) if s and not s <= number.keys()]
        self.n_partly = len(partly)
        if partly:
            warnings.warn(
                f"objective {self.name}: {len(partly):,} held-out examples have classes in column {self.column!r} that training lacks "
                f"(first: {values[partly[0]]!r}, {self.where(partly[0])}); these classes are not scored, nor examples that have no other",
                stacklevel=2,
            )
        return self._begin(labels, train)

    def _said(self, labels: np.ndarray, text: pd.Series, unknown: np.ndarray) -> str:
        said = super()._said(labels, text, unknown)
        return said + (
            f"; {n:,} held-out examples are scored without classes that training lacks" if (n := self.n_partly - self.n_unknown) else ""
        )

    def _begin(self, labels: np.ndarray, train: np.ndarray) -> np.ndarray:
        share = (np.nansum(labels[train], 0) + 0.5) / ((~np.isnan(labels[train])).sum(0) + 1)
        self.baseline = torch.from_numpy(np.log(share / (1 - share))).float()
        return labels

    def each(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return functional.binary_cross_entropy_with_logits(logits, labels.nan_to_num(0.0), reduction="none")

    def weigh(self, labels: torch.Tensor) -> torch.Tensor:
        return (~labels.isnan()).float()

    def metrics(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Those of `bmfm.metrics`, and F1 over all labels of all examples."""
        chance, given = probabilities(logits, multilabel=True), ~np.isnan(labels)
        said, true = (chance > 0.5) & given, labels == 1
        micro = 2 * (said & true).sum() / max(said.sum() + true.sum(), 1)
        return score(metrics.multilabel, labels, chance)[0] | {"micro_f1": float(micro)}


class Regression(Label):
    """A number an example; squared error of the number scaled to mean 0 and deviation 1 over the training examples."""

    kind = "mse"
    of_text = False
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

    def _number(self, row: int, value: object) -> float:
        """A label as a number; NaN where there is none."""
        if value is None:
            return np.nan
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise ValueError(
                f"column {self.column!r}, {self.where(row)}: regression needs numbers, found {value!r}; "
                f"what stands for no label can be named: objectives.{self.name}.silenced=[...]"
            ) from None
        if np.isinf(number) or abs(number) > float(np.finfo(np.float32).max):
            raise ValueError(
                f"column {self.column!r}, {self.where(row)}: regression needs finite numbers, found {value!r}; leave the label empty or mend it"
            )
        return number

    def bind(self, name: str, data) -> None:
        super().bind(name, data)
        self.heads[name] |= {"center": self.center, "scale": self.scale}

    def each(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return (logits[:, 0] - labels.nan_to_num(0.0)) ** 2

    def weigh(self, labels: torch.Tensor) -> torch.Tensor:
        return (~labels.isnan()).float()

    def metrics(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Those of `bmfm.metrics`, in the column's own unit."""
        said, true = (x.astype(np.float64) * self.scale + self.center for x in (logits[:, 0], labels))
        return score(metrics.regression, true, said)[0]


class Hierarchical(Label):
    """A term of an ontology an example: right is every leaf below it.

    The head's classes are the leaves among the terms that training has; loss = logsumexp(all) - logsumexp(leaves below).

    Parameters
    ----------
    ontology
        OBO file, as the Cell Ontology's ``cl-basic.obo``. Labels are term ids or names.
    renamed
        {label in the data: term}, for labels that are not in the ontology's words.
    """

    kind = "hierarchical_cross_entropy"

    def __init__(self, ontology: str, renamed: Mapping[str, str] | None = None, **shared):
        super().__init__(**shared)
        self.ontology, self.renamed = ontology, dict(renamed or {})

    def encode(self, values: np.ndarray, train: np.ndarray) -> np.ndarray:
        from bmfm.cells.ontology import Ontology

        ontology = Ontology.from_obo(self.ontology)
        distinct = {str(v) for v in values if v is not None}
        try:
            term = {v: ontology.resolve(self.renamed.get(v, v)) for v in distinct}
        except KeyError as error:
            raise ValueError(
                f"column {self.column!r}: {error.args[0]} Write the term's id or name into `renamed`, or silence the label."
            ) from None
        trained = sorted({term[str(v)] for v in values[train]})
        leaves, below = ontology.leaf_sets(trained)
        _at_least_two([ontology.names[leaf] for leaf in leaves], self.column)
        self.classes = [ontology.names[leaf] for leaf in leaves]
        self.size = len(leaves)
        sets = np.zeros((len(trained), self.size), bool)
        for i, t in enumerate(trained):
            sets[i, below[t]] = True
        self.sets = torch.from_numpy(sets)
        number = {t: i for i, t in enumerate(trained)}
        labels = np.array([IGNORE if v is None else number.get(term[str(v)], IGNORE) for v in values], np.int64)
        share = sets[labels[train]].astype(np.float64)
        share = (share / share.sum(1, keepdims=True)).sum(0) + 0.5
        self.baseline = torch.from_numpy(np.log(share / share.sum())).float()
        return labels

    def each(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        inside = self.sets.to(logits.device)[labels.clamp(min=0)]
        return logits.logsumexp(1) - logits.masked_fill(~inside, -torch.inf).logsumexp(1)

    def weigh(self, labels: torch.Tensor) -> torch.Tensor:
        return (labels != IGNORE).float()

    def metrics(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Share of the examples whose likeliest leaf lies below their term, over all and as a mean over terms."""
        hits = self.sets.numpy()[labels, logits.argmax(1)]
        n = np.bincount(labels, minlength=len(self.sets))
        right = np.bincount(labels, weights=hits, minlength=len(self.sets))
        return {"accuracy": float(hits.mean()), "mean_recall": float((right[n > 0] / n[n > 0]).mean())}
