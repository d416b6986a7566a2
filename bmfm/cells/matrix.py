"""Rows of a matrix of counts, whatever it is stored as."""

from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from bmfm.cells.counts import first_fault

_AS: dict[str, np.dtype] = {"?": np.dtype(np.uint8), "e": np.dtype(np.float32), "g": np.dtype(np.float64)}  # bool, half and long double


def _native(values: np.ndarray) -> np.ndarray:
    """In the machine's byte order, and of a type that numba and scipy know."""
    values = np.asarray(values)
    dtype = _AS.get(values.dtype.char, values.dtype.newbyteorder("="))
    return values if values.dtype == dtype and values.dtype.isnative else values.astype(dtype)


class RowsOf:
    """The X of a view of a backed AnnData, by rows: anndata reads those that are asked for.

    A view's own X would read all of its rows at once, and anndata makes no view of such a view.
    """

    def __init__(self, adata: Any):
        self.parent, self.columns, self.shape = adata._adata_ref, adata._vidx, adata.shape
        self.numbers = np.arange(self.parent.n_obs)[adata._oidx]
        self.dtype = self.parent.X.dtype

    def __getitem__(self, rows: slice):
        return self.parent[self.numbers[rows]].X[:, self.columns]  # HDF5 itself has no columns in any order


class Matrix:
    """Rows of a matrix, whatever it is stored as: CSR, CSC or dense; scipy, h5py or zarr.

    Parameters
    ----------
    stored
        A scipy matrix or array, a NumPy array, an array (dense) or group (sparse) of h5py or zarr, or anndata's sparse
        data set of a backed file.
    name
        For errors: the file and the key.

    Raises
    ------
    ValueError
        If it holds no real numbers.
    """

    def __init__(self, stored: Any, name: str):
        from anndata.abc import CSCDataset, CSRDataset

        if isinstance(stored, CSRDataset | CSCDataset):
            stored = stored.group
        if sp.issparse(stored) and stored.format not in ("csr", "csc"):
            stored = stored.tocsr()
        self.stored, self.name = stored, name
        self.on_disk = not sp.issparse(stored)
        attrs = dict(getattr(stored, "attrs", {})) if self.on_disk else {}
        kind = attrs.get("encoding-type") or attrs.get("h5sparse_format", "")
        kind = kind.decode() if isinstance(kind, bytes) else kind
        if not self.on_disk:
            self.format, self.shape = stored.format, stored.shape
        elif kind[:3] in ("csr", "csc"):
            self.format = kind[:3]
            self.shape = tuple(int(n) for n in (attrs["shape"] if "shape" in attrs else attrs["h5sparse_shape"]))
        else:
            self.format, self.shape = "dense", tuple(stored.shape)
        dtype = np.dtype(stored.dtype if self.format == "dense" else self._array("data").dtype)
        if dtype.kind not in "biuf":
            raise ValueError(f"{name} holds values of type {dtype}, real numbers are needed: adata.X = adata.X.astype('float32')")
        self.indptr = self._array("indptr")[:].astype(np.int64) if self.format == "csr" else None

    def _array(self, name: str):
        return self.stored[name] if self.on_disk else getattr(self.stored, name)

    @property
    def n_values(self) -> int:
        return int(self.shape[0] * self.shape[1]) if self.format == "dense" else int(self._array("data").shape[0])

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows [start, stop) as (indptr, indices, data); a row may name one column several times."""
        if self.format == "csr":
            assert self.indptr is not None
            lo, hi = int(self.indptr[start]), int(self.indptr[stop])
            return self.indptr[start : stop + 1] - lo, _native(self._array("indices")[lo:hi]), _native(self._array("data")[lo:hi])
        if self.format == "dense":
            part = self.stored[start:stop]
            part = part.tocsr() if sp.issparse(part) else sp.csr_matrix(_native(part))
            return part.indptr.astype(np.int64), part.indices, _native(part.data)
        whole = self._as_csr
        lo, hi = whole.indptr[start], whole.indptr[stop]
        return (whole.indptr[start : stop + 1] - lo).astype(np.int64), whole.indices[lo:hi], whole.data[lo:hi]

    @cached_property
    def _as_csr(self):
        parts = tuple(_native(self._array(n)[:]) for n in ("data", "indices", "indptr"))
        return sp.csc_matrix(parts, shape=self.shape).tocsr()

    def forget(self) -> None:
        """Give up what was kept of a matrix stored by column."""
        self.__dict__.pop("_as_csr", None)

    def _parts(self, size: int):
        """(place of the first, stored values) from the beginning to the end, about `size` at a time."""
        if self.format != "dense":
            for start in range(0, self.n_values, size):
                yield start, _native(self._array("data")[start : start + size])
            return
        step = max(1, size // max(1, self.shape[1]))
        for start in range(0, self.shape[0], step):
            yield start * self.shape[1], self._dense(start, start + step)

    def _dense(self, start: int, stop: int) -> np.ndarray:
        part = self.stored[start:stop]
        return _native(part.toarray() if sp.issparse(part) else part).ravel()

    def sample(self, n: int = 4096) -> list[tuple[int, np.ndarray]]:
        """Some stored values from the beginning, the middle and the end, with the place of the first of each."""
        if self.format == "dense":
            rows = sorted({0, self.shape[0] // 2, max(0, self.shape[0] - 1)}) if self.n_values else []
            return [(r * self.shape[1], self._dense(r, r + 1)) for r in rows]
        data, size = self._array("data"), self.n_values
        return [(s, _native(data[s : s + n])) for s in sorted({0, max(0, size // 2 - n), max(0, size - n)})] if size else []

    def place(self, number: int) -> tuple[int, int]:
        """Row and column of the stored value of this number."""
        if self.format == "dense":
            return divmod(number, self.shape[1])
        major = int(np.searchsorted(self._array("indptr")[:], number, "right")) - 1
        minor = int(self._array("indices")[number])
        return (major, minor) if self.format == "csr" else (minor, major)

    def odd_value(self, whole: bool) -> tuple[float, int, int] | None:
        """The first value of the sample that is no count, with its row and column."""
        for start, values in self.sample():
            at, fault = first_fault(values, whole)
            if fault:
                return float(values[at]), *self.place(start + int(at))
        return None

    def is_empty(self) -> bool:
        """Whether every value is 0."""
        return not any(values.any() for _, values in self.sample()) and not any(values.any() for _, values in self._parts(1 << 22))
