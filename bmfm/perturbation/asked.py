"""Which perturbations are asked about: a list, or a table of conditions, maybe with their contexts and kinds."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.cells.conditions import Condition, parse_conditions, targets_of
from bmfm.cells.perturbations import KINDS, kind_id
from bmfm.data.tables import read_table
from bmfm.files import require_file

CONDITION_COLUMNS = ("condition", "target_gene", "perturbation", "gene", "target", "drug")
CONTEXT_COLUMNS = ("context", "cell_type", "cell_line")


@dataclass(frozen=True)
class Asked:
    """Q perturbations, each in a context.

    Attributes
    ----------
    conditions
        [Q].
    kinds
        [Q] names.
    context_ids
        [Q] int64, numbers of their contexts.
    texts
        [Q] canonical names of the conditions.
    """

    conditions: list[Condition]
    kinds: list[str]
    context_ids: np.ndarray

    @property
    def texts(self) -> list[str]:
        return [str(c) for c in self.conditions]

    def __len__(self) -> int:
        return len(self.conditions)

    def __getitem__(self, some: slice) -> "Asked":
        return Asked(self.conditions[some], self.kinds[some], self.context_ids[some])


def read_asked(asked: Any, contexts: Sequence[str], kind: str, known: Collection[str]) -> Asked:
    """Perturbations of a list of names, of a DataFrame, or of a CSV, TSV or Parquet file.

    A table has a column of conditions (one of `CONDITION_COLUMNS`, or its first), and maybe ``context``, ``kind`` and ``dose`` with its ``unit``; without
    a context, a condition is asked about in all of them. Controls among the conditions are left out: nothing is done to them.

    Parameters
    ----------
    kind
        Of conditions that do not state theirs.
    known
        Names of genes and drugs, by which spellings are told apart.

    Raises
    ------
    ValueError
        Naming the table, and what of it cannot be read, or a context that is not there.
    """
    where, table = "perturbations", asked
    if isinstance(asked, str | Path):
        where = str(asked)
        table = read_table(require_file(asked, "list of perturbations"), ids=[0])
        table = table if isinstance(table.index, pd.RangeIndex) else table.reset_index()
    elif not isinstance(asked, pd.DataFrame):
        table = pd.DataFrame({"condition": list(asked)})
    if not len(table):
        raise ValueError(f"{where} holds no perturbation")
    column = next((c for c in CONDITION_COLUMNS if c in table), None)
    if column is None and set(targets_of(str(table.columns[0]))) & set(known):
        raise ValueError(
            f"{where}: its first line, {str(table.columns[0])!r}, is a perturbation, and should be the name of the column: write condition above it"
        )
    conditions = _conditions(table, table.columns[0] if column is None else column, known, where)
    kinds = [_kind(text, f"{where}, row {row + 1}") for row, text in enumerate(table["kind"])] if "kind" in table else [kind] * len(table)
    context_column = next((c for c in CONTEXT_COLUMNS if c in table), None)
    named = table[context_column].astype(str).tolist() if context_column else [None] * len(table)
    rows: dict[tuple[Condition, str, int], None] = {}
    for condition, of_kind, context in zip(conditions, kinds, named, strict=True):
        if context is not None and context not in contexts:
            raise ValueError(
                f"{where}: there is no context {context!r} among the control cells; they have {', '.join(contexts[:20])} "
                "(context, on the command line responses.context, names their column)"
            )
        if not condition.is_control:
            chosen = range(len(contexts)) if context is None else [list(contexts).index(context)]
            rows |= dict.fromkeys((condition, of_kind, c) for c in chosen)
    if not rows:
        raise ValueError(f"{where} holds controls alone: there is nothing to predict")
    return Asked([r[0] for r in rows], [r[1] for r in rows], np.array([r[2] for r in rows]))


def _conditions(table: pd.DataFrame, column: str, known: Collection[str], where: str) -> list[Condition]:
    """Conditions of a table's rows, whose doses may have units of their own."""
    units = table["unit"].fillna("").astype(str) if "unit" in table else pd.Series("", index=table.index)
    found: dict[int, Condition] = {}
    for unit in units.unique():
        rows = np.flatnonzero(units == unit)
        doses = table["dose"].iloc[rows].tolist() if "dose" in table else None
        texts = table[column].iloc[rows].tolist()
        parsed = parse_conditions(texts, known_targets=known, doses=doses, unit=unit, column=f"{column} of {where}")
        found |= dict(zip(rows.tolist(), parsed, strict=True))
    return [found[row] for row in range(len(table))]


def _kind(text: object, where: str) -> str:
    try:
        return KINDS[kind_id(str(text))]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
