"""Cells of files or objects in the genes of a vocabulary, in memory or in blocks from disk."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.cells.counts import CellBatch, Counts, align, concatenate, gather, gather_from
from bmfm.cells.formats import AnnDataView
from bmfm.cells.genes import GeneMatch, GeneVocabulary, human_names, other_features
from bmfm.cells.groups import MANIFEST, GroupRows
from bmfm.cells.matrix import Matrix
from bmfm.cells.raw_counts import checked_rows, find_counts, open_matrix
from bmfm.files import cached_folder, fingerprint

GENE_PANEL = "gene_panel"
"""Where the cells of a collection come from files with different genes: the column of .obs with the number of each cell's set of genes,
and the matrix in .varm with a column for each set."""
CACHED_FROM = 1 << 17
"""Cells of a collection from which on what a pass over all of them finds is kept in the cache."""


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
        panels = self.view.varm(GENE_PANEL) if GENE_PANEL in self.view.table.columns and self.key == "X" else None
        return [self.gene_panel_mask] if panels is None else [self._mask_of(np.asarray(p, bool)) for p in np.asarray(panels).T]

    @property
    def panel_of_cell(self) -> np.ndarray:
        """Which of `panel_masks` is that of each cell, [n]."""
        return self.view.table.column(GENE_PANEL).to_numpy() if len(self.panel_masks) > 1 else np.zeros(len(self), np.int32)

    def read(self, start: int, stop: int) -> Counts:
        """Cells [start, stop) from the file, checked.

        Raises
        ------
        ValueError
            On a value that is no count; names file, cell and gene.
        """
        indptr, indices, data = checked_rows(self.view, self.key, self.matrix, start, stop, self.whole_numbers)
        return align(indptr, indices, data, self.match.ids, self.vocab_size)

    @property
    def has_all_genes(self) -> bool:
        """Whether it is a collection, which stores no zeros, and each of its genes is in the vocabulary: so a cell is empty that has no value."""
        return isinstance(self.matrix.stored, GroupRows) and bool((self.match.ids >= 0).all())

    def totals(self, block: int, done: Callable[[int], Any]) -> np.ndarray:
        """Sum of each cell over the genes of the vocabulary, ``float64`` [n]; of a large collection from the cache, if it has them."""
        if not isinstance(self.matrix.stored, GroupRows) or len(self) < CACHED_FROM:
            return self._totals(block, done)
        genes = hashlib.sha256(self.match.ids.tobytes()).hexdigest()
        key = {"collection": fingerprint(self.matrix.stored.collection.folder / MANIFEST), "genes": genes, "version": 1}

        def build(folder: Path) -> None:
            np.save(folder / "totals.npy", self._totals(block, done))

        try:
            return np.load(cached_folder("cell_totals", key, build) / "totals.npy", mmap_mode="r")
        except OSError:  # a cache that cannot be written
            return self._totals(block, done)

    def _totals(self, block: int, done: Callable[[int], Any]) -> np.ndarray:
        out = np.empty(len(self))
        for start in range(0, len(self), block):
            stop = min(start + block, len(self))
            out[start:stop] = self.read(start, stop).totals
            done(stop - start)
        return out

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
    if not len(view.table):
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
        self.block_begins = np.concatenate([f + block * np.arange(n) for f, n in zip(self.first, blocks, strict=False)])

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
        places = np.split(order, np.flatnonzero(np.diff(blocks[order])) + 1)
        return gather_from([self._block(int(blocks[at[0]])) for at in places], [row[at] for at in places], places)

    def batch(self, numbers: np.ndarray) -> CellBatch:
        """The cells of these numbers [B], in this order, as a tokenizer takes them."""
        return CellBatch(self.take(numbers), self.panel_of(numbers), self.gene_panels)

    @cached_property
    def totals(self) -> np.ndarray:
        """Sum of each cell over the genes of the vocabulary, ``float64`` [n]; from disk by one pass over all files, with a bar.

        Those of a large collection are kept in the cache, where the next run, and other processes of this one, find them.
        """
        if self._all is not None:
            held, step = self._all, 1 << 16
            cuts = [held.offsets[s : s + step + 1] for s in range(0, len(self), step)]
            parts = [Counts(held.ids[c[0] : c[-1]], held.counts[c[0] : c[-1]], c - c[0]).totals for c in cuts]
            return np.concatenate(parts)
        from tqdm.auto import tqdm

        with tqdm(total=len(self), unit="cell", desc="looking for empty cells", delay=3) as bar:
            parts = [source.totals(self.block, bar.update) for source in self.sources]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def empty(self) -> np.ndarray:
        """Which cells have no count in any gene of the vocabulary, ``bool`` [n]; see `totals`."""
        if self._all is not None:
            return np.diff(self._all.offsets) == 0
        if "totals" not in self.__dict__ and all(source.has_all_genes for source in self.sources):
            return np.concatenate([source.matrix.stored.empty() for source in self.sources])
        return self.totals == 0

    def name_of(self, number: int) -> str:
        """The name of a cell and of its file, for messages."""
        source = int(self.source_of(np.array([number]))[0])
        return f"{self.sources[source].view.table.name_of(number - int(self.first[source]))!r} of {self.sources[source].name}"

    @property
    def names(self) -> pd.Index:
        """``.obs_names`` of all cells; those of several files, or of one, may repeat."""
        indices = [s.view.table.names for s in self.sources]
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
            table = source.view.table
            if name not in table.columns:
                raise KeyError(f"{source.view.name} has no .obs column {name!r}; it has {', '.join(map(str, table.columns)) or 'none'}")
            parts.append(table.column(name).astype(object).to_numpy())
        return np.concatenate(parts)

    @cached_property
    def _panels(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Which genes each panel has, bool [P, V], and the panel of each cell [n], in the smallest numbers; None where every source is a panel of its own."""
        if all(len(s.panel_masks) == 1 for s in self.sources):
            return np.stack([s.gene_panel_mask for s in self.sources]), None
        numbers: dict[bytes, int] = {}
        masks: list[np.ndarray] = []
        of_cells = []
        for source in self.sources:
            for mask in source.panel_masks:
                if numbers.setdefault(np.packbits(mask).tobytes(), len(masks)) == len(masks):
                    masks.append(mask)
            mine = np.array([numbers[np.packbits(mask).tobytes()] for mask in source.panel_masks])
            of_cells.append(mine.astype(np.min_scalar_type(len(masks)))[source.panel_of_cell])
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
