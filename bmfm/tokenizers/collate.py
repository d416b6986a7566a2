"""Sequences of tokens to the rows of a batch, padded or packed."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numba
import numpy as np
import torch

from bmfm.special import IGNORE, PAD, SEP
from bmfm.tokenizers.base import Tokens


class Layout(NamedTuple):
    """Where examples lie in the rows of a batch.

    Attributes
    ----------
    row, column
        Of the first token of each example [N].
    number
        Of each example in its row, from 1 [N].
    width
        Length of the rows.
    """

    row: np.ndarray
    column: np.ndarray
    number: np.ndarray
    width: int


class Rows(NamedTuple):
    """What every batch holds, [R, L] each; see `batch.Batch`."""

    input_ids: np.ndarray
    sequence_ids: np.ndarray
    position_ids: np.ndarray
    example_ids: np.ndarray
    special_tokens_mask: np.ndarray


def place_padded(lengths: np.ndarray) -> Layout:
    """One example a row, of these lengths [N]."""
    n = len(lengths)
    return Layout(np.arange(n), np.zeros(n, np.int64), np.ones(n, np.int64), int(lengths.max()))


def place_packed(lengths: np.ndarray, row_length: int) -> Layout:
    """Each example in the first row with room for it, longest first."""
    used: list[int] = []
    n_examples: list[int] = []
    row, column, number = (np.zeros(len(lengths), np.int64) for _ in range(3))
    for b in np.argsort(-lengths, kind="stable"):
        r = next((r for r, u in enumerate(used) if u + lengths[b] <= row_length), len(used))
        if r == len(used):
            used.append(0)
            n_examples.append(0)
        row[b], column[b], number[b] = r, used[r], n_examples[r] + 1
        used[r] += int(lengths[b])
        n_examples[r] += 1
    return Layout(row, column, number, row_length)


@numba.njit(cache=True)
def write_special_tokens(layout, lengths, prefix, has_positions, rows):
    """Special tokens around examples of these lengths [N], and everything that does not depend on their tokens, into `Rows`."""
    for b in range(len(lengths)):
        row, begin = layout.row[b], layout.column[b]
        end = begin + len(prefix) + lengths[b] + 1
        rows.sequence_ids[row, begin:end] = layout.number[b]
        rows.example_ids[row, begin:end] = b
        if has_positions:
            for i in range(end - begin):
                rows.position_ids[row, begin + i] = i
        for i in range(len(prefix)):
            rows.input_ids[row, begin + i] = prefix[i]
        rows.input_ids[row, end - 1] = SEP
        rows.special_tokens_mask[row, begin + len(prefix) : end - 1] = False


@numba.njit(cache=True)
def scatter_tokens(flat, offsets, layout, n_prefix, out):
    """Put the tokens [T, ...] of each example to their places in rows [R, L, ...], behind its prefix."""
    for b in range(len(offsets) - 1):
        begin, n = offsets[b], offsets[b + 1] - offsets[b]
        column = layout.column[b] + n_prefix
        out[layout.row[b], column : column + n] = flat[begin : begin + n]


def collate(
    tokens: Tokens,
    prefix: np.ndarray,
    n_special: int,
    row_length: int | None = None,
    positions: bool = True,
    fills: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Rows of a batch, padded or packed.

    Parameters
    ----------
    prefix
        Ids of the special tokens before each sequence; [SEP] comes after it.
    n_special
        Ids below this are special tokens, inside of a sequence too.
    row_length
        Pack into rows of this length; None gives each sequence a row.
    positions
        Whether ``position_ids`` count from 0 in each example; else they are 0.
    fills
        What stands where a field has no content, {batch key: number}; else False, -100 or NaN, by its type.
    """
    lengths = tokens.lengths
    whole = lengths + len(prefix) + 1
    layout = place_packed(whole, row_length) if row_length else place_padded(whole)
    layout = layout._replace(width=-(-layout.width // 8) * 8)  # a multiple of 8 suits tensor cores
    shape = (int(layout.row.max()) + 1, layout.width)
    ids, sequences, places, examples = np.full(shape, PAD), np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, -1)
    rows = Rows(ids, sequences, places, examples, np.ones(shape, bool))
    write_special_tokens(layout, lengths, prefix, positions, rows)
    scatter_tokens(tokens.ids, tokens.offsets, layout, len(prefix), rows.input_ids)
    is_special = tokens.ids < n_special
    if is_special.any():
        scatter_tokens(is_special, tokens.offsets, layout, len(prefix), rows.special_tokens_mask)
    batch = rows._asdict()
    for name, values in tokens.fields.items():
        blank = (fills or {}).get(name, _blank(values.dtype))
        batch[name] = np.full((*shape, *values.shape[1:]), blank, values.dtype)
        scatter_tokens(values, tokens.offsets, layout, len(prefix), batch[name])
    return batch | {"cls_index": layout.row * layout.width + layout.column, "packed": row_length is not None}


def _blank(kind: np.dtype) -> float:
    """What stands for "no content" in a field of this type."""
    return {"b": False, "f": np.nan}.get(kind.kind, IGNORE)


def to_tensors(batch: dict, device: torch.device | None = None) -> dict:
    """NumPy arrays to tensors on the same memory, or on a device; whatever is no array stays."""
    return {
        k: to_tensors(v, device) if isinstance(v, dict) else torch.from_numpy(v).to(device) if isinstance(v, np.ndarray) else v
        for k, v in batch.items()
    }
