from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from bmfm.checkpoints.transformers_format import from_transformers, is_hf_compatible, to_transformers
from bmfm.models import cpu_attention, flash_attention
from bmfm.models.attention import attention_masks, check_name, choose, flattened
from bmfm.models.embeddings import FieldEmbeddings
from bmfm.models.model import BmfmModel, build
from bmfm.tokenizers.base import Tokens
from bmfm.tokenizers.collate import collate, to_tensors
from tests.conftest import BERT, LLAMA, MODERNBERT, VALUES

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
BACKBONES = {
    "modernbert": {"backbone": MODERNBERT, "local_attention": 16, **SMALL},
    "bert": {"backbone": BERT, **SMALL},
    "llama": {"backbone": LLAMA, "num_key_value_heads": 4, "first_norm": False, "final_norm": False, **SMALL},
}
DNA = {"input_ids": {"size": 200}}
RNA = DNA | {"values": {"n_special": 38}}
MLM = {"mlm": {"size": 200, "transform": True, "tied": "input_ids"}}
LENGTHS = (50, 9, 33, 61, 20)


def _batch(row_length=None, values=False):
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 200, offsets[-1]).astype(np.int32)
    fields = {"values": rng.random(offsets[-1]).astype(np.float32) * 5} if values else {}
    return to_tensors(collate(Tokens(ids, offsets, fields), np.array([3]), 5, row_length, not values, {"values": -3.0}))


def _by_example(batch, hidden):
    return [hidden[batch["example_ids"] == b] for b in range(5)]


@pytest.mark.parametrize("omics", ["dna", "rna"])
@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("attention", ["sdpa", "eager", pytest.param("flex_attention", marks=pytest.mark.slow)])
def test_packed_equals_padded(attention, backbone, omics):
    torch.manual_seed(0)
    rna = omics == "rna"
    model = build(RNA if rna else DNA, {}, attention=attention, values=VALUES["mlp_special"] if rna else None, **BACKBONES[backbone]).eval()
    padded, packed = _batch(values=rna), _batch(96, values=rna)
    assert packed["sequence_ids"].max() > 1
    with torch.no_grad():
        for a, b in zip(_by_example(padded, model.encode(padded)), _by_example(packed, model.encode(packed)), strict=True):
            torch.testing.assert_close(a, b, atol=3e-6, rtol=1e-5)


def test_dna_model_is_transformers_modernbert_and_back():
    torch.manual_seed(0)
    for tied in ("input_ids", None):
        heads = {"mlm": MLM["mlm"] | {"tied": tied}}
        model = build(DNA, heads, attention="sdpa", norm_bias=True, head_bias=True, **BACKBONES["modernbert"]).eval()
        assert is_hf_compatible(model)
        theirs = to_transformers(model).eval()
        again = from_transformers(theirs).eval()
        batch = _batch()
        mask = (batch["sequence_ids"] > 0).long()
        with torch.no_grad():
            ours = model.head("mlm", model.encode(batch))
            torch.testing.assert_close(again.head("mlm", again.encode(batch)), ours)
            torch.testing.assert_close(
                theirs(batch["input_ids"], attention_mask=mask).logits[mask > 0], ours[mask > 0], atol=3e-6, rtol=1e-5
            )
        assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("backbone", ["bert", "llama"])
def test_cells_are_sets(backbone):
    torch.manual_seed(0)
    model = build(RNA, {}, attention="sdpa", values=VALUES["scale_adapt"], **BACKBONES[backbone]).eval()
    batch = _batch(values=True)
    order = torch.cat([torch.tensor([0]), torch.randperm(20) + 1, torch.arange(21, batch["input_ids"].shape[1])])
    row = {k: v[4:5] if isinstance(v, torch.Tensor) and v.ndim == 2 else v for k, v in batch.items()}
    other = {k: v[:, order] if isinstance(v, torch.Tensor) and v.ndim == 2 else v for k, v in row.items()}
    with torch.no_grad():
        torch.testing.assert_close(model.encode(row)[:, 0], model.encode(other)[:, 0], atol=3e-6, rtol=1e-5)


def test_unseen_tokens_do_not_touch_others():
    torch.manual_seed(0)
    model = build(RNA, {}, attention="sdpa", values=VALUES["mlp"], **BACKBONES["bert"]).eval()
    batch = _batch(96, values=True)
    batch["isolated_mask"] = torch.zeros_like(batch["sequence_ids"], dtype=torch.bool)
    batch["isolated_mask"][0, 5] = True
    with torch.no_grad():
        before = model.encode(batch)
        batch["values"][0, 5] = 100.0
        after = model.encode(batch)
    changed = (before - after).abs().amax(-1) > 1e-6
    assert changed[0, 5] and changed.sum() == 1


@pytest.mark.parametrize("name", VALUES)
def test_value_encoders(name):
    settings = VALUES[name] | {"n_special": 38} | ({"n_bins": 10} if name == "token" else {})
    encode = FieldEmbeddings(16, {"values": settings}).encoder("values")
    values = torch.tensor([[-4.0, -5.0, 0.0, 1.0, 7.0, -38.0]])
    out = encode(values)
    assert out.shape == (1, 6, 16) and len({tuple(v.tolist()) for v in out[0].detach()}) == 6
    out.sum().backward()
    for wrong, match in (
        ("mpl", "the path of a FieldEncoder is expected"),
        ("bmfm.models.embeddings.Mpl", "is no FieldEncoder"),
        ("torch.nn.Linear", "is no FieldEncoder"),
    ):
        with pytest.raises(ValueError, match=rf"model\.values\._target_.*{match}"):
            build(RNA, {}, values={"_target_": wrong}, **BACKBONES["bert"])
    with pytest.raises(ValueError, match=r"fields\.values.*unexpected keyword argument 'iner'"):
        build(RNA, {}, values=VALUES["mlp"] | {"iner": 3}, **BACKBONES["bert"])


def test_gene_vectors_begin_and_stay(tmp_path):
    genes = {f"G{i}": i + 38 for i in range(10)}
    table = pd.DataFrame(np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32), index=["G1", "G3", "other", "G9"])
    path = tmp_path / "vectors.csv"
    table.to_csv(path)
    heads = {"genes": {"size": 48, "transform": True}}
    fields = {"input_ids": {"size": 48}, "values": {"n_special": 38}}
    model = build(fields, heads, BERT, "sdpa", VALUES["mlp"], {"path": str(path), "freeze": True}, genes, **SMALL)
    rows = model.embeddings.input_ids.embedding.weight
    torch.testing.assert_close(rows[39].detach(), torch.from_numpy(table.loc["G1"].to_numpy()))
    from bmfm.training.optim import adamw

    optimizer = adamw(model, 0.1, (0.9, 0.99), 1e-8, 0.1)
    before = rows.detach().clone()
    batch = _batch(values=True) | {"input_ids": _batch(values=True)["input_ids"] % 48}
    for _ in range(2):
        model.head("genes", model.encode(batch)).square().mean().backward()
        optimizer.step()
    assert (rows[[39, 41, 47]] == before[[39, 41, 47]]).all() and (rows[40] != before[40]).any()
    with pytest.raises(ValueError, match="none of the 4 names"):
        build(fields, heads, BERT, "sdpa", VALUES["mlp"], {"path": str(path)}, {"Z": 1}, **SMALL)


def test_model_folder(tmp_path):
    torch.manual_seed(0)
    heads = {"type": {"size": 3, "classes": ["a", "b", "c"]}, "values": {"size": 1, "transform": True}}
    model = build(RNA, heads, attention="sdpa", values=VALUES["scale_adapt"], **BACKBONES["llama"]).eval()
    model.save_pretrained(tmp_path)
    again = BmfmModel.from_pretrained(tmp_path).eval()
    assert again.config.heads["type"]["classes"] == ["a", "b", "c"]
    batch = _batch(values=True)
    with torch.no_grad():
        for name in heads:
            torch.testing.assert_close(again.head(name, again.encode(batch)), model.head(name, model.encode(batch)))
        out = again(batch["input_ids"], (batch["sequence_ids"] > 0), values=batch["values"]).last_hidden_state
    real = batch["sequence_ids"] > 0
    torch.testing.assert_close(out[real], model.encode(batch).detach()[real], atol=3e-6, rtol=1e-5)


def test_flattened_documents_for_varlen_attention():
    batch = _batch(96)
    places, cumulative, longest = flattened(batch["sequence_ids"])
    lengths = cumulative.diff().tolist()
    assert sorted(lengths) == [11, 22, 35, 52, 63] and longest == 63
    flat = batch["example_ids"].flatten()[places]
    assert all(len(flat[a:b].unique()) == 1 for a, b in pairwise(cumulative))


@pytest.mark.parametrize(
    ("dtype", "device", "head", "flash", "capability", "why"),
    [
        (torch.float32, "cuda", 64, True, (9, 0), "not in float32"),
        (torch.bfloat16, "cpu", 64, True, (0, 0), "GPU"),
        (torch.bfloat16, "cuda", 64, True, (7, 5), "7.5"),
        (torch.float16, "cuda", 20, True, (8, 0), "size 20"),
        (torch.float16, "cuda", 264, True, (8, 0), "size 264"),
        (torch.bfloat16, "cuda", 64, False, (8, 0), "torch 2.11 or newer"),
        (torch.bfloat16, "cuda", 64, True, (8, 0), None),
        (torch.float16, "cuda", 256, True, (9, 0), None),
    ],
)
def test_flash_attention_only_where_it_can_run(dtype, device, head, flash, capability, why):
    """What flash-attn 2 supports, by its README: fp16 and bf16, Ampere or newer, heads of up to 256."""
    where = (dtype, device, head, flash, capability)
    assert choose("auto", *where) == ("flash_attention_2" if why is None else "sdpa")
    assert choose("flex_attention", *where) == "flex_attention"
    if why is None:
        assert choose("flash_attention_2", *where) == "flash_attention_2"
    else:
        with pytest.raises(ValueError, match=why):
            choose("flash_attention_2", *where)


def test_flex_attention_has_no_small_heads_on_gpus():
    """PyTorch's kernel there multiplies matrices of 16 and more rows: its own error comes from deep in the compiler."""
    with pytest.raises(ValueError, match="heads of size 8 on GPUs, only of 16 and more"):
        choose("flex_attention", torch.bfloat16, "cuda", 8)
    assert choose("flex_attention", torch.bfloat16, "cuda", 16) == choose("flex_attention", torch.float32, "cpu", 8) == "flex_attention"


def test_choice_of_attention(monkeypatch):
    with pytest.raises(ValueError, match="unknown"):
        check_name("flsh")
    monkeypatch.setattr(flash_attention, "PACKAGE_IS_INSTALLED", False)
    monkeypatch.setattr(flash_attention, "TORCH_HAS_IT", True)
    assert flash_attention.kernel_for(dropout=0.1) is None
    monkeypatch.setattr(flash_attention, "TORCH_HAS_IT", False)
    with pytest.raises(ImportError, match="bmfm"):
        check_name("flash_attention_2")
    monkeypatch.setattr(flash_attention, "PACKAGE_IS_INSTALLED", True)
    model = build(DNA, {}, attention="flash_attention_2", **BACKBONES["modernbert"])
    with pytest.raises(ValueError, match="flash_attention_2 cannot run here: a GPU is needed"):
        model.encode(_batch())
    model.use_attention("auto")
    model.encode(_batch())
    assert model.backbone.config._attn_implementation == "sdpa"
    model = build(DNA, {}, attention="sdpa", **BACKBONES["modernbert"])
    batch = {"sequence_ids": torch.tensor([[1, 1, 2, 0]])}
    mask = attention_masks(model.backbone.config, torch.zeros(1, 4, 32), batch)["full_attention"]
    assert mask.squeeze().exp().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]  # added to the scores on a CPU


def _attention_of_each(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size):
    """What torch's kernel does on GPUs: [T, h, d] each, sequence by sequence, `window_size` tokens on either side (-1: all)."""
    assert cu_seq_q.dtype == torch.int32 and cu_seq_q is cu_seq_k and max_q == max_k == int(cu_seq_q.diff().max())
    states = torch.zeros_like(q)
    for first, after in pairwise(cu_seq_q.tolist()):
        scores = torch.einsum("qhd,khd->hqk", q[first:after], k[first:after]) * scale
        gap = torch.arange(after - first)[:, None] - torch.arange(after - first)
        if window_size[0] >= 0:
            scores = scores.masked_fill((gap > window_size[0]) | (-gap > window_size[1]), -torch.inf)
        states[first:after] = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[first:after])
    return states


@pytest.mark.parametrize(("name", "more"), [("modernbert", {}), ("llama", {}), ("llama", {"num_key_value_heads": 2}), ("bert", {})])
def test_flash_attention_of_torch_gets_each_sequence_with_its_window(monkeypatch, name, more):
    """The layers run on the tokens of all rows in one; sequences of packed rows and local layers are those of SDPA's masks."""
    monkeypatch.setattr(flash_attention, "TORCH_HAS_IT", True)
    monkeypatch.setattr(flash_attention, "varlen_attn", _attention_of_each)
    model, batch = build(DNA, {}, attention="sdpa", **BACKBONES[name] | more).eval(), _batch(96)
    shown = batch["sequence_ids"] > 0
    expected = model.run(model.embed(batch), batch, all_layers=True)
    model.use_attention("auto")
    monkeypatch.setattr("bmfm.models.attention.choose", lambda *_: "flash_attention_2")
    states = model.run(model.embed(batch), batch, all_layers=True)
    assert model.backbone.config._attn_implementation == flash_attention.NAME
    for theirs, ours in zip([expected.last, *expected.layers], [states.last, *states.layers], strict=True):
        torch.testing.assert_close(ours[shown], theirs[shown], atol=2e-5, rtol=1e-4)


def test_layers_are_compiled_one_by_one_and_plain_again(monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: lambda *a, **o: (calls.append(forward.__self__), forward(*a, **o))[1])
    model, batch = build(DNA, {}, **BACKBONES["modernbert"]).eval(), _batch()
    expected, layers = model.encode(batch), list(model.backbone.layers)
    layers[1].forward = own = layers[1].forward  # as code of others has it
    model.backbone.compile_layers()
    hidden = model.run(model.embed(batch), batch, all_layers=True)
    assert torch.equal(hidden.last, expected) and len(hidden.layers) == len(layers) and calls == layers
    model.backbone.restore_layers()
    model.encode(batch)
    assert calls == layers and vars(layers[1])["forward"] is own and not any("forward" in vars(layer) for layer in (layers[0], *layers[2:]))


def test_compiled_layers_take_no_attention_that_compiles_for_each_shape(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda forward, dynamic: forward)
    model, batch = build(DNA, {}, attention="auto", **BACKBONES["modernbert"]), _batch()
    for is_compiled, kernel in ((False, cpu_attention.NAME), (True, "sdpa")):
        if is_compiled:
            model.backbone.compile_layers()
        with torch.autocast("cpu", torch.bfloat16):
            model.encode(batch)
        assert model.backbone.is_compiled == is_compiled and model.backbone.config._attn_implementation == kernel


def test_unknown_settings_are_errors():
    with pytest.raises(ValueError, match="hiden_size"):
        build(DNA, {}, MODERNBERT, hiden_size=3)
    with pytest.raises(ValueError, match=r"model\.backbone is 'gpt'; the path of a Backbone is expected"):
        build(DNA, {}, "gpt")
    with pytest.raises(ValueError, match="values=mlp_special"):
        build(RNA, {}, BERT)
