"""Networks over single bases that are trained on a task: both strands, and those that the task reads."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bmfm.evaluation.baselines import network
from bmfm.evaluation.baselines.conv_rc import ConvBaseline
from bmfm.evaluation.baselines.linear import PlacesBaseline
from bmfm.evaluation.baselines.network import base_codes, reverse_complement
from bmfm.evaluation.task_files import read_examples, read_task
from bmfm.label_kinds import Classification

OTHER = str.maketrans("ACGT", "TGCA")
TINY = {
    "channels": 16, "layers": 1, "kernel_size": 5, "lr": 1e-2, "schedule": "one_cycle", "batch_size": 32, "max_epochs": 8, "patience": None,
}  # fmt: skip


def _texts(n, seed):
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list("ACGT"), length)) for length in rng.integers(12, 20, n)]


def _other(texts):
    return [text.translate(OTHER)[::-1] for text in texts]


class _Examples(SimpleNamespace):
    """Sequences of two classes: with a motif, or with its reverse complement."""

    def __init__(self):
        classes = np.arange(400) % 2
        texts = [t[:6] + ("GATTC" if c else "GAATC") + t[11:] for t, c in zip(_texts(400, 1), classes, strict=True)]
        parts = {"train": np.arange(300), "validation": np.arange(300, 350), "test": np.arange(350, 400)}
        super().__init__(texts=texts, parts=parts, kinds={"y": Classification({"classes": ["0", "1"]})}, classes=classes)

    def labels(self, part, name):
        assert part != "test", "the test part was looked at"
        return self.classes[self.parts[part]]


def test_the_other_strand_of_codes():
    texts = [*_texts(5, 0), "N", "ACGTN"]
    codes, width = base_codes(texts), max(map(len, texts))
    assert reverse_complement(torch.from_numpy(codes)).tolist() == base_codes(_other(texts))[:, :width].tolist()


@pytest.mark.parametrize(("probability", "is_learned"), [(0.0, True), (0.5, False)])
def test_a_motif_of_one_strand(probability, is_learned):
    """It can be told from its own reverse complement on the given strand alone: strands are read as the task's data read them."""
    examples = _Examples()
    examples.data = SimpleNamespace(other_strand=lambda kinds: probability)
    scores = ConvBaseline("conv", strands="auto", **TINY).predict(examples, 0, None)["y"]
    correct = (scores.argmax(1) == examples.classes[350:]).mean()
    assert scores.shape == (50, 2) and (correct > 0.9 if is_learned else correct < 0.7)


def test_both_strands_are_averaged(monkeypatch):
    monkeypatch.setattr(network, "train", lambda *_: None)
    scores = ConvBaseline("conv", strands="both", **TINY).predict(_Examples(), 0, None)["y"]
    torch.manual_seed(0)
    net, codes = (
        ConvBaseline("conv", **TINY).network(2).eval(),
        [torch.from_numpy(base_codes(t)[350:]) for t in (_Examples().texts, _other(_Examples().texts))],
    )
    with torch.no_grad():
        expected = ((net(codes[0]) + net(codes[1])) / 2).softmax(1)
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="strands='average' is unknown; choose from forward, both, auto"):
        ConvBaseline("conv", strands="average")


@pytest.mark.parametrize(
    ("setting", "strands"), [((), "forward"), (("data.reverse_complement=0.5",), "both"), (("data.reverse_complement=auto",), "forward")]
)
def test_strands_of_a_real_task(monkeypatch, setting, strands):
    """Core promoters: by their card, by a user's setting, and as they are found to be."""
    examples = read_examples(read_task("demo/core_promoter_tata", ["checkpoint=none", *setting]), ".")
    chosen = []
    monkeypatch.setattr(network, "train", lambda *arguments: chosen.append(arguments[4].strands))
    ConvBaseline("conv", strands="auto", **TINY).predict(examples, 0, None)
    assert chosen == [strands]


def test_cards_say_which_sequences_have_a_direction():
    for name in ("gue/prom_core_all", "gue/splice", "nt/promoter_all", "genomic_benchmarks/human_nontata_promoters", "regression/sortseq"):
        config = read_task(name, ["checkpoint=none"]).config
        assert (config.data.reverse_complement, config.model.strands) == (0, "forward")
    assert read_task("gue/tf_0", ["checkpoint=none"]).config.data.reverse_complement == "auto"


def test_a_linear_model_of_bases_at_places():
    texts = ["ACGTN", "TTTTT", "gattacaca"]
    examples = SimpleNamespace(
        texts=texts, parts={"train": np.array([2, 0]), "test": np.array([1])}, task=SimpleNamespace(length=5, omics="dna")
    )
    baseline = PlacesBaseline("places", ["dna"])
    found = baseline.features(examples, "train").toarray()
    expected = [[float(text[place].upper() == base) for place in range(5) for base in "ACGT"] for text in (texts[2], texts[0])]
    np.testing.assert_allclose(found, np.array(expected) / 20**0.5)
    assert baseline.features(examples, "test").shape == (1, 20)
    for length, takes in ((5, True), (None, False), (5000, False)):
        assert baseline.takes(SimpleNamespace(length=length, omics="dna")) is takes
