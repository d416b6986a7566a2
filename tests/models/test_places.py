"""Heads that read what stands where: against a loop over bases, from training to predictions and graphs."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import bmfm
from bmfm.checkpoints.load import from_checkpoint
from bmfm.cli import compose
from bmfm.exporting.formats import dynamic_shapes
from bmfm.exporting.network import Network, network_inputs
from bmfm.files import ASSETS
from bmfm.inference import Predictor
from bmfm.models.heads import Places
from bmfm.models.model import build
from bmfm.tokenizers.dna import single_base
from bmfm.train import train
from bmfm.training.run import assemble

LENGTH = 12
HEADS = {"y": {"size": 3, "pooling": "max_mean", "classes": ["a", "b", "c"], "places": LENGTH}}
TEXTS = ["ACGTTGCA", "GATTACAGATTACAGATT", "A", "CCGTAANNTTGC"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    tokenizer = single_base()
    network = build(tokenizer.fields, HEADS, "bmfm.models.backbones.conv.Conv", hidden_size=16, num_hidden_layers=2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    network.config.max_tokens = 32
    return Predictor(network.eval(), tokenizer, "cpu")


def test_every_place_has_weights_of_its_own(model):
    """Of [CLS] and [SEP] nothing is read, nor of bases beyond the last place."""
    places = model.model.heads.decoder("y").places
    weight = places.weight.view(3, LENGTH, Places.CHANNELS)
    logits = model.logits(TEXTS)["y"]
    for text, found, states, pooled in zip(
        TEXTS, logits, model.hidden_states(TEXTS).states, model.embed(TEXTS, pooling="max_mean"), strict=True
    ):
        expected = model.model.head("y", torch.tensor(pooled)[None])[0]
        for place, state in enumerate(torch.tensor(np.asarray(states))[: min(LENGTH, len(text))]):
            expected = expected + weight[:, place] @ (places.channels @ state)
        np.testing.assert_allclose(found, expected.detach(), rtol=1e-4, atol=1e-5)
    alone = np.concatenate([model.logits([text])["y"] for text in TEXTS])
    np.testing.assert_allclose(logits, alone, rtol=1e-4, atol=1e-5)  # whatever stands beside it in a batch


def test_new_weights_add_nothing():
    torch.manual_seed(0)
    network = build(single_base().fields, HEADS, "bmfm.models.backbones.conv.Conv", hidden_size=16, num_hidden_layers=2)
    places = network.heads.decoder("y").places
    assert not places.weight.any() and 0.2 < places.channels.std() * 16**0.5 < 2


def test_the_graph_reads_places(model):
    """Traced with one batch, and run with others; of pairs, too."""
    network, pairs = Network(model.model), pd.DataFrame({"first": TEXTS, "second": TEXTS[::-1]})
    (_, traced), *_ = model.batches(TEXTS[:3])
    program = torch.export.export(network, tuple(network_inputs(traced, network.inputs)), dynamic_shapes=dynamic_shapes(network)).module()
    for inputs in (TEXTS, TEXTS[2:3], pairs):
        for _, batch in model.batches(inputs):
            with torch.inference_mode():
                *_, logits = program(*network_inputs(batch, network.inputs))
                np.testing.assert_allclose(logits, model.model.label("y", model.model.encode(batch), batch), rtol=1e-4, atol=1e-5)


def test_a_head_that_goes_on_keeps_its_places(model, tmp_path):
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    for order in (["a", "b", "c"], ["c", "a", "b"]):
        again = from_checkpoint(model.tokenizer.fields, {"y": HEADS["y"] | {"classes": order}}, str(tmp_path))
        found = Predictor(again.eval(), model.tokenizer, "cpu").logits(TEXTS)["y"]
        np.testing.assert_allclose(found, model.logits(TEXTS)["y"][:, ["abc".index(c) for c in order]], rtol=1e-5, atol=1e-6)
    with pytest.warns(UserWarning, match=r"its places differ.*it begins anew"):
        shorter = from_checkpoint(model.tokenizer.fields, {"y": HEADS["y"] | {"places": 5}}, str(tmp_path))
    assert not shorter.heads.decoder("y").places.weight.any() and shorter.pretrained_heads == set()
    config = json.loads((tmp_path / "config.json").read_text())
    config["heads"]["y"]["places"] = "many"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"heads\.y\.places is 'many', a whole number, at least 0, is expected"):
        bmfm.load(tmp_path)


@pytest.mark.parametrize("depends", [True, False])
def test_training_reads_places_where_labels_depend_on_them(tmp_path, depends):
    """A box at one place or at others, which pooled states hardly tell apart; or anywhere or not."""
    rng, rows = np.random.default_rng(0), []
    for number in range(600):
        text, label = "".join(rng.choice(list("ACGT"), 60)), number % 2
        at = 30 if label and depends else int(rng.choice([9, 17, 40, 48]) if depends else rng.integers(53))
        rows.append((text[:at] + "GATTACA" + text[at + 7 :] if depends or label else text, label))
    pd.DataFrame(rows, columns=["sequence", "label"]).to_csv(tmp_path / "x.csv", index=False)
    settings = [
        "+recipe=dna_finetune", "checkpoint=bmfm-dna-mini", f"data.path={tmp_path / 'x.csv'}", f"run_dir={tmp_path / 'run'}",
        "data.reverse_complement=0", "trainer.max_steps=20", "trainer.val_check_interval=20", "logistic_regression=false",
        "trainer.enable_progress_bar=false", "callbacks.progress=null", "trainer.precision=32-true", "data.split.validation=0.3",
    ]  # fmt: skip
    train(compose("train", settings))
    model = bmfm.load(tmp_path / "run" / "model")
    assert model.model.config.heads["label"].get("places", 0) == (60 if depends else 0)
    assert not depends or (model.predict([row[0] for row in rows])["label"].astype(int) == [row[1] for row in rows]).mean() > 0.9


def test_places_that_cannot_be_read_are_refused_or_left_out(tmp_path):
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("ACGT"), 30)) for _ in range(100)]
    pd.DataFrame({"sequence": texts, "label": [text[10] in "AC" for text in texts]}).to_csv(tmp_path / "x.csv", index=False)
    given = ["+recipe=dna_finetune", "checkpoint=bmfm-dna-mini", f"data.path={tmp_path / 'x.csv'}", "data.reverse_complement=0"]

    def places(*settings):
        config = compose("train", [*given, *settings])
        length = assemble(config)[2].config.heads["label"].get("places", 0)
        assert config.objectives.label.places == bool(length)
        return length

    assert places("objectives.label.places=true") == 30
    assert places("objectives.label.places=true", "data.max_tokens=22") == 20
    for settings in (
        ["data.max_tokens=22"],
        ["model.strands=average"],
        ["objectives.label.places=false"],
    ):
        assert places(*settings) == 0
    cells = [
        "+recipe=rna_finetune",
        "checkpoint=bmfm-rna-mini",
        f"data.path={ASSETS / 'rna' / 'pbmc3k.h5ad'}",
        "objectives.label.column=cell_type",
    ]
    with pytest.raises(ValueError, match=r"objectives\.label\.places=true: only labels of DNA sequences"):
        assemble(compose("train", [*cells, "+objectives.label.places=true"]))
