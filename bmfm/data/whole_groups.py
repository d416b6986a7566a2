"""What holds for every split of perturbed cells: a condition is in one part whole, and what is in no part is told."""

import warnings
from collections.abc import Mapping
from itertools import combinations

import numpy as np

from bmfm.data.stream import PARTS


def require_whole_groups(parts: Mapping[str, np.ndarray], groups: np.ndarray) -> None:
    """Refuse parts that share conditions.

    Parameters
    ----------
    parts
        {part: numbers of the perturbed cells}.
    groups
        [n] condition and context of each perturbed cell, in words.

    Raises
    ------
    ValueError
        Naming a condition of which two parts have cells. Validation and test may have all cells of one in common, as in State's files.
    """
    for one, other in combinations([part for part in PARTS if part in parts], 2):
        if one != "train" and other != "train" and np.isin(parts[one], parts[other]).any():
            numbers = np.setxor1d(parts[one], parts[other])
            both = np.intersect1d(parts[one], parts[other])
            shared = set(groups[numbers]) & set(groups[both])
        else:
            shared = set(groups[parts[one]]) & set(groups[parts[other]])
        if shared:
            raise ValueError(
                f"data.split: {len(shared):,} conditions have cells in {one} and in {other} (first: {min(shared)!r}): what was measured of a "
                "condition in training must not be asked again; choose data.split.by=perturbation, which holds out whole conditions, or "
                "by=group with column=group"
            )


def report_left_out(is_left_out: np.ndarray, names: np.ndarray) -> None:
    """Warn of cells [n] that are in no part, by the names of their conditions [n]."""
    if is_left_out.any():
        left_out = sorted(set(names[is_left_out]))
        warnings.warn(
            f"data.split: {len(left_out):,} conditions ({int(is_left_out.sum()):,} cells) are in no part: {', '.join(left_out[:5])}"
            f"{', ...' if len(left_out) > 5 else ''}",
            stacklevel=4,
        )
