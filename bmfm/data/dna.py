"""Windows of a genome as a Lightning data module: FASTA and VCF in, batches out."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from bmfm.data.module import BatchModule
from bmfm.data.splits import part_seeds, split_seed
from bmfm.data.stream import PARTS
from bmfm.genome.reference import Reference
from bmfm.genome.regions import intersect, read_regions, split_by_block, split_by_contig
from bmfm.genome.representation import Representation
from bmfm.genome.variants import NO_FREQUENCY, VariantFilter, VariantTable
from bmfm.genome.windows import WindowSampler
from bmfm.special import CLS
from bmfm.tokenizers.collate import collate, to_tensors
from bmfm.tokenizers.dna import DnaTokenizer, TokenBatch
from bmfm.tokenizers.huggingface import HuggingFaceTokenizer


class DnaWindows(Dataset):
    """Batches of encoded windows; asked for a list of (epoch, index) pairs at a time."""

    def __init__(self, sampler: WindowSampler, represent: Representation, tokenizer: DnaTokenizer, max_tokens: int, packing: bool):
        self.sampler, self.represent, self.tokenizer = sampler, represent, tokenizer
        self.max_tokens, self.packing = max_tokens, packing

    def __len__(self) -> int:
        return len(self.sampler)

    def tokens(self, epoch: int, indices: np.ndarray) -> TokenBatch:
        """Tokens of some windows, without special tokens."""
        return self.tokenizer(self.represent(self.sampler.draw(epoch, indices)), self.max_tokens - 2)

    def __getitems__(self, pairs: Sequence[tuple[int, int]]) -> dict:
        epochs, indices = np.array(pairs, np.int64).T
        windows = self.sampler.draw(epochs, indices)
        encoded = self.represent(windows)
        tokens = self.tokenizer(encoded, self.max_tokens - 2)
        flat = {"has_variant": (tokens.has_variant, False)}
        batch = collate(tokens.ids, tokens.offsets, np.array([CLS]), flat, self.max_tokens if self.packing else None)
        batch["special_tokens_mask"] |= batch["input_ids"] < self.tokenizer.plain_ids[0]
        batch |= {"start": windows.start, "end": windows.end, "reverse": windows.reverse, "example_keys": windows.key.view(np.int64)}
        batch["counts"] = {
            "windows": len(windows),
            "bases": int(encoded.offsets[-1]),
            "tokens": len(tokens.ids),
            "truncated_windows": tokens.n_truncated,
            "unknown_tokens": tokens.n_unknown,
            "fallback_symbols": tokens.n_fallback,
        }
        return to_tensors(batch)


class DnaDataModule(BatchModule):
    """Training, validation and test windows of one genome.

    Parameters
    ----------
    fasta, variants
        Source files; `variants` may be a list or a pattern, or None for the representation ``reference``.
    representation
        Called with (reference, variants); see `genome.representation`.
    variant_filter
        Which variants are read.
    regions
        BED file or region words that windows must lie in; None takes the whole genome.
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
    packing
        Several windows a row of `max_tokens`, kept apart by the attention.
    """

    def __init__(
        self,
        fasta: str,
        representation: Callable[..., Representation],
        split: Mapping,
        windows: Mapping,
        held_out_windows: Mapping,
        max_tokens: int,
        batch_size: int,
        variants: str | Sequence[str] | None = None,
        variant_filter: VariantFilter | None = None,
        regions: str | int | Sequence[str | int] | None = None,
        max_n_run: int = 10,
        packing: bool = False,
        num_workers: int = 0,
        cache_dir: str | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.fasta, self.variants_path, self.regions = fasta, variants, regions
        self.representation, self.variant_filter = representation, variant_filter
        self.split, self.windows, self.held_out_windows = dict(split), dict(windows), dict(held_out_windows)
        self.max_tokens, self.batch_size, self.packing = max_tokens, batch_size, packing
        self.num_workers, self.cache_dir, self.seed, self.max_n_run = num_workers, cache_dir, seed, max_n_run

    @cached_property
    def reference(self) -> Reference:
        return Reference.from_fasta(self.fasta, self.cache_dir)

    @cached_property
    def variants(self) -> VariantTable | None:
        if self.variants_path is None:
            return None
        return VariantTable.from_vcf(self.variants_path, self.reference, self.variant_filter, self.cache_dir)

    @cached_property
    def represent(self) -> Representation:
        return self.representation(self.reference, self.variants)

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
        options = self.windows | ({} if part == "train" else self.held_out_windows)
        return WindowSampler(self.intervals[part], seed=part_seeds(self.seed, self.split)[part], **options)

    def connect(self, tokenizer) -> None:
        """Bind the tokenizer and open the source files."""
        if isinstance(tokenizer, HuggingFaceTokenizer):
            raise ValueError("windows of the genome are written by this project's tokenizers: choose one, and model=modernbert")
        self.tokenizer = tokenizer if isinstance(tokenizer, DnaTokenizer) else DnaTokenizer(tokenizer)
        self.parts = {
            part: DnaWindows(self.sampler(part), self.represent, self.tokenizer, self.max_tokens, self.packing)
            for part in PARTS
            if len(self.intervals[part])
        }

    def compute_statistics(self) -> dict[str, np.ndarray]:
        """``token_counts`` [V]: occurrences of each token id in the first training windows, the unigram baseline."""
        train = self.parts["train"]
        tokens = train.tokens(0, np.arange(min(4096, len(train))))
        return {"token_counts": np.bincount(tokens.ids, minlength=len(self.tokenizer))}

    def report(self) -> None:
        """Print what became of the records of the VCF."""
        if self.variants is None:
            return
        from rich.console import Console
        from rich.table import Table

        found = self.variants.report
        table = Table(title=f"Variants of {Path(found.path).name}: {found.records:,} records", title_justify="left")
        for column in ("", "kind or reason", "alleles", "first"):
            table.add_column(column, justify="right" if column == "alleles" else "left")
        for verdict, reason, n, example in found.rows():
            table.add_row(verdict, reason, f"{n:,}", example)
        Console().print(table)
        if not len(self.variants):
            reason = next(iter(found.skipped.most_common(1)), ("", 0))[0]
            remedy = "; data.variant_filter.missing_frequency gives one to such alleles" if reason == NO_FREQUENCY else ""
            Console().print(f"No allele was taken, so that every window is the reference. Most were left out for: {reason}{remedy}.")

    @property
    def card(self) -> dict[str, str]:
        """What a model card says of the sources."""
        given = self.variants_path or []
        names = [Path(v).name for v in ([given] if isinstance(given, str) else given)]
        return {"sequence": Path(self.fasta).name, "variants": ", ".join(names) or "none"}

    def facts(self) -> dict[str, str]:
        """What a run's summary says of its data."""
        bases = {part: int((rows[:, 1] - rows[:, 0]).sum()) for part, rows in self.intervals.items()}
        facts = {f"{part} bases": f"{n:,} in {len(self.intervals[part])} intervals" for part, n in bases.items()}
        for part, dataset in self.parts.items():
            n_short, n_bases = dataset.sampler.too_short
            if n_short:
                facts[f"{part} too short for a window"] = f"{n_short} intervals, {n_bases:,} bases left out"
        if self.variants is not None:
            facts["variant edits"] = f"{len(self.variants):,} of {self.variants.report.records:,} records"
        fallbacks = self.tokenizer.fallbacks
        if fallbacks and self.variants is not None:
            facts["symbols not in the vocabulary"] = f"{len(fallbacks)} of 66, written as a symbol that is (counted below)"
        return facts
