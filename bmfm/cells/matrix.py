"""Rows of a matrix of counts, whatever it is stored as."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from bmfm.cells.counts import FRACTION, first_fault
from bmfm.files import naming

_AS: dict[str, np.dtype] = {"?": np.dtype(np.uint8), "e": np.dtype(np.float32), "g": np.dtype(np.float64)}  # bool, half and long double


def _native(values: np.ndarray) -> np.ndarray:
    """In the machine's byte order, and of a type that numba and scipy know."""
    values = np.asarray(values)
    dtype = _AS.get(values.dtype.char, values.dtype.newbyteorder("="))
    return values if values.dtype == dtype and values.dtype.isnative else values.astype(dtype)


class RowReader(ABC):
    """A matrix whose rows are read where they are asked for.

    Attributes
    ----------
    shape, dtype
        Of the matrix.
    n_values
        How many values are stored.
    """

    shape: tuple[int, int]
    dtype: np.dtype
    n_values: int

    @abstractmethod
    def __getitem__(self, rows: slice) -> Any:
        """Some rows, as scipy or NumPy has them."""


def _require_chunks(array: Any, what: str) -> None:
    """Raise a ValueError if chunks of an array of zarr are not there, which zarr reads as zeros.

    zarr leaves out chunks of nothing but zeros, and all may be such. A matrix of cells has none among others: a value of 0 is not
    stored in a sparse matrix, and its indices and places are not all 0 for the length of a chunk.
    """
    there, n = getattr(array, "nchunks_initialized", None), getattr(array, "nchunks", None)
    if there is not None and n is not None and 0 < there < n and array.chunks[0] > 1:
        raise ValueError(f"{what} lack {n - there:,} of {n:,} chunks: the file was cut or damaged, copy or download it again")


class RowsOf(RowReader):
    """The X of a view of a backed AnnData, by rows: anndata reads those that are asked for.

    A view's own X would read all of its rows at once, and anndata makes no view of such a view.
    """

    def __init__(self, adata: Any):
        self.parent, self.columns, self.shape = adata._adata_ref, adata._vidx, adata.shape
        self.numbers = np.arange(self.parent.n_obs)[adata._oidx]
        self.dtype, self.n_values = self.parent.X.dtype, self.shape[0] * self.shape[1]

    def __getitem__(self, rows: slice) -> Any:
        return self.parent[self.numbers[rows]].X[:, self.columns]  # HDF5 itself has no columns in any order


class Matrix:
    """Rows of a matrix, whatever it is stored as: CSR, CSC or dense; scipy, h5py or zarr.

    Parameters
    ----------
    stored
        A scipy matrix or array, a NumPy array, an array (dense) or group (sparse) of h5py or zarr, anndata's sparse
        data set of a backed file, or a `RowReader`.
    name
        For errors: the file and the key.
    name_of
        Gives the name of a row, for errors.

    Raises
    ------
    ValueError
        If it holds no real numbers, or if its parts contradict one another.
    """

    def __init__(self, stored: Any, name: str, name_of: Callable[[int], str] | None = None):
        from anndata.abc import CSCDataset, CSRDataset

        if isinstance(stored, CSRDataset | CSCDataset):
            stored = stored.group
        if sp.issparse(stored) and stored.format not in ("csr", "csc"):
            stored = stored.tocsr()
        self.stored, self.name, self.name_of = stored, name, name_of
        self.on_disk = not sp.issparse(stored)
        with naming(name):
            self.format, self.shape = self._format()
            dtype = np.dtype(stored.dtype if self.format == "dense" else self._array("data").dtype)
        if len(self.shape) != 2 or min(self.shape) < 0:
            raise self._damaged(f"its shape is {self.shape}, cells x genes are expected")
        if dtype.kind not in "biuf":
            raise ValueError(f"{name} holds values of type {dtype}, real numbers are needed: adata.X = adata.X.astype('float32')")
        self.indptr = self._checked_indptr() if self.format != "dense" else None

    def _format(self) -> tuple[str, tuple[int, ...]]:
        """``csr``, ``csc`` or ``dense``, and the shape, as the file says."""
        if not self.on_disk:
            return self.stored.format, self.stored.shape
        attrs = {} if isinstance(self.stored, RowReader) else dict(getattr(self.stored, "attrs", {}))
        kind = attrs.get("encoding-type") or attrs.get("h5sparse_format", "")
        kind = kind.decode() if isinstance(kind, bytes) else kind
        if kind[:3] not in ("csr", "csc"):
            return "dense", tuple(self.stored.shape)
        shape = np.asarray(attrs["shape"] if "shape" in attrs else attrs["h5sparse_shape"])
        if shape.dtype.kind not in "iu":
            raise self._damaged(f"its shape is {shape.tolist()!r}, whole numbers are expected")
        return kind[:3], tuple(map(int, shape.ravel()))

    def _checked_indptr(self) -> np.ndarray:
        """Where rows (CSR) or columns (CSC) begin, once it is sure that they lie within the values."""
        with naming(self.name):
            parts = {name: self._array(name) for name in ("data", "indices", "indptr")}
            for name, part in parts.items():
                if len(part.shape) != 1 or (name != "data" and np.dtype(part.dtype).kind not in "iu"):
                    raise self._damaged(f"its {name} are of type {part.dtype} and shape {tuple(part.shape)}")
                _require_chunks(part, f"{self.name}: its {name}")
            indptr = parts["indptr"][:].astype(np.int64)
        n_major, n_values = self.shape[self.format == "csc"], parts["data"].shape[0]
        fits = len(indptr) == n_major + 1 and indptr[0] == 0 and not (np.diff(indptr) < 0).any()
        if not fits or indptr[-1] > n_values or (self.on_disk and indptr[-1] != n_values):
            raise self._damaged(
                f"its indptr does not cut {n_values:,} values into {n_major:,} {'rows' if self.format == 'csr' else 'columns'}"
            )
        if parts["indices"].shape[0] != n_values:
            raise self._damaged(f"it has {parts['indices'].shape[0]:,} indices for {n_values:,} values")
        return indptr

    def _damaged(self, how: str) -> ValueError:
        return ValueError(f"{self.name} is damaged: {how}; copy the file again, or make it again")

    def _within(self, indices: np.ndarray, indptr: np.ndarray, first: int) -> np.ndarray:
        """The indices of rows (CSR) or columns (CSC) from `first` on, if all lie within the matrix; kernels do not look."""
        size = self.shape[self.format != "csc"]
        if len(indices) and (indices.min() < 0 or indices.max() >= size):
            place = int(np.flatnonzero((indices < 0) | (indices >= size))[0])
            major = first + int(np.searchsorted(indptr, place, "right")) - 1
            if self.format == "csc":
                raise self._damaged(f"column {major} has an entry in row {indices[place]} of {size:,} cells")
            cell = f"cell {self.name_of(major)!r} (row {major})" if self.name_of is not None else f"row {major}"
            raise self._damaged(f"{cell} has an entry in column {indices[place]} of {size:,} genes")
        return indices

    def _array(self, name: str):
        return self.stored[name] if self.on_disk else getattr(self.stored, name)

    def _values(self, name: str, start: int, stop: int) -> np.ndarray:
        """Values [start, stop) of one of the arrays of a sparse matrix."""
        with naming(self.name, f"values {start:,} to {stop:,} of {name}"):
            return _native(self._array(name)[start:stop])

    def _part(self, start: int, stop: int) -> Any:
        """Rows [start, stop) of a dense matrix; sparse where an object gives them so."""
        with naming(self.name, f"rows {start:,} to {stop:,}"):
            part = self.stored[start:stop]
            return part if sp.issparse(part) else _native(part)

    @property
    def n_values(self) -> int:
        if isinstance(self.stored, RowReader):
            return self.stored.n_values
        return int(self.shape[0] * self.shape[1]) if self.format == "dense" else int(self._array("data").shape[0])

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows [start, stop) as (indptr, indices, data); a row may name one column several times."""
        if self.format == "csr":
            assert self.indptr is not None
            lo, hi = int(self.indptr[start]), int(self.indptr[stop])
            indptr = self.indptr[start : stop + 1] - lo
            with naming(self.name, f"rows {start:,} to {stop:,}"):
                indices = self._within(_native(self._array("indices")[lo:hi]), indptr, start)
                return indptr, indices, _native(self._array("data")[lo:hi])
        if self.format == "dense":
            part = self._part(start, stop)
            part = part.tocsr() if sp.issparse(part) else sp.csr_matrix(part)
            indptr = part.indptr.astype(np.int64)
            return indptr, self._within(part.indices, indptr, start), _native(part.data)
        whole = self._as_csr
        lo, hi = whole.indptr[start], whole.indptr[stop]
        return (whole.indptr[start : stop + 1] - lo).astype(np.int64), whole.indices[lo:hi], whole.data[lo:hi]

    @cached_property
    def _as_csr(self):
        assert self.indptr is not None
        data, indices = self._values("data", 0, self.n_values), self._values("indices", 0, self.n_values)
        return sp.csc_matrix((data, self._within(indices, self.indptr, 0), self.indptr), shape=self.shape).tocsr()

    def forget(self) -> None:
        """Give up what was kept of a matrix stored by column."""
        self.__dict__.pop("_as_csr", None)

    def _parts(self, size: int):
        """(place of the first, stored values) from the beginning to the end, about `size` at a time."""
        if self.format != "dense":
            for start in range(0, self.n_values, size):
                yield start, self._values("data", start, start + size)
            return
        step = max(1, size // max(1, self.shape[1]))
        for start in range(0, self.shape[0], step):
            yield start * self.shape[1], self._dense(start, start + step)

    def _dense(self, start: int, stop: int) -> np.ndarray:
        part = self._part(start, stop)
        return (_native(part.toarray()) if sp.issparse(part) else part).ravel()

    def sample(self, n: int = 4096) -> list[tuple[int, np.ndarray]]:
        """Some stored values, with the place of the first of each run: `n` from the beginning, the middle and the end of a
        sparse matrix, four rows at sixteen places of a dense one. If all of these are 0, the first run that is not."""
        if not self.n_values:
            return []
        if self.format == "dense":
            starts = np.unique(np.linspace(0, max(0, self.shape[0] - 4), 16).astype(int)).tolist()
            runs = [(r * self.shape[1], self._dense(r, r + 4)) for r in starts]
        else:
            size = self.n_values
            runs = [(s, self._values("data", s, s + n)) for s in sorted({0, max(0, size // 2 - n), max(0, size - n)})]
        if not any(values.any() for _, values in runs):
            runs += next(([run] for run in self._parts(1 << 22) if run[1].any()), [])
        return runs

    def place(self, number: int) -> tuple[int, int]:
        """Row and column of the stored value of this number."""
        if self.format == "dense":
            return divmod(number, self.shape[1])
        assert self.indptr is not None
        major = int(np.searchsorted(self.indptr, number, "right")) - 1
        minor = int(self._values("indices", number, number + 1)[0])
        return (major, minor) if self.format == "csr" else (minor, major)

    def odd_value(self, whole: bool) -> tuple[float, int, int, int] | None:
        """The first value of the sample that is no count: value, row, column, kind of fault (`counts.FAULTS`).

        A fraction, which says that a matrix is of another kind, goes before a fault that one cell may have.
        """
        odd = None
        for start, values in self.sample():
            at, fault = first_fault(values, whole)
            if fault and fault != FRACTION and whole:
                fine = np.isfinite(values) & (values != np.floor(values))
                if fine.any():
                    at, fault = int(np.argmax(fine)), FRACTION
            if fault and (odd is None or fault == FRACTION):
                odd = (float(values[at]), *self.place(start + int(at)), int(fault))
                if fault == FRACTION:
                    return odd
        return odd

    def is_whole(self) -> bool:
        """Whether all values of the sample are whole numbers."""
        return all((values == np.floor(values)).all() for _, values in self.sample())

    def exceeds(self, limit: int) -> bool:
        """Whether any value is above this."""
        return any((v > limit).any() for _, v in self.sample()) or any((v > limit).any() for _, v in self._parts(1 << 22))

    def is_empty(self) -> bool:
        """Whether every value is 0."""
        return not any(values.any() for _, values in self.sample())
