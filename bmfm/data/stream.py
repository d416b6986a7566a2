"""The order of training examples: a function of the batch's number alone, cut evenly over devices."""

from collections.abc import Iterator
from dataclasses import dataclass

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
