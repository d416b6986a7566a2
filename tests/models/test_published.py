"""Published checkpoints: the same numbers as the published code, and nothing in a pickle is run."""

import os
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bmfm.models.model import BmfmModel
from bmfm.models.pickled import Bag, read_checkpoint
from bmfm.models.published import convert, normalise, read_published

PARITY = Path(__file__).parents[1] / "parity"
NAMES = sorted(p.name for p in PARITY.iterdir() if p.is_dir() and not p.name.startswith("_"))


def _theta(name):
    return 160000.0 if name.startswith("modernbert") else None


def _batch(io):
    x, mask = torch.from_numpy(io["input_ids"]), torch.from_numpy(io["attention_mask"]).long()
    n, n_fields, length = x.shape
    positions = torch.arange(length).expand(n, length) if n_fields == 1 else torch.zeros(n, length, dtype=torch.long)
    batch = {"input_ids": x[:, 0].long(), "document": mask, "position_ids": positions, "packed": False, "first": torch.arange(n) * length}
    return batch | ({"values": x[:, 1].float()} if n_fields > 1 else {})


@pytest.mark.parametrize("name", NAMES)
def test_same_numbers_as_the_published_code(name):
    io = np.load(PARITY / name / "io.npz")
    model, _ = read_published(PARITY / name, _theta(name))
    batch = _batch(io)
    real = batch["document"] > 0

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

    monkeypatch.setattr(sys, "argv", ["convert", str(PARITY / name), str(tmp_path / "out")])
    entry.main()
    assert "parameters, heads" in capsys.readouterr().out
    out = tmp_path / "out"
    if name.startswith("modernbert"):
        from transformers import AutoModelForMaskedLM, AutoTokenizer

        ids = torch.tensor([AutoTokenizer.from_pretrained(out)("ACGTACGT")["input_ids"]])
        assert AutoModelForMaskedLM.from_pretrained(out)(ids).logits.shape[-1] == 4096
        return
    from bmfm.tokenizers.rna import CellTokenizer

    again, before = BmfmModel.from_pretrained(out), read_published(PARITY / name)[0]
    assert all((again.state_dict()[k] == v).all() for k, v in before.state_dict().items())
    assert CellTokenizer.from_pretrained(out).names[5] == "GENE0"
    if "multitask" in name:
        assert again.config.heads["celltype"]["classes"] == ["t0", "t1", "t2"] and again.config.heads["donor"]["reversal"] == 1.0


class _Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_checkpoint_is_refused(tmp_path, legacy):
    bad, mark = tmp_path / "last.ckpt", tmp_path / "written"
    torch.save({"state_dict": {}, "hyper_parameters": _Evil(mark)}, bad, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ValueError, match=r"last.ckpt asks for (posix|nt).system.*refused"):
        read_checkpoint(bad)
    assert not mark.exists()
    with bad.open("wb") as out:
        pickle.dump(_Evil(mark), out)
    with pytest.raises(Exception, match=r"refused|Invalid|magic"):
        read_checkpoint(bad)
    assert not mark.exists()


def test_old_layouts_and_wrong_weights():
    held = read_checkpoint(PARITY / "scbert_multitask_wced" / "last.ckpt")
    config, labels = held["hyper_parameters"]["model_config"], held["hyper_parameters"]["label_dict"]
    assert isinstance(config, Bag) and config.name.endswith("SCBertConfig")
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
