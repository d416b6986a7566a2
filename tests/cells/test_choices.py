"""Which matrix holds the counts, which features are genes, and what damaged files say; expected values are built by hand."""

import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from bmfm.cells.genes import GeneVocabulary
from bmfm.cells.sources import Cells, open_source

GENES = ["TP53", "CD3E", "MS4A1", "GNLY", "LYZ", "NKG7"]
vocabulary = GeneVocabulary.of_genes(GENES)


@pytest.fixture
def counts():
    return np.random.default_rng(0).poisson(2.0, (40, 6)).astype(np.float32) + (np.arange(40) == 7)[:, None]


def adata_of(matrix, genes=GENES, **more):
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(len(matrix) if isinstance(matrix, np.ndarray) else matrix.shape[0])])
    return ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=list(genes)), **more)


class TestWhichMatrix:
    @pytest.mark.parametrize(
        "names, taken",
        [
            ("umi binary", "umi"), ("raw_counts counts_binarized", "raw_counts"), ("a_binary counts", "counts"),
            ("ambiguous matrix spliced unspliced", "matrix"), ("counts spliced", "counts"), ("binary", "binary"),
        ],
    )  # fmt: skip
    def test_layers(self, counts, names, taken):
        adata = adata_of(np.log1p(counts / 3))
        parts = {"spliced": counts // 2, "unspliced": counts - counts // 2, "ambiguous": counts * 0 + 2}
        for name in names.split():
            adata.layers[name] = (counts > 0).astype(np.float32) if "binar" in name else parts.get(name, counts)
        assert open_source(adata, vocabulary).key == f"layers/{taken}"

    def test_parts_of_counts_are_never_taken_by_themselves(self, counts):
        adata = adata_of(np.log1p(counts / 3))
        adata.layers["spliced"], adata.layers["ambiguous"] = counts, counts
        with pytest.raises(ValueError, match=r"layers/ambiguous, layers/spliced hold parts of the counts.*counts=layers/ambiguous"):
            open_source(adata, vocabulary)
        assert open_source(adata, vocabulary, counts="layers/spliced").key == "layers/spliced"

    def test_a_binary_x_gives_way(self, counts):
        adata = adata_of((counts > 0).astype(np.float32))
        adata.layers["counts"] = counts
        assert open_source(adata, vocabulary).key == "layers/counts"

    def test_others_are_said(self, counts):
        adata = adata_of(np.log1p(counts / 3))
        adata.layers["counts"] = adata.layers["umi"] = counts
        with pytest.warns(UserWarning, match=r"read from layers/counts; layers/umi could be counts too"):
            source = open_source(adata, vocabulary)
        assert "layers/counts" in str(source.match)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert "layers" not in str(open_source(adata_of(counts), vocabulary).match)

    @pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
    def test_empty_cells_do_not_hide_what_a_matrix_is(self, counts, form):
        many = np.tile(counts, (20, 1))
        many[[0, 400, 799]] = 0
        adata = adata_of(form(np.log1p(many / 3)))
        adata.layers["counts"] = form(many)
        assert open_source(adata, vocabulary).key == "layers/counts"

    @pytest.mark.parametrize("value", [np.nan, -1, np.inf])
    def test_one_wrong_value(self, counts, value):
        wrong = counts.copy()
        wrong[5, 1] = value
        with pytest.raises(ValueError, match=r"cell 'cell5' \(row 5\), gene 'CD3E', is .*; correct or remove the cell$"):
            open_source(adata_of(wrong), vocabulary)

    def test_scaled_data_are_no_wrong_cell(self, counts):
        with pytest.raises(ValueError, match=r"no matrix holds raw counts.*expects=normalised"):
            open_source(adata_of(counts - counts.mean(0)), vocabulary)

    def test_counts_where_normalised_values_are_asked_for(self, counts):
        with pytest.raises(ValueError, match=r"no matrix holds normalised expression: X \(whole numbers"):
            open_source(adata_of(counts), vocabulary, expects="normalised")
        adata = adata_of(counts)
        adata.layers["logs"] = np.log1p(counts / 3)
        assert open_source(adata, vocabulary, expects="normalised").key == "layers/logs"


class TestDamagedFiles:
    @pytest.mark.parametrize("form", ["csr", "csc"])
    @pytest.mark.parametrize("index", [10**6, -3])
    def test_indices_out_of_range(self, tmp_path, counts, form, index):
        made = {"csr": sp.csr_matrix, "csc": sp.csc_matrix}[form](counts)
        adata_of(made).write_h5ad(tmp_path / "a.h5ad")
        with h5py.File(tmp_path / "a.h5ad", "r+") as file:
            file["X/indices"][made.indptr[4]] = index
        where = "cell 'cell4'" if form == "csr" else "column 4"
        with pytest.raises(ValueError, match=rf"a\.h5ad, X is damaged: {where}.* {index} of"):
            open_source(tmp_path / "a.h5ad", vocabulary).load()
        with pytest.raises(ValueError, match="is damaged"):
            Cells([open_source(tmp_path / "a.h5ad", vocabulary)]).take(np.arange(40))

    @pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix])
    @pytest.mark.parametrize("value", [10**7, -1, 0])
    def test_indptr(self, tmp_path, counts, form, value):
        adata_of(form(counts)).write_h5ad(tmp_path / "a.h5ad")
        with h5py.File(tmp_path / "a.h5ad", "r+") as file:
            file["X/indptr"][3] = value
        with pytest.raises(ValueError, match=r"a\.h5ad, X is damaged: its indptr"):
            open_source(tmp_path / "a.h5ad", vocabulary)

    @pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
    def test_obs_and_rows(self, tmp_path, counts, form):
        adata_of(form(counts)).write_h5ad(tmp_path / "a.h5ad")
        with h5py.File(tmp_path / "a.h5ad", "r+") as file:
            names = file["obs/_index"][:30]
            del file["obs/_index"]
            file["obs"].create_dataset("_index", data=names)
        with pytest.raises(ValueError, match="is damaged: it has 40 rows for 30 cells in obs"):
            open_source(tmp_path / "a.h5ad", vocabulary)
