"""The cells that are explained, and where the genes of the model stand among those of their file."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix, csr_matrix

from bmfm.cells.formats import AnnDataView, find_sources
from bmfm.cells.genes import read_orthologs
from bmfm.inference.inputs import Inputs
from bmfm.inference.predictor import Predictor
from bmfm.interpret.options import CellOptions
from bmfm.tokenizers.rna import CellTokenizer


@dataclass(frozen=True)
class ChosenCells:
    """n cells of one AnnData of G genes.

    Attributes
    ----------
    adata
        The cells, in memory; a copy.
    inputs
        Their tokens.
    column_of
        [V] the column of ``.var`` of each gene of the model, -1 where there is none; the first, where several are the same gene.
    n_unknown, n_shared
        Genes of the file that the model does not know, and those that share a gene of the model with one before them.
    """

    adata: Any
    inputs: Inputs
    column_of: np.ndarray
    n_unknown: int
    n_shared: int

    def matrix(self, rows: np.ndarray, gene_ids: np.ndarray, values: np.ndarray) -> csr_matrix:
        """Entries [nnz] of cells and genes of the model as [n, G]; entries of one place are added up."""
        columns = self.column_of[gene_ids]
        known = columns >= 0  # genes of `.raw` that are not in `.var`
        entries = (values[known], (rows[known], columns[known]))
        return coo_matrix(entries, self.adata.shape).tocsr()


def cell_tokenizer(predictor: Predictor) -> CellTokenizer:
    """The tokenizer of a model of cells; ValueError where it is none."""
    if not isinstance(predictor.tokenizer, CellTokenizer):
        raise ValueError(f"this is a model of {predictor.reader.title}: attributions and edits of genes are those of models of cells")
    return predictor.tokenizer


def choose_cells(predictor: Predictor, data: Any, options: CellOptions, rows: np.ndarray | None = None, room: int = 0) -> ChosenCells:
    """Cells of one AnnData, or of its path, drawn by the seed.

    Parameters
    ----------
    rows
        Numbers of those that may be chosen; None may choose any.
    room
        Tokens that are kept free for genes that are added.

    Raises
    ------
    ValueError
        If the model is none of cells, or there are several files.
    """
    tokenizer = cell_tokenizer(predictor)
    files = find_sources(data)
    if len(files) != 1:
        raise ValueError(f"cells come from one file, so that results have its genes; there are {len(files)}: join them first")
    whole = AnnDataView(files[0]).whole()
    rows = np.arange(whole.n_obs) if rows is None else rows
    if options.max_cells is not None and options.max_cells < len(rows):
        rows = np.sort(np.random.default_rng(options.seed).choice(rows, options.max_cells, replace=False))
    adata = whole[rows].copy()
    limit = min(n for n in (options.max_tokens or predictor.max_tokens, tokenizer.max_tokens) if n)
    inputs = predictor.read(adata, limit - room, **options.reading)
    ids = inputs.match.ids
    if inputs.match.matrix == "raw":
        orthologs = tokenizer.orthologs if options.orthologs is None else read_orthologs(options.orthologs)
        assert tokenizer.vocabulary is not None
        ids = tokenizer.vocabulary.match(adata.var, options.gene_column, orthologs).ids
    column_of = np.full(len(tokenizer), -1)
    known = np.flatnonzero(ids >= 0)
    column_of[ids[known][::-1]] = known[::-1]
    n_shared = len(known) - int((column_of >= 0).sum())
    return ChosenCells(adata, inputs, column_of, len(ids) - len(known), n_shared)


def gene_id(predictor: Predictor, name: str) -> int:
    """Id of a gene; ValueError where the model does not know it."""
    vocabulary = cell_tokenizer(predictor).vocabulary
    assert vocabulary is not None
    number, way = vocabulary.find(name)
    if number < 0:
        raise ValueError(f"the model does not know the gene {name!r} ({way})")
    return number
