"""The order of training examples: a function of the batch's number alone, cut evenly over devices; the windows of a step."""

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
        Examples an epoch. Their order needs no shuffling: index i is a random window already.
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
class Window:
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
class Piece:
    """One batch of a window. No collection, so that Lightning passes it on unchanged until it is asked for."""

    number: int
    window: Window


class Windows:
    """A loader's batches as pieces of windows of `size` batches, whose gradients one optimiser step adds up."""

    def __init__(self, loader: Iterable[dict], size: int):
        self.loader, self.size = loader, size

    def __iter__(self) -> Iterator[Piece]:
        batches = iter(self.loader)
        while held := list(islice(batches, self.size)):
            window, n = Window(held), len(held)
            for number in range(n):
                yield Piece(number, window)
