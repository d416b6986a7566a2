"""Cells in every form that users have them in; anndata, scanpy and scipy say what is in them."""

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp
import zarr
from anndata.io import write_elem

from bmfm.cells.formats import AnnDataView, find_sources
from bmfm.cells.genes import GeneVocabulary
from bmfm.cells.sources import Cells, open_source
from bmfm.data.rna import RnaDataModule
from bmfm.inference.cells import read_cells
from bmfm.tokenizers.rna import CellTokenizer

GENES = ["TP53", "CD3E", "MS4A1", "GNLY", "LYZ", "NKG7"]
vocabulary = GeneVocabulary.of_genes(GENES)
SPLIT = {"by": "random", "validation": 0.2, "test": 0.2}


@pytest.fixture(scope="module")
def matrix():
    return np.random.default_rng(0).poisson(1.0, (30, 6)).astype(np.float32)


def adata_of(matrix, genes=GENES, **more):
    obs = pd.DataFrame({"kind": ["p", "q"] * (matrix.shape[0] // 2)}, index=[f"cell{i}" for i in range(matrix.shape[0])])
    return ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=list(genes)), **more)


def dense(*sources, **options) -> np.ndarray:
    """Counts [n, 6] of the six genes, as the package reads them."""
    cells = Cells([open_source(s, vocabulary, **options) for s in sources], block=7, cached_blocks=2)
    held = cells.take(np.arange(len(cells)))
    first = vocabulary.plain_ids[0]
    assert all(len(set(held.ids[a:b])) == b - a for a, b in zip(held.offsets[:-1], held.offsets[1:], strict=True))
    rows = np.repeat(np.arange(len(cells)), np.diff(held.offsets))
    return sp.coo_matrix((held.counts, (rows, held.ids - first)), (len(cells), len(GENES))).toarray()


class TestForms:
    @pytest.mark.parametrize("form", ["csr", "csc", "dense"])
    @pytest.mark.parametrize("view", [False, True])
    def test_backed(self, tmp_path, matrix, form, view):
        made = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.asarray}[form](matrix)
        adata_of(made).write_h5ad(tmp_path / "a.h5ad")
        backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
        source, expected = (backed[5:25], matrix[5:25]) if view else (backed, matrix)
        assert np.array_equal(dense(source), expected)
        opened = open_source(source, vocabulary)
        assert np.array_equal(dense(backed[[7, 3, 20]]), matrix[[7, 3, 20]]) and np.array_equal(dense(backed[:, ::-1]), matrix)
        assert len(opened.matrix.rows(0, 3)[0]) == 4 and opened.view.obs.index[0] == ("cell5" if view else "cell0")

    def test_frames(self, matrix):
        frame = pd.DataFrame(matrix, [f"c{i}" for i in range(30)], GENES)
        assert np.array_equal(dense(frame), matrix)
        assert np.array_equal(dense(frame[GENES[::-1]].astype(int)), matrix)
        with pytest.raises(ValueError, match=r"column 'kind' holds no numbers"):
            open_source(frame.assign(kind="x"), vocabulary)

    @pytest.mark.parametrize("source", [np.ones((2, 6)), sp.csr_matrix(np.ones((2, 6)))])
    def test_a_matrix_without_genes_is_refused(self, source):
        with pytest.raises(ValueError, match="does not name its genes"):
            open_source(source, vocabulary)

    @pytest.mark.parametrize("source", [None, 3, {"X": 1}])
    def test_others_are_refused(self, source):
        with pytest.raises(ValueError, match=f"cannot be read from {type(source).__name__}: give an AnnData"):
            list(read_cells(CellTokenizer(GENES), source, 20).chunks())

    def test_lists_patterns_and_folders(self, tmp_path, matrix):
        adata_of(sp.csr_matrix(matrix)).write_h5ad(tmp_path / "b.h5ad")
        adata_of(matrix[:, ::-1] + 1, GENES[::-1]).write_zarr(tmp_path / "c[1].zarr")
        expected = np.concatenate([matrix, matrix + 1])
        for given in (
            tmp_path, str(tmp_path / "*"), [tmp_path / "b.h5ad", str(tmp_path / "c[1].zarr")], (adata_of(matrix), adata_of(matrix + 1)),
            [[tmp_path / "b.h5ad"], adata_of(matrix + 1)],
        ):  # fmt: skip
            assert np.array_equal(dense(*find_sources(given)), expected)
            inputs = read_cells(CellTokenizer(GENES), given, 20)
            assert inputs.names.tolist() == [f"cell{i}" for i in range(30)] * 2
            assert sum(len(part) for _, part in inputs.chunks()) == 60
            data = RnaDataModule(given, SPLIT, 20, 4)
            data.connect(CellTokenizer(GENES))
            assert len(data.cells) == 60
        with pytest.raises(FileNotFoundError, match="no file matches"):
            find_sources(str(tmp_path / "*.nothing"))
        (tmp_path / "empty").mkdir()
        with pytest.raises(FileNotFoundError, match=r"without \.h5ad or \.zarr"):
            find_sources(tmp_path / "empty")
        with pytest.raises(ValueError, match="empty list"):
            read_cells(CellTokenizer(GENES), [], 20)

    @pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
    def test_paths_from_the_home_folder(self, tmp_path, matrix, monkeypatch, suffix):
        monkeypatch.setenv("HOME", str(tmp_path))
        adata = adata_of(sp.csr_matrix(matrix))
        adata.write_h5ad(tmp_path / "cells.h5ad") if suffix == ".h5ad" else adata.write_zarr(tmp_path / "cells.zarr")
        view = AnnDataView(f"~/cells{suffix}")
        assert view.name == str(tmp_path / f"cells{suffix}") and view.table.names.tolist() == adata.obs_names.tolist()
        assert np.array_equal(dense(f"~/cells{suffix}"), matrix) and np.array_equal(view.whole().X.toarray(), matrix)

    @pytest.mark.parametrize("kind", ["f8", ">f4", ">f8", ">i2", "f2", "i8", "?", "u1", "u2", "u4", "u8", "i1", "g"])
    @pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix])
    def test_types_of_numbers(self, matrix, kind, form):
        expected = matrix.astype(kind).astype(np.float32)
        try:
            made = form(matrix).astype(kind) if kind != "f2" or form is np.asarray else None
        except (TypeError, ValueError):
            made = None
        if made is None:
            made = form(matrix)
            made.data = made.data.astype(kind)
        adata = adata_of(matrix)
        adata.layers["held"] = made
        assert np.array_equal(dense(adata, counts="layers/held"), expected)

    def test_types_on_disk(self, tmp_path, matrix):
        for kind in (">f4", "f2", ">i4"):
            adata_of(sp.csr_matrix(matrix)).write_h5ad(tmp_path / "a.h5ad")
            with h5py.File(tmp_path / "a.h5ad", "r+") as file:
                values = file["X/data"][:].astype(kind)
                del file["X/data"]
                file["X"].create_dataset("data", data=values)
            assert np.array_equal(dense(tmp_path / "a.h5ad"), matrix)

    def test_what_is_no_number_is_named(self, matrix):
        adata = adata_of(matrix)
        adata.layers["odd"] = matrix.astype(complex)
        with pytest.raises(ValueError, match=r"layers/odd holds values of type complex128, real numbers"):
            open_source(adata, vocabulary, counts="layers/odd")

    @pytest.mark.parametrize("form", ["csr", "csc"])
    def test_repeated_entries_are_summed_as_scipy_sums_them(self, form):
        rng = np.random.default_rng(3)
        rows, columns = rng.integers(0, 30, 400), rng.integers(0, 6, 400)
        values = rng.integers(0, 4, 400).astype(np.float32)
        major, minor = (rows, columns) if form == "csr" else (columns, rows)
        order = np.argsort(major, kind="stable")
        indptr = np.concatenate([[0], np.cumsum(np.bincount(major, minlength=30 if form == "csr" else 6))])
        kind = sp.csr_matrix if form == "csr" else sp.csc_matrix
        repeated = kind((values[order], minor[order], indptr), (30, 6))
        assert not repeated.has_canonical_format
        summed = repeated.copy()
        summed.sum_duplicates()
        adata = adata_of(np.ones((30, 6), np.float32))
        adata.X = repeated
        assert np.array_equal(dense(adata), summed.toarray())


class TestLayouts:
    def old(self, path, matrix, raw=None):
        """A file as anndata 0.6 wrote it: tables are arrays of records, categories stand in uns."""
        obs = np.array([(f"cell{i}".encode(), i % 2) for i in range(30)], dtype=[("index", "S8"), ("kind", "i1")])
        with h5py.File(path, "w") as file:
            file["obs"] = obs
            file["var"] = np.array([(g.encode(),) for g in GENES], dtype=[("index", "S8")])
            for key, held in (("X", matrix), ("raw.X", raw)):
                if held is None:
                    continue
                csr = sp.csr_matrix(held)
                group = file.create_group(key)
                group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", csr.shape
                for name in ("data", "indices", "indptr"):
                    group[name] = getattr(csr, name)
            if raw is not None:
                file["raw.var"] = np.array([(g.encode(),) for g in GENES], dtype=[("index", "S8")])
            file.create_group("uns")["kind_categories"] = np.array([b"p", b"q"])

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("with_raw", [False, True])
    def test_files_of_anndata_06(self, tmp_path, matrix, with_raw):
        self.old(tmp_path / "old.h5ad", np.log1p(matrix) if with_raw else matrix, matrix if with_raw else None)
        oracle = ad.read_h5ad(tmp_path / "old.h5ad")
        assert np.array_equal(dense(tmp_path / "old.h5ad"), (oracle.raw if with_raw else oracle).X.toarray())
        opened = open_source(tmp_path / "old.h5ad", vocabulary)
        assert opened.key == ("raw" if with_raw else "X") and opened.view.obs.index.tolist() == oracle.obs_names.tolist()

    @pytest.mark.filterwarnings("ignore")
    def test_zarr_with_tables_of_records(self, tmp_path, matrix):
        adata_of(matrix).write_zarr(tmp_path / "old.zarr")
        group = zarr.open_group(tmp_path / "old.zarr", mode="r+", use_consolidated=False)
        for name, names in (("obs", [f"cell{i}" for i in range(30)]), ("var", GENES)):
            del group[name]
            table = np.array([(n.encode(), 1) for n in names], dtype=[("index", "S8"), ("n", "i4")])
            group.create_array(name, data=table)
        zarr.consolidate_metadata(group.store)
        assert np.array_equal(dense(tmp_path / "old.zarr"), matrix)

    def test_h5mu(self, tmp_path, matrix):
        for names in (("rna", "prot"), ("prot", "atac")):
            with h5py.File(tmp_path / "a.h5mu", "w") as file:
                for name in names:
                    write_elem(file, f"mod/{name}", adata_of(matrix if name == "rna" else matrix + 5))
            if "rna" in names:
                assert np.array_equal(dense(tmp_path / "a.h5mu"), matrix)
            else:
                with pytest.raises(ValueError, match=r"holds atac, prot, none called rna: mudata.read_h5mu"):
                    open_source(tmp_path / "a.h5mu", vocabulary)

    def test_10x(self, tmp_path, matrix):
        """Written by hand after 10x Genomics' description; an antibody bears a gene's name."""
        names, kinds = [*GENES, "LYZ"], ["Gene Expression"] * 6 + ["Antibody Capture"]
        table = np.concatenate([matrix, np.full((30, 1), 100)], 1).astype(np.int32)
        csc = sp.csc_matrix(table.T)
        with h5py.File(tmp_path / "filtered.h5", "w") as file:
            group = file.create_group("matrix")
            group["barcodes"] = np.array([f"cell{i}".encode() for i in range(30)])
            group["shape"] = np.array([7, 30])
            for name in ("data", "indices", "indptr"):
                group[name] = getattr(csc, name)
            features = {"id": [f"id{i}" for i in range(7)], "name": names, "feature_type": kinds, "genome": ["GRCh38"] * 7}
            for name, held in features.items():
                group[f"features/{name}"] = np.array([h.encode() for h in held])
        folder = tmp_path / "mtx"
        folder.mkdir()
        scipy.io.mmwrite(folder / "matrix.mtx", csc)
        (folder / "barcodes.tsv").write_text("".join(f"cell{i}-1\n" for i in range(30)))
        lines = [f"ENSG0000000000{i}\t{n}" for i, n in enumerate(names)]
        (folder / "genes.tsv").write_text("\n".join(lines) + "\n")
        (tmp_path / "mtx3").mkdir()
        for name in ("matrix.mtx", "barcodes.tsv", "features.tsv"):
            import gzip

            text = (
                (folder / name).read_text() if name != "features.tsv" else "".join(f"{x}\t{k}\n" for x, k in zip(lines, kinds, strict=True))
            )
            (tmp_path / "mtx3" / f"{name}.gz").write_bytes(gzip.compress(text.encode()))
        for source in (tmp_path / "filtered.h5", tmp_path / "mtx3"):
            opened = open_source(source, vocabulary)
            assert np.array_equal(dense(source), matrix), source
            assert opened.match.n_matched == 6 and opened.match.share == 1 and opened.match.how["no genes but Antibody Capture"] == 1
            assert opened.view.obs.index[1].startswith("cell1") and find_sources(source) == [source]
        assert dense(folder)[:, [0, 1, 2, 3, 5]].tolist() == matrix[:, [0, 1, 2, 3, 5]].tolist()

    def test_what_cannot_be_read_says_how_to_convert(self, tmp_path):
        with h5py.File(tmp_path / "a.loom", "w") as file:
            file.create_group("row_attrs")
        with pytest.raises(ValueError, match=r"\.loom file; .*scanpy.read_loom.*loompy"):
            AnnDataView(tmp_path / "a.loom")
        for name, way in (("a.csv", "scanpy.read_csv"), ("matrix.rds", "sceasy"), ("a.mtx", "barcodes"), ("a.h5ad", "write_h5ad")):
            (tmp_path / name).write_text("no HDF5")
            with pytest.raises(ValueError, match=f"{name} is no .h5ad file .*{way}"):
                AnnDataView(tmp_path / name)
        with h5py.File(tmp_path / "weights.h5", "w") as file:
            file["layer/kernel"] = np.ones(3)
        with pytest.raises(ValueError, match=r"weights.h5 .*(read|no)"):
            open_source(tmp_path / "weights.h5", vocabulary)


class TestCounts:
    @pytest.mark.parametrize("empty", [lambda m: np.zeros_like(m), lambda m: sp.csr_matrix(m.shape, dtype=np.float32), lambda m: None])
    @pytest.mark.parametrize("beside", ["layers/counts", "raw"])
    @pytest.mark.parametrize("on_disk", [False, True])
    def test_an_empty_matrix_is_passed_over(self, tmp_path, matrix, empty, beside, on_disk):
        adata = adata_of(matrix)
        if beside == "raw":
            adata.raw = adata.copy()
        else:
            adata.layers["a"], adata.layers["counts"] = np.log1p(matrix), sp.csr_matrix(matrix)
        adata.X = empty(matrix)
        source = tmp_path / "a.h5ad"
        if on_disk:
            adata.write_h5ad(source)
        opened = open_source(source if on_disk else adata, vocabulary)
        assert opened.key == beside and np.array_equal(dense(source if on_disk else adata), matrix)

    def test_zeros_that_are_only_in_the_sample(self, matrix):
        late = np.zeros_like(matrix)
        late[20] = 3
        assert np.array_equal(dense(adata_of(late)), late) and np.array_equal(dense(adata_of(sp.csr_matrix(late))), late)

    def test_no_counts_at_all(self, matrix):
        with pytest.raises(ValueError, match=r"holds no counts: X \(empty\), raw \(empty\)"):
            adata = adata_of(np.zeros_like(matrix))
            adata.raw = adata.copy()
            open_source(adata, vocabulary)
        other = adata_of(np.concatenate([np.zeros_like(matrix), np.ones((30, 1), np.float32)], 1), [*GENES, "unknown"])
        with pytest.raises(ValueError, match="AnnData in memory, X: no cell has a count in any gene"):
            list(read_cells(CellTokenizer(GENES), other, 20).chunks())

    @pytest.mark.parametrize("value", [np.nan, -1.0, 0.5, np.inf])
    @pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.csc_matrix])
    def test_a_wrong_value_is_named_with_file_cell_and_gene(self, tmp_path, matrix, value, form):
        for row in (0, 13):  # within the sample by which counts are found, or not (of a dense matrix)
            wrong = matrix.copy()
            wrong[row, 3] = value
            adata_of(form(wrong)).write_h5ad(tmp_path / "bad.h5ad")
            with pytest.raises(ValueError, match=rf"(?s)bad\.h5ad.*cell{row}\b.*GNLY|bad\.h5ad.*{value:.5g} of cell 'cell{row}'.*GNLY"):
                open_source(tmp_path / "bad.h5ad", vocabulary).load()

    def test_features_that_are_no_genes(self, matrix):
        adata = adata_of(np.concatenate([matrix, np.full((30, 3), 50)], 1), [*GENES, "CD3E", "LYZ", "chr1:1-2"])
        adata.var["feature_types"] = pd.Categorical(["Gene Expression"] * 6 + ["Antibody Capture"] * 2 + ["Peaks"])
        assert np.array_equal(dense(adata), matrix)
        match = open_source(adata, vocabulary).match
        assert match.n_genes == 6 and match.n_other == 3 and "2 no genes but Antibody Capture, 1 no genes but Peaks" in str(match)
        adata.var["feature_types"] = ["protein_coding"] * 6 + ["Antibody Capture"] * 3
        assert np.array_equal(dense(adata), matrix)

    def test_orthologs_are_saved_and_used(self, tmp_path, matrix, write):
        mouse = ["Trp53", "Cd3e", "Ms4a1", "Gnly", "Lyz2", "Nkg7"]
        table = write("mouse.tsv", "mouse\thuman\n" + "".join(f"{m}\t{h}\n" for m, h in zip(mouse, GENES, strict=True)))
        tokenizer = CellTokenizer(GENES)
        data = RnaDataModule(adata_of(matrix, mouse), SPLIT, 20, 4, orthologs=str(table))
        data.connect(tokenizer)
        tokenizer.save_pretrained(tmp_path)
        saved = CellTokenizer.from_pretrained(tmp_path)
        for given in ({}, {"orthologs": str(table)}, {"orthologs": dict(zip(mouse, GENES, strict=True))}):
            inputs = read_cells(saved if not given else CellTokenizer(GENES), adata_of(matrix, mouse), 20, **given)
            assert inputs.match.n_matched == 6
        again = RnaDataModule(adata_of(matrix, mouse), SPLIT, 20, 4)
        again.connect(saved)
        with pytest.raises(ValueError, match="give a table of orthologs"):
            read_cells(CellTokenizer(GENES), adata_of(matrix, mouse), 20)

    def test_every_remedy_is_an_option(self, matrix):
        few = adata_of(matrix, ["TP53", *(f"q{i}" for i in range(5))])
        with pytest.raises(ValueError, match="lower min_matched"):
            read_cells(CellTokenizer(GENES), few, 20)
        assert read_cells(CellTokenizer(GENES), few, 20, min_matched=0.1).match.n_matched == 1
        logs = adata_of(np.log1p(matrix))
        with pytest.raises(ValueError, match=r"no matrix holds raw counts: X \(has .*cell 'cell0'.*expects=normalised"):
            read_cells(CellTokenizer(GENES), logs, 20)
        assert read_cells(CellTokenizer(GENES, values={"kind": "as_is"}), logs, 20, expects="normalised").n_rows == 30
