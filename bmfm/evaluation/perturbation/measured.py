"""Examples and responses as comparisons: measured cells of each context, and cells made of what a method predicts."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix, vstack

from bmfm.evaluation.perturbation.centroids import no_cells
from bmfm.evaluation.perturbation.comparison import CONTROL, Comparison, GroupedCells
from bmfm.evaluation.perturbation.moments import scale_counts
from bmfm.evaluation.perturbation.profiles import Profile
from bmfm.perturbation.draws import changed_counts, fold_changes, poisson_counts, shift_curve, shifted_cells, shifts


@dataclass(frozen=True, eq=False)
class MeasuredContext:
    """What was measured of the groups that are asked for in one context.

    Attributes
    ----------
    rows
        [P] rows of `examples.asked`.
    logs
        Log-normalised cells, without a prediction.
    counts
        Raw counts of the same cells; None where none are asked for.
    control_mean
        [G].
    trains_here
        Whether training has conditions of this context; if not, the training mean is the mean change in others, added to these controls.
    """

    rows: np.ndarray
    logs: Comparison
    counts: Comparison | None
    control_mean: np.ndarray
    trains_here: bool

    def of(self, profile: Profile) -> Comparison:
        """The measured cells as a profile takes them."""
        return self.counts if profile.needs_counts and self.counts is not None else self.logs

    @cached_property
    def shift_curve(self) -> np.ndarray:
        """Of the controls, see `perturbation.draws.shift_curve`."""
        return shift_curve(self.logs.real.of(CONTROL))

    @cached_property
    def control_share(self) -> np.ndarray:
        """Mean share of each gene in the counts of controls, [G]."""
        assert self.counts is not None
        return np.asarray(scale_counts(self.counts.real.of(CONTROL), 1.0).mean(0)).ravel()

    @cached_property
    def log_total(self) -> float:
        """What log-normalised controls add up to with their logarithm undone: the total that they were normalised to."""
        return float(np.expm1(self.logs.real.of(CONTROL).data.astype(float)).sum() / (self.logs.real.codes == CONTROL).sum())

    @property
    def deltas(self) -> np.ndarray:
        """[P, G] measured mean changes from the controls."""
        return np.stack([np.asarray(self.logs.real.of(i).mean(0)).ravel() for i in range(len(self.rows))]) - self.control_mean


def measured_contexts(examples: Any, with_counts: bool) -> list[MeasuredContext]:
    """The groups that are asked for, by context.

    Parameters
    ----------
    examples
        `examples.perturbations.PerturbationExamples`; cells of the test part are read once (and once more as counts).

    Raises
    ------
    ValueError
        Where counts are asked for and the data have none, or a context has no controls.
    """
    asked = examples.asked
    contexts = []
    for name in dict.fromkeys(asked["context"]):
        rows = np.flatnonzero((asked["context"] == name).to_numpy())
        controls = examples.control_cells(name)
        if not len(controls):
            raise ValueError(f"{examples.task.name}: context {name} has no control cells: leave it out (data.source.keep)")
        cells = [examples.cells_of(int(group)) for group in asked.index[rows]]
        codes = np.repeat([*range(len(rows)), CONTROL], [*map(len, cells), len(controls)])
        numbers = np.concatenate([*cells, controls])
        mean, trains_here = training_mean(examples, name)
        stated = [examples.markers(int(group)) for group in asked.index[rows]]
        logs = Comparison(
            context=str(name),
            conditions=list(asked["condition"].iloc[rows]),
            genes=list(examples.genes),
            targets=[examples.targets(examples.asked_conditions[row]) for row in rows],
            real=GroupedCells(examples.values(numbers), codes),
            predicted=no_cells(len(examples.genes)),
            unit="lognorm",
            training={"mean": mean},
            de_genes={c: genes for c, genes in zip(asked["condition"].iloc[rows], stated, strict=True) if genes is not None},
        )
        counts = replace(logs, real=GroupedCells(examples.counts(numbers), codes), unit="counts") if with_counts else None
        contexts.append(MeasuredContext(rows, logs, counts, np.asarray(examples.control_mean(name), float), trains_here))
    return contexts


def training_mean(examples: Any, context: str) -> tuple[np.ndarray, bool]:
    """Mean of the centroids of the training conditions of a context, or without any, of their changes elsewhere on its controls."""
    trained = examples.trained
    here = np.flatnonzero((trained["context"] == context).to_numpy())
    if len(here):
        return np.mean([examples.mean_of("train", int(g)) for g in trained.index[here]], 0), True
    changes = [examples.mean_of("train", int(g)) - examples.control_mean(c) for g, c in trained["context"].items()]
    return np.asarray(examples.control_mean(context) + np.mean(changes, 0)), False


@dataclass(frozen=True)
class PredictedCells:
    """Cells of a prediction, drawn.

    Attributes
    ----------
    logs, counts
        CSR [n, G] of each condition; empty where no profile takes such.
    """

    logs: Sequence[csr_matrix]
    counts: Sequence[csr_matrix]

    def comparison(self, measured: Comparison) -> Comparison:
        """Of these with the measured cells."""
        parts = self.counts if measured.unit == "counts" else self.logs
        return replace(
            measured, predicted=GroupedCells(vstack(parts, "csr"), np.repeat(np.arange(len(parts)), [p.shape[0] for p in parts]))
        )


def draw_cells(context: MeasuredContext, responses: Any, n_cells: int | None, seed: int, keep_logs: bool = True) -> PredictedCells:
    """Cells of a method that predicts means, or of one that predicts cells, and counts of either where the context has such.

    Cells of a mean are control cells, drawn with replacement. Log-normalised values are shifted and cut at 0, so that the mean of all
    controls would be the predicted one (`perturbation.draws.shifts`); counts are thinned, or added to, by the fold change of the means
    (`perturbation.draws.fold_changes`). Counts of predicted cells are drawn from Poisson distributions, at the totals of control cells.

    Parameters
    ----------
    responses
        `methods.perturbation.Responses`.
    n_cells
        To draw of each condition; None: as many as were measured. Cells that a method predicts are all taken.
    seed
        Together with the row of a condition it decides what is drawn.
    keep_logs
        Whether log-normalised cells are of use. They take much memory, as shifted cells have few zeros.
    """
    controls = context.logs.real.of(CONTROL)
    counted = None if context.counts is None else context.counts.real.of(CONTROL)
    logs, counts = [], []
    for code, row in enumerate(context.rows):
        rng = np.random.default_rng([seed, int(row)])
        if responses.cells is not None:
            cells = csr_matrix(responses.cells(int(row)))
            logs.append(cells)
            if counted is not None:
                drawn = rng.integers(0, controls.shape[0], cells.shape[0])
                counts.append(poisson_counts(cells, np.asarray(counted[drawn].sum(1), float).ravel(), rng))
            continue
        drawn = rng.integers(0, controls.shape[0], n_cells or int((context.logs.real.codes == code).sum()))
        change = np.asarray(responses.means[row], float) - context.control_mean
        if keep_logs:
            logs.append(shifted_cells(controls[drawn], shifts(context.shift_curve, change)))
        if counted is not None:
            mean = np.asarray(responses.means[row], float)
            ratio, new = fold_changes(mean, context.control_mean), np.expm1(np.maximum(mean, 0)) / context.log_total
            counts.append(changed_counts(counted[drawn], ratio, context.control_share, new, rng))
    return PredictedCells(logs, counts)
