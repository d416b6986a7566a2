"""Bodies of requests, and the examples that they hold."""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from bmfm.inference.inputs import Inputs
from bmfm.inference.predictor import Predictor
from bmfm.serving.errors import Refusal, message_of, of_input
from bmfm.tokenizers.texts import by_number

MOST_NAMED = 20
"""Items that an error names."""


class Body(BaseModel):
    """What every body is: keys that are known, values of the type that is said."""

    model_config = ConfigDict(extra="forbid", strict=True)


class SparseCounts(Body):
    """Counts of one cell: numbers of genes in ``genes``, from 0, each once, and how many."""

    indices: list[int]
    values: list[float]


class Examples(Body):
    """Sequences, of models of DNA; cells, of models of cells."""

    sequences: Annotated[list[str] | None, Field(description="Sequences of DNA.")] = None
    genes: Annotated[list[str] | None, Field(description="Names of genes, symbols or Ensembl ids.")] = None
    counts: Annotated[list[list[float] | SparseCounts] | None, Field(description="Of each cell, a count for every gene.")] = None
    cell_ids: Annotated[list[str] | None, Field(description="Names of the cells; without them numbers.")] = None


class EmbedBody(Examples):
    """Examples to embed."""

    pooling: Annotated[int | str | None, Field(description="As of Predictor.embed; null is the model's own.")] = None
    strands: Literal["forward", "average"] | None = None


class PredictBody(Examples):
    """Examples whose labels are predicted."""

    strands: Literal["forward", "average"] | None = None


class ExplainBody(Examples):
    """Examples whose bases or genes get contributions."""

    target: Annotated[str | None, Field(description="head:NAME; none for method=mlm of DNA.")] = None
    method: Annotated[str | None, Field(description="Of DNA mlm, ism, ig, grad_x_input; of cells ig, grad_x_input, occlusion.")] = None


class Variant(Body):
    """A variant of the genome that the server knows; the position counts from 1."""

    chrom: str
    pos: Annotated[int, Field(ge=1, lt=1 << 40)]
    ref: str
    alt: str


class Pair(Body):
    """A sequence, and the same with one change."""

    ref: str
    alt: str


class VariantsBody(Body):
    """Variants of the server's genome, or pairs of sequences."""

    variants: list[Variant] | None = None
    pairs: list[Pair] | None = None
    scores: list[Literal["llr", "embedding", "heads", "jsd", "pop"]] = ["llr"]


def check_omics(predictor: Predictor, body: Examples, most: int) -> int:
    """How many examples a body holds, once it is clear that they are of the model's kind.

    Raises
    ------
    Refusal
        422, or 413 where there are more than `most`.
    """
    is_dna = predictor.tokenizer.omics == "dna"
    of_cells = [part for part in (body.genes, body.counts, body.cell_ids) if part is not None]
    if is_dna and (body.sequences is None or of_cells):
        raise Refusal(422, 'this is a model of DNA: give {"sequences": ["ACGT"]} and nothing of cells')
    if not is_dna and (body.genes is None or body.counts is None or body.sequences is not None):
        raise Refusal(422, 'this is a model of cells: give {"genes": ["CD3D"], "counts": [[4]]} and no sequences')
    n = len((body.sequences if is_dna else body.counts) or [])
    if not n:
        raise Refusal(422, "the request holds no example: give at least one")
    if n > most:
        raise Refusal(413, f"the request holds {n:,} examples, at most {most:,} are taken at a time: send parts of it")
    return n


def read_examples(predictor: Predictor, body: Examples, most: int, **options: Any) -> Inputs:
    """The examples of a body, tokenized.

    Raises
    ------
    Refusal
        422 that names the examples that cannot be read; 413.
    """
    n = check_omics(predictor, body, most)
    if body.sequences is not None:
        sequences = body.sequences
        return _read(lambda rows: predictor.read([sequences[i] for i in rows]), n)
    adata = cells_of(body)
    return _read(lambda rows: predictor.read(adata if len(rows) == n else adata[rows].copy(), counts="X", **options), n)


def _read(read: Callable[[list[int]], Inputs], n: int) -> Inputs:
    """What `read` makes of all examples; where that fails, a refusal that names each example that fails by itself."""
    try:
        return materialised(read(list(range(n))))
    except Exception as error:
        if not of_input(error):
            raise
        raise Refusal(422, _of_request(message_of(error)), list(islice(_failing(read, range(n), error), MOST_NAMED))) from None


def _failing(read: Callable[[list[int]], Inputs], rows: range, error: Exception) -> Iterator[tuple[int, str]]:
    """Examples that fail by themselves, of some that fail together, and why: found by halves, as most examples of a request are good."""
    if len(rows) == 1:
        yield rows[0], _renumbered(message_of(error), rows[0])
        return
    for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        try:
            materialised(read(list(half)))
        except Exception as of_half:
            if not of_input(of_half):
                raise
            yield from _failing(read, half, of_half)


def _renumbered(message: str, number: int) -> str:
    """The words about an example that was read by itself, with its number in the request."""
    return _of_request(message).replace(by_number(0), by_number(number)).replace("(row 0)", f"(row {number})")


def _of_request(message: str) -> str:
    return message.replace("AnnData in memory, X", "counts").replace("AnnData in memory", "counts")


def materialised(inputs: Inputs) -> Inputs:
    """The same, once all of it was tokenized."""
    chunks = list(inputs.chunks())
    inputs.chunks = lambda: iter(chunks)
    inputs.counts = Counter(inputs.counts)
    return inputs


def cells_of(body: Examples) -> Any:
    """The cells of a body as an AnnData.

    Raises
    ------
    Refusal
        422 that names the cells whose counts are none.
    """
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    genes, counts = body.genes or [], body.counts or []
    if not genes or not all(gene.strip() for gene in genes):
        raise Refusal(422, "genes holds no name, or an empty one: name each gene")
    if body.cell_ids is not None and len(body.cell_ids) != len(counts):
        raise Refusal(422, f"cell_ids names {len(body.cell_ids):,} cells, counts holds {len(counts):,}: give a name for each, or none")
    rows = [_row(cell, len(genes)) for cell in counts]
    if wrong := [(i, row) for i, row in enumerate(rows) if isinstance(row, str)]:
        number, words = wrong[0]
        raise Refusal(422, f"counts: {len(wrong):,} of {len(rows):,} cells cannot be read: cell {number} {words}", wrong[:MOST_NAMED])
    good = [row for row in rows if not isinstance(row, str)]
    offsets = np.cumsum([0, *(len(indices) for indices, _ in good)])
    matrix = csr_matrix(
        (np.concatenate([values for _, values in good]), np.concatenate([indices for indices, _ in good]), offsets), (len(good), len(genes))
    )
    names = body.cell_ids if body.cell_ids is not None else list(map(str, range(len(good))))
    return AnnData(matrix, obs=pd.DataFrame(index=pd.Index(names, dtype=object)), var=pd.DataFrame(index=pd.Index(genes, dtype=object)))


def _row(cell: list[float] | SparseCounts, n_genes: int) -> tuple[np.ndarray, np.ndarray] | str:
    """Genes and counts of a cell, or what is wrong with it."""
    if isinstance(cell, SparseCounts):
        if len(cell.indices) != len(cell.values):
            return f"has {len(cell.indices):,} indices and {len(cell.values):,} values"
        if any(not 0 <= i < n_genes for i in cell.indices) or len(set(cell.indices)) < len(cell.indices):
            return f"has indices that are not from 0 to {n_genes - 1}, each once"
        indices, values = np.array(cell.indices, np.int32), np.array(cell.values, np.float64)
    else:
        if len(cell) != n_genes:
            return f"has {len(cell):,} counts, there are {n_genes:,} genes"
        values = np.array(cell, np.float64)
        indices = np.flatnonzero(values).astype(np.int32)
        values = values[indices]
    order = np.argsort(indices)
    indices, values = indices[order], values[order]
    if not np.isfinite(values).all() or (np.abs(values) > 1e9).any():
        return "has a count that is no finite number of at most 1e9"
    return indices, values.astype(np.float32)
