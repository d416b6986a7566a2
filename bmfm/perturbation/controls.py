"""Control cells of a file: what a perturbation is predicted from."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, vstack

from bmfm.cells.conditions import CONTROL_WORDS
from bmfm.cells.formats import AnnDataView, find_sources
from bmfm.cells.genes import read_orthologs
from bmfm.cells.sources import Cells, open_source
from bmfm.data.screens import read_contexts
from bmfm.hashing import example_keys
from bmfm.inference.predictor import Predictor
from bmfm.perturbation.draws import shift_curve
from bmfm.perturbation.options import ResponseOptions
from bmfm.tokenizers.base import Tokens
from bmfm.tokenizers.rna import CellTokenizer

BLOCK = 8192
"""Cells that are read at a time."""
TARGET_SUM = 1e4
"""Total to which counts are normalised."""


@dataclass(frozen=True)
class Controls:
    """n control cells of C contexts, in the G genes of their file.

    Attributes
    ----------
    contexts
        [C] names.
    tokens
        Of the n cells that were chosen, without a perturbation.
    context_ids
        [n] int64.
    values
        [n, G] CSR, log-normalised.
    counts
        [n, G] CSR, raw counts of the same cells; None of normalised files.
    means
        [C, G] float32, mean values of all control cells of each context, those too that were not chosen.
    gene_ids
        [G] int32, ids of the genes in the model's vocabulary, -1 of those that it does not know.
    obs, var
        Tables of the n cells and the G genes.
    n_found
        [C] control cells of each context.
    """

    contexts: list[str]
    tokens: Tokens
    context_ids: np.ndarray
    values: csr_matrix
    counts: csr_matrix | None
    means: np.ndarray
    gene_ids: np.ndarray
    obs: pd.DataFrame
    var: pd.DataFrame
    n_found: np.ndarray

    def of(self, context: int) -> np.ndarray:
        """Numbers of the chosen cells of a context."""
        return np.flatnonzero(self.context_ids == context)

    @cached_property
    def shift_curves(self) -> list[np.ndarray]:
        """Of the chosen cells of each context, see `draws.shift_curve`."""
        return [shift_curve(self.values[self.of(i)]) for i in range(len(self.contexts))]

    @cached_property
    def shares(self) -> list[np.ndarray]:
        """Of the chosen cells of each context, the mean share of each gene in a cell's counts [G]."""
        assert self.counts is not None
        scaled = self.counts.multiply(1 / np.asarray(self.counts.sum(1)).clip(min=1)).tocsr()
        return [np.asarray(scaled[self.of(i)].mean(0)).ravel() for i in range(len(self.contexts))]

    @cached_property
    def log_total(self) -> float:
        """What log-normalised cells add up to with their logarithm undone: the total that they were normalised to."""
        return float(np.expm1(self.values.data.astype(np.float64)).sum() / self.values.shape[0])


def read_controls(predictor: Predictor, data: Any, options: ResponseOptions) -> Controls:
    """Control cells of one AnnData, or of one path of what `inference.cells.read_cells` takes.

    Raises
    ------
    KeyError, ValueError
        If the model is none of cells, a column is not there, or there is no control cell.
    """
    tokenizer = predictor.tokenizer
    if not isinstance(tokenizer, CellTokenizer):
        raise ValueError(f"this is a model of {predictor.reader.title}: responses to perturbations are those of cells")
    tokenizer = tokenizer.for_inference()
    assert tokenizer.vocabulary is not None
    if tokenizer.values["kind"] not in ("log_normalise", "as_is"):
        raise ValueError(
            f"responses are changes of log-normalised values, and the values of this model are others ({tokenizer.values['kind']})"
        )
    files = find_sources(data)
    if len(files) != 1:
        raise ValueError(
            f"control cells come from one file, so that what is written has its genes; there are {len(files)}: join them first"
        )
    view = AnnDataView(files[0])
    expects = tokenizer.resolve_expects(options.expects)
    orthologs = read_orthologs(options.orthologs) if options.orthologs is not None else tokenizer.orthologs
    reading = (options.counts, options.gene_column, orthologs, expects, options.min_matched)
    source = open_source(files[0], tokenizer.vocabulary, *reading)
    is_control = _are_controls(view, options)
    columns = [options.context] if isinstance(options.context, str) else list(options.context or [])
    context = read_contexts(view.obs[_present(view, columns, "context")], is_control, view.name, "context")
    controls = np.flatnonzero(is_control)
    if not len(controls):
        raise ValueError(
            f"{view.name}: no control cell by .obs[{options.condition!r}] (condition); say what it holds for controls (control; on the command line "
            "responses.control or data.control), or give a file of control cells alone and no condition"
        )
    contexts = sorted(set(context[controls]))
    context_of = pd.Index(contexts).get_indexer(context)[controls]
    chosen = _choose(controls, context_of, options)
    means, values, counts = _read_values(source, expects == "counts", controls, context_of, len(contexts), np.isin(controls, chosen))
    cells = Cells([source], block=BLOCK, cached_blocks=2)
    limit = min(n for n in (options.max_tokens or predictor.max_tokens, tokenizer.max_tokens) if n)
    tokens = tokenizer.encode(cells.batch(chosen), np.zeros(len(chosen), np.uint64), limit)
    return Controls(
        contexts,
        tokens,
        context_of[np.isin(controls, chosen)],
        values,
        counts if expects == "counts" else None,
        means,
        source.match.ids,
        view.obs.iloc[chosen].copy(),
        view.var(source.key).copy(),
        np.bincount(context_of, minlength=len(contexts)),
    )


def _present(view: AnnDataView, columns: list[str], setting: str) -> list[str]:
    """The columns; KeyError, naming the first that ``.obs`` lacks."""
    if absent := [c for c in columns if c not in view.obs]:
        raise KeyError(
            f"{view.name} has no .obs column {absent[0]!r} ({setting}); it has {', '.join(map(str, view.obs.columns)) or 'none'}"
        )
    return columns


def _are_controls(view: AnnDataView, options: ResponseOptions) -> np.ndarray:
    """Which cells are controls, bool [n]."""
    column = options.condition
    if column is None:
        return np.ones(len(view.obs), bool)
    _present(view, [column], "condition")
    text = view.obs[column].astype(str)
    return (text.isin([str(c) for c in options.control]) if options.control else text.str.lower().isin(CONTROL_WORDS)).to_numpy()


def _choose(controls: np.ndarray, context_of: np.ndarray, options: ResponseOptions) -> np.ndarray:
    """Numbers of up to `n_cells` controls of each context, ascending; which, the seed draws."""
    if options.n_cells is None:
        return controls
    order = np.argsort(example_keys(options.seed, 0, controls), kind="stable")
    chosen = [order[context_of[order] == context][: options.n_cells] for context in np.unique(context_of)]
    return np.sort(controls[np.concatenate(chosen)])


def _read_values(
    source: Any, is_counts: bool, controls: np.ndarray, context_of: np.ndarray, n_contexts: int, is_chosen: np.ndarray
) -> tuple[np.ndarray, csr_matrix, csr_matrix]:
    """Means of all controls by context [C, G], and of the chosen ones values and what the file holds, [n, G] each, over all genes of the file.

    Counts become log(1 + x / total * 10,000) with the total over all genes of the file, as is usual, whatever genes the model knows.
    """
    n_genes = source.matrix.shape[1]
    sums, kept, raw = np.zeros((n_contexts, n_genes)), [], []
    for start in range(0, len(source), BLOCK):
        first, last = np.searchsorted(controls, [start, start + BLOCK])
        if first == last:
            continue
        indptr, indices, data = source.matrix.rows(start, min(start + BLOCK, len(source)))
        block = csr_matrix((data.astype(np.float64), indices, indptr), (len(indptr) - 1, n_genes))[controls[first:last] - start]
        raw.append(block[is_chosen[first:last]])
        if is_counts:
            scale = TARGET_SUM / np.asarray(block.sum(1)).ravel().clip(min=1)
            block.data = np.log1p(block.data * np.repeat(scale, np.diff(block.indptr)))
        of_context = csr_matrix((np.ones(last - first), (context_of[first:last], np.arange(last - first))), (n_contexts, last - first))
        sums += (of_context @ block).toarray()
        kept.append(block[is_chosen[first:last]])
    sizes = np.bincount(context_of, minlength=n_contexts)
    return (sums / sizes[:, None]).astype(np.float32), vstack(kept, "csr").astype(np.float32), vstack(raw, "csr").astype(np.float32)
