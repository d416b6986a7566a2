"""Attributions of the genes of cells, in an AnnData."""

import anndata
import matplotlib
import numpy as np
import pytest
import scanpy as sc
import torch
from scipy.stats import ttest_1samp

import bmfm
from bmfm.api import Model
from bmfm.cli import compose
from bmfm.files import ASSETS
from bmfm.interpret.pictures import plot_table
from bmfm.interpret.targets import read_target
from bmfm.models.model import build
from bmfm.tokenizers.rna import CellTokenizer
from bmfm.train import train
from tests.interpret.conftest import MARKERS, Sum, gene_weights, toy_model


@pytest.mark.parametrize(
    ("method", "baseline"), [("ig", "zero_value"), ("grad_x_input", "zero_value"), ("occlusion", "absent"), ("occlusion", "zero_value")]
)
def test_a_linear_model_gives_weight_times_value(toy_cells, method, baseline):
    found = toy_model(Sum).explain(toy_cells, "head:score", method=method, baseline=baseline, batch_size=4, n_steps=3)
    expected = 2 * gene_weights(toy_model(Sum), "score", 0) * toy_cells.X[:, :-1]
    layer = found.layers[f"{method}_score"].toarray()
    np.testing.assert_allclose(layer[:, :-1], expected, rtol=1e-3, atol=1e-4)
    assert (layer[:, -1] == 0).all()  # a gene that the model does not know
    np.testing.assert_array_equal(found.layers[f"{method}_score_seen"].toarray()[:, :-1], toy_cells.X[:, :-1] > 0)
    about = found.uns[f"{method}_score"]
    assert about["n_genes_the_model_does_not_know"] == 1
    np.testing.assert_allclose(found.varm[f"{method}_score_mean"]["score"][:-1], expected.mean(0), rtol=1e-3, atol=1e-4)


def test_a_decoded_gene_and_a_mean_cell(toy_cells):
    model = toy_model(Sum)
    found = model.explain(toy_cells, "head:wced:GENE3", baseline="mean_cell", n_steps=3)
    gene = 2 * model.tokenizer.names.index("GENE3")  # values and zeros take turns
    values = toy_cells.X[:, :-1]
    expected = gene_weights(model, "wced", gene) * (values - values.mean(0)) * (values > 0)
    np.testing.assert_allclose(found.layers["ig_wced:GENE3"].toarray()[:, :-1], expected, rtol=1e-3, atol=1e-4)


def test_permuted_genes_have_permuted_attributions(toy_cells):
    model = toy_model(Sum, order="descending")
    order = np.random.default_rng(1).permutation(toy_cells.n_vars)
    found = model.explain(toy_cells, "head:type", n_steps=3).to_df("ig_type")
    other = model.explain(toy_cells[:, order].copy(), "head:type", n_steps=3).to_df("ig_type")
    np.testing.assert_allclose(other[found.columns], found, rtol=1e-4, atol=1e-5)


def test_planted_markers_are_the_top_genes(planted_model, planted_cells):
    found = planted_model.explain(planted_cells, "head:cell_type", progress=False, n_steps=20)
    table = found.uns["ig_cell_type"]["table"]
    values = found.to_df("ig_cell_type")
    for name, markers in MARKERS.items():
        of_class = table[(table["class"] == name) & (table["direction"] == "for")].head(5)
        assert set(of_class["gene"]) == set(markers)
        assert (of_class["p_bh"] < 1e-3).all()
        is_in = found.obs["ig_cell_type_class"] == name
        np.testing.assert_allclose(found.varm["ig_cell_type_mean"][name], values[is_in].mean(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(of_class["t"], ttest_1samp(values.loc[is_in, of_class["gene"]], 0).statistic, rtol=1e-3)
        np.testing.assert_allclose(of_class["contrast"], values.loc[~is_in, of_class["gene"]].mean(), rtol=1e-3)


@pytest.mark.parametrize("baseline", ["zero_value", "mask", "mean_cell"])
def test_attributions_add_up_with_what_the_summary_says(planted_model, planted_cells, tmp_path, baseline):
    """Of genes, too, that the input has no room for."""
    found = planted_model.explain(planted_cells, "head:cell_type:b", max_cells=20, baseline=baseline)
    sums = found.to_df("ig_cell_type:b").sum(axis=1)
    np.testing.assert_allclose(sums, found.obs["ig_cell_type:b_difference"], rtol=0.05)
    assert found.layers["ig_cell_type:b_seen"].sum(1).max() > planted_model.max_tokens
    found.write_h5ad(tmp_path / "explained.h5ad")
    table = anndata.read_h5ad(tmp_path / "explained.h5ad").uns["ig_cell_type:b"]["table"]
    assert list(table["gene"]) == list(found.uns["ig_cell_type:b"]["table"]["gene"])


def test_the_share_of_a_gene(planted_model, planted_cells):
    """What is explained of a gene's counts is what its share of all molecules comes to."""
    found = planted_model.explain(planted_cells, "head:counts:GENE3", max_cells=12)
    cells = planted_cells[found.obs_names].copy()
    ((_, batch),) = planted_model.batches(cells, 32)
    logits = planted_model.forward(batch).logits("counts")
    share = logits.exp()[:, planted_model.tokenizer.names.index("GENE3")] / logits.exp().sum(1)
    target = read_target(planted_model, "head:counts:GENE3")
    torch.testing.assert_close(target.values(planted_model.forward(batch))[:, 0], share.log())
    np.testing.assert_allclose(found.to_df("ig_counts:GENE3").sum(axis=1), found.obs["ig_counts:GENE3_difference"], rtol=0.05, atol=1e-3)
    assert found.uns["ig_counts:GENE3"]["unit"] == "log share of molecules" and found.obs["ig_counts:GENE3_difference"].abs().max() > 0.1


def test_only_cells_of_some_classes(planted_model, planted_cells):
    found = planted_model.explain(planted_cells, "head:cell_type", method="grad_x_input", classes=["b"])
    assert set(found.obs["cell_type"]) == {"b"} and found.n_obs == 30
    assert list(found.varm["grad_x_input_cell_type_mean"]) == ["b"]


def test_counts_of_raw_are_attributed_in_var(planted_model, planted_cells):
    cells = planted_cells.copy()
    cells.raw = cells
    cells = cells[:, ::-1][:, :20].copy()
    cells.X = np.log1p(cells.X)
    found = planted_model.explain(cells, "head:cell_type", method="grad_x_input")
    expected = planted_model.explain(planted_cells, "head:cell_type", method="grad_x_input").to_df("grad_x_input_cell_type")
    np.testing.assert_allclose(found.to_df("grad_x_input_cell_type"), expected[found.var_names])
    assert found.uns["grad_x_input_cell_type"]["n_genes_shown_that_var_lacks"] == 20


def test_names_with_a_slash_are_written(planted_model, planted_cells, tmp_path):
    cells = planted_cells[::9].copy()
    cells.obs["state"] = ["T/NK"] * 4 + ["T_NK"] * 3 + ["B"] * 3
    found = planted_model.explain(cells, "head:cell_type", method="grad_x_input", groupby="state")
    assert list(found.varm["grad_x_input_cell_type_mean"]) == ["B", "T_NK", "T_NK_"]
    assert "T/NK" in set(found.uns["grad_x_input_cell_type"]["table"]["class"])
    found.write_h5ad(tmp_path / "explained.h5ad")
    plot_table(found, "grad_x_input_cell_type", tmp_path / "picture.svg")
    plot_table(anndata.read_h5ad(tmp_path / "explained.h5ad"), "grad_x_input_cell_type", tmp_path / "again.svg")
    assert (tmp_path / "picture.svg").read_text().count("<path") == (tmp_path / "again.svg").read_text().count("<path") > 10


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ("head:none", {}, "this model has head:cell_type, head:counts"),
        ("head:cell_type:z", {}, "has no class 'z', it has a, b, c"),
        ("head:counts", {}, "give head:counts:GENE"),
        ("head:cell_type", {"method": "shap"}, "choose from ig, grad_x_input, occlusion"),
        ("head:cell_type", {"baseline": "absent"}, "choose method=occlusion"),
        ("head:cell_type", {"classes": ["z"]}, "the classes of head:cell_type are a, b, c"),
        ("head:cell_type", {"step": 3}, "step: no such option"),
    ],
)
def test_what_is_not_there_is_named(planted_model, planted_cells, target, options, message):
    with pytest.raises(ValueError, match=message):
        planted_model.explain(planted_cells, target, **options)


def test_a_model_of_ranks_loses_what_it_loses_without_the_gene(planted_cells, tmp_path):
    """A gene that is not expressed has no rank, and those of all others are in the same order. Names of classes hold a colon, a space, a slash."""
    tokenizer = CellTokenizer(list(planted_cells.var_names), order="descending", positions=True)
    heads = {"type": {"size": 3, "pooling": "mean", "classes": ["a:x", "b c", "c/d"]}}
    torch.manual_seed(0)
    fields = {"input_ids": tokenizer.fields["input_ids"]}
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = Model(build(fields, heads, "bmfm.models.backbones.bert.Bert", **shape), tokenizer, "cpu")
    cells = planted_cells[::15].copy()
    logits = model.logits(cells)["type"]
    for column, name in enumerate(heads["type"]["classes"]):
        found = model.explain(cells, f"head:type:{name}", method="occlusion", baseline="absent", contrast="none")
        for gene in (0, 17):
            without = cells.copy()
            without.X[:, gene] = 0
            expected = logits[:, column] - model.logits(without)["type"][:, column]
            key = f"occlusion_type:{name}".replace("/", "_")
            np.testing.assert_allclose(found.to_df(key).iloc[:, gene], expected, atol=1e-5)
    found.write_h5ad(tmp_path / "found.h5ad")
    for options in ({}, {"method": "occlusion"}):
        with pytest.raises(ValueError, match="reads no values of genes"):
            model.explain(cells, "head:type", **options)


def test_scanpy_draws_what_was_found(planted_model, planted_cells, tmp_path):
    """The lines of docs/explain.md."""
    matplotlib.use("Agg")
    planted_model.explain(planted_cells, "head:cell_type", method="grad_x_input").write_h5ad(tmp_path / "explained.h5ad")
    found, key = anndata.read_h5ad(tmp_path / "explained.h5ad"), "grad_x_input_cell_type"
    table = found.uns[key]["table"].query("direction == 'for'")
    top = {name: list(genes[:3]) for name, genes in table.groupby("class")["gene"]}
    looks = {"groupby": f"{key}_class", "layer": key, "cmap": "RdBu_r", "vcenter": 0, "show": False}
    drawn = sc.pl.matrixplot(found, top, **looks, colorbar_title="mean attribution", return_fig=True).values_df
    drawn = drawn.loc[:, ~drawn.columns.duplicated()]  # a gene may speak for two classes
    for name, genes in top.items():
        assert len(genes) == 3
        np.testing.assert_allclose(drawn.loc[name, genes], found.varm[f"{key}_mean"].loc[genes, name], rtol=1e-5)
    assert "heatmap_ax" in sc.pl.heatmap(found, top, **looks)


@pytest.mark.slow
def test_known_markers_of_blood_cells(tmp_path):
    """The model that ships, taught the types of pbmc3k for a few steps."""
    cells = str(ASSETS / "rna" / "pbmc3k.h5ad")
    train(compose("train", [
        "+recipe=rna_finetune", "checkpoint=bmfm-rna-mini", f"data.path={cells}", "objectives.label.column=cell_type", "trainer.max_steps=80",
        "trainer.val_check_interval=80", "data.batch_size=64", "data.num_workers=0", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false",
        "callbacks.progress=null", f"run_dir={tmp_path}",
    ]))  # fmt: skip
    model = bmfm.load(str(tmp_path / "model"), device="cpu")
    table = model.explain(cells, "head:label", classes=["B cells", "NK cells"], max_cells=150, n_steps=20).uns["ig_label"]["table"]
    for name, markers in {"B cells": {"MS4A1", "CD79A"}, "NK cells": {"NKG7", "GNLY"}}.items():
        of_class = table[(table["class"] == name) & (table["direction"] == "for")]
        assert markers <= set(of_class["gene"][:20])
