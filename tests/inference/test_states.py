"""Hidden states and gradients are those of the plain model: transformers' own list of states, autograd by hand, finite differences."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertForMaskedLM, ModernBertForMaskedLM

import bmfm

TEXTS = ["ACGTTGCAACGATTACCATG", "acgtn", "GATTACAGATTACAGGGACCCATTTAGCA"]


def _plain(folder, model_class):
    return model_class.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("which", ["modernbert", "bert"])
def test_states_of_tokens(which, dna_model, bert_folder):
    folder, model_class = {"modernbert": (dna_model, ModernBertForMaskedLM), "bert": (bert_folder, BertForMaskedLM)}[which]
    plain, tokenizer = _plain(folder, model_class)
    model = bmfm.load(folder)
    last, each = model.hidden_states(TEXTS, batch_size=2), model.hidden_states(TEXTS, layers=[0, -1])
    for number, text in enumerate(TEXTS):
        ids = torch.tensor(tokenizer(text.upper())["input_ids"])
        with torch.no_grad():
            out = plain.base_model(ids[None], attention_mask=torch.ones_like(ids)[None], output_hidden_states=True)
        np.testing.assert_allclose(last.states[number], out.last_hidden_state[0, 1:-1], atol=1e-5)
        assert each.states[number].shape == (2, len(ids) - 2, 16)
        np.testing.assert_allclose(each.states[number][0], out.hidden_states[1][0, 1:-1], atol=1e-5)
        names = tokenizer.convert_ids_to_tokens(ids[1:-1].tolist())
        assert [model.tokenizer.names[i] for i in last.ids[number]] == names
        assert [text.upper()[a:b] for a, b in last.spans[number]] == [name for name in names]


def test_the_layer_of_embeddings(dna_model):
    """The mean over tokens is over the content and [SEP]."""
    plain, tokenizer = _plain(dna_model, ModernBertForMaskedLM)
    model = bmfm.load(dna_model)
    for layer in (0, 1):
        found = model.embed(TEXTS, pooling="mean", layer=layer)
        for number, text in enumerate(TEXTS):
            caught = []
            hook = plain.model.layers[layer].register_forward_hook(lambda module, args, output, caught=caught: caught.append(output))
            with torch.no_grad():
                plain(**tokenizer(text.upper(), return_tensors="pt"))
            hook.remove()
            hidden = caught[0][0] if isinstance(caught[0], tuple) else caught[0]
            np.testing.assert_allclose(found[number], hidden.reshape(-1, 16)[1:].mean(0), atol=1e-5)


def test_options_that_leave_nothing_are_errors(dna_model):
    model = bmfm.load(dna_model)
    for compute in (model.embed, model.log_probs, model.hidden_states):
        with pytest.raises(ValueError, match=r"max_tokens leaves no room .* at least 1 more"):
            compute(TEXTS, max_tokens=2)
        compute(TEXTS[:1], max_tokens=3)
    with pytest.raises(ValueError, match="layers is empty"):
        model.hidden_states(TEXTS, layers=[])
    with pytest.raises(ValueError, match="precision='bf17' is unknown"):
        model.forward(next(batch for _, batch in model.batches(TEXTS)), precision="bf17")


def test_states_of_windows_follow_one_another(dna_model):
    model = bmfm.load(dna_model)
    text = "ACGTTGCAACGATTACCATGGTACC" * 12
    found = model.hidden_states([text, "ACGT"], max_tokens=18)
    n = len(found.ids[0])
    assert n > 40 and found.states[0].shape == (n, 16) and found.spans[0][-1, 1] == len(text)
    assert (found.spans[0][1:, 0] == found.spans[0][:-1, 1]).all()
    weights = [min(16, n - a) for a in range(0, n, 16)]
    plain = ModernBertForMaskedLM.from_pretrained(dna_model).eval()
    with torch.no_grad():
        second = plain.model(torch.tensor([[3, *found.ids[0][16:32].tolist(), 1]])).last_hidden_state[0, 1:-1]
    np.testing.assert_allclose(found.states[0][16:32], second, atol=1e-5)
    assert sum(weights) == n


def test_states_of_cells(cells_model):
    import anndata

    from bmfm.files import ASSETS

    adata = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:5].copy()
    model = bmfm.load(cells_model)
    found = model.hidden_states(adata)
    ((rows, batch),) = model.batches(adata)
    with torch.no_grad():
        hidden = model.model.encode(batch)
    n_before = 3  # [CLS], and the two tokens of read depth
    for row, number in enumerate(rows):
        n = len(found.ids[number])
        np.testing.assert_allclose(found.states[number], hidden[row, n_before : n_before + n], atol=1e-5)
        assert np.array_equal(found.ids[number], batch["input_ids"][row, n_before : n_before + n])


def test_gradients_of_a_log_probability(bert_folder):
    """By autograd through the plain model's own inputs_embeds."""
    plain, tokenizer = _plain(bert_folder, BertForMaskedLM)
    model = bmfm.load(bert_folder)
    ((rows, batch),) = model.batches(TEXTS)
    out = model.forward(batch, grad=True)
    place, name = 4, "C"
    width = batch["input_ids"].shape[1]
    logs = out.log_probs(torch.arange(len(rows)) * width + place)[:, model.tokenizer.names.index(name)]
    found = out.gradient(logs.sum())
    for row, number in enumerate(rows):
        ids = tokenizer(TEXTS[number].upper(), return_tensors="pt")
        embeddings = plain.get_input_embeddings()(ids["input_ids"]).detach().requires_grad_()
        logits = plain(inputs_embeds=embeddings, attention_mask=ids["attention_mask"]).logits[0, place]
        (expected,) = torch.autograd.grad(logits.log_softmax(-1)[tokenizer.convert_tokens_to_ids(name)], embeddings)
        n = embeddings.shape[1]
        np.testing.assert_allclose(found[row, :n], expected[0], atol=1e-5)
        assert not found[row, n:].any()


def test_gradients_of_a_label_are_finite_differences(cells_model):
    import anndata

    from bmfm.files import ASSETS

    model = bmfm.load(cells_model)
    model.model.double()
    ((_, batch),) = model.batches(anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:3].copy(), max_tokens=32)
    batch = batch | {k: batch[k].double() for k in ("values",)}

    def total(embeddings, grad=False):
        out = model.forward(batch, embeddings, grad=grad)
        return out, (out.logits("type")[:, 1] + out.logits("score")[:, 0]).sum()

    out, scalar = total(None, grad=True)
    gradient = out.gradient(scalar)
    assert gradient.shape == out.embeddings.shape and gradient.abs().sum() > 0
    for seed in range(3):
        direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        step = 1e-5
        above, below = (float(total(out.embeddings.detach() + s * direction)[1]) for s in (step, -step))
        assert float((gradient * direction).sum()) == pytest.approx((above - below) / (2 * step), rel=1e-5)


def test_running_from_embeddings(dna_model):
    model = bmfm.load(dna_model)
    ((_, batch),) = model.batches(TEXTS)
    plain = model.forward(batch, all_layers=True)
    assert not plain.hidden.last.requires_grad and len(plain.hidden.layers) == 2
    again = model.forward(batch, plain.embeddings)
    assert torch.equal(again.hidden.last, plain.hidden.last)
    other = model.forward(batch, torch.zeros_like(plain.embeddings))
    assert not torch.allclose(other.hidden.last, plain.hidden.last)
    with pytest.raises(ValueError, match="grad=True"):
        plain.gradient(plain.hidden.last.sum())
    scale = torch.tensor(2.0, requires_grad=True)  # through embeddings that were computed from something else
    out = model.forward(batch, plain.embeddings * scale, grad=True)
    (slope,) = torch.autograd.grad(out.pool("mean").sum(), scale)
    assert slope.isfinite() and slope != 0
