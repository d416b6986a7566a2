"""An embedding, and a held-out example, is a function of the cell alone."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy
import scipy.sparse as sp

import bmfm
from bmfm.cells.counts import Counts, by_gene, content_keys
from bmfm.data.rna import RnaDataModule
from bmfm.files import ASSETS
from bmfm.inference.cells import read_cells
from bmfm.special import SEP
from bmfm.tokenizers.cell_order import ORDERS
from bmfm.tokenizers.cell_zeros import ZEROS
from bmfm.tokenizers.rna import CellTokenizer
from tests.conftest import cell_examples

SPLIT = {"by": "random", "validation": 0.3, "test": 0.3}


@pytest.fixture(scope="module")
def adata():
    adata = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:90].copy()
    adata.X = sp.csr_matrix(adata.X).astype(np.float32)
    adata.obs["label"] = np.where(np.arange(90) % 2, "a", "b")
    return adata


@pytest.fixture(scope="module")
def vocabulary_tokenizer():
    return CellTokenizer()


def examples(tokenizer, data, **options):
    inputs = read_cells(tokenizer, data, 100, **options)
    return cell_examples(inputs)


def same(a, b):
    return len(a) == len(b) and all(
        np.array_equal(x[0], y[0]) and np.array_equal(x[1], y[1]) and np.array_equal(x[2], y[2]) for x, y in zip(a, b, strict=True)
    )


@pytest.mark.filterwarnings("ignore:.*not seen")
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("zeros", ZEROS)
@pytest.mark.parametrize("depth", ["none", "downsample", "auto"])
def test_tokens_of_a_cell_depend_on_the_cell_alone(adata, order, zeros, depth, tmp_path):
    tokenizer = CellTokenizer(
        order=order, zeros=zeros, zero_share=0.3, sequence_dropout=0.3, read_depth={"mode": depth, "target": 9000, "min_total": 10}
    )
    tokenizer.gene_medians = np.random.default_rng(0).integers(1, 4, len(tokenizer)).astype(np.float32)  # with many equal ratios
    whole = examples(tokenizer, adata)
    shuffled = np.random.default_rng(0).permutation(adata.n_vars)
    assert same(examples(tokenizer, adata[40:60]), whole[40:60])
    assert same(examples(tokenizer, adata[::-1]), whole[::-1])
    assert same(examples(tokenizer, adata[:, shuffled]), whole)
    assert same(examples(tokenizer, [adata[50:], adata[:50]]), whole[50:] + whole[:50])
    renamed = adata.copy()
    renamed.obs_names = [f"x{i}" for i in range(90)]
    assert same(examples(tokenizer, renamed), whole)


@pytest.mark.filterwarnings("ignore:.*not seen")
def test_embeddings_of_a_cell_depend_on_the_cell_alone(cells_model, adata):
    model = bmfm.load(cells_model)
    whole = model.embed(adata, batch_size=32)
    np.testing.assert_allclose(model.embed(adata[30:70]), whole[30:70], atol=1e-5)
    np.testing.assert_allclose(model.embed(adata[::-1], batch_size=7), whole[::-1], atol=1e-5)
    assert np.array_equal(model.embed(adata[:, ::-1]), whole)
    assert not np.allclose(whole[0], whole[1], atol=1e-3)
    by_expression = model.embed(adata, order="descending")
    np.testing.assert_allclose(by_expression[:20], model.embed(adata[:20, ::-1], order="descending"), atol=1e-5)
    with pytest.raises(ValueError, match="choose from random"):
        model.embed(adata, order="up")
    said, part = model.predict(adata), model.predict(adata[30:70])
    assert said["type"][30:70].tolist() == part["type"].tolist()


def test_values_are_those_of_scanpy(adata, vocabulary_tokenizer):
    """Over the genes of the vocabulary: scanpy's normalize_total to 1e4, then log1p."""
    vocabulary = vocabulary_tokenizer.vocabulary
    match = vocabulary.match(adata.var)
    known, ids = adata[:, match.ids >= 0].copy(), match.ids[match.ids >= 0]
    scanpy.pp.normalize_total(known, target_sum=1e4)
    scanpy.pp.log1p(known)
    alone = np.bincount(ids, minlength=len(vocabulary))[ids] == 1  # genes that share an id are added before the logarithm
    inputs = read_cells(vocabulary_tokenizer, adata, 1 << 16)
    found = np.zeros((90, len(vocabulary)))
    for row, (genes, values, _) in enumerate(cell_examples(inputs)):
        found[row, genes] = values
    np.testing.assert_allclose(found[:, ids[alone]], known.X[:, alone].toarray(), atol=1e-6)


def test_by_gene_equals_scipy_sorting(adata):
    matrix = sp.csr_matrix(adata.X[:, np.random.default_rng(1).permutation(adata.n_vars)[:3000]])
    shuffled = np.random.default_rng(2).permutation(3000)
    given = sp.csr_matrix((matrix.data, shuffled[matrix.indices].astype(np.int32), matrix.indptr), matrix.shape)
    counts = Counts(given.indices.copy(), given.data.copy(), given.indptr.astype(np.int64))
    arranged = by_gene(counts, 3000)
    given.sort_indices()
    assert np.array_equal(arranged.ids, given.indices) and np.array_equal(arranged.counts, given.data)
    assert np.array_equal(content_keys(counts), content_keys(arranged)) and len(set(content_keys(counts))) == 90
    changed = Counts(counts.ids, counts.counts.copy(), counts.offsets)
    changed.counts[0] += 1
    assert (content_keys(changed) != content_keys(counts)).tolist() == [True] + [False] * 89


class TestHeldOut:
    def module(self, path, tokenizer, **options):
        data = RnaDataModule(path, SPLIT, max_tokens=100, batch_size=8, **options)
        data.connect(tokenizer)
        return data

    @pytest.mark.filterwarnings("ignore:.*not seen")
    @pytest.mark.parametrize("zeros", ["expressed", "batch_wise"])
    @pytest.mark.parametrize("depth", ["none", "downsample", "poisson"])
    def test_sees_what_inference_sees(self, adata, tmp_path, zeros, depth):
        tokenizer = CellTokenizer(zeros=zeros, sequence_dropout=0.5, read_depth={"mode": depth, "min_total": 1})
        data = self.module(adata, tokenizer)
        tokenizer.save_pretrained(tmp_path)
        saved = CellTokenizer.from_pretrained(tmp_path)
        expected = examples(saved, adata)
        n_prefix = len(tokenizer.prefix)
        seen = 0
        for part in ("validation", "test"):
            numbers = iter(data.numbers[part])
            for batch in data.held_out_loader(part):
                for ids, values in zip(batch["input_ids"].numpy(), batch["values"].numpy(), strict=True):
                    genes, shown, depths = expected[next(numbers)]
                    seen += 1
                    end = n_prefix + len(genes)
                    assert np.array_equal(ids[n_prefix:end], genes) and ids[end] == SEP
                    assert np.array_equal(values[n_prefix:end], shown)
                    if depths is not None:
                        np.testing.assert_allclose(values[n_prefix - 2 : n_prefix], depths)
                assert "targets" not in batch
        assert seen == len(data.numbers["validation"]) + len(data.numbers["test"]) > 40

    def test_is_shown_in_part_where_an_objective_asks_for_it(self, adata):
        def batches(source, need):
            data = self.module(
                source, CellTokenizer(sequence_dropout=0.5, zeros="batch_wise", read_depth={"mode": "downsample", "min_total": 1})
            )
            data.need(need)
            return list(data.held_out_loader("validation"))

        whole = batches(adata, set())
        part = batches(adata, {"shown_in_part"})
        assert all("targets" in b for b in part) and any((b["targets"] != b["values"]).any() for b in part)
        assert sum((b["values"] > 0).sum() for b in part) < sum((b["values"] > 0).sum() for b in whole)
        again = batches(adata[:, ::-1].copy(), {"shown_in_part"})
        assert all(bool((a[k] == b[k]).all()) for a, b in zip(part, again, strict=True) for k in ("input_ids", "values"))

    def test_training_is_keyed_by_epoch(self, adata):
        dataset = self.module(adata, CellTokenizer()).parts["train"]
        a, b = (dataset.__getitems__([(epoch, 3)])["input_ids"] for epoch in (0, 1))
        assert a.shape == b.shape and bool((a != b).any())


class TestDepthTarget:
    def test_it_is_the_training_cells_deepest_and_saved(self, adata, tmp_path):
        tokenizer = CellTokenizer(read_depth={"mode": "downsample"})
        data = RnaDataModule(adata, SPLIT, max_tokens=100, batch_size=8)
        data.connect(tokenizer)
        known = tokenizer.vocabulary.match(adata.var).ids >= 0
        totals = np.asarray(adata.X[:, known].sum(1)).ravel()
        tokenizer.save_pretrained(tmp_path)
        saved = CellTokenizer.from_pretrained(tmp_path)
        assert saved.read_depth["target"] == totals[data.numbers["train"]].max()
        shallow = adata[totals < np.median(totals)]
        for rows in (shallow, shallow[:1]):
            depths = np.array([e[2] for e in examples(saved, rows)])
            np.testing.assert_allclose(depths[:, 1], np.log1p(saved.read_depth["target"]), rtol=1e-6)
            np.testing.assert_allclose(depths[:, 0], np.log1p(np.asarray(rows.X[:, known].sum(1)).ravel()), rtol=1e-6)
        assert examples(saved, adata[:1], depth_target=5000)[0][2][1] == np.float32(np.log1p(5000))

    @pytest.mark.parametrize("kind", ["downsample", "poisson", "auto"])
    def test_a_model_saved_without_one_asks_for_it(self, adata, kind):
        tokenizer = CellTokenizer(read_depth={"mode": kind})
        with pytest.raises(ValueError, match=r"no target of read depth.*depth_target"):
            examples(tokenizer, adata)
        assert len(examples(tokenizer, adata, depth_target=1e4)) == 90
        with pytest.raises(ValueError, match="no tokens of read depth"):
            examples(CellTokenizer(), adata, depth_target=1e4)


class TestTruncation:
    def test_it_is_told_once_with_figures(self, adata):
        genes = pd.Index([f"G{i}" for i in range(50)])
        matrix = np.zeros((4, 50), np.float32)
        for row, n in enumerate((10, 20, 30, 5)):
            matrix[row, :n] = 1
        cells = anndata.AnnData(matrix, var=pd.DataFrame(index=genes))
        with pytest.warns(UserWarning) as told:
            list(read_cells(CellTokenizer(list(genes)), cells, 17).chunks())  # room for 15 of 10, 20, 30 and 5 genes
        assert [str(w.message) for w in told] == [
            "31% of all expressed genes are not seen, of 2 of 4 cells (longest cell 30 genes, max_tokens=17); max_tokens=32 shows all"
        ]
        data = RnaDataModule(cells, SPLIT, max_tokens=17, batch_size=2)
        data.connect(CellTokenizer(list(genes)))
        assert "are not seen" in data.notes.get("truncation, of some training cells", "") or len(data.numbers["train"]) < 4

    @pytest.mark.parametrize("zeros", ZEROS)
    def test_the_remedy_shows_all(self, adata, zeros, recwarn):
        tokenizer = CellTokenizer(zeros=zeros, zero_share=0.4)
        cells = adata[:5]
        with pytest.warns(UserWarning) as told:
            list(read_cells(tokenizer, cells, 100).chunks())
        enough = int(str(told[0].message).split("max_tokens=")[-1].split()[0])
        recwarn.clear()
        list(read_cells(tokenizer, cells, enough).chunks())
        assert not recwarn.list
