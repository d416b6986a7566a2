"""Classes that a ``config.json`` names by ``_target_``: of installed packages alone, and of the right kind before anything of them is called."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import bmfm
from bmfm.checkpoints.adapters import save_adapter
from bmfm.checkpoints.load import from_checkpoint, read_model, save_together
from bmfm.checkpoints.transformers_format import is_hf_compatible
from bmfm.inference import Predictor
from bmfm.models.model import build
from bmfm.tokenizers.dna import DnaTokenizer
from bmfm.training.report import packages_beside, usage
from tests.conftest import MODERNBERT, SMALL, VALUES

MODULE = """
import pathlib

import torch
from torch import nn

from bmfm.models.backbones.base import Backbone, Capabilities, HiddenStates
from bmfm.models.backbones.modernbert import ModernBert
from bmfm.models.embeddings import FieldEncoder

pathlib.Path({mark!r}).write_text("ran")


class Sums(Backbone):
    def __init__(self, hidden_size: int, n_layers: int = 2):
        super().__init__()
        self.hidden_size = hidden_size
        self.layers = nn.ModuleList(nn.Linear(hidden_size, hidden_size) for _ in range(n_layers))

    @property
    def capabilities(self):
        return Capabilities(packing=False, isolation=False)

    def run(self, embeddings, batch, all_layers=False):
        states = [embeddings]
        for layer in self.layers:
            states.append(states[-1] + layer(states[-1].cumsum(1)))
        return HiddenStates(states[-1], states[1:] if all_layers else [])


class Twice(ModernBert):
    def run_layers(self, *arguments):
        return 2 * super().run_layers(*arguments)


class Blocks(Backbone):  # linear maps that have numbers for names, and torch's own attention

    def __init__(self, hidden_size: int):
        super().__init__()
        self.hidden_size = hidden_size
        self.attention = nn.MultiheadAttention(hidden_size, 2, batch_first=True)
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.GELU()) for _ in range(2))

    @property
    def capabilities(self):
        return Capabilities(packing=False, isolation=False)

    def run(self, embeddings, batch, all_layers=False):
        states = embeddings + self.attention(embeddings, embeddings, embeddings, batch["sequence_ids"] == 0)[0]
        for layer in self.layers:
            states = states + layer(states)
        return HiddenStates(states)


class Logarithm(FieldEncoder):
    def __init__(self, hidden_size: int, n_special: int, base: float = 2.0):
        super().__init__()
        self.base, self.dense = base, nn.Linear(1, hidden_size)

    def forward(self, values):
        return self.dense(values.clamp(min=0)[..., None].log1p() / torch.tensor(self.base).log())


class NotOne:
    def __init__(self, **settings):
        raise AssertionError("it was called")
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """The name of a module that lies in a folder which Python looks in, as one that is installed; it leaves a mark when it is run."""
    name, mark = f"outside_{tmp_path.name}", tmp_path / "mark"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / f"{name}.py").write_text(MODULE.format(mark=str(mark)))
    monkeypatch.syspath_prepend(tmp_path / "site")
    yield name
    sys.modules.pop(name, None)


FIELDS = {"input_ids": {"size": 60}, "values": {"n_special": 5}}


def _batch():
    torch.manual_seed(1)
    ids = torch.randint(5, 60, (2, 9))
    place = torch.zeros_like(ids)
    return {"input_ids": ids, "values": torch.rand(2, 9) * 3, "sequence_ids": place + 1, "position_ids": place, "packed": False}


def test_a_backbone_and_a_value_encoder_of_another_package(tmp_path, outside):
    torch.manual_seed(0)
    values = {"_target_": f"{outside}.Logarithm", "base": 10.0}
    model = build(FIELDS, {}, f"{outside}.Sums", values=values, hidden_size=8, n_layers=3).eval()
    model.save_pretrained(tmp_path / "m")
    described = json.loads((tmp_path / "m" / "config.json").read_text())
    assert described["backbone"] == {"_target_": f"{outside}.Sums", "hidden_size": 8, "n_layers": 3}
    assert described["fields"]["values"] == {"_target_": f"{outside}.Logarithm", "n_special": 5, "base": 10.0}
    assert packages_beside(model.config) == [outside]
    assert f"`{outside}`" in usage("rna", False, False, [outside]) and "Classes" not in usage("rna", False, False)
    del sys.modules[outside]  # as in a new process
    again = read_model(tmp_path / "m")
    with torch.no_grad():
        assert torch.equal(again.encode(_batch()), model.encode(_batch()))
    states = again.run(again.embed(_batch()), _batch(), all_layers=True)
    assert len(states.layers) == 3 == len(again.backbone.layers) and again.backbone.name == "Sums"
    with pytest.raises(ValueError, match=r"data\.packing=false"):
        again.encode(_batch() | {"packed": True})


def _load_anew(folder, outside):
    """Embeddings of a model that a new process loads, in which the package is installed."""
    script = f"import bmfm, sys; sys.stdout.buffer.write(bmfm.load({str(folder)!r}).embed(['ACGTTGCA', 'GATTACA']).tobytes())"
    site = str(Path(sys.modules[outside].__file__).parent)
    path = os.pathsep.join([p for p in (os.environ.get("PYTHONPATH", ""), str(Path.cwd()), site) if p])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, env=os.environ | {"PYTHONPATH": path})
    return np.frombuffer(done.stdout, np.float32).reshape(2, -1)


def test_a_backbone_that_inherits_from_ours_is_no_plain_modernbert(tmp_path, outside):
    tokenizer = DnaTokenizer.from_pretrained("dna_demo")
    heads = {"mlm": {"size": len(tokenizer), "transform": True, "tied": "input_ids"}}
    model = build(tokenizer.fields, heads, f"{outside}.Twice", **SMALL)
    assert not is_hf_compatible(model)
    assert is_hf_compatible(build(tokenizer.fields, heads, MODERNBERT, **SMALL))
    save_together(model, tokenizer, tmp_path / "m")
    expected = Predictor(model, tokenizer, "cpu").embed(["ACGTTGCA", "GATTACA"])
    np.testing.assert_array_equal(bmfm.load(tmp_path / "m", device="cpu").embed(["ACGTTGCA", "GATTACA"]), expected)


def test_adapters_in_a_backbone_of_another_package(tmp_path, outside):
    """In its linear maps whatever they are called, but for those that torch's attention reads by itself; saved, and merged in a new process."""
    tokenizer, lora = DnaTokenizer.from_pretrained("dna_demo"), {"r": 2, "alpha": 4}
    save_together(build(tokenizer.fields, {}, f"{outside}.Blocks", hidden_size=8), tokenizer, tmp_path / "m")
    model = from_checkpoint({}, {}, str(tmp_path / "m"), lora=lora)
    adapted = {name.partition(".lora_")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert adapted == {"backbone.layers.0.0", "backbone.layers.1.0"}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    batch = _batch() | {"input_ids": _batch()["input_ids"] % len(tokenizer)}
    model.encode(batch).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)
    save_adapter(model, tmp_path / "adapter", str(tmp_path / "m"), lora)
    expected = Predictor(model, tokenizer, "cpu").embed(["ACGTTGCA", "GATTACA"])
    np.testing.assert_allclose(_load_anew(tmp_path / "adapter", outside), expected, atol=1e-5)


def test_heads_of_an_adapter_are_data_of_others_too(tmp_path, dna_model, capsys):
    lora, head = {"r": 2, "alpha": 4}, {"size": 2, "kind": "bmfm.label_kinds.Classification", "pooling": "mean", "classes": ["a", "b"]}
    save_adapter(from_checkpoint({}, {"y": head}, str(dna_model), lora=lora), tmp_path, str(dna_model), lora)
    settings = json.loads((tmp_path / "adapter.json").read_text())
    for change, match in (
        ({"kind": "this.s"}, "a module of Python itself"),
        ({"kind": "torch.nn.Linear"}, "is no LabelKind"),
        ({"classes": ["a", "a"]}, "names a class twice"),
    ):
        (tmp_path / "adapter.json").write_text(json.dumps(settings | {"heads": {"y": head | change}}))
        with pytest.raises(ValueError, match=rf"adapter\.json: heads\.y.*{match}"):
            bmfm.load(tmp_path)
    assert not capsys.readouterr().out


def test_a_dropout_that_no_setting_has_is_an_error(tmp_path, outside):
    build(FIELDS, {}, f"{outside}.Sums", values=VALUES["mlp"], hidden_size=8).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model\.dropout=0\.3: the backbone of .*, Sums, has no setting"):
        from_checkpoint({}, {}, str(tmp_path), dropout=0.3)


def test_settings_that_a_class_of_others_does_not_take(tmp_path, outside):
    for settings, match in (
        ({"hidden_size": 8, "n_layer": 3}, "unexpected keyword argument 'n_layer'"),
        ({}, "missing a required argument"),
    ):
        with pytest.raises(ValueError, match=f"backbone: the settings are not those of Sums: .*{match}"):
            build(FIELDS, {}, f"{outside}.Sums", values=VALUES["mlp"], **settings)


@pytest.fixture
def named(tmp_path, cells_model):
    """A copy of a model folder whose ``config.json`` names another class."""

    def _named(target, key="backbone"):
        folder = tmp_path / "m"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(cells_model, folder)
        config = json.loads((folder / "config.json").read_text())
        (config["backbone"] if key == "backbone" else config["fields"][key])["_target_"] = target
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    return _named


HOSTILE = {
    "a function": ("os.system", r"a module of Python itself|is no Backbone"),
    "a module that opens a browser": ("antigravity.fly_backward", "a module of Python itself"),
    "a module that prints": ("this.s", "a module of Python itself"),
    "a program": ("pip.__main__.main", "the path of a Backbone is expected"),
    "a class of torch": ("torch.nn.Linear", "is no Backbone"),
    "the contract itself": ("bmfm.models.backbones.base.Backbone", "is no Backbone"),
    "a class of another kind": ("bmfm.models.embeddings.MlpEncoder", "is no Backbone"),
    "a name that is not there": ("bmfm.models.backbones.bert.Bart", "is no Backbone"),
    "a module that is not there": ("no_such_package.Model", "cannot be imported.*install the package"),
    "no path": ("Bert", "the path of a Backbone is expected"),
    "an expression": ("__import__('os').system", "the path of a Backbone is expected"),
    "private parts": ("bmfm.models.backbones.bert.__builtins__", "the path of a Backbone is expected"),
    "a file": ("../code/evil.py", "the path of a Backbone is expected"),
    "a list": (["bmfm.models.backbones.bert.Bert"], "'_target_' in 'backbone'"),
    "letters of another alphabet": ("bmfm.models.backbones.bert.Bеrt", "the path of a Backbone is expected"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_backbone_is_not_made(named, what, capsys):
    target, match = HOSTILE[what]
    folder = named(target)
    with pytest.raises(ValueError, match=match) as raised:
        bmfm.load(folder)
    said = str(raised.value)
    assert str(folder / "config.json") in said and "backbone" in said and said.isprintable() and said.isascii()
    assert "antigravity" not in sys.modules and not capsys.readouterr().out


def test_what_is_no_encoder_is_not_made(named, outside):
    for target in ("torch.nn.Linear", f"{outside}.NotOne", "bmfm.models.backbones.bert.Bert", None):
        folder = named(target, "values")
        with pytest.raises(ValueError, match=r"config\.json: fields\.values\._target_ is .*FieldEncoder"):
            bmfm.load(folder)
    with pytest.raises(ValueError, match="is no Backbone"):
        bmfm.load(named(f"{outside}.NotOne"))


SCRIPT = """
import sys
from pathlib import Path

import bmfm

try:
    bmfm.load(sys.argv[1])
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "where", ["module", "current", *(pytest.param(w, marks=pytest.mark.slow) for w in ("package", "current by name", "current by path"))]
)
def test_code_of_the_folder_is_not_run(tmp_path, named, where):
    """Neither where Python would find it: with the folder as the current one, beside it, or on the path of modules."""
    mark = tmp_path / "mark"
    folder = named({"package": "m.sums.Sums"}.get(where, "sums.Sums"))
    (folder / "sums.py").write_text(MODULE.format(mark=str(mark)))
    here = {"module": tmp_path, "package": tmp_path}.get(where, folder)
    path = {"module": str(folder), "current by path": str(folder)}.get(where, "")

    environment = os.environ | {"PYTHONPATH": os.pathsep.join([p for p in (os.environ.get("PYTHONPATH", ""), str(Path.cwd()), path) if p])}
    run = [sys.executable, "-c", SCRIPT, "." if where == "current by name" else str(folder)]
    done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=here, env=environment)
    assert "code of a model folder is not run" in done.stdout and not mark.exists(), done.stdout + done.stderr


def test_code_of_the_current_folder_is_not_run_unless_it_is_named(tmp_path, named):
    """A module that lies about in the current folder is nothing that the user chose; one on PYTHONPATH is."""

    mark, folder, here = tmp_path / "mark", named("sums.Sums"), tmp_path / "here"
    here.mkdir()
    (here / "sums.py").write_text(MODULE.format(mark=str(mark)))
    base = os.pathsep.join([p for p in (os.environ.get("PYTHONPATH", ""), str(Path.cwd())) if p])
    for path, ran in ((base, False), (os.pathsep.join([base, str(here)]), True)):
        run = [sys.executable, "-c", SCRIPT, str(folder)]
        done = subprocess.run(run, capture_output=True, text=True, check=True, cwd=here, env=os.environ | {"PYTHONPATH": path})
        assert mark.exists() == ran, done.stdout + done.stderr
        assert ("current folder" in done.stdout) != ran


def test_code_of_the_folder_of_config_dir_is_found_where_that_is_the_current_one(tmp_path, outside):
    tokenizer, here = DnaTokenizer.from_pretrained("dna_demo"), tmp_path / "site"
    save_together(build(tokenizer.fields, {}, f"{outside}.Sums", hidden_size=8), tokenizer, tmp_path / "m")
    (here / "s.csv").write_text("sequence\nACGTTGCA\n")
    run = [sys.executable, "-m", "bmfm.predict", f"checkpoint={tmp_path / 'm'}", "data.path=s.csv", "output=out.csv", "device=cpu"]
    path = os.pathsep.join([p for p in (os.environ.get("PYTHONPATH", ""), str(Path.cwd())) if p])
    for more, status in ((["--config-dir", "."], 0), (["overwrite=true"], 2)):
        done = subprocess.run([*run, *more], capture_output=True, text=True, cwd=here, env=os.environ | {"PYTHONPATH": path}, check=False)
        assert done.returncode == status and ("PYTHONPATH" in done.stderr) == bool(status), done.stderr


def test_a_module_that_was_imported_may_be_named(tmp_path, monkeypatch, outside):
    """A class that was written in the running program, as in a notebook."""
    import importlib

    module = importlib.import_module(outside)
    model = build({"input_ids": {"size": 60}}, {}, f"{outside}.Sums", hidden_size=8)
    model.save_pretrained(tmp_path / "m")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.startswith(str(tmp_path))])
    assert isinstance(read_model(tmp_path / "m").backbone, module.Sums)
