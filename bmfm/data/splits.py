"""Which examples (cells, sequences) are for training, validation and test."""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from bmfm.data.perturbation_splits import SPLITS, split_conditions
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
        Conditions and contexts of perturbed cells are held out by those of `perturbation_splits`. How many of the training
        examples are used, ``n_train``, is left to `keep_training`.
    column
        Values of a column of all examples, [n].
    """
    by = split["by"]
    if by in SPLITS:
        return split_conditions(split, n, column)
    if by not in ("random", "stratified", "group", "column", "file"):
        raise ValueError(
            f"data.split.by={by!r} is unknown; choose random, stratified, group, column or file, and for perturbed cells {', '.join(SPLITS)}"
        )
    if by in ("stratified", "group", "column") and split.get("column") is None:
        raise ValueError(f"data.split.by={by} needs the name of a column: +data.split.column=...")
    if by in ("column", "file"):
        return _by_value(split, column("file" if by == "file" else split["column"]), "file" if by == "file" else split["column"])
    shares = {part: split.get(part, 0.0) for part in ("validation", "test")}
    for part, share in shares.items():
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share < 1:
            raise ValueError(f"data.split.{part}={share!r:.80}: a share of the examples is expected, at least 0 and below 1")
    if min(shares.values()) < 0 or sum(shares.values()) >= 1:
        raise ValueError(f"data.split: shares {shares} leave nothing for training")
    seed = split_seed(split)
    if by == "random":
        return _cut_at_random(seed, n, shares)
    keys = example_keys(seed, 0, np.arange(n))
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
        unfilled = [p for p in ("test", "validation") if filled[p] < shares[p] * n and len(parts["train"]) + len(groups) > 1]
        part = next((p for p in unfilled if filled[p] + sizes[g] <= 1.5 * shares[p] * n or not parts[p]), "train")
        parts[part].append(int(g))
        filled[part] += int(sizes[g])
    if not parts["train"] or any(shares[p] and not parts[p] for p in shares):
        raise ValueError(
            f"data.split: column {split['column']!r} has {len(groups)} groups, too few for {sum(s > 0 for s in shares.values()) + 1} parts: "
            "split by another column, or set data.split.test or data.split.validation to 0"
        )
    return {part: np.flatnonzero(np.isin(codes, parts[part])) for part in PARTS}


def split_seed(split: Mapping) -> int:
    """By what the parts are drawn, and the held-out windows and masks in them."""
    seed = split.get("seed") or 0
    if not isinstance(seed, int):
        raise ValueError(f"data.split.seed={seed!r:.80}: a whole number is expected")
    return int(seed)


def keep_training(numbers: Mapping[str, np.ndarray], split: Mapping) -> dict[str, np.ndarray]:
    """The parts with ``n_train`` examples for training, drawn by ``seed``: those of a smaller number are among those of a larger one.

    Raises
    ------
    ValueError
        If there are fewer, or it is no whole number above 0.
    """
    n, train = split.get("n_train"), numbers["train"]
    if n is None:
        return dict(numbers)
    if not isinstance(n, int) or isinstance(n, bool) or not 0 < n <= len(train):
        raise ValueError(
            f"data.split.n_train={n!r:.80}: a number of examples from 1 to {len(train):,} is expected, which are there for training"
        )
    drawn = np.argsort(example_keys(split_seed(split), 2, train), kind="stable")[:n]
    return {**numbers, "train": np.sort(train[drawn])}


def part_seeds(seed: int, split: Mapping) -> dict[str, int]:
    """Seed of the keys of each part's examples: the run's for training, the split's for what is held out."""
    return {part: 3 * (seed if part == "train" else split_seed(split)) + i for i, part in enumerate(PARTS)}


def _cut(order: np.ndarray, shares: Mapping[str, float]) -> dict[str, np.ndarray]:
    n_validation, n_test = (round(shares[p] * len(order)) for p in ("validation", "test"))
    cuts = np.split(order, [n_validation, n_validation + n_test])
    return dict(zip(("validation", "test", "train"), (np.sort(c) for c in cuts), strict=True))


def _cut_at_random(seed: int, n: int, shares: Mapping[str, float]) -> dict[str, np.ndarray]:
    """As `_cut` of the order of the keys of n examples, of which only those are kept that may be held out: keys are uniform numbers."""
    n_validation, n_test = (round(shares[p] * n) for p in ("validation", "test"))
    n_held, step = n_validation + n_test, 1 << 20
    for share in ((n_held + 8 * n_held**0.5 + 64) / max(n, 1), 1.0):
        limit = np.uint64(min(int(share * 2**64), 2**64 - 1))
        rows, keys = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
        for start in range(0, n if n_held else 0, step):
            of_step = example_keys(seed, 0, np.arange(start, min(start + step, n)))
            rows.append(start + np.flatnonzero(of_step <= limit))
            keys.append(of_step[rows[-1] - start])
        if sum(map(len, rows)) >= n_held:
            break
    held = np.concatenate(rows)[np.argsort(np.concatenate(keys), kind="stable")[:n_held]]
    is_train = np.ones(n, bool)
    is_train[held] = False
    return {"validation": np.sort(held[:n_validation]), "test": np.sort(held[n_validation:]), "train": np.flatnonzero(is_train)}


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
