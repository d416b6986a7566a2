"""Windows of a genome as a Lightning data module: FASTA and VCF in, batches out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bmfm.data.module import BatchModule, as_tokenizer
from bmfm.data.samplers import EndlessSampler
from bmfm.data.sources import GenomeWindows
from bmfm.data.splits import part_seeds, split_seed
from bmfm.data.stream import PARTS
from bmfm.genome.reference import Reference
from bmfm.genome.regions import intersect, read_regions, split_by_block, split_by_contig
from bmfm.genome.representation import Representation
from bmfm.genome.variants import NO_FREQUENCY, VariantFilter, VariantTable
from bmfm.genome.windows import WindowSampler
from bmfm.targets import make
from bmfm.tokenizers.dna import DnaTokenizer


@dataclass(eq=False, repr=False)
class DnaDataModule(BatchModule):
    """Training, validation and test windows of one genome.

    Parameters
    ----------
    fasta
        The genome.
    representation
        Called with (reference, variants); see `genome.representation`.
    split
        ``{by: block, block_size, validation, test}`` with shares, or ``{by: contig, validation, test}`` with names.
        Blocks are drawn by ``seed``, 0 where there is none, not by the run's seed.
    windows
        `WindowSampler` settings of the training windows.
    held_out_windows
        What differs for validation and test windows.
    max_tokens
        Longest input of the model, special tokens included.
    batch_size
        Windows of one batch over all devices.
    variants
        VCF or BCF: one, a list, or a pattern; None for the representation ``reference``.
    variant_filter
        Which variants are read.
    regions
        BED file or region words that windows must lie in; None takes the whole genome.
    max_n_run
        Longest run of N that a window may hold.
    packing
        Several windows a row of `max_tokens`, kept apart by the attention.
    num_workers
        Processes that make batches; these are the same with any number.
    cache_dir
        Where what was read of the files is kept; None takes the user's cache.
    seed
        By which training windows are drawn.
    """

    fasta: str
    representation: Callable[..., Representation]
    split: Mapping[str, Any]
    windows: Mapping[str, Any]
    held_out_windows: Mapping[str, Any]
    max_tokens: int
    batch_size: int
    variants: str | Sequence[str] | None = None
    variant_filter: VariantFilter | None = None
    regions: str | int | Sequence[str | int] | None = None
    max_n_run: int = 10
    packing: bool = False
    num_workers: int = 0
    cache_dir: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        super().__init__()
        if self.split.get("n_train") is not None:
            raise ValueError(
                "data.split.n_train counts examples, and windows are drawn afresh: choose less data.windows.coverage, or data.regions"
            )

    @cached_property
    def reference(self) -> Reference:
        return Reference.from_fasta(self.fasta, self.cache_dir)

    @cached_property
    def variant_table(self) -> VariantTable | None:
        if self.variants is None:
            return None
        return VariantTable.from_vcf(self.variants, self.reference, self.variant_filter, self.cache_dir)

    @cached_property
    def represent(self) -> Representation:
        return self.representation(self.reference, self.variant_table)

    @cached_property
    def intervals(self) -> dict[str, np.ndarray]:
        """Interval sets ``train``, ``validation``, ``test``: split, N runs and what lies outside `regions` cut away."""
        allowed = self.reference.known_intervals(self.max_n_run)
        if self.regions is not None:
            allowed = intersect(allowed, read_regions(self.regions, self.reference))
        by, held_out = self.split["by"], {part: self.split[part] for part in PARTS if self.split.get(part)}
        if by == "block":
            parts = split_by_block(self.reference, self.split["block_size"], held_out, split_seed(self.split))
        elif by == "contig":
            parts = split_by_contig(self.reference, held_out)
        else:
            raise ValueError(f"data.split.by={by!r} is unknown; choose block or contig")
        return {part: intersect(allowed, rows) for part, rows in parts.items()}

    def sampler(self, part: str) -> WindowSampler:
        """The windows of a part."""
        options = {**self.windows, **({} if part == "train" else self.held_out_windows)}
        drawn = {"intervals": self.intervals[part], "seed": part_seeds(self.seed, self.split)[part]}
        return make(WindowSampler, options | drawn, "data.windows" if part == "train" else "data.held_out_windows")

    def connect(self, tokenizer: Any) -> None:
        """Bind the tokenizer and open the source files."""
        self.tokenizer = as_tokenizer(tokenizer)
        self.limit_max_tokens()
        sources = {part: GenomeWindows(self.sampler(part), self.represent) for part in PARTS if len(self.intervals[part])}
        self.parts = {part: self.make_part(part, source, EndlessSampler(len(source))) for part, source in sources.items()}
        self.too_short = {part: source.windows.too_short for part, source in sources.items()}

    def where(self, number: int) -> str:
        """A training window by its coordinates (1-based, inclusive) and strand."""
        source = self.parts["train"].source
        assert isinstance(source, GenomeWindows)
        window = source.windows.draw(*np.divmod(np.array([number]), len(source)))
        contig, start = self.reference.locate(int(window.start[0]))
        return f"{contig}:{start + 1}-{start + int(window.end[0] - window.start[0])}({'-' if window.reverse[0] else '+'})"

    def report(self) -> None:
        """Print what became of the records of the VCF."""
        if self.variant_table is None:
            return
        from rich.console import Console
        from rich.table import Table

        records = self.variant_table.report
        table = Table(title=f"Variants of {Path(records.path).name}: {records.records:,} records", title_justify="left")
        for column in ("", "kind or reason", "alleles", "first"):
            table.add_column(column, justify="right" if column == "alleles" else "left")
        for verdict, reason, n, example in records.rows():
            table.add_row(verdict, reason, f"{n:,}", example)
        Console().print(table)
        if not len(self.variant_table):
            reason = next(iter(records.skipped.most_common(1)), ("", 0))[0]
            remedy = "; data.variant_filter.missing_frequency gives one to such alleles" if reason == NO_FREQUENCY else ""
            Console().print(f"No allele was taken, so that every window is the reference. Most were left out for: {reason}{remedy}.")

    @property
    def card(self) -> dict[str, str]:
        """What a model card says of the sources."""
        paths = self.variants or []
        names = [Path(path).name for path in ([paths] if isinstance(paths, str) else paths)]
        return {"sequence": Path(self.fasta).name, "variants": ", ".join(names) or "none"}

    def facts(self) -> dict[str, str]:
        """What a run's summary says of its data."""
        bases = {part: int((rows[:, 1] - rows[:, 0]).sum()) for part, rows in self.intervals.items()}
        facts = {f"{part} bases": f"{n:,} in {len(self.intervals[part])} intervals" for part, n in bases.items()}
        for part, (n_short, n_bases) in self.too_short.items():
            if n_short:
                facts[f"{part} too short for a window"] = f"{n_short} intervals, {n_bases:,} bases left out"
        if self.variant_table is not None:
            facts["variant edits"] = f"{len(self.variant_table):,} of {self.variant_table.report.records:,} records"
            if isinstance(self.tokenizer, DnaTokenizer) and (fallbacks := self.tokenizer.fallbacks):
                facts["symbols not in the vocabulary"] = f"{len(fallbacks)} of 66, written as a symbol that is (counted below)"
        return facts | self.notes
