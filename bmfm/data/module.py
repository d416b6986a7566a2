"""What the data modules of both omics share: the order of batches, loaders, and the hand-over to the objectives."""

from collections.abc import Mapping
from functools import cached_property
from math import ceil
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from bmfm.data.spec import DataSpec, Statistics
from bmfm.data.stream import BatchStream, StepBatch, StepBatches


def _same(batch: dict) -> dict:
    return batch


class BatchModule(pl.LightningDataModule):
    """A Lightning data module whose data sets answer lists of (epoch, index) pairs with whole batches.

    Attributes
    ----------
    parts
        {train, validation, test: Dataset}, filled by `connect`.
    numbers
        {train, validation, test: numbers of the examples}, where examples have labels.
    tokenizer
        Bound by `connect`.
    objectives
        Set before training; their `prepare` is called on every batch in the main process.
    first_batch
        Number of the first training batch: where a resumed run goes on.
    """

    tokenizer: Any
    parts: Mapping[str, Dataset]
    numbers: Mapping[str, np.ndarray] = {}
    batch_size: int
    num_workers: int
    objectives = None
    first_batch = 0
    allow_zero_length_dataloader_with_multiple_devices = True  # Lightning's name; loaders of all devices are made equally long

    def __init__(self) -> None:
        super().__init__()
        self.notes: dict[str, str] = {}

    def note(self, name: str, said: str) -> None:
        """Add a line to the run's summary."""
        self.notes[name] = said

    def add_labels(self, name: str, labels: np.ndarray | list[np.ndarray]) -> None:
        """Give every batch ``labels[name]``: from labels of all examples [n, ...], or from labels of all their tokens, n arrays [L]."""
        for dataset in self.parts.values():
            (dataset.token_labels if isinstance(labels, list) else dataset.labels)[name] = labels  # type: ignore[attr-defined]

    def spec(self) -> DataSpec:
        """What objectives may know of these data, once `connect` has bound a tokenizer."""
        return DataSpec(
            vocabulary=self.tokenizer.names,
            plain_ids=self.tokenizer.plain_ids,
            n_cls=getattr(self.tokenizer, "n_cls", 1),
            n_bins=getattr(self.tokenizer, "n_bins", None),
            check_cls=self.tokenizer.check_cls,
            parts=self.numbers,
            statistics=self.statistics,
            column=self.column,
            column_names=self.column_names,
            where=self.where,
        )

    @cached_property
    def statistics(self) -> Statistics:
        """Figures of the training part, see `compute_statistics`."""
        return Statistics(self.compute_statistics)

    @property
    def training_examples(self) -> np.ndarray:  # until objectives are set up from a `DataSpec`
        return self.numbers["train"]

    def text_column(self, name: str) -> np.ndarray:  # as above
        return self.column(name, as_text=True)

    def compute_statistics(self) -> dict[str, np.ndarray]:
        """Figures of the training part that objectives take their baselines from, {name: [V] or [n_bins]}."""
        raise NotImplementedError

    def need(self, needs: set[str]) -> None:
        """Serve what objectives want of the data beside tokens."""
        if needs:
            raise ValueError(f"{type(self).__name__} has no {', '.join(sorted(needs))}: choose another objective")

    @property
    def column_names(self) -> list[str]:
        """Names of the columns of labels."""
        return []

    def column(self, name: str, as_text: bool = False) -> np.ndarray:
        """A column of labels of all examples, object [n]; with `as_text` as it is written, where a source might read it as numbers."""
        raise KeyError(f"{type(self).__name__} has no labels, {name!r} was asked for")

    def where(self, number: int) -> str:
        """An example as messages name it: its file and row, or cell."""
        return f"example {number + 1}"

    def report(self) -> None:
        """Print what became of the sources' records."""

    def prepare_batch(self, batch: dict, training: bool = True) -> dict:
        """A batch with the objectives' labels, and without what only they needed."""
        keys = batch.pop("example_keys").numpy().view(np.uint64)
        if self.objectives is not None:
            batch = self.objectives.prepare(batch, keys, training)
        batch.pop("special_tokens_mask")
        return batch

    def on_before_batch_transfer(self, batch: dict | StepBatch, dataloader_idx: int) -> dict:
        """Prepare a held-out batch, or with the first batch of an optimiser step all that belong to it.

        A training batch comes with ``accumulation``: its number in the step, the number of batches, and how many labels each
        loss has in all of them.
        """
        if isinstance(batch, dict):
            return self.prepare_batch(batch, training=False)
        step, number = batch.step, batch.number
        if number == 0:
            step.batches = [self.prepare_batch(b) for b in step.batches]
            counts = [self.objectives.label_counts(b) for b in step.batches]  # type: ignore[attr-defined]
            step.label_counts = {name: sum(c[name] for c in counts) for name in counts[0]}
        prepared, n = step.batches[number], len(step.batches)
        step.batches[number] = {}  # the step's other batches may be many
        prepared = self.trainer.precision_plugin.convert_input(prepared)  # type: ignore[union-attr]
        return prepared | {"accumulation": {"number": number, "size": n, "label_counts": step.label_counts}}

    def _loader(self, part: str, **options) -> DataLoader:
        workers = {"persistent_workers": True, "prefetch_factor": 4} if self.num_workers else {}
        return DataLoader(
            self.parts[part],
            collate_fn=_same,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # keeps the global one, and with it dropout, untouched
            **workers,
            **options,
        )

    @property
    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def training_batches(self) -> DataLoader:
        """Batches without end, from number `first_batch` on."""
        stream = BatchStream(len(self.parts["train"]), self.batch_size, *self._place, self.first_batch)  # type: ignore[arg-type]
        return self._loader("train", batch_sampler=stream)

    def train_dataloader(self) -> StepBatches:
        return StepBatches(self.training_batches(), self.trainer.accumulate_grad_batches if self.trainer else 1)

    def held_out_batches(self, part: str) -> list[list[tuple[int, int]]]:
        """(epoch, index) of this device's examples of a part, each once over all devices."""
        rank, world = self._place
        mine = [(0, i) for i in range(rank, len(self.parts[part]), world)]  # type: ignore[arg-type]
        size = max(1, self.batch_size // world)
        return [mine[i : i + size] for i in range(0, len(mine), size)]

    def held_out_loader(self, part: str) -> DataLoader:
        """`held_out_batches`, and after them one that is not scored where another device has one batch more.

        All devices must take as many steps, as they meet in each of them.
        """
        world, batches = self._place[1], self.held_out_batches(part)
        most = ceil(ceil(len(self.parts[part]) / world) / max(1, self.batch_size // world))  # type: ignore[arg-type]
        return self._loader(part, batch_sampler=batches + [[(0, 0)]] * (most - len(batches)))

    def val_dataloader(self) -> DataLoader | list:
        return self.held_out_loader("validation") if "validation" in self.parts else []

    def test_dataloader(self) -> DataLoader:
        return self.held_out_loader("test")
