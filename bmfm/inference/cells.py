"""Cells as tokenized examples: the reader of models of single-cell RNA."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from bmfm.cells.formats import TAKEN, find_sources
from bmfm.cells.genes import read_orthologs
from bmfm.cells.sources import Cells, open_source
from bmfm.inference.inputs import CHUNK, Inputs, every_chunk
from bmfm.tokenizers.base import Tokens
from bmfm.tokenizers.rna import CellTokenizer
from bmfm.tokenizers.truncation import Truncation


def read_cells(
    tokenizer: CellTokenizer,
    data: Any,
    max_tokens: int,
    counts: str = "auto",
    gene_column: str | None = None,
    orthologs: Any = None,
    expects: str | None = None,
    min_matched: float = 0.3,
    depth_target: float | None = None,
    order: str | None = None,
) -> Inputs:
    """Tokens of cells; a cell's are a function of the cell alone.

    Warns once, at the end, of cells without any gene of the vocabulary, and of genes that `max_tokens` leaves out where
    that is more than 1% of what the cells express.

    Parameters
    ----------
    data
        An AnnData (in memory or backed), a DataFrame of cells x genes, a path, pattern or folder, or a list of these:
        what `cells.formats.find_sources` takes, and training too. Rows follow one another in that order.
    counts
        Where raw counts are: ``auto``, ``X``, ``raw``, ``layers/NAME``.
    gene_column
        ``.var`` column of gene names; None takes the one that matches best.
    orthologs
        {gene of another species: human gene}, or a table of both (`cells.genes.read_orthologs`); None takes those that the
        model was trained with.
    expects
        ``counts`` (whole numbers, or an error) or ``normalised``; None takes what the model was trained with, see
        `CellTokenizer.resolve_expects`.
    min_matched
        Least share of a file's genes in the vocabulary.
    depth_target
        Of a read-depth aware model: the total of counts that it is asked for; None takes the one saved with it.
    order
        Of genes, where not all of a cell fit: None as the model was trained, or ``descending`` expression; see
        `CellTokenizer.for_inference`.

    Raises
    ------
    ValueError
        If no cell has a count in any gene of the vocabulary, or the data are of no kind above.
    """
    tokenizer = tokenizer.for_inference(depth_target, order)
    assert tokenizer.vocabulary is not None
    expects = tokenizer.resolve_expects(expects)
    table = read_orthologs(orthologs) if orthologs is not None else tokenizer.orthologs
    files = find_sources(data)
    if not files:
        raise ValueError(f"there are no cells in an empty list: give {TAKEN}")
    sources = [open_source(s, tokenizer.vocabulary, counts, gene_column, table, expects, min_matched) for s in files]
    cells = Cells(sources, block=CHUNK, cached_blocks=2)
    counted: Counter[str] = Counter()
    empty = np.zeros(len(cells), bool)

    def chunks(needed: Callable[[int], bool] = every_chunk) -> Iterator[tuple[int, Tokens]]:
        cut = Truncation()
        counted.clear()
        for start in filter(needed, range(0, len(cells), CHUNK)):
            numbers = np.arange(start, min(start + CHUNK, len(cells)))
            tokens = tokenizer.encode(cells.batch(numbers), np.zeros(len(numbers), np.uint64), max_tokens)
            assert tokens.full_profile is not None
            empty[numbers] = tokens.full_profile.lengths == 0
            counted.update(tokens.counts)
            cut.add(tokens)
            yield start, replace(tokens, full_profile=None)
        if needed is not every_chunk:
            return  # the process that reads all of them says what there was
        if empty.all():
            raise ValueError(f"{sources[0].view.name}, {sources[0].key}: no cell has a count in any gene of the vocabulary")
        if empty.any():
            warnings.warn(_about_empty(cells, empty), stacklevel=2)
        if warning := cut.message(tokenizer, max_tokens, max(map(len, cells.gene_panels))):
            warnings.warn(warning, stacklevel=2)

    match = sources[0].match if len(sources) == 1 else {s.name: s.match for s in sources}
    n = len(cells)
    return Inputs(cells.names, n, chunks, np.arange(n), np.ones(n, np.int64), counted, match, empty)


def _about_empty(cells: Cells, empty: np.ndarray) -> str:
    first = cells.name_of(int(np.flatnonzero(empty)[0]))
    return (
        f"{int(empty.sum()):,} of {len(cells):,} cells have no count in any gene of the vocabulary (first: {first}): nothing is predicted "
        "for them, and their embedding is that of an empty input"
    )
