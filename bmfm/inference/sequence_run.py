"""Sequences of any number from files to a table: read, run and written some at a time."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from bmfm.inference.inputs import Inputs
from bmfm.inference.predictor import Predictor
from bmfm.inference.sequence_blocks import Block, sequence_blocks
from bmfm.inference.sequences import tokenize_some
from bmfm.inference.tables import results_table
from bmfm.ledger import Ledger
from bmfm.tokenizers.dna import refuse_unknown


@dataclass(frozen=True)
class SequenceRun:
    """What is computed of which sequences.

    Attributes
    ----------
    data
        The group ``data`` of the configuration of a prediction.
    asked
        Of `Predictor.embed_and_predict`: whether there are embeddings, and predictions, then pooling and layer.
    max_tokens
        Longest input; None is the model's own.
    options
        Further ones of `Predictor.embed_and_predict`.
    progress
        Whether a bar is shown.
    """

    predictor: Predictor
    data: Any
    asked: tuple[bool, bool, Any, Any]
    max_tokens: int | None
    options: dict[str, Any]
    progress: bool | None = None

    def check(self) -> Counter[str]:
        """Read and tokenize everything once, so that what is wrong is known before anything is computed. Returns counts of what there is."""
        counts: Counter[str] = Counter()
        for block in sequence_blocks(self.data):
            counts.update(self._read(block).counts)
        refuse_unknown(counts["unknown_tokens"], counts["tokens"], "sequences")
        return counts

    def tables(self, ledger: Ledger, n_sequences: int) -> Iterator[pd.DataFrame]:
        """Results of some sequences after those of others, computed where the ledger has them not; see `tables.results_table`."""
        with tqdm(total=n_sequences, unit="sequence", disable=self.progress is False, delay=0 if self.progress else 3) as bar:
            for number, block in enumerate(sequence_blocks(self.data)):
                inputs = self._read(block)
                of_block = self._ledger(ledger, number)
                results = self.predictor.embed_and_predict(inputs, *self.asked, ledger=of_block, progress=False, **self.options)
                yield results_table(inputs.names, *results)
                bar.update(len(inputs.names))

    def work(self, ledger: Ledger) -> None:
        """Do a worker's share of the shards."""
        for number, block in enumerate(sequence_blocks(self.data)):
            self.predictor.work(self._read(block), *self.asked, ledger=self._ledger(ledger, number), progress=False, **self.options)

    def _read(self, block: Block) -> Inputs:
        longest = self.predictor.longest_input(self.max_tokens)
        assert self.predictor.reader.title == "DNA"
        return tokenize_some(self.predictor.tokenizer, block.sequences, longest, self.data.alphabet, block.first)  # type: ignore[arg-type]

    @staticmethod
    def _ledger(ledger: Ledger, number: int) -> Ledger:
        return ledger.below(f"{number:06d}")
