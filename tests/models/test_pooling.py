"""One way of pooling a model: its own, saved with it, the same wherever nothing else is asked for."""

import json
import shutil

import anndata
import numpy as np
import pytest
import torch

import bmfm
from bmfm.checkpoints.load import from_checkpoint, read_model
from bmfm.evaluation.methods.checkpoint import CheckpointEmbeddings
from bmfm.evaluation.probes import Embedder
from bmfm.files import ASSETS
from bmfm.models.model import BmfmConfig
from tests.conftest import BERT, SMALL, VALUES

TEXTS = ["ACGTTGCAACGATT" * 4, "GATTACA"]


@pytest.fixture(scope="module")
def adata():
    return anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:6].copy()


def _states(model, data):
    """Hidden states of each example [L, H] with its special tokens, one at a time: nothing is padded or pooled."""
    states = [(model.model.encode(batch)[0], batch["sequence_ids"][0] > 0) for _, batch in model.batches(data, batch_size=1)]
    by_length = sorted((h[is_token] for h, is_token in states), key=len, reverse=True)
    return [h.detach().numpy() for h in by_length]


@pytest.mark.parametrize(("pooling", "expected"), [(None, slice(1, None)), ("auto", slice(1, None)), ("mean", slice(1, None)),
                                                   ("mean_all", slice(None)), (0, slice(0, 1))])  # fmt: skip
def test_means_over_tokens(dna_model, pooling, expected):
    """numpy's mean of the states: of DNA by default without [CLS], the first, and with [SEP]."""
    model = bmfm.load(dna_model)
    states = _states(model, TEXTS)
    np.testing.assert_allclose(model.embed(TEXTS, pooling=pooling), [h[expected].mean(0) for h in states], atol=1e-5)


def test_the_largest_and_the_mean(dna_model):
    model = bmfm.load(dna_model)
    expected = [h[1:].max(0) + h[1:].mean(0) for h in _states(model, TEXTS)]
    np.testing.assert_allclose(model.embed(TEXTS, pooling="max_mean"), expected, atol=1e-5)


def test_the_same_default_everywhere(tmp_path, dna_model, cells_model, adata):
    for folder, data, own in ((dna_model, TEXTS, "mean"), (cells_model, adata, 0)):
        other = shutil.copytree(folder, tmp_path / folder.name)
        config = json.loads((other / "config.json").read_text())
        assert config["pooling"] == own
        for kept, pooling in ((own, own), ("mean_all", "mean_all"), (None, own)):
            (other / "config.json").write_text(
                json.dumps({k: v for k, v in config.items() if k != "pooling"} | ({"pooling": kept} if kept else {}))
            )
            model = bmfm.load(other)
            embedded = model.embed(data, pooling=pooling)
            np.testing.assert_array_equal(model.embed(data), embedded)
            np.testing.assert_array_equal(Embedder(model).transform(data), embedded)
            assert CheckpointEmbeddings("x", str(other)).pooling == pooling
            heads = {"y": {"size": 2, "pooling": "auto", "classes": ["a", "b"]}}
            assert from_checkpoint({}, heads, str(other)).config.heads["y"]["pooling"] == pooling


def test_label_heads_of_older_folders_keep_their_mean(tmp_path, cells_model):
    """Before a model had a pooling of its own, the mean was over every token."""
    folder = shutil.copytree(cells_model, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    assert read_model(folder).config.heads["score"]["pooling"] == "mean"
    del config["pooling"]
    (folder / "config.json").write_text(json.dumps(config))
    assert read_model(folder).config.heads["score"]["pooling"] == "mean_all"


@pytest.mark.parametrize("pooling", [3, 1, -1, "1", True, False, "avg", "cls", 1.0, [0], "pooler"])
def test_what_there_is_not_is_refused(cells_model, dna_model, adata, pooling):
    for folder, data in ((cells_model, adata), (dna_model, TEXTS)):
        with pytest.raises(ValueError, match=r"pooling=.*(one CLS token, number 0|mean)"):
            bmfm.load(folder).embed(data, pooling=pooling)
        with pytest.raises(ValueError, match="pooling="):
            Embedder(bmfm.load(folder), pooling=pooling).transform(data)


@pytest.mark.parametrize("options", [{"precision": "int8"}, {"precision": "bfloat16"}, {"precision": 16}, {"layer": 7}])
def test_other_mistakes_in_options(dna_model, options):
    with pytest.raises(ValueError, match=r"choose fp32 \(or none\), bf16 or fp16|the model has 2"):
        bmfm.load(dna_model).embed(TEXTS, **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"batch_size": 0}, "batch_size=0 must be a whole number of at least 1"),
        ({"batch_size": -1}, "batch_size=-1 must be"),
        ({"batch_size": 2.5}, r"batch_size=2\.5 must be"),
        ({"max_tokens": 0}, "max_tokens=0 must be"),
        ({"batchsize": 4}, "batchsize: no such option for a model of (cells|DNA); there are batch_size, max_tokens, precision, progress, "),
    ],
)
def test_options_that_are_none_end_in_one_line(dna_model, cells_model, adata, options, match):
    for folder, data in ((dna_model, TEXTS), (cells_model, adata)):
        for call in (lambda m, d: m.embed(d, **options), lambda m, d: m.embed_and_predict(d, True, False, **options)):
            with pytest.raises(ValueError, match=match):
                call(bmfm.load(folder), data)


def test_several_cls_tokens(tmp_path, adata):
    from bmfm.models.model import build
    from bmfm.tokenizers.rna import CellTokenizer

    tokenizer = CellTokenizer(n_cls=3)
    model = build(tokenizer.fields, {}, BERT, values=VALUES["mlp"], pooler=True, **SMALL)
    model.config.pooling = 2
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model = bmfm.load(tmp_path)
    embedded = model.embed(adata, max_tokens=64)
    np.testing.assert_array_equal(embedded, model.embed(adata, pooling=2, max_tokens=64))
    assert not np.allclose(embedded, model.embed(adata, pooling=1, max_tokens=64)) and model.embed(adata, pooling="pooler").shape == (6, 16)
    with pytest.raises(ValueError, match="3 CLS tokens, numbers 0 to 2"):
        model.embed(adata, pooling=3)


def test_the_kind_decides_where_nothing_is_said():
    assert BmfmConfig(fields={"input_ids": {}}).pooling == "mean" and BmfmConfig(fields={"input_ids": {}, "values": {}}).pooling == 0
    assert BmfmConfig(fields={"input_ids": {}}, pooling=0).pooling == 0


def test_a_mean_of_nothing_is_no_division_by_zero(cells_model):
    model = read_model(cells_model)
    batch = {"cls_index": torch.tensor([0]), "example_ids": torch.tensor([[0, -1]])}
    assert torch.equal(model.pool(torch.ones(1, 2, 16), batch, "mean"), torch.zeros(1, 16))
