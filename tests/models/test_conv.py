"""Convolutions over single bases: who sees whom, and both strands."""

import pytest
import torch

from bmfm.checkpoints.load import read_model
from bmfm.genome.alphabet import encode
from bmfm.genome.representation import Encoded
from bmfm.models.model import build
from bmfm.tokenizers import dna
from bmfm.tokenizers.collate import to_tensors

CONV = "bmfm.models.backbones.conv.Conv"
TEXTS = ["ACGTTGCANNACGATTAGG", "GATTACA", "TTTTTTTTTTTTTTTTTTTTTTTTTTTTTTTTCCCCCCCCCCCCCCCCC", "A"]
HEADS = {"y": {"size": 3, "pooling": 0, "classes": ["a", "b", "c"]}, "mlm": {"size": 71, "transform": True, "tied": "input_ids"}}
PARTNER = dict(zip("ACGTN", "TGCAN", strict=True))


def _tokenizer():
    return dna.single_base()


def _batch(texts, row_length=None):
    import numpy as np

    raw = Encoded(encode("".join(texts)), np.concatenate([[0], np.cumsum([len(t) for t in texts])]).astype(np.int64))
    tokenizer = _tokenizer()
    tokens = tokenizer.encode(raw, np.arange(1, len(texts) + 1, dtype=np.uint64), 100)
    return to_tensors(tokenizer.collate(tokens, row_length))


def _model(**settings):
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    names = {name: i for i, name in enumerate(tokenizer.names)}
    model = build(tokenizer.fields, HEADS, CONV, genes=names, hidden_size=16, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.eval().double()


@torch.no_grad()
def _states(model, batch):
    hidden = model.encode(batch)
    return [hidden[batch["example_ids"] == i] for i in range(int(batch["example_ids"].max()) + 1)]


def _same(one, other, **tolerance):
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


@pytest.mark.parametrize("strands", ["none", "average"])
def test_padding_and_neighbours_do_not_leak(strands):
    model = _model(reverse_complement=strands, num_hidden_layers=5)
    alone = [_states(model, _batch([text]))[0] for text in TEXTS]
    _same(_states(model, _batch(TEXTS)), alone)
    packed = _batch(TEXTS, 60)
    assert len(packed["input_ids"]) < len(TEXTS)
    _same(_states(model, packed), alone)


def test_a_convolution_is_that_of_torch():
    """A block on a sequence without padding: torch's own convolution of the normed states."""
    block = _model().backbone.layers[1]
    batch, states = {"sequence_ids": torch.ones(1, 40, dtype=torch.long), "packed": False}, torch.randn(1, 40, 16).double()
    from bmfm.models.backbones.conv import Neighbours

    for packed in (False, True):
        mixed = block(states, Neighbours(batch | {"packed": packed}))
        weight, bias = block.conv.weight, block.conv.bias
        conv = torch.nn.functional.conv1d(block.norm(states).transpose(1, 2), weight, bias, padding=4, dilation=2).transpose(1, 2)
        torch.testing.assert_close(mixed, states + block.out(torch.nn.functional.gelu(conv)))


def test_how_far_a_state_sees():
    """Kernels of 5 at dilations 1, 2 and 4 reach 2 * (1 + 2 + 4) bases to either side."""
    model = _model(num_hidden_layers=3)
    batch = _batch(["A" * 80])
    (before,) = _states(model, batch)
    batch["input_ids"][0, 40] = 6
    (after,) = _states(model, batch)
    assert (before != after).any(-1).nonzero().flatten().tolist() == list(range(26, 55))


def test_isolated_tokens_are_not_seen():
    model, batch = _model(), _batch(TEXTS)
    batch["isolated_mask"] = torch.zeros_like(batch["sequence_ids"], dtype=torch.bool)
    batch["isolated_mask"][0, 5] = True
    before = _states(model, batch)
    batch["input_ids"][0, 5] = 4
    after = _states(model, batch)
    changed = (before[0] != after[0]).any(-1)
    assert changed[5] and changed.sum() == 1
    _same(after[1:], before[1:])


def _other_strand(text):
    return "".join(PARTNER[base] for base in reversed(text))


@pytest.mark.parametrize("row_length", [None, 60])
def test_both_strands_have_the_same_states(row_length):
    """At each base the same state, so that [CLS], means and their labels are the same; without the average they are not."""
    texts, others = _batch(TEXTS, row_length), _batch([_other_strand(t) for t in TEXTS], row_length)
    model = _model(reverse_complement="average")
    for forward, backward in zip(_states(model, texts), _states(model, others), strict=True):
        torch.testing.assert_close(backward[1:-1].flip(0), forward[1:-1])
        torch.testing.assert_close(backward[[0, -1]], forward[[0, -1]])
    with torch.no_grad():
        for pooling in (0, "mean", "mean_all"):
            pooled = [model.head("y", model.pool(model.encode(b), b, pooling)) for b in (texts, others)]
            torch.testing.assert_close(*pooled)
        layers = [model.run(model.embed(b), b, all_layers=True).layers for b in (texts, others)]
        assert all(torch.allclose(a[0, 0], b[0, 0]) for a, b in zip(*layers, strict=True))
    plain = _model()
    assert not torch.allclose(_states(plain, texts)[0][1:-1], _states(plain, others)[0][1:-1].flip(0), atol=0.1)


def test_embeddings_of_complements_are_reversed():
    model = _model(reverse_complement="average")
    table, names = model.embedding_table(), _tokenizer().names
    for base, partner in PARTNER.items():
        assert torch.equal(table[names.index(base)].flip(0), table[names.index(partner)])
    assert torch.equal(table[3].flip(0), table[3])  # [CLS]
    assert torch.equal(model.embed(_batch(["AC"]))[0, 1:3], table[[names.index("A"), names.index("C")]])


def test_saved_and_read(tmp_path):
    model = _model(reverse_complement="average")
    model.float().save_pretrained(tmp_path)
    batch = _batch(TEXTS)
    _same(_states(read_model(tmp_path), batch), _states(model, batch), atol=0, rtol=0)


def test_about_a_hundred_thousand_parameters():
    from bmfm.cli import compose, instantiate

    fields = _tokenizer().fields
    model = instantiate(compose("train", ["model=conv", "tokenizer=single_base"]).model, fields=fields, heads={}, genes={}, _convert_="all")
    assert 90_000 < sum(p.numel() for p in model.parameters()) < 120_000


def test_what_does_not_fit_is_said():
    tokens = {"[UNK]": 0, "[SEP]": 1, "[PAD]": 2, "[CLS]": 3, "[MASK]": 4, "ACG": 5}
    for settings, match in (
        ({"kernel_size": 4}, "an odd number"),
        ({"reverse_complement": "both"}, "choose from none, average"),
        ({"reverse_complement": "average"}, "'ACG' has no complement.*tokenizer=single_base"),
        ({"reverse_complement": "average", "hidden_size": 5}, "'ACG' has no complement"),
        ({"num_attention_heads": 4}, "unexpected keyword argument 'num_attention_heads'"),
        ({"attention": "sdpa"}, "Conv has no attention; choose attention=auto"),
    ):
        with pytest.raises(ValueError, match=match):
            build({"input_ids": {"size": 6}}, {}, CONV, genes=tokens, **settings)
