"""What the data modules of both omics share: the order of batches, loaders, and the hand-over to the objectives."""

from collections.abc import Mapping

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset

from bmfm.data.stream import BatchStream


def _same(batch: dict) -> dict:
    return batch


class BatchModule(pl.LightningDataModule):
    """A Lightning data module whose data sets answer lists of (epoch, index) pairs with whole batches.

    Attributes
    ----------
    parts
        {train, validation, test: Dataset}, filled by `connect`.
    statistics
        Figures of the training part that objectives take their baselines from, {name: array [V]}.
    objectives
        Set before training; their `prepare` is called on every batch in the main process.
    first_batch
        Number of the first training batch: where a resumed run goes on.
    """

    parts: Mapping[str, Dataset]
    batch_size: int
    num_workers: int
    objectives = None
    first_batch = 0

    def __init__(self) -> None:
        super().__init__()
        self.notes: dict[str, str] = {}

    def note(self, name: str, said: str) -> None:
        """Add a line to the run's summary."""
        self.notes[name] = said

    def add_labels(self, name: str, labels: np.ndarray) -> None:
        """Give every batch ``labels[name]``, from labels of all examples [n, ...]."""
        for dataset in self.parts.values():
            dataset.labels[name] = labels  # type: ignore[attr-defined]

    def need(self, needs: set[str]) -> None:
        """Serve what objectives want of the data beside tokens."""
        if needs:
            raise ValueError(f"{type(self).__name__} has no {', '.join(sorted(needs))}: choose another objective")

    def column(self, name: str) -> np.ndarray:
        """A column of labels of all examples, object [n]."""
        raise KeyError(f"{type(self).__name__} has no labels, {name!r} was asked for")

    def report(self) -> None:
        """Print what became of the sources' records."""

    def prepare_batch(self, batch: dict) -> dict:
        """A batch with the objectives' labels, and without what only they needed."""
        keys = batch.pop("keys").numpy().view(np.uint64)
        if self.objectives is not None:
            batch = self.objectives.prepare(batch, keys)
        batch.pop("special")
        return batch

    def on_before_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        return self.prepare_batch(batch)

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

    def train_dataloader(self) -> DataLoader:
        stream = BatchStream(len(self.parts["train"]), self.batch_size, *self._place, self.first_batch)  # type: ignore[arg-type]
        return self._loader("train", batch_sampler=stream)

    def held_out_loader(self, part: str) -> DataLoader:
        """Each example of a part once, in its order."""
        rank, world = self._place
        mine = [(0, i) for i in range(rank, len(self.parts[part]), world)]  # type: ignore[arg-type]
        size = max(1, self.batch_size // world)
        return self._loader(part, batch_sampler=[mine[i : i + size] for i in range(0, len(mine), size)])

    def val_dataloader(self) -> DataLoader | list:
        return self.held_out_loader("validation") if "validation" in self.parts else []

    def test_dataloader(self) -> DataLoader:
        return self.held_out_loader("test")
