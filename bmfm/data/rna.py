"""Cells as a Lightning data module: AnnData in, batches out."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from bmfm.cells.counts import gather
from bmfm.cells.formats import AnnDataView, find_sources
from bmfm.cells.genes import GeneVocabulary, human_names, other_features, read_orthologs
from bmfm.cells.sources import Cells, CellSource, find_counts, open_source
from bmfm.data.module import BatchModule
from bmfm.data.splits import InOrder, Order, part_seeds, split_examples
from bmfm.data.stream import PARTS
from bmfm.hashing import example_keys
from bmfm.special import PAD
from bmfm.tokenizers.collate import collate, to_tensors
from bmfm.tokenizers.rna import CellTokenizer, Truncation


class CellExamples(Dataset):
    """Batches of tokenized cells; asked for a list of (epoch, index) pairs at a time.

    Cells that are held out get the tokens that inference makes of them (`CellTokenizer.for_inference`), so that a model's
    figures are those of its use. Objectives that reconstruct what of a cell is not shown are measured on cells that are
    shown in part, as in training: dropout and thinning stay, drawn by the cell's content.

    Parameters
    ----------
    order
        Which cell stands at which index in an epoch.
    seed
        Of the keys of training cells, and of the objectives' masks.
    held_out
        Whether the cells are for validation or test.
    """

    def __init__(self, cells: Cells, order, seed: int, tokenizer: CellTokenizer, max_tokens: int, packing: bool, held_out: bool = False):
        self.cells, self.order, self.seed, self.trained_with = cells, order, seed, tokenizer
        self.max_tokens, self.packing, self.held_out = max_tokens, packing, held_out
        self.labels: dict[str, np.ndarray] = {}
        self.whole_cells = self.shown_in_part = False
        self.measured = cells.measured
        self.measured_ids = [np.flatnonzero(row).astype(np.int32) for row in self.measured]

    def __len__(self) -> int:
        return len(self.order)

    @cached_property
    def tokenizer(self) -> CellTokenizer:
        """Made at the first batch, when the tokenizer is settled and the objectives have said what they need."""
        return self.trained_with.for_inference(shown_in_part=self.shown_in_part) if self.held_out else self.trained_with

    def __getitems__(self, pairs: Sequence[tuple[int, int]]) -> dict:
        epochs, places = np.array(pairs, np.int64).T
        numbers = self.order(epochs, places)
        keys = example_keys(self.seed, epochs, places)
        source = self.cells.source_of(numbers)
        tokenizer = self.tokenizer
        counts, token_keys = tokenizer.arrange(self.cells.take(numbers), keys)
        tokens = tokenizer(counts, token_keys, source, self.measured_ids, self.max_tokens)
        flat: dict = {"values": (tokens.values, -(PAD + 1.0))}
        lowered = tokenizer.depth["kind"] in ("downsample", "poisson")
        if lowered:
            flat["targets"] = (tokens.targets, np.nan)
        batch = collate(tokens.ids, tokens.offsets, tokenizer.prefix, flat, self.max_tokens if self.packing else None, tokenizer.positions)
        tokenizer.finish_values(batch, np.diff(tokens.offsets), tokens.depth)
        batch |= {"example_keys": keys.view(np.int64), "labels": {n: a[numbers] for n, a in self.labels.items()}}
        if self.whole_cells:
            rows = np.repeat(np.arange(len(numbers)), np.diff(counts.offsets))
            batch["full_profile"] = {"row": rows, "gene": counts.ids.astype(np.int64), "value": tokens.whole}
            present, own = np.unique(source, return_inverse=True)
            batch |= {"gene_panel_mask": self.measured[present], "source_ids": own}
        batch["counts"] = tokens.counted(counts)
        return to_tensors(batch)


class RnaDataModule(BatchModule):
    """Training, validation and test cells of AnnData files.

    Parameters
    ----------
    path
        .h5ad files or zarr folders: one, a list, a pattern, a folder; or `anndata.AnnData` objects, and what else
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
    block, buffer_blocks
        Cells read from disk at a time, and blocks that are shuffled together.
    balance
        ``.obs`` column whose values are drawn equally often, with replacement.
    packing
        Several cells a row of `max_tokens`, kept apart by the attention.
    statistics_cells
        Training cells from which baselines are computed.
    """

    def __init__(
        self,
        path: Any,
        split: Mapping,
        max_tokens: int,
        batch_size: int,
        counts: str = "auto",
        expects: str | None = None,
        gene_column: str | None = None,
        orthologs: Any = None,
        min_matched: float = 0.3,
        storage: str = "auto",
        memory_limit: float = 8e9,
        block: int = 1024,
        buffer_blocks: int = 16,
        balance: str | None = None,
        census=None,
        packing: bool = False,
        num_workers: int = 0,
        statistics_cells: int = 4096,
        seed: int = 0,
    ):
        super().__init__()
        if storage not in ("auto", "memory", "disk"):
            raise ValueError(f"data.storage={storage!r} is unknown; choose auto, memory or disk")
        self.path, self.census, self.split = path, census, dict(split)
        self.max_tokens, self.batch_size, self.packing, self.num_workers = max_tokens, batch_size, packing, num_workers
        self.counts, self.expects, self.gene_column, self.orthologs = counts, expects, gene_column, orthologs
        self.min_matched, self.storage, self.memory_limit = min_matched, storage, memory_limit
        self.block, self.buffer_blocks, self.balance = block, buffer_blocks, balance
        self.statistics_cells, self.seed = statistics_cells, seed

    def _vocabulary_of_data(self, sources: list[Any], orthologs: Mapping[str, str] | None) -> GeneVocabulary:
        """The genes of all files, by their human names where there are orthologs; what is no gene is left out."""
        names: dict[str, None] = {}
        for source in sources:
            view = AnnDataView(source)
            key = find_counts(view, self.counts, self.expects == "counts")
            var = view.var(key)
            found = human_names((var[self.gene_column] if self.gene_column else var.index).astype(str), orthologs)
            other = other_features(var, view.var("X") if key == "raw" else None)
            names |= dict.fromkeys(name for name, kind in zip(found, other, strict=True) if kind is None)
        return GeneVocabulary.of_genes(names)

    def connect(self, tokenizer: CellTokenizer) -> None:
        """Bind the tokenizer, open the files, split their cells."""
        tokenizer.expects = self.expects = tokenizer.reading(self.expects)
        paths = find_sources(self.path) if self.path is not None else []
        if self.orthologs is not None:
            tokenizer.orthologs = read_orthologs(self.orthologs)
        if tokenizer.vocabulary is None:
            tokenizer.use(self._vocabulary_of_data(paths, tokenizer.orthologs))
        assert tokenizer.vocabulary is not None
        how = (self.counts, self.gene_column, tokenizer.orthologs, self.expects, self.min_matched)
        sources = [open_source(p, tokenizer.vocabulary, *how) for p in paths]
        if self.census is not None:
            sources += self.census(tokenizer.vocabulary)
        if not sources:
            raise ValueError("there are no cells: give data.path=FILE.h5ad")
        self.sources: list[CellSource] = sources
        size = sum(8 * s.matrix.n_values for s in sources)
        if self.storage == "memory" or (self.storage == "auto" and size <= self.memory_limit):
            for source in sources:
                source.load()
        elif columns := [s.matrix.name for s in sources if s.matrix.format == "csc"]:
            raise ValueError(f"{columns[0]} is stored by column (CSC), which cannot be read in blocks of cells; store adata.X.tocsr(), or use data.storage=memory")  # fmt: skip
        self.cells = Cells(sources, self.block, 3 * self.buffer_blocks)
        self.tokenizer = tokenizer
        empty = self.cells.empty()
        if empty.all():
            raise ValueError(f"{sources[0].view.name}: no cell has a count in any gene of the vocabulary")
        if n := int(empty.sum()):
            self.note("cells without any count", f"{n:,}, left out (first: {self.cells.name_of(int(np.flatnonzero(empty)[0]))})")
        parts = split_examples(self.split, len(self.cells), self.cells.column)
        self.numbers = {part: cells[~empty[cells]] for part, cells in parts.items()}
        if not len(self.numbers["train"]):
            raise ValueError(f"data.split leaves no training cells: {self.split}")
        blocks = None if self.cells.in_memory else self.cells.block_of(self.numbers["train"])
        classes = None
        if self.balance:
            import pandas as pd

            classes, _ = pd.factorize(pd.Series(self.cells.column(self.balance))[self.numbers["train"]])
        orders = {part: InOrder(cells) for part, cells in self.numbers.items()}
        orders["train"] = Order(self.numbers["train"], self.seed, blocks, self.buffer_blocks, classes)  # type: ignore[assignment]
        seeds = part_seeds(self.seed, self.split)
        self.parts = {
            part: CellExamples(self.cells, orders[part], seeds[part], tokenizer, self.max_tokens, self.packing, part != "train")
            for part in PARTS
            if len(self.numbers[part])
        }
        if not tokenizer.is_settled:
            tokenizer.settle(self.cells.totals[self.numbers["train"]])
        self._note_truncation()

    def _note_truncation(self) -> None:
        """Say what `max_tokens` leaves out of training cells, from some of them."""
        source, cut, seen = self.cells.source_of(self._some_numbers), Truncation(), self.tokenizer.for_inference()
        for start in range(0, len(source), 512):
            part = slice(start, start + 512)
            counts, keys = seen.arrange(gather(self._some_cells, np.arange(len(source))[part]), np.empty(0, np.uint64))
            cut.add(counts, seen(counts, keys, source[part], self.parts["train"].measured_ids, self.max_tokens))
        if said := cut.said(seen, self.max_tokens, int(self.cells.measured.sum(1).max())):
            self.note("truncation, of some training cells", said)

    @cached_property
    def _some_numbers(self) -> np.ndarray:
        train = self.numbers["train"]
        n = min(self.statistics_cells, len(train))
        if self.cells.in_memory:
            return train[np.sort(np.random.default_rng(self.seed).permutation(len(train))[:n])]
        order = self.parts["train"].order  # whole blocks, as training reads them
        return np.sort(order.epoch(0)[:n])

    @cached_property
    def _some_cells(self):
        return self.cells.take(self._some_numbers)

    def compute_statistics(self) -> dict[str, np.ndarray]:
        """Figures of some training cells, [V] each.

        ``token_counts``, ``value_sums``, ``zero_counts`` of the tokens a model sees; ``profile_mean`` and
        ``profile_zero_rate`` over cells whose file has the gene; ``bin_log_frequency`` [n_bins] where values are bins.
        """
        numbers, n_genes = self._some_numbers, len(self.tokenizer)
        counts, keys = self.tokenizer.arrange(self._some_cells, example_keys(self.seed, 1 << 40, numbers))
        source = self.cells.source_of(numbers)
        train = self.parts["train"]
        tokens = self.tokenizer(counts, keys, source, train.measured_ids, self.max_tokens)
        cells_with = (np.bincount(source, minlength=len(train.measured))[:, None] * train.measured).sum(0)
        out = {
            "token_counts": np.bincount(tokens.ids, minlength=n_genes),
            "value_sums": np.bincount(tokens.ids, weights=tokens.targets, minlength=n_genes),
            "zero_counts": np.bincount(tokens.ids[tokens.targets == 0], minlength=n_genes),
            "profile_mean": np.bincount(counts.ids, weights=tokens.whole, minlength=n_genes) / np.maximum(cells_with, 1),
            "profile_zero_rate": 1 - np.bincount(counts.ids, minlength=n_genes) / np.maximum(cells_with, 1),
        }
        if n_bins := self.tokenizer.n_bins:
            share = np.bincount(tokens.targets.astype(np.int64), minlength=n_bins) + 1.0
            out["bin_log_frequency"] = np.log(share / share.sum()).astype(np.float32)
        return out

    def where(self, number: int) -> str:
        """File and name of a cell."""
        source = int(self.cells.source_of(np.array([number]))[0])
        name = self.sources[source].view.obs.index[number - int(self.cells.first[source])]
        return f"{self.sources[source].name}, cell {name!r}"

    def column(self, name: str, as_text: bool = False) -> np.ndarray:
        return self.cells.column(name)

    def features(self, part: str, label: str):
        """Values of the whole cells of a part, CSR [n, V], and their labels [n]: what simple methods work on."""
        from scipy.sparse import csr_matrix

        numbers = self.numbers[part]
        counts = self.cells.take(numbers)
        values = csr_matrix((self.tokenizer.whole_cells(counts), counts.ids, counts.offsets), (len(numbers), len(self.tokenizer)))
        return values, self.parts[part].labels[label][numbers]

    def need(self, needs: set[str]) -> None:
        """Serve what objectives asked for."""
        for dataset in self.parts.values():
            dataset.whole_cells, dataset.shown_in_part = "whole_cell" in needs, "shown_in_part" in needs

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
        v, d = self.tokenizer.values, self.tokenizer.depth
        facts["values"] = v["kind"] + (f" to {v['target_sum']:,.0f}" if "normalise" in v["kind"] else "")
        if d["kind"] != "none":
            thins = d["kind"] in ("downsample", "poisson")
            facts["read depth"] = d["kind"] + (f"{', in use aligned' if thins else ''} to {d['target']:,.0f}" if d["target"] else "")
        return facts | self.notes
