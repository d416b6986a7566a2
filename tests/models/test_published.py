"""Published checkpoints: the same numbers as the published code, and nothing in a pickle is run."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import bmfm
from bmfm.checkpoints.published import convert, normalise, read_published
from bmfm.convert import convert as convert_folder
from bmfm.models.model import BmfmModel
from bmfm.storage.pickled import StubConfig, read_checkpoint

PARITY = Path(__file__).parents[1] / "parity"
NAMES = sorted(p.name for p in PARITY.iterdir() if p.is_dir() and not p.name.startswith("_"))


def _theta(name):
    return 160000.0 if name.startswith("modernbert") else None


def _batch(io):
    x, mask = torch.from_numpy(io["input_ids"]), torch.from_numpy(io["attention_mask"]).long()
    n, n_fields, length = x.shape
    positions = torch.arange(length).expand(n, length) if n_fields == 1 else torch.zeros(n, length, dtype=torch.long)
    batch = {
        "input_ids": x[:, 0].long(),
        "sequence_ids": mask,
        "position_ids": positions,
        "packed": False,
        "cls_index": torch.arange(n) * length,
    }
    return batch | ({"values": x[:, 1].float()} if n_fields > 1 else {})


@pytest.mark.parametrize("name", NAMES)
def test_same_numbers_as_the_published_code(name):
    io = np.load(PARITY / name / "io.npz")
    model, _ = read_published(PARITY / name, _theta(name))
    batch = _batch(io)
    real = batch["sequence_ids"] > 0

    def close(ours, theirs, where=None):
        theirs = torch.from_numpy(theirs)
        torch.testing.assert_close(*((ours, theirs) if where is None else (ours[where], theirs[where])), atol=1e-5, rtol=0)

    before_norm = {}
    if name.startswith("modernbert"):
        model.backbone.body.final_norm.register_forward_pre_hook(lambda module, args: before_norm.update(hidden=args[0]))
    with torch.no_grad():
        hidden = model.encode(batch)
        last = max((k for k in io if k.startswith("hidden/")), key=lambda k: int(k.split("/")[1]))
        close(before_norm.get("hidden", hidden), io[last], real)
        close(before_norm.get("hidden", hidden)[:, 0], io["pooled/first_token"])
        close(model.pool(hidden, batch, 0 if before_norm else "pooler"), io["pooled/pooling_layer"])
        checked = 0
        for key in (k for k in io if k.startswith("logits")):
            head = key.split("/")[1]
            if head == "dna_chunks_token_scores":
                logits = model.head("mlm", hidden)
                if "every4" in key:
                    close(logits[:, ::4], io[key], real[:, ::4])
                else:
                    torch.testing.assert_close(logits.double().sum(-1)[real], torch.from_numpy(io[key])[real], atol=2e-3, rtol=1e-5)
            elif head == "expressions_wced":
                close(model.head("wced", hidden).unflatten(-1, (-1, 2)), io[key], real)
            elif head in ("expressions_regression", "expressions_is_zero"):
                output = list(model.config.heads["values"]["outputs"]).index({"expressions_regression": "mse"}.get(head, "is_zero"))
                close(model.head("values", hidden)[..., output : output + 1], io[key], real)
            else:
                pooling = model.config.heads[head]["pooling"]
                close(model.head(head, model.pool(hidden, batch, pooling)), io[key])
            checked += 1
    assert checked >= 2


@pytest.mark.parametrize("name", NAMES)
def test_convert_writes_a_folder_that_loads(name, tmp_path, capsys, monkeypatch):
    from bmfm import convert as entry

    monkeypatch.setattr(sys, "argv", ["convert", str(PARITY / name), str(tmp_path / "out"), "--max-tokens", "99"])
    entry.main()
    assert "parameters, heads" in capsys.readouterr().out
    out = tmp_path / "out"
    if name.startswith("modernbert"):
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        ids = torch.tensor([AutoTokenizer.from_pretrained(out)("ACGTACGT")["input_ids"]])
        assert AutoModelForMaskedLM.from_pretrained(out)(ids).logits.shape[-1] == 4096
        assert AutoTokenizer.from_pretrained(out).model_max_length == bmfm.load(out).max_tokens == 99
        return
    from bmfm.tokenizers.rna import CellTokenizer

    again, before = BmfmModel.from_pretrained(out), read_published(PARITY / name)[0]
    assert all((again.state_dict()[k] == v).all() for k, v in before.state_dict().items())
    assert CellTokenizer.from_pretrained(out).names[5] == "GENE0" and bmfm.load(out).max_tokens == 99
    assert again.config.pooling == 0  # their trainer_config.pooling_method is first_token
    if "multitask" in name:
        assert again.config.heads["celltype"]["classes"] == ["t0", "t1", "t2"] and again.config.heads["donor"]["gradient_reversal"] == 1.0


def test_old_layouts_and_wrong_weights():
    held = read_checkpoint(PARITY / "scbert_multitask_wced" / "last.ckpt")
    config, labels = held["hyper_parameters"]["model_config"], held["hyper_parameters"]["label_dict"]
    assert isinstance(config, StubConfig) and config.name.endswith("SCBertConfig")
    state = held["state_dict"]
    old = {}
    for key, value in state.items():
        key = key.replace("model.scbert.", "model.base_model.scbert.").replace(
            "model.cls.label_predictions.predictions.label_decoders.", "model.classifiers."
        )
        old[key.replace("model.cls.predictions.predictions.", "model.cls.predictions.")] = value
    assert normalise(old)[1].keys() == {k.replace("decoder.1.", "decoder.") for k in normalise(state)[1]}
    new = convert(old, config, labels)
    before = convert(state, config, labels)
    assert all((new.state_dict()[k] == v).all() for k, v in before.state_dict().items())
    short = {k: v for k, v in state.items() if "pooler.dense.bias" not in k}
    with pytest.raises(ValueError, match=r"pooler\.bias is missing"):
        convert(short, config, labels)
    with pytest.raises(ValueError, match=r"1 weights do not fit: .*has no place"):
        convert(state | {"model.cls.predictions.predictions.transform.extra": torch.zeros(1)}, config, labels)
    with pytest.raises(ValueError, match="no published encoder"):
        normalise({"something.weight": torch.zeros(1)})


def test_convert_says_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no \.ckpt"):
        read_published(tmp_path)
    torch.save({"weights": torch.zeros(2)}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="no Lightning checkpoint"):
        read_published(tmp_path)
    shutil.copytree(PARITY / "scbert_mlm_cve", tmp_path / "damaged")
    (tmp_path / "damaged" / "last.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"last\.ckpt"):
        read_published(tmp_path / "damaged")


def _save(folder, checkpoint, **changes):
    """A published folder whose checkpoint holds what ours read from it, with changes; configuration classes are made for it."""
    import types

    def thaw(value):
        if isinstance(value, StubConfig):
            module, _, name = value.name.rpartition(".")
            for n in range(1, module.count(".") + 2):
                made = sys.modules.setdefault(parent := ".".join(module.split(".")[:n]), types.ModuleType(parent))
            if not hasattr(made, name):
                setattr(made, name, type(name, (), {"__module__": module}))
            out = getattr(made, name)()
            out.__dict__.update({k: thaw(v) for k, v in value.fields.items()})
            return out
        if isinstance(value, dict):
            return {k: thaw(v) for k, v in value.items()}
        return [thaw(v) for v in value] if isinstance(value, list | tuple) else value

    before = set(sys.modules)
    try:
        torch.save(thaw(checkpoint | changes), folder / "last.ckpt")
    finally:
        for name in set(sys.modules) - before:
            del sys.modules[name]


@pytest.fixture
def published(tmp_path):
    """A copy of a published folder, and what its checkpoint holds."""
    folder = shutil.copytree(PARITY / "scbert_mlm_cve", tmp_path / "model")
    return folder, read_checkpoint(folder / "last.ckpt")


def test_length_of_inputs_is_what_training_had_or_asked_for(tmp_path, published, capsys, monkeypatch):
    from bmfm import convert as entry

    folder, held = published
    monkeypatch.setattr(sys, "argv", ["convert", str(folder), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as end:
        entry.main()
    assert end.value.code == 2 and "add --max-tokens N" in capsys.readouterr().err and not (tmp_path / "out").exists()
    named = folder.rename(tmp_path / "biomed.rna.bert.110m.mlm.multitask.v1")
    convert_folder(str(named), str(tmp_path / "out"))
    model = bmfm.load(tmp_path / "out")
    assert model.max_tokens == 4096 and model.model.config.pooling == "pooler"
    convert_folder(str(named), str(tmp_path / "out"), max_tokens=77, pooling="mean")
    assert bmfm.load(tmp_path / "out").max_tokens == 77 and bmfm.load(tmp_path / "out").model.config.pooling == "mean"
    held["datamodule_hyper_parameters"] = {"max_length": 1234}
    _save(named, held)
    convert_folder(str(named), str(tmp_path / "out"))
    assert bmfm.load(tmp_path / "out").max_tokens == 1234
    with pytest.raises(ValueError, match="at least 3"):
        convert_folder(str(named), str(tmp_path / "out"), max_tokens=2)


def test_models_with_read_depth_ask_for_it(tmp_path, published):
    folder = published[0].rename(tmp_path / "biomed.rna.bert.110m.mlm.rda.v1")
    with pytest.raises(ValueError, match=r"read-depth tokens: add --depth auto, or --depth align --depth-target TOTAL"):
        convert_folder(str(folder), str(tmp_path / "out"))
    with pytest.raises(ValueError, match=r"lacks \[S\], \[T\]"):  # this small vocabulary has none
        convert_folder(str(folder), str(tmp_path / "out"), depth="align", depth_target=1e4)


def test_binned_models_are_fed_bins(tmp_path, published):
    import anndata

    folder, held = published
    fields = held["hyper_parameters"]["model_config"].fields["fields"]
    values = next(f for f in fields if f.get("field_name") == "expressions")
    values.fields |= {"tokenization_strategy": "tokenize", "encoder_kwargs": None}
    theirs = "model.scbert.embeddings.expressions_embeddings."
    state = {k: v for k, v in held["state_dict"].items() if not k.startswith(theirs)} | {f"{theirs}weight": torch.randn(44, 32)}
    state[f"{theirs}weight"] = torch.randn(45, 32)
    held["state_dict"] = state
    _save(folder, held)
    with pytest.raises(ValueError, match=r"reads 40 bins.*--values-kind"):
        convert_folder(str(folder), str(tmp_path / "out"), max_tokens=64)
    convert_folder(str(folder), str(tmp_path / "out"), max_tokens=64, values_kind="percentile_bins")
    model = bmfm.load(tmp_path / "out")
    counts = np.random.default_rng(0).poisson(1.0, (5, 200)).astype(np.float32)
    cells = anndata.AnnData(counts, var=pd.DataFrame(index=[f"GENE{i}" for i in range(200)]))
    seen = []
    model.model.embeddings.values.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.embed(cells)
    ordinary = seen[0][seen[0] >= 0]
    assert (ordinary == ordinary.floor()).all() and ordinary.min() >= 1 and ordinary.max() <= 39
    with pytest.raises(ValueError, match="reads numbers"):
        convert_folder(str(PARITY / "scbert_mlm_cve"), str(tmp_path / "o"), max_tokens=64, values_kind="bins")


def test_a_modernbert_of_cells_has_positions(tmp_path, published):
    """Its states are those of transformers' ModernBertModel, which counts positions from 0."""
    import anndata
    from transformers import ModernBertConfig, ModernBertModel

    folder, held = published
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 24,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "norm_eps": 1e-5,
        "pad_token_id": 2,
    }
    rope = {
        name: {"rope_type": "default", "rope_theta": theta}
        for name, theta in (("full_attention", 160000.0), ("sliding_attention", 10000.0))
    }
    theirs = ModernBertModel(ModernBertConfig(vocab_size=5, local_attention=8, norm_bias=False, rope_parameters=rope, **sizes)).eval()
    body = {f"model.scmodernbert.{k}": v for k, v in theirs.state_dict().items() if not k.startswith("embeddings.")}
    embeddings = {k.replace("scbert", "scmodernbert"): v for k, v in held["state_dict"].items() if ".scbert.embeddings." in k}
    held["state_dict"] = body | embeddings
    config = held["hyper_parameters"]["model_config"]
    config.fields |= sizes | {
        "local_attention": 8,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
    }
    _save(folder, held)
    convert_folder(str(folder), str(tmp_path / "out"), max_tokens=64, pooling="mean")
    model = bmfm.load(tmp_path / "out", attention="eager")
    counts = np.random.default_rng(0).poisson(1.0, (1, 200)).astype(np.float32)
    cells = anndata.AnnData(counts, var=pd.DataFrame(index=[f"GENE{i}" for i in range(200)]))
    seen = []
    model.model.backbone.body.embeddings.register_forward_pre_hook(
        lambda module, args, kw: seen.append(kw["inputs_embeds"]), with_kwargs=True
    )
    with torch.no_grad():
        ours = model.embed(cells)
        theirs.embeddings.norm = model.model.backbone.body.embeddings.norm  # theirs has no bias there
        n = 64
        expected = theirs(inputs_embeds=seen[0][:, :n]).last_hidden_state[:, 1:].mean(1)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    again = model.model(*(torch.tensor([[3, 7, 9, 1]]), None), values=torch.tensor([[-4.0, 1.0, 2.0, -2.0]])).last_hidden_state
    with torch.no_grad():
        other = theirs(inputs_embeds=seen[-1]).last_hidden_state
    torch.testing.assert_close(again, other, atol=1e-5, rtol=0)


def test_a_configuration_that_is_none_ends_in_one_line(tmp_path, published):
    folder, held = published
    config = held["hyper_parameters"]["model_config"]
    for change, match in (
        ({"num_hidden_layers": 10**9}, "says 1,000,000,000 layers, there are weights of 2"),
        ({"hidden_size": 10**7}, r"has shape \(\d+, 32\), \(\d+, 10000000\) is expected"),
        ({"hidden_size": "x"}, "model_config.hidden_size is 'x'"),
        ({"fields": [3]}, "not those of a published model|do not fit"),
        ({"num_attention_heads": 0}, "not those of a published model"),
        ({"intermediate_size": None}, "model_config.intermediate_size is None"),
    ):
        _save(folder, held, hyper_parameters={"model_config": config.fields | change})
        with pytest.raises(ValueError, match=match) as raised:
            read_published(folder)
        assert str(raised.value).startswith(str(folder / "last.ckpt")) and "\n" not in str(raised.value)


def test_pooling_as_published(published):
    """Everything but [CLS], masked, [SEP] with it; what `mean_pooling` is in the published code."""
    io = np.load(PARITY / "scbert_mlm_cve" / "io.npz")
    model, _ = read_published(published[0])
    batch = _batch(io)
    batch["example_ids"] = torch.where(batch["sequence_ids"] > 0, torch.arange(len(batch["sequence_ids"]))[:, None], -1)
    hidden, mask = torch.from_numpy(io["hidden/2"] if "hidden/2" in io else io["hidden/1"]), batch["sequence_ids"].float()
    expected = (hidden[:, 1:] * mask[:, 1:, None]).sum(1) / mask[:, 1:].sum(1)[:, None]
    torch.testing.assert_close(model.pool(hidden, batch, "mean"), expected)
    everything = (hidden * mask[:, :, None]).sum(1) / mask.sum(1)[:, None]
    torch.testing.assert_close(model.pool(hidden, batch, "mean_all"), everything)


def test_flags_and_names_that_are_none_end_in_one_line(tmp_path, published):
    folder, _ = published
    (tmp_path / "file").write_text("")
    for target, options, match in (
        ("file", {}, r"TARGET .*file is a file"),
        ("file/below", {}, "file is a file"),
        ("out", {"local_rope_theta": float("nan")}, "--local-rope-theta nan must be a finite number"),
        ("out", {"local_rope_theta": 0.0}, r"--local-rope-theta 0\.0 must be"),
        ("out", {"local_rope_theta": float("inf")}, "--local-rope-theta inf must be"),
        ("out", {"depth": "align", "depth_target": -3.0}, r"--depth-target -3\.0 must be"),
    ):
        with pytest.raises(ValueError, match=match) as raised:
            convert_folder(str(folder), str(tmp_path / target), max_tokens=64, **options)
        assert "\n" not in str(raised.value) and not (tmp_path / "out").exists()
    vocab = folder / "tokenizers" / "genes" / "vocab.json"
    held = json.loads(vocab.read_text())
    for name in ("A\nB", "", "  ", "A\x1b[31m"):
        vocab.write_text(json.dumps({name if i == 9 else token: i for token, i in held.items()}))
        with pytest.raises(ValueError, match=r"vocab\.json: .* is no name of a gene") as raised:
            convert_folder(str(folder), str(tmp_path / "out"), max_tokens=64)
        assert str(raised.value).isprintable() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [{"depth": "auto"}, {"values_kind": "bins"}, {"depth_target": 9.0}])
def test_models_of_dna_have_no_counts(tmp_path, options):
    with pytest.raises(ValueError, match=r"^--\S+ \S+: this is a model of DNA, which has no counts"):
        convert_folder(str(PARITY / "modernbert_dna_snp"), str(tmp_path), max_tokens=64, **options)
