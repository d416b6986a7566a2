"""Files and folders as users have them, and what is said of those that cannot be read; expected values are built by hand."""

import gzip
import warnings
import zipfile
from inspect import signature

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy
import scipy.io
import scipy.sparse as sp

from bmfm.cells.formats import find_sources
from bmfm.cells.genes import GeneVocabulary
from bmfm.cells.sources import open_source
from bmfm.inference.annotate import annotate, check_annotated, check_joined, write_annotated
from bmfm.inference.cells import read_cells
from bmfm.tokenizers.rna import CellTokenizer

GENES = ["TP53", "CD3E", "MS4A1", "GNLY", "LYZ", "NKG7"]
vocabulary = GeneVocabulary.of_genes(GENES)


@pytest.fixture
def counts():
    return np.random.default_rng(0).poisson(2.0, (20, 6)).astype(np.float32)


@pytest.fixture
def adata(counts):
    return ad.AnnData(sp.csr_matrix(counts), pd.DataFrame(index=[f"cell{i}" for i in range(20)]), pd.DataFrame(index=GENES))


def totals(source):
    opened = open_source(source, vocabulary)
    opened.load()
    return opened.cached.totals


def ten_x(folder, counts, genes="features.tsv", prefix="", compressed=True):
    folder.mkdir(exist_ok=True)
    scipy.io.mmwrite(folder / f"{prefix}matrix.mtx", sp.coo_matrix(counts.T.astype(int)))
    kind = "" if genes == "genes.tsv" else "\tGene Expression"
    (folder / (prefix + genes)).write_text("".join(f"ENSGX{i}\t{g}{kind}\n" for i, g in enumerate(GENES)))
    (folder / f"{prefix}barcodes.tsv").write_text("".join(f"cell{i}\n" for i in range(len(counts))))
    for path in list(folder.iterdir()) if compressed else []:
        if path.suffix != ".gz":
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    return folder


@pytest.mark.parametrize("compressed, genes, prefix", [(True, "features.tsv", ""), (False, "features.tsv", ""), (False, "genes.tsv", ""), (True, "features.tsv", "GSM1_"), (False, "genes.tsv", "GSM1_")])  # fmt: skip
def test_folders_of_10x(tmp_path, counts, compressed, genes, prefix):
    folder = ten_x(tmp_path / "x", counts, genes, prefix, compressed)
    if not compressed and genes != "genes.tsv" and "compressed" not in signature(scanpy.read_10x_mtx).parameters:
        with pytest.raises(ValueError, match=r"gzip .*, or a newer scanpy"):
            totals(folder)
        return
    assert np.array_equal(totals(folder), counts.sum(1))


def test_folders_of_10x_that_cannot_be_read(tmp_path, counts):
    with pytest.raises(ValueError, match="gunzip"):
        totals(ten_x(tmp_path / "old", counts, "genes.tsv"))
    ten_x(tmp_path / "two", counts, prefix="GSM1_")
    with pytest.raises(ValueError, match=r"GSM1_matrix.mtx.gz, GSM2_matrix.mtx.gz: read one by scanpy\.read_10x_mtx\(.*prefix=\.\.\."):
        totals(ten_x(tmp_path / "two", counts, prefix="GSM2_"))


def test_folders_hold_every_form(tmp_path, adata, counts):
    adata.write_h5ad(tmp_path / "a.h5ad")
    adata.write_h5ad(tmp_path / ".hidden.h5ad")
    ten_x(tmp_path / "b", counts)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.warns(UserWarning, match=r"1 files are no cells.*notes\.txt"):
        found = find_sources(tmp_path)
    assert found == [str(tmp_path / "a.h5ad"), str(tmp_path / "b")] and np.array_equal(totals(found[1]), counts.sum(1))
    adata.write_zarr(tmp_path / "a.zarr")
    with pytest.raises(ValueError, match=r"several times.*a\.h5ad, a\.zarr"):
        find_sources(tmp_path)


def test_files_that_cannot_be_opened(tmp_path, adata):
    adata.write_h5ad(tmp_path / "a.h5ad")
    whole = (tmp_path / "a.h5ad").read_bytes()
    (tmp_path / "g.h5ad").write_bytes(gzip.compress(whole))
    (tmp_path / "cut.h5ad").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.h5ad").write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "z.h5ad", "w") as archive:
        archive.write(tmp_path / "a.h5ad")
    for name, said in (("g", "gunzip"), ("cut", "cut or damaged, copy"), ("empty", "is empty, copy"), ("z", "unzip")):
        with pytest.raises(ValueError, match=rf"{name}\.h5ad is no \.h5ad file.*{said}"):
            open_source(tmp_path / f"{name}.h5ad", vocabulary)


def test_backed_without_x(tmp_path, adata, counts):
    bare = ad.AnnData(obs=adata.obs, var=adata.var, layers={"counts": adata.X})
    bare.write_h5ad(tmp_path / "a.h5ad")
    assert np.array_equal(totals(ad.read_h5ad(tmp_path / "a.h5ad", backed="r")), counts.sum(1))


@pytest.mark.parametrize("kind", ["Int64", "Float32", "boolean"])
def test_nullable_frames(counts, kind):
    frame = pd.DataFrame(counts if kind != "boolean" else counts > 0, columns=GENES)
    assert np.array_equal(totals(frame.astype(kind)), frame.to_numpy().sum(1))
    frame = frame.astype(kind)
    frame.iloc[3, 1] = pd.NA
    with pytest.raises(ValueError, match=r"cell '3' \(row 3\), gene 'CD3E', is not a number"):
        totals(frame)
    frame.columns = pd.MultiIndex.from_arrays([GENES, GENES])
    with pytest.raises(ValueError, match="several levels"):
        totals(frame)


class TestResults:
    def test_what_cannot_be_annotated_is_refused_first(self, tmp_path, adata):
        adata.write_h5ad(tmp_path / "a.h5ad")
        for wrong in (str(tmp_path / "a.h5ad"), [adata], adata.to_df(), None):
            with pytest.raises(ValueError, match="annotate writes into an AnnData"):
                annotate(wrong, None, None)
        with pytest.raises(ValueError, match="view of a backed AnnData"):
            check_annotated(ad.read_h5ad(tmp_path / "a.h5ad", backed="r")[:3])

    def test_joined_files(self, tmp_path, adata):
        first, second = adata.copy(), adata.copy()
        first.obs["doublet"], first.obs["cluster"], second.obs["cluster"] = True, 1, "a"
        first.raw, first.uns["k"] = first, 1
        for suffix in ("h5ad", "zarr"):
            out = tmp_path / f"o.{suffix}"
            first.write_h5ad(tmp_path / "1.h5ad"), second.write_h5ad(tmp_path / "2.h5ad")
            with pytest.warns(UserWarning, match=r"joins 2 files, without raw, uns/k"):
                write_annotated([tmp_path / "1.h5ad", tmp_path / "2.h5ad"], out, np.zeros((40, 2)), None)
            found = ad.read_h5ad(out) if suffix == "h5ad" else ad.read_zarr(out)
            assert found.obs["cluster"].tolist() == ["1"] * 20 + ["a"] * 20 and found.obs["doublet"].notna().sum() == 20
        bare = ad.AnnData(obs=adata.obs, var=adata.var, layers={"counts": adata.X})
        with pytest.raises(ValueError, match="has no X and others have"):
            check_joined([adata, bare])

    def test_nothing_is_left_of_a_failure(self, tmp_path, adata):
        adata.write_h5ad(tmp_path / "a.h5ad")
        with pytest.raises(ValueError):
            write_annotated([tmp_path / "a.h5ad"], tmp_path / "o.h5ad", np.zeros((3, 2)), pd.DataFrame({"x": [1.0]}))
        assert [p.name for p in tmp_path.iterdir()] == ["a.h5ad"]


@pytest.mark.parametrize(
    "options, said", [({"min_matched": "x"}, "min_matched='x'"), ({"depth_target": "deep"}, "depth_target='deep' must be")]
)
def test_options_that_are_no_numbers(adata, options, said):
    with pytest.raises(ValueError, match=said):
        read_cells(CellTokenizer(GENES, read_depth={"mode": "auto", "target": 100}), adata, 20, **options)


def test_old_layouts_are_read_quietly(tmp_path, adata):
    import h5py

    adata.write_h5ad(tmp_path / "a.h5ad")
    with h5py.File(tmp_path / "a.h5ad", "r+") as file:
        for name in ("obs/_index", "var/_index"):
            file[name].attrs.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(open_source(tmp_path / "a.h5ad", vocabulary)) == adata.n_obs
