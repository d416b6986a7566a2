"""What any model of perturbations must beat: the control, means of what was trained, sums of single effects, a linear map, near genes.

They are those of Ahlmann-Eltze, Huber and Anders (Nature Methods 2025), Systema (Vinas Torne et al., Nature Biotechnology 2025) and the
replies to them. All predict the mean log-normalised profile of a group, a condition in a context, from the training groups.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bmfm.cells.conditions import Condition
from bmfm.evaluation.baselines.gene_vectors import RANDOM, random_vector, vectors_of_model, vectors_of_table
from bmfm.evaluation.checksums import content_hash
from bmfm.evaluation.examples.perturbations import PerturbationExamples
from bmfm.evaluation.methods.checkpoint import CheckpointFolder
from bmfm.evaluation.methods.perturbation import PerturbationMethod, Responses
from bmfm.evaluation.task_spec import TaskSpec

Predicted = tuple[np.ndarray, str]
"""A profile [G], and by what it was made in place of the method's own way, in words; empty where it was not."""
BY_TRAIN_MEAN, BY_MATCHING_MEAN, BY_MEAN_CHANGE = "groups predicted by the training mean", "groups predicted by the matching mean", "groups predicted by the mean change"  # fmt: skip
FROM_OTHER_CONTEXTS = "groups of a context without training conditions, predicted from those of other contexts"


@dataclass(frozen=True)
class Effects:
    """Training conditions of one kind of perturbation.

    Attributes
    ----------
    conditions
        [P].
    profiles
        [P, G] means of log-normalised cells.
    changes
        [P, G] the same, less the control of their context.
    """

    conditions: Sequence[Condition]
    profiles: np.ndarray
    changes: np.ndarray

    def __len__(self) -> int:
        return len(self.conditions)

    @cached_property
    def singles(self) -> dict[Condition, int]:
        """{condition of one target: row}."""
        return {c: row for row, c in enumerate(self.conditions) if len(c.targets) == 1}

    def single_rows(self, target: Condition) -> list[int]:
        """Rows of a single target: of its dose, or else of all its doses."""
        if target in self.singles:
            return [self.singles[target]]
        return [row for single, row in self.singles.items() if single.targets == target.targets]


@dataclass(frozen=True)
class Training:
    """What may be learned from for the groups of one context.

    Attributes
    ----------
    control
        [G], mean control cell of the context.
    own, others
        Training conditions of the context, and of the other contexts.
    """

    control: np.ndarray
    own: Effects
    others: Effects

    @cached_property
    def mean(self) -> np.ndarray:
        """Mean profile of the training conditions of the context, each with the same weight; where it has none, its control and the mean change."""
        return self.own.profiles.mean(0) if len(self.own) else self.control + self.mean_change

    @property
    def by_mean(self) -> str:
        """What a prediction by `mean` is counted as."""
        return BY_TRAIN_MEAN if len(self.own) else BY_MEAN_CHANGE

    @cached_property
    def mean_change(self) -> np.ndarray:
        """Mean change of all training conditions of all contexts, each with the same weight."""
        return np.concatenate([self.own.changes, self.others.changes]).mean(0)

    @cached_property
    def transferable(self) -> Effects:
        """The context's own effects; where it has none, mean changes over the other contexts on top of the context's control."""
        if len(self.own):
            return self.own
        conditions = sorted(set(self.others.conditions))
        changes = np.stack([_mean_change_of(self.others, condition) for condition in conditions])
        return Effects(conditions, self.control + changes, changes)


def _mean_change_of(effects: Effects, condition: Condition) -> np.ndarray:
    return effects.changes[[c == condition for c in effects.conditions]].mean(0)


def single_targets(condition: Condition) -> list[Condition]:
    """Each target of a condition as a condition of its own."""
    doses = condition.doses or (None,) * len(condition.targets)
    return [Condition((t,), (d,), condition.unit if d is not None else "") for t, d in zip(condition.targets, doses, strict=True)]


class PerturbationBaseline(PerturbationMethod):
    """A baseline that is fitted to the training conditions of each context anew.

    Conditions of another kind of perturbation, as of CRISPR activation where interference is asked for, are not learned from, unless there are
    no others.
    """

    def respond(self, examples: PerturbationExamples, seed: int, folder: Path) -> Responses:
        means = np.zeros((len(examples.asked), len(examples.genes)), np.float32)
        notes: Counter[str] = Counter()
        places = examples.asked.reset_index().groupby(["context", "kind"], sort=False).indices
        for (context, kind), rows in places.items():
            training = training_of(examples, context, kind)
            predict = self.fit(training, examples, seed)
            for row in rows:
                means[row], note = predict(examples.asked_conditions[row])
                notes.update([note] if note else [])
            if not len(training.own) and self.learns:
                notes[FROM_OTHER_CONTEXTS] += len(rows)
        return Responses(means, notes=dict(notes))

    learns = True
    """Whether it reads training conditions at all."""

    @abstractmethod
    def fit(self, training: Training, examples: PerturbationExamples, seed: int) -> Callable[[Condition], Predicted]:
        """A function that predicts the profile of a condition in the context."""


def training_of(examples: PerturbationExamples, context: str, kind: str) -> Training:
    """What may be learned from for groups of a kind in a context; ValueError where the training part has no condition."""
    trained = examples.trained
    if not len(trained):
        raise ValueError(f"{examples.task.name}: the training part has no condition to learn from (data.split)")
    is_kind = (trained["kind"] == kind).to_numpy()
    is_kind = is_kind if is_kind.any() else np.ones(len(trained), bool)
    is_own = (trained["context"] == context).to_numpy()
    controls = np.stack([examples.control_mean(c) for c in trained["context"]])

    def effects(chosen: np.ndarray) -> Effects:
        rows = np.flatnonzero(chosen)
        profiles = examples.centroids[rows]
        return Effects([examples.trained_conditions[row] for row in rows], profiles, profiles - controls[rows])

    return Training(examples.control_mean(context), effects(is_kind & is_own), effects(is_kind & ~is_own))


class NoChange(PerturbationBaseline):
    """The mean control cell of the context."""

    learns = False

    def fit(self, training: Training, examples: PerturbationExamples, seed: int) -> Callable[[Condition], Predicted]:
        return lambda condition: (training.control, "")


class TrainMean(PerturbationBaseline):
    """The mean of the training conditions of the context, each with the same weight, controls left out; of all contexts where it has none."""

    def fit(self, training: Training, examples: PerturbationExamples, seed: int) -> Callable[[Condition], Predicted]:
        mean = (training.own if len(training.own) else training.others).profiles.mean(0)
        return lambda condition: (mean, "")


class TrainMeanDelta(PerturbationBaseline):
    """The control of the context and the mean change of all training conditions of all contexts: for contexts that were not trained."""

    learns = False  # nothing is replaced in a context without training

    def fit(self, training: Training, examples: PerturbationExamples, seed: int) -> Callable[[Condition], Predicted]:
        return lambda condition: (training.control + training.mean_change, "")


class MatchingMean(PerturbationBaseline):
    """The mean over a condition's targets of their single effects, with the training mean for targets that were not trained alone (Systema)."""

    def fit(self, training: Training, examples: PerturbationExamples, seed: int) -> Callable[[Condition], Predicted]:
        return lambda condition: matching_mean(training, condition)


def matching_mean(training: Training, condition: Condition) -> Predicted:
    """The prediction of `MatchingMean`."""
    effects = training.transferable
    rows = [effects.single_rows(target) for target in single_targets(condition)]
    profiles = [effects.profiles[r].mean(0) if r else training.mean for r in rows]
    return np.mean(profiles, 0), "" if any(rows) else training.by_mean


class Additive(PerturbationBaseline):
    """The control and the sum of the changes of all targets, where each was trained alone; else the matching mean."""

    def fit(self, training: Training, examples: PerturbationExamples, seed: int) -> Callable[[Condition], Predicted]:
        def predict(condition: Condition) -> Predicted:
            singles, targets = training.transferable.singles, single_targets(condition)
            rows = [singles[target] for target in targets if target in singles]
            if len(rows) < len(targets):
                profile, note = matching_mean(training, condition)
                return profile, note or BY_MATCHING_MEAN
            return training.control + training.transferable.changes[rows].sum(0), ""

        return predict


class ContextMean(PerturbationBaseline):
    """The control of the context and the mean change by the same condition in other contexts; else the mean change of all conditions."""

    learns = False  # other contexts are its way

    def fit(self, training: Training, examples: PerturbationExamples, seed: int) -> Callable[[Condition], Predicted]:
        elsewhere = set(training.others.conditions)

        def predict(condition: Condition) -> Predicted:
            if condition in elsewhere:
                return training.control + _mean_change_of(training.others, condition), ""
            return training.control + training.mean_change, BY_MEAN_CHANGE

        return predict


class OfGeneVectors(PerturbationBaseline):
    """What baselines share that know targets by a vector.

    Parameters
    ----------
    name
        Shown in tables.
    embeddings
        A table whose first column names genes (or drugs) and whose others are their vector; or a model of cells (a folder, the name of one that
        ships, or a Hub id), whose embeddings of genes are taken; ``random`` draws vectors, which say no more than that targets differ. None makes
        vectors of measured genes from the training profiles.
    n_components
        Principal components of the genes, where vectors are made from profiles, and numbers of a vector that is drawn.
    """

    def __init__(self, name: str, embeddings: str | None = None, n_components: int = 10):
        super().__init__(name)
        self.embeddings, self.n_components = embeddings, n_components
        self.deterministic = embeddings != RANDOM

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        settings = {"embeddings": self.embeddings, "n_components": self.n_components}
        return super().identity(task) | settings | ({"embeddings_hash": self._hash} if self.embeddings not in (None, RANDOM) else {})

    @cached_property
    def _hash(self) -> str:
        assert self.embeddings is not None
        file = Path(self.embeddings).expanduser()
        return content_hash([file]) if file.is_file() else CheckpointFolder(self.embeddings).hash

    @cached_property
    def _stated(self) -> Callable[[str], np.ndarray | None]:
        assert self.embeddings is not None
        return vectors_of_table(self.embeddings) if Path(self.embeddings).expanduser().is_file() else vectors_of_model(self.embeddings)

    def vector_of(self, components: np.ndarray, examples: PerturbationExamples, seed: int) -> Callable[[Condition], np.ndarray | None]:
        """The vector of a single target, from `embeddings` or from the components of measured genes [G, K]; None where there is none."""
        if self.embeddings == RANDOM:
            return lambda target: random_vector(target.targets[0], self.n_components, seed)
        if self.embeddings:
            return lambda target: self._stated(target.targets[0])

        def of_measured(target: Condition) -> np.ndarray | None:
            column = examples.targets(target)
            return components[column[0]] if len(column) else None

        return of_measured


def vectors_of(condition: Condition, vector_of: Callable[[Condition], np.ndarray | None]) -> np.ndarray | None:
    """The vectors of a condition's targets [targets, H]; None where one of them has none."""
    found = [v for target in single_targets(condition) if (v := vector_of(target)) is not None]
    return np.stack(found) if len(found) == len(condition.targets) else None


class RidgeGwp(OfGeneVectors):
    """Changes Y = G W P' + b: genes [G, K] by principal components of the training profiles, conditions by the sum of their targets' vectors P,
    W by ridge regression on both sides, b the mean of Y (Ahlmann-Eltze et al. 2025, methods).

    As there, the control is one more training condition, with vector 0 and no change. Conditions with a target that has no vector are neither
    learned from nor predicted: they get b.
    """

    def __init__(self, name: str, embeddings: str | None = None, n_components: int = 10, ridge: float = 0.1):
        super().__init__(name, embeddings, n_components)
        self.ridge = ridge

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        return super().identity(task) | {"ridge": self.ridge}

    def fit(self, training: Training, examples: PerturbationExamples, seed: int) -> Callable[[Condition], Predicted]:
        effects = training.transferable
        components = principal_components(np.vstack([effects.profiles, training.control]).T, self.n_components)
        vector_of = self.vector_of(components, examples, seed)

        def vector(condition: Condition) -> np.ndarray | None:
            vectors = vectors_of(condition, vector_of)
            return None if vectors is None else vectors.sum(0)

        known = {row: v for row, condition in enumerate(effects.conditions) if (v := vector(condition)) is not None}
        if not known:
            return lambda condition: (training.mean, training.by_mean)
        P = np.stack([*known.values(), np.zeros_like(next(iter(known.values())))])
        Y = np.vstack([effects.changes[list(known)], np.zeros(len(training.control))]).T
        W, b = bilinear_ridge(Y, components, P, self.ridge)

        def predict(condition: Condition) -> Predicted:
            own = vector(condition)
            return (training.mean, training.by_mean) if own is None else (training.control + b + components @ (W @ own), "")

        return predict


def principal_components(profiles: np.ndarray, n_components: int) -> np.ndarray:
    """Scores [G, K] of genes on the first components of their profiles [G, conditions], whose columns are centred."""
    centred = profiles - profiles.mean(0)
    values, axes = np.linalg.eigh(centred.T @ centred)
    leading = [i for i in np.argsort(values)[::-1][:n_components] if values[i] > 1e-12 * values.max()]
    return centred @ axes[:, leading]


def bilinear_ridge(Y: np.ndarray, G: np.ndarray, P: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """W [K, H] and b [genes] of Y [genes, M] = G W P' + b, with G [genes, K] and P [M, H]: ridge regression on both sides, rows centred."""
    b = Y.mean(1)
    left = np.linalg.solve(G.T @ G + ridge * np.eye(G.shape[1]), G.T @ (Y - b[:, None]))
    W = np.linalg.solve(P.T @ P + ridge * np.eye(P.shape[1]), P.T @ left.T).T
    return W, b


class KnnGene(OfGeneVectors):
    """For each target the mean change of the `k` training targets nearest to it by the cosine of their vectors; changes of targets add up."""

    def __init__(self, name: str, embeddings: str | None = None, n_components: int = 10, k: int = 5):
        super().__init__(name, embeddings, n_components)
        self.k = k

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        return super().identity(task) | {"k": self.k}

    def fit(self, training: Training, examples: PerturbationExamples, seed: int) -> Callable[[Condition], Predicted]:
        effects = training.transferable
        components = principal_components(np.vstack([effects.profiles, training.control]).T, self.n_components)
        vector_of = self.vector_of(components, examples, seed)
        found = [(row, v) for single, row in effects.singles.items() if (v := vector_of(single)) is not None]
        if not found:
            return lambda condition: (training.mean, training.by_mean)
        rows, trained = np.array([row for row, _ in found]), _unit(np.stack([v for _, v in found]))

        def predict(condition: Condition) -> Predicted:
            vectors = vectors_of(condition, vector_of)
            if vectors is None:
                return training.mean, training.by_mean
            nearest = np.argsort(-(_unit(vectors) @ trained.T), 1, kind="stable")[:, : self.k]
            return training.control + effects.changes[rows[nearest]].mean(1).sum(0), ""

        return predict


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
