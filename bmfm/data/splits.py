"""Which examples (cells, sequences) are for training, validation and test, and in which order they come."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from bmfm.data.stream import PARTS
from bmfm.hashing import example_keys

_WORDS = {"train": {"train", "training"}, "validation": {"validation", "val", "valid", "dev"}, "test": {"test", "holdout"}}


def split_examples(split: Mapping, n: int, column: Callable[[str], np.ndarray]) -> dict[str, np.ndarray]:
    """Numbers of the examples of each part, sorted.

    Parameters
    ----------
    split
        ``{by: random, validation, test}`` with shares; ``{by: stratified, column, ...}`` keeps each label's share;
        ``{by: group, column, ...}`` keeps a donor or data set in one part; ``{by: column, column}`` reads the part's name
        from ``.obs``, or takes ``train``, ``validation``, ``test`` as lists of its values; ``{by: file, validation,
        test}`` lists file names. What is drawn is drawn by ``seed``, 0 where there is none: never by the run's seed, so that
        runs of several seeds are measured on the same examples, and what was held out in pretraining stays so in fine-tuning.
    column
        Values of a column of all examples, [n].
    """
    by = split["by"]
    if by not in ("random", "stratified", "group", "column", "file"):
        raise ValueError(f"data.split.by={by!r} is unknown; choose random, stratified, group, column or file")
    if by in ("stratified", "group", "column") and split.get("column") is None:
        raise ValueError(f"data.split.by={by} needs the name of a column: +data.split.column=...")
    if by in ("column", "file"):
        return _by_value(split, column("file" if by == "file" else split["column"]), "file" if by == "file" else split["column"])
    shares = {part: float(split.get(part, 0.0)) for part in ("validation", "test")}
    if min(shares.values()) < 0 or sum(shares.values()) >= 1:
        raise ValueError(f"data.split: shares {shares} leave nothing for training")
    seed = split_seed(split)
    keys = example_keys(seed, 0, np.arange(n))
    if by == "random":
        return _cut(np.argsort(keys, kind="stable"), shares)
    codes, _ = pd.factorize(pd.Series(column(split["column"])).astype(str))
    if by == "stratified":
        cuts = [
            _cut(rows[np.argsort(keys[rows], kind="stable")], shares)
            for rows in (np.flatnonzero(codes == c) for c in range(codes.max() + 1))
        ]
        return {part: np.sort(np.concatenate([c[part] for c in cuts])) for part in PARTS}
    groups = np.argsort(example_keys(seed, 1, np.arange(codes.max() + 1)), kind="stable")
    sizes = np.bincount(codes)
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    filled = dict.fromkeys(PARTS, 0)
    for g in groups:
        wanting = [p for p in ("test", "validation") if filled[p] < shares[p] * n and len(parts["train"]) + len(groups) > 1]
        part = next((p for p in wanting if filled[p] + sizes[g] <= 1.5 * shares[p] * n or not parts[p]), "train")
        parts[part].append(int(g))
        filled[part] += int(sizes[g])
    if not parts["train"] or any(shares[p] and not parts[p] for p in shares):
        raise ValueError(
            f"data.split: column {split['column']!r} has {len(groups)} groups, too few for {sum(s > 0 for s in shares.values()) + 1} parts"
        )
    return {part: np.flatnonzero(np.isin(codes, parts[part])) for part in PARTS}


def split_seed(split: Mapping) -> int:
    """By what the parts are drawn, and the held-out windows and masks in them."""
    return int(split.get("seed") or 0)


def part_seeds(seed: int, split: Mapping) -> dict[str, int]:
    """Seed of the keys of each part's examples: the run's for training, the split's for what is held out."""
    return {part: 3 * (seed if part == "train" else split_seed(split)) + i for i, part in enumerate(PARTS)}


def _cut(order: np.ndarray, shares: Mapping[str, float]) -> dict[str, np.ndarray]:
    n_validation, n_test = (round(shares[p] * len(order)) for p in ("validation", "test"))
    cuts = np.split(order, [n_validation, n_validation + n_test])
    return dict(zip(("validation", "test", "train"), (np.sort(c) for c in cuts), strict=True))


def _by_value(split: Mapping, values: np.ndarray, column: str) -> dict[str, np.ndarray]:
    text = pd.Series(values).astype(str)
    named = {p: {str(v) for v in split[p]} for p in PARTS if isinstance(split.get(p), list | tuple)}
    if named:
        present = set(text.unique())
        if absent := sorted(set().union(*named.values()) - present):
            raise ValueError(f"data.split: {absent} do not occur in {column!r}, which holds {sorted(present)[:20]}")
        if "train" not in named:
            named["train"] = present - set().union(*named.values())
    else:
        named = {p: {v for v in text.unique() if v.lower() in words} for p, words in _WORDS.items()}
        if not named["train"]:
            raise ValueError(
                f"data.split: column {column!r} holds {sorted(text.unique())[:10]}; train, validation and test (or lists of values) are needed"
            )
    parts = {p: np.flatnonzero(text.isin(named.get(p, set()))) for p in PARTS}
    return parts


class Order:
    """In which order an epoch visits its examples: shuffled, in groups of blocks where they come from disk.

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
            held = [np.flatnonzero(self.classes == c) for c in np.unique(self.classes[self.classes >= 0])]
            picks = rng.integers(0, len(held), len(chosen))
            chosen = np.sort(np.concatenate([rng.choice(rows, (picks == c).sum()) for c, rows in enumerate(held)]))
        if self.blocks is None:
            return self.numbers[rng.permutation(chosen)]
        present, code = np.unique(self.blocks[chosen], return_inverse=True)
        group = (rng.permutation(len(present)) // self.buffer_blocks)[code]
        return self.numbers[chosen[np.lexsort((rng.random(len(chosen)), group))]]

    def __call__(self, epochs: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The examples at these places [B] of these epochs [B]."""
        out = np.empty(len(places), np.int64)
        for e in np.unique(epochs):
            out[epochs == e] = self.epoch(int(e))[places[epochs == e]]
        return out


class InOrder:
    """Held-out examples, each at its own place in every epoch."""

    def __init__(self, numbers: np.ndarray):
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __call__(self, epochs: np.ndarray, places: np.ndarray) -> np.ndarray:
        return self.numbers[places]
