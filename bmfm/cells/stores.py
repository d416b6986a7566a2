"""What holds cells, each as one AnnData: an object, a file as anndata writes it, and in modules of their own collections and SOMA experiments."""

from abc import ABC, abstractmethod
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from bmfm.cells.matrix import RowsOf
from bmfm.cells.obs import CellTable, FrameTable, StoredTable, read_quietly
from bmfm.files import naming


class CellStore(ABC):
    """Cells as one AnnData.

    Attributes
    ----------
    name
        Of what holds them, for messages.
    table
        What is known of the cells.
    """

    name: str

    @property
    @abstractmethod
    def table(self) -> CellTable:
        """What is known of the cells."""

    @abstractmethod
    def keys(self) -> tuple[list[str], list[str]]:
        """``X`` and ``raw``, if they are there, and the names of other layers."""

    @abstractmethod
    def matrix(self, key: str) -> Any:
        """The matrix of a key, ``X``, ``raw`` or ``layers/NAME``, as `Matrix` takes it."""

    @abstractmethod
    def var(self, key: str) -> pd.DataFrame:
        """What is said of the genes of a matrix."""

    @abstractmethod
    def whole(self) -> Any:
        """All of it as an AnnData in memory, which is a copy."""

    def uns(self, key: str) -> Any:
        """An entry of ``.uns``; None where there is none."""
        return None

    def varm(self, key: str) -> Any:
        """An entry of ``.varm``; None where there is none."""
        return None


class ObjectStore(CellStore):
    """An `anndata.AnnData`, in memory or backed by a file."""

    def __init__(self, adata: Any, name: str | None = None):
        self.adata = adata
        self.name = name or (str(adata.filename) if adata.isbacked else "AnnData in memory")

    @cached_property
    def table(self) -> CellTable:
        return FrameTable(self.adata.obs)

    def keys(self) -> tuple[list[str], list[str]]:
        has_x = "X" in self.adata.file if self.adata.isbacked else self.adata.X is not None
        return (["X"] if has_x else []) + (["raw"] if self.adata.raw is not None else []), list(self.adata.layers)

    def matrix(self, key: str) -> Any:
        if key == "X" and self.adata.isbacked and self.adata.is_view:
            return RowsOf(self.adata)
        return self.adata.X if key == "X" else self.adata.raw.X if key == "raw" else self.adata.layers[key.removeprefix("layers/")]

    def var(self, key: str) -> pd.DataFrame:
        return self.adata.raw.var if key == "raw" else self.adata.var

    def whole(self) -> Any:
        return self.adata.to_memory(copy=True)

    def uns(self, key: str) -> Any:
        return self.adata.uns.get(key)

    def varm(self, key: str) -> Any:
        return self.adata.varm.get(key)


class FileStore(CellStore):
    """A group of h5py or zarr, as anndata has written them since version 0.7.

    Parameters
    ----------
    group
        Open.
    path
        The file or folder that it is of.
    part
        What in the file it is, where it is not the whole.
    """

    def __init__(self, group: Any, path: Path, part: str | None = None):
        self.group, self.path = group, path
        self.is_part = part is not None
        self.name = f"{path}, {part}" if self.is_part else str(path)

    @cached_property
    def table(self) -> CellTable:
        with naming(self.name, "obs"):
            return StoredTable(self.group["obs"], self.name)

    def keys(self) -> tuple[list[str], list[str]]:
        with naming(self.name):
            return [k for k in ("X", "raw") if k in self.group and not _is_null(self.group[k])], list(self.group.get("layers", ()))

    def matrix(self, key: str) -> Any:
        with naming(self.name, key):
            return self.group["raw/X" if key == "raw" else key]

    def var(self, key: str) -> pd.DataFrame:
        return self._element("raw/var" if key == "raw" else "var")

    def whole(self) -> Any:
        import anndata

        if self.is_part:
            return anndata.io.read_elem(self.group)
        return (anndata.io.read_zarr if self.path.is_dir() else anndata.io.read_h5ad)(self.path)

    def uns(self, key: str) -> Any:
        return self._element(f"uns/{key}")

    def varm(self, key: str) -> Any:
        return self._element(f"varm/{key}")

    def _element(self, path: str) -> Any:
        """An element of the file; None where there is none."""
        with naming(self.name, path):
            return read_quietly(self.group[path]) if path in self.group else None


def _is_null(element: Any) -> bool:
    """Whether it is what anndata writes for None."""
    return dict(element.attrs).get("encoding-type") == "null"
