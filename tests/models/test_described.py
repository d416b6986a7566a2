"""What a ``config.json`` of others may and may not do; no configuration here reaches the Hub."""

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

import bmfm
from bmfm.checkpoints.load import read_model
from bmfm.storage.config import offline
from tests.conftest import VALUES

HF = "bmfm.models.backbones.huggingface.HuggingFaceBackbone"


@pytest.fixture(scope="module")
def folders(tmp_path_factory, cells_model, dna_model):
    """Model folders of all kinds: ours, a plain ModernBERT, one of others, and one of others as this package saves it."""
    theirs, saved = tmp_path_factory.mktemp("theirs"), tmp_path_factory.mktemp("saved")
    (theirs / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACGTN", *(f"##{c}" for c in "ACGTN")]))
    torch.manual_seed(0)
    sizes = {"vocab_size": 15, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    BertForMaskedLM(BertConfig(**sizes)).save_pretrained(theirs)
    BertTokenizerFast(str(theirs / "vocab.txt"), do_lower_case=False).save_pretrained(theirs)
    model = bmfm.load(theirs)
    model.model.save_pretrained(saved)
    model.tokenizer.save_pretrained(saved)
    return {"cells": cells_model, "plain": dna_model, "theirs": theirs, "saved": saved}


@pytest.fixture
def changed(tmp_path, folders):
    """A copy of a folder whose ``config.json`` a function has changed."""

    def _changed(kind, change):
        folder = tmp_path / "m"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(folders[kind], folder)
        config = json.loads((folder / "config.json").read_text())
        change(config)
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return _changed


@pytest.fixture
def no_hub(monkeypatch):
    """Spies where transformers takes kernels from the Hub, and where anything is fetched."""
    asked = []

    def spy(*args, **kwargs):
        asked.append(args)
        raise RuntimeError(f"the Hub was asked for {args}")

    for module in ("transformers.integrations.hub_kernels", "transformers.modeling_utils"):
        monkeypatch.setattr(f"{module}.load_and_register_attn_kernel", spy, raising=False)
    monkeypatch.setattr("transformers.integrations.hub_kernels.get_kernel", spy)
    monkeypatch.setattr("huggingface_hub.snapshot_download", spy)
    monkeypatch.setattr("httpx.Client.send", spy)
    return asked


@pytest.mark.parametrize("kind", ["cells", "plain", "theirs", "saved"])
def test_attention_is_chosen_here(changed, no_hub, kind):
    """Whatever its form and depth: named like a repository it is refused, anything else has no effect."""
    keys = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation")
    for key in keys:
        for value in ("evil/kernel", {"": "evil/kernel"}, {"x": {"y": "evil/kernel"}}, ["evil/kernel"]):
            for place in ("top", "deep"):
                given = {key: value}
                folder = changed(kind, lambda c, g=given, p=place: c.update(g if p == "top" else {"deep": [{"config": g}]}))
                with pytest.raises(ValueError, match=r"config\.json asks for code from the Hub") as raised:
                    bmfm.load(folder)
                assert "\n" not in str(raised.value)
        for value in ("flash_attention_3", {"": "flash_attention_3"}, ["no_such"], 3):
            folder = changed(kind, lambda c, k=key, v=value: c.get("backbone", {}).get("config", c).update({k: v}))
            model = bmfm.load(folder).model
            assert model.backbone.config._attn_implementation in ("sdpa", "eager")
    assert not no_hub


SECOND = [
    {"backbone": "evil/repo"},
    {"use_pretrained_backbone": True, "backbone": "evil/repo"},
    {"use_timm_backbone": True},
    {"backbone_config": {"model_type": "resnet"}},
    {"quantization_config": {"quant_method": "fp8"}},
    {"text_config": {"model_type": "bert"}},
]


@pytest.mark.parametrize("kind", ["theirs", "saved"])
@pytest.mark.parametrize("more", SECOND, ids=lambda m: next(iter(m)))
def test_no_second_model_is_fetched(changed, no_hub, kind, more):
    folder = changed(kind, lambda c: c.get("backbone", {}).get("config", c).update(more))
    with pytest.raises(ValueError, match="asks for something beside the model itself") as raised:
        bmfm.load(folder)
    assert str(folder / "config.json") in str(raised.value) and "\n" not in str(raised.value) and not no_hub


@pytest.mark.parametrize("kind", ["theirs", "saved"])
@pytest.mark.parametrize("model_type", ["detr", "timm_backbone", "vit", "clip", "wav2vec2", "encoder-decoder", "no_such", 3])
def test_models_of_other_things_end_in_one_line(changed, no_hub, kind, model_type):
    folder = changed(kind, lambda c: c.get("backbone", {}).get("config", c).update(model_type=model_type))
    with pytest.raises(ValueError, match=r"config\.json.*(no encoder or decoder of tokens|no 'model_type')") as raised:
        bmfm.load(folder)
    assert "\n" not in str(raised.value) and not no_hub


def test_offline_is_for_a_while():
    """huggingface_hub's own switch, set and put back."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    before = constants.HF_HUB_OFFLINE
    with offline(), pytest.raises(OfflineModeIsEnabled):
        HfApi().model_info("someone/else")
    assert before == constants.HF_HUB_OFFLINE


CHECKED = {
    "dtype": ("plain", {"dtype": "float99"}, "'dtype' is 'float99'"),
    "whole numbers": ("cells", {"dtype": "int8"}, "'dtype' is 'int8'"),
    "a module": ("theirs", {"torch_dtype": "nn"}, "'torch_dtype' is 'nn'"),
    "length": ("plain", {"max_tokens": "64"}, "'max_tokens' is '64'"),
    "no length": ("cells", {"max_tokens": 0}, "'max_tokens' is 0"),
    "pooling": ("plain", {"pooling": "median"}, "'pooling' is 'median'"),
    "pooling by number": ("cells", {"pooling": -1}, "'pooling' is -1"),
    "a third of pooling": ("cells", {"pooling": 0.3}, "'pooling' is 0.3"),
    "no configuration": ("saved", {"backbone": {"_target_": HF, "hf_token_ids": [0]}}, "no 'config'"),
    "ids beyond the rows": ("saved", {"backbone": {"hf_token_ids": [*range(14), 99]}}, "hf_token_ids holds 99, and there are 15 rows"),
    "no ids": ("saved", {"backbone": {"hf_token_ids": "abc"}}, "hf_token_ids is 'abc'"),
    "source": ("saved", {"backbone": {"source": "elsewhere"}}, "there is no folder"),
    "size": ("cells", {"heads": {"type": {"size": 0}}}, "heads.type: .*'size'"),
    "size of classes": ("cells", {"heads": {"type": {"classes": ["a", "b"]}}}, "heads.type has 2 classes, and its size is 3"),
    "a class twice": ("cells", {"heads": {"type": {"classes": ["a", "b", "a"]}}}, "heads.type.classes names a class twice"),
    "kind": ("cells", {"heads": {"type": {"kind": "poisson"}}}, "heads.type.kind is 'poisson'; the path of a LabelKind"),
    "scale": ("cells", {"heads": {"score": {"scale": 0}}}, "heads.score.scale is 0"),
    "center": ("cells", {"heads": {"score": {"center": "x"}}}, "heads.score.center is 'x'"),
    "way of pooling": ("cells", {"heads": {"type": {"pooling": "max"}}}, "heads.type.pooling is 'max'"),
    "a number of several": (
        "cells",
        {"heads": {"type": {"kind": "bmfm.label_kinds.Regression"}}},
        "heads.type is a regression, one number",
    ),
    "tokens": (
        "cells",
        {"heads": {"type": {"pooling": "token"}}},
        "heads.type is a Classification of whole examples, its pooling cannot be token",
    ),
    "positions": ("cells", {"positions": "false"}, "'positions' is 'false'"),
    "no number of heads": ("cells", {"backbone": {"num_attention_heads": 3}}, "describes no model that can be built"),
    "control characters": ("cells", {"heads": {"\x1b[31m\n": {"size": 0}}}, r"heads\.\\x1b\[31m\\n: "),
}


def _merge(held: dict, more: dict) -> None:
    for key, value in more.items():
        if isinstance(value, dict) and isinstance(held.get(key), dict) and not (key == "backbone" and "_target_" in value):
            _merge(held[key], value)
        else:
            held[key] = copy.deepcopy(value)


@pytest.mark.parametrize("what", CHECKED)
def test_settings_of_another_kind_are_named(changed, what):
    kind, change, match = CHECKED[what]
    folder = changed(kind, lambda c: _merge(c, change))
    with pytest.raises(ValueError, match=match) as raised:
        bmfm.load(folder)
    said = str(raised.value)
    assert said.startswith(str(folder / "config.json")) and said.isprintable()


@pytest.mark.parametrize("kind", ["cells", "plain", "theirs", "saved"])
@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named(changed, kind, odd):
    folder = changed(kind, lambda c: None)
    state = load_file(folder / "model.safetensors")
    name = next(k for k in sorted(state, reverse=True) if state[k].ndim == 2 and "layer" in k)
    state[name][-1, -1] = odd
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"weights '\S+' hold numbers that are NaN or infinite") as raised:
        bmfm.load(folder)
    assert name.removeprefix("bert.") in str(raised.value)


def test_large_weights_are_numbers(changed):
    """Whose sum is none in 32 bits."""
    from bmfm.storage.weights import refuse_not_finite

    large = {"a": torch.full((4,), 3e38), "b": torch.full((9,), 65504.0, dtype=torch.float16), "c": torch.zeros(0)}
    assert not torch.isfinite(large["a"].sum()) and refuse_not_finite(large, "x") is None
    with pytest.raises(ValueError, match="b"):
        refuse_not_finite(large | {"b": large["b"] * 2}, "x")


def test_nothing_is_predicted_from_what_is_no_number(cells_model):
    """torch.nn.functional.softmax of NaN is NaN, and no class is the likeliest."""
    import anndata
    import numpy as np

    model = bmfm.load(cells_model)
    genes = model.tokenizer.names[100:160]
    counts = np.random.default_rng(0).poisson(2.0, (3, 60)).astype(np.float32)
    adata = anndata.AnnData(counts)
    adata.var_names = genes
    before = model.predict(adata)
    head = model.model.head
    model.model.head = lambda name, states: head(name, states).index_fill(0, torch.tensor([1]), torch.nan)
    with pytest.warns(UserWarning, match="NaN or infinite numbers for 1 of 3 examples"):
        said = model.predict(adata)
    odd = said["type"].isna().to_numpy()
    assert odd.sum() == 1 and said[odd].isna().all(axis=None) and said["tags"].isna().tolist() == odd.tolist()
    assert said[~odd].equals(before[~odd])


@pytest.fixture(scope="module")
def together(tmp_path_factory, cells_model, dna_model):
    """Folders of both omics that were saved as training does."""
    from bmfm.checkpoints.load import save_together

    out = {}
    for kind, source in (("cells", cells_model), ("plain", dna_model)):
        model = bmfm.load(source)
        out[kind] = tmp_path_factory.mktemp(f"together_{kind}")
        save_together(model.model, model.tokenizer, out[kind])
    return out


def _exchange_genes(folder):
    lines = (folder / "genes.txt").read_text().splitlines()
    lines[100], lines[200] = lines[200], lines[100]
    (folder / "genes.txt").write_text("\n".join(lines) + "\n")


def _exchange_words(folder):
    held = json.loads((folder / "tokenizer.json").read_text())
    vocab = held["model"]["vocab"]
    a, b = (name for name, i in vocab.items() if i in (20, 21))
    vocab[a], vocab[b] = vocab[b], vocab[a]
    (folder / "tokenizer.json").write_text(json.dumps(held))


def _cells(change):
    def _change(folder):
        held = json.loads((folder / "cell_tokenizer.json").read_text())
        _merge(held, change)
        (folder / "cell_tokenizer.json").write_text(json.dumps(held))

    return _change


EXCHANGED = {
    "genes": ("cells", _exchange_genes, r"genes\.txt holds other tokens, or in another order"),
    "words": ("plain", _exchange_words, r"tokenizer\.json holds other tokens, or in another order"),
    "values": ("cells", _cells({"values": {"kind": "as_is"}}), "values is 'as_is', .* saved with 'log_normalise'"),
    "depth": ("cells", _cells({"read_depth": {"mode": "none"}}), "read_depth is False, .* saved with True"),
    "CLS tokens": ("cells", _cells({"n_cls": 3}), "n_cls is 3, .* saved with 1"),
    "positions": ("cells", _cells({"positions": True}), "positions is True, .* saved with False"),
    "target": ("cells", _cells({"read_depth": {"target": -5}}), "read_depth.target=-5 must be a total"),
}


@pytest.mark.parametrize("what", EXCHANGED)
def test_a_tokenizer_that_was_exchanged_is_seen(tmp_path, together, what):
    """Of the same size, so that nothing but what was saved with the model can tell."""
    kind, change, match = EXCHANGED[what]
    bmfm.load(together[kind])
    folder = shutil.copytree(together[kind], tmp_path / "m")
    change(folder)
    with pytest.raises(ValueError, match=match) as raised:
        bmfm.load(folder)
    assert str(folder) in str(raised.value) and "\n" not in str(raised.value)


def test_transformers_keeps_what_a_plain_model_says_of_its_tokenizer(tmp_path, together):
    from transformers import AutoModelForMaskedLM

    AutoModelForMaskedLM.from_pretrained(together["plain"]).save_pretrained(tmp_path)
    said = [json.loads((folder / "config.json").read_text())["tokenizer"] for folder in (tmp_path, together["plain"])]
    assert said[0] == said[1] and len(said[0]["tokens"]) == 64


def test_folders_that_do_not_say_are_checked_as_far_as_can_be(changed, folders):
    """As those saved by earlier versions: what the model reads must be what the tokenizer writes."""
    for change, match in (
        (lambda c: c["heads"]["type"].update(pooling=1), r"heads\.type\.pooling is 1.*n_cls=1"),
        (lambda c: c.update(pooling=2), r"pooling is 2.*n_cls=1"),
        (lambda c: c["fields"].update(values=VALUES["token"] | {"n_special": 5, "n_bins": 9}), "9 bins of values.*gives numbers"),
    ):
        from bmfm.checkpoints.load import check_vocabulary, read_tokenizer
        from bmfm.models.model import BmfmConfig, BmfmModel

        folder = changed("cells", change)
        model = BmfmModel(BmfmConfig.from_dict(json.loads((folder / "config.json").read_text())))
        with pytest.raises(ValueError, match=match):
            check_vocabulary(model, read_tokenizer(folder), folder)
    folder = changed("plain", lambda c: c.update(pooling=1))
    with pytest.raises(ValueError, match=r"pooling is 1.*DNA has one"):
        bmfm.load(folder)


def test_weights_that_no_index_names(tmp_path, dna_model):
    state = load_file(dna_model / "model.safetensors")
    folder = shutil.copytree(dna_model, tmp_path / "m")
    (folder / "model-00001-of-00001.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"holds model\.safetensors and model-00001-of-00001"):
        read_model(folder)
    (folder / "model-00001-of-00001.safetensors").rename(folder / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text("broken")
    with pytest.warns(UserWarning, match=r"index\.json is of no use beside model\.safetensors"):
        read_model(folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(state, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    read_model(folder)
    save_file({"x": torch.zeros(1)}, folder / "model-00002-of-00002.safetensors")
    with pytest.raises(ValueError, match=r"model-00002-of-00002\.safetensors, which model\.safetensors\.index\.json does not name"):
        read_model(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    save_file(state | {"more": torch.zeros(1)}, folder / "model-00001-of-00001.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"holds more, which model\.safetensors\.index\.json does not name"):
        read_model(folder)


def test_ids_beyond_the_rows(tmp_path, changed, folders, dna_model):
    """As many tokens as there are rows, one of them with an id that has no row."""
    folder = shutil.copytree(dna_model, tmp_path / "dna")
    held = json.loads((folder / "tokenizer.json").read_text())
    vocab = held["model"]["vocab"]
    vocab[max(vocab, key=vocab.__getitem__)] += 7
    (folder / "tokenizer.json").write_text(json.dumps(held))
    with pytest.raises(ValueError, match=r"tokenizer\.json has a token with id [\d,]+, the model of .* rows"):
        bmfm.load(folder)
    folder = changed("saved", lambda c: c["backbone"]["hf_token_ids"].reverse())
    with pytest.raises(ValueError, match=r"other ids of tokens than backbone\.hf_token_ids"):
        bmfm.load(folder)


def test_heads_without_names_of_classes(changed):
    folder = changed("cells", lambda c: c["heads"]["type"].pop("classes"))
    model = bmfm.load(folder)
    import anndata
    import numpy as np

    adata = anndata.AnnData(np.ones((2, 60), np.float32))
    adata.var_names = model.tokenizer.names[100:160]
    assert model.embed(adata).shape == (2, 16)
    with pytest.raises(ValueError, match=r"head 'type' has no names of classes in config\.json"):
        model.predict(adata)
