"""Finished pieces of a long run, kept in a folder, so that an interrupted one goes on where it was."""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np


def write_part(folder: Path | None, number: int, part: dict[str, np.ndarray]) -> None:
    """Keep a piece; nothing where there is no folder."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{number}.partial.npz"
        np.savez(partial, **part)  # type: ignore[arg-type]
        partial.rename(folder / f"{number}.npz")


def read_part(folder: Path | None, number: int) -> dict[str, np.ndarray] | None:
    """A piece that was kept; None where there is none, or it is damaged."""
    if folder is None or not (folder / f"{number}.npz").exists():
        return None
    try:
        return dict(np.load(folder / f"{number}.npz", allow_pickle=False))
    except (OSError, ValueError, EOFError, BadZipFile):
        return None
