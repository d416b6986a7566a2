"""Which reader turns a user's data into `inputs.Inputs`: the tokenizer says which omics it is for."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from bmfm.inference.cells import read_cells
from bmfm.inference.inputs import Inputs
from bmfm.inference.sequences import tokenize_sequences
from bmfm.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class Reader:
    """How data of one omics are read.

    Attributes
    ----------
    read
        Called with (tokenizer, data, longest input in tokens, options).
    title, examples, tokens
        What a model of this omics is of, what its examples are, and what its tokens stand for, in words.
    """

    read: Callable[..., Inputs]
    title: str
    examples: str
    tokens: str

    @property
    def options(self) -> list[str]:
        """Names of its options, sorted."""
        return sorted(inspect.signature(self.read).parameters.keys() - {"tokenizer", "data", "max_tokens"})


READERS = {
    "dna": Reader(tokenize_sequences, "DNA", "DNA", "tokens"),
    "rna": Reader(read_cells, "single-cell RNA", "cells", "genes"),
}


def reader_of(tokenizer: Tokenizer) -> Reader:
    """The reader of a tokenizer's omics.

    Raises
    ------
    ValueError
        If there is none.
    """
    if tokenizer.omics not in READERS:
        raise ValueError(f"{type(tokenizer).__name__} is for {tokenizer.omics!r}, which no reader takes; there are {', '.join(READERS)}")
    return READERS[tokenizer.omics]
