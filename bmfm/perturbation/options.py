"""What users may choose where responses to perturbations are predicted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

UNITS = ("lognorm", "counts")
ROWS = ("cells", "profiles")


@dataclass(frozen=True)
class ResponseOptions:
    """How responses are predicted.

    Attributes
    ----------
    condition
        ``.obs`` column of what was done to a cell, of which controls alone are taken; None takes all cells as controls.
    control
        What that column holds for controls; empty takes the usual words.
    context
        ``.obs`` column, or columns, of the cell line or type; None is one context.
    kind
        Of perturbations that do not say it themselves: ``crispri``, ``crispra``, ``knockout``, ``drug``; None takes the only one that the model
        was trained with.
    n_cells
        Control cells of each context from which a response is predicted and averaged; None takes all.
    rows
        ``cells``: a row for each control cell after each perturbation; ``profiles``: the mean alone, one row a perturbation and context.
    unit
        ``lognorm``, or ``counts``: those of control cells, thinned or added to by the predicted fold change.
    with_controls
        Whether control cells, as they are, stand among the rows, as scorers expect it.
    seed
        Of the choice of control cells, and of drawn counts.
    counts, expects, gene_column, orthologs, min_matched
        How cells are read, see `inference.cells.read_cells`.
    batch_size, max_tokens, precision, progress
        See `inference.runner.RunOptions`.
    """

    condition: str | None = None
    control: Sequence[str] = ()
    context: str | Sequence[str] | None = None
    kind: str | None = None
    n_cells: int | None = 64
    rows: str = "cells"
    unit: str = "lognorm"
    with_controls: bool = True
    seed: int = 0
    counts: str = "auto"
    expects: str | None = None
    gene_column: str | None = None
    orthologs: Mapping[str, str] | Any = None
    min_matched: float = 0.3
    batch_size: int = 64
    max_tokens: int | None = None
    precision: str | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        for name, value, choices in (("rows", self.rows, ROWS), ("unit", self.unit, UNITS)):
            if value not in choices:
                raise ValueError(f"{name}={value!r} is unknown; choose {' or '.join(choices)}")
        if self.rows == "profiles" and self.unit == "counts":
            raise ValueError("rows=profiles: means have no counts; choose unit=lognorm, or rows=cells")
        if self.n_cells is not None and self.n_cells < 1:
            raise ValueError(f"n_cells={self.n_cells} must be at least 1, or none for all control cells")
