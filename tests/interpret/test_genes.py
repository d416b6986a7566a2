"""Embeddings of genes, their neighbours, and attention between genes."""

import numpy as np
import pytest
import torch
from scipy.stats import fisher_exact

import bmfm
from bmfm.interpret.attention import attention_maps
from bmfm.interpret.gene_vectors import enrichment, read_gmt
from tests.interpret.conftest import TOY_GENES, Sum, toy_model

GENES = ["CD3D", "CD3E", "CD8A", "CD4", "MS4A1", "CD79A", "NKG7", "GNLY", "LYZ", "CST3"]


def test_neighbours_are_those_of_centred_vectors():
    model = toy_model(Sum)
    vectors = model.gene_embeddings()
    assert list(vectors.index) == TOY_GENES and vectors.shape == (12, 4)
    centred = vectors - vectors.mean()
    cosine = (centred @ centred.loc["GENE4"]) / centred.pow(2).sum(axis=1).pow(0.5) / np.linalg.norm(centred.loc["GENE4"])
    found = model.neighbours("GENE4", 3)
    expected = cosine.drop("GENE4").sort_values(ascending=False)[:3]
    assert list(found["gene"]) == list(expected.index)
    np.testing.assert_allclose(found["cosine"], expected, rtol=1e-5)
    with pytest.raises(ValueError, match="does not know the gene 'NOTHING'"):
        model.neighbours("NOTHING", 3)


def test_enrichment_is_fishers_exact_test(write):
    file = write("sets.gmt", "one\tabout\tA\tB\tC\tX\n\ntwo\t\tD\n")
    background = list("ABCDEFGHIJ")
    found = enrichment(["A", "B", "E"], file, background).set_index("set")
    assert found.loc["one", ["overlap", "size", "n_left_out", "genes"]].tolist() == [2, 3, 1, "A, B"]
    assert found.loc["one", "p"] == pytest.approx(fisher_exact([[2, 1], [1, 6]], "greater").pvalue)
    assert found.loc["two", "p"] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="line 1: a gene set needs a name"):
        read_gmt(write("bad.gmt", "one A B\n"))


def test_attention_is_that_of_the_layers(cells_model, toy_cells):
    model = bmfm.load(str(cells_model), device="cpu")
    cells = toy_cells[:, :10].copy()
    cells.var_names = GENES
    ((_, batch),) = model.batches(cells)
    maps = [attention_maps(model, batch, i)[:, 0] for i in (0, 1)]
    # by hand, from the first layer's own projections
    layer, embeddings = model.model.backbone.layers[0], model.model.embed(batch)
    states = model.model.backbone.norm(embeddings)
    query, key = (
        part(states).view(*states.shape[:2], 2, 8).transpose(1, 2) for part in (layer.attention.self.query, layer.attention.self.key)
    )
    scores = (query @ key.transpose(2, 3) / 8**0.5).masked_fill(batch["sequence_ids"][:, None, None] == 0, -torch.inf)
    torch.testing.assert_close(maps[0], scores.softmax(-1).mean(1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(attention_maps(model, batch, 0, "each"), scores.softmax(-1), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(attention_maps(model, batch, 0, "max")[:, 0], scores.softmax(-1).amax(1), rtol=1e-4, atol=1e-6)
    rolled = torch.linalg.matmul((maps[1] + torch.eye(maps[1].shape[-1])) / 2, (maps[0] + torch.eye(maps[0].shape[-1])) / 2)
    torch.testing.assert_close(attention_maps(model, batch)[:, 0], rolled, rtol=1e-4, atol=1e-6)
    edges = model.attention_edges(cells, layer=0, heads="each", min_cells=3, top_k=2)
    of_heads = scores.softmax(-1).detach().numpy()
    ids = batch["input_ids"].numpy()
    names = np.array(model.tokenizer.names, object)
    for edge in edges.itertuples():
        both = [(names[r] == edge.target, names[r] == edge.source, m) for r, m in zip(ids, of_heads[:, edge.head], strict=True)]
        weights = [m[q][:, k].item() for q, k, m in both if q.any() and k.any()]
        assert edge.n_cells == len(weights) >= 3
        assert edge.weight == pytest.approx(np.mean(weights), rel=1e-4)
    assert edges.groupby(["head", "target"]).size().max() <= 2 and set(edges["head"]) == {0, 1}
    assert edges.attrs["spearman"].keys() == {"0", "1"} and edges.attrs["spearman"]["0"].keys() == {"source_mean", "coexpression"}
    with pytest.raises(ValueError, match="choose from mean, max, each; each, of one layer"):
        model.attention_edges(cells, heads="each")


def test_a_model_without_attention_says_so(planted_model, planted_cells):
    with pytest.raises(ValueError, match=r"LatentSet has no attention from gene to gene: attributions \(model.explain\)"):
        planted_model.attention_edges(planted_cells)
