"""Long runs in parts that do not depend on each other, whose results are kept in a folder, so that an interrupted one goes on where it was."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np
from tqdm.auto import tqdm


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
    compute: Callable[[], dict[str, np.ndarray]]


def run_parts(parts: Iterable[Part], folder: Path | None, total: int, unit: str, progress: bool | None) -> Iterator[dict[str, np.ndarray]]:
    """Results of all parts, in their order: those that the folder holds, and the others computed and put there.

    Parameters
    ----------
    total
        Units of work of all parts, for the progress bar, which is shown where a run takes more than three seconds, or `progress` says.
    """
    with tqdm(total=total, unit=unit, disable=progress is False, delay=0 if progress else 3) as bar:
        for part in parts:
            found = read_part(folder, part.number)
            if found is None:
                found = part.compute()
                write_part(folder, part.number, found)
            yield found
            bar.update(part.size)


def join(pieces: Iterable[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of the same names one after the other."""
    every = list(pieces)
    return {name: np.concatenate([piece[name] for piece in every]) for name in every[0]}


def write_part(folder: Path | None, number: int, part: dict[str, np.ndarray]) -> None:
    """Keep a result, whole or not at all; nothing where there is no folder."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{number}.{os.getpid()}.partial.npz"
        np.savez(partial, **part)  # type: ignore[arg-type]
        partial.rename(folder / f"{number}.npz")


def read_part(folder: Path | None, number: int) -> dict[str, np.ndarray] | None:
    """A result that was kept; None where there is none, or it is damaged."""
    if folder is None or not (folder / f"{number}.npz").exists():
        return None
    try:
        return dict(np.load(folder / f"{number}.npz", allow_pickle=False))
    except (OSError, ValueError, EOFError, BadZipFile):
        return None
