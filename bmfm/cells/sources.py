"""Cells of files or objects in the genes of a vocabulary, in memory or in blocks from disk."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.cells.counts import FAULTS, FRACTION, Counts, align, concatenate, first_fault, gather
from bmfm.cells.formats import AnnDataView
from bmfm.cells.genes import GeneMatch, GeneVocabulary
from bmfm.cells.matrix import Matrix


def find_counts(view: AnnDataView, where: str, whole: bool) -> str:
    """The key of the matrix that holds counts.

    Parameters
    ----------
    where
        ``auto`` (the first of ``X``, ``raw`` and the layers with whole numbers that are not all 0), or a key.
    whole
        Whether whole numbers are asked for.
    """
    keys = view.keys()
    if where != "auto":
        if where not in keys:
            raise KeyError(f"{view.name}: there is no matrix {where!r}; counts (data.counts) can be auto, {', '.join(keys)}")
        return where
    seen = []
    for key in keys:
        matrix = Matrix(view.matrix(key), f"{view.name}, {key}")
        odd = matrix.odd_value(whole)
        if odd is None:
            if not matrix.is_empty():
                return key
            seen.append(f"{key} (empty)")
            continue
        value, row, column = odd
        var = view.var(key)
        seen.append(f"{key} (has {value:.5g}: cell {view.obs.index[row]!r}, gene {var.index[column]!r})" if column < len(var) else key)
    if not keys or all(s.endswith("(empty)") for s in seen):
        raise ValueError(f"{view.name} holds no counts: {', '.join(seen) or 'it has no X, no raw and no layers'}")
    if not whole:
        raise ValueError(f"{view.name}: no matrix holds expression: {', '.join(seen)}. Correct or remove such cells, or name another matrix by counts=layers/NAME (data.counts)")  # fmt: skip
    raise ValueError(
        f"{view.name}: no matrix holds raw counts: {', '.join(seen)}. Name one by counts=layers/NAME (data.counts on the command line); "
        "values that are already normalised are taken by expects=normalised (data.expects), for models with tokenizer.values.kind=as_is"
    )


@dataclass
class CellSource:
    """The cells of one AnnData, in the genes of a vocabulary.

    Attributes
    ----------
    view, key
        The AnnData and which of its matrices is read.
    match
        How its genes were found.
    whole
        Whether values must be whole numbers.
    held
        All cells, where they are kept in memory.
    """

    view: AnnDataView
    key: str
    match: GeneMatch
    vocab_size: int
    whole: bool
    held: Counts | None = None
    matrix: Matrix = field(init=False)

    def __post_init__(self) -> None:
        self.matrix = Matrix(self.view.matrix(self.key), f"{self.view.name}, {self.key}")
        if self.matrix.shape[1] != len(self.match.ids):
            raise ValueError(
                f"{self.matrix.name} has {self.matrix.shape[1]} columns for {len(self.match.ids)} genes in var; the file is damaged"
            )

    def __len__(self) -> int:
        return self.matrix.shape[0]

    @property
    def name(self) -> str:
        return Path(self.view.name).name

    @cached_property
    def measured(self) -> np.ndarray:
        """Which genes of the vocabulary the file has, ``bool`` [V]."""
        out = np.zeros(self.vocab_size, bool)
        out[self.match.ids[self.match.ids >= 0]] = True
        return out

    def read(self, start: int, stop: int) -> Counts:
        """Cells [start, stop) from the file, checked.

        Raises
        ------
        ValueError
            On a value that is no count; names file, cell and gene.
        """
        indptr, indices, data = self.matrix.rows(start, stop)
        place, fault = first_fault(data, self.whole)
        if fault:
            row = start + int(np.searchsorted(indptr, place, "right")) - 1
            remedy = ("name the matrix of raw counts by counts=layers/NAME (data.counts), or say expects=normalised (data.expects) if these "
                      "values are meant" if fault == FRACTION else "correct or remove the cell")  # fmt: skip
            raise ValueError(
                f"{self.matrix.name}: value {data[place]:.6g} of cell {self.view.obs.index[row]!r} (row {row}), gene "
                f"{self.view.var(self.key).index[indices[place]]!r}, {FAULTS[fault]}; {remedy}"
            )
        return align(indptr, indices, data, self.match.ids, self.vocab_size)

    def load(self, rows: int = 65536) -> None:
        """Keep all cells in memory."""
        self.held = concatenate([self.read(s, min(s + rows, len(self))) for s in range(0, len(self), rows)])
        self.matrix.forget()


def open_source(
    source: Any,
    vocabulary: GeneVocabulary,
    counts: str = "auto",
    gene_column: str | None = None,
    orthologs: dict[str, str] | None = None,
    expects: str = "counts",
    min_matched: float = 0.3,
) -> CellSource:
    """Open one AnnData, or what `AnnDataView` makes one of, in the genes of a vocabulary.

    Raises
    ------
    ValueError
        If fewer than `min_matched` of the file's genes, and fewer than half of the vocabulary's, are found.
    """
    view = AnnDataView(source)
    whole = expects == "counts"
    if expects not in ("counts", "normalised"):
        raise ValueError(f"expects={expects!r} (data.expects) is unknown; choose counts or normalised")
    if not len(view.obs):
        raise ValueError(f"{view.name} holds no cell")
    key = find_counts(view, counts, whole)
    var = view.var(key)
    match = vocabulary.match(var, gene_column, orthologs)
    n_genes = vocabulary.plain_ids[1] - vocabulary.plain_ids[0]
    if match.share < min_matched and match.n_matched < 0.5 * n_genes:
        raise ValueError(
            f"{view.name}: only {match}. First names there: {', '.join(map(repr, var.index[:3]))}; in the vocabulary: "
            f"{', '.join(map(repr, vocabulary.names[vocabulary.plain_ids[0] :][:3]))}. Name the .var column of symbols or Ensembl ids by "
            "gene_column, give a table of orthologs for another species, or lower min_matched (on the command line data.gene_column, "
            "data.orthologs, data.min_matched); in training, tokenizer.genes chooses another vocabulary"
        )
    return CellSource(view, key, match, len(vocabulary), whole)


class Cells:
    """All cells of a run, numbered from 0 through all sources.

    Parameters
    ----------
    block
        Cells read from disk at a time, where they are not held in memory.
    cached_blocks
        Blocks kept in memory.
    """

    def __init__(self, sources: Sequence[CellSource], block: int = 1024, cached_blocks: int = 48):
        self.sources, self.block = list(sources), block
        self.first = np.cumsum([0, *(len(s) for s in self.sources)])
        self.in_memory = all(s.held is not None for s in self.sources)
        self._all = concatenate([s.held for s in self.sources if s.held is not None]) if self.in_memory else None
        if self.in_memory and len(self.sources) > 1:
            for source in self.sources:
                source.held = None  # `_all` holds them
        self._cached: OrderedDict[int, Counts] = OrderedDict()
        self.cached_blocks = cached_blocks
        blocks = [-(-len(s) // block) for s in self.sources]
        self.first_block = np.cumsum([0, *blocks])

    def __len__(self) -> int:
        return int(self.first[-1])

    def source_of(self, numbers: np.ndarray) -> np.ndarray:
        """Number of the source of each cell."""
        return np.searchsorted(self.first, numbers, "right") - 1

    def block_of(self, numbers: np.ndarray) -> np.ndarray:
        """Number of the block of each cell; blocks never cross sources."""
        source = self.source_of(numbers)
        return self.first_block[source] + (numbers - self.first[source]) // self.block

    def _block(self, number: int) -> Counts:
        if number in self._cached:
            self._cached.move_to_end(number)
            return self._cached[number]
        source = int(np.searchsorted(self.first_block, number, "right")) - 1
        start = (number - int(self.first_block[source])) * self.block
        held = self.sources[source].read(start, min(start + self.block, len(self.sources[source])))
        self._cached[number] = held
        while len(self._cached) > self.cached_blocks:
            self._cached.popitem(last=False)
        return held

    def take(self, numbers: np.ndarray) -> Counts:
        """The cells of these numbers [B], in this order."""
        if self._all is not None:
            return gather(self._all, numbers)
        blocks = self.block_of(numbers)
        source = self.source_of(numbers)
        row = (numbers - self.first[source]) % self.block
        order = np.argsort(blocks, kind="stable")
        cuts = np.flatnonzero(np.diff(blocks[order])) + 1
        parts = [gather(self._block(int(blocks[part[0]])), row[part]) for part in np.split(order, cuts)]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return gather(concatenate(parts), back)

    def empty(self) -> np.ndarray:
        """Which cells have no count in any gene of the vocabulary, ``bool`` [n]; known only where cells are in memory."""
        return np.diff(self._all.offsets) == 0 if self._all is not None else np.zeros(len(self), bool)

    def name_of(self, number: int) -> str:
        """The name of a cell and of its file, for messages."""
        source = int(self.source_of(np.array([number]))[0])
        return f"{self.sources[source].view.obs.index[number - int(self.first[source])]!r} of {self.sources[source].name}"

    @property
    def names(self) -> pd.Index:
        """``.obs_names`` of all cells; those of several files, or of one, may repeat."""
        indices = [s.view.obs.index for s in self.sources]
        return indices[0] if len(indices) == 1 else indices[0].append(indices[1:])

    def column(self, name: str) -> np.ndarray:
        """An ``.obs`` column of all cells, object [n]; ``file`` is each cell's file name.

        Raises
        ------
        KeyError
            If a file lacks it; names the file and its columns.
        """
        if name == "file":
            return np.array([s.name for s in self.sources], object)[self.source_of(np.arange(len(self)))]
        parts = []
        for source in self.sources:
            obs = source.view.obs
            if name not in obs:
                raise KeyError(f"{source.view.name} has no .obs column {name!r}; it has {', '.join(map(str, obs.columns)) or 'none'}")
            parts.append(obs[name].astype(object).to_numpy())
        return np.concatenate(parts)

    @property
    def measured(self) -> np.ndarray:
        """Which genes each source has, ``bool`` [S, V]."""
        return np.stack([s.measured for s in self.sources])
