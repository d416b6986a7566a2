"""In which order the examples of a part come: a function of (seed, epoch, place) alone."""

from typing import Protocol

import numpy as np


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
