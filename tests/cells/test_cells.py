import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bmfm.cells import read_depth, values
from bmfm.cells.counts import Counts, align, concatenate, gather
from bmfm.cells.genes import GeneVocabulary, read_orthologs
from bmfm.cells.ontology import Ontology
from bmfm.cells.sources import Cells, open_source
from bmfm.hashing import example_keys
from tests.cells import reference_cells as reference

GENES = ["TP53", "CD3E", "MS4A1", "GNLY", "LYZ", "NKG7"]
vocabulary = GeneVocabulary.of_genes(GENES)


def adata_of(matrix, genes=GENES, **more):
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(matrix.shape[0])])
    return ad.AnnData(matrix, obs=obs, var=pd.DataFrame(index=list(genes)), **more)


@pytest.fixture(scope="module")
def matrix():
    return np.random.default_rng(0).poisson(1.0, (50, 6)).astype(np.float32)


def dense(cells: Cells, genes=GENES) -> np.ndarray:
    out = np.zeros((len(cells), len(genes)))
    held = cells.take(np.arange(len(cells)))
    for b in range(len(held)):
        for i in range(held.offsets[b], held.offsets[b + 1]):
            out[b, held.ids[i] - vocabulary.plain_ids[0]] += held.counts[i]
    return out


class TestGenes:
    def test_shipped_vocabularies(self):
        sizes = {name: GeneVocabulary.load(name) for name in ("protein_coding", "all_genes", "gene2vec")}
        assert {k: len(v) for k, v in sizes.items()} == {"protein_coding": 19283 + 38, "all_genes": 94911, "gene2vec": 24452}
        assert sizes["protein_coding"].names[36:39] == ["[S]", "[T]", "A1BG"]
        assert sizes["all_genes"].names[-2:] == ["[S]", "[T]"]

    def test_symbol_alias_ensembl_and_version(self):
        var = pd.DataFrame(index=["TP53", "P53", "ENSG00000198851.9", "LEU1", "nonsense"])
        match = vocabulary.match(var)
        assert match.ids[0] == vocabulary.ids["TP53"] and match.ids[2] == vocabulary.ids["CD3E"] and match.ids[4] == -1
        assert match.ids[1] == -1 and match.how["aliases of a gene that is there itself"] == 1
        assert "by symbol" in str(match) and "not in the vocabulary" in str(match)
        assert vocabulary.match(pd.DataFrame(index=["P53"])).ids[0] == vocabulary.ids["TP53"]

    def test_old_symbols_of_a_vocabulary_are_found_by_new_ones(self):
        old = GeneVocabulary.of_genes(["HIST1H2BN"])
        assert old.find("H2BC15") == (old.ids["HIST1H2BN"], "by alias")

    def test_best_column_is_taken_and_a_wrong_one_is_an_error(self):
        var = pd.DataFrame({"feature_name": GENES}, index=[f"x{i}" for i in range(6)])
        assert vocabulary.match(var).column == "feature_name" and vocabulary.match(var).share == 1
        with pytest.raises(KeyError, match="feature_name"):
            vocabulary.match(var, "symbols")

    def test_orthologs(self, write):
        table = read_orthologs(write("mouse.tsv", "mouse\thuman\nTrp53\tTP53\nCd3e\tCD3E\n"))
        assert (vocabulary.match(pd.DataFrame(index=["Trp53", "Cd3e"]), orthologs=table).ids > 0).all()

    def test_vocabulary_files(self, tmp_path, write):
        vocabulary.save(tmp_path / "v.txt")
        assert GeneVocabulary.load(tmp_path / "v.txt").names == vocabulary.names
        assert GeneVocabulary.load(write("genes.txt", "TP53\nLYZ\n")).names[-2:] == ["TP53", "LYZ"]
        with pytest.raises(ValueError, match="twice"):
            GeneVocabulary([*vocabulary.names, "TP53"])
        with pytest.raises(FileNotFoundError, match="protein_coding"):
            GeneVocabulary.load("protein_codin")


class TestSources:
    @pytest.mark.parametrize("form", ["csr", "csc", "dense", "layer", "raw", "zarr", "object", "disk", "dense on disk"])
    def test_every_form_gives_the_same_cells(self, tmp_path, matrix, form):
        made = {
            "csr": lambda: adata_of(sp.csr_matrix(matrix)),
            "csc": lambda: adata_of(sp.csc_matrix(matrix)),
            "layer": lambda: adata_of(np.log1p(matrix), layers={"my_counts": sp.csr_matrix(matrix)}),
        }
        adata = made.get(form, lambda: adata_of(sp.csr_matrix(matrix) if form in ("zarr", "object", "disk") else matrix))()
        if form == "raw":
            adata.raw = adata.copy()
            adata.X = np.log1p(adata.X)
        path = tmp_path / "a.h5ad"
        source = adata if form == "object" else path
        if form == "zarr":
            source = tmp_path / "a.zarr"
            adata.write_zarr(source)
        elif form != "object":
            adata.write_h5ad(path)
        opened = open_source(source, vocabulary)
        if "disk" not in form:
            opened.load()
        cells = Cells([opened], block=7, cached_blocks=2)
        assert (dense(cells) == matrix).all() and opened.key == {"layer": "layers/my_counts", "raw": "raw"}.get(form, "X")

    def test_files_are_aligned_by_gene(self, tmp_path, matrix):
        adata_of(sp.csr_matrix(matrix)).write_h5ad(tmp_path / "a.h5ad")
        order = [3, 1, 5, 0]
        other = np.concatenate([matrix[:, order], matrix[:, :1]], 1)
        adata_of(sp.csr_matrix(other), [*(GENES[i] for i in order), "unknown_gene"]).write_h5ad(tmp_path / "b.h5ad")
        sources = [open_source(tmp_path / n, vocabulary) for n in ("a.h5ad", "b.h5ad")]
        cells = Cells(sources, block=16)
        found = dense(cells)
        assert (found[:50] == matrix).all()
        assert (found[50:][:, order] == matrix[:, order]).all() and not found[50:][:, [2, 4]].any()
        assert cells.gene_panel_mask[:, -6:].tolist() == [[True] * 6, [i in order for i in range(6)]]
        assert (cells.column("file") == np.repeat(["a.h5ad", "b.h5ad"], 50)).all()

    def test_take_in_any_order_from_disk_and_memory(self, tmp_path, matrix):
        adata_of(sp.csr_matrix(matrix)).write_h5ad(tmp_path / "a.h5ad")
        disk = Cells([open_source(tmp_path / "a.h5ad", vocabulary)] * 2, block=8, cached_blocks=3)
        held = open_source(tmp_path / "a.h5ad", vocabulary)
        held.load()
        memory = Cells([held, held], block=8)
        numbers = np.random.default_rng(1).integers(0, 100, 40)
        a, b = disk.take(numbers), memory.take(numbers)
        assert all((getattr(a, n) == getattr(b, n)).all() for n in ("ids", "counts", "offsets")) and len(disk._cached) <= 3
        np.testing.assert_allclose(a.totals, matrix[numbers % 50].sum(1))

    @pytest.mark.parametrize(
        ("value", "said"), [(-1.0, "is negative"), (np.nan, "is not a number"), (np.inf, "is infinite"), (0.5, "is not a whole number")]
    )
    def test_values_that_are_no_counts(self, tmp_path, matrix, value, said):
        wrong = sp.csr_matrix(matrix)
        place = wrong.indptr[30]
        wrong.data[place] = value
        gene = GENES[wrong.indices[place]]
        adata_of(wrong).write_h5ad(tmp_path / "bad.h5ad")
        with pytest.raises(ValueError, match=f"(?s)bad.h5ad.*(cell30.*{gene}.*{said}|no matrix holds raw counts)"):
            open_source(tmp_path / "bad.h5ad", vocabulary, counts="X").load()

    def test_normalised_data_is_refused_or_accepted(self, tmp_path, matrix):
        adata_of(np.log1p(matrix)).write_h5ad(tmp_path / "n.h5ad")
        with pytest.raises(ValueError, match=r"n.h5ad: no matrix holds raw counts: X .*expects=normalised"):
            open_source(tmp_path / "n.h5ad", vocabulary)
        assert len(open_source(tmp_path / "n.h5ad", vocabulary, expects="normalised")) == 50
        with pytest.raises(KeyError, match="no matrix 'layers/counts'"):
            open_source(tmp_path / "n.h5ad", vocabulary, counts="layers/counts")

    def test_other_mistakes(self, tmp_path, matrix, write):
        adata_of(matrix, [f"q{i}" for i in range(6)]).write_h5ad(tmp_path / "q.h5ad")
        with pytest.raises(ValueError, match=r"q.h5ad: only 0 of 6 genes .*data.gene_column"):
            open_source(tmp_path / "q.h5ad", vocabulary)
        with pytest.raises(FileNotFoundError, match=r"did you mean .*q\.h5ad"):
            open_source(tmp_path / "qq.h5ad", vocabulary)
        with pytest.raises(ValueError, match=r"no .h5ad file"):
            open_source(write("text.h5ad", "hello"), vocabulary)
        cells = Cells([open_source(adata_of(matrix), vocabulary)])
        with pytest.raises(KeyError, match=r"has no \.obs column 'donor'"):
            cells.column("donor")

    def test_genes_that_share_an_id_are_added_up(self, matrix):
        adata = adata_of(sp.csr_matrix(matrix[:, :3]), ["CD3E", "ENSG00000198851", "LYZ"])
        source = open_source(adata, vocabulary)
        assert source.match.how["of them sharing a gene (their counts are added)"] == 1
        found = dense(Cells([source]))
        assert (found[:, 1] == matrix[:, 0] + matrix[:, 1]).all()

    @settings(deadline=None)
    @given(st.integers(0, 10**6), st.integers(0, 12), st.integers(1, 9))
    def test_align_and_gather_equal_the_plain_versions(self, seed, n_cells, n_genes):
        rng = np.random.default_rng(seed)
        matrix = rng.poisson(0.7, (n_cells, n_genes))
        gene_ids = rng.integers(-1, 12, n_genes).astype(np.int32)
        csr = sp.csr_matrix(matrix)
        found = align(csr.indptr.astype(np.int64), csr.indices, csr.data, gene_ids, 12)
        expected = reference.align(matrix, gene_ids, 12)

        def as_dicts(c):
            return [
                dict(zip(c.ids[a:b].tolist(), c.counts[a:b].tolist(), strict=True))
                for a, b in zip(c.offsets[:-1], c.offsets[1:], strict=True)
            ]

        assert as_dicts(found) == expected
        if n_cells:
            rows = rng.integers(0, n_cells, 5)
            assert as_dicts(gather(concatenate([found, found]), rows)) == [expected[r] for r in rows]


class TestValues:
    @settings(deadline=None)
    @given(
        st.lists(st.integers(1, 500), min_size=1, max_size=40),
        st.sampled_from([name for name, transform in values.TRANSFORMS.items() if not transform.is_relative]),
    )
    def test_transform_equals_the_plain_version(self, counts, kind):
        counts, n = np.array(counts, np.float32), len(counts)
        batch, offsets = np.concatenate([counts, counts[: n // 2]]), np.array([0, n, n, n + n // 2])
        totals = np.array([counts.sum(), 0, counts[: n // 2].sum()], np.float64)
        out = values.TRANSFORMS[kind]()(batch, offsets, totals, values.ValueSettings(1e4, 51, 10.0))
        expected = [reference.transform(part, total, kind) for part, total in ((counts, totals[0]), (counts[: n // 2], totals[2]))]
        np.testing.assert_allclose(out, np.concatenate(expected), rtol=1e-6)

    @settings(deadline=None)
    @given(st.integers(0, 300), st.floats(0, 1), st.integers(0, 2**60))
    def test_binomial_equals_coins_one_by_one(self, n, p, key):
        assert read_depth.binomial(n, p, np.uint64(key)) == reference.binomial(n, p, np.uint64(key))

    def test_draws_have_their_distributions(self):
        keys = example_keys(0, 0, np.arange(4000))
        for n, p in ((5, 0.3), (200, 0.62)):
            drawn = np.array([read_depth.binomial(n, p, k) for k in keys])
            assert stats.chisquare(*_binned(drawn, stats.binom(n, p))).pvalue > 1e-4
        drawn = np.array([read_depth.poisson(21.5, k) for k in keys])
        assert stats.chisquare(*_binned(drawn, stats.poisson(21.5))).pvalue > 1e-4
        assert stats.kstest([read_depth.beta_2_2(k) for k in keys], stats.beta(2, 2).cdf).pvalue > 1e-4

    def test_lower_read_depth_has_its_distribution(self):
        some = np.array([400.0, 1, 1, 700, 3], np.float32)
        keys = example_keys(0, 0, np.arange(2000))
        n = len(keys)
        cells = Counts(np.tile(np.arange(5, dtype=np.int32), n), np.tile(some, n), np.arange(0, 5 * n + 1, 5))
        totals, settings_ = np.full(n, 1105.0), read_depth.DepthSettings(1000.0, 0.6, 0.0)
        left = read_depth.Downsample().lower(cells, totals, keys, settings_).reshape(n, 5)
        assert (left <= some).all()
        is_whole = left.sum(1) == 1105
        assert 0.45 < is_whole.mean() < 0.55 and left.sum(1)[~is_whole].mean() == pytest.approx(1105 / 2, rel=0.05)
        shallow = read_depth.Downsample().lower(cells, totals, keys, read_depth.DepthSettings(2000.0, 0.6, 0.0))
        assert (shallow == cells.counts).all()
        mean = read_depth.Poisson().lower(cells, totals, keys, settings_).reshape(n, 5).mean(0)
        assert mean[[0, 3]] == pytest.approx(some[[0, 3]] * 0.7 * 0.7, rel=0.07)


def _binned(drawn, distribution):
    values_, counts = np.unique(drawn, return_counts=True)
    keep = distribution.pmf(values_) * len(drawn) > 5
    observed = np.append(counts[keep], counts[~keep].sum())
    expected = np.append(distribution.pmf(values_[keep]) * len(drawn), 0)
    expected[-1] = len(drawn) - expected.sum()
    return (observed, expected) if expected[-1] > 5 else (observed[:-1], expected[:-1] * observed[:-1].sum() / expected[:-1].sum())


OBO = """format-version: 1.2

[Term]
id: CL:1
name: cell

[Term]
id: CL:2
name: T cell
is_a: CL:1 ! cell

[Term]
id: CL:3
name: B cell
is_a: CL:1 {source="x"} ! cell

[Term]
id: CL:4
name: CD4 T cell
is_a: CL:2 ! T cell

[Term]
id: CL:9
name: gone
is_obsolete: true
"""


def test_ontology(write):
    ontology = Ontology.from_obo(write("cl.obo", OBO))
    assert ontology.ancestors("CL:4") == {"CL:1", "CL:2"} and "CL:9" not in ontology.names
    assert ontology.resolve("t cell") == "CL:2"
    with pytest.raises(KeyError, match="did you mean 't cell'"):
        ontology.resolve("T cells")
    leaves, below = ontology.leaf_sets(["CL:1", "CL:2", "CL:4", "CL:3"])
    assert leaves == ["CL:4", "CL:3"] and below == {"CL:1": [0, 1], "CL:2": [0], "CL:4": [0], "CL:3": [1]}
    with pytest.raises(ValueError, match="no \\[Term\\]"):
        Ontology.from_obo(write("no.obo", "hello"))


def test_old_files_without_encoding(tmp_path, matrix):
    adata_of(sp.csr_matrix(matrix)).write_h5ad(tmp_path / "old.h5ad")
    with h5py.File(tmp_path / "old.h5ad", "r+") as file:
        del file["X"].attrs["encoding-type"]
        file["X"].attrs["h5sparse_format"], file["X"].attrs["h5sparse_shape"] = "csr", file["X"].attrs["shape"]
        del file["X"].attrs["shape"]
    assert (dense(Cells([open_source(tmp_path / "old.h5ad", vocabulary)])) == matrix).all()
