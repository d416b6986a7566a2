"""What users may choose where cells are explained or edited."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from bmfm.interpret.targets import CONTRASTS
from bmfm.ledger import Ledger


@dataclass(frozen=True)
class CellOptions:
    """Which cells, how they are read, and how they are run.

    Attributes
    ----------
    max_cells
        Cells that are used, drawn at random; None takes all.
    seed
        Of that draw, and of all others.
    counts, expects, gene_column, orthologs, min_matched, depth_target, order
        How cells are read, see `inference.cells.read_cells`.
    batch_size
        Rows that are run at once, whether of cells, steps or edits: what bounds the memory.
    max_tokens, precision, progress
        See `inference.runner.RunOptions`.
    """

    max_cells: int | None = 500
    seed: int = 0
    counts: str = "auto"
    expects: str | None = None
    gene_column: str | None = None
    orthologs: Any = None
    min_matched: float = 0.3
    depth_target: float | None = None
    order: str | None = None
    batch_size: int = 32
    max_tokens: int | None = None
    precision: str | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        for name, number in (("max_cells", self.max_cells), ("batch_size", self.batch_size)):
            if number is not None and (isinstance(number, bool) or number < 1):
                raise ValueError(f"{name}={number!r} must be at least 1")

    @property
    def reading(self) -> dict[str, Any]:
        """Options of the reader of cells."""
        names = ("counts", "expects", "gene_column", "orthologs", "min_matched", "depth_target", "order")
        return {name: value for name, value in vars(self).items() if name in names}


METHODS = ("ig", "grad_x_input", "occlusion")
BASELINES = ("zero_value", "mask", "mean_cell", "absent")


@dataclass(frozen=True)
class ExplainOptions(CellOptions):
    """How genes get their attributions.

    Attributes
    ----------
    method
        ``ig`` (integrated gradients), ``grad_x_input`` (the gradient at the cell times what differs from the baseline), or ``occlusion`` (what the
        number loses without the gene, one pass for each).
    baseline
        What a cell is compared with: ``zero_value``, the same genes with the value 0; ``mask``, with [MASK] as their value; ``mean_cell``, with their
        mean value over the explained cells; ``absent`` (of occlusion), without the gene.
    n_steps
        Of integrated gradients, see `attributions.attribute`.
    contrast
        See `targets.Target`.
    classes
        Of a label head: only cells that are predicted to be of these classes are explained. None explains all.
    groupby
        ``.obs`` column whose groups the tables are of; None takes the predicted class, and one group where there are no classes.
    alpha, top
        The tables keep genes of an adjusted p below `alpha`, at most `top` a group; None keeps all genes.
    ledger
        Keeps finished parts, for the next run with the same options and for others that share the work; a worker returns nothing.
    """

    method: str = "ig"
    baseline: str = "zero_value"
    n_steps: int = 50
    contrast: str = "mean"
    classes: Sequence[str] | None = None
    groupby: str | None = None
    alpha: float = 0.05
    top: int | None = 50
    ledger: Ledger | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value, choices in (
            ("method", self.method, METHODS),
            ("baseline", self.baseline, BASELINES),
            ("contrast", self.contrast, CONTRASTS),
        ):
            if value not in choices:
                raise ValueError(f"{name}={value!r} is unknown; choose from {', '.join(choices)}")
        if self.method == "occlusion" and self.baseline not in ("zero_value", "absent"):
            raise ValueError(f"baseline={self.baseline}: occlusion compares with zero_value, or with the gene absent")
        if self.method != "occlusion" and self.baseline == "absent":
            raise ValueError(
                f"baseline=absent: there is no path from no token to one; choose method=occlusion, or another baseline for {self.method}"
            )


@dataclass(frozen=True)
class InSilicoOptions(CellOptions):
    """How genes are edited.

    Attributes
    ----------
    min_cells
        Cells, at least, that must show a gene for it to be edited; genes that are asked for by name are edited in any case.
    n_matched
        Genes of like expression that each is compared with.
    n_downstream
        Of a decoder, genes that are named as moved most by each edit.
    profiles
        Of a decoder, return the mean changes of all genes, too.
    ledger
        Keeps finished parts, for the next run with the same options and for others that share the work; a worker returns nothing.
    """

    min_cells: int = 10
    n_matched: int = 50
    n_downstream: int = 10
    profiles: bool = False
    ledger: Ledger | None = None


def known_options(kind: type[CellOptions], options: dict[str, Any]) -> dict[str, Any]:
    """Options that a kind of options has; ValueError, naming them all, where it has not."""
    names = [f.name for f in fields(kind)]
    if unknown := sorted(options.keys() - set(names)):
        raise ValueError(f"{', '.join(unknown)}: no such option; there are {', '.join(names)}")
    return options
