"""In which order the examples of a part come: a function of (seed, epoch, place) alone."""

import heapq
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
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
    """Training examples from disk, each once an epoch: blocks in a random order, from `buffer_blocks` of which examples are drawn at a time.

    The blocks of an epoch are dealt to `buffer_blocks` lanes of nearly the same length, and each lane gives the examples of one block after the other,
    shuffled. Places go round the lanes: `run` places, a batch, take from `batch_blocks` of them, in turn, and the next batch from the next ones. So the
    devices that share a batch, and the workers that make one batch each in turn, read different blocks, where their numbers divide `batch_blocks`
    and the number of batches in a round. What lanes have more than others comes at the end of the epoch, in random order.

    Nothing but the order of blocks is kept of an epoch; that of the examples is made where it is asked for. So the memory that it takes
    does not grow with the examples, beside their numbers.

    Parameters
    ----------
    numbers
        Numbers of the examples [n], ascending.
    sizes
        How many of them are in each block, in the order of the blocks.
    buffer_blocks
        Lanes. There are fewer where there are fewer blocks; then each batch takes from all.
    batch_blocks
        Lanes that a batch takes from; a divisor of `buffer_blocks`. None takes all.
    run
        Examples of a batch.
    """

    def __init__(
        self, numbers: np.ndarray, sizes: np.ndarray, seed: int, buffer_blocks: int = 16, batch_blocks: int | None = None, run: int = 1
    ):
        if sizes.sum() != len(numbers):
            raise ValueError(f"blocks of {sizes.sum():,} examples in all, for {len(numbers):,}")
        self.numbers, self.seed = numbers, seed
        self.sizes = sizes[sizes > 0]
        self.begins = np.cumsum(self.sizes) - self.sizes
        self.n_lanes = min(buffer_blocks, len(self.sizes))
        self.width = (batch_blocks or buffer_blocks) if self.n_lanes == buffer_blocks else self.n_lanes
        if self.n_lanes % self.width:
            raise ValueError(f"data.batch_blocks={batch_blocks} must divide data.buffer_blocks={buffer_blocks}")
        self.run = max(1, run // self.width) * self.width
        self._epochs: OrderedDict[int, _Lanes] = OrderedDict()
        self._shuffled: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()

    def __len__(self) -> int:
        return len(self.numbers)

    def _block(self, epoch: int, block: int) -> np.ndarray:
        """The examples of a block, in their order."""

        def make() -> np.ndarray:
            mine = self.numbers[self.begins[block] : self.begins[block] + self.sizes[block]]
            return np.random.default_rng([self.seed, epoch, 1, block]).permutation(mine)

        return _kept(self._shuffled, (epoch, block), make, 4 * self.n_lanes)

    def __call__(self, epochs: np.ndarray, places: np.ndarray) -> np.ndarray:
        out = np.empty(len(places), np.int64)
        for e in np.unique(epochs).tolist():
            lanes = _kept(self._epochs, e, partial(_Lanes, self.sizes, self.n_lanes, self.width, self.run, self.seed, e), 2)
            mine = np.flatnonzero(epochs == e)
            blocks, within = lanes.find(places[mine])
            for block in np.unique(blocks).tolist():
                of_block = blocks == block
                out[mine[of_block]] = self._block(e, block)[within[of_block]]
        return out


class _Lanes:
    """The order of an epoch's blocks, see `BlockSampler`."""

    def __init__(self, sizes: np.ndarray, n_lanes: int, width: int, run: int, seed: int, epoch: int):
        self.width, self.run, self.n_rounds = width, run, n_lanes // width
        lengths, dealt = [(0, lane) for lane in range(n_lanes)], [list[int]() for _ in range(n_lanes)]
        for block in np.random.default_rng([seed, epoch]).permutation(len(sizes)).tolist():  # each to the lane that is shortest
            length, lane = lengths[0]
            heapq.heapreplace(lengths, (length + int(sizes[block]), lane))
            dealt[lane].append(block)
        self.blocks = [np.array(blocks) for blocks in dealt]
        self.ends = [np.cumsum(sizes[blocks]) for blocks in self.blocks]
        of_lane = run // width  # places of a batch in a lane
        n_batches = min(int(ends[-1]) for ends in self.ends) // of_lane  # that each lane is in
        self.n_even = n_batches * of_lane * n_lanes
        rest = [(lane, place) for lane, ends in enumerate(self.ends) for place in range(n_batches * of_lane, int(ends[-1]))]
        order = np.random.default_rng([seed, epoch, 2]).permutation(len(rest))
        self.rest = np.array(rest, np.int64).reshape(-1, 2)[order]

    def find(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Blocks of some places of the epoch, and which of the shuffled examples of their block they are."""
        batch, place = np.divmod(places, self.run)
        lanes = batch % self.n_rounds * self.width + place % self.width
        within_lane = batch // self.n_rounds * (self.run // self.width) + place // self.width
        is_rest = places >= self.n_even
        lanes[is_rest], within_lane[is_rest] = self.rest[places[is_rest] - self.n_even].T
        blocks, within = np.empty(len(places), np.int64), np.empty(len(places), np.int64)
        for lane in np.unique(lanes).tolist():
            mine, ends = np.flatnonzero(lanes == lane), self.ends[lane]
            number = np.searchsorted(ends, within_lane[mine], "right")
            blocks[mine] = self.blocks[lane][number]
            within[mine] = within_lane[mine] - np.where(number, ends[number - 1], 0)
        return blocks, within


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
