"""TileDB-SOMA experiments as they are: counts by blocks of cells, genes and labels by column, nothing converted.

A layer ``data`` of the measurement is what AnnData calls X, a measurement ``raw`` is its raw, and every other layer one of its layers, as
``tiledbsoma.io.from_h5ad`` writes them. Cells and genes stand in the order of their ``soma_joinid``.
"""

import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from bmfm.cells.matrix import RowReader
from bmfm.cells.obs import CellTable
from bmfm.cells.stores import CellStore

JOIN, X_LAYER, RAW, MEASUREMENT = "soma_joinid", "data", "raw", "RNA"
NAMES = {"obs": ("obs_id", "barcode", "index"), "var": ("var_id", "feature_id", "index")}
"""Columns that hold the names of cells and genes, likeliest first; without any, their `JOIN` is the name."""
BUFFER = 64 << 20
"""Bytes that a column is read with at a time."""


def is_soma(folder: Path) -> bool:
    """Whether a folder is a group of TileDB, as experiments are."""
    return (folder / "__group").is_dir() or (folder / "__tiledb_group.tdb").is_file()


class Experiment(CellStore):
    """A SOMA experiment, opened anew in every process that reads from it: TileDB has threads, which a forked process lacks.

    Parameters
    ----------
    uri
        A folder, or an address that TileDB knows, as ``s3://...``.

    Raises
    ------
    ImportError, ValueError
        If tiledbsoma is absent, or this is no experiment with cells.
    """

    def __init__(self, uri: str):
        self.uri = self.name = uri
        self._opened: dict[
            int, Any
        ] = {}  # by process: what a forked one inherits is kept, as closing it would wait for threads that are not there
        measurements = list(self.handle.ms)
        names = [m for m in measurements if m != RAW]
        if MEASUREMENT not in names and len(names) != 1:
            raise ValueError(f"{uri} holds the measurements {', '.join(measurements) or 'none'}, and none is called {MEASUREMENT}")
        self.measurement = MEASUREMENT if MEASUREMENT in names else names[0]

    @cached_property
    def table(self) -> "SomaTable":
        return SomaTable(self, "obs")

    @property
    def handle(self) -> Any:
        """The experiment, open in this process."""
        if os.getpid() not in self._opened:
            self._opened[os.getpid()] = self._open()
        return self._opened[os.getpid()]

    def _open(self) -> Any:
        try:
            import tiledbsoma
        except ImportError:
            raise ImportError(f"{self.uri} is a SOMA experiment, which needs tiledbsoma: pip install 'bmfm[census]'") from None
        try:
            handle = tiledbsoma.open(self.uri, context=tiledbsoma.SOMATileDBContext(tiledb_config={"soma.init_buffer_bytes": BUFFER}))
        except tiledbsoma.SOMAError as error:
            raise ValueError(f"{self.uri} is no SOMA experiment that can be read ({str(error).strip()}): name the folder or address of one") from None  # fmt: skip
        if handle.soma_type != "SOMAExperiment":
            raise ValueError(f"{self.uri} is a {handle.soma_type}: name the experiment that it is part of")
        return handle

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": {}}

    def keys(self) -> tuple[list[str], list[str]]:
        layers = list(self.handle.ms[self.measurement].X)
        first = (["X"] if X_LAYER in layers else []) + ([RAW] if RAW in self.handle.ms and X_LAYER in self.handle.ms[RAW].X else [])
        return first, [name for name in layers if name != X_LAYER]

    def matrix(self, key: str) -> "SomaRows":
        measurement = RAW if key == RAW else self.measurement
        return SomaRows(self, measurement, X_LAYER if key in ("X", RAW) else key.removeprefix("layers/"))

    def var(self, key: str) -> pd.DataFrame:
        return SomaTable(self, "var", RAW if key == RAW else self.measurement).frame()

    def whole(self) -> Any:
        import tiledbsoma.io

        first, layers = self.keys()
        main, *others = [X_LAYER] if "X" in first else layers
        adata = tiledbsoma.io.to_anndata(self.handle, self.measurement, X_layer_name=main, extra_X_layer_names=others or (None if main in layers else layers) or None)  # fmt: skip
        adata.obs_names, adata.var_names = self.table.names, self.var("X").index
        return adata


class SomaTable(CellTable):
    """The table of cells of an experiment, or of the genes of a measurement; columns are read when they are asked for."""

    def __init__(self, experiment: Experiment, what: str, measurement: str | None = None):
        self.experiment, self.what, self.measurement = experiment, what, measurement
        stored = list(self._stored.keys())
        self._name = next((name for name in NAMES[what] if name in stored), None)
        self.columns = [name for name in stored if name not in (JOIN, self._name)]

    @property
    def _stored(self) -> Any:
        handle = self.experiment.handle
        return handle.obs if self.measurement is None else handle.ms[self.measurement].var

    def __len__(self) -> int:
        return int(self._stored.count)

    def _read(self, columns: list[str], rows: Any = None) -> pd.DataFrame:
        """Some columns, in the order of `JOIN`."""
        coordinates = () if rows is None else (rows,)
        frame = self._stored.read(coordinates, column_names=list(dict.fromkeys([JOIN, *columns]))).concat().to_pandas()
        return frame if frame[JOIN].is_monotonic_increasing else frame.sort_values(JOIN, ignore_index=True)

    @cached_property
    def join_ids(self) -> np.ndarray | None:
        """`JOIN` of each row, ascending; None where they are 0, 1, 2, ..."""
        domain = self._stored.non_empty_domain() if self._stored.index_column_names == (JOIN,) else ((-1, -1),)
        if tuple(map(int, domain[0])) == (0, len(self) - 1):
            return None
        ids = self._read([])[JOIN].to_numpy(np.int64)
        return None if len(ids) and ids[0] == 0 and ids[-1] == len(ids) - 1 else ids

    @property
    def names(self) -> pd.Index:
        frame = self._read([self._name or JOIN])
        return pd.Index(frame[self._name or JOIN].astype(str).astype(object), name=None)

    def name_of(self, row: int) -> str:
        if self._stored.index_column_names != (JOIN,):
            return super().name_of(row)
        number = row if self.join_ids is None else int(self.join_ids[row])
        return str(self._read([self._name or JOIN], [number])[self._name or JOIN].iloc[0])

    def column(self, name: str) -> pd.Series:
        return self._read([name])[name]

    def frame(self) -> pd.DataFrame:
        frame = self._read([*self.columns, *([self._name] if self._name else [])])
        names = frame[self._name or JOIN].astype(str).astype(object)
        return frame[self.columns].set_axis(pd.Index(names, name=None))


class SomaRows(RowReader):
    """A layer of a measurement: rows are cells, read together from where they lie together."""

    def __init__(self, experiment: Experiment, measurement: str, layer: str):
        self.experiment, self.measurement, self.layer = experiment, measurement, layer
        if layer not in experiment.handle.ms[measurement].X:
            raise KeyError(f"{experiment.uri}: measurement {measurement} has no layer {layer!r}")
        genes = SomaTable(experiment, "var", measurement)
        self.shape = len(experiment.table), len(genes)
        self._cell_ids, self._gene_ids = experiment.table.join_ids, genes.join_ids
        self.dtype = np.dtype(self._stored.schema.field("soma_data").type.to_pandas_dtype())
        self.n_values = int(self._stored.nnz) if self._stored.soma_type == "SOMASparseNDArray" else self.shape[0] * self.shape[1]

    @property
    def _stored(self) -> Any:
        return self.experiment.handle.ms[self.measurement].X[self.layer]

    def __getitem__(self, rows: slice) -> sp.csr_matrix:
        """Rows as CSR; genes that the measurement's table does not name are an error."""
        start, stop, _ = rows.indices(self.shape[0])
        if stop <= start:
            return sp.csr_matrix((0, self.shape[1]), dtype=self.dtype)
        ids = None if self._cell_ids is None else self._cell_ids[start:stop]
        lies_together = ids is None or ids[-1] - ids[0] == len(ids) - 1
        first, last = (start, stop - 1) if ids is None else (int(ids[0]), int(ids[-1]))
        coordinates = slice(first, last) if lies_together else ids.tolist()  # type: ignore[union-attr]
        if self._stored.soma_type == "SOMADenseNDArray":
            dense = self._stored.read((slice(first, last),)).to_numpy()
            of = np.arange(last - first + 1) if ids is None else ids - first
            return sp.csr_matrix(dense[of][:, slice(0, self.shape[1]) if self._gene_ids is None else self._gene_ids])
        tables = [(t["soma_dim_0"].to_numpy(), t["soma_dim_1"].to_numpy(), t["soma_data"].to_numpy()) for t in self._stored.read((coordinates,)).tables()]  # fmt: skip
        cells, genes, values = (np.concatenate(parts) for parts in zip(*tables, strict=True)) if tables else (np.empty(0, np.int64),) * 3
        cells = cells - first if lies_together else np.searchsorted(ids, cells)  # type: ignore[arg-type]
        return sp.csr_matrix((values, (cells, self._columns(genes))), shape=(stop - start, self.shape[1]))

    def _columns(self, genes: np.ndarray) -> np.ndarray:
        """Places of genes in the measurement's table."""
        columns = genes if self._gene_ids is None else np.searchsorted(self._gene_ids, genes)
        known = columns < self.shape[1] if self._gene_ids is None else np.append(self._gene_ids, -1)[columns] == genes
        if not known.all():
            raise ValueError(f"{self.experiment.uri}, {self.layer} is damaged: it has values of gene {int(genes[~known][0])}, which var does not name; write it again")  # fmt: skip
        return columns
