"""Which matrix of an AnnData holds counts, and rows of it of which each value is one."""

import warnings

import numpy as np

from bmfm.cells.counts import FAULTS, FRACTION, first_fault
from bmfm.cells.formats import AnnDataView
from bmfm.cells.matrix import Matrix

VELOCITY = ("spliced", "unspliced", "ambiguous")
"""Layers with a part of the counts."""


def open_matrix(view: AnnDataView, key: str) -> Matrix:
    """A matrix of an AnnData, if its shape is that of obs and var.

    Raises
    ------
    ValueError
        If it is not: the file is damaged.
    """
    matrix = Matrix(view.matrix(key), f"{view.name}, {key}", view.table.name_of)
    for have, want, what in ((matrix.shape[0], len(view.table), "rows for {} cells in obs"), (matrix.shape[1], len(view.var(key)), "columns for {} genes in var")):  # fmt: skip
        if have != want:
            raise ValueError(f"{matrix.name} is damaged: it has {have:,} {what.format(f'{want:,}')}; copy the file again, or make it again")
    return matrix


def find_counts(view: AnnDataView, where: str, whole: bool) -> str:
    """The key of the matrix that holds counts.

    ``auto`` takes the first that holds whole numbers, not all of them 0, of X, raw, the layers that are named as counts are
    (``counts``, ``raw_counts``, ``umi``, ``matrix``, ...; names with "count", "umi", "raw"), and the others by name. One of
    nothing but 0 and 1 is taken only if no other is left; ``spliced``, ``unspliced`` and ``ambiguous`` (parts of the counts)
    only by name. Where a layer was taken and another could have been, a warning says so.

    Parameters
    ----------
    where
        ``auto``, or a key.
    whole
        Whether whole numbers are asked for. If not, ``auto`` takes the first matrix with values that are no whole numbers.

    Raises
    ------
    KeyError, ValueError
        If there is none; names the first value of each matrix that is no count.
    """
    keys = view.keys()
    if where != "auto":
        if where not in keys:
            raise KeyError(f"{view.name}: there is no matrix {where!r}; counts (data.counts) can be auto, {', '.join(keys)}")
        return where
    aside = [k for k in keys if k.removeprefix("layers/") in VELOCITY and k.startswith("layers/")]
    found: list[str] = []
    binary: list[str] = []
    seen, wrong = [], []
    for key in (k for k in keys if k not in aside):
        matrix = open_matrix(view, key)
        if odd := matrix.odd_value(whole):
            value, row, column, fault = odd
            cell = f"cell {view.table.name_of(row)!r}, gene {view.var(key).index[column]!r}" if column < matrix.shape[1] else f"row {row}"
            seen.append(f"{key} (has {value:.5g}: {cell})")
            if fault != FRACTION:
                wrong.append(f"{matrix.name}: value {value:.5g} of {cell.replace(', gene', f' (row {row}), gene')}, {FAULTS[fault]}")
        elif matrix.is_empty():
            seen.append(f"{key} (empty)")
        elif not whole and matrix.is_whole() and matrix.exceeds(1):
            seen.append(f"{key} (whole numbers, as counts are)")
        else:
            (found if len(keys) == 1 or matrix.exceeds(1) else binary).append(key)
        if found and not found[0].startswith("layers/"):
            break
    if found or binary:
        _say_others(view, found or binary)
        return (found or binary)[0]
    raise ValueError(_no_counts(view, whole, seen, wrong, aside))


def _say_others(view: AnnDataView, found: list[str]) -> None:
    if len(found) > 1 and found[0].startswith("layers/"):
        warnings.warn(f"{view.name}: counts are read from {found[0]}; {', '.join(found[1:])} could be counts too, counts=layers/NAME "
                      "(data.counts) names another", stacklevel=2)  # fmt: skip


def _no_counts(view: AnnDataView, whole: bool, seen: list[str], wrong: list[str], aside: list[str]) -> str:
    """What to tell of an AnnData without counts."""
    if wrong:
        return f"{wrong[0]}; correct or remove the cell"
    if aside:
        others = f" ({', '.join(seen)})" if seen else ""
        return (
            f"{view.name}: {', '.join(aside)} hold parts of the counts, and no matrix all of them{others}: store their sum as a layer, "
            f"or name one by counts={aside[0]} (data.counts)"
        )
    if not seen or all(s.endswith("(empty)") for s in seen):
        return f"{view.name} holds no counts: {', '.join(seen) or 'it has no X, no raw and no layers'}"
    if not whole:
        return (
            f"{view.name}: no matrix holds normalised expression: {', '.join(seen)}. The model was trained on normalised values, or "
            "expects=normalised (data.expects) asks for them: store them, or name a matrix by counts=X or counts=layers/NAME (data.counts)"
        )
    return (
        f"{view.name}: no matrix holds raw counts: {', '.join(seen)}. Name one by counts=layers/NAME (data.counts on the command line); "
        "values that are already normalised are taken by expects=normalised (data.expects), for models with tokenizer.values.kind=as_is"
    )


def checked_rows(
    view: AnnDataView, key: str, matrix: Matrix, start: int, stop: int, whole: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows [start, stop) as `Matrix.rows` gives them; a ValueError names file, cell and gene of a value that is no count."""
    indptr, indices, data = matrix.rows(start, stop)
    place, fault = first_fault(data, whole)
    if fault:
        row = start + int(np.searchsorted(indptr, place, "right")) - 1
        remedy = ("name the matrix of raw counts by counts=layers/NAME (data.counts), or say expects=normalised (data.expects) if these "
                  "values are meant" if fault == FRACTION else "correct or remove the cell")  # fmt: skip
        raise ValueError(
            f"{matrix.name}: value {data[place]:.6g} of cell {view.table.name_of(row)!r} (row {row}), gene "
            f"{view.var(key).index[indices[place]]!r}, {FAULTS[fault]}; {remedy}"
        )
    return indptr, indices, data
