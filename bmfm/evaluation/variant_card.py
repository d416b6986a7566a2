"""What the card of a task of variants says of its table: columns, which rows are scored, and the direction of scores and effects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from bmfm.evaluation.task_spec import TaskSpec

COORDINATES = ("chrom", "pos", "ref", "alt")
ALIASES = {
    "chrom": ("chrom", "#chrom", "chr", "chromosome", "contig"),
    "pos": ("pos", "position"),
    "ref": ("ref", "reference"),
    "alt": ("alt", "alternate", "alternative"),
}
"""Names of the columns of coordinates, in lower case, that are found without being named."""
MEASURED = ("label", "effect")
DESCRIBED = ("match_group", "consequence", "element", "frequency", "tss_distance", "covariate")
SIGNS = ("plus", "minus", "abs")


@dataclass(frozen=True)
class VariantCard:
    """The settings of ``task.examples`` of a task of variants.

    Parameters
    ----------
    columns
        {what: column of the table}: ``chrom``, ``pos`` (1-based), ``ref``, ``alt`` (where a usual name is not theirs); ``label``,
        ``effect``; ``match_group``, ``consequence``, ``element``, ``frequency`` (of the alternative allele), ``tss_distance``;
        ``covariate``, on which the error of the measurement depends, as a number of barcodes.
    fasta
        The genome, or the sequences of the elements, below the data root.
    contigs
        ``chrom``: the contigs of the FASTA are chromosomes. ``element``: they are elements, whose header gives their place on the
        genome, as ``>HBB GRCh37 11:5248252-5248438``; without a place, positions are those in the element.
    keep
        An expression over the table's columns; rows of which it is false are left out, and counted.
    elements
        Elements of this task; None is all.
    positive, negative
        Values of the label column; rows with another value have no label.
    sign
        What a log-likelihood ratio, log p(ALT) - log p(REF), becomes so that more of it means more effect: ``minus`` (less expected is
        worse), ``abs``, or ``plus``. Scores that are magnitudes, as distances of embeddings, stay as they are.
    effect_sign
        The same of measured effects.
    frequency_allowed
        Whether allele frequency may stand beside as a baseline: not where labels were made from it.
    missing_frequency
        The frequency of alleles of which the table states none; None leaves them without one.
    frequency_bins
        Ends of the bins of allele frequency in the report.
    max_ref_mismatch
        Share of the rows whose REF may differ from the FASTA; with more, it is the FASTA of another assembly.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    fasta: str | None = None
    contigs: str = "chrom"
    keep: str | None = None
    elements: Sequence[str] | None = None
    positive: Sequence[Any] = (1,)
    negative: Sequence[Any] = (0,)
    sign: str = "minus"
    effect_sign: str = "plus"
    frequency_allowed: bool = False
    missing_frequency: float | None = None
    frequency_bins: Sequence[float] = (0.0, 1e-4, 1e-3, 1e-2, 0.05, 0.5, 1.0)
    max_ref_mismatch: float = 0.05

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.columns) - {*COORDINATES, *MEASURED, *DESCRIBED}):
            raise ValueError(f"task.examples.columns.{unknown[0]} is unknown; there are {', '.join((*COORDINATES, *MEASURED, *DESCRIBED))}")
        if not self.is_labelled and not self.is_measured:
            raise ValueError("task.examples.columns names neither label nor effect: there is nothing to score")
        for key, value, choices in (
            ("sign", self.sign, SIGNS),
            ("effect_sign", self.effect_sign, SIGNS),
            ("contigs", self.contigs, ("chrom", "element")),
        ):
            if value not in choices:
                raise ValueError(f"task.examples.{key}={value!r}; choose {', '.join(choices)}")
        for key, reason in (("elements", self.elements is not None), ("contigs", self.contigs == "element")):
            if reason and "element" not in self.columns:
                raise ValueError(f"task.examples.{key} needs task.examples.columns.element")

    @property
    def is_labelled(self) -> bool:
        return "label" in self.columns

    @property
    def is_measured(self) -> bool:
        return "effect" in self.columns

    def label_of(self, value: Any) -> float:
        """1, 0, or NaN of what is neither a positive nor a negative value."""
        text = plain_text(value)
        if text in {plain_text(v) for v in self.positive}:
            return 1.0
        return 0.0 if text in {plain_text(v) for v in self.negative} else float("nan")


def plain_text(value: Any) -> str:
    """A label as text: truth values as 1 and 0, whole numbers without a point."""
    if isinstance(value, str):
        return {"true": "1", "false": "0"}.get(value.strip().lower(), value.strip())
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return str(int(number)) if number.is_integer() else str(number)


def card_of(task: TaskSpec) -> VariantCard:
    """The card of a task; ValueError, naming the key, where it has an unknown or mistaken one."""
    settings = {k: v for k, v in task.examples.items() if k != "_target_"}
    names = [f.name for f in fields(VariantCard)]
    if unknown := sorted(set(settings) - set(names)):
        raise ValueError(f"task.examples.{unknown[0]} is no setting of a task of variants; it has {', '.join(names)}")
    return VariantCard(**settings)
