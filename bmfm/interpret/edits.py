"""Cells with genes deleted, set or scaled, as a model sees them: an edit of their tokens.

Every other gene keeps the value that it has: what is asked is what the model makes of the gene, not of the read depth. A gene that truncation left
out stays out where one is deleted; in the summary of a cell (`models.summary`), where all genes are, edits are made, too.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from bmfm.inference.inputs import CHUNK, Inputs
from bmfm.tokenizers.base import Profiles, Tokens

KINDS = ("delete", "set", "scale")


@dataclass(frozen=True)
class Edit:
    """What is done to genes.

    Attributes
    ----------
    kind
        ``delete``: they are no part of the input. ``set``: their value is `amount`, also in cells that do not show them. ``scale``: it is `amount` times
        what it was.
    amount
        In the unit of the model's values (log-normalised, say), at least 0.
    is_binned
        Whether values must be whole numbers.
    """

    kind: str
    amount: float = 0.0
    is_binned: bool = False

    @classmethod
    def parse(cls, text: str, is_binned: bool = False) -> "Edit":
        """``delete``, ``set=VALUE`` or ``scale=FACTOR``; ValueError for anything else."""
        kind, equals, amount = text.partition("=")
        try:
            number = float(amount) if equals else 0.0
        except ValueError:
            number = -1.0
        if kind not in KINDS or bool(equals) != (kind != "delete") or not 0 <= number < np.inf:
            raise ValueError(
                f"kind={text!r}: give delete, set=VALUE or scale=FACTOR, with a number of at least 0, in the unit of the model's values"
            )
        return cls(kind, number, is_binned)

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Values that are not deleted."""
        edited = values * self.amount if self.kind == "scale" else np.full_like(values, self.amount)
        return np.rint(edited) if self.is_binned else edited


def edit_tokens(tokens: Tokens, genes: np.ndarray, edit: Edit) -> Tokens:
    """The same cells with an edit of some genes of each.

    Parameters
    ----------
    tokens
        Of m cells.
    genes
        [m, K] ids of the genes of each, -1 for none.
    """
    ids, offsets, fields = _edited(tokens.ids, tokens.offsets, tokens.fields, genes, edit)
    profile = tokens.shown_profile
    if profile is not None:
        gene_ids, ends, values = _edited(profile.gene_ids, profile.offsets, {"values": profile.values}, genes, edit)
        profile = Profiles(gene_ids, values["values"], ends)
    return replace(tokens, ids=ids, offsets=offsets, fields=fields, shown_profile=profile)


def _edited(
    ids: np.ndarray, offsets: np.ndarray, fields: dict[str, np.ndarray], genes: np.ndarray, edit: Edit
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Ids [T], offsets [m + 1] and fields [T] after an edit."""
    m = len(genes)
    row = np.repeat(np.arange(m), np.diff(offsets))
    same = ids[:, None] == genes[row]
    is_hit = same.any(1)
    if edit.kind == "delete":
        kept = ~is_hit
        lengths = np.bincount(row[kept], minlength=m)
        return ids[kept], np.append(0, np.cumsum(lengths)), {name: values[kept] for name, values in fields.items()}
    edited = {name: np.where(is_hit, edit(values), values).astype(values.dtype) for name, values in fields.items()}
    if edit.kind == "scale":
        return ids, offsets, edited
    is_there = np.zeros(genes.shape, bool)
    np.logical_or.at(is_there, row, same)
    at, k = np.nonzero(~is_there & (genes >= 0))
    places = offsets[1:][at]  # behind the genes of each cell
    added = {name: np.insert(values, places, edit(np.zeros(len(at), values.dtype))) for name, values in edited.items()}
    lengths = np.diff(offsets) + np.bincount(at, minlength=m)
    return np.insert(ids, places, genes[at, k]).astype(ids.dtype), np.append(0, np.cumsum(lengths)), added


def edited_inputs(tokens: Tokens, cells: np.ndarray, genes: np.ndarray, edit: Edit) -> Inputs:
    """Edited cells as the Predictor takes them, made some at a time.

    Parameters
    ----------
    cells
        [P] numbers of the cells among the tokens, each as often as it is edited.
    genes
        [P, K] ids of the genes that are edited together, -1 for none.
    """

    def chunks() -> Iterator[tuple[int, Tokens]]:
        for start in range(0, len(cells), CHUNK):
            some = slice(start, start + CHUNK)
            yield start, edit_tokens(tokens.take(cells[some]), genes[some], edit)

    n = len(cells)
    return Inputs(pd.RangeIndex(n), n, chunks, np.arange(n), np.ones(n, np.int64))


def cells_at_a_time(inputs: Inputs, size: int) -> Iterator[tuple[int, Tokens]]:
    """Number of the first cell, and tokens of at most `size` cells."""
    for start, tokens in inputs.chunks():
        for first in range(0, len(tokens), size):
            yield start + first, tokens.take(np.arange(first, min(first + size, len(tokens))))


def shown_genes(tokens: Tokens) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cell, gene and value [nnz] of all genes that a model is shown, as tokens or in the summary, by ascending cell and gene."""
    row = np.repeat(np.arange(len(tokens)), np.diff(tokens.offsets))
    ids, values = tokens.ids.astype(np.int64), tokens.fields["values"]
    if (profile := tokens.shown_profile) is not None:
        row = np.append(row, np.repeat(np.arange(len(profile)), profile.lengths))
        ids, values = np.append(ids, profile.gene_ids), np.append(values, profile.values)
    key = row << 32 | ids
    _, first = np.unique(key, return_index=True)
    return row[first], ids[first], values[first]
