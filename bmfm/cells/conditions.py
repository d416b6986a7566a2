"""What was done to a cell: target genes or drugs with their doses, in the many ways in which data sets spell it."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Condition:
    """A perturbation, or none.

    Attributes
    ----------
    targets
        Genes or drugs, sorted; empty for a control.
    doses
        As long as `targets`, in `unit`; None where there is none.
    unit
        Of the doses, as ``uM``; empty without.
    """

    targets: tuple[str, ...] = ()
    doses: tuple[float | None, ...] = ()
    unit: str = ""

    @property
    def is_control(self) -> bool:
        return not self.targets
