"""Sequences of tokens to the rows of a batch, padded or packed."""

import numba
import numpy as np

from bmfm.tokenizers.dna import CLS, PAD, SEP


@numba.njit(cache=True)
def _fill(ids, flags, offsets, row_of, column_of, document_of, input_ids, document, position_ids, has_flag):
    for b in range(len(offsets) - 1):
        n = offsets[b + 1] - offsets[b]
        row, column = row_of[b], column_of[b]
        input_ids[row, column] = CLS
        for i in range(n):
            input_ids[row, column + 1 + i] = ids[offsets[b] + i]
            has_flag[row, column + 1 + i] = flags[offsets[b] + i]
        input_ids[row, column + 1 + n] = SEP
        for i in range(n + 2):
            document[row, column + i] = document_of[b]
            position_ids[row, column + i] = i


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


def collate(ids: np.ndarray, flags: np.ndarray, offsets: np.ndarray, row_length: int | None = None) -> dict[str, np.ndarray]:
    """Rows of a batch from flat tokens, special tokens added; packed into rows of `row_length` if that is given."""
    lengths = np.diff(offsets) + 2
    row, column, document_of, width = place_packed(lengths, row_length) if row_length else place_padded(lengths)
    width = -(-width // 8) * 8  # a multiple of 8 suits tensor cores
    shape = (int(row.max()) + 1, width)
    batch = {
        "input_ids": np.full(shape, PAD, np.int64),
        "document": np.zeros(shape, np.int64),
        "position_ids": np.zeros(shape, np.int64),
        "has_variant": np.zeros(shape, bool),
    }
    _fill(ids, flags, offsets, row, column, document_of, *(batch[k] for k in ("input_ids", "document", "position_ids", "has_variant")))
    batch["sequence_of_token"] = _sequence_of_token(row, column, lengths, shape)
    return batch


def _sequence_of_token(row, column, lengths, shape) -> np.ndarray:
    """Number of the sequence [0, N) that each token belongs to, -1 where padded."""
    out = np.full(shape, -1, np.int64)
    for b in range(len(row)):
        out[row[b], column[b] : column[b] + lengths[b]] = b
    return out
