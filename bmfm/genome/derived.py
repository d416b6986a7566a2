"""Arrays that follow from a store (a genome, a table of variants): computed once, kept beside it, and shared by processes."""

import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bmfm.files import cached_folder


def derived_arrays(kind: str, folder: Path | None, key: dict, build: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What `build` gives, as read-only memory maps; in memory where there is no store, or no leave to write beside it.

    Parameters
    ----------
    kind
        Name of the folder of the cache that they are kept in.
    folder
        The store: ``CACHE/KIND/DIGEST``.
    key
        What else they follow from.
    """
    if folder is None:
        return build()

    def write(partial: Path) -> None:
        for name, array in build().items():
            np.save(partial / f"{name}.npy", array)

    try:
        kept = cached_folder(kind, {"store": f"{folder.parent.name}/{folder.name}", **key}, write, folder.parents[1])
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        return build()
    return {file.stem: np.load(file, mmap_mode="r").view(np.ndarray) for file in kept.glob("*.npy")}
