"""What all data modules share: parts, the order of batches, loaders, and the hand-over to objectives; and the module of any source."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from bmfm.data.examples import ExampleDataset
from bmfm.data.samplers import Sampler, SequentialSampler, ShuffledSampler
from bmfm.data.sources import INPUT, Source
from bmfm.data.spec import DataSpec, Statistics
from bmfm.data.splits import keep_training, part_seeds, split_examples
from bmfm.data.statistics import token_statistics
from bmfm.data.stream import PARTS, BatchStream, StepBatch, StepBatches
from bmfm.hashing import example_keys
from bmfm.label_kinds import LabelKind
from bmfm.tokenizers.base import Tokenizer
from bmfm.tokenizers.dna import DnaTokenizer

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

NEEDS = frozenset({"full_profile", "shown_in_part", "hidden_counts"})


def _as_it_is(batch: Any) -> Any:
    return batch


def as_tokenizer(tokenizer: Any) -> Tokenizer:
    """A tokenizer as it is, and one of `transformers`, which knows this project's special tokens, as `DnaTokenizer`."""
    from transformers import PreTrainedTokenizerBase

    return DnaTokenizer(tokenizer) if isinstance(tokenizer, PreTrainedTokenizerBase) else tokenizer


DEFAULT_MAX_TOKENS = 512
"""Of the longest input, where neither a recipe nor the checkpoint that it begins with says so."""


class BatchModule(pl.LightningDataModule, ABC):
    """A Lightning data module whose data sets answer lists of (epoch, place) pairs with whole batches.

    Attributes
    ----------
    split, max_tokens, batch_size, packing, num_workers, seed
        Settings that all data modules have, see `ExampleDataModule`.
    tokenizer
        Of the part ``input``, bound by `connect`.
    part_tokenizers
        {further part of an example: its tokenizer}, where it is not that of the input.
    parts
        {train, validation, test: their examples}, filled by `connect`.
    numbers
        {train, validation, test: numbers of the examples}, where examples have labels.
    objectives
        Set before training; their `prepare` is called on every batch in the main process.
    first_batch
        Number of the first training batch: where a resumed run goes on.
    """

    split: Mapping[str, Any]
    max_tokens: int
    batch_size: int
    packing: bool
    num_workers: int
    seed: int
    tokenizer: Any
    part_tokenizers: Mapping[str, Tokenizer] = {}
    parts: Mapping[str, ExampleDataset]
    numbers: Mapping[str, np.ndarray] = {}
    objectives: Any = None
    first_batch = 0
    allow_zero_length_dataloader_with_multiple_devices = True  # Lightning's name; loaders of all devices are made equally long

    def __init__(self) -> None:
        super().__init__()
        self.max_tokens = self.max_tokens or DEFAULT_MAX_TOKENS
        self.notes: dict[str, str] = {}

    @abstractmethod
    def connect(self, tokenizer: Any) -> None:
        """Bind the tokenizer, open the sources, and fill `parts` and `numbers`."""

    def report(self) -> None:
        """Print what became of the sources' records."""

    @property
    def card(self) -> dict[str, str]:
        """What a model card says of the sources."""
        return {}

    def facts(self) -> dict[str, str]:
        """What a run's summary says of its data."""
        return {f"{part} examples": f"{len(dataset):,}" for part, dataset in self.parts.items()} | self.notes

    def limit_training(self, numbers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The parts with as many training examples as `split` says; what is left out is noted."""
        kept = keep_training(numbers, self.split)
        if n := len(numbers["train"]) - len(kept["train"]):
            self.note("training examples left out by data.split.n_train", f"{n:,}")
        return kept

    def note(self, name: str, text: str) -> None:
        """Add a line to the run's summary."""
        self.notes[name] = text

    # parts

    @property
    def tokenizers(self) -> dict[str, Tokenizer]:
        """{part of an example: its tokenizer}."""
        return {INPUT: self.tokenizer, **self.part_tokenizers}

    def make_part(self, part: str, source: Source, sampler: Sampler) -> ExampleDataset:
        """The examples of a part, keyed by the run's seed in training, and by the split's where they are held out."""
        seed = part_seeds(self.seed, self.split)[part]
        return ExampleDataset(source, sampler, seed, self.tokenizers, self.max_tokens, self.packing, held_out=part != "train")

    def make_parts(self, source: Source, training_sampler: Sampler | None = None) -> dict[str, ExampleDataset]:
        """The parts of one source, by `numbers`: training examples shuffled, held-out ones in their order."""
        samplers: dict[str, Sampler] = {part: SequentialSampler(numbers) for part, numbers in self.numbers.items()}
        samplers["train"] = training_sampler or ShuffledSampler(self.numbers["train"], self.seed)
        return {part: self.make_part(part, source, samplers[part]) for part in PARTS if len(samplers[part])}

    def limit_max_tokens(self) -> None:
        """Lower `max_tokens` to what the model has positions for, and say so."""
        limit = self.tokenizer.max_tokens
        if limit and limit < self.max_tokens:
            self.note("longest input", f"{limit} tokens, as the model has no more positions ({self.max_tokens} were asked for)")
            self.max_tokens = limit

    # what objectives may know, and what they add

    def spec(self) -> DataSpec:
        """What objectives may know of these data, once `connect` has bound a tokenizer."""
        return DataSpec(
            vocabulary=self.tokenizer.names,
            plain_ids=self.tokenizer.plain_ids,
            n_cls=self.tokenizer.n_cls,
            n_bins=self.tokenizer.n_bins,
            check_cls=self.tokenizer.check_cls,
            parts=self.numbers,
            statistics=self.statistics,
            column=self.column,
            column_names=self.column_names,
            where=self.where,
        )

    @property
    def column_names(self) -> Sequence[str]:
        """Names of the columns of labels."""
        return []

    def column(self, name: str, as_text: bool = False) -> np.ndarray:
        """A column of labels of all examples, object [n]; with `as_text` as it is written, where a source might read it as numbers."""
        raise KeyError(f"{type(self).__name__} has no labels, {name!r} was asked for")

    def where(self, number: int) -> str:
        """An example as messages name it: its file and row, or cell."""
        return f"example {number + 1}"

    @cached_property
    def statistics(self) -> Statistics:
        """Figures of training examples that objectives take their baselines from, {name: [V] or [n_bins]}."""
        return Statistics(self.compute_statistics)

    def compute_statistics(self) -> dict[str, np.ndarray]:
        """`statistics`, from the examples of `statistics_sample`; see `data.statistics` for names."""
        examples, tokens = self.parts["train"].encode(*self.statistics_sample())
        return token_statistics(self.tokenizer, examples.parts[INPUT], tokens[INPUT])

    def statistics_sample(self, n: int = 4096) -> tuple[np.ndarray, np.ndarray]:
        """Numbers and keys of some training examples: the first of epoch 0, which are drawn at random."""
        train = self.parts["train"]
        places = np.arange(min(n, len(train)))
        return train.sampler(np.zeros_like(places), places), example_keys(train.seed, 0, places)

    def add_labels(self, name: str, labels: np.ndarray | list[np.ndarray]) -> None:
        """Give every batch ``labels[name]``: from labels of all examples [n, ...], or from labels of all their tokens, n arrays [L]."""
        for dataset in self.parts.values():
            if isinstance(labels, list):
                dataset.token_labels[name] = labels
            else:
                dataset.labels[name] = labels

    def other_strand(self, kinds: Mapping[str, LabelKind]) -> float:
        """With what probability training examples are to be read from the other strand, where labels of these kinds were added."""
        return 0.0

    def places_of(self, name: str, kind: LabelKind, places: bool | str) -> int:
        """How many places a head of such a label reads (`models.heads.Places`), where true, false or ``auto`` is asked for; 0 is none.

        These data have none that are aligned.
        """
        return 0

    def need(self, needs: frozenset[str] | set[str]) -> None:
        """Serve what objectives want of the data beside tokens, see `objectives.Objective.needs`."""
        if lacking := needs - (NEEDS if self.tokenizer.omics == "rna" else set()):
            raise ValueError(f"{type(self).__name__} has no {', '.join(sorted(lacking))}: choose another objective")
        if "hidden_counts" in needs and not self.tokenizer.depth_mode.is_split:
            raise ValueError(
                f"an objective predicts the counts that the tokenizer hides, and tokenizer.read_depth.mode={self.tokenizer.read_depth['mode']} "
                "hides none: choose tokenizer.read_depth.mode=split (or split_aware), or another objective"
            )
        for dataset in self.parts.values():
            dataset.with_full_profile, dataset.shown_in_part = "full_profile" in needs, "shown_in_part" in needs

    def features(self, part: str, label: str) -> "tuple[csr_matrix, np.ndarray]":
        """How often each token occurs in the examples of a part, CSR [n, V], and their labels [n]: what simple methods work on."""
        from scipy.sparse import csr_matrix, vstack

        dataset, numbers, chunks = self.parts[part], self.numbers[part], []
        for first in range(0, len(numbers), 1024):
            chosen = numbers[first : first + 1024]
            _, parts = dataset.encode(chosen, example_keys(dataset.seed, 0, np.arange(first, first + len(chosen))))
            tokens = parts[INPUT]
            chunks.append(csr_matrix((np.ones(len(tokens.ids)), tokens.ids, tokens.offsets), (len(tokens), len(self.tokenizer))))
        return vstack(chunks, "csr"), dataset.labels[label][numbers]

    # batches

    def prepare_batch(self, batch: dict[str, Any], training: bool = True) -> dict[str, Any]:
        """A batch with the objectives' labels, and without what only they needed."""
        keys = batch.pop("example_keys").numpy().view(np.uint64)
        if self.objectives is not None:
            batch = self.objectives.prepare(batch, keys, training)
        for rows in (batch, *batch.get("parts", {}).values()):
            rows.pop("special_tokens_mask")
        return batch

    def on_before_batch_transfer(self, batch: dict[str, Any] | StepBatch, dataloader_idx: int) -> dict[str, Any]:
        """Prepare a held-out batch, or with the first batch of an optimiser step all that belong to it.

        A training batch comes with ``accumulation``: its number in the step, the number of batches, and how many labels each
        loss has in all of them.
        """
        if isinstance(batch, dict):
            return self.prepare_batch(batch, training=False)
        step, number = batch.step, batch.number
        if number == 0:
            step.batches = [self.prepare_batch(b) for b in step.batches]
            counts = [self.objectives.label_counts(b) for b in step.batches]
            step.label_counts = {name: sum(c[name] for c in counts) for name in counts[0]}
        prepared, n = step.batches[number], len(step.batches)
        step.batches[number] = {}  # the step's other batches may be many
        assert self.trainer is not None
        prepared = self.trainer.precision_plugin.convert_input(prepared)
        return prepared | {"accumulation": {"number": number, "size": n, "label_counts": step.label_counts}}

    def _loader(self, part: str, batch_sampler: Any) -> DataLoader:
        return DataLoader(
            self.parts[part],
            batch_sampler=batch_sampler,
            collate_fn=_as_it_is,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            prefetch_factor=4 if self.num_workers else None,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # keeps the global one, and with it dropout, untouched
        )

    @property
    def _rank_and_world(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def training_batches(self) -> DataLoader:
        """Batches without end, from number `first_batch` on."""
        return self._loader("train", BatchStream(len(self.parts["train"]), self.batch_size, *self._rank_and_world, self.first_batch))

    def examples_of_batch(self, number: int) -> list[dict[str, Any]]:
        """This device's examples of a training batch: their ``epoch``, ``place`` in it, and ``where`` each is."""
        part = self.parts["train"]
        stream = BatchStream(len(part), self.batch_size, *self._rank_and_world, number)
        epochs, places = np.array(next(iter(stream)), np.int64).T
        numbers = part.sampler(epochs, places)
        return [{"epoch": int(e), "place": int(p), "where": self.where(int(n))} for e, p, n in zip(epochs, places, numbers, strict=True)]

    def train_dataloader(self) -> StepBatches:
        return StepBatches(self.training_batches(), self.trainer.accumulate_grad_batches if self.trainer else 1)

    def held_out_batches(self, part: str) -> list[list[tuple[int, int]]]:
        """(epoch, place) of this device's examples of a part, each once over all devices."""
        rank, world = self._rank_and_world
        places = [(0, i) for i in range(rank, len(self.parts[part]), world)]
        size = max(1, self.batch_size // world)
        return [places[i : i + size] for i in range(0, len(places), size)]

    def held_out_loader(self, part: str) -> DataLoader:
        """`held_out_batches`, and after them one that is not scored where another device has one batch more.

        All devices must take as many steps, as they meet in each of them.
        """
        world, batches = self._rank_and_world[1], self.held_out_batches(part)
        most = ceil(ceil(len(self.parts[part]) / world) / max(1, self.batch_size // world))
        return self._loader(part, batches + [[(0, 0)]] * (most - len(batches)))

    def val_dataloader(self) -> DataLoader | list:
        return self.held_out_loader("validation") if "validation" in self.parts else []

    def test_dataloader(self) -> DataLoader:
        return self.held_out_loader("test")


@dataclass(eq=False, repr=False)
class ExampleDataModule(BatchModule):
    """Training, validation and test examples of any source, inside or outside the package, by configuration alone.

    Parameters
    ----------
    source
        Where the examples come from; named by ``_target_`` in a configuration.
    split
        See `data.splits.split_examples`; columns are those of the source.
    max_tokens
        Longest input of the model, special tokens included. It holds for every part of an example.
    batch_size
        Examples of one batch over all devices.
    part_tokenizers
        {further part of an example: its tokenizer}, as that of the DNA beside a cell. Parts that are not named have the tokenizer of
        the input.
    packing
        Several examples a row of `max_tokens`, kept apart by the attention.
    num_workers
        Processes that read and tokenize; batches are the same with any number.
    statistics_examples
        Training examples from which baselines are computed.
    seed
        Of the order and the keys of training examples.
    """

    source: Source
    split: Mapping[str, Any]
    max_tokens: int
    batch_size: int
    part_tokenizers: Mapping[str, Tokenizer] = field(default_factory=dict)
    packing: bool = False
    num_workers: int = 0
    statistics_examples: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def connect(self, tokenizer: Any) -> None:
        self.tokenizer = as_tokenizer(tokenizer)
        self.part_tokenizers = {name: as_tokenizer(other) for name, other in self.part_tokenizers.items()}
        self.source.connect(self.tokenizers)
        if not len(self.source):
            raise ValueError(f"{type(self.source).__name__} holds no examples (data.source)")
        self.limit_max_tokens()
        numbers = split_examples(self.split, len(self.source), self.source.column)
        if not len(numbers["train"]):
            raise ValueError(f"data.split leaves no training examples: {dict(self.split)}")
        self.numbers = self.limit_training(numbers)
        self.source.check_parts(self.numbers)
        self.parts = self.make_parts(self.source)

    @property
    def column_names(self) -> Sequence[str]:
        return self.source.column_names

    def column(self, name: str, as_text: bool = False) -> np.ndarray:
        return self.source.column(name, as_text)

    def where(self, number: int) -> str:
        return self.source.where(number)

    def compute_statistics(self) -> dict[str, np.ndarray]:
        return super().compute_statistics() | self.source.statistics(self.numbers["train"])

    def statistics_sample(self, n: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        return super().statistics_sample(n or self.statistics_examples)

    @property
    def card(self) -> dict[str, str]:
        return {"source": type(self.source).__name__} | self.source.facts()

    def facts(self) -> dict[str, str]:
        return super().facts() | self.source.facts()
