"""Experiments of TileDB-SOMA beside the AnnData that they were written from, as anndata has it."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from bmfm.cells.formats import AnnDataView, find_sources
from bmfm.cells.sources import open_source
from bmfm.data.rna import RnaDataModule
from bmfm.files import ASSETS
from bmfm.places import is_experiment
from bmfm.tokenizers.rna import CellTokenizer

tiledbsoma = pytest.importorskip("tiledbsoma")
io = pytest.importorskip("tiledbsoma.io")

N = 150


@pytest.fixture(scope="module")
def cells():
    adata = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:N, :1500].copy()
    adata.X = sp.csr_matrix(adata.X.astype(np.float32))
    adata.obs["donor"] = pd.Categorical(np.array(["a", "b", "c"])[np.arange(N) % 3])
    adata.obs["age"] = np.arange(N) / 7
    return adata


@pytest.fixture(scope="module")
def experiment(cells, tmp_path_factory):
    folder = tmp_path_factory.mktemp("soma") / "cells.soma"
    io.from_anndata(str(folder), cells, "RNA")
    return folder


def module_of(path, **options) -> RnaDataModule:
    split = {"by": "random", "validation": 0.1, "test": 0.0}
    data = RnaDataModule(str(path), split, 64, 16, storage="disk", block=32, buffer_blocks=3, statistics_cells=16, **options)
    data.connect(CellTokenizer())
    return data


def test_cells_genes_and_labels_are_those_of_the_anndata(cells, experiment):
    view = AnnDataView(experiment)
    assert view.keys() == ["X"] and view.var("X").index.tolist() == cells.var_names.tolist()
    assert view.table.names.tolist() == cells.obs_names.tolist() and view.table.name_of(7) == cells.obs_names[7]
    for column in ("cell_type", "donor"):
        assert view.table.column(column).astype(str).tolist() == cells.obs[column].astype(str).tolist()
    np.testing.assert_array_equal(view.table.column("age"), cells.obs["age"])
    stored = view.matrix("X")
    for rows in (slice(0, 40), slice(N - 5, N + 9), slice(3, 3)):
        assert (stored[rows] != cells.X[rows]).nnz == 0
    whole = view.whole()
    assert (whole.X != cells.X).nnz == 0 and whole.obs_names.equals(cells.obs_names) and whole.var_names.equals(cells.var_names)


def test_training_reads_what_it_reads_of_h5ad(cells, experiment, tmp_path):
    """The same batches, with two workers that are forked from a process that has it open."""
    cells.write_h5ad(tmp_path / "cells.h5ad")
    expected, data = module_of(tmp_path / "cells.h5ad"), module_of(experiment, num_workers=2)
    assert data.column("cell_type").tolist() == cells.obs["cell_type"].astype(object).tolist()
    for _, one, other in zip(range(12), expected.training_batches(), data.training_batches(), strict=False):
        for name in ("example_keys", "input_ids", "values"):
            np.testing.assert_array_equal(one[name].numpy(), other[name].numpy())
    assert find_sources(experiment.parent) == [str(experiment)]
    assert len(AnnDataView(f"file://{experiment}").table) == N and is_experiment("s3://census/2025-01-30/soma/census_data/homo_sapiens")
    assert not is_experiment("s3://bucket/cells.h5ad") and not is_experiment("cells.soma")


def test_cells_that_were_taken_out_leave_a_gap_that_is_no_cell(cells, experiment, tmp_path):
    """``soma_joinid`` of the cells is then no range."""
    kept = np.flatnonzero(np.arange(N) % 10 != 4)
    with tiledbsoma.Experiment.open(str(experiment)) as whole, tiledbsoma.Experiment.create(str(tmp_path / "part.soma")) as part:
        query = whole.axis_query("RNA", obs_query=tiledbsoma.AxisQuery(coords=(kept.tolist(),)))
        obs, X = query.obs().concat(), query.X("data").tables().concat()
        var = whole.ms["RNA"].var.read().concat()
        table = part.add_new_dataframe("obs", schema=obs.schema, domain=[[0, N - 1]])
        table.write(obs)
        measurement = part.add_new_collection("ms").add_new_collection("RNA", tiledbsoma.Measurement)
        measurement.add_new_dataframe("var", schema=var.schema, domain=[[0, len(var) - 1]]).write(var)
        layers = measurement.add_new_collection("X")
        layers.add_new_sparse_ndarray("raw", type=X.schema.field("soma_data").type, shape=(N, len(var))).write(X)
    vocabulary = CellTokenizer().vocabulary
    source = open_source(str(tmp_path / "part.soma"), vocabulary)
    assert source.key == "layers/raw" and len(source) == len(kept) and source.view.table.name_of(5) == cells.obs_names[kept[5]]
    ids = vocabulary.match(cells.var).ids
    for start, stop in ((0, 4), (2, 40), (len(kept) - 3, len(kept))):
        expected = np.asarray(cells.X[kept[start:stop]][:, ids >= 0].sum(1)).ravel()
        np.testing.assert_allclose(source.read(start, stop).totals, expected)


def test_what_is_no_experiment_says_so(tmp_path):
    (tmp_path / "broken.soma" / "__group").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"broken\.soma is no SOMA experiment that can be read"):
        AnnDataView(tmp_path / "broken.soma")
    with tiledbsoma.Collection.create(str(tmp_path / "collection.soma")):
        pass
    with pytest.raises(ValueError, match="is a SOMACollection: name the experiment"):
        AnnDataView(tmp_path / "collection.soma")
