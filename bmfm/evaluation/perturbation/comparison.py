"""What the metrics of perturbation prediction compare: measured and predicted cells of the same conditions, in one context."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.sparse import csr_matrix

CONTROL = -1
"""Code of control cells."""


@dataclass(frozen=True)
class GroupedCells:
    """Cells and what was done to each.

    Attributes
    ----------
    values
        [n, G] CSR: raw counts, or log-normalised values.
    codes
        [n] int64: the number of each cell's condition in `Comparison.conditions`, `CONTROL` for controls.
    """

    values: csr_matrix
    codes: np.ndarray

    def of(self, code: int) -> csr_matrix:
        """Cells of one condition [m, G]."""
        return self.values[np.flatnonzero(self.codes == code)]


@dataclass(frozen=True)
class Comparison:
    """Measured and predicted cells of P conditions in one context, over G genes.

    Attributes
    ----------
    context
        Name of the context: a cell line, a type of cell.
    conditions
        [P] names.
    genes
        [G] names.
    targets
        For each condition the columns of its own target genes, int64; empty where they are not measured.
    real
        Measured cells, and the controls of the context.
    predicted
        Predicted cells, without controls: metrics take those that were measured, on both sides.
    unit
        ``counts`` or ``lognorm``, of both.
    training
        {name: profile [G]} of the training part that metrics refer to, log-normalised: ``mean`` is the mean of the centroids of all training
        conditions of the context, each with the same weight, controls left out.
    de_genes
        {condition: columns of its marker genes, best first}, where the data state them (`uns['top_non_dropout_de_20']`).
    means
        [P, G] predicted mean log-normalised profiles where a method states them; None: they are those of the predicted cells.
    """

    context: str
    conditions: Sequence[str]
    genes: Sequence[str]
    targets: Sequence[np.ndarray]
    real: GroupedCells
    predicted: GroupedCells
    unit: str
    training: Mapping[str, np.ndarray] = field(default_factory=dict)
    de_genes: Mapping[str, np.ndarray] = field(default_factory=dict)
    means: np.ndarray | None = None

    def with_cells(self, real: GroupedCells, predicted: GroupedCells) -> "Comparison":
        """The same of other cells."""
        return replace(self, real=real, predicted=predicted)

    def of_conditions(self, kept: np.ndarray) -> "Comparison":
        """The same of some conditions [k], by their codes, in their order; cells of others are left out."""
        code = np.full(len(self.conditions) + 1, CONTROL - 1)
        code[kept], code[CONTROL] = np.arange(len(kept)), CONTROL

        def some(cells: GroupedCells) -> GroupedCells:
            codes = code[cells.codes]
            rows = np.flatnonzero(codes >= CONTROL)
            return GroupedCells(cells.values[rows], codes[rows])

        return replace(
            self,
            conditions=[self.conditions[i] for i in kept],
            targets=[self.targets[i] for i in kept],
            real=some(self.real),
            predicted=some(self.predicted),
            means=None if self.means is None else self.means[kept],
        )

    @property
    def own(self) -> np.ndarray:
        """Whether a gene is a condition's own target, bool [P, G]."""
        own = np.zeros((len(self.conditions), len(self.genes)), bool)
        for row, columns in zip(own, self.targets, strict=True):
            row[columns] = True
        return own

    @property
    def panel(self) -> np.ndarray:
        """Whether a gene is a target of any condition, bool [G]."""
        return np.asarray(self.own.any(0))
