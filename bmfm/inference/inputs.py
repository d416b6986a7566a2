"""What the readers of both omics hand to the `Predictor`: tokenized examples in chunks, one contract."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from bmfm.tokenizers.base import Tokenizer, Tokens

CHUNK = 2048
"""Examples that are tokenized, sorted by length and cut into batches at a time."""


@dataclass
class Inputs:
    """Tokenized examples in chunks.

    A row is what goes through the model at once: a cell, or a window of a sequence. A sequence that is longer than the context has
    several rows, and its result is their mean, weighted by tokens.

    Attributes
    ----------
    names
        Of the examples (cells or sequences), in their order.
    n_rows
        Rows of all chunks together.
    chunks
        Gives (number of the chunk's first row, tokens of its rows), from the first on whenever it is called. With ``needed``, which tells by the
        number of its first row whether a chunk is wanted, it leaves out the others without reading them, where it can.
    owner
        [n_rows] number of the example that each row belongs to, ascending.
    weight
        [n_rows] tokens of each row, at least 1: its weight in the mean of its example.
    counts
        What was seen, truncated or unknown; complete once all chunks were.
    match
        How the genes of an AnnData were found; of several files {file: how}.
    empty
        [n examples] bool, examples that hold nothing the model knows, as cells without any gene of the vocabulary: nothing is predicted
        for them. Complete once all chunks were seen.
    n_bases
        [n examples] length of each sequence, both of a pair together; None of cells.
    other_strand
        Gives the inputs of the reverse complements of the same examples, for means over both strands; None of cells.
    """

    names: pd.Index
    n_rows: int
    chunks: Callable[..., Iterator[tuple[int, Tokens]]]
    owner: np.ndarray
    weight: np.ndarray
    counts: Counter[str] = field(default_factory=Counter)
    match: Any = None
    empty: np.ndarray | None = None
    n_bases: np.ndarray | None = None
    other_strand: Callable[[], "Inputs"] | None = None

    def mean_of_windows(self, values: np.ndarray) -> np.ndarray:
        """Results of the examples [n, ...] from those of the rows [n_rows, ...]."""
        if self.n_rows == len(self.names):
            return values
        sums = np.zeros((len(self.names), *values.shape[1:]))
        np.add.at(sums, self.owner, values * self.weight.reshape(-1, *[1] * (values.ndim - 1)))
        total = np.bincount(self.owner, weights=self.weight)
        return (sums / total.reshape(-1, *[1] * (values.ndim - 1))).astype(np.float32)

    def spans(self, tokenizer: Tokenizer, ids: Sequence[np.ndarray]) -> list[np.ndarray]:
        """What the tokens of each example, [L] each, stand for, [L, 2] each; see `Tokenizer.spans`."""
        n_bases = [None] * len(ids) if self.n_bases is None else self.n_bases.tolist()
        return [tokenizer.spans(tokens, n) for tokens, n in zip(ids, n_bases, strict=True)]

    def of_examples(self, offsets: np.ndarray) -> np.ndarray:
        """Offsets of the examples [n + 1] in values of all tokens one after the other, from those of the rows [n_rows + 1]."""
        first_row = np.searchsorted(self.owner, np.arange(len(self.names) + 1))
        return offsets[first_row]


def cut_into_windows(tokens: Tokens, room: int) -> tuple[Tokens, np.ndarray]:
    """The same tokens in rows of at most `room`, and the number of the example that each row belongs to; an empty example keeps a row.

    Raises
    ------
    ValueError
        If there is no room.
    """
    if room < 1:
        raise ValueError(f"max_tokens leaves no room for a sequence beside its special tokens: give at least {1 - room} more")
    lengths = np.diff(tokens.offsets)
    n_windows = np.maximum(1, -(-lengths // room))
    owner = np.repeat(np.arange(len(lengths)), n_windows)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
    starts = tokens.offsets[owner] + number * room
    per_example = {name: values[owner] for name, values in tokens.example_fields.items()}
    return Tokens(tokens.ids, np.append(starts, tokens.offsets[-1:]), tokens.fields, per_example, counts=tokens.counts), owner


def every_chunk(start: int) -> bool:
    """That all chunks are wanted."""
    return True


def in_chunks(tokens: Tokens, needed: Callable[[int], bool] = every_chunk) -> Iterator[tuple[int, Tokens]]:
    """Tokens that are all there, `CHUNK` rows at a time."""
    for start in filter(needed, range(0, len(tokens), CHUNK)):
        yield start, tokens.take(np.arange(start, min(start + CHUNK, len(tokens))))
