"""Which matrix holds the counts, which features are genes, and what damaged files say; expected values are built by hand."""

import hashlib
import os
import warnings

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from bmfm.cells.genes import GeneVocabulary
from bmfm.cells.sources import Cells, open_source
from bmfm.data.rna import RnaDataModule
from bmfm.inference.annotate import annotate
from bmfm.inference.cells import read_cells
from bmfm.inference.frames import label_kinds, predictions_frame
from bmfm.inference.work_plan import digest
from bmfm.tokenizers.rna import CellTokenizer
from tests.conftest import cell_examples

GENES = ["TP53", "CD3E", "MS4A1", "GNLY", "LYZ", "NKG7"]
SPLIT = {"by": "random", "validation": 0.2, "test": 0.2}
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


class TestGenes:
    @pytest.mark.parametrize("column", ["feature_types", "Feature_Type", "modality", "feature_class", "Feature Types"])
    @pytest.mark.parametrize(
        "gene, other",
        [
            ("Gene Expression", "Antibody Capture"), ("gene_expression", "protein"), ("Transcriptome", "Protein"), ("mRNA", "AbSeq"),
            ("protein_coding", "ADT"), ("lncRNA", "HTO"), ("GEX", "something"), ("rna", "prot"), ("Gene", "Multiplexing Capture"),
        ],
    )  # fmt: skip
    def test_antibodies_of_any_spelling(self, counts, column, gene, other):
        adata = adata_of(np.concatenate([counts, np.full((40, 2), 50, np.float32)], 1), [*GENES, "CD3E", "GNLY"])
        adata.var[column] = pd.Categorical([gene] * 6 + [other] * 2)
        source = open_source(adata, vocabulary)
        source.load()
        assert np.array_equal(source.cached.totals, counts.sum(1)) and f"2 no genes but {other}" in str(source.match)

    def test_biotypes_are_genes(self, counts):
        adata = adata_of(counts)
        adata.var["gene_biotype"] = ["protein_coding", "lncRNA", "TEC", "IG_C_gene", "processed_pseudogene", "antisense"]
        adata.var["type"] = ["a", "b", "c", "d", "e", np.nan]
        assert open_source(adata, vocabulary).match.n_matched == 6

    def test_raw_asks_var(self, counts):
        both = adata_of(np.concatenate([counts, np.full((40, 1), 50, np.float32)], 1), [*GENES, "CD4"])
        adata = both.copy()
        adata.raw = both
        adata.X = np.log1p(adata.X / 3)
        adata.var["feature_types"] = ["Gene Expression"] * 6 + ["Antibody Capture"]
        source = open_source(adata, GeneVocabulary.of_genes([*GENES, "CD4"]))
        source.load()
        assert source.key == "raw" and np.array_equal(source.cached.totals, counts.sum(1))
        data = RnaDataModule(adata, SPLIT, 20, 4)
        tokenizer = CellTokenizer("from_data")
        data.connect(tokenizer)
        assert tokenizer.names[tokenizer.n_special :] == GENES

    def test_assemblies_before_names(self, counts):
        for prefix in ("GRCh38_", "hg19_", "GRCh38______"):
            mouse = [f"mm10_{n}" for n in ("Trp53", "Cd3e")]
            adata = adata_of(np.concatenate([counts, counts[:, :2]], 1), [*(prefix + g for g in GENES), *mouse])
            source = open_source(adata, vocabulary)
            source.load()
            assert np.array_equal(source.cached.totals, counts.sum(1)) and "after" in str(source.match)

    def test_a_column_called_index(self, counts):
        adata = adata_of(counts)
        adata.var["index"] = list("123456")
        assert open_source(adata, vocabulary).match.n_matched == 6

    def test_orthologs(self, counts):
        mouse = [f"ENSMUSG{i:011d}" for i in range(6)]
        table = dict(zip(mouse, GENES, strict=True))
        versions = [f"{m}.{i}" for i, m in enumerate(mouse)]
        for given in (table, pd.Series(table), pd.DataFrame({"m": mouse, "h": GENES}), dict(zip(versions, GENES, strict=True))):
            for names in (mouse, versions):
                assert read_cells(CellTokenizer(GENES), adata_of(counts, names), 20, orthologs=given).match.n_matched == 6
        tokenizer = CellTokenizer("from_data")
        RnaDataModule(adata_of(counts, versions), SPLIT, 20, 4, orthologs=table).connect(tokenizer)
        assert tokenizer.names[tokenizer.n_special :] == GENES


class TestExpects:
    def trained(self, folder, adata, kind, expects):
        tokenizer = CellTokenizer(GENES, values={"kind": kind})
        RnaDataModule(adata, SPLIT, 20, 4, expects=expects).connect(tokenizer)
        folder.mkdir(exist_ok=True)
        tokenizer.save_pretrained(folder)
        return CellTokenizer.from_pretrained(folder)

    def test_it_is_saved_and_asked_of_other_cells(self, tmp_path, counts):
        logs = adata_of(np.log1p(counts / 3))
        saved = self.trained(tmp_path, logs, "as_is", "normalised")
        assert read_cells(saved, logs, 20).n_rows == 40
        for wrong, more in ((adata_of(counts), {}), (logs, {"expects": "counts"})):
            with pytest.raises(ValueError, match=r"normalised"):
                read_cells(saved, wrong, 20, **more)
        with pytest.raises(ValueError, match=r"trained with expects=normalised; give it such values"):
            RnaDataModule(logs, SPLIT, 20, 4, expects="counts").connect(saved)

    def test_log_normalised_values_are_those_of_their_counts(self, tmp_path, counts):
        logs = adata_of(np.log1p(counts / counts.sum(1, keepdims=True) * 1e4))  # as scanpy's normalize_total and log1p
        saved = self.trained(tmp_path, adata_of(counts), "log_normalise", "counts")
        of_counts, of_logs = (
            [values for _, values, _ in cell_examples(read_cells(saved, a, 20, expects=e))]
            for a, e in ((adata_of(counts), "counts"), (logs, "normalised"))
        )
        for ours, theirs in zip(of_counts, of_logs, strict=True):
            np.testing.assert_allclose(np.sort(ours), np.sort(theirs), rtol=1e-6)
        assert self.trained(tmp_path / "n", logs, "log_normalise", "normalised").values["kind"] == "as_is"

    @pytest.mark.parametrize("kind", ["normalise", "log1p", "bins"])
    def test_nothing_is_normalised_twice(self, tmp_path, counts, kind):
        logs = adata_of(np.log1p(counts / 3))
        with pytest.raises(ValueError, match=r"would normalise twice; give raw counts"):
            self.trained(tmp_path, logs, kind, "normalised")
        saved = self.trained(tmp_path, adata_of(counts), kind, "counts")
        with pytest.raises(ValueError, match=r"would normalise twice; give raw counts"):
            read_cells(saved, logs, 20, expects="normalised")

    def test_ranks_take_both(self, tmp_path, counts):
        assert self.trained(tmp_path, adata_of(np.log1p(counts / 3)), "ranks", "normalised").expects == "normalised"


class TestTraining:
    def test_empty_cells_on_disk_are_left_out(self, tmp_path, counts):
        counts[::2] = 0
        adata_of(sp.csr_matrix(counts)).write_h5ad(tmp_path / "a.h5ad")
        parts = {}
        for storage in ("memory", "disk"):
            data = RnaDataModule(tmp_path / "a.h5ad", SPLIT, 20, 4, storage=storage, block=7)
            data.connect(CellTokenizer(GENES, values={"target_sum": "median"}))
            parts[storage] = data.numbers
            assert not any((numbers % 2 == 0).any() for numbers in data.numbers.values())
            assert data.tokenizer.values["target_sum"] == np.median(counts[data.numbers["train"]].sum(1))
        assert all(np.array_equal(parts["memory"][p], parts["disk"][p]) for p in parts["disk"])
        adata_of(sp.csr_matrix(np.concatenate([counts * 0, np.ones((40, 1))], 1)), [*GENES, "other"]).write_h5ad(tmp_path / "none.h5ad")
        with pytest.raises(ValueError, match="no cell has a count in any gene"):
            RnaDataModule(tmp_path / "none.h5ad", SPLIT, 20, 4, storage="disk").connect(CellTokenizer(GENES))

    def test_median_is_of_all_training_cells(self, counts):
        data = RnaDataModule(adata_of(counts), SPLIT, 20, 4, statistics_cells=3)
        data.connect(CellTokenizer(GENES, values={"target_sum": "median"}, read_depth={"mode": "downsample"}))
        totals = counts[data.numbers["train"]].sum(1)
        assert data.tokenizer.values["target_sum"] == np.median(totals) and data.tokenizer.read_depth["target"] == totals.max()

    @pytest.mark.parametrize("zeros", ["measured", "interleaved", "all"])
    @pytest.mark.parametrize("max_tokens", [6, 20])
    def test_as_given_is_by_id(self, counts, zeros, max_tokens):
        tokenizer = CellTokenizer(GENES, order="as_given", zeros=zeros, values={"kind": "as_is"}, positions=True)
        examples = cell_examples(read_cells(tokenizer, adata_of(counts[:, ::-1].copy(), GENES[::-1]), max_tokens))
        first = tokenizer.plain_ids[0]
        for cell, (ids, values, _) in zip(counts, examples, strict=True):
            assert (np.diff(ids) > 0).all() and np.array_equal(values, cell[ids - first])


class TestNamesOfResults:
    def test_results_are_beside_one_another(self, tmp_path):
        adata = adata_of(np.ones((3, 6), np.float32))
        adata.obs["type"] = "truth"
        adata.obs.index.name = "score"
        said = pd.DataFrame(
            {
                "type": list("aba"),
                "type_predicted": [1.0, 2, 3],
                "type_p_NK/T": [4.0, 5, 6],
                "type_p_NK_T": [7.0, 8, 9],
                "score": [1.0, 0, 1],
            },
            index=adata.obs_names,
        )
        written = annotate(adata, None, said)
        assert len(set(written.values())) == 5 and (adata.obs["type"] == "truth").all()
        for suffix in ("h5ad", "zarr"):
            path = tmp_path / f"a.{suffix}"
            adata.write_zarr(path) if suffix == "zarr" else adata.write_h5ad(path)
            again = ad.read_zarr(path) if suffix == "zarr" else ad.read_h5ad(path)
            for name, where in written.items():
                assert again.obs[where.removeprefix("obs/")].tolist() == said[name].tolist()

    def test_a_head_called_as_a_probability(self):
        heads = {
            "type": {"kind": "bmfm.label_kinds.Classification", "size": 2, "classes": ["a", "b"]},
            "type_p_a": {"kind": "bmfm.label_kinds.Regression", "size": 1, "center": 100.0},
        }
        logits = {"type": np.zeros((2, 2)), "type_p_a": np.zeros((2, 1))}
        frame = predictions_frame(label_kinds(heads, None), logits, pd.RangeIndex(2))
        assert frame.columns.is_unique and frame["type_p_a"].tolist() == [100, 100] and frame["type_p_a_2"].tolist() == [0.5, 0.5]


def test_data_are_known_by_content(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    stat = path.stat()
    assert digest(path) == hashlib.sha256(b"x" * 100).hexdigest()
    path.write_bytes(b"x" * 50 + b"y" * 50)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert digest(path) == hashlib.sha256(b"x" * 50 + b"y" * 50).hexdigest()
