"""Where cells come from: .h5ad and zarr files (in memory, or in blocks from disk), or an AnnData already open."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.cells.counts import FAULTS, FRACTION, Counts, align, concatenate, first_fault, gather
from bmfm.cells.genes import GeneMatch, GeneVocabulary


class AnnDataView:
    """One AnnData, on disk or in memory, as matrices, obs and var.

    Parameters
    ----------
    source
        Path of an .h5ad file or a zarr folder, or an `anndata.AnnData`.
    """

    def __init__(self, source: Any):
        self.adata: Any = None
        if isinstance(source, str | Path):
            self.name, self.group = str(source), _open(Path(source).expanduser())
        else:
            self.name, self.adata = "AnnData in memory", source

    def keys(self) -> list[str]:
        """Matrices that may hold counts, likeliest first: ``X``, ``raw``, ``layers/...``."""
        if self.adata is not None:
            held = [f"layers/{k}" for k in self.adata.layers]
            return (["X"] if self.adata.X is not None else []) + (["raw"] if self.adata.raw is not None else []) + held
        held = [f"layers/{k}" for k in self.group["layers"]] if "layers" in self.group else []
        raw = ["raw"] if "raw" in self.group and "X" in self.group["raw"] else []
        return (["X"] if "X" in self.group else []) + raw + sorted(held, key=lambda k: "count" not in k.lower())

    def matrix(self, key: str):
        """The matrix of a key: a scipy matrix or array, an h5py/zarr array (dense) or group (sparse)."""
        if self.adata is not None:
            return self.adata.X if key == "X" else self.adata.raw.X if key == "raw" else self.adata.layers[key.removeprefix("layers/")]
        return self.group["raw/X" if key == "raw" else key]

    def var(self, key: str) -> pd.DataFrame:
        if self.adata is not None:
            return self.adata.raw.var if key == "raw" else self.adata.var
        from anndata.io import read_elem

        return read_elem(self.group["raw/var" if key == "raw" else "var"])

    @cached_property
    def obs(self) -> pd.DataFrame:
        if self.adata is not None:
            return self.adata.obs
        from anndata.io import read_elem

        return read_elem(self.group["obs"])


def _open(path: Path):
    if path.is_dir():
        import zarr

        try:
            return zarr.open_group(path, mode="r")
        except Exception as error:
            raise ValueError(f"{path} is a folder but no zarr AnnData ({error})") from None
    import h5py

    from bmfm.files import require_file

    file = require_file(path, "AnnData file (.h5ad or zarr)")
    try:
        return h5py.File(file, "r")
    except OSError as error:
        raise ValueError(f"{file} is no .h5ad file ({error}); write one by adata.write_h5ad(...)") from None


class Matrix:
    """Rows of a matrix, whatever it is stored as: CSR, CSC or dense; scipy, h5py or zarr."""

    def __init__(self, stored: Any, name: str):
        self.stored, self.name = stored, name
        attrs = dict(getattr(stored, "attrs", {}))
        kind = attrs.get("encoding-type") or attrs.get("h5sparse_format", "")
        kind = kind.decode() if isinstance(kind, bytes) else kind
        self.on_disk = hasattr(stored, "attrs")
        if getattr(stored, "format", "") in ("csr", "csc"):
            self.format, self.shape = stored.format, stored.shape
        elif kind[:3] in ("csr", "csc"):
            self.format = kind[:3]
            self.shape = tuple(int(n) for n in (attrs["shape"] if "shape" in attrs else attrs["h5sparse_shape"]))
        else:
            self.format, self.shape = "dense", tuple(stored.shape)
        self.indptr = self._array("indptr")[:].astype(np.int64) if self.format == "csr" else None

    def _array(self, name: str):
        return self.stored[name] if self.on_disk else getattr(self.stored, name)

    @property
    def n_values(self) -> int:
        return int(self.shape[0] * self.shape[1]) if self.format == "dense" else int(self._array("data").shape[0])

    def rows(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows [start, stop) as (indptr, indices, data)."""
        if self.format == "csr":
            assert self.indptr is not None
            lo, hi = int(self.indptr[start]), int(self.indptr[stop])
            return self.indptr[start : stop + 1] - lo, self._array("indices")[lo:hi], self._array("data")[lo:hi]
        if self.format == "dense":
            from scipy.sparse import csr_matrix

            part = csr_matrix(np.asarray(self.stored[start:stop]))
            return part.indptr.astype(np.int64), part.indices, part.data
        whole = self._as_csr
        lo, hi = whole.indptr[start], whole.indptr[stop]
        return (whole.indptr[start : stop + 1] - lo).astype(np.int64), whole.indices[lo:hi], whole.data[lo:hi]

    @cached_property
    def _as_csr(self):
        from scipy.sparse import csc_matrix

        parts = tuple(self._array(n)[:] for n in ("data", "indices", "indptr"))
        return csc_matrix(parts, shape=self.shape).tocsr()

    def sample(self, n: int = 4096) -> np.ndarray:
        """Some stored values from the beginning, the middle and the end."""
        if self.format == "dense":
            rows = sorted({0, self.shape[0] // 2, max(0, self.shape[0] - 1)})
            return np.concatenate([np.asarray(self.stored[r : r + 1]).ravel() for r in rows])
        data, size = self._array("data"), self.n_values
        return np.concatenate([data[s : s + n] for s in sorted({0, max(0, size // 2 - n), max(0, size - n)})]) if size else np.zeros(0)


def find_counts(view: AnnDataView, where: str, whole: bool) -> str:
    """The key of the matrix that holds counts.

    Parameters
    ----------
    where
        ``auto`` (the first of ``X``, ``raw`` and the layers with whole numbers), or a key.
    whole
        Whether whole numbers are asked for.
    """
    keys = view.keys()
    if where != "auto":
        if where not in keys:
            raise KeyError(f"{view.name}: there is no matrix {where!r}; data.counts can be auto, {', '.join(keys)}")
        return where
    if not keys:
        raise ValueError(f"{view.name} holds no matrix: X, raw and layers are empty")
    if not whole:
        return keys[0]
    seen = []
    for key in keys:
        values = Matrix(view.matrix(key), key).sample()
        if not len(values) or (np.isfinite(values).all() and (values >= 0).all() and (values == np.floor(values)).all()):
            return key
        odd = values[(values != np.floor(values)) | (values < 0) | ~np.isfinite(values)][0]
        seen.append(f"{key} (has {odd:.5g})")
    raise ValueError(
        f"{view.name}: no matrix holds raw counts: {', '.join(seen)}. Name one by data.counts=layers/NAME, or train on "
        "values that are already normalised by data.expects=normalised tokenizer.values.kind=as_is"
    )


@dataclass
class CellSource:
    """The cells of one AnnData, in the genes of a vocabulary.

    Attributes
    ----------
    view, key
        The AnnData and which of its matrices is read.
    match
        How its genes were found.
    whole
        Whether values must be whole numbers.
    held
        All cells, where they are kept in memory.
    """

    view: AnnDataView
    key: str
    match: GeneMatch
    vocab_size: int
    whole: bool
    held: Counts | None = None
    matrix: Matrix = field(init=False)

    def __post_init__(self) -> None:
        self.matrix = Matrix(self.view.matrix(self.key), f"{self.view.name}, {self.key}")
        if self.matrix.shape[1] != len(self.match.ids):
            raise ValueError(
                f"{self.matrix.name} has {self.matrix.shape[1]} columns for {len(self.match.ids)} genes in var; the file is damaged"
            )

    def __len__(self) -> int:
        return self.matrix.shape[0]

    @property
    def name(self) -> str:
        return Path(self.view.name).name

    @cached_property
    def measured(self) -> np.ndarray:
        """Which genes of the vocabulary the file has, ``bool`` [V]."""
        out = np.zeros(self.vocab_size, bool)
        out[self.match.ids[self.match.ids >= 0]] = True
        return out

    def read(self, start: int, stop: int) -> Counts:
        """Cells [start, stop) from the file, checked.

        Raises
        ------
        ValueError
            On a value that is no count; names file, cell and gene.
        """
        indptr, indices, data = self.matrix.rows(start, stop)
        place, fault = first_fault(data, self.whole)
        if fault:
            row = start + int(np.searchsorted(indptr, place, "right")) - 1
            remedy = ("use data.counts to name the matrix of raw counts, or data.expects=normalised if these values are meant"
                      if fault == FRACTION else "correct or remove the cell")  # fmt: skip
            raise ValueError(
                f"{self.matrix.name}: value {data[place]:.6g} of cell {self.view.obs.index[row]!r} (row {row}), gene "
                f"{self.view.var(self.key).index[indices[place]]!r}, {FAULTS[fault]}; {remedy}"
            )
        return align(indptr, indices, data, self.match.ids, self.vocab_size)

    def load(self, rows: int = 65536) -> None:
        """Keep all cells in memory."""
        self.held = concatenate([self.read(s, min(s + rows, len(self))) for s in range(0, len(self), rows)])
        if self.matrix.format == "csc":
            del self.matrix.__dict__["_as_csr"]


def open_source(
    source: Any,
    vocabulary: GeneVocabulary,
    counts: str = "auto",
    gene_column: str | None = None,
    orthologs: dict[str, str] | None = None,
    expects: str = "counts",
    min_matched: float = 0.3,
) -> CellSource:
    """Open one AnnData in the genes of a vocabulary.

    Raises
    ------
    ValueError
        If fewer than `min_matched` of the file's genes, and fewer than half of the vocabulary's, are found.
    """
    view = AnnDataView(source)
    whole = expects == "counts"
    if expects not in ("counts", "normalised"):
        raise ValueError(f"data.expects={expects!r} is unknown; choose counts or normalised")
    key = find_counts(view, counts, whole)
    var = view.var(key)
    if not len(view.obs):
        raise ValueError(f"{view.name} holds no cell")
    match = vocabulary.match(var, gene_column, orthologs)
    n_genes = vocabulary.plain_ids[1] - vocabulary.plain_ids[0]
    if match.share < min_matched and match.n_matched < 0.5 * n_genes:
        raise ValueError(
            f"{view.name}: only {match}. First names there: {', '.join(map(repr, var.index[:3]))}; in the vocabulary: "
            f"{', '.join(map(repr, vocabulary.names[vocabulary.plain_ids[0] :][:3]))}. Name the .var column of symbols or Ensembl ids by "
            "data.gene_column, give data.orthologs for another species, choose another tokenizer.genes, or lower data.min_matched"
        )
    return CellSource(view, key, match, len(vocabulary), whole)


class Cells:
    """All cells of a run, numbered from 0 through all sources.

    Parameters
    ----------
    block
        Cells read from disk at a time, where they are not held in memory.
    cached_blocks
        Blocks kept in memory.
    """

    def __init__(self, sources: Sequence[CellSource], block: int = 1024, cached_blocks: int = 48):
        self.sources, self.block = list(sources), block
        self.first = np.cumsum([0, *(len(s) for s in self.sources)])
        self.in_memory = all(s.held is not None for s in self.sources)
        self._all = concatenate([s.held for s in self.sources if s.held is not None]) if self.in_memory else None
        if self.in_memory and len(self.sources) > 1:
            for source in self.sources:
                source.held = None  # `_all` holds them
        self._cached: OrderedDict[int, Counts] = OrderedDict()
        self.cached_blocks = cached_blocks
        blocks = [-(-len(s) // block) for s in self.sources]
        self.first_block = np.cumsum([0, *blocks])

    def __len__(self) -> int:
        return int(self.first[-1])

    def source_of(self, numbers: np.ndarray) -> np.ndarray:
        """Number of the source of each cell."""
        return np.searchsorted(self.first, numbers, "right") - 1

    def block_of(self, numbers: np.ndarray) -> np.ndarray:
        """Number of the block of each cell; blocks never cross sources."""
        source = self.source_of(numbers)
        return self.first_block[source] + (numbers - self.first[source]) // self.block

    def _block(self, number: int) -> Counts:
        if number in self._cached:
            self._cached.move_to_end(number)
            return self._cached[number]
        source = int(np.searchsorted(self.first_block, number, "right")) - 1
        start = (number - int(self.first_block[source])) * self.block
        held = self.sources[source].read(start, min(start + self.block, len(self.sources[source])))
        self._cached[number] = held
        while len(self._cached) > self.cached_blocks:
            self._cached.popitem(last=False)
        return held

    def take(self, numbers: np.ndarray) -> Counts:
        """The cells of these numbers [B], in this order."""
        if self._all is not None:
            return gather(self._all, numbers)
        blocks = self.block_of(numbers)
        source = self.source_of(numbers)
        row = (numbers - self.first[source]) % self.block
        order = np.argsort(blocks, kind="stable")
        cuts = np.flatnonzero(np.diff(blocks[order])) + 1
        parts = [gather(self._block(int(blocks[part[0]])), row[part]) for part in np.split(order, cuts)]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return gather(concatenate(parts), back)

    def empty(self) -> np.ndarray:
        """Which cells have no count in any gene of the vocabulary, ``bool`` [n]; known only where cells are in memory."""
        return np.diff(self._all.offsets) == 0 if self._all is not None else np.zeros(len(self), bool)

    def column(self, name: str) -> np.ndarray:
        """An ``.obs`` column of all cells, object [n]; ``file`` is each cell's file name.

        Raises
        ------
        KeyError
            If a file lacks it; names the file and its columns.
        """
        if name == "file":
            return np.array([s.name for s in self.sources], object)[self.source_of(np.arange(len(self)))]
        parts = []
        for source in self.sources:
            obs = source.view.obs
            if name not in obs:
                raise KeyError(f"{source.view.name} has no .obs column {name!r}; it has {', '.join(map(str, obs.columns)) or 'none'}")
            parts.append(obs[name].astype(object).to_numpy())
        return np.concatenate(parts)

    @property
    def measured(self) -> np.ndarray:
        """Which genes each source has, ``bool`` [S, V]."""
        return np.stack([s.measured for s in self.sources])
