"""A source of paired examples: a control cell in which a gene is switched on, and a cell in which it was switched on for real."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from bmfm.cells.counts import CellBatch, Counts
from bmfm.cells.formats import AnnDataView
from bmfm.cells.genes import GeneVocabulary
from bmfm.cells.sources import Cells, open_source
from bmfm.data.sources import INPUT, Examples, Source
from bmfm.tokenizers.rna import CellTokenizer

PERTURBED = "perturbed"


class PerturbationPairs(Source):
    """Pairs of cells from a screen by CRISPR activation; example i is the i-th perturbed cell.

    The part ``input`` is a control cell, drawn by the example's key, with the perturbed gene's count raised by `level`: what is known
    before the experiment. The part ``perturbed`` is the cell that was measured after it.

    Parameters
    ----------
    path
        An .h5ad file of raw counts.
    column
        ``.obs`` column of the gene that was switched on in each cell.
    control
        What that column holds for cells in which nothing was done.
    level
        Count that is added to the gene in the control cell.
    """

    def __init__(self, path: str, column: str = "perturbation", control: str = "control", level: float = 100.0):
        self.path, self.perturbation, self.control, self.level = path, column, control, level

    def connect(self, tokenizers: Mapping[str, Any]) -> None:
        """Open the file in the genes of the tokenizer."""
        tokenizer = tokenizers[INPUT]
        if not isinstance(tokenizer, CellTokenizer):
            raise ValueError(f"{self.path} holds cells: choose tokenizer=cells")
        if tokenizer.vocabulary is None:  # tokenizer.genes=from_data
            view = AnnDataView(self.path)
            tokenizer.bind_vocabulary(GeneVocabulary.of_genes(view.var("X").index.astype(str)))
        assert tokenizer.vocabulary is not None
        tokenizer.expects = tokenizer.resolve_expects("counts")
        source = open_source(self.path, tokenizer.vocabulary)
        source.load()
        self.cells = Cells([source])
        self.column_names = list(source.view.obs.columns)
        names = self.cells.column(self.perturbation).astype(str)
        self.controls, self.perturbed = np.flatnonzero(names == self.control), np.flatnonzero(names != self.control)
        if not len(self.controls):
            raise ValueError(f"{self.path}: no cell has {self.control!r} in .obs[{self.perturbation!r}] (data.source.control)")
        self.genes = np.array([tokenizer.vocabulary.find(name)[0] for name in names[self.perturbed]])
        if (self.genes < 0).any():
            unknown = names[self.perturbed][self.genes < 0][0]
            raise ValueError(f"{self.path}: the perturbed gene {unknown!r} is not in the vocabulary (tokenizer.genes)")
        if not tokenizer.is_fitted:
            tokenizer.fit_normalization(self.cells.totals)

    def __len__(self) -> int:
        return len(self.perturbed)

    def take(self, indices: np.ndarray, keys: np.ndarray) -> Examples:
        controls = self.controls[(keys % np.uint64(len(self.controls))).astype(np.int64)]
        activated = raise_count(self.cells.batch(controls), self.genes[indices], self.level)
        return Examples({INPUT: activated, PERTURBED: self.cells.batch(self.perturbed[indices])})

    def column(self, name: str, as_text: bool = False) -> np.ndarray:
        return self.cells.column(name)[self.perturbed]

    def where(self, number: int) -> str:
        return self.cells.name_of(int(self.perturbed[number]))

    def facts(self) -> dict[str, str]:
        return {"pairs": f"{len(self):,} perturbed cells of {len(set(self.genes.tolist()))} genes, {len(self.controls):,} controls"}


def raise_count(cells: CellBatch, genes: np.ndarray, level: float) -> CellBatch:
    """The same cells, with `level` added to the count of one gene [n] of each."""
    counts, n = cells.counts, len(cells)
    shape = (n, int(max(counts.ids.max(initial=0), genes.max())) + 1)
    before = csr_matrix((counts.counts, counts.ids, counts.offsets), shape)
    after = before + csr_matrix((np.full(n, level, np.float32), (np.arange(n), genes)), shape)
    after.sort_indices()
    raised = Counts(after.indices.astype(np.int32), after.data.astype(np.float32), after.indptr.astype(np.int64))
    return CellBatch(raised, cells.source_ids, cells.gene_panels)
