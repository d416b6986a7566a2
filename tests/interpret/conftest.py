"""Toy models of cells whose outputs are known by hand."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from bmfm.api import Model
from bmfm.models.backbones.base import Backbone, Capabilities, HiddenStates
from bmfm.models.embeddings import FieldEncoder
from bmfm.models.model import build
from bmfm.tokenizers.rna import CellTokenizer

TOY_GENES = [f"GENE{i}" for i in range(12)]


class Times(FieldEncoder):
    """The embedding of a gene times its value; special tokens are 0."""

    scales = True

    def __init__(self, hidden_size: int, n_special: int):
        super().__init__()
        self.hidden_size = hidden_size

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.clamp(min=0)[..., None].expand(*values.shape, self.hidden_size)


class Sum(Backbone):
    """The state of [CLS] is the sum of all embeddings of its example, to a power."""

    power = 1

    def __init__(self, hidden_size: int = 4):
        super().__init__()
        self.hidden_size, self.layers = hidden_size, nn.ModuleList()

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(positions=False)

    def run(self, embeddings_BLH, batch, all_layers=False):
        seen = self.attention_mask(batch)[..., None]
        sums = ((embeddings_BLH * seen).sum(1) ** self.power)[:, None]
        is_cls = (torch.arange(embeddings_BLH.shape[1]) == 0)[:, None]
        return HiddenStates(torch.where(is_cls, sums, embeddings_BLH))


class Power(Sum):
    """The seventh, along whose path gradients are a polynomial of degree 6: two nodes are too few, and four are exact."""

    power = 7


class Shared(Sum):
    """The state of every token is its embedding and the sum of all of its example."""

    def run(self, embeddings_BLH, batch, all_layers=False):
        seen = self.attention_mask(batch)[..., None]
        return HiddenStates(embeddings_BLH + (embeddings_BLH * seen).sum(1, keepdim=True))


class Product(Sum):
    """That of [CLS] is the product of the first two genes."""

    def run(self, embeddings_BLH, batch, all_layers=False):
        product = (embeddings_BLH[:, 1] * embeddings_BLH[:, 2])[:, None]
        is_cls = (torch.arange(embeddings_BLH.shape[1]) == 0)[:, None]
        return HiddenStates(torch.where(is_cls, product, embeddings_BLH))


def toy_model(backbone: type[Backbone], **tokenizer) -> Model:
    """A model of `TOY_GENES` with a head of three classes ``type`` and a regression ``score`` (10 + 2 times its output)."""
    heads = {
        "type": {"size": 3, "pooling": 0, "classes": ["a", "b", "c"]},
        "score": {"size": 1, "kind": "bmfm.label_kinds.Regression", "pooling": 0, "classes": [], "center": 10.0, "scale": 2.0},
        "wced": {"size": 2 * (len(TOY_GENES) + 38), "outputs": ["mse", "is_zero"], "cls": 0},
    }
    cells = CellTokenizer(TOY_GENES, **{"order": "as_given", "values": {"kind": "as_is"}} | tokenizer)
    heads["wced"]["size"] = 2 * len(cells)
    torch.manual_seed(0)
    path = f"tests.interpret.conftest.{backbone.__name__}"
    model = build(cells.fields, heads, path, values={"_target_": "tests.interpret.conftest.Times"}, hidden_size=4)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    model.config.max_tokens = 64
    return Model(model, cells, "cpu")


def gene_weights(model: Model, head: str, row: int) -> np.ndarray:
    """Of a linear toy, what an output rises by with the value of each of `TOY_GENES`."""
    first, end = model.tokenizer.plain_ids
    table, matrix = model.model.embedding_table()[first:end], model.model.heads.decoder(head).weight
    return (table @ matrix[row]).detach().numpy()


@pytest.fixture(scope="session")
def toy_cells() -> anndata.AnnData:
    """Nine cells of the genes of the toys, some of them 0, and one gene that no model knows."""
    rng = np.random.default_rng(0)
    values = rng.poisson(2.0, (9, len(TOY_GENES) + 1)).astype(np.float32)
    values[:, -1] = 3
    return anndata.AnnData(values, pd.DataFrame(index=[f"cell{i}" for i in range(9)]), pd.DataFrame(index=[*TOY_GENES, "UNKNOWN"]))


MARKERS = {"a": [f"GENE{i}" for i in range(5)], "b": [f"GENE{i}" for i in range(5, 10)]}
"""Planted: five genes of forty that cells of each class express more of; classes are named by them."""


@pytest.fixture(scope="session")
def planted_cells() -> anndata.AnnData:
    """90 cells of three classes; those of ``c`` have no markers."""
    rng = np.random.default_rng(0)
    genes = [f"GENE{i}" for i in range(40)]
    classes = np.repeat(["a", "b", "c"], 30)
    mean = np.tile(rng.gamma(2.0, 2.0, len(genes)), (len(classes), 1))
    for name, markers in MARKERS.items():
        mean[np.ix_(classes == name, [genes.index(g) for g in markers])] += 12
    counts = rng.poisson(mean).astype(np.float32)
    names = [f"cell{i}" for i in range(len(classes))]
    return anndata.AnnData(counts, pd.DataFrame({"cell_type": classes}, index=names), pd.DataFrame(index=genes))


@pytest.fixture(scope="session")
def planted_model(planted_cells) -> Model:
    """A small model with a summary of whole cells and an input too short for all genes, which was taught the classes."""
    tokenizer = CellTokenizer(list(planted_cells.var_names), order="descending", summary=True)
    heads = {
        "cell_type": {"size": 3, "pooling": 0, "classes": ["a", "b", "c"]},
        "counts": {"size": len(tokenizer), "cls": 0, "transform": True, "tied": "input_ids"},
    }
    torch.manual_seed(0)
    latents, values = "bmfm.models.backbones.set.LatentSet", {"_target_": "bmfm.models.embeddings.GeneScaledEncoder"}
    model = build(
        tokenizer.fields, heads, latents, values=values, hidden_size=16, intermediate_size=16, num_latents=2, num_attention_heads=2
    )
    model.config.max_tokens = 30
    predictor = Model(model, tokenizer, "cpu")
    labels = torch.from_numpy(np.repeat([0, 1, 2], 30))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    ((rows, batch),) = predictor.batches(planted_cells, 128)
    for _ in range(40):
        logits = model.head("cell_type", model.pool(model.encode(batch), batch, 0))
        loss = nn.functional.cross_entropy(logits, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1
    return predictor


@pytest.fixture(scope="session")
def planted_files(planted_model, planted_cells, tmp_path_factory) -> tuple[str, str]:
    """The folder of the model and the file of the cells, for commands."""
    folder = tmp_path_factory.mktemp("planted")
    planted_model.model.save_pretrained(folder / "model")
    planted_model.tokenizer.save_pretrained(folder / "model")
    planted_cells.write_h5ad(folder / "cells.h5ad")
    return str(folder / "model"), str(folder / "cells.h5ad")
