"""What a loaded model says of itself, what it uploads, adapters, and folders whose parts do not belong together."""

import json
import shutil

import numpy as np
import pytest
import torch

import bmfm
from bmfm.checkpoints.adapters import save_adapter
from bmfm.checkpoints.load import from_checkpoint, read_model
from bmfm.models.lora import merge_lora
from bmfm.models.model import build
from bmfm.tokenizers.rna import CellTokenizer
from tests.conftest import BERT, SMALL, VALUES

TEXTS = ["ACGTTGCAACGATT", "GATTACA"]
HEADS = {"y": {"size": 3, "kind": "bmfm.label_kinds.Classification", "pooling": "auto", "classes": ["a", "b", "c"]}}


def test_printing_a_model_says_what_it_is(cells_model, dna_model):
    said = repr(bmfm.load(cells_model, device="cpu"))
    n = sum(p.numel() for p in read_model(cells_model).parameters())
    for part in ("single-cell RNA: Bert", f"{n / 1e6:,.1f} M", "128 tokens", "19,283 genes, [CLS] x 1", "pooling     0", "type: 3 classes (a, b, c)",
                 "score: 1 outputs, pooling mean", "cpu", str(cells_model)):  # fmt: skip
        assert part in said
    said = repr(bmfm.load(dna_model))
    assert "Predictor of DNA: ModernBert" in said and "mlm: " in said and "64 tokens" in said


def test_a_bar_for_long_work_alone(dna_model, capsys, monkeypatch):
    model = bmfm.load(dna_model)
    model.embed(TEXTS)
    assert "example" not in capsys.readouterr().err
    model.embed(TEXTS, progress=True)
    assert "2/2" in capsys.readouterr().err
    now = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda *a, **options: now.__setitem__(0, now[0] + 4) or forward(*a, **options))
    model.embed(TEXTS)
    assert "2/2" in capsys.readouterr().err
    model.embed(TEXTS, progress=False)
    assert "example" not in capsys.readouterr().err


class _Hub:
    """Takes what would be uploaded, by the rules of huggingface_hub."""

    def __init__(self, token=None):
        pass

    def create_repo(self, repo_id, **options):
        pass

    def upload_folder(self, repo_id, folder_path, allow_patterns, commit_message):
        from pathlib import Path

        from huggingface_hub.utils import filter_repo_objects

        held = [p.relative_to(folder_path).as_posix() for p in Path(folder_path).rglob("*") if p.is_file()]
        _Hub.uploaded = sorted(filter_repo_objects(held, allow_patterns=allow_patterns))
        return "commit"


def test_only_what_the_package_wrote_is_uploaded(tmp_path, dna_model, cells_model, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", _Hub)
    expected = {
        dna_model: ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"],
        cells_model: ["cell_tokenizer.json", "config.json", "genes.txt", "model.safetensors"],
    }
    others = ("credentials.json", "token.txt", ".env", "notes.md", "run.py", "id_rsa", "optimizer.safetensors", "model-backup.safetensors",
              "wandb/config.json", "code/secrets.json", "code/deep/x.py", "model.safetensors.bak", "genes.txt~")  # fmt: skip
    for source, files in expected.items():
        folder = shutil.copytree(source, tmp_path / source.name)
        for name in others:
            (folder / name).parent.mkdir(exist_ok=True, parents=True)
            (folder / name).write_text("{}")
        (folder / "README.md").write_text("card")
        (folder / "recipe.json").write_text("{}")
        bmfm.load(folder).push_to_hub("a/b")
        written = [f for f in files if not (f == "special_tokens_map.json" and not (folder / f).exists())]
        assert _Hub.uploaded == sorted([*written, "README.md", "recipe.json"])


def test_code_of_others_and_shards_are_uploaded(tmp_path):
    """Those that the configuration and the index know of alone, and nothing by a link out of the folder."""
    from bmfm.storage.folders import written_files

    folder, outside = tmp_path / "m", tmp_path / "secret.py"
    (folder / "code").mkdir(parents=True)
    outside.write_text("secret")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "../secret.py"}
    contents = {
        "config.json": json.dumps(
            {"model_type": "bmfm", "backbone": {"_target_": "bmfm.models.backbones.huggingface.HuggingFaceBackbone", "source": "code"}}
        ),
        "model.safetensors.index.json": json.dumps({"weight_map": shards}),
    }
    names = [*contents, "code/modeling_x.py", "code/config.json", "model-00001-of-00002.safetensors", "vocab.txt"]
    others = ["code/.env", "code/__pycache__", "model-1-of-2.safetensors", "model-00002-of-00002.safetensors", "genes.txt"]
    for name in [*names, *others]:
        (folder / name).write_text(contents.get(name, ""))
    (folder / "code" / "linked.py").symlink_to(outside)
    (folder / "README.md").symlink_to(outside)
    assert written_files(folder) == sorted(names)
    (folder / "config.json").write_text(json.dumps({"model_type": "bmfm", "backbone": {"_target_": BERT}}))
    assert written_files(folder) == sorted(n for n in names if not n.startswith("code/"))
    (folder / "cell_tokenizer.json").write_text("{}")
    assert set(written_files(folder)) & {"vocab.txt", "genes.txt", "cell_tokenizer.json"} == {"genes.txt", "cell_tokenizer.json"}

    cached = tmp_path / "models--a--b" / "snapshots" / "1"  # as huggingface_hub keeps it
    (cached.parent.parent / "blobs").mkdir(parents=True)
    cached.mkdir(parents=True)
    (cached.parent.parent / "blobs" / "x").write_text(contents["config.json"])
    (cached / "config.json").symlink_to("../../blobs/x")
    assert written_files(cached) == ["config.json"]


def _tuned(folder, lora):
    torch.manual_seed(1)
    tuned = from_checkpoint({}, HEADS, str(folder), attention="sdpa", lora=lora).eval()
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.05)
    return tuned


@pytest.mark.parametrize("dora", [False, True])
def test_adapters_load(tmp_path, dna_model, dora):
    """As the model that they were merged into and that was saved whole."""
    tuned = _tuned(dna_model, {"r": 2, "alpha": 4, "dora": dora})
    tuned.config.strands = "average"
    save_adapter(tuned, tmp_path / "adapter", str(dna_model), {"r": 2, "alpha": 4, "dora": dora}, max_tokens=33)
    tokenizer = bmfm.load(dna_model).tokenizer
    merge_lora(tuned).save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    whole = bmfm.load(tmp_path / "merged")
    for model in (bmfm.load(tmp_path / "adapter"), bmfm.load(dna_model, adapter=tmp_path / "adapter")):
        np.testing.assert_array_equal(model.embed(TEXTS), whole.embed(TEXTS))
        np.testing.assert_array_equal(model.predict(TEXTS)["y_p_a"], whole.predict(TEXTS)["y_p_a"])
        assert model.max_tokens == 33 and model.model.config.strands == "average"
        with pytest.raises(ValueError, match="not loaded from a folder"):
            model.push_to_hub("a/b")


def test_an_adapter_of_cells_brings_its_tokenizer(tmp_path, cells_model):
    tuned = _tuned(cells_model, {"r": 2, "alpha": 4})
    tokenizer = CellTokenizer.from_pretrained(cells_model, order="descending", read_depth={"mode": "none"})
    save_adapter(tuned, tmp_path / "adapter", str(cells_model), {"r": 2, "alpha": 4}, tokenizer)
    assert bmfm.load(tmp_path / "adapter").tokenizer.read_depth["mode"] == "none"


def test_adapters_that_do_not_belong(tmp_path, dna_model):
    from safetensors.torch import load_file, save_file

    lora, folder = {"r": 2, "alpha": 4}, tmp_path / "adapter"
    save_adapter(_tuned(dna_model, lora), folder, "/nowhere/model", lora)
    with pytest.raises(FileNotFoundError, match=r"adapter\.json is for the model '/nowhere/model', which is not there.*adapter="):
        bmfm.load(folder)
    assert bmfm.load(dna_model, adapter=folder).embed(TEXTS).shape == (2, 16)
    state = load_file(folder / "adapter.safetensors")
    first = sorted(k for k in state if "lora_A" in k)[0]
    for changed, match in (
        ({k: v for k, v in state.items() if k != first}, rf"adapter\.safetensors: 1 weights do not fit: {first} is missing"),
        (state | {"heads.extra": torch.zeros(1)}, "heads.extra has no place"),
        (state | {"embeddings.input_ids.embedding.weight": torch.zeros(3, 16)}, "an adapter leaves as it is"),
    ):
        save_file(changed, folder / "adapter.safetensors")
        with pytest.raises(ValueError, match=match):
            bmfm.load(dna_model, adapter=folder)
    (folder / "adapter.safetensors").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"adapter\.safetensors is damaged"):
        bmfm.load(dna_model, adapter=folder)
    (folder / "adapter.json").write_text("{}")
    with pytest.raises(ValueError, match=r"adapter\.json has no 'base'"):
        bmfm.load(folder)


@pytest.mark.parametrize("change", ["longer", "shorter"])
def test_a_vocabulary_of_another_length_is_named(tmp_path, cells_model, change):
    folder = shutil.copytree(cells_model, tmp_path / "m")
    genes = (folder / "genes.txt").read_text()
    (folder / "genes.txt").write_text(genes + "EXTRA\n" if change == "longer" else genes[: genes[:-1].rindex("\n") + 1])
    n = 19_321 + (1 if change == "longer" else -1)
    with pytest.raises(ValueError, match=rf"genes\.txt has {n:,} tokens, the model of .*config\.json has 19,321"):
        bmfm.load(folder)


def test_tokenizers_that_cannot_be_read_are_named(tmp_path, cells_model, dna_model):
    for source, file, text in (
        (dna_model, "tokenizer.json", "{"),
        (dna_model, "tokenizer.json", "{}"),
        (cells_model, "cell_tokenizer.json", "{"),
        (cells_model, "cell_tokenizer.json", '{"colour": 1}'),
        (cells_model, "cell_tokenizer.json", '{"order": "alphabetical"}'),
        (cells_model, "genes.txt", ""),
        (cells_model, "genes.txt", "A\nB\n"),
    ):
        folder = shutil.copytree(source, tmp_path / "m")
        (folder / file).write_text(text)
        with pytest.raises(ValueError, match=str(folder)) as raised:
            bmfm.load(folder)
        assert "\n" not in str(raised.value)
        shutil.rmtree(folder)


def test_a_published_folder_is_told_how_to_become_a_model(tmp_path):
    (tmp_path / "tokenizers").mkdir()
    with pytest.raises(FileNotFoundError, match=f"python -m bmfm.convert {tmp_path} TARGET"):
        bmfm.load(tmp_path)
    (tmp_path / "last.ckpt").write_text("x")
    with pytest.raises(FileNotFoundError, match=r"bmfm\.convert .*last\.ckpt TARGET"):
        bmfm.load(tmp_path / "last.ckpt")


def test_a_tokenizer_of_the_same_size_and_other_tokens_is_refused(dna_model):
    """As ref2vec and snp2vec, of 4,096 tokens each."""
    names = bmfm.load(dna_model).tokenizer.names
    own = {name: i for i, name in enumerate(names)}
    assert from_checkpoint({}, HEADS, str(dna_model), genes=own)
    swapped = own | {names[7]: 8, names[8]: 7}
    with pytest.raises(ValueError, match=rf"2 of {len(names)} tokens .*{names[7]}.*number 8, has number 7 there.*tokenizer=checkpoint"):
        from_checkpoint({}, HEADS, str(dna_model), genes=swapped)


@pytest.mark.slow
def test_transformers_without_the_package_names_the_kind(tmp_path, cells_model):
    """A folder brings no code; what transformers says is all that there is to go by, and the card tells what to import."""
    import subprocess
    import sys

    code = f"from transformers import AutoModel; AutoModel.from_pretrained({str(cells_model)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode and "model type `bmfm`" in done.stderr
    done = subprocess.run([sys.executable, "-c", "import bmfm.models.model; " + code], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr


def _classes(tmp_path, classes, kind="bmfm.label_kinds.Classification"):
    torch.manual_seed(0)
    fields = {"input_ids": {"size": 20}, "values": {"n_special": 5}}
    heads = {"y": {"size": len(classes), "kind": kind, "pooling": 0, "classes": classes}}
    model = build(fields, heads, BERT, values=VALUES["mlp"], **SMALL)
    with torch.no_grad():
        model.heads.decoder("y").bias.normal_()
    model.save_pretrained(tmp_path)
    return model.heads.decoder("y")


def test_heads_are_taken_over_by_their_classes(tmp_path):
    old = _classes(tmp_path, ["a", "b", "c"])

    def new(**changes):
        head = {"size": 3, "kind": "bmfm.label_kinds.Classification", "pooling": 0, "classes": ["a", "b", "c"]} | changes
        model = from_checkpoint({}, {"y": head}, str(tmp_path))
        return model.heads.decoder("y"), model.pretrained_heads

    same, begun = new()
    assert torch.equal(same.weight, old.weight) and torch.equal(same.bias, old.bias) and begun == {"y"}
    moved, begun = new(classes=["c", "a", "b"])
    for row, before in enumerate((2, 0, 1)):
        assert torch.equal(moved.weight[row], old.weight[before]) and moved.bias[row] == old.bias[before]
    assert begun == {"y"}
    for changes, what in (
        ({"classes": ["a", "b", "d"]}, "its classes"),
        ({"classes": ["x", "y", "z"]}, "its classes"),
        ({"kind": "bmfm.label_kinds.MultiLabel"}, "its kind"),
        ({"classes": ["a", "b"], "size": 2}, "its size"),
    ):
        with pytest.warns(UserWarning, match=f"head 'y' of the checkpoint is for something else \\({what}"):
            other, begun = new(**changes)
        assert begun == frozenset() and not torch.equal(other.weight[:2], old.weight[:2])


def test_heads_tied_to_rows_of_another_width(tmp_path):
    """Logits are states times the embedding that the model reads, row by row."""
    import pandas as pd

    genes = {f"G{i}": i + 5 for i in range(15)}
    path = tmp_path / "vectors.csv"
    pd.DataFrame(np.random.default_rng(0).normal(size=(15, 6)), index=list(genes)).to_csv(path)
    fields = {"input_ids": {"size": 20}, "values": {"n_special": 5}}
    heads = {"genes": {"size": 20, "transform": False, "tied": "input_ids"}}
    model = build(fields, heads, BERT, values=VALUES["mlp"], pretrained_genes={"path": str(path), "freeze": True}, genes=genes, **SMALL)
    states = torch.randn(3, 16)
    logits = model.head("genes", states)
    rows = model.embeddings.input_ids(torch.arange(20))
    expected = np.array([[float(s @ r) for r in rows] for s in states])
    np.testing.assert_allclose(logits.detach(), expected, atol=1e-5)
    logits.sum().backward()
    assert not model.embeddings.input_ids.embedding.weight.grad[5:].any()
    model.save_pretrained(tmp_path / "m")
    assert torch.equal(read_model(tmp_path / "m").head("genes", states), logits)


def test_card_shows_lines_that_work(dna_model, cells_model, tmp_path, monkeypatch):
    """Each card's lines are run in the folder."""
    import anndata

    from bmfm.files import ASSETS
    from bmfm.training.report import usage

    cells = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:3].copy()
    for source, omics, plain in ((dna_model, "dna", True), (cells_model, "rna", False)):
        folder = shutil.copytree(source, tmp_path / omics)
        cells.write_h5ad(folder / "cells.h5ad")
        monkeypatch.chdir(folder)
        blocks = usage(omics, plain, predicts=not plain).split("```python\n")[1:]
        assert len(blocks) == (2 if plain else 1) and "bmfm.load" in blocks[0]
        for block in blocks:
            exec(block.split("```")[0], {})


def test_a_name_that_is_nowhere(tmp_path, monkeypatch):
    """A relative path with one slash looks like a Hub id; nothing is asked for where its parent is a folder here."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fetch(name, **options):
        asked.append(name)
        raise LocalEntryNotFoundError("Cannot find it in the cache,\nand the Hub cannot be reached")

    asked: list = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(FileNotFoundError, match=r"there is no folder runs/typo, though there is runs"):
        bmfm.load("runs/typo")
    assert not asked
    with pytest.raises(
        FileNotFoundError, match=r"^someone/typo is neither a folder nor a Hub id that could be fetched: Cannot find"
    ) as raised:
        bmfm.load("someone/typo")
    assert asked == ["someone/typo"] and "\n" not in str(raised.value)
