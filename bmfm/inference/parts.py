"""The examples of a data module as the `Predictor` reads them: how training's test and predictions come to be the same figures."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from bmfm.data.examples import ExampleDataset
from bmfm.data.sources import INPUT
from bmfm.genome.representation import Encoded
from bmfm.hashing import example_keys
from bmfm.inference.inputs import CHUNK, Inputs, cut_into_windows, in_chunks
from bmfm.tokenizers.base import Tokens
from bmfm.tokenizers.dna import SequenceTokenizer
from bmfm.tokenizers.texts import BOUNDARY, other_strands


def read_part(part: ExampleDataset, places: np.ndarray | None = None) -> Inputs:
    """The inputs of held-out examples, in the order of the part.

    Sequences that are longer than the longest input of the data module are cut into windows, where training cuts off their end.

    Parameters
    ----------
    places
        [n] of the examples in the part, as those of one device; None takes all.
    """
    places = np.arange(len(part)) if places is None else places
    numbers = part.sampler(np.zeros_like(places), places)
    keys = example_keys(part.seed, np.zeros_like(places), places)
    tokenizer, names = part.tokenizers[INPUT], pd.Index(numbers, name="example")
    if isinstance(tokenizer, SequenceTokenizer):
        return _sequences(tokenizer, part.source.take_whole(numbers, keys).parts[INPUT], names, part.max_tokens)

    def chunks() -> Iterator[tuple[int, Tokens]]:
        for start in range(0, len(places), CHUNK):
            some = slice(start, start + CHUNK)
            yield start, replace(part.encode(numbers[some], keys[some])[1][INPUT], full_profile=None)

    return Inputs(names, len(places), chunks, np.arange(len(places)), np.ones(len(places), np.int64))


def _sequences(tokenizer: SequenceTokenizer, raw: Encoded | Tokens, names: pd.Index, max_tokens: int) -> Inputs:
    """Inputs of sequences in windows; of pairs, which cannot be cut into windows, without their end. Of symbols, which know their complement,
    there is the other strand, too."""
    if isinstance(raw, Tokens):
        tokens = raw
    else:
        tokens = tokenizer.encode(raw, max_tokens=max_tokens if (raw.symbols == BOUNDARY).any() else 1 << 40)
    rows, owner = cut_into_windows(tokens, max_tokens - len(tokenizer.prefix) - 1)
    inputs = Inputs(names, len(rows), lambda: in_chunks(rows), owner, np.maximum(1, rows.lengths))
    if isinstance(raw, Encoded):
        inputs.other_strand = lambda: _sequences(tokenizer, other_strands(raw), names, max_tokens)
    return inputs
