"""Label tasks: one head on one state of an example."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from bmfm.objectives import Loss
from bmfm.objectives.statistics import class_metrics, histogram, moments, pearson, rank_counts, ranking_metrics, spearman
from bmfm.special import IGNORE


class Label(ABC):
    """What all label tasks share.

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

    def bind(self, name: str, data) -> None:
        self.name = name
        self.column = self.column or name
        if isinstance(self.pooling, int):
            data.tokenizer.check_cls(self.pooling, name)
        elif self.pooling not in ("auto", "mean", "mean_all", "pooler"):
            raise ValueError(
                f"objective {name}: pooling={self.pooling!r} is unknown; give the number of a CLS token, mean, mean_all, pooler or auto"
            )
        values = data.column(self.column)
        text = pd.Series(values, dtype=object)
        missing = text.isna() | text.astype(str).isin(self.silenced | {"", "nan"})
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
        head = {"size": self.size, "kind": self.kind, "column": self.column, "pooling": self.pooling, "classes": self.classes}
        self.heads = {name: head | {"reversal": self.reversal, "dropout": self.dropout}}

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

    def prepare(self, batch: dict, keys: np.ndarray) -> None:  # noqa: B027 (labels come with the examples: there is nothing to do)
        """Labels come with the examples."""

    def _logits(self, model, batch: dict, hidden_BLH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return model.head(self.name, model.pool(hidden_BLH, batch, self.pooling)).float(), batch["labels"][self.name]

    def losses(self, model, batch: dict, hidden_BLH: torch.Tensor) -> dict[str, Loss]:
        logits, labels = self._logits(model, batch, hidden_BLH)
        loss, weight = self.each(logits, labels)
        return {self.kind: Loss((loss * weight).sum(), weight.sum(), self.weights[self.kind])}

    def score(self, model, batch: dict, hidden_BLH: torch.Tensor) -> dict[str, torch.Tensor]:
        logits, labels = self._logits(model, batch, hidden_BLH)
        loss, weight = self.each(logits, labels)
        baseline, _ = self.each(self.baseline.to(logits.device).expand_as(logits), labels)
        sums = {f"loss/{self.kind}": torch.stack([(x * weight).sum().double() for x in (loss, torch.ones_like(loss), baseline)])}
        return sums | self.counts(logits, labels)

    size: int
    classes: list[str]
    baseline: torch.Tensor  # logits that say nothing but what is frequent

    @abstractmethod
    def encode(self, values: np.ndarray, train: np.ndarray) -> np.ndarray:
        """Labels of all examples from a column's values (None where missing), learning classes from `train`."""

    @abstractmethod
    def each(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and weight of every label; weight 0 where there is none."""

    @abstractmethod
    def counts(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Sums for metrics, {name: tensor}."""

    @abstractmethod
    def summarise(self, sums: dict[str, torch.Tensor]) -> dict[str, float]:
        """Metrics from the sums of `counts`."""

    def rows(self, metrics: dict[str, float]) -> list[tuple[str, str]]:
        simple = "logistic_regression_"
        own = [k for k in metrics if not k.startswith((self.kind, simple))]
        beside = {k: f" (logistic regression {metrics[simple + k]:.4f})" for k in own if simple + k in metrics}
        said = ", ".join(f"{k.replace('_', ' ')} {metrics[k]:.4f}{beside.get(k, '')}" for k in own)
        if self.kind in metrics:
            said += f", loss {metrics[self.kind]:.4f} (frequencies {metrics[f'{self.kind}_baseline']:.4f}), n = {metrics[f'{self.kind}_n']:,.0f}"
        return [("", said)] if said else []


def _classes(values: np.ndarray, train: np.ndarray) -> list[str]:
    return sorted({str(v) for v in values[train]})


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
        self.classes = _classes(values, train)
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

    def each(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss = functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
        if self.focal:
            loss = loss * (1 - (-loss).exp()) ** self.focal
        weight = self.weight_of_class.to(logits.device)[labels.clamp(min=0)] * (labels != IGNORE)
        return loss, weight

    def counts(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        on = labels != IGNORE
        pairs = labels[on] * self.size + logits.argmax(1)[on]
        confusion = torch.bincount(pairs, minlength=self.size**2).view(self.size, self.size).double()
        chance = logits[on].softmax(1).clamp(1e-7, 1 - 1e-7).logit()
        asked = slice(1, 2) if self.size == 2 else slice(None)  # of two classes the second is the positive one
        return {"confusion": confusion, "ranks": histogram(chance[:, asked], functional.one_hot(labels[on], self.size)[:, asked])}

    def summarise(self, sums: dict[str, torch.Tensor]) -> dict[str, float]:
        return class_metrics(sums["confusion"]) | ranking_metrics(sums["ranks"])


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
        if self.given is not None:
            if (wrong := ~(np.isnan(self.given) | np.isin(self.given, (0, 1)))).any():
                row, column = np.argwhere(wrong)[0]
                raise ValueError(
                    f"objective {name}: column {self.named[column]!r} holds {self.given[row, column]} in row {row}; 0 or 1 is needed"
                )
            self.column = self.named[0]
        super().bind(name, data)

    def encode(self, values: np.ndarray, train: np.ndarray) -> np.ndarray:
        if self.given is not None:
            self.classes, self.size = self.named, len(self.named)
            return self._begin(self.given, train)
        sets = [None if v is None else {s.strip() for s in str(v).split(self.separator) if s.strip()} for v in values]
        self.classes = sorted(set().union(*(s for s, t in zip(sets, train, strict=True) if t and s)))
        self.size = len(self.classes)
        number = {c: i for i, c in enumerate(self.classes)}
        labels = np.full((len(values), self.size), np.nan, np.float32)
        for i, s in enumerate(sets):
            if s is not None:
                labels[i] = 0
                labels[i, [number[c] for c in s if c in number]] = 1
        return self._begin(labels, train)

    def _begin(self, labels: np.ndarray, train: np.ndarray) -> np.ndarray:
        share = (np.nansum(labels[train], 0) + 0.5) / ((~np.isnan(labels[train])).sum(0) + 1)
        self.baseline = torch.from_numpy(np.log(share / (1 - share))).float()
        return labels

    def each(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        given = ~labels.isnan()
        return functional.binary_cross_entropy_with_logits(logits, labels.nan_to_num(0.0), reduction="none"), given.float()

    def counts(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        given, said, true = ~labels.isnan(), logits > 0, labels == 1
        hits = torch.stack([(given & said & true).sum(0), (given & said).sum(0), (given & true).sum(0)]).double()
        return {"hits": hits, "ranks": histogram(logits[given.all(1)], true[given.all(1)])}

    def summarise(self, sums: dict[str, torch.Tensor]) -> dict[str, float]:
        both, said, true = sums["hits"]
        f1 = 2 * both / (said + true).clamp(min=1)
        micro = 2 * both.sum() / (said.sum() + true.sum()).clamp(min=1)
        figures = {"micro_f1": float(micro), "macro_f1": float(f1[true > 0].mean()) if (true > 0).any() else 0.0}
        return figures | ranking_metrics(sums["ranks"])


class Regression(Label):
    """A number an example; squared error of the number scaled to mean 0 and deviation 1 over the training examples."""

    kind = "mse"
    size = 1

    def encode(self, values: np.ndarray, train: np.ndarray) -> np.ndarray:
        try:
            labels = np.array([np.nan if v is None else float(v) for v in values], np.float32)
        except ValueError as error:
            raise ValueError(f"column {self.column!r}: regression needs numbers; {error}") from None
        self.center, self.scale = float(np.mean(labels[train])), float(np.std(labels[train])) or 1.0
        self.classes = []
        self.baseline = torch.zeros(1)
        return ((labels - self.center) / self.scale).astype(np.float32)

    def bind(self, name: str, data) -> None:
        super().bind(name, data)
        self.heads[name] |= {"center": self.center, "scale": self.scale}

    def each(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        given = ~labels.isnan()
        return (logits[:, 0] - labels.nan_to_num(0.0)) ** 2, given.float()

    def counts(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        on = ~labels.isnan()
        absolute = (logits[on, 0] - labels[on]).abs().sum().double()
        return {"pairs": torch.cat([moments(logits[on, 0], labels[on]), absolute[None]]), "ranks": rank_counts(logits[on, 0], labels[on])}

    def summarise(self, sums: dict[str, torch.Tensor]) -> dict[str, float]:
        n = float(sums["pairs"][0])
        if not n:
            return {}
        figures = {"pearson": float(pearson(sums["pairs"][:6])), "spearman": spearman(sums["ranks"])}
        return figures | {"mae": float(sums["pairs"][6]) / n * self.scale}


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

    def each(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inside = self.sets.to(logits.device)[labels.clamp(min=0)]
        loss = logits.logsumexp(1) - logits.masked_fill(~inside, -torch.inf).logsumexp(1)
        return loss, (labels != IGNORE).float()

    def counts(self, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        on = labels != IGNORE
        hits = self.sets.to(logits.device)[labels[on]].gather(1, logits.argmax(1)[on][:, None])[:, 0]
        n_terms = len(self.sets)
        by_term = torch.stack(
            [torch.bincount(labels[on], weights=hits.double(), minlength=n_terms), torch.bincount(labels[on], minlength=n_terms)]
        )
        return {"terms": by_term.double()}

    def summarise(self, sums: dict[str, torch.Tensor]) -> dict[str, float]:
        hits, n = sums["terms"]
        there = n > 0
        if not there.any():
            return {}
        return {"accuracy": float(hits.sum() / n.sum()), "mean_recall": float((hits[there] / n[there]).mean())}
