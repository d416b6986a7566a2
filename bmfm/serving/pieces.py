"""Tokenized examples of several requests as one input of the model, and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from bmfm.inference.inputs import Inputs, in_chunks
from bmfm.tokenizers.base import Profiles, Tokens


@dataclass
class Piece:
    """Some examples of one request.

    Attributes
    ----------
    inputs
        The examples, whose tokens are all there.
    other
        Their reverse complements, where both strands are read.
    """

    inputs: Inputs
    tokens: Tokens
    other: "Piece | None" = None

    @property
    def n_examples(self) -> int:
        return len(self.inputs.names)

    @property
    def n_rows(self) -> int:
        """Rows that go through the model, those of the other strand not counted."""
        return len(self.tokens)

    @property
    def longest(self) -> int:
        """Tokens of its longest row."""
        return int(self.tokens.lengths.max()) if len(self.tokens) else 0


def whole(inputs: Inputs, both_strands: bool = False) -> Piece:
    """All examples of a request, tokenized now."""
    tokens = join_tokens([tokens for _, tokens in inputs.chunks()])
    other = None
    if both_strands and inputs.other_strand is not None:
        other = whole(inputs.other_strand())
    return Piece(inputs, tokens, other)


def split(piece: Piece, most: int) -> list[Piece]:
    """Pieces of at most `most` rows each, where no example has more."""
    inputs = piece.inputs
    if piece.n_rows <= most:
        return [piece]
    first_row = np.searchsorted(inputs.owner, np.arange(len(inputs.names) + 1))
    cuts = [0]
    for example in range(1, len(inputs.names)):
        if first_row[example + 1] - first_row[cuts[-1]] > most:
            cuts.append(example)
    return [_part(piece, begin, end) for begin, end in zip(cuts, [*cuts[1:], len(inputs.names)], strict=True)]


def _part(piece: Piece, begin: int, end: int) -> Piece:
    inputs = piece.inputs
    rows = np.flatnonzero((inputs.owner >= begin) & (inputs.owner < end))
    tokens = piece.tokens.take(rows)
    part = Inputs(
        inputs.names[begin:end], len(rows), partial(in_chunks, tokens), inputs.owner[rows] - begin, inputs.weight[rows],
        empty=None if inputs.empty is None else inputs.empty[begin:end], n_bases=None if inputs.n_bases is None else inputs.n_bases[begin:end],
    )  # fmt: skip
    return Piece(part, tokens, None if piece.other is None else _part(piece.other, begin, end))


def merge(pieces: Sequence[Piece]) -> Inputs:
    """Inputs of the model that hold the examples of all pieces, one piece after the other."""
    tokens = join_tokens([piece.tokens for piece in pieces])
    of = [piece.inputs for piece in pieces]
    first = np.cumsum([0, *(len(inputs.names) for inputs in of)])
    owner = np.concatenate([inputs.owner + n for inputs, n in zip(of, first, strict=False)])
    empty = np.concatenate([inputs.empty for inputs in of]) if all(i.empty is not None for i in of) else None  # type: ignore[misc]
    n_bases = np.concatenate([inputs.n_bases for inputs in of]) if all(i.n_bases is not None for i in of) else None  # type: ignore[misc]
    others = [piece.other for piece in pieces if piece.other is not None]
    return Inputs(
        pd.RangeIndex(int(first[-1])), len(tokens), partial(in_chunks, tokens), owner, np.concatenate([inputs.weight for inputs in of]),
        empty=empty, n_bases=n_bases, other_strand=partial(merge, others) if others else None,
    )  # fmt: skip


def join_tokens(parts: Sequence[Tokens]) -> Tokens:
    """The examples of all parts, one part after the other; without `counts` and what is not shown."""
    if len(parts) == 1:
        return parts[0]
    profiles = [part.shown_profile for part in parts if part.shown_profile is not None]
    return Tokens(
        np.concatenate([part.ids for part in parts]),
        _joined_offsets([part.offsets for part in parts]),
        {name: np.concatenate([part.fields[name] for part in parts]) for name in parts[0].fields},
        {name: np.concatenate([part.example_fields[name] for part in parts]) for name in parts[0].example_fields},
        shown_profile=_join_profiles(profiles) if profiles else None,
    )


def _join_profiles(parts: Sequence[Profiles]) -> Profiles:
    return Profiles(
        np.concatenate([part.gene_ids for part in parts]), np.concatenate([part.values for part in parts]), _joined_offsets([part.offsets for part in parts])
    )  # fmt: skip


def _joined_offsets(parts: Sequence[np.ndarray]) -> np.ndarray:
    lengths = np.concatenate([np.diff(offsets) for offsets in parts])
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
