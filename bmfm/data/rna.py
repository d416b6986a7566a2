"""Cells as a Lightning data module: AnnData in, batches out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bmfm.cells.formats import find_sources
from bmfm.cells.genes import GeneVocabulary, read_orthologs
from bmfm.cells.groups import Collection
from bmfm.cells.sources import Cells, CellSource, genes_of, open_source
from bmfm.data.module import BatchModule
from bmfm.data.samplers import BlockSampler, Sampler, ShuffledSampler
from bmfm.data.sources import CellExamples, PermutedCells
from bmfm.data.splits import split_examples
from bmfm.data.statistics import token_statistics
from bmfm.data.tables import read_table
from bmfm.files import require_file
from bmfm.hashing import example_keys
from bmfm.tokenizers.rna import CellTokenizer
from bmfm.tokenizers.truncation import Truncation

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


GENE_MEDIAN_CELLS = 16_384
"""Training cells, at most, from which the medians of genes are learned (`CellTokenizer.fit_gene_medians`)."""


@dataclass(eq=False, repr=False)
class RnaDataModule(BatchModule):
    """Training, validation and test cells of AnnData files.

    Parameters
    ----------
    path
        .h5ad files, zarr folders or SOMA experiments: one, a list, a pattern, a folder; or `anndata.AnnData` objects, and what else
        `cells.formats.find_sources` takes.
    census
        A callable that opens more sources with the vocabulary, see `cells.census`.
    split
        See `data.splits.split_examples`.
    max_tokens
        Longest input of the model, special tokens included.
    batch_size
        Cells of one batch over all devices.
    counts
        Where raw counts are: ``auto``, ``X``, ``raw``, ``layers/NAME``.
    expects
        ``counts`` (whole numbers, or an error) or ``normalised``; saved with the tokenizer. None takes the tokenizer's.
    gene_column
        ``.var`` column of gene names; None takes the one that matches best.
    orthologs
        Table of (other species' gene, human gene); it is saved with the tokenizer. None takes the tokenizer's.
    min_matched
        Least share of a file's genes in the vocabulary.
    storage
        ``memory``, ``disk`` (read in blocks, once before training to find empty cells), or ``auto``: in memory up to `memory_limit` bytes over all files.
    block, buffer_blocks, batch_blocks
        Cells read from disk at a time, blocks that cells are drawn from at a time, and how many of these a batch takes its cells from; see
        `data.samplers.BlockSampler`. None of the latter takes all, and 4 where all cells are in collections, which are shuffled already.
    leave_out
        CSV with the columns ``file`` and ``cell``: names of files, and of their cells that are in no part, as the test cells of benchmarks
        that ``python -m bmfm.leakage cells`` writes.
    balance
        ``.obs`` column whose values are drawn equally often, with replacement.
    permute_genes
        Probability that a training cell has its counts at other genes (`cells.permuted`): for models of cells of all tissues that see
        cells of few. Not for labels, which such cells have not.
    packing
        Several cells a row of `max_tokens`, kept apart by the attention.
    statistics_cells
        Training cells from which baselines are computed.
    """

    path: Any
    split: Mapping[str, Any]
    max_tokens: int
    batch_size: int
    counts: str = "auto"
    expects: str | None = None
    gene_column: str | None = None
    orthologs: Any = None
    min_matched: float = 0.3
    storage: str = "auto"
    memory_limit: float = 8e9
    block: int = 1024
    buffer_blocks: int = 16
    batch_blocks: int | None = None
    leave_out: str | None = None
    balance: str | None = None
    census: Callable[[GeneVocabulary], list[CellSource]] | None = None
    permute_genes: float = 0.0
    packing: bool = False
    num_workers: int = 0
    statistics_cells: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        if self.storage not in ("auto", "memory", "disk"):
            raise ValueError(f"data.storage={self.storage!r} is unknown; choose auto, memory or disk")
        if not 0 <= self.permute_genes <= 1:
            raise ValueError(f"data.permute_genes={self.permute_genes}: a probability from 0 to 1 is expected")

    def connect(self, tokenizer: CellTokenizer) -> None:
        """Bind the tokenizer, open the files, split their cells."""
        self.tokenizer = tokenizer
        self.sources = self._open()
        self._load()
        self.cells = Cells(self.sources, self.block, 2 * self.buffer_blocks)
        self.numbers = self.limit_training(self._split())
        self.parts = self.make_parts(CellExamples(self.cells), self._training_sampler())
        if self.permute_genes:
            self.parts["train"].source = PermutedCells(self.cells, self.permute_genes)
        if not tokenizer.is_fitted:
            tokenizer.fit_normalization(self.cells.totals[self.numbers["train"]])
            if tokenizer.reads_gene_medians and tokenizer.gene_medians is None:
                tokenizer.fit_gene_medians(self.cells.take(self.statistics_sample(GENE_MEDIAN_CELLS)[0]))
        self._note_truncation()

    def need(self, needs: frozenset[str] | set[str]) -> None:
        """As `BatchModule.need`; the molecules of cells are split only for what reconstructs cells: labels are learned from whole ones."""
        super().need(needs)
        mode = self.tokenizer.depth_mode
        if mode.is_split and not needs & {"hidden_counts", "shown_in_part"}:
            self.tokenizer.read_depth["mode"] = mode.for_inference
            self.note("cells", f"shown whole, as in use (tokenizer.read_depth.mode={mode.for_inference})")

    def add_labels(self, name: str, labels: np.ndarray | list[np.ndarray]) -> None:
        if self.permute_genes:
            raise ValueError(
                f"data.permute_genes={self.permute_genes} trains on cells that never were, and {name} would learn labels of them: choose 0, or "
                "objectives without labels"
            )
        super().add_labels(name, labels)

    def _open(self) -> list[CellSource]:
        """The files, in the genes of the tokenizer's vocabulary, which is made of theirs where it has none."""
        tokenizer: CellTokenizer = self.tokenizer
        tokenizer.expects = self.expects = tokenizer.resolve_expects(self.expects)
        paths = find_sources(self.path) if self.path is not None else []
        if self.orthologs is not None:
            tokenizer.orthologs = read_orthologs(self.orthologs)
        if tokenizer.vocabulary is None:
            names = genes_of(paths, self.counts, self.expects == "counts", self.gene_column, tokenizer.orthologs)
            tokenizer.bind_vocabulary(GeneVocabulary.of_genes(names))
        assert tokenizer.vocabulary is not None and self.expects is not None
        reading = (self.counts, self.gene_column, tokenizer.orthologs, self.expects, self.min_matched)
        sources = [open_source(p, tokenizer.vocabulary, *reading) for p in paths]
        if self.census is not None:
            sources += self.census(tokenizer.vocabulary)
        if not sources:
            raise ValueError("there are no cells: give data.path=FILE.h5ad")
        return sources

    def _load(self) -> None:
        """Read the files into memory, if that is asked for or they are small enough."""
        size = sum(8 * s.matrix.n_values for s in self.sources)
        if self.storage == "memory" or (self.storage == "auto" and size <= self.memory_limit):
            for source in self.sources:
                source.load()
        elif columns := [s.matrix.name for s in self.sources if s.matrix.format == "csc"]:
            raise ValueError(f"{columns[0]} is stored by column (CSC), which cannot be read in blocks of cells; store adata.X.tocsr(), or use data.storage=memory")  # fmt: skip

    def _split(self) -> dict[str, np.ndarray]:
        """Numbers of the cells of each part; cells without any count are left out."""
        empty = self.cells.empty()
        if empty.all():
            raise ValueError(f"{self.sources[0].view.name}: no cell has a count in any gene of the vocabulary")
        if n := int(empty.sum()):
            self.note("cells without any count", f"{n:,}, left out (first: {self.cells.name_of(int(np.flatnonzero(empty)[0]))})")
        parts = split_examples(self.split, len(self.cells), self.cells.column)
        excluded = empty | self._left_out()
        kind = np.int64 if self.cells.in_memory or len(empty) > np.iinfo(np.int32).max else np.int32
        numbers = {part: _without(cells, excluded, kind) for part, cells in parts.items()}
        if not len(numbers["train"]):
            raise ValueError(f"data.split leaves no training cells: {dict(self.split)}")
        return numbers

    def _left_out(self) -> np.ndarray:
        """Whether each cell is named by `leave_out`, bool [n]."""
        if self.leave_out is None:
            return np.zeros(len(self.cells), bool)
        table = read_table(require_file(self.leave_out, "list of cells (data.leave_out)"), ids=["file", "cell"])
        named = set(zip(table["file"], table["cell"], strict=True))
        cells = list(zip(self.cells.column("file"), self.cells.names.astype(str), strict=True))
        is_named = np.array([cell in named for cell in cells])
        n_unknown = len(named - set(cells))
        found = f"{int(is_named.sum()):,}" + (
            f"; {n_unknown:,} that {Path(self.leave_out).name} names are in none of the files" if n_unknown else ""
        )
        self.note("cells left out by data.leave_out", found)
        return is_named

    def _training_sampler(self) -> Sampler:
        """Training cells, shuffled in groups of blocks where they come from disk, and balanced if that is asked for."""
        train = self.numbers["train"]
        if self.balance:
            import pandas as pd

            classes, _ = pd.factorize(pd.Series(self.cells.column(self.balance))[train])
            blocks = None if self.cells.in_memory else self.cells.block_of(train)
            return ShuffledSampler(train, self.seed, blocks, self.buffer_blocks, classes)
        if self.cells.in_memory:
            return ShuffledSampler(train, self.seed)
        sizes = np.diff(np.searchsorted(train, self.cells.block_begins), append=len(train))
        are_shuffled = all(isinstance(s.view.store, Collection) for s in self.sources)
        width = self.batch_blocks or (gcd(4, self.buffer_blocks) if are_shuffled else self.buffer_blocks)
        return BlockSampler(train, sizes, self.seed, self.buffer_blocks, width, self.batch_size)

    def _note_truncation(self) -> None:
        """Say what `max_tokens` leaves out of training cells, from some of them."""
        truncation, tokenizer = Truncation(), self.tokenizer.for_inference()
        numbers, _ = self.statistics_sample()
        for start in range(0, len(numbers), 512):
            cells = self.cells.batch(numbers[start : start + 512])
            truncation.add(tokenizer.encode(cells, np.zeros(len(cells), np.uint64), self.max_tokens))
        if message := truncation.message(tokenizer, self.max_tokens, int(self.cells.gene_panel_mask.sum(1).max())):
            self.note("truncation, of some training cells", message)

    def statistics_sample(self, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and keys of some training cells, in the order of their files; from disk whole blocks, as training reads them."""
        train = self.numbers["train"]
        n = min(n or self.statistics_cells, len(train))
        if self.cells.in_memory:
            numbers = train[np.sort(np.random.default_rng(self.seed).permutation(len(train))[:n])]
        else:
            numbers = np.sort(self.parts["train"].sampler(np.zeros(n, np.int64), np.arange(n)))
        return numbers, example_keys(self.seed, 1 << 40, numbers)

    def compute_statistics(self) -> dict[str, np.ndarray]:
        """Of cells as they are, none with permuted genes."""
        numbers, keys = self.statistics_sample()
        cells = self.cells.batch(numbers)
        return token_statistics(self.tokenizer, cells, self.tokenizer.encode(cells, keys, self.max_tokens))

    def where(self, number: int) -> str:
        """File and name of a cell."""
        source = int(self.cells.source_of(np.array([number]))[0])
        name = self.sources[source].view.table.name_of(number - int(self.cells.first[source]))
        return f"{self.sources[source].name}, cell {name!r}"

    @property
    def column_names(self) -> list[str]:
        """Columns that the ``.obs`` of every file has."""
        tables = [s.view.table for s in self.sources]
        return [str(c) for c in tables[0].columns if all(c in table.columns for table in tables)]

    def column(self, name: str, as_text: bool = False) -> np.ndarray:
        """An ``.obs`` column of all cells."""
        return self.cells.column(name)

    def features(self, part: str, label: str) -> "tuple[csr_matrix, np.ndarray]":
        """Values of the full profiles of a part's cells, CSR [n, V], and their labels [n]: what simple methods work on."""
        from scipy.sparse import csr_matrix

        numbers = self.numbers[part]
        counts = self.cells.take(numbers)
        values = csr_matrix((self.tokenizer.full_profile(counts), counts.ids, counts.offsets), (len(numbers), len(self.tokenizer)))
        return values, self.parts[part].labels[label][numbers]

    def report(self) -> None:
        """Print how each file's genes were found."""
        from rich.console import Console

        for source in self.sources:
            Console().print(f"{source.name}, {source.key}: {len(source):,} cells; {source.match}", highlight=False)

    @property
    def card(self) -> dict[str, str]:
        """What a model card says of the sources."""
        return {f"cells of {s.name}": f"{len(s):,}, matrix {s.key}" for s in self.sources[:20]}

    def facts(self) -> dict[str, str]:
        """What a run's summary says of its data."""
        facts = {f"{part} cells": f"{len(cells):,}" for part, cells in self.numbers.items()}
        matched = [s.match.share for s in self.sources]
        facts["genes matched"] = f"{min(matched):.1%}" + (f" to {max(matched):.1%} of {len(matched)} files" if len(matched) > 1 else "")
        values, depth = self.tokenizer.values, self.tokenizer.read_depth
        facts["values"] = values["kind"] + (f" to {values['target_sum']:,.0f}" if "normalise" in values["kind"] else "")
        if self.tokenizer.has_depth:
            aligned = ", in use aligned" if self.tokenizer.lowers_depth else ""
            facts["read depth"] = depth["mode"] + (f"{aligned} to {depth['target']:,.0f}" if depth["target"] else "")
        return facts | self.notes


def _without(cells: np.ndarray, excluded: np.ndarray, kind: type) -> np.ndarray:
    """Numbers of cells that are not excluded, in a type of whole numbers, made a part at a time."""
    parts = [cells[start : start + (1 << 20)] for start in range(0, max(len(cells), 1), 1 << 20)]
    return np.concatenate([part[~excluded[part]].astype(kind) for part in parts])
