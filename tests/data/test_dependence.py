"""What labels depend on, strand and place: found from sequences that were made so, or not, and written into the run."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hydra.errors import InstantiationException

from bmfm.cli import compose
from bmfm.data.dependence import Known, place_gain, strand_gain
from bmfm.genome.alphabet import encode
from bmfm.genome.kmers import kmer_counts, reverse_complements
from bmfm.tokenizers.texts import BOUNDARY, as_encoded
from bmfm.training.run import assemble

OTHER = str.maketrans("ACGT", "TGCA")
MOTIF = "GATTACAT"


def other(text):
    return text.translate(OTHER)[::-1]


def sequences(oriented, n=400, length=40):
    """Texts and labels, half of them 1: a motif is there or not, on either strand; of oriented ones, it is there or on the other strand."""
    rng = np.random.default_rng(0)
    texts, labels = [], np.arange(n) % 2
    for label in labels:
        text, at = "".join(rng.choice(list("ACGT"), length)), int(rng.integers(length - len(MOTIF)))
        if label or oriented:
            text = text[:at] + (MOTIF if label else other(MOTIF)) + text[at + len(MOTIF) :]
        texts.append(text if oriented or rng.random() < 0.5 else other(text))
    return np.array(texts, object), labels


def encoded(texts):
    return as_encoded([encode(text) for text in texts])


@pytest.mark.parametrize("oriented", [True, False])
@pytest.mark.parametrize("kind", ["classification", "regression", "multilabel"])
def test_labels_that_depend_on_the_strand_are_found(oriented, kind):
    texts, labels = sequences(oriented)
    values = labels if kind == "classification" else labels + np.random.default_rng(1).normal(0, 0.1, len(labels))
    values = np.stack([values, 1 - values], 1) if kind == "multilabel" else values
    parts = np.arange(250), np.arange(250, 400)
    gain = strand_gain(Known(encoded(texts), values, kind, *parts))
    assert (gain.loss > 3 * gain.error and gain.is_found) if oriented else not gain.is_found
    assert gain.n == 150 and f"{-gain.loss:+.4f} +-{gain.error:.4f}" in str(gain)
    of_others = strand_gain(Known(encoded([other(t) for t in texts]), values, kind, *parts))
    assert of_others.loss == pytest.approx(gain.loss, abs=1e-4)  # either strand will do
    longer = strand_gain(
        Known(as_encoded([np.concatenate([encode(t), [BOUNDARY], encode("GN" * 3000)]) for t in texts]), values, kind, *parts)
    )
    assert longer.loss == pytest.approx(gain.loss, abs=1e-6)  # no k-mer spans two sequences of a pair, or an N


def test_kmers_are_those_of_the_text():
    texts = ["ACGTTGCANAC", "AAAA", "ACG", "TTTTTACGT"]
    words = ["".join(word) for word in product("AGTC", repeat=4)]
    symbols = encoded(texts)
    counts = np.stack([kmer_counts(symbols[i], 4) for i in range(len(texts))])
    expected = [[sum(text[i : i + 4] == word for i in range(len(text))) for word in words] for text in texts]
    assert counts.tolist() == expected
    assert [words[i] for i in reverse_complements(4)] == [other(word) for word in words]


def test_too_little_to_tell_is_no():
    texts, labels = sequences(True)
    texts = encoded(texts)
    one_class = strand_gain(Known(texts, labels, "classification", np.flatnonzero(labels[:200]), np.arange(200, 400)))
    other_classes = strand_gain(
        Known(texts, np.where(np.arange(400) < 300, labels, 7), "classification", np.arange(200), np.arange(300, 400))
    )
    few = strand_gain(Known(texts, labels, "classification", np.arange(200), np.arange(200, 219)))
    none = strand_gain(Known(texts, labels, "classification", np.arange(200), np.arange(0)))
    assert [gain.n for gain in (one_class, other_classes, few, none)] == [0, 0, 19, 0]
    assert not any(gain.is_found for gain in (one_class, other_classes, few, none)) and str(few).startswith("not tested, 19 ")
    labels[350:] = 7
    gain = strand_gain(Known(texts, labels, "classification", np.arange(200), np.arange(200, 400)))
    assert gain.n == 150 and gain.is_found


def test_labels_that_depend_on_places_are_found():
    """A box counts at its place; it is as often in the sequences of the other class, elsewhere."""
    rng = np.random.default_rng(0)
    labels, texts = np.arange(400) % 2, []
    for label in labels:
        text, at = "".join(rng.choice(list("ACGT"), 40)), 20 if label else int(rng.choice([5, 12, 28, 31]))
        texts.append(text[:at] + MOTIF + text[at + len(MOTIF) :])
    parts = np.arange(250), np.arange(250, 400)
    known = Known(encoded(texts), labels, "classification", *parts)
    assert place_gain(known, 40).loss > 5 * place_gain(known, 40).error
    assert not place_gain(known, 10).is_found  # the box stands further on
    assert not place_gain(Known(encoded(texts), rng.permutation(labels), "classification", *parts), 40).is_found
    where = [np.array([[text[i : i + 1] == base for i in range(40) for base in "AGTC"] for text in texts], float)[rows] for rows in parts]
    for found, expected in zip(known.bases(40), where, strict=True):
        np.testing.assert_allclose(found, expected / 40**0.5, rtol=1e-6)


@pytest.fixture
def settled(tmp_path):
    """The probability of the other strand, and the strands of the model, of a run on a table."""

    def of(texts, labels, *settings):
        pd.DataFrame({"sequence": texts, "label": labels}).to_csv(tmp_path / "x.csv", index=False)
        config = compose("train", ["+recipe=dna_finetune", "checkpoint=bmfm-dna-mini", f"data.path={tmp_path / 'x.csv'}", *settings])
        data, _, model = assemble(config)
        assert config.data.reverse_complement == data.reverse_complement and config.model.strands == model.config.strands
        drawn = data.parts["train"].source.take(np.arange(100) % 32, np.arange(100, dtype=np.uint64)).counts.get("reverse_complements", 0)
        assert 30 < drawn < 70 if data.reverse_complement == 0.5 else drawn == 0
        return data.reverse_complement, model.config.strands, data

    return of


def test_a_run_reads_the_strands_that_its_labels_need(settled):
    texts, labels = sequences(True)
    *found, data = settled(texts, labels)
    assert found == [0, "forward"] and data.facts()["strands"].startswith("as given (given strand for both, label: the validation loss")
    *found, data = settled(*sequences(False))
    assert found == [0.5, "average"] and data.facts()["strands"].startswith("both (given strand for both, label: the validation loss")
    *found, data = settled(texts[:40], labels[:40])
    assert (
        found == [0.5, "average"]
        and data.facts()["strands"]
        == "both (given strand for both, label: not tested, 4 validation examples have a label that simple models can learn)"
    )


def test_what_the_user_says_of_strands_is_done(settled):
    texts, labels = sequences(True)
    assert settled(*sequences(False), "data.reverse_complement=0")[:2] == (0, "forward")  # the model follows the data
    assert settled(texts, labels, "data.reverse_complement=0.5")[:2] == (0.5, "average")
    assert settled(texts, labels, "data.reverse_complement=0.5", "model.strands=forward")[:2] == (0.5, "forward")
    assert settled(texts, labels, "model.strands=average")[:2] == (0.5, "average")  # and the data follow the model
    assert settled(texts, labels, "model.strands=forward")[:2] == (0, "forward")
    with pytest.raises(InstantiationException, match=r"data.reverse_complement=both: a probability from 0 to 1, or auto, is expected"):
        settled(texts, labels, "data.reverse_complement=both")


def test_numbers_and_pairs(settled):
    texts, labels = sequences(True)
    gc = [text.count("G") + text.count("C") for text in texts]
    assert settled(texts, gc, "objective=[regression]")[:2] == (0.5, "average")
    *found, data = settled(texts, labels, "data.second=sequence")
    assert found == [0, "forward"] and "label" in data.facts()["strands"]


def test_labels_of_bases_belong_to_the_given_strand(settled):
    digits = ["01" * 20] * 40
    *found, _ = settled(sequences(False)[0][:40], digits, "objective=[token_label]", "objectives.label.separator=''", "data.text=[label]")
    assert found == [0, "forward"]
