"""Tables of cells (``.obs``), whose columns on disk are read where they are asked for."""

import warnings
from abc import ABC, abstractmethod
from typing import Any

import pandas as pd

from bmfm.files import naming


def read_quietly(element: Any) -> Any:
    """An element of a file, without the warnings of anndata about old layouts, which it reads."""
    from anndata.io import read_elem

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_elem(element)


class CellTable(ABC):
    """What is known of cells, a row each.

    Attributes
    ----------
    columns
        Names of the columns, the names of cells not among them.
    """

    columns: list[str]

    @abstractmethod
    def __len__(self) -> int:
        """How many cells there are."""

    @property
    @abstractmethod
    def names(self) -> pd.Index:
        """Names of all cells."""

    @abstractmethod
    def column(self, name: str) -> pd.Series:
        """A column, whose index means nothing."""

    @abstractmethod
    def frame(self) -> pd.DataFrame:
        """All columns, by the names of cells."""

    def name_of(self, row: int) -> str:
        """The name of one cell."""
        return str(self.names[row])


class FrameTable(CellTable):
    """A table in memory."""

    def __init__(self, frame: pd.DataFrame):
        self._frame, self.columns = frame, list(frame.columns)

    def __len__(self) -> int:
        return len(self._frame)

    @property
    def names(self) -> pd.Index:
        return self._frame.index

    def column(self, name: str) -> pd.Series:
        return self._frame[name]

    def frame(self) -> pd.DataFrame:
        return self._frame


class StoredTable(CellTable):
    """A table in a group of h5py or zarr, as anndata writes it since 0.8.

    Parameters
    ----------
    name
        Of the file, for errors.
    """

    def __init__(self, group: Any, name: str):
        self.group, self.name = group, name
        self.columns, self._index = list(map(str, group.attrs["column-order"])), str(group.attrs["_index"])

    def __len__(self) -> int:
        with naming(self.name, "obs"):
            index = self.group[self._index]
            is_nullable = str(dict(index.attrs).get("encoding-type", "")).startswith("nullable")
            return int((index["values"] if is_nullable else index).shape[0])

    @property
    def names(self) -> pd.Index:
        with naming(self.name, "names of cells"):
            return pd.Index(read_quietly(self.group[self._index]), name=None if self._index == "_index" else self._index)

    def column(self, name: str) -> pd.Series:
        with naming(self.name, f"obs/{name}"):
            values = pd.Series(read_quietly(self.group[name]))
        if len(values) != len(self):
            raise ValueError(f"{self.name} is damaged: column {name!r} of .obs has {len(values):,} values for {len(self):,} cells; copy the file again, or make it again")  # fmt: skip
        return values

    def frame(self) -> pd.DataFrame:
        with naming(self.name, "obs"):
            return read_quietly(self.group)
