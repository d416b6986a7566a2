"""Files of cells: .h5ad and zarr, beside anndata's own reader."""

import io
import json
import os
import tempfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from bmfm.cells.formats import find_sources
from bmfm.cells.genes import GeneVocabulary
from bmfm.cells.sources import Cells, open_source
from tests.fuzz.harness import Fault, Files, Target, oracle, quickly, refusing, same
from tests.fuzz.mutations import BINARY, NUMBERS, VALUES, damaged, damaged_json

GENES = ["TP53", "CD3E", "MS4A1", "GNLY", "LYZ", "NKG7"]
VOCABULARY = GeneVocabulary.of_genes(GENES)
FORMS = ["csr", "csc", "dense"]


def _cells(seed: int) -> anndata.AnnData:
    random, numbers = Random(seed), np.random.default_rng(seed)
    n = random.choice([1, 5, 40])
    matrix: Any = numbers.poisson(0.8, (n, len(GENES))).astype(random.choice([np.float32, np.int32, np.float64]))
    matrix[0, 0] = 3
    matrix = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[random.choice(FORMS)](matrix)
    obs = pd.DataFrame(
        {"kind": pd.Categorical([f"k{i % 3}" for i in range(n)]), "depth": np.arange(n)}, index=[f"cell{i}" for i in range(n)]
    )
    made = anndata.AnnData(matrix, obs=obs, var=pd.DataFrame({"name": GENES}, index=GENES))
    if not random.randrange(3):
        made.layers["counts"] = made.X.copy()
        made.X = made.X * 0.5
    return made


@cache
def _h5ad(process: int, seed: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        options = {0: {}, 1: {"compression": "gzip"}, 2: {"compression": "lzf"}}[seed % 3]
        _cells(seed).write_h5ad(Path(folder) / "x.h5ad", **options)
        return (Path(folder) / "x.h5ad").read_bytes()


@cache
def _zarr(process: int, seed: int) -> Files:
    with tempfile.TemporaryDirectory() as folder, anndata.settings.override(zarr_write_format=2 + seed % 2):
        path = Path(folder) / "x.zarr"
        _cells(seed).write_zarr(path, chunks=(8, 3) if seed % 4 == 2 else None)
        return {str(p.relative_to(folder)): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def _inside(data: bytes, random: Random) -> bytes:
    """A file of HDF5 with other contents: values, attributes and parts changed by HDF5 itself."""
    buffer = io.BytesIO(data)
    with h5py.File(buffer, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        part = file[random.choice([n for n in names if n.startswith(("X", "obs", "var", "layers"))])]
        match random.randrange(5):
            case 0:
                del file[part.name]
            case 1 if part.attrs:
                name = random.choice(list(part.attrs))
                part.attrs[name] = random.choice(["csr_matrix", "dataframe", "x", "", 3, np.array([4, 2**40]), np.array([-1, 6]), 2.5, np.array(["a", "b"], object)])  # fmt: skip
            case 2 if part.attrs:
                del part.attrs[random.choice(list(part.attrs))]
            case 3 if isinstance(part, h5py.Dataset) and part.shape:
                values = part[:]
                del file[part.name]
                file[part.name] = random.choice(
                    [
                        values[:-1],
                        values[None],
                        values.astype("S") if values.dtype.kind != "O" else np.arange(len(values)),
                        np.concatenate([values, values]),
                    ]
                )
            case _ if isinstance(part, h5py.Dataset) and part.shape and part.size:
                values = part[:].ravel()
                if values.dtype.kind in "iuf":
                    with np.errstate(all="ignore"):
                        values[random.randrange(len(values))] = np.array(random.choice([*NUMBERS[:10], -1])).astype(values.dtype)
                        if values.dtype.kind == "f" and random.randrange(2):
                            values[random.randrange(len(values))] = random.choice([np.nan, np.inf, -1, 0.5, 1e30])
                elif values.dtype.kind == "O":
                    values[random.randrange(len(values))] = random.choice([b"", b"\xff\xfe", b"cell0", b"a" * 9000, "é".encode()])
                part[...] = values.reshape(part.shape)
    return buffer.getvalue()


def make_h5ad(random: Random) -> Files:
    data = _h5ad(os.getpid(), random.randrange(12))
    if random.randrange(3):
        changed = oracle(lambda: _inside(data, random))
        data = data if changed is None else changed
    else:
        data = damaged(data, random, BINARY)
    return {"x.h5ad": data}


def make_zarr(random: Random) -> Files:
    files = dict(_zarr(os.getpid(), random.randrange(4)))
    for _ in range(random.choice([0, 1, 1, 2])):
        name = random.choice(list(files))
        match random.randrange(4):
            case 0:
                del files[name]
            case 1 if name.rsplit("/", 1)[-1] in ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"):
                content = oracle(lambda n=name: json.loads(files[n]))
                files[name] = json.dumps(damaged_json(content, random) if content else random.choice(VALUES)).encode(
                    "utf-8", "surrogatepass"
                )
            case _:
                files[name] = damaged(files[name], random, BINARY, 1)
    return files


def _by_anndata(file: Path) -> anndata.AnnData:
    return anndata.read_zarr(file) if file.is_dir() else anndata.read_h5ad(file)


def check_cells(folder: Path) -> bool:
    file = next((p for p in folder.iterdir()), folder / "x.zarr")
    with refusing(str(file)):
        sources = [open_source(found, VOCABULARY) for found in find_sources(file)]
        source = sources[0]
        cells = Cells([source], block=7, cached_blocks=2)
        held = cells.take(np.arange(len(cells)))
        obs = source.view.obs
    if len(held) != len(obs) or not (np.isfinite(held.counts).all() and (held.counts >= 0).all()):
        raise Fault(f"{len(held)} cells with counts {held.counts[:9]}")
    theirs = oracle(lambda: _by_anndata(file))
    if theirs is None:
        return True
    matrix = theirs.X if source.key == "X" else theirs.layers[source.key.removeprefix("layers/")]
    expected = np.asarray(matrix.toarray() if sp.issparse(matrix) else matrix, np.float64)
    found = np.zeros((len(held), len(VOCABULARY)))
    np.add.at(found, (np.repeat(np.arange(len(held)), np.diff(held.offsets)), held.ids), held.counts)
    columns = np.zeros_like(found)
    for column, number in enumerate(source.match.ids):
        if number >= 0:
            columns[:, number] += expected[:, column]
    if not np.allclose(found, columns, rtol=1e-5):
        raise Fault(f"counts {found.sum(1)[:8]} here, {columns.sum(1)[:8]} by anndata")
    same(list(obs.index), list(theirs.obs.index), "names of cells")
    for name in obs.columns:
        same(list(map(str, obs[name])), list(map(str, theirs.obs[name])), f"column {name}")
    return True


H5AD = Target("h5ad", make_h5ad, check_cells)
ZARR = Target("zarr", make_zarr, check_cells)

test_h5ad = quickly(H5AD, 6)
test_zarr = quickly(ZARR, 4)
