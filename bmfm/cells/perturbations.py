"""Perturbations as a model reads them: for each cell the ids of what was targeted, how, and at which dose."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bmfm.cells.conditions import Condition

KINDS = ("none", "crispri", "crispra", "knockout", "drug")
"""What can be done to a target, in the order of their ids: repression and activation of a gene, its knock-out, a drug or another treatment."""
NO_TARGET = -1
PERTURBATION_FIELDS = ("perturbation_ids", "perturbation_doses")
"""Keys of a batch, see `Perturbations`."""


@dataclass(frozen=True)
class Perturbations:
    """What was done to n cells, with at most K targets each.

    Attributes
    ----------
    ids
        [n, K, 2] int64, the id of the target (a gene of the vocabulary, or V + the number of a drug) and of its kind (`KINDS`); `NO_TARGET`
        where a cell has fewer targets.
    doses
        [n, K] float32, log10 of the dose; 0 where there is none.
    """

    ids: np.ndarray
    doses: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: np.ndarray) -> "Perturbations":
        """Those of some cells, in the order of `rows` [m]."""
        return Perturbations(self.ids[rows], self.doses[rows])

    def as_fields(self) -> dict[str, np.ndarray]:
        """As a batch keeps them, by `PERTURBATION_FIELDS`."""
        return dict(zip(PERTURBATION_FIELDS, (self.ids, self.doses), strict=True))


def kind_id(kind: str) -> int:
    """The id of a kind, however it is written (CRISPRi, KO, ...).

    Raises
    ------
    ValueError
        If it is none of `KINDS`.
    """
    plain = kind.strip().lower().replace("_", "").replace("-", "").replace(" ", "")
    plain = {"ko": "knockout", "crispr": "knockout", "crisprko": "knockout", "cas9": "knockout", "compound": "drug", "chemical": "drug",
             "treatment": "drug", "cytokine": "drug"}.get(plain, plain)  # fmt: skip
    if plain not in KINDS[1:]:
        raise ValueError(f"{kind!r} is no kind of perturbation; there are {', '.join(KINDS[1:])}")
    return KINDS.index(plain)


def encode_conditions(
    conditions: Sequence[Condition], kinds: Sequence[str], find_gene: Callable[[str], int], n_tokens: int, drugs: Sequence[str]
) -> Perturbations:
    """Conditions in the ids of a vocabulary of genes and a list of drugs.

    Parameters
    ----------
    kinds
        Of each condition.
    find_gene
        The id of a gene, -1 where it has none.
    n_tokens
        V, after which the ids of drugs come.

    Raises
    ------
    ValueError
        Naming the targets that are in neither.
    """
    n_targets = max([1, *(len(c.targets) for c in conditions)])
    ids = np.full((len(conditions), n_targets, 2), NO_TARGET, np.int64)
    doses = np.zeros((len(conditions), n_targets), np.float32)
    number_of_drug = {name: n_tokens + i for i, name in enumerate(drugs)}
    unknown: dict[str, str] = {}
    for row, (condition, kind) in enumerate(zip(conditions, kinds, strict=True)):
        is_drug = KINDS[kind_id(kind)] == "drug"
        for place, target in enumerate(condition.targets):
            number = number_of_drug.get(target, -1) if is_drug else find_gene(target)
            if number < 0:
                unknown[target] = "drug" if is_drug else "gene"
                continue
            ids[row, place] = number, kind_id(kind)
            dose = condition.doses[place] if condition.doses else None
            doses[row, place] = np.log10(dose) if dose else 0.0
    if unknown:
        shown = ", ".join(f"{what} {name!r}" for name, what in list(unknown.items())[:10])
        n_more = f" and {len(unknown) - 10:,} more" if len(unknown) > 10 else ""
        known = f"; drugs that it knows: {', '.join(drugs[:20]) or 'none'}" if "drug" in unknown.values() else ""
        raise ValueError(f"the vocabulary of the model has no {shown}{n_more}{known}")
    return Perturbations(ids, doses)
