"""A collection of groups of cells on disk (`collection` writes them) as one AnnData, of which nothing is held for each cell.

The manifest says how many cells each group has, and all groups have the same genes and columns. So a group is opened where a cell of it is read, and
where its rows begin is read with them.
"""

import json
from collections import OrderedDict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from bmfm.cells.matrix import RowReader
from bmfm.cells.obs import CellTable, StoredTable, read_quietly
from bmfm.cells.stores import CellStore
from bmfm.files import naming

MANIFEST = "collection.json"
OPEN = 512
"""Groups that are open at a time."""


class Collection(CellStore):
    """What ``bmfm shard_cells`` wrote.

    Parameters
    ----------
    folder
        With a manifest.

    Raises
    ------
    ValueError
        Where the manifest and the groups differ.
    """

    def __init__(self, folder: Path):
        self.folder, self.name = folder, str(folder)
        with naming(folder / MANIFEST):
            manifest = json.loads((folder / MANIFEST).read_text())
            self.sizes = np.array(manifest["groups"], np.int64)
        self.first = np.concatenate([[0], np.cumsum(self.sizes)])
        self._n_values: int | None = manifest.get("values")
        self.has_empty = bool(manifest.get("cells_without_counts", True))
        self._opened: OrderedDict[int, Any] = OrderedDict()
        n_there = len(list(folder.glob("dataset_*")))
        if n_there != len(self.sizes):
            raise ValueError(f"{folder} is damaged: it holds {n_there:,} groups, and {MANIFEST} names {len(self.sizes):,}; copy it again, or make it again")  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": OrderedDict()}

    @cached_property
    def table(self) -> "GroupTable":
        return GroupTable(self)

    def group(self, number: int) -> Any:
        """A group, open."""
        if number not in self._opened:
            import zarr

            path = self.folder / f"dataset_{number}"
            with naming(path):
                group = zarr.open_group(path, mode="r")
                arrays: dict[str, Any] = {name: group[f"X/{name}"] for name in ("data", "indices", "indptr")}
            if arrays["indptr"].shape[0] != self.sizes[number] + 1:
                raise ValueError(f"{path} is damaged: it holds {arrays['indptr'].shape[0] - 1:,} cells, and {MANIFEST} says {self.sizes[number]:,}; copy it again, or make it again")  # fmt: skip
            if arrays["data"].shape[0] > self.sizes[number]:  # zarr leaves files of nothing but zeros out, which there are none of then
                for name, array in arrays.items():
                    _require_files(array, f"{path}: its {name}")
            self._opened[number] = group, arrays
            while len(self._opened) > OPEN:
                self._opened.popitem(last=False)
        self._opened.move_to_end(number)
        return self._opened[number]

    def parts(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """(group, first row, last row + 1) of consecutive cells."""
        groups = range(int(np.searchsorted(self.first, start, "right")) - 1, int(np.searchsorted(self.first, stop, "left")))
        return [
            (g, max(start - int(self.first[g]), 0), min(stop - int(self.first[g]), int(self.sizes[g]))) for g in groups if self.sizes[g]
        ]

    def count_values(self) -> int:
        """How many values all groups store."""
        if self._n_values is None:
            self._n_values = sum(self.group(g)[1]["data"].shape[0] for g in range(len(self.sizes)))
        return self._n_values

    def keys(self) -> tuple[list[str], list[str]]:
        return ["X"], []

    def matrix(self, key: str) -> "GroupRows":
        return GroupRows(self)

    def var(self, key: str) -> pd.DataFrame:
        return read_quietly(self.group(0)[0]["var"])

    def varm(self, key: str) -> Any:
        group = self.group(0)[0]
        return read_quietly(group["varm"][key]) if key in group.get("varm", ()) else None

    def whole(self) -> Any:
        import anndata

        return anndata.concat([anndata.io.read_zarr(self.folder / f"dataset_{g}") for g in range(len(self.sizes))], merge="same")


def _require_files(array: Any, what: str) -> None:
    """Raise a ValueError if files of an array are not there, which zarr would read as zeros."""
    size = (array.shards or array.chunks)[0]
    n, there = -(-array.shape[0] // size), array.nchunks_initialized // (size // array.chunks[0])
    if there < n:
        raise ValueError(f"{what} lack {n - there:,} of {n:,} files: it was cut or damaged, copy or download it again")


class GroupTable(CellTable):
    """The tables of cells of all groups, one after another."""

    def __init__(self, collection: Collection):
        self.collection = collection
        self.columns = self._of(0).columns

    def _of(self, group: int) -> StoredTable:
        return StoredTable(self.collection.group(group)[0]["obs"], str(self.collection.folder / f"dataset_{group}"))

    @property
    def _all(self) -> list[StoredTable]:
        return [self._of(g) for g in range(len(self.collection.sizes))]

    def __len__(self) -> int:
        return int(self.collection.first[-1])

    @property
    def names(self) -> pd.Index:
        first, *others = (table.names for table in self._all)
        return first.append(others)

    def name_of(self, row: int) -> str:
        ((group, within, _),) = self.collection.parts(row, row + 1)
        return self._of(group).name_of(within)

    def column(self, name: str) -> pd.Series:
        parts = [table.column(name) for table in self._all]
        first = parts[0].dtype
        if isinstance(first, pd.CategoricalDtype) and all(part.dtype == first for part in parts):
            return pd.Series(pd.Categorical.from_codes(np.concatenate([part.cat.codes for part in parts]), dtype=first))
        return pd.concat(parts, ignore_index=True)

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame({name: self.column(name).array for name in self.columns}, index=self.names)


class GroupRows(RowReader):
    """The counts of all groups, one after another: no zeros among them, and every gene of a cell once."""

    def __init__(self, collection: Collection):
        self.collection = collection
        self.shape = len(collection.table), len(collection.var("X"))
        self.dtype, self.n_values = np.dtype(collection.group(0)[1]["data"].dtype), collection.count_values()

    def _row_begins(self, group: int, start: int, stop: int) -> np.ndarray:
        """Where rows of a group begin, and the last ends."""
        arrays = self.collection.group(group)[1]
        indptr = arrays["indptr"][start : stop + 1]
        if indptr[0] < 0 or (np.diff(indptr) < 0).any() or indptr[-1] > min(arrays["data"].shape[0], arrays["indices"].shape[0]):
            raise ValueError(f"{self.collection.folder / f'dataset_{group}'} is damaged: its indptr does not cut its values into rows; copy it again, or make it again")  # fmt: skip
        return indptr

    def empty(self) -> np.ndarray:
        """Which cells have no count in any gene, bool [n]."""
        if not self.collection.has_empty:
            return np.zeros(self.shape[0], bool)
        return np.concatenate([np.diff(self._row_begins(g, 0, int(n))) == 0 for g, n in enumerate(self.collection.sizes)])

    def __getitem__(self, rows: slice) -> sp.csr_matrix:
        start, stop, _ = rows.indices(self.shape[0])
        if stop <= start:
            return sp.csr_matrix((0, self.shape[1]), dtype=self.dtype)
        parts = []
        for group, first, last in self.collection.parts(start, stop):
            indptr = self._row_begins(group, first, last)
            span, arrays = slice(int(indptr[0]), int(indptr[-1])), self.collection.group(group)[1]
            with naming(self.collection.folder / f"dataset_{group}", f"rows {first:,} to {last:,}"):
                of_rows = arrays["data"][span], arrays["indices"][span], indptr - indptr[0]
            parts.append(sp.csr_matrix(of_rows, shape=(last - first, self.shape[1])))
        return parts[0] if len(parts) == 1 else sp.vstack(parts, "csr")
