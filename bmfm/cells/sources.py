"""Cells of files or objects in the genes of a vocabulary, in memory or in blocks from disk."""

import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.cells.counts import FAULTS, FRACTION, CellBatch, Counts, align, concatenate, first_fault, gather
from bmfm.cells.formats import AnnDataView
from bmfm.cells.genes import GeneMatch, GeneVocabulary, human_names, other_features
from bmfm.cells.matrix import Matrix

GENE_PANEL = "gene_panel"
"""Where the cells of a collection come from files with different genes: the column of .obs with the number of each cell's set of genes,
and the matrix in .varm with a column for each set."""
VELOCITY = ("spliced", "unspliced", "ambiguous")
"""Layers with a part of the counts."""


def open_matrix(view: AnnDataView, key: str) -> Matrix:
    """A matrix of an AnnData, if its shape is that of obs and var.

    Raises
    ------
    ValueError
        If it is not: the file is damaged.
    """
    matrix = Matrix(view.matrix(key), f"{view.name}, {key}", view.obs.index)
    for have, want, what in ((matrix.shape[0], len(view.obs), "rows for {} cells in obs"), (matrix.shape[1], len(view.var(key)), "columns for {} genes in var")):  # fmt: skip
        if have != want:
            raise ValueError(f"{matrix.name} is damaged: it has {have:,} {what.format(f'{want:,}')}; copy the file again, or make it again")
    return matrix


def find_counts(view: AnnDataView, where: str, whole: bool) -> str:
    """The key of the matrix that holds counts.

    ``auto`` takes the first that holds whole numbers, not all of them 0, of X, raw, the layers that are named as counts are
    (``counts``, ``raw_counts``, ``umi``, ``matrix``, ...; names with "count", "umi", "raw"), and the others by name. One of
    nothing but 0 and 1 is taken only if no other is left; ``spliced``, ``unspliced`` and ``ambiguous`` (parts of the counts)
    only by name. Where a layer was taken and another could have been, a warning says so.

    Parameters
    ----------
    where
        ``auto``, or a key.
    whole
        Whether whole numbers are asked for. If not, ``auto`` takes the first matrix with values that are no whole numbers.

    Raises
    ------
    KeyError, ValueError
        If there is none; names the first value of each matrix that is no count.
    """
    keys = view.keys()
    if where != "auto":
        if where not in keys:
            raise KeyError(f"{view.name}: there is no matrix {where!r}; counts (data.counts) can be auto, {', '.join(keys)}")
        return where
    aside = [k for k in keys if k.removeprefix("layers/") in VELOCITY and k.startswith("layers/")]
    found: list[str] = []
    binary: list[str] = []
    seen, wrong = [], []
    for key in (k for k in keys if k not in aside):
        matrix = open_matrix(view, key)
        if odd := matrix.odd_value(whole):
            value, row, column, fault = odd
            cell = f"cell {view.obs.index[row]!r}, gene {view.var(key).index[column]!r}" if column < matrix.shape[1] else f"row {row}"
            seen.append(f"{key} (has {value:.5g}: {cell})")
            if fault != FRACTION:
                wrong.append(f"{matrix.name}: value {value:.5g} of {cell.replace(', gene', f' (row {row}), gene')}, {FAULTS[fault]}")
        elif matrix.is_empty():
            seen.append(f"{key} (empty)")
        elif not whole and matrix.is_whole() and matrix.exceeds(1):
            seen.append(f"{key} (whole numbers, as counts are)")
        else:
            (found if len(keys) == 1 or matrix.exceeds(1) else binary).append(key)
        if found and not found[0].startswith("layers/"):
            break
    if found or binary:
        _say_others(view, found or binary)
        return (found or binary)[0]
    raise ValueError(_no_counts(view, whole, seen, wrong, aside))


def _say_others(view: AnnDataView, found: list[str]) -> None:
    if len(found) > 1 and found[0].startswith("layers/"):
        warnings.warn(f"{view.name}: counts are read from {found[0]}; {', '.join(found[1:])} could be counts too, counts=layers/NAME "
                      "(data.counts) names another", stacklevel=2)  # fmt: skip


def _no_counts(view: AnnDataView, whole: bool, seen: list[str], wrong: list[str], aside: list[str]) -> str:
    """What to tell of an AnnData without counts."""
    if wrong:
        return f"{wrong[0]}; correct or remove the cell"
    if aside:
        others = f" ({', '.join(seen)})" if seen else ""
        return (
            f"{view.name}: {', '.join(aside)} hold parts of the counts, and no matrix all of them{others}: store their sum as a layer, "
            f"or name one by counts={aside[0]} (data.counts)"
        )
    if not seen or all(s.endswith("(empty)") for s in seen):
        return f"{view.name} holds no counts: {', '.join(seen) or 'it has no X, no raw and no layers'}"
    if not whole:
        return (
            f"{view.name}: no matrix holds normalised expression: {', '.join(seen)}. The model was trained on normalised values, or "
            "expects=normalised (data.expects) asks for them: store them, or name a matrix by counts=X or counts=layers/NAME (data.counts)"
        )
    return (
        f"{view.name}: no matrix holds raw counts: {', '.join(seen)}. Name one by counts=layers/NAME (data.counts on the command line); "
        "values that are already normalised are taken by expects=normalised (data.expects), for models with tokenizer.values.kind=as_is"
    )


def checked_rows(
    view: AnnDataView, key: str, matrix: Matrix, start: int, stop: int, whole: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows [start, stop) as `Matrix.rows` gives them; a ValueError names file, cell and gene of a value that is no count."""
    indptr, indices, data = matrix.rows(start, stop)
    place, fault = first_fault(data, whole)
    if fault:
        row = start + int(np.searchsorted(indptr, place, "right")) - 1
        remedy = ("name the matrix of raw counts by counts=layers/NAME (data.counts), or say expects=normalised (data.expects) if these "
                  "values are meant" if fault == FRACTION else "correct or remove the cell")  # fmt: skip
        raise ValueError(
            f"{matrix.name}: value {data[place]:.6g} of cell {view.obs.index[row]!r} (row {row}), gene "
            f"{view.var(key).index[indices[place]]!r}, {FAULTS[fault]}; {remedy}"
        )
    return indptr, indices, data


@dataclass
class CellSource:
    """The cells of one AnnData, in the genes of a vocabulary.

    Attributes
    ----------
    view, key
        The AnnData and which of its matrices is read.
    match
        How its genes were found.
    whole_numbers
        Whether values must be whole numbers.
    cached
        All cells, where they are kept in memory.
    """

    view: AnnDataView
    key: str
    match: GeneMatch
    vocab_size: int
    whole_numbers: bool
    cached: Counts | None = None
    matrix: Matrix = field(init=False)

    def __post_init__(self) -> None:
        self.matrix = open_matrix(self.view, self.key)

    def __len__(self) -> int:
        return self.matrix.shape[0]

    @property
    def name(self) -> str:
        return Path(self.view.name).name

    @cached_property
    def gene_panel_mask(self) -> np.ndarray:
        """Which genes of the vocabulary the file has, ``bool`` [V]."""
        return self._mask_of(np.ones(len(self.match.ids), bool))

    def _mask_of(self, measured: np.ndarray) -> np.ndarray:
        """Which genes of the vocabulary are among these columns of the matrix, bool [V]."""
        out = np.zeros(self.vocab_size, bool)
        out[self.match.ids[measured & (self.match.ids >= 0)]] = True
        return out

    @cached_property
    def panel_masks(self) -> list[np.ndarray]:
        """The distinct sets of genes that its cells were measured by, each ``bool`` [V]: one, but for collections of different files."""
        panels = self.view.varm(GENE_PANEL) if GENE_PANEL in self.view.obs and self.key == "X" else None
        return [self.gene_panel_mask] if panels is None else [self._mask_of(np.asarray(p, bool)) for p in np.asarray(panels).T]

    @property
    def panel_of_cell(self) -> np.ndarray:
        """Which of `panel_masks` is that of each cell, [n]."""
        return self.view.obs[GENE_PANEL].to_numpy() if len(self.panel_masks) > 1 else np.zeros(len(self), np.int32)

    def read(self, start: int, stop: int) -> Counts:
        """Cells [start, stop) from the file, checked.

        Raises
        ------
        ValueError
            On a value that is no count; names file, cell and gene.
        """
        indptr, indices, data = checked_rows(self.view, self.key, self.matrix, start, stop, self.whole_numbers)
        return align(indptr, indices, data, self.match.ids, self.vocab_size)

    def load(self, rows: int = 65536) -> None:
        """Keep all cells in memory."""
        self.cached = concatenate([self.read(s, min(s + rows, len(self))) for s in range(0, len(self), rows)])
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
    if not isinstance(min_matched, int | float) or not 0 <= min_matched <= 1:
        raise ValueError(f"min_matched={min_matched!r} (data.min_matched) must be a share of genes, from 0 to 1")
    if not len(view.obs):
        raise ValueError(f"{view.name} holds no cell")
    key = find_counts(view, counts, whole)
    var = view.var(key)
    match = vocabulary.match(var, gene_column, orthologs, view.var("X") if key == "raw" else None)
    match.matrix = key
    n_genes = vocabulary.plain_ids[1] - vocabulary.plain_ids[0]
    if match.share < min_matched and match.n_matched < 0.5 * n_genes:
        raise ValueError(
            f"{view.name}: only {match}. First names there: {', '.join(map(repr, var.index[:3]))}; in the vocabulary: "
            f"{', '.join(map(repr, vocabulary.names[vocabulary.plain_ids[0] :][:3]))}. Name the .var column of symbols or Ensembl ids by "
            "gene_column, give a table of orthologs for another species, or lower min_matched (on the command line data.gene_column, "
            "data.orthologs, data.min_matched); in training, tokenizer.genes chooses another vocabulary"
        )
    return CellSource(view, key, match, len(vocabulary), whole)


def genes_of(
    files: Sequence[Any], counts: str, whole: bool, gene_column: str | None = None, orthologs: Mapping[str, str] | None = None
) -> list[str]:
    """The genes of all files, by their human names where there are orthologs, in the order in which they first occur; what is no gene is left out.

    Parameters
    ----------
    counts, whole
        Which matrix is read, see `find_counts`.
    """
    names: dict[str, None] = {}
    for file in files:
        view = AnnDataView(file)
        key = find_counts(view, counts, whole)
        var = view.var(key)
        human = human_names((var[gene_column] if gene_column else var.index).astype(str), orthologs)
        other = other_features(var, view.var("X") if key == "raw" else None)
        names |= dict.fromkeys(name for name, what in zip(human, other, strict=True) if what is None)
    return list(names)


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
        self.in_memory = all(s.cached is not None for s in self.sources)
        self._all = concatenate([s.cached for s in self.sources if s.cached is not None]) if self.in_memory else None
        if self.in_memory and len(self.sources) > 1:
            for source in self.sources:
                source.cached = None  # `_all` holds them
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

    def batch(self, numbers: np.ndarray) -> CellBatch:
        """The cells of these numbers [B], in this order, as a tokenizer takes them."""
        return CellBatch(self.take(numbers), self.panel_of(numbers), self.gene_panels)

    @cached_property
    def totals(self) -> np.ndarray:
        """Sum of each cell over the genes of the vocabulary, ``float64`` [n]; from disk by one pass over all files, with a bar."""
        if self._all is not None:
            held, step = self._all, 1 << 16
            cuts = [held.offsets[s : s + step + 1] for s in range(0, len(self), step)]
            parts = [Counts(held.ids[c[0] : c[-1]], held.counts[c[0] : c[-1]], c - c[0]).totals for c in cuts]
            return np.concatenate(parts)
        from tqdm.auto import tqdm

        out = []
        with tqdm(total=len(self), unit="cell", desc="looking for empty cells", delay=3) as bar:
            for source in self.sources:
                for start in range(0, len(source), self.block):
                    out.append(source.read(start, min(start + self.block, len(source))).totals)
                    bar.update(len(out[-1]))
        return np.concatenate(out)

    def empty(self) -> np.ndarray:
        """Which cells have no count in any gene of the vocabulary, ``bool`` [n]; see `totals`."""
        return np.diff(self._all.offsets) == 0 if self._all is not None else self.totals == 0

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

    @cached_property
    def _panels(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Which genes each panel has, bool [P, V], and the panel of each cell, int32 [n]; None where every source is a panel of its own."""
        if all(len(s.panel_masks) == 1 for s in self.sources):
            return np.stack([s.gene_panel_mask for s in self.sources]), None
        numbers: dict[bytes, int] = {}
        masks: list[np.ndarray] = []
        of_cells = []
        for source in self.sources:
            for mask in source.panel_masks:
                if numbers.setdefault(np.packbits(mask).tobytes(), len(masks)) == len(masks):
                    masks.append(mask)
            mine = np.array([numbers[np.packbits(mask).tobytes()] for mask in source.panel_masks], np.int32)
            of_cells.append(mine[source.panel_of_cell])
        return np.stack(masks), np.concatenate(of_cells)

    @property
    def gene_panel_mask(self) -> np.ndarray:
        """Which genes each panel measures, ``bool`` [P, V]; a source is one, and a collection those of the files that it was made of."""
        return self._panels[0]

    def panel_of(self, numbers: np.ndarray) -> np.ndarray:
        """Number of the panel of each cell."""
        of_cells = self._panels[1]
        return self.source_of(numbers) if of_cells is None else of_cells[numbers].astype(np.int64)

    @cached_property
    def gene_panels(self) -> list[np.ndarray]:
        """Ids of the genes that each panel has, ``int32``, ascending."""
        return [np.flatnonzero(mask).astype(np.int32) for mask in self.gene_panel_mask]
