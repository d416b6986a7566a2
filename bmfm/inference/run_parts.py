"""Long runs in parts that do not depend on each other, which a ledger keeps and several processes share."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from bmfm.ledger import Ledger, Shard


class Part(NamedTuple):
    """Some of a run.

    Attributes
    ----------
    number
        From 0. With the same model, data and options it says all that `compute` depends on, so that parts may be made in any order and by
        several processes.
    size
        Units of work, as cells.
    compute
        Gives the result.
    """

    number: int
    size: int
    compute: Callable[[], Shard]


def run_parts(parts: Iterable[Part], ledger: Ledger | None, total: int, unit: str, progress: bool | None) -> Iterator[Shard]:
    """Results of all parts, in their order; of a worker those that were open.

    Parameters
    ----------
    ledger
        Has results that are finished, and gets the others.
    total
        Units of work of all parts, for the progress bar, which is shown where a run takes more than three seconds, or `progress` says.
    """
    with tqdm(total=total, unit=unit, disable=progress is False, delay=0 if progress else 3) as bar:
        for part in parts:
            found = part.compute() if ledger is None else ledger.get(part.number, part.compute)
            if found is not None:
                yield found
            bar.update(part.size)


def work_on(parts: Iterable[Part], ledger: Ledger) -> None:
    """Add to the ledger what is open of it, as one of several workers."""
    for _ in run_parts(parts, ledger, 0, "", False):
        pass


def check_finite(numbers: np.ndarray, what: str, names: Sequence[str]) -> None:
    """ValueError where numbers [n, ...] are infinite or not numbers, naming the first of n things."""
    bad = np.flatnonzero(~np.isfinite(numbers).reshape(len(numbers), -1).all(1))
    if len(bad):
        raise ValueError(
            f"{what} of {len(bad):,} of {len(numbers):,} are not finite (first: {names[bad[0]]!r}): the model's numbers are too large for its "
            "precision, or its weights are damaged; try precision=bf16, or that of the weights"
        )


def join(pieces: Iterable[Shard]) -> Shard:
    """Arrays of the same names one after the other."""
    every = list(pieces)
    return {name: np.concatenate([piece[name] for piece in every]) for name in every[0]}
