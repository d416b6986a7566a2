"""A saved model is the same model: bit for bit, with positions, by every way of loading; or it is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BertTokenizerFast,
    LlamaConfig,
    LlamaModel,
    ModernBertConfig,
    ModernBertModel,
)

import bmfm
from bmfm.checkpoints.load import from_checkpoint, read_model
from bmfm.checkpoints.transformers_format import to_transformers
from bmfm.models.lora import merge_lora
from bmfm.models.model import BmfmModel, build
from bmfm.tokenizers.base import Tokens
from bmfm.tokenizers.collate import collate, to_tensors
from tests.conftest import BERT, LLAMA, MODERNBERT, VALUES

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
ROPE = {"rope_type": "default", "rope_theta": 777.0}
BACKBONES = {
    "modernbert": {"local_attention": 8, "rope_parameters": {"full_attention": ROPE, "sliding_attention": ROPE | {"rope_theta": 55.0}}},
    "bert": {},
    "llama": {"num_key_value_heads": 2, "rope_parameters": ROPE},
}
CLASSES = {"modernbert": MODERNBERT, "bert": BERT, "llama": LLAMA}
HEADS = {
    "genes": {"size": 60, "transform": True, "tied": "input_ids"},
    "type": {"size": 3, "kind": "bmfm.label_kinds.Classification", "pooling": "pooler", "classes": ["a", "b", "c"]},
}
LOADERS = {
    "bmfm": read_model,
    "from_pretrained": BmfmModel.from_pretrained,
    "auto": AutoModel.from_pretrained,
}


def _model(backbone, values, heads=HEADS):
    torch.manual_seed(0)
    fields = {"input_ids": {"size": 60, "dim": 24, "frozen": True}}
    if values:
        fields["values"] = {"n_special": 38}
        values = VALUES[values] | ({"n_bins": 10} if values == "token" else {})
    model = build(fields, heads, CLASSES[backbone], "sdpa", values, pooler=True, **SIZES, **BACKBONES[backbone])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        model.embeddings.input_ids.trained[40:50] = 0
    return model.eval()


def _batch(values, row_length=None):
    lengths = (30, 9, 21)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rng = np.random.default_rng(0)
    ids = rng.integers(38, 60, offsets[-1]).astype(np.int32)
    fields = {"values": rng.integers(0, 9, offsets[-1]).astype(np.float32)} if values else {}
    return to_tensors(collate(Tokens(ids, offsets, fields), np.array([3]), 5, row_length, fills={"values": -3.0}))


@torch.no_grad()
def _outputs(model, values):
    batch = _batch(values)
    hidden = model.encode(batch)
    out = {"packed": model.encode(_batch(values, 64)), "hidden": hidden, "mean": model.pool(hidden, batch, "mean")}
    heads = {name: model.head(name, model.pool(hidden, batch, h.get("pooling", 0))) for name, h in model.config.heads.items()}
    return out | heads


def _same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("values", [None, "token", "mlp", "mlp_special", "scale_adapt"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_part_comes_back(tmp_path, backbone, values):
    model = _model(backbone, values)
    before = _outputs(model, values)
    model.save_pretrained(tmp_path)
    for load in LOADERS.values():
        again = load(tmp_path).eval()
        again.use_attention("sdpa")
        assert _same(_outputs(again, values), before)
        buffers = dict(model.named_buffers())
        assert {k: v.tolist() for k, v in again.named_buffers()} == {k: v.tolist() for k, v in buffers.items()}


@pytest.mark.parametrize("load", LOADERS)
def test_rotary_frequencies_are_those_of_transformers(tmp_path, load):
    for backbone, theirs in (
        ("llama", LlamaModel(LlamaConfig(vocab_size=8, pad_token_id=0, **SIZES, **BACKBONES["llama"]))),
        ("modernbert", ModernBertModel(ModernBertConfig(vocab_size=8, pad_token_id=0, **SIZES, **BACKBONES["modernbert"]))),
    ):
        folder = tmp_path / f"{backbone}_{load}"
        _model(backbone, None).save_pretrained(folder)
        ours = [b for n, b in LOADERS[load](folder).named_buffers() if "inv_freq" in n]
        expected = [b for n, b in theirs.named_buffers() if "inv_freq" in n]
        assert len(ours) == len(expected) > 0
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


def test_positions_matter_here(tmp_path):
    """The comparison above would see a wrong frequency."""
    model = _model("llama", None)
    before = _outputs(model, None)
    model.backbone.rotary.inv_freq.zero_()
    assert not torch.allclose(_outputs(model, None)["hidden"], before["hidden"])


def test_frozen_rows_stay_frozen_after_loading(tmp_path):
    _model("bert", "mlp").save_pretrained(tmp_path)
    for load in LOADERS.values():
        rows = load(tmp_path).train().embeddings.input_ids.embedding.weight
        rows.square().sum().backward()
        assert not rows.grad[40:50].any() and rows.grad[:40].any()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_adapters_merged_and_saved(tmp_path, backbone):
    model = _model(backbone, "mlp_special")
    model.save_pretrained(tmp_path / "base")
    tuned = from_checkpoint({}, HEADS, str(tmp_path / "base"), attention="sdpa", lora={"r": 4, "alpha": 8}).eval()
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.1)
    unmerged = _outputs(tuned, "mlp_special")
    assert not torch.allclose(unmerged["hidden"], _outputs(model, "mlp_special")["hidden"])
    merged = merge_lora(tuned)
    before = _outputs(merged, "mlp_special")
    torch.testing.assert_close(before["hidden"], unmerged["hidden"], atol=1e-5, rtol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    for load in LOADERS.values():
        assert _same(_outputs(load(tmp_path / "merged").eval(), "mlp_special"), before)


def test_plain_modernbert_comes_back(tmp_path):
    torch.manual_seed(0)
    heads = {"mlm": {"size": 60, "transform": True, "tied": "input_ids"}}
    model = build({"input_ids": {"size": 60}}, heads, MODERNBERT, "sdpa", **SIZES, **BACKBONES["modernbert"]).eval()
    model.config.max_tokens = 77
    to_transformers(model).save_pretrained(tmp_path)
    again = read_model(tmp_path)
    assert _same(_outputs(again, None), _outputs(model, None))
    assert again.config.pooling == "mean" and again.config.max_tokens == 77


def test_other_kinds_of_numbers(tmp_path):
    model = _model("llama", "mlp")
    model.save_pretrained(tmp_path)
    assert AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16
    model.bfloat16().save_pretrained(tmp_path / "half")
    assert BmfmModel.from_pretrained(tmp_path / "half").dtype == torch.float32
    assert BmfmModel.from_pretrained(tmp_path / "half", dtype="auto").dtype == torch.bfloat16
    assert model.encode(_batch("mlp")).dtype == torch.bfloat16  # whose values are float32
    rotary = BmfmModel.from_pretrained(tmp_path / "half").backbone.rotary.inv_freq
    assert torch.equal(rotary, LlamaModel(LlamaConfig(vocab_size=8, pad_token_id=0, **SIZES, **BACKBONES["llama"])).rotary_emb.inv_freq)
    with pytest.raises(ValueError, match="does not take quantization_config"):
        BmfmModel.from_pretrained(tmp_path, quantization_config={})
    with pytest.raises(ValueError, match="dtype='int8'"):
        BmfmModel.from_pretrained(tmp_path, dtype="int8")


def _change(folder, change):
    """The same folder with other weights."""
    state = load_file(folder / "model.safetensors")
    save_file(change(state), folder / "model.safetensors", {"format": "pt"})


def _rename(state):
    return {k.replace("layers.1", "layers.11"): v for k, v in state.items()}


def _drop(state):
    return {k: v for k, v in state.items() if k != sorted(state)[0]}


def _add(state):
    return state | {"something.else": torch.zeros(2)}


def _cut(state):
    return {k: v[:-1].contiguous() if k == sorted(state)[0] else v for k, v in state.items()}


def _whole_numbers(state):
    return {k: v.to(torch.int8) if k == sorted(state)[0] else v for k, v in state.items()}


CHANGES = {
    "renamed": (_rename, r"layers\.1\.\S+ is missing.*layers\.11\.\S+ has no place"),
    "missing": (_drop, r"1 weights do not fit: \S+ is missing"),
    "extra": (_add, r"1 weights do not fit: something\.else has no place"),
    "shape": (_cut, r"1 weights do not fit: \S+ has shape \(.*\), \(.*\) is expected"),
    "dtype": (_whole_numbers, r"1 weights do not fit: \S+ holds torch.int8, torch.float32 is expected"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, dna_model):
    """Model folders of both formats, with weights that are all needed."""
    ours = tmp_path_factory.mktemp("ours")
    _model("llama", "mlp").save_pretrained(ours)
    return {"ours": ours, "plain": dna_model}


@pytest.mark.parametrize("kind", ["ours", "plain"])
@pytest.mark.parametrize("how", CHANGES)
def test_weights_that_do_not_fit_are_named(tmp_path, folders, kind, how):
    change, match = CHANGES[how]
    folder = shutil.copytree(folders[kind], tmp_path / "m")
    _change(folder, change)
    loaders = LOADERS.values() if kind == "ours" else (read_model, bmfm.load)
    for load in (*loaders, lambda f: from_checkpoint({}, {"new": {"size": 2, "pooling": 0}}, str(f))):
        with pytest.raises(ValueError, match=match) as raised:
            load(folder)
        assert str(folder) in str(raised.value) and "\n" not in str(raised.value)


def test_a_tied_matrix_written_twice_must_be_one(tmp_path, dna_model):
    folder = shutil.copytree(dna_model, tmp_path / "m")
    _change(folder, lambda s: s | {"decoder.weight": s["model.embeddings.tok_embeddings.weight"].clone()})
    read_model(folder)
    _change(folder, lambda s: s | {"decoder.weight": s["decoder.weight"] + 1})
    with pytest.raises(ValueError, match=r"decoder\.weight differs from the embedding"):
        read_model(folder)


@pytest.mark.parametrize("kind", ["ours", "plain"])
def test_shards(tmp_path, folders, kind):
    state = load_file(folders[kind] / "model.safetensors")
    folder = shutil.copytree(folders[kind], tmp_path / "m")
    (folder / "model.safetensors").unlink()
    keys = sorted(state)
    parts = {"model-00001-of-00002.safetensors": keys[::2], "model-00002-of-00002.safetensors": keys[1::2]}
    for name, part in parts.items():
        save_file({k: state[k] for k in part}, folder / name, {"format": "pt"})
    index = folder / "model.safetensors.index.json"
    weight_map = {k: name for name, part in parts.items() for k in part}
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    again, once = read_model(folder).state_dict(), read_model(folders[kind]).state_dict()
    assert again.keys() == once.keys() and all(torch.equal(again[k], once[k]) for k in once)

    index.write_text(json.dumps({"weight_map": weight_map | {keys[0]: "../elsewhere.safetensors"}}))
    with pytest.raises(ValueError, match=r"index\.json names '\.\./elsewhere"):
        read_model(folder)
    index.write_text(json.dumps({"weight_map": weight_map | {keys[1]: "model-00001-of-00002.safetensors"}}))
    with pytest.raises(ValueError, match=f"model-00001-of-00002.safetensors lacks {keys[1]}"):
        read_model(folder)
    index.write_text("{")
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json is not valid JSON"):
        read_model(folder)
    index.write_text("{}")
    with pytest.raises(ValueError, match="has no 'weight_map'"):
        read_model(folder)
    index.write_text(json.dumps({"weight_map": weight_map}))
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"names model-00002-of-00002\.safetensors for \d+ weights, and there is no such file"):
        read_model(folder)
    index.unlink()
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        read_model(folder)


@pytest.mark.parametrize("kind", ["ours", "plain"])
@pytest.mark.parametrize("n_bytes", [0, 5, 300, -100])
def test_damaged_weights(tmp_path, folders, kind, n_bytes):
    folder = shutil.copytree(folders[kind], tmp_path / "m")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:n_bytes])
    for load in LOADERS.values() if kind == "ours" else (read_model, bmfm.load):
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged") as raised:
            load(folder)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", ["ours", "plain"])
@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "not valid JSON"),
        ("{'a': 1}", "not valid JSON"),
        ("[1, 2]", "holds a list"),
        ("{}", "no 'model_type'"),
        ("[" * 100_000, "not valid JSON"),
        ('{"model_type": "bmfm"}', "no 'backbone'"),
        ('{"model_type": "bmfm", "backbone": {"_target_": "bmfm.models.backbones.bert.Bert"}, "fields": {}}', "no 'heads'"),
        ('{"model_type": "bmfm", "backbone": {}, "fields": {}, "heads": {}}', "no '_target_' in 'backbone'"),
        ('{"model_type": "bmfm", "backbone": {"_target_": "rwkv"}, "fields": {}, "heads": {}}', r"backbone\._target_ is 'rwkv'"),
        (
            '{"model_type": "bmfm", "backbone": {"_target_": "bmfm.models.backbones.bert.Bert", "hidden_size": "x"}, "fields": {}, "heads": {}}',
            "describes no model",
        ),
        (
            '{"model_type": "bmfm", "backbone": {"_target_": "bmfm.models.backbones.bert.Bert", "colour": 1}, "fields": {}, "heads": {}}',
            "'colour'",
        ),
        (
            '{"model_type": "bmfm", "backbone": {"_target_": "bmfm.models.backbones.bert.Bert"}, "fields": {"input_ids": {"_target_": "bmfm.models.embeddings.TokenEmbedding"}}, "heads": {}}',
            "'size'",
        ),
    ],
)
def test_broken_configurations(tmp_path, folders, kind, text, match):
    folder = shutil.copytree(folders[kind], tmp_path / "m")
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match=match) as raised:
        bmfm.load(folder)
    assert str(folder / "config.json") in str(raised.value)


@pytest.mark.parametrize("kind", ["ours", "plain"])
def test_attention_code_from_the_hub_is_not_fetched(tmp_path, folders, kind, monkeypatch):
    """transformers takes an attention that is named like a repository for one with code to run."""
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("the Hub was asked"))
    folder = shutil.copytree(folders[kind], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    for key, value in (
        ("attn_implementation", "evil/kernel"),
        ("_attn_implementation", "evil/kernel"),
        ("deep", [{"attn_implementation": "a/b"}]),
    ):
        (folder / "config.json").write_text(json.dumps(config | {key: value}))
        with pytest.raises(ValueError, match=r"config\.json asks for code from the Hub"):
            bmfm.load(folder)


def test_other_models_weights_must_fit_too(tmp_path):

    base = tmp_path / "base"
    base.mkdir()
    (base / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACGTN", *(f"##{c}" for c in "ACGTN")]))
    sizes = {"vocab_size": 15, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
    BertForMaskedLM(BertConfig(**sizes)).save_pretrained(base)
    BertTokenizerFast(str(base / "vocab.txt"), do_lower_case=False).save_pretrained(base)
    saved = tmp_path / "saved"
    model = bmfm.load(base)
    model.model.save_pretrained(saved)
    model.tokenizer.save_pretrained(saved)
    expected = model.embed(["ACGTAC"])
    np.testing.assert_array_equal(bmfm.load(saved).embed(["ACGTAC"]), expected)
    for load in (BmfmModel.from_pretrained, AutoModel.from_pretrained):
        assert torch.equal(load(saved).backbone.hf_token_ids, model.model.backbone.hf_token_ids)

    name = "bert.encoder.layer.1.output.dense.weight"
    for folder, key in ((base, name), (saved, f"backbone.network.{name}")):
        for change, match in (
            (lambda s, k=key: {n: v for n, v in s.items() if n != k}, rf"{key.removeprefix('bert.')}.*(is missing|of Bert)|no weights for"),
            (lambda s, k=key: s | {k: torch.zeros(3, 3)}, r"encoder\.layer\.1\.output\.dense\.weight.* shape"),
            (
                lambda s, k=key: s | {k.replace("layer.1", "layer.2"): torch.zeros(3, 3)},
                r"layer\.2\.output\.dense\.weight has? ?.*no place",
            ),
        ):
            broken = shutil.copytree(folder, tmp_path / "broken", dirs_exist_ok=True)
            _change(broken, change)
            with pytest.raises(ValueError, match=match):
                bmfm.load(broken)
            shutil.rmtree(broken)


def test_torch_files_of_others_hold_tensors_alone(tmp_path):
    """A `.bin` that calls a function is not read, and neither is half of one."""
    from tests.models.test_safety import _Evil

    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACGTN", *(f"##{c}" for c in "ACGTN")]))
    model = BertModel(BertConfig(vocab_size=15, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8))
    model.config.save_pretrained(tmp_path)
    BertTokenizerFast(str(tmp_path / "vocab.txt"), do_lower_case=False).save_pretrained(tmp_path)
    file, mark = tmp_path / "pytorch_model.bin", tmp_path / "mark"
    torch.save(model.state_dict(), file)
    assert bmfm.load(tmp_path).embed(["ACGT"]).shape == (1, 8)
    whole = file.read_bytes()
    for text in (whole[: len(whole) // 2], b"", b"junk"):
        file.write_bytes(text)
        with pytest.raises(ValueError, match=str(tmp_path)):
            bmfm.load(tmp_path)
    torch.save(model.state_dict() | {"x": _Evil(mark)}, file)
    with pytest.raises(ValueError, match=f"{tmp_path}: its weights"):
        bmfm.load(tmp_path)
    assert not mark.exists()
