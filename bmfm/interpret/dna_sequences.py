"""The sequences that are explained, and whether the model ever saw such long ones."""

import warnings
from typing import Any

from bmfm.inference.predictor import Predictor
from bmfm.variants.mutagenesis import tokens_of
from bmfm.variants.sequence_sets import SequenceSet, read_sequence_set


def read_sequences(predictor: Predictor, sequences: Any = None, **places: Any) -> SequenceSet:
    """Sequences or regions, see `variants.sequence_sets.read_sequence_set`; warns where they are longer than what the model was trained on."""
    of, trained = read_sequence_set(sequences, **places), predictor.model.config.max_tokens
    longest = int(tokens_of(predictor, of.codes).lengths.max()) + predictor.tokenizer.n_cls + 1
    if trained and longest > trained:
        around = f", {of.context:,} bases of context on either side among them," if of.context else ""
        warnings.warn(
            f"inputs of {longest:,} tokens{around} are longer than those that the model was trained on ({trained:,}): explain shorter sequences",
            stacklevel=4,
        )
    return of
