"""Examples of any source to batches, by the tokenizers of their parts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from bmfm.cells.counts import CellBatch
from bmfm.data.samplers import Sampler
from bmfm.data.sources import INPUT, Examples, Source
from bmfm.hashing import example_keys
from bmfm.tokenizers.base import Tokenizer, Tokens
from bmfm.tokenizers.collate import to_tensors
from bmfm.tokenizers.rna import CellTokenizer


class ExampleDataset(Dataset[Any]):
    """The examples of one part (train, validation or test) as batches; asked for a list of (epoch, place) pairs at a time.

    Examples that are held out get the tokens that inference makes of them (`Tokenizer.for_inference`), so that a model's figures
    are those of its use. Objectives that reconstruct what of a cell is not shown are measured on cells that are shown in part, as in
    training: dropout and thinning stay, drawn by the cell's content.

    Parameters
    ----------
    source
        Where the examples come from.
    sampler
        Which example of the source stands at which place of an epoch.
    seed
        Of the examples' keys, by which the tokenizer, the source and the objectives draw.
    tokenizers
        {part of an example: its tokenizer}, with ``input`` among them, which also serves the parts that are not named.
    max_tokens
        Longest input, special tokens included.
    packing
        Several examples a row of `max_tokens`.
    held_out
        Whether the examples are for validation or test.

    Attributes
    ----------
    labels, token_labels
        Of all examples, {name: [n, ...]}, and of all their tokens, {name: n arrays like the ids}.
    with_full_profile, shown_in_part
        What objectives need of cells, see `objectives.Objective.needs`.
    """

    def __init__(
        self,
        source: Source,
        sampler: Sampler,
        seed: int,
        tokenizers: Mapping[str, Tokenizer],
        max_tokens: int,
        packing: bool = False,
        held_out: bool = False,
    ):
        self.source, self.sampler, self.seed = source, sampler, seed
        self.training_tokenizers, self.max_tokens, self.held_out = dict(tokenizers), max_tokens, held_out
        self.row_length = max_tokens if packing else None
        self.labels: dict[str, np.ndarray] = {}
        self.token_labels: dict[str, list[np.ndarray]] = {}
        self.with_full_profile = self.shown_in_part = False

    def __len__(self) -> int:
        return len(self.sampler)

    @cached_property
    def tokenizers(self) -> dict[str, Tokenizer]:
        """Made at the first batch, when tokenizers have been fitted and objectives have said what they need."""
        if not self.held_out:
            return self.training_tokenizers
        return {name: tokenizer.for_inference(shown_in_part=self.shown_in_part) for name, tokenizer in self.training_tokenizers.items()}

    def as_held_out(self) -> "ExampleDataset":
        """The same examples as held-out ones are read: nothing of them dropped, thinned, hidden or permuted."""
        return ExampleDataset(self.source.as_held_out(), self.sampler, self.seed, self.training_tokenizers, self.max_tokens, held_out=True)

    def encode(self, numbers: np.ndarray, keys: np.ndarray) -> tuple[Examples, dict[str, Tokens]]:
        """Some examples [n], raw and as the tokens of their parts."""
        examples = self.source.take(numbers, keys)
        return examples, {name: self._encode_part(name, raw, keys) for name, raw in examples.parts.items()}

    def _encode_part(self, name: str, raw: Any, keys: np.ndarray) -> Tokens:
        if isinstance(raw, Tokens):
            return raw
        tokenizer = self._tokenizer(name)
        if name in self.source.predicted_parts and isinstance(tokenizer, CellTokenizer):
            return tokenizer.encode_profiles(raw)
        return tokenizer.encode(raw, keys, self.max_tokens)

    def _tokenizer(self, name: str) -> Tokenizer:
        return self.tokenizers.get(name, self.tokenizers[INPUT])

    def __getitems__(self, pairs: Sequence[tuple[int, int]]) -> dict[str, Any]:
        epochs, places = np.array(pairs, np.int64).T
        numbers, keys = self.sampler(epochs, places), example_keys(self.seed, epochs, places)
        examples, tokens = self.encode(numbers, keys)
        counts = examples.counts | tokens[INPUT].counts
        token_labels = {name: np.concatenate([labels[n] for n in numbers]) for name, labels in self.token_labels.items()}
        tokens[INPUT] = replace(tokens[INPUT], fields=tokens[INPUT].fields | token_labels)
        batches = {name: self._collate(name, part, examples.parts[name]) for name, part in tokens.items()}
        batch = batches.pop(INPUT) | examples.fields
        labels = {name: values[numbers] for name, values in self.labels.items()} | {name: batch.pop(name) for name in token_labels}
        batch |= {"example_keys": keys.view(np.int64), "labels": labels}
        if batches:
            batch["parts"] = batches
            counts |= {f"{name}_{what}": n for name in batches for what, n in tokens[name].counts.items()}
        return to_tensors(batch | {"counts": counts})

    def _collate(self, name: str, tokens: Tokens, raw: Any) -> dict[str, Any]:
        """The rows of one part, with whole profiles where objectives need them."""
        tokenizer = self._tokenizer(name)
        batch = tokenizer.collate(tokens, self.row_length)
        if self.with_full_profile and tokens.full_profile is not None and isinstance(raw, CellBatch):
            batch |= {"full_profile": tokens.full_profile.as_batch()} | _gene_panels(raw, len(tokenizer))
        return batch


def _gene_panels(cells: CellBatch, n_genes: int) -> dict[str, np.ndarray]:
    """The genes that the sources of some cells measure: ``gene_panel_mask`` [S, V] of the sources that occur, and ``source_ids`` [n]."""
    present, source_ids = np.unique(cells.source_ids, return_inverse=True)
    mask = np.zeros((len(present), n_genes), bool)
    for row, source in enumerate(present):
        mask[row, cells.gene_panels[source]] = True
    return {"gene_panel_mask": mask, "source_ids": source_ids}
