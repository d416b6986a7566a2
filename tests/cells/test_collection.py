"""Collections: the cells of many files, once each, shuffled, whoever dies when."""

import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from omegaconf import OmegaConf

from bmfm.cells.formats import find_sources
from bmfm.cells.sharding import run
from bmfm.cli import compose
from bmfm.files import ASSETS

N = 150


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Four files of other cells: one lacks genes, one a column; in one counts are a layer, one is zarr and stored by column."""
    folder = tmp_path_factory.mktemp("cells")
    whole = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")
    out = []
    for k in range(4):
        part = whole[k * N : (k + 1) * N, :2000].copy()
        part.X = sp.csr_matrix(part.X.astype(np.float32))
        part.obs_names = [f"{name}-{k}" for name in part.obs_names]
        part.obs["donor"], part.obs["depth"], part.obs["age"] = f"d{k}", np.asarray(part.X.sum(1)).ravel(), k + 20
        if k == 1:
            part = part[:, 300:].copy()
            del part.obs["age"]
        if k == 2:
            part.layers["counts"], part.X = part.X, sp.csr_matrix(part.X.multiply(0.5))
        if k == 3:
            part.X = part.X.tocsc()
            part.write_zarr(folder / "c3.zarr")
        else:
            part.write_h5ad(folder / f"c{k}.h5ad")
        out.append(part)
    return folder, out


def shard(folder: Path, output: Path, **settings) -> Path:
    run(OmegaConf.merge(compose("shard_cells", [f"path={folder}", f"output={output}", "progress=false", "cells=128", "chunk=1024", "shard=8192"]), settings))  # fmt: skip
    return output


@pytest.fixture(scope="module")
def collection(files, tmp_path_factory):
    return shard(files[0], tmp_path_factory.mktemp("out") / "all")


def groups_of(collection: Path):
    return [anndata.read_zarr(path) for path in find_sources(collection)]


def test_every_cell_is_there_once_as_it_was(files, collection):
    """Beside anndata's own union of the files."""
    parts = [p.copy() for p in files[1]]
    parts[2].X = parts[2].layers.pop("counts")
    expected = anndata.concat(parts, join="outer", fill_value=0)
    groups = groups_of(collection)
    assert len(groups) == 4 * N // 128 and [p.n_obs for p in groups] == json.loads((collection / "collection.json").read_text())["groups"]
    got = anndata.concat(groups)
    assert got.n_obs == 4 * N and set(got.obs_names) == set(expected.obs_names)
    got = got[expected.obs_names, expected.var_names]
    assert got.X.dtype == np.uint16 or got.X.dtype == np.uint8
    assert (sp.csr_matrix(expected.X) != got.X).nnz == 0
    for column in ("cell_type", "donor"):
        assert got.obs[column].astype(str).tolist() == expected.obs[column].astype(str).tolist()
    np.testing.assert_array_equal(got.obs["depth"].to_numpy(), expected.obs["depth"].to_numpy())
    np.testing.assert_array_equal(got.obs["age"].to_numpy(), expected.obs["age"].to_numpy(np.float64))
    assert got.obs["source_file"].tolist() == [f"c{k}.{'zarr' if k == 3 else 'h5ad'}" for k in range(4) for _ in range(N)]
    is_without = got.obs["source_file"] == "c1.h5ad"
    measured = groups[0].varm["gene_panel"][:, got.obs["gene_panel"]]
    names = groups[0].var_names
    assert measured[names.isin(parts[0].var_names[:300])][:, is_without].sum() == 0 and measured[:, ~is_without].all()
    assert pd.api.types.is_float_dtype(got.obs["age"]) and got.obs["age"].isna().sum() == N
