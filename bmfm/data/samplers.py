"""In which order the examples of a part come: a function of (seed, epoch, place) alone."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np

K = TypeVar("K")
V = TypeVar("V")


class Sampler(Protocol):
    """Which example stands at which place of an epoch."""

    def __len__(self) -> int:
        """Examples an epoch."""
        ...

    def __call__(self, epochs: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Numbers of the examples [B], as their source counts them, at these places [B] of these epochs [B]."""
        ...


class ShuffledSampler:
    """Training examples, each epoch in an order of its own: in groups of blocks where they come from disk.

    Parameters
    ----------
    numbers
        Numbers of the examples.
    blocks
        Block of each, or None where all are in memory and any order costs the same.
    buffer_blocks
        Blocks that are shuffled together.
    classes
        Class of each, for drawing classes equally often with replacement; None takes each once.
    """

    def __init__(
        self, numbers: np.ndarray, seed: int, blocks: np.ndarray | None = None, buffer_blocks: int = 16, classes: np.ndarray | None = None
    ):
        self.numbers, self.blocks, self.seed, self.buffer_blocks, self.classes = numbers, blocks, seed, buffer_blocks, classes
        self._epochs: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.numbers)

    def epoch(self, number: int) -> np.ndarray:
        """The examples of an epoch in their order, [n]."""
        if number not in self._epochs:
            while len(self._epochs) >= 2:
                self._epochs.pop(min(self._epochs))
            self._epochs[number] = self._shuffled(np.random.default_rng([self.seed, number]))
        return self._epochs[number]

    def _shuffled(self, rng: np.random.Generator) -> np.ndarray:
        chosen = np.arange(len(self.numbers))
        if self.classes is not None:
            of_class = [np.flatnonzero(self.classes == c) for c in np.unique(self.classes[self.classes >= 0])]
            picks = rng.integers(0, len(of_class), len(chosen))
            chosen = np.sort(np.concatenate([rng.choice(rows, (picks == c).sum()) for c, rows in enumerate(of_class)]))
        if self.blocks is None:
            return self.numbers[rng.permutation(chosen)]
        present, code = np.unique(self.blocks[chosen], return_inverse=True)
        group = (rng.permutation(len(present)) // self.buffer_blocks)[code]
        return self.numbers[chosen[np.lexsort((rng.random(len(chosen)), group))]]

    def __call__(self, epochs: np.ndarray, places: np.ndarray) -> np.ndarray:
        out = np.empty(len(places), np.int64)
        for e in np.unique(epochs):
            out[epochs == e] = self.epoch(int(e))[places[epochs == e]]
        return out


class BlockSampler:
    """Training examples from disk, each once an epoch: blocks in a random order, some of them shuffled together at a time.

    Nothing but the order of blocks is kept of an epoch; that of the examples is made where it is asked for. So the memory that it takes
    does not grow with the examples, beside their numbers.

    Parameters
    ----------
    numbers
        Numbers of the examples [n], ascending.
    sizes
        How many of them are in each block, in the order of the blocks.
    buffer_blocks
        Blocks that are shuffled together.
    """

    def __init__(self, numbers: np.ndarray, sizes: np.ndarray, seed: int, buffer_blocks: int = 16):
        if sizes.sum() != len(numbers):
            raise ValueError(f"blocks of {sizes.sum():,} examples in all, for {len(numbers):,}")
        self.numbers, self.seed, self.buffer_blocks = numbers, seed, buffer_blocks
        self.sizes = sizes[sizes > 0]
        self.begins = np.cumsum(self.sizes) - self.sizes
        self._epochs: OrderedDict[int, tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._groups: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return len(self.numbers)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the blocks, and at which place each group of them ends."""

        def make() -> tuple[np.ndarray, np.ndarray]:
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.sizes))
            return order, np.add.reduceat(self.sizes[order], np.arange(0, len(order), self.buffer_blocks)).cumsum()

        return _kept(self._epochs, epoch, make, 2)

    def _group(self, epoch: int, group: int) -> np.ndarray:
        """The examples of a group of blocks, in their order."""

        def make() -> np.ndarray:
            blocks = np.sort(self._epoch(epoch)[0][group * self.buffer_blocks : (group + 1) * self.buffer_blocks])
            mine = np.concatenate([self.numbers[self.begins[b] : self.begins[b] + self.sizes[b]] for b in blocks])
            return np.random.default_rng([self.seed, epoch, group]).permutation(mine)

        return _kept(self._groups, (epoch, group), make, 4)

    def __call__(self, epochs: np.ndarray, places: np.ndarray) -> np.ndarray:
        out = np.empty(len(places), np.int64)
        for e in np.unique(epochs):
            ends = self._epoch(int(e))[1]
            groups = np.where(epochs == e, np.searchsorted(ends, places, "right"), -1)
            for g in np.unique(groups[groups >= 0]):
                mine = groups == g
                out[mine] = self._group(int(e), int(g))[places[mine] - (ends[g - 1] if g else 0)]
        return out


def _kept(kept: "OrderedDict[K, V]", key: K, make: Callable[[], V], n: int) -> V:
    """What was made for a key, the last `n` of which are kept."""
    if key not in kept:
        kept[key] = make()
        while len(kept) > n:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]


class SequentialSampler:
    """Held-out examples, each at its own place in every epoch."""

    def __init__(self, numbers: np.ndarray):
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __call__(self, epochs: np.ndarray, places: np.ndarray) -> np.ndarray:
        return self.numbers[places]


class EndlessSampler:
    """Examples without end, as random windows of a genome: example ``e * n + i`` stands at place i of epoch e."""

    def __init__(self, n: int):
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __call__(self, epochs: np.ndarray, places: np.ndarray) -> np.ndarray:
        return epochs * self.n + places
