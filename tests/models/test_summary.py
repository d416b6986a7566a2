"""The summary of a cell in [CLS], values that scale genes, and latents that read a set of genes."""

import numpy as np
import pytest
import torch

import bmfm
from bmfm.checkpoints.load import from_checkpoint, read_model
from bmfm.models.model import build
from bmfm.models.summary import weighted_sums
from bmfm.tokenizers.collate import to_tensors
from bmfm.tokenizers.rna import CellTokenizer
from tests.conformance.cases import GENES, LENGTHS, raw_cells, take
from tests.conftest import BERT, HEADS, SMALL, VALUES

SET = "bmfm.models.backbones.set.LatentSet"
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def _tokenizer(**settings):
    return CellTokenizer(GENES, summary=True, order="descending", **settings)


def _batch(tokenizer, numbers=(0, 1, 2, 3), row_length=None, max_tokens=12):
    keys = np.arange(1, 5, dtype=np.uint64)[list(numbers)]
    return to_tensors(tokenizer.collate(tokenizer.encode(take(raw_cells(LENGTHS), list(numbers)), keys, max_tokens), row_length))


def _model(tokenizer, backbone=BERT, values="mlp_special", heads=HEADS, **settings):
    torch.manual_seed(0)
    encoder = VALUES.get(values, {"_target_": "bmfm.models.embeddings.GeneScaledEncoder"})
    return build(tokenizer.fields, heads, backbone, values=encoder, **(SMALL if backbone == BERT else SIZES) | settings)


def test_weighted_sums_are_a_sparse_product_with_its_gradients():
    """Against a dense matrix product and autograd's own gradients; an example without genes, and a gene that comes twice."""
    torch.manual_seed(0)
    row, gene = torch.tensor([0, 0, 0, 2, 2]), torch.tensor([4, 1, 4, 0, 1])
    table, weights, towards = (torch.randn(size, dtype=torch.float64) for size in ((6, 3), (5,), (3, 3)))
    dense = torch.zeros(3, 6, dtype=torch.float64).index_put((row, gene), weights, accumulate=True)
    sums = weighted_sums(table.requires_grad_(), gene, weights.requires_grad_(), row, 3)
    torch.testing.assert_close(sums, dense @ table)
    by_table, by_weights = torch.autograd.grad(sums, (table, weights), towards)
    torch.testing.assert_close(by_table, dense.T @ towards)
    torch.testing.assert_close(by_weights, (towards @ table.T)[row, gene])


def test_a_summary_is_added_to_cls_alone():
    """LayerNorm and linear map of the sum over every gene of the cell, those that truncation leaves out too, padded and packed."""
    tokenizer = _tokenizer()
    model = _model(tokenizer, BERT).eval()
    without = _model(CellTokenizer(GENES, order="descending")).eval()
    without.load_state_dict({k: v for k, v in model.state_dict().items() if "summary" not in k})
    encoder, rows = model.embeddings.summary, model.embeddings.encoder("input_ids").table()
    counts = raw_cells(LENGTHS).counts
    values = np.log1p(counts.counts / np.repeat(np.add.reduceat(counts.counts, counts.offsets[:-1]), LENGTHS) * 1e4)
    for batch in (_batch(tokenizer), _batch(tokenizer, row_length=24)):
        added = model.embed(batch) - without.embed(batch)
        is_cls = torch.zeros(added.shape[:2], dtype=torch.bool).view(-1).index_fill(0, batch["cls_index"], True).view(added.shape[:2])
        assert not added[~is_cls].any()
        for b in range(4):
            entries = slice(*counts.offsets[b : b + 2])
            total = torch.from_numpy(values[entries]) @ rows[counts.ids[entries].astype(np.int64)]
            normed = torch.nn.functional.layer_norm(total, (16,), encoder.norm.weight, encoder.norm.bias)
            expected = normed @ encoder.dense.weight.T + encoder.dense.bias
            torch.testing.assert_close(added.flatten(0, 1)[batch["cls_index"][b]], expected, atol=1e-5, rtol=1e-4)
            assert expected.detach().square().mean() == pytest.approx(1, abs=1e-3)  # of new weights: as long as the norm makes it
        with pytest.raises(ValueError, match=r"tokenizer\.summary=true"):
            model.embed({k: v for k, v in batch.items() if k != "shown_profile"})


def test_a_summary_is_loaded_trained_and_predicted_with(tmp_path):
    tokenizer = _tokenizer()
    model = _model(tokenizer).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, batch = read_model(tmp_path).eval(), _batch(tokenizer)
    assert torch.equal(again.encode(batch), model.encode(batch))
    hidden = model(**{k: batch[k] for k in ("input_ids", "values", "shown_profile")}, attention_mask=batch["sequence_ids"])
    assert torch.equal(hidden.last_hidden_state[batch["sequence_ids"] > 0], model.encode(batch)[batch["sequence_ids"] > 0])
    tuned = from_checkpoint(tokenizer.fields, HEADS, str(tmp_path), lora={"r": 2, "alpha": 4})
    assert not any(p.requires_grad for name, p in tuned.named_parameters() if name.startswith("embeddings."))
    CellTokenizer(GENES, order="descending").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"a summary of cells, and the tokenizer beside it gives none"):
        bmfm.load(tmp_path)


def test_genes_that_are_asked_about_are_no_part_of_the_summary():
    """Log-probabilities of hidden genes are those of a batch whose summary lacks them."""
    import anndata

    tokenizer = _tokenizer()
    heads = {"genes": {"size": len(tokenizer), "transform": True, "tied": "input_ids"}}
    model = _model(tokenizer, heads=heads).eval()
    counts = np.zeros((2, len(GENES)), np.float32)
    counts[0, [3, 7, 20]], counts[1, [1, 7]] = [5, 3, 1], [2, 9]
    adata = anndata.AnnData(counts)
    adata.var_names = GENES
    predictor = bmfm.inference.Predictor(model, tokenizer)
    scores = predictor.log_probs(adata, tokens="all")
    ((_, batch),) = predictor.batches(adata)
    first = int((batch["example_ids"].view(-1)[batch["content_index"]] == 0).sum())
    for number, place in enumerate(batch["content_index"].tolist()):
        example, gene = int(batch["example_ids"].view(-1)[place]), int(batch["input_ids"].view(-1)[place])
        ids = batch["input_ids"].clone()
        ids.view(-1)[place] = 4
        profile = batch["shown_profile"]
        left = (profile["row"] != example) | (profile["gene"] != gene)
        hidden = batch | {"input_ids": ids, "shown_profile": {k: v[left] for k, v in profile.items()}}
        with torch.no_grad():
            expected = model.lm_logits(model.encode(hidden).flatten(0, 1)[place]).log_softmax(-1)
        np.testing.assert_allclose(scores.of(example)[number - first * example], expected, atol=2e-5)


def test_values_scale_genes():
    """A gene's embedding times 1 + a function of its value that is linear between knots; special tokens and padding keep theirs."""
    model = _model(_tokenizer(), values="gene_scaled").eval()
    batch = _batch(_tokenizer())
    encoder, rows = model.embeddings.values, model.embeddings.encoder("input_ids").table()
    shown = model.embed(batch).flatten(0, 1).index_fill(0, batch["cls_index"], 0.0).view(4, -1, 16)
    for row, column in [(0, 2), (1, 5), (3, 1)]:
        hinges = [max(0.0, float(batch["values"][row, column]) - float(knot)) for knot in encoder.knots]
        f = encoder.dense.weight @ torch.tensor(hinges) + encoder.dense.bias
        torch.testing.assert_close(shown[row, column], rows[batch["input_ids"][row, column]] * (1 + f))
        assert f.std() > 0.3  # from the start
    special = batch["special_tokens_mask"].clone().view(-1).index_fill(0, batch["cls_index"], False).view(4, -1)
    assert special.sum() > 4 and torch.equal(shown[special], rows[batch["input_ids"]][special])


@torch.no_grad()
@pytest.mark.parametrize("gene_states", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_a_set_has_no_order(gene_states, packed):
    """States go along with their genes, padded and packed, and [CLS] stays; without states of genes these keep their embedding."""
    tokenizer = _tokenizer()
    model = _model(tokenizer, SET, "gene_scaled", gene_states=gene_states).eval()
    batch = _batch(tokenizer, row_length=24 if packed else None)
    order = torch.arange(batch["input_ids"].numel())
    for example in range(4):
        mine = ((batch["example_ids"] == example) & ~batch["special_tokens_mask"]).view(-1).nonzero()[:, 0]
        order[mine] = mine[torch.randperm(len(mine))]
    assert (order != torch.arange(len(order))).sum() > 20
    moved = batch | {k: batch[k].view(-1)[order].view_as(batch[k]) for k in ("input_ids", "values")}
    states = model.encode(batch)
    torch.testing.assert_close(model.encode(moved).flatten(0, 1), states.flatten(0, 1)[order])
    other = batch | {"values": batch["values"].index_fill(1, torch.tensor([2]), 0.5)}
    changed = (model.encode(other) != states).any(-1)
    assert changed.view(-1)[batch["cls_index"]].sum() >= len(states)
    assert bool(changed[:, 4].any()) is gene_states  # of a gene whose own value is the same


@torch.no_grad()
def test_what_cls_holds_stays_in_its_state():
    """The linear path of the summary through the layers: with layers that add nothing, the state is the norm of the embedding."""
    tokenizer = _tokenizer()
    model = _model(tokenizer, SET, "gene_scaled").eval()
    for layer in model.backbone.layers:
        for name in ("attention_out", "mlp_out"):
            torch.nn.init.zeros_(layer.get_submodule(name).weight)
    batch = _batch(tokenizer)
    cls = [states.flatten(0, 1)[batch["cls_index"]] for states in (model.embed(batch), model.encode(batch))]
    torch.testing.assert_close(cls[1], torch.nn.functional.layer_norm(cls[0], (16,)), atol=1e-5, rtol=1e-4)


def test_without_layers_there_are_no_latents():
    """[CLS] keeps what its embedding holds, and no weight waits for a gradient."""
    tokenizer = _tokenizer()
    model = _model(tokenizer, SET, "gene_scaled", heads={}, num_hidden_layers=0, gene_states=False)
    batch = _batch(tokenizer)
    embedded, states = (states.flatten(0, 1)[batch["cls_index"]] for states in (model.embed(batch), model.encode(batch)))
    norm = torch.nn.functional.layer_norm
    torch.testing.assert_close(states, norm(norm(embedded, (16,)), (16,)), atol=1e-5, rtol=1e-4)
    states.square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    kept = _model(tokenizer, SET, "gene_scaled", num_hidden_layers=0).eval()
    assert kept.encode(batch).isfinite().all() and kept.backbone.read is not None  # states of genes read the latents
