"""Both strands of DNA: symbols, training augmentation, and means at prediction, against reverse complements that are written as text."""

import numpy as np
import pandas as pd
import pytest
import torch

import bmfm
from bmfm.checkpoints.load import from_checkpoint, save_together
from bmfm.data.table import SequenceTable
from bmfm.genome import alphabet
from bmfm.inference import Predictor
from bmfm.inference.parts import read_part
from bmfm.ledger import Ledger
from bmfm.models.config import BmfmConfig
from bmfm.models.model import build
from bmfm.tokenizers.texts import BOUNDARY, as_encoded, join_pairs, other_strands
from tests.conftest import MODERNBERT, SMALL

HEADS = {"y": {"size": 3, "pooling": "mean", "classes": ["a", "b", "c"]}}
OTHER = str.maketrans("ACGTN", "TGCAN")
RNG = np.random.default_rng(0)
TEXTS = ["".join(RNG.choice(list("ACGT"), n)) for n in (7, 150, 30, 64, 1, 90)]


def _other(texts):
    return [text.translate(OTHER)[::-1] for text in texts]


@pytest.fixture(scope="module")
def model():
    """Of words of several bases, which are others on the other strand."""
    tokenizer = bmfm.tokenizers.dna.DnaTokenizer.from_pretrained("snp2vec")
    torch.manual_seed(0)
    network = build(tokenizer.fields, HEADS, MODERNBERT, max_position_embeddings=64, strands="average", **SMALL)
    network.config.max_tokens = 16
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    return Predictor(network, tokenizer, "cpu")


def test_symbols_of_the_other_strand():
    assert alphabet.decode(other_strands(as_encoded([alphabet.encode(t) for t in ("GATTACA", "", "ACGTN")])).symbols) == "TGTAATCNACGT"
    symbols = [RNG.integers(0, len(alphabet.SYMBOLS), n).astype(np.uint8) for n in (5, 1, 40, 0, 17)]
    pairs = join_pairs(as_encoded(symbols), as_encoded(symbols[::-1]))
    for pair, first, second in zip(map(other_strands(pairs).__getitem__, range(5)), symbols, symbols[::-1], strict=True):
        expected = [*alphabet.reverse_complement(first), BOUNDARY, *alphabet.reverse_complement(second)]
        assert pair.tolist() == expected


def test_means_over_both_strands(model, tmp_path):
    forward, other = (model.embed(t, strands="forward") for t in (TEXTS, _other(TEXTS)))
    assert np.abs(forward - other).max() > 0.1 and model.counts["windows"] > len(TEXTS)
    np.testing.assert_allclose(model.embed(TEXTS), (forward + other) / 2, atol=1e-5)
    logits = [model.logits(t, strands="forward")["y"] for t in (TEXTS, _other(TEXTS))]
    np.testing.assert_allclose(model.logits(TEXTS)["y"], np.mean(logits, 0), atol=1e-5)
    chance = torch.from_numpy(np.mean(logits, 0)).softmax(1)
    np.testing.assert_allclose(model.predict(TEXTS, ledger=Ledger(tmp_path / "parts")).iloc[:, -3:], chance, atol=1e-5)
    np.testing.assert_allclose(model.predict(TEXTS, ledger=Ledger(tmp_path / "parts")).iloc[:, -3:], chance, atol=1e-5)
    pairs = list(zip([t[:40] for t in TEXTS], _other(t[:20] for t in TEXTS), strict=True))
    other_pairs = list(zip(*(_other(column) for column in zip(*pairs, strict=True)), strict=True))
    embeddings = [model.embed(p, strands="forward", max_tokens=64) for p in (pairs, other_pairs)]
    np.testing.assert_allclose(model.embed(pairs, max_tokens=64), np.mean(embeddings, 0), atol=1e-5)
    with pytest.raises(ValueError, match="tokens belong to one strand"):
        model.hidden_states(TEXTS, strands="average")
    with pytest.raises(ValueError, match="strands='both' is unknown; choose from forward, average"):
        model.embed(TEXTS, strands="both")
    # the setting is saved with the model, and fine-tuning takes it over or changes it
    save_together(model.model, model.tokenizer, tmp_path / "model")
    np.testing.assert_allclose(bmfm.load(tmp_path / "model").embed(TEXTS), (forward + other) / 2, atol=1e-5)
    for strands, kept in ((None, "average"), ("forward", "forward")):
        tuned = from_checkpoint(model.tokenizer.fields, HEADS, str(tmp_path / "model"), strands=strands)
        assert tuned.config.strands == kept
    with pytest.raises(ValueError, match="cells have no strands"):
        BmfmConfig(fields={"values": {}}, strands="average")


def _table(tmp_path, tokenizer, **options):
    pd.DataFrame({"sequence": TEXTS * 20, "y": list("abcabc") * 20}).to_csv(tmp_path / "t.csv", index=False)
    data = SequenceTable(tmp_path / "t.csv", {"by": "random", "validation": 0.2, "test": 0.3}, max_tokens=16, batch_size=4, **options)
    data.connect(tokenizer)
    return data


@pytest.mark.filterwarnings("ignore:.*lose their end")
def test_training_examples_of_the_other_strand(model, tmp_path):
    """A training example is the one or the other, drawn by its key; held-out ones are as they are given, and predicted from both."""
    data, plain = (_table(tmp_path, model.tokenizer, reverse_complement=p) for p in (0.5, 0.0))
    n = len(data.parts["train"])
    places = [(epoch, place) for epoch in range(4) for place in range(n)]
    batch = data.parts["train"].__getitems__(places)
    numbers = data.parts["train"].sampler(*np.array(places).T)
    ids = [batch["input_ids"][batch["example_ids"] == i].tolist() for i in range(len(places))]
    forward, other = (model.tokenizer.encode(model.tokenizer.read_texts(t)[0], max_tokens=16) for t in (TEXTS, _other(TEXTS)))
    choices = [[[3, *strand[number % len(TEXTS)].tolist(), 1] for strand in (forward, other)] for number in numbers]
    assert all(shown in both for shown, both in zip(ids, choices, strict=True))
    share = np.mean([shown != both[0] for shown, both in zip(ids, choices, strict=True) if both[0] != both[1]])
    assert 0.35 < share < 0.65
    again = data.parts["train"].__getitems__(places[7:12])
    assert [again["input_ids"][again["example_ids"] == i].tolist() for i in range(5)] == ids[7:12]
    held_out = [(0, place) for place in range(len(data.parts["test"]))]
    assert torch.equal(*(d.parts["test"].__getitems__(held_out)["input_ids"] for d in (data, plain)))
    texts = [(TEXTS * 20)[number] for number in data.numbers["test"]]
    np.testing.assert_allclose(model.logits(read_part(data.parts["test"]))["y"], model.logits(texts)["y"], atol=1e-5)
    with pytest.raises(ValueError, match=r"data\.reverse_complement=0"):
        data.add_labels("bases", [np.zeros(3)])
    with pytest.raises(ValueError, match=r"data\.reverse_complement=2.*a probability"):
        _table(tmp_path, model.tokenizer, reverse_complement=2)
