"""What users have of cells, opened as one AnnData each: .h5ad, zarr, .h5mu, 10x, objects in memory or backed by a file."""

import glob
import json
import warnings
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from bmfm.cells.groups import MANIFEST, Collection
from bmfm.cells.obs import CellTable
from bmfm.cells.soma import Experiment, is_soma
from bmfm.cells.stores import CellStore, FileStore, ObjectStore
from bmfm.files import naming, require_file
from bmfm.places import is_experiment

SUFFIXES = (".h5ad", ".zarr", ".h5mu", ".h5")
TAKEN = (
    "an AnnData, a DataFrame of cells x genes, or paths of .h5ad, zarr, .h5mu, 10x .h5, 10x .mtx folders or SOMA experiments, one or a list"
)
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


def groups_of_collection(folder: Path) -> list[str] | None:
    """The groups of a collection that annbatch wrote, in their order, or one that ``bmfm shard_cells`` wrote, which is read as a whole; None where the
    folder is none."""
    if (folder / MANIFEST).is_file():
        return [str(folder)]
    mark = folder / "zarr.json"
    if not mark.is_file():
        return None
    with naming(mark):
        if json.loads(mark.read_text()).get("attributes", {}).get("encoding-type") != "annbatch-preshuffled":
            return None
    return [str(p) for p in sorted(folder.glob("dataset_*"), key=lambda p: (len(p.name), p.name))]


def _matrices(folder: Path) -> list[str]:
    """Names of 10x matrices in a folder; GEO puts the sample's name before each."""
    return sorted(p.name for p in folder.iterdir() if p.name.endswith(("matrix.mtx", "matrix.mtx.gz")) and not p.name.startswith("."))


def _is_10x_folder(folder: Path) -> bool:
    return bool(_matrices(folder))


def _read_10x_folder(folder: Path) -> Any:
    """One sample as Cell Ranger 2 or 3 wrote it, compressed or not, with a prefix or none."""
    matrices = _matrices(folder)
    if len(matrices) > 1:
        raise ValueError(f"{folder} holds {', '.join(matrices[:3])}: read one by scanpy.read_10x_mtx({str(folder)!r}, prefix=...)")
    prefix, compressed = matrices[0].split("matrix.mtx")[0], matrices[0].endswith(".gz")
    if compressed and (folder / f"{prefix}genes.tsv.gz").is_file():
        raise ValueError(f"{folder}: matrix, genes and barcodes of this age are read uncompressed: gunzip {folder}/{prefix}*.gz")
    how: dict[str, Any] = {"gex_only": False, "prefix": prefix or None}
    if not compressed and not (folder / f"{prefix}genes.tsv").is_file():
        if "compressed" not in signature(_scanpy().read_10x_mtx).parameters:  # 1.11 has none
            raise ValueError(
                f"{folder}: this scanpy reads matrix, features and barcodes compressed: gzip {folder}/{prefix}*, or a newer scanpy"
            )
        how["compressed"] = False
    return _read_whole(folder, lambda: _scanpy().read_10x_mtx(folder, **how))


def _inside(folder: Path) -> list[str]:
    """What can be read in a folder of files, by name; says what else lies there.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is nothing, or the same cells in several forms.
    """
    there = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    found = [p for p in there if p.suffix.lower() in SUFFIXES or (p.is_dir() and (_is_zarr(p) or _is_10x_folder(p) or is_soma(p)))]
    if not found:
        raise FileNotFoundError(f"{str(folder)!r} is a folder without .h5ad or .zarr (.h5mu, 10x .h5, 10x folders, SOMA experiments) inside; give other files by name or by a pattern")  # fmt: skip
    stems = [p.name.removesuffix(p.suffix).removeprefix("filtered_").removeprefix("raw_") for p in found]
    if twice := [p.name for p, stem in zip(found, stems, strict=True) if stems.count(stem) > 1]:
        raise ValueError(f"{str(folder)!r} holds the same cells several times, to go by their names ({', '.join(twice[:3])}): name one")
    if rest := [p.name for p in there if p not in found]:
        warnings.warn(f"{str(folder)!r}: {len(rest)} files are no cells by their names and left out (first: {rest[0]})", stacklevel=3)
    return [path for p in found for path in ((groups_of_collection(p) if p.is_dir() else None) or [str(p)])]


_CUT = "it was cut or damaged, copy or download it again"


def _why_not_hdf5(file: Path, error: OSError) -> str:
    """What is wrong with a file that HDF5 does not open, and what to do."""
    with file.open("rb") as stream:
        head = stream.read(8)
    if not head:
        return f"{file} is no .h5ad file: it is empty, copy or download it again"
    if head.startswith(b"\x1f\x8b"):
        return f"{file} is no .h5ad file but compressed by gzip: gunzip {file}"
    if head.startswith(b"PK"):
        return f"{file} is no .h5ad file but a zip archive: unzip {file}"
    if head == b"\x89HDF\r\n\x1a\n":
        return f"{file} is no .h5ad file that can be read ({error}): {_CUT}"
    way = _CONVERT.get(file.suffix.lower(), "adata.write_h5ad(...)").replace("PATH", repr(str(file)))
    return f"{file} is no .h5ad file ({error}); to have one: {way}"


def find_sources(data: Any) -> list[Any]:
    """Cells as a list of what `AnnDataView` opens: of a path, a pattern, a folder of files, an object, or a list of these.

    Raises
    ------
    FileNotFoundError
        If a pattern or a folder holds none.
    """
    if isinstance(data, list | tuple):
        return [found for part in data for found in find_sources(part)]
    if not isinstance(data, str | Path) or is_experiment(data):
        return [data]
    path = Path(data).expanduser()
    if path.exists() and not path.is_dir():
        return [data]
    if not path.exists() and any(c in str(data) for c in "*?["):
        matches = sorted(glob.glob(str(path)))  # noqa: PTH207 (a pattern may be absolute)
        if not matches:
            raise FileNotFoundError(f"{str(data)!r}: no file matches this pattern")
        return list(matches)
    if path.is_dir() and (groups := groups_of_collection(path)) is not None:
        return list(groups)
    if path.is_dir() and not _is_zarr(path) and not _is_10x_folder(path) and not is_soma(path):
        return list(_inside(path))
    return [data]


class AnnDataView:
    """One AnnData, on disk or in memory, as matrices, obs and var.

    Files are read in blocks where their layout allows it: .h5ad and zarr, the ``rna`` modality of .h5mu, and SOMA experiments. Others, and
    what anndata wrote before version 0.7, are read whole by anndata's or scanpy's own reader.

    Parameters
    ----------
    source
        Path, the address of a SOMA experiment, `anndata.AnnData` (in memory or backed), or a DataFrame of cells (rows) by genes (columns).

    Attributes
    ----------
    store
        What holds the cells.
    """

    def __init__(self, source: Any):
        self.store = _open(source)

    @property
    def name(self) -> str:
        """What holds the cells, for messages."""
        return self.store.name

    def keys(self) -> list[str]:
        """Matrices that may hold counts, likeliest first: ``X``, ``raw``, layers named as counts are, other layers by name."""
        first, layers = self.store.keys()
        return first + [f"layers/{name}" for name in sorted(layers, key=lambda name: (_rank(name), name))]

    def matrix(self, key: str) -> Any:
        """The matrix of a key, as `Matrix` takes it."""
        return self.store.matrix(key)

    def var(self, key: str) -> pd.DataFrame:
        """What is said of the genes of a matrix."""
        return self.store.var(key)

    @property
    def table(self) -> CellTable:
        """What is known of the cells, of which a file's columns are read where they are asked for."""
        return self.store.table

    @cached_property
    def obs(self) -> pd.DataFrame:
        """All of `table`, in memory from then on."""
        with naming(self.name, "obs"):
            return self.table.frame()

    def uns(self, key: str) -> Any:
        """An entry of ``.uns``; None where there is none."""
        return self.store.uns(key)

    def varm(self, key: str) -> Any:
        """An entry of ``.varm``; None where there is none."""
        return self.store.varm(key)

    def whole(self) -> Any:
        """Everything, as an AnnData in memory; an object that was given is copied."""
        return self.store.whole()


def _open(source: Any) -> CellStore:
    """What holds the cells of a source."""
    if not isinstance(source, str | Path):
        return ObjectStore(_as_anndata(source))
    path = Path(source).expanduser()
    if is_experiment(source) or is_soma(path):
        return Experiment(source if is_experiment(source) else str(path))
    if (path / MANIFEST).is_file():
        return Collection(path)
    if path.is_dir() and _is_10x_folder(path):
        return ObjectStore(_read_10x_folder(path), str(path))
    if path.is_dir():
        return _of_this_age(FileStore(_zarr_group(path), path))
    file = require_file(path, "AnnData file (.h5ad or zarr)")
    with naming(file):
        store = _open_hdf5(file)
    return _of_this_age(store) if isinstance(store, FileStore) else store


def _zarr_group(folder: Path) -> Any:
    import zarr

    try:
        return zarr.open_group(folder, mode="r")
    except Exception as error:
        raise ValueError(f"{folder} is a folder but no zarr AnnData ({error})") from None


def _open_hdf5(file: Path) -> CellStore:
    import h5py

    try:
        group = h5py.File(file, "r")
    except OSError as error:
        raise ValueError(_why_not_hdf5(file, error)) from None
    if "mod" in group:
        kinds = list(group["mod"])
        kind = next((k for k in ("rna", "RNA", "gex", "GEX", *(kinds if len(kinds) == 1 else [])) if k in kinds), None)
        if kind is None:
            raise ValueError(f"{file} holds {', '.join(kinds)}, none called rna: mudata.read_h5mu({str(file)!r})[NAME].write_h5ad(...)")
        return FileStore(group["mod"][kind], file, kind)
    if "row_attrs" in group:
        raise ValueError(f"{file} is a .loom file; to have .h5ad: {_CONVERT['.loom'].replace('PATH', repr(str(file)))}")
    if "obs" not in group and ("matrix" in group or any("barcodes" in g for g in group.values() if isinstance(g, h5py.Group))):
        group.close()
        return ObjectStore(_read_whole(file, lambda: _scanpy().read_10x_h5(file, gex_only=False)), str(file))
    return FileStore(group, file)


def _of_this_age(store: FileStore) -> CellStore:
    """The same, or where anndata wrote it before version 0.7 an object, read whole."""
    with naming(store.name):
        if _is_current(store.group):
            return store
    import anndata

    path = store.path
    reader = anndata.io.read_zarr if path.is_dir() else anndata.io.read_h5ad
    return ObjectStore(_read_whole(path, lambda: reader(path)), store.name)


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


def _is_current(group: Any) -> bool:
    """Whether obs and var are laid out as anndata writes them since 0.7; before, tables were arrays of records."""
    return "raw.X" not in group and all(
        name in group and "_index" in dict(group[name].attrs) and dict(group[name].attrs).get("encoding-type", "dataframe") == "dataframe"
        for name in ("obs", "var")
    )


def _read_whole(path: Path, read):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names that are not unique, old formats
            return read()
    except ImportError:
        raise
    except Exception as error:
        said = str(error).strip().split("\n")[0] or type(error).__name__
        if "genome" in said:
            raise ValueError(
                f"{path} holds several genomes ({said}): scanpy.read_10x_h5({str(path)!r}, genome=NAME).write_h5ad(...)"
            ) from None
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
        if isinstance(source.columns, pd.MultiIndex):
            raise ValueError(
                "DataFrame of cells x genes: its columns have several levels; keep the one with genes: frame.columns.get_level_values(0)"
            )
        index, columns = source.index.astype(str), source.columns.astype(str)
        plain = all(isinstance(kind, np.dtype) for kind in source.dtypes)
        values = source.to_numpy() if plain else source.to_numpy(dtype=np.float64, na_value=np.nan)
        return anndata.AnnData(values, obs=pd.DataFrame(index=index), var=pd.DataFrame(index=columns))
    if isinstance(source, np.ndarray) or sp.issparse(source):
        raise ValueError(
            f"a matrix of shape {source.shape} does not name its genes: give anndata.AnnData(matrix, var=pd.DataFrame(index=genes)), "
            "or a DataFrame whose columns are genes"
        )
    if type(source).__name__ == "MuData":
        raise ValueError("of a MuData give the modality that holds genes, as mdata['rna']")
    raise ValueError(f"cells cannot be read from {type(source).__name__}: give {TAKEN}")
