"""Where examples come from: the contract of sources, and the three that ship.

A source holds examples by number. It gives them raw, as one or several named parts: ``input`` is what the model reads, and further
parts are what stands beside it, as the perturbed cell beside its control or the donor's DNA beside a cell. What a tokenizer makes
of the raw parts is the batch (`examples.ExampleDataset`).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bmfm.cells.permuted import permute_genes
from bmfm.cells.sources import Cells
from bmfm.genome.representation import Encoded, Representation
from bmfm.genome.windows import WindowSampler
from bmfm.hashing import uniform
from bmfm.tokenizers.base import Tokenizer, Tokens
from bmfm.tokenizers.texts import as_encoded

INPUT = "input"


@dataclass
class Examples:
    """Some examples of a source, n of them.

    Attributes
    ----------
    parts
        {name: raw examples}, with ``input`` among the names: `genome.representation.Encoded` for DNA, `cells.counts.CellBatch` for
        cells, whatever else a tokenizer of one's own encodes; or `Tokens`, where the source has tokenized them already.
    fields
        More of each example, {batch key: [n, ...]}, which becomes part of the batch as it is.
    counts
        {what: number}, for reports; those of the tokenizer are added to them.
    """

    parts: Mapping[str, Any]
    fields: dict[str, np.ndarray] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


class Source(ABC):
    """Examples by number. Two methods make one; the others have answers that suit most sources.

    Sources are copied into the workers that load batches, so that what they hold must survive pickling or forking.
    """

    column_names: Sequence[str] = ()
    """Names of the columns of labels, see `column`."""
    predicted_parts: frozenset[str] = frozenset()
    """Parts, of cells, that no model reads: of them objectives get the values of all genes, and they have no tokens."""

    @abstractmethod
    def __len__(self) -> int:
        """How many examples there are."""

    @abstractmethod
    def take(self, indices: np.ndarray, keys: np.ndarray) -> Examples:
        """Some examples, in the order asked for.

        Parameters
        ----------
        indices
            Their numbers [n] int64, from 0 on; one may be there several times.
        keys
            [n] uint64, the only source of randomness, see `bmfm.hashing`: an example drawn by its key is the same in whatever batch,
            and with any number of workers.
        """

    def take_whole(self, indices: np.ndarray, keys: np.ndarray) -> Examples:
        """As `take`, with nothing cut off for the model's context: what the `Predictor` cuts into windows. By default the same."""
        return self.take(indices, keys)

    def as_held_out(self) -> "Source":
        """The same examples without what is drawn of cells for training, as permuted genes. By default nothing is."""
        return self

    def connect(self, tokenizers: Mapping[str, Tokenizer]) -> None:  # noqa: B027 (most have nothing to do)
        """Open what is read; called once, before anything else, with the tokenizer of each part: cells are read in its genes."""

    def column(self, name: str, as_text: bool = False) -> np.ndarray:
        """A column of all examples, object [len(self)]: labels, or what the split goes by. None and NaN are missing values.

        With `as_text` as it is written, where it might be read as numbers.

        Raises
        ------
        KeyError
            If there is no such column.
        """
        raise KeyError(f"{type(self).__name__} has no column {name!r}; give it a method `column`, as that of `bmfm.data.sources.Source`")

    def check_parts(self, parts: Mapping[str, np.ndarray]) -> None:  # noqa: B027 (most have nothing to say)
        """Raise a ValueError where numbers of examples {part: [n]} must not be split so."""

    def where(self, number: int) -> str:
        """An example as messages name it: its file and row, or cell."""
        return f"example {number + 1}"

    def statistics(self, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """More figures of these training examples for objectives, {name: array}, than `data.statistics` computes from their tokens."""
        return {}

    def facts(self) -> dict[str, str]:
        """What a run's summary and the model card say of the source, {what: figures}."""
        return {}


class GenomeWindows(Source):
    """Windows of a genome: example ``e * n + i`` is window i of epoch e, where an epoch has n windows."""

    def __init__(self, windows: WindowSampler, represent: Representation):
        self.windows, self.represent = windows, represent

    def __len__(self) -> int:
        return len(self.windows)

    def take(self, indices: np.ndarray, keys: np.ndarray) -> Examples:
        """Symbols of windows; `keys` are those that the windows are drawn by, which have the sampler's seed."""
        windows = self.windows.draw(*np.divmod(indices, len(self.windows)))
        fields = {"start": windows.start, "end": windows.end, "reverse": windows.reverse}
        return Examples({INPUT: self.represent(windows)}, fields)


class TokenizedSequences(Source):
    """Sequences that were tokenized once and are kept as tokens: rows of a table.

    Parameters
    ----------
    tokens
        Of all sequences, cut to the longest input.
    is_cut
        Which have lost their end by that, [n] bool.
    symbols
        Of all sequences, before they were tokenized.
    """

    def __init__(self, tokens: Tokens, is_cut: np.ndarray, symbols: Encoded):
        self.tokens, self.is_cut, self.symbols = tokens, is_cut, symbols

    def __len__(self) -> int:
        return len(self.symbols)

    def take(self, indices: np.ndarray, keys: np.ndarray) -> Examples:
        tokens = self.tokens.take(indices)
        counts = {"sequences": len(indices), "tokens": len(tokens.ids), "truncated_sequences": int(self.is_cut[indices].sum())}
        return Examples({INPUT: tokens}, counts=counts)

    def take_whole(self, indices: np.ndarray, keys: np.ndarray) -> Examples:
        """Symbols, which are tokenized again: whole, or as their reverse complements."""
        return Examples({INPUT: as_encoded([self.symbols[i] for i in indices])})


class EitherStrand(TokenizedSequences):
    """The same, each as its reverse complement with some probability, drawn by the example's key: training examples.

    Parameters
    ----------
    tokens, is_cut
        Of all sequences [n], and after them of all their reverse complements.
    probability
        Of the reverse complement.
    """

    def __init__(self, tokens: Tokens, is_cut: np.ndarray, symbols: Encoded, probability: float):
        super().__init__(tokens, is_cut, symbols)
        self.probability = probability

    def take(self, indices: np.ndarray, keys: np.ndarray) -> Examples:
        is_reversed = np.fromiter((uniform(key, STRAND) < self.probability for key in keys), bool, len(keys))
        examples = super().take(indices + len(self) * is_reversed, keys)
        examples.counts["reverse_complements"] = int(is_reversed.sum())
        return examples


STRAND = 0x5354524E44
"""What the strand of an example is drawn by, beside its key: a number that nothing else is drawn by."""


class CellExamples(Source):
    """Cells of AnnData files."""

    def __init__(self, cells: Cells):
        self.cells = cells

    def __len__(self) -> int:
        return len(self.cells)

    def take(self, indices: np.ndarray, keys: np.ndarray) -> Examples:
        return Examples({INPUT: self.cells.batch(indices)})


class PermutedCells(CellExamples):
    """The same, each with its counts at other genes with some probability, drawn by the example's key: training examples.

    Parameters
    ----------
    cells
        All cells.
    probability
        Of a permutation, see `cells.permuted.permute_genes`.
    """

    def __init__(self, cells: Cells, probability: float):
        super().__init__(cells)
        self.probability = probability

    def take(self, indices: np.ndarray, keys: np.ndarray) -> Examples:
        cells, n_permuted = permute_genes(self.cells.batch(indices), keys, self.probability)
        return Examples({INPUT: cells}, counts={"cells_with_permuted_genes": n_permuted})

    def as_held_out(self) -> CellExamples:
        return CellExamples(self.cells)
