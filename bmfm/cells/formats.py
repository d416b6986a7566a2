"""What users have of cells, opened as one AnnData each: .h5ad, zarr, .h5mu, 10x, objects in memory or backed by a file."""

import glob
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from bmfm.cells.matrix import RowsOf
from bmfm.files import require_file

SUFFIXES = (".h5ad", ".zarr")
TAKEN = "an AnnData, a DataFrame of cells x genes, or paths of .h5ad, zarr, .h5mu, 10x .h5 or 10x .mtx folders, one or a list"
_CONVERT = {
    ".loom": "scanpy.read_loom(PATH).write_h5ad(...), which needs loompy",
    ".csv": "scanpy.read_csv(PATH).write_h5ad(...)",
    ".tsv": "scanpy.read_csv(PATH, delimiter='\\t').write_h5ad(...)",
    ".txt": "scanpy.read_text(PATH).write_h5ad(...)",
    ".mtx": "give the folder that holds matrix, genes (or features) and barcodes, or scanpy.read_mtx(PATH).T with names of genes",
    ".rds": "in R: sceasy::convertFormat(x, from='seurat', to='anndata', outFile='cells.h5ad')",
}


def _is_zarr(folder: Path) -> bool:
    return any((folder / mark).exists() for mark in (".zgroup", "zarr.json", ".zattrs"))


def _is_10x_folder(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("matrix.mtx", "matrix.mtx.gz"))


def find_sources(data: Any) -> list[Any]:
    """Cells as a list of what `AnnDataView` opens: of a path, a pattern, a folder of files, an object, or a list of these.

    Raises
    ------
    FileNotFoundError
        If a pattern or a folder holds none.
    """
    if isinstance(data, list | tuple):
        return [found for part in data for found in find_sources(part)]
    if not isinstance(data, str | Path):
        return [data]
    path = Path(data).expanduser()
    if path.exists() and not path.is_dir():
        return [data]
    if not path.exists() and any(c in str(data) for c in "*?["):
        matches = sorted(glob.glob(str(path)))  # noqa: PTH207 (a pattern may be absolute)
        if not matches:
            raise FileNotFoundError(f"{str(data)!r}: no file matches this pattern")
        return list(matches)
    if path.is_dir() and not _is_zarr(path) and not _is_10x_folder(path):
        inside = sorted(str(p) for p in path.iterdir() if p.suffix in SUFFIXES)
        if not inside:
            raise FileNotFoundError(f"{str(data)!r} is a folder without .h5ad or .zarr inside; give other files by name or by a pattern")
        return list(inside)
    return [data]


class AnnDataView:
    """One AnnData, on disk or in memory, as matrices, obs and var.

    Files are read in blocks where their layout allows it: .h5ad and zarr, and the ``rna`` modality of .h5mu. Others, and
    what anndata wrote before version 0.7, are read whole by anndata's or scanpy's own reader.

    Parameters
    ----------
    source
        Path, `anndata.AnnData` (in memory or backed), or a DataFrame of cells (rows) by genes (columns).
    """

    def __init__(self, source: Any):
        self.adata: Any = None
        self.group: Any = None
        if isinstance(source, str | Path):
            self.name = str(source)
            self._open(Path(source).expanduser())
        else:
            self.name = "AnnData in memory"
            self.adata = _as_anndata(source)
            if self.adata.isbacked:
                self.name = str(self.adata.filename)

    def _open(self, path: Path) -> None:
        if path.is_dir() and _is_10x_folder(path):
            self.adata = _read_whole(path, lambda: _scanpy().read_10x_mtx(path, gex_only=False))
        elif path.is_dir():
            import zarr

            try:
                self.group = zarr.open_group(path, mode="r")
            except Exception as error:
                raise ValueError(f"{path} is a folder but no zarr AnnData ({error})") from None
        else:
            self._open_hdf5(require_file(path, "AnnData file (.h5ad or zarr)"))
        if self.group is not None and not _is_current(self.group):
            import anndata

            self.group = None
            reader = anndata.io.read_zarr if path.is_dir() else anndata.io.read_h5ad
            self.adata = _read_whole(path, lambda: reader(path))

    def _open_hdf5(self, file: Path) -> None:
        import h5py

        try:
            group = h5py.File(file, "r")
        except OSError as error:
            way = _CONVERT.get(file.suffix.lower(), "adata.write_h5ad(...)").replace("PATH", repr(str(file)))
            raise ValueError(f"{file} is no .h5ad file ({error}); to have one: {way}") from None
        if "mod" in group:
            kinds = list(group["mod"])
            kind = next((k for k in ("rna", "RNA", "gex", "GEX", *(kinds if len(kinds) == 1 else [])) if k in kinds), None)
            if kind is None:
                raise ValueError(f"{file} holds {', '.join(kinds)}, none called rna: mudata.read_h5mu({str(file)!r})[NAME].write_h5ad(...)")
            self.group, self.name = group["mod"][kind], f"{file}, {kind}"
        elif "row_attrs" in group:
            raise ValueError(f"{file} is a .loom file; to have .h5ad: {_CONVERT['.loom'].replace('PATH', repr(str(file)))}")
        elif "obs" not in group and ("matrix" in group or any("barcodes" in g for g in group.values() if isinstance(g, h5py.Group))):
            group.close()
            self.adata = _read_whole(file, lambda: _scanpy().read_10x_h5(file, gex_only=False))
        else:
            self.group = group

    def keys(self) -> list[str]:
        """Matrices that may hold counts, likeliest first: ``X``, ``raw``, layers named as counts are, other layers by name."""
        if self.adata is not None:
            held = [f"layers/{k}" for k in self.adata.layers]
            first = (["X"] if self.adata.isbacked or self.adata.X is not None else []) + (["raw"] if self.adata.raw is not None else [])
        else:
            held = [f"layers/{k}" for k in self.group.get("layers", ())]
            first = [k for k in ("X", "raw") if k in self.group and not _is_null(self.group[k])]
        return first + sorted(held, key=lambda k: (_rank(k.removeprefix("layers/")), k))

    def matrix(self, key: str):
        """The matrix of a key, as `Matrix` takes it."""
        if self.adata is None:
            return self.group["raw/X" if key == "raw" else key]
        if key == "X" and self.adata.isbacked and self.adata.is_view:
            return RowsOf(self.adata)
        return self.adata.X if key == "X" else self.adata.raw.X if key == "raw" else self.adata.layers[key.removeprefix("layers/")]

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

    def whole(self):
        """Everything, as an AnnData in memory; an object that was given is copied."""
        import anndata

        if self.adata is not None:
            return self.adata.to_memory(copy=True)
        if self.group.name not in ("/", ""):
            return anndata.io.read_elem(self.group)
        path = Path(self.name).expanduser()
        return (anndata.io.read_zarr if path.is_dir() else anndata.io.read_h5ad)(path)


_COUNTS = ("counts", "count", "raw_counts", "rawcounts", "counts_raw", "raw", "umi", "umis", "umi_counts", "matrix")
_DERIVED = ("norm", "log", "binar", "scale", "denoised", "decont", "corrected")


def _rank(layer: str) -> int:
    """How likely a layer of this name holds all raw counts, 0 first; ``matrix`` is velocyto's name for them."""
    name = layer.lower()
    if name in _COUNTS:
        return _COUNTS.index(name)
    if any(word in name for word in _DERIVED):
        return len(_COUNTS) + 2
    return len(_COUNTS) + (0 if any(word in name for word in ("count", "umi", "raw")) else 1)


def _is_null(element: Any) -> bool:
    """Whether it is what anndata writes for None."""
    return dict(element.attrs).get("encoding-type") == "null"


def _is_current(group: Any) -> bool:
    """Whether obs and var are laid out as anndata writes them since 0.7; before, tables were arrays of records."""
    return "raw.X" not in group and all(
        name in group and "_index" in dict(group[name].attrs) and dict(group[name].attrs).get("encoding-type", "dataframe") == "dataframe"
        for name in ("obs", "var")
    )


def _read_whole(path: Path, read):
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names that are not unique, old formats
            return read()
    except ImportError:
        raise
    except Exception as error:
        said = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is no AnnData that can be read ({said}); write one by adata.write_h5ad(...)") from None


def _scanpy():
    import scanpy

    return scanpy


def _as_anndata(source: Any):
    import anndata

    if isinstance(source, anndata.AnnData):
        return source
    if isinstance(source, pd.DataFrame):
        if other := [str(c) for c, kind in source.dtypes.items() if kind.kind not in "biuf"]:
            raise ValueError(
                f"DataFrame of cells x genes: column {other[0]!r} holds no numbers; leave out what is no gene ({len(other)} columns)"
            )
        index, columns = source.index.astype(str), source.columns.astype(str)
        return anndata.AnnData(source.to_numpy(), obs=pd.DataFrame(index=index), var=pd.DataFrame(index=columns))
    if isinstance(source, np.ndarray) or sp.issparse(source):
        raise ValueError(
            f"a matrix of shape {source.shape} does not name its genes: give anndata.AnnData(matrix, var=pd.DataFrame(index=genes)), "
            "or a DataFrame whose columns are genes"
        )
    if type(source).__name__ == "MuData":
        raise ValueError("of a MuData give the modality that holds genes, as mdata['rna']")
    raise ValueError(f"cells cannot be read from {type(source).__name__}: give {TAKEN}")
