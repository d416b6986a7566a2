"""Sequences of tokens to the rows of a batch, padded or packed."""

from collections.abc import Mapping

import numba
import numpy as np
import torch

from bmfm.special import IGNORE, PAD, SEP
from bmfm.tokenizers.base import Tokens


def place_padded(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Row, column and document number of each sequence [N], and the row length: one sequence a row."""
    n = len(lengths)
    return np.arange(n), np.zeros(n, np.int64), np.ones(n, np.int64), int(lengths.max())


def place_packed(lengths: np.ndarray, row_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """As `place_padded`, but each sequence goes to the first row with room for it, longest first."""
    used: list[int] = []
    held: list[int] = []
    row, column, document = (np.zeros(len(lengths), np.int64) for _ in range(3))
    for b in np.argsort(-lengths, kind="stable"):
        r = next((r for r, u in enumerate(used) if u + lengths[b] <= row_length), len(used))
        if r == len(used):
            used.append(0)
            held.append(0)
        row[b], column[b], document[b] = r, used[r], held[r] + 1
        used[r] += int(lengths[b])
        held[r] += 1
    return row, column, document, row_length


@numba.njit(cache=True)
def _frame(offsets, prefix, row_of, column_of, document_of, positions, input_ids, document, position_ids, example, special):
    for b in range(len(offsets) - 1):
        row, column = row_of[b], column_of[b]
        n = offsets[b + 1] - offsets[b] + len(prefix) + 1
        document[row, column : column + n] = document_of[b]
        example[row, column : column + n] = b
        if positions:
            for i in range(n):
                position_ids[row, column + i] = i
        for i in range(len(prefix)):
            input_ids[row, column + i] = prefix[i]
        input_ids[row, column + n - 1] = SEP
        special[row, column + len(prefix) : column + n - 1] = False


@numba.njit(cache=True)
def _lay(flat, offsets, row_of, column_of, shift, out):
    for b in range(len(offsets) - 1):
        begin, n = offsets[b], offsets[b + 1] - offsets[b]
        column = column_of[b] + shift
        out[row_of[b], column : column + n] = flat[begin : begin + n]


def collate(
    ids: np.ndarray,
    offsets: np.ndarray,
    prefix: np.ndarray,
    flat: Mapping[str, tuple[np.ndarray, float]],
    row_length: int | None = None,
    positions: bool = True,
) -> dict:
    """Rows of a batch from flat tokens.

    Parameters
    ----------
    prefix
        Ids of the special tokens before each sequence; [SEP] comes after it.
    flat
        More of each token, {batch key: (array like `ids`, what stands at special tokens and padding)}.
    row_length
        Pack into rows of this length; None gives each sequence a row.
    """
    shift = len(prefix)
    lengths = np.diff(offsets) + shift + 1
    row, column, document_of, width = place_packed(lengths, row_length) if row_length else place_padded(lengths)
    width = -(-width // 8) * 8  # a multiple of 8 suits tensor cores
    shape = (int(row.max()) + 1, width)
    batch = {
        "input_ids": np.full(shape, PAD, np.int64),
        "sequence_ids": np.zeros(shape, np.int64),
        "position_ids": np.zeros(shape, np.int64),
        "example_ids": np.full(shape, -1, np.int64),
        "special_tokens_mask": np.ones(shape, bool),
    }
    _frame(offsets, prefix, row, column, document_of, positions, *batch.values())
    _lay(ids, offsets, row, column, shift, batch["input_ids"])
    for name, (values, fill) in flat.items():
        batch[name] = np.full(shape, fill, values.dtype)
        _lay(values, offsets, row, column, shift, batch[name])
    return batch | {"cls_index": row * width + column, "packed": row_length is not None}


def collate_tokens(
    tokens: Tokens,
    prefix: np.ndarray,
    n_special: int,
    row_length: int | None = None,
    positions: bool = True,
    fills: Mapping[str, float] | None = None,
) -> dict:
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
    flat = {name: (values, (fills or {}).get(name, _nothing(values.dtype))) for name, values in tokens.fields.items()}
    batch = collate(tokens.ids, tokens.offsets, prefix, flat, row_length, positions)
    batch["special_tokens_mask"] |= batch["input_ids"] < n_special
    return batch


def _nothing(kind: np.dtype) -> float:
    """What stands for "no content" in a field of this type."""
    return {"b": False, "f": np.nan}.get(kind.kind, IGNORE)


def to_tensors(batch: dict) -> dict:
    """NumPy arrays to tensors on the same memory; whatever is no array stays."""
    return {k: to_tensors(v) if isinstance(v, dict) else torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in batch.items()}
