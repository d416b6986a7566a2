"""Attributions of toys that are known by hand, and those of captum."""

import numpy as np
import pytest
import torch

import bmfm
from bmfm.inference.outputs import Outputs
from bmfm.interpret.attributions import attribute, select_rows, with_content
from bmfm.interpret.targets import read_target
from tests.interpret.conftest import Power, Product, Sum, gene_weights, toy_model


def whole_batch(model, cells):
    ((rows, batch),) = model.batches(cells)
    zero = with_content(model, batch, values=torch.zeros_like(batch["values"]))
    return rows, batch, zero


@pytest.mark.parametrize("method", ["ig", "grad_x_input"])
def test_a_linear_model_gives_weight_times_value(toy_cells, method):
    model = toy_model(Sum)
    rows, batch, zero = whole_batch(model, toy_cells)
    found = attribute(model, batch, read_target(model, "head:score"), zero, method, n_steps=4, batch_size=3)
    weights, first = 2 * gene_weights(model, "score", 0), model.tokenizer.plain_ids[0]
    for row, attributions in zip(rows, found.of_content(batch), strict=True):
        ids = batch["input_ids"][list(rows).index(row), 1 : 1 + len(attributions)].numpy()
        np.testing.assert_allclose(attributions, weights[ids - first] * toy_cells.X[row, ids - first], rtol=1e-4, atol=1e-6)
    assert (found.delta < 1e-4).all() and found.is_complete.all()
    assert (found.tokens[batch["special_tokens_mask"]] == 0).all()


def test_two_genes_that_interact_share_what_they_do(toy_cells):
    model = toy_model(Product)
    _, batch, zero = whole_batch(model, toy_cells)
    found = attribute(model, batch, read_target(model, "head:score"), zero, n_steps=4)
    of_two = (found.end - found.start) / 2
    torch.testing.assert_close(found.tokens[:, 1:3], of_two[:, None].expand(-1, 2), rtol=1e-4, atol=1e-5)
    assert (found.tokens[:, 3:] == 0).all()


def test_integrated_gradients_are_those_of_captum(cells_model, toy_cells):
    attr = pytest.importorskip("captum.attr")
    model = bmfm.load(str(cells_model), device="cpu")
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.mul_(3.0)  # an untrained model is nearly linear
    cells = toy_cells[:, :10].copy()
    cells.var_names = ["CD3D", "CD3E", "CD8A", "CD4", "MS4A1", "CD79A", "NKG7", "GNLY", "LYZ", "CST3"]
    ((_, batch),) = model.batches(cells)
    zeros = torch.where(batch["special_tokens_mask"], batch["values"], 0.0)
    target, layer = read_target(model, "head:type:b", "none"), torch.nn.Identity()

    def forward(values: torch.Tensor) -> torch.Tensor:
        expanded = select_rows(batch, torch.arange(len(values)) % len(batch["values"])) | {"values": values}
        embeddings = layer(model.model.embed(expanded))
        return target.values(Outputs(model.model, expanded, embeddings, model.model.run(embeddings, expanded), True))

    theirs = attr.LayerIntegratedGradients(forward, layer)
    expected = theirs.attribute(batch["values"], zeros, target=1, n_steps=20).sum(-1)
    found = attribute(model, batch, target, with_content(model, batch, values=zeros), n_steps=20, batch_size=7)
    found_once = torch.where(found.n_steps[:, None] == 20, found.tokens, expected)
    assert (found.n_steps == 20).any() and expected.abs().max() > 0.01
    torch.testing.assert_close(found_once, expected.float(), rtol=0, atol=1e-5)


def test_gradients_that_a_head_reverses_are_turned_back(toy_cells):
    model = toy_model(Sum)
    _, batch, zero = whole_batch(model, toy_cells)
    plain = attribute(model, batch, read_target(model, "head:type:a"), zero, n_steps=2)
    model.model.config.heads["type"]["gradient_reversal"] = model.model.heads.described["type"]["gradient_reversal"] = 0.3
    found = attribute(model, batch, read_target(model, "head:type:a"), zero, n_steps=2)
    torch.testing.assert_close(found.tokens, plain.tokens)


def test_rows_are_a_function_of_themselves_alone(toy_cells):
    """With steps that are doubled where they must be: the power of a sum is no polynomial of two nodes."""
    model = toy_model(Power)
    _, batch, zero = whole_batch(model, toy_cells)
    target = read_target(model, "head:score")
    every = attribute(model, batch, target, zero, n_steps=2, batch_size=4)
    assert (every.n_steps == 4).all() and every.is_complete.all()
    one = torch.tensor([3])
    alone = attribute(model, select_rows(batch, one), target, zero[one], n_steps=2)
    torch.testing.assert_close(alone.tokens, every.tokens[one])
