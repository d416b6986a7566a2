"""The order of training examples: a function of the batch's number alone, cut evenly over devices; and the batches of an optimiser step."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

PARTS = ("train", "validation", "test")


@dataclass
class BatchStream:
    """An endless stream of batches of (epoch, index) pairs; batch n is the same however often training was resumed.

    Attributes
    ----------
    n_examples
        Examples an epoch. Their order needs no shuffling: the index stands for a shuffled or random example already.
    batch_size
        Examples of one batch over all devices; each takes every `world`-th.
    start
        Number of the first batch.
    """

    n_examples: int
    batch_size: int
    rank: int = 0
    world: int = 1
    start: int = 0

    def __post_init__(self) -> None:
        if self.batch_size % self.world:
            raise ValueError(
                f"data.batch_size={self.batch_size} counts the examples of all devices and cannot be cut evenly over "
                f"{self.world} of them; make it a multiple"
            )

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        number = self.start
        while True:
            first = number * self.batch_size
            yield [divmod(i, self.n_examples) for i in range(first + self.rank, first + self.batch_size, self.world)]
            number += 1


@dataclass
class AccumulationStep:
    """The batches of one optimiser step on one device; a batch is let go when it is taken.

    Attributes
    ----------
    batches
        As the loader gave them, then, from the first use on, prepared.
    label_counts
        {loss: number of labels of all batches}, known from the first use on.
    """

    batches: list[dict]
    label_counts: dict[str, float] = field(default_factory=dict)


@dataclass
class StepBatch:
    """One batch of a step. No collection, so that Lightning passes it on unchanged until it is asked for."""

    number: int
    step: AccumulationStep


class StepBatches:
    """A loader's batches, each with the optimiser step that it belongs to: `size` batches, whose gradients are added up."""

    def __init__(self, loader: Iterable[dict], size: int):
        self.loader, self.size = loader, size

    def __iter__(self) -> Iterator[StepBatch]:
        loaded = iter(self.loader)
        while batches := list(islice(loaded, self.size)):
            step, n = AccumulationStep(batches), len(batches)
            for number in range(n):
                yield StepBatch(number, step)
