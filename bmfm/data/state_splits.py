"""Splits as State describes them (Arc Institute, cell-load): whole contexts zero-shot, some conditions of a context few-shot."""

import tomllib
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bmfm.cells.conditions import parse_conditions, targets_of
from bmfm.data.stream import PARTS
from bmfm.data.whole_groups import report_left_out, require_whole_groups
from bmfm.files import require_file

STATE_WORDS = {"train": "train", "val": "validation", "test": "test"}
"""What these files call parts."""


def split_by_toml(
    split: Mapping, conditions: np.ndarray, contexts: np.ndarray, column: Callable[[str], np.ndarray]
) -> dict[str, np.ndarray]:
    """Numbers of the cells of each part as a file for State's ``cell-load`` describes them.

    Parameters
    ----------
    split
        ``path`` of the file, and ``dataset``, the column of the names in ``[datasets]``, which is needed where there are several.
    conditions, contexts
        Of the perturbed cells, [n]; a key ``DATASET.CONTEXT`` of the file means the cells of both names.
    column
        Values of a column of all cells.

    Raises
    ------
    ValueError
        For names in the file that no cell has, and words that are no part; names the file and the key.
    """
    if not split.get("path"):
        raise ValueError("data.split.by=toml needs the file: +data.split.path=FILE.toml")
    file = require_file(split["path"], "the split (data.split.path)")
    try:
        tables = tomllib.loads(file.read_text())
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file} is no TOML: {error}") from None
    named = {**dict.fromkeys(tables.get("datasets", {})), **dict.fromkeys(tables.get("training", {}))}
    if not named:
        raise ValueError(f"{file} names no data set: it needs [datasets] and [training], as State's files have")
    if split.get("dataset"):
        datasets = pd.Series(column(split["dataset"])).astype(str).to_numpy(object)
    elif len(named) == 1:
        datasets = np.full(len(contexts), next(iter(named)), object)
    else:
        raise ValueError(f"{file} names {', '.join(named)}: say which column holds these names (+data.split.dataset=COLUMN)")
    if absent := sorted(set(named) - set(datasets)):
        raise ValueError(
            f"{file}: no cell is of the data set {absent[0]!r}; .obs[{split.get('dataset')!r}] holds {sorted(set(datasets))[:20]}"
        )
    is_in = {part: np.zeros(len(contexts), bool) for part in PARTS}
    for name, word in tables.get("training", {}).items():
        is_in[_state_part(word, file, f"[training] {name}")] |= datasets == name
    for key, word in tables.get("zeroshot", {}).items():
        of_context = _of_key(key, named, datasets, contexts, file)
        _move(is_in, of_context, _state_part(word, file, f"[zeroshot] {key}"))
    for key, lists in tables.get("fewshot", {}).items():
        of_context = _of_key(key, named, datasets, contexts, file)
        held_out = {p: _cells_named(lists.get(w, ()), conditions, of_context, f"{file}, [fewshot] {key}") for w, p in STATE_WORDS.items()}
        _report_overlap(held_out, conditions, file, key)
        is_in["train"] &= ~(held_out["validation"] | held_out["test"])
        is_in["train"] |= held_out["train"]
        for part in ("validation", "test"):
            is_in[part] |= held_out[part]
    groups = np.array([f"{x}|{c}" for x, c in zip(contexts, conditions, strict=True)], object)
    report_left_out(~np.logical_or.reduce(list(is_in.values())), groups)
    numbers = {part: np.flatnonzero(is_in[part]) for part in PARTS}
    require_whole_groups(numbers, np.array([f"{d}|{g}" for d, g in zip(datasets, groups, strict=True)], object))
    return numbers


def _state_part(word: Any, file: Any, where: str) -> str:
    if word not in STATE_WORDS:
        raise ValueError(f"{file}, {where}: {word!r} is no part; choose {', '.join(STATE_WORDS)}")
    return STATE_WORDS[word]


def _move(is_in: Mapping[str, np.ndarray], cells: np.ndarray, part: str) -> None:
    for other in is_in.values():
        other &= ~cells
    is_in[part] |= cells


def _of_key(key: str, named: Collection[str], datasets: np.ndarray, contexts: np.ndarray, file: Any) -> np.ndarray:
    """Which cells a key ``DATASET.CONTEXT`` means, bool [n]."""
    dataset = next((d for d in sorted(named, key=len, reverse=True) if key.startswith(f"{d}.")), None)
    if dataset is None:
        raise ValueError(f"{file}: {key!r} begins with no data set of the file ({', '.join(named)}); keys are DATASET.CONTEXT")
    cells = (datasets == dataset) & (contexts == key.removeprefix(f"{dataset}."))
    if not cells.any():
        present = sorted(set(contexts[datasets == dataset]))
        raise ValueError(f"{file}: {key!r} names a context without perturbed cells; {dataset} has {', '.join(map(str, present[:20]))}")
    return cells


def _cells_named(names: Sequence[str], conditions: np.ndarray, of_context: np.ndarray, where: str) -> np.ndarray:
    """Which cells of a context have these conditions, in any spelling, bool [n]."""
    known = {target for condition in set(conditions) for target in targets_of(condition)}
    parsed = list(map(str, parse_conditions(names, known_targets=known, column=where)))
    if absent := sorted(set(parsed) - set(conditions[of_context])):
        raise ValueError(f"{where}: {len(absent)} conditions have no cell in this context: {', '.join(absent[:5])}; correct the list")
    return of_context & np.isin(conditions, parsed)


def _report_overlap(held_out: Mapping[str, np.ndarray], conditions: np.ndarray, file: Any, key: str) -> None:
    if both := sorted(set(conditions[held_out["validation"] & held_out["test"]])):
        warnings.warn(
            f"{file}, [fewshot] {key}: {len(both)} conditions are for validation and test ({', '.join(both[:5])}): what is chosen by validation "
            "is chosen by the test",
            stacklevel=5,
        )
