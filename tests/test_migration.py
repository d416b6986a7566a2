"""The recipes of docs/comparison.md run, on files in the layouts of others and on a model of others that is made on the spot."""

import re
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

import bmfm
from bmfm.files import ASSETS
from tests.inference.conftest import bert_folder  # noqa: F401

PAGE = (Path(__file__).parents[1] / "docs" / "comparison.md").read_text()


def run(title, **names):
    """Run the block of the page with this title; the names that it leaves."""
    (block,) = re.findall(rf'^```python title="{title}"\n(.*?)^```', PAGE, re.M | re.S)
    names["bmfm"] = bmfm
    exec(block, names)
    return names


@pytest.fixture(scope="module")
def cells():
    """Cells in genes of which each has one symbol and one Ensembl id, and no other shares them."""
    adata = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:20].copy()
    genes = pd.read_csv(ASSETS / "genes" / "human_genes.tsv.gz", sep="\t").dropna(subset=["ensembl"])
    genes = (
        genes[~genes["ensembl"].str.contains("|", regex=False)].drop_duplicates("ensembl", keep=False).drop_duplicates("symbol", keep=False)
    )
    ids = genes.set_index("symbol")["ensembl"]
    adata = adata[:, adata.var_names.isin(ids.index)].copy()
    adata.var["id"] = ids[adata.var_names].to_numpy()
    return adata


@pytest.fixture(scope="module")
def expected(cells):
    return bmfm.load("bmfm-rna-mini", device="cpu").embed(cells, progress=False)


def test_geneformers_layout(cells, expected):
    """Genes by Ensembl ids in a column, names that mean nothing, totals in ``.obs``: the same embedding where the ids say the same genes."""
    theirs = anndata.AnnData(cells.X.copy(), obs=pd.DataFrame({"n_counts": np.asarray(cells.X.sum(1)).ravel()}, index=cells.obs_names))
    theirs.var_names = [str(i) for i in range(cells.n_vars)]
    theirs.var["ensembl_id"] = cells.var["id"].to_numpy()
    names = run("geneformer", adata=theirs)
    agree = (
        np.einsum("nh,nh->n", names["embedding"], expected) / np.linalg.norm(names["embedding"], axis=1) / np.linalg.norm(expected, axis=1)
    )
    assert "ensembl_id" in str(names["model"].match) and agree.min() > 0.99


def test_scgpts_layout(cells, expected):
    """Normalised values in X, counts in a layer, symbols in a column: the very same embedding."""
    theirs = cells.copy()
    theirs.layers["counts"] = theirs.X.copy()
    sc.pp.normalize_total(theirs, target_sum=1e4)
    sc.pp.log1p(theirs)
    theirs.var = pd.DataFrame({"gene_name": cells.var_names}, index=[f"x{i}" for i in range(cells.n_vars)])
    names = run("scgpt", adata=theirs)
    assert "layers/counts" in str(names["model"].match) and (names["embedding"] == expected).all()


def test_a_model_of_transformers(bert_folder):  # noqa: F811
    from transformers import AutoModel, AutoTokenizer

    names = run("transformers", folder=bert_folder)
    tokens = AutoTokenizer.from_pretrained(bert_folder)(["GATTACA"], return_tensors="pt")
    states = AutoModel.from_pretrained(bert_folder)(**tokens).last_hidden_state[0].detach().numpy()
    embedding = names["model"].embed(["GATTACA"], progress=False)[0]
    assert np.abs(embedding - states[1:].mean(0)).max() < 1e-5
