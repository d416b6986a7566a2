"""Sources of paired examples, as an author outside of the package writes them."""

from collections.abc import Mapping, Sequence

import numpy as np

from bmfm.cells.counts import CellBatch, Counts
from bmfm.data.sources import INPUT, Examples, Source
from bmfm.tokenizers.base import Tokenizer
from bmfm.tokenizers.rna import CellTokenizer
from bmfm.tokenizers.texts import as_encoded, read_texts

PAIRS = [("ACCGTTGATACA"[i % 7 :] * (20 + i % 4), "GATTACA"[: 2 + i % 5]) for i in range(40)]


class PairedSequences(Source):
    """Pairs of sequences: the first is read, the second stands beside it."""

    def __init__(self, pairs: Sequence[tuple[str, str]] = PAIRS):
        self.pairs = list(pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def take(self, indices: np.ndarray, keys: np.ndarray) -> Examples:
        first, second = (as_encoded(read_texts([self.pairs[i][side] for i in indices])[0]) for side in (0, 1))
        return Examples({INPUT: first, "second": second}, counts={"pairs": len(indices)})


class PerturbedCells(Source):
    """Each perturbed cell beside a control that is drawn by its key; and, if asked for, a piece of its donor's DNA.

    Parameters
    ----------
    controls, perturbed
        Counts, dense [n, genes], of the genes of the tokenizer.
    donors
        DNA of the donor of each perturbed cell.
    """

    column_names = ("gene",)

    def __init__(self, controls: Sequence[Sequence[int]], perturbed: Sequence[Sequence[int]], donors: Sequence[str] = ()):
        self.controls, self.perturbed, self.donors = np.array(controls), np.array(perturbed), list(donors)

    def connect(self, tokenizers: Mapping[str, Tokenizer]) -> None:
        tokenizer = tokenizers[INPUT]
        assert isinstance(tokenizer, CellTokenizer)
        tokenizer.expects = tokenizer.resolve_expects("counts")
        self.gene_ids = np.arange(*tokenizer.plain_ids, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.perturbed)

    def _cells(self, dense: np.ndarray) -> CellBatch:
        row, column = np.nonzero(dense)
        offsets = np.searchsorted(row, np.arange(len(dense) + 1))
        counts = Counts(self.gene_ids[column], dense[row, column].astype(np.float32), offsets)
        return CellBatch(counts, np.zeros(len(dense), np.int64), [self.gene_ids])

    def take(self, indices: np.ndarray, keys: np.ndarray) -> Examples:
        drawn = (keys % np.uint64(len(self.controls))).astype(np.int64)
        parts = {INPUT: self._cells(self.controls[drawn]), "perturbed": self._cells(self.perturbed[indices])}
        if self.donors:
            parts |= {"dna": as_encoded(read_texts([self.donors[i] for i in indices])[0])}
        return Examples(parts, fields={"control": drawn})

    def column(self, name: str, as_text: bool = False) -> np.ndarray:
        if name != "gene":
            return super().column(name, as_text)
        return np.array(["up" if row.sum() > 6 else "down" for row in self.perturbed], object)
