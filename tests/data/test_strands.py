"""Whether labels depend on the strand: found from sequences that were made so, or not, and written into the run."""

import numpy as np
import pandas as pd
import pytest
from hydra.errors import InstantiationException

from bmfm.cli import compose
from bmfm.data.strands import strand_gain
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


@pytest.mark.parametrize("oriented", [True, False])
@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_labels_that_depend_on_the_strand_are_found(oriented, kind):
    texts, labels = sequences(oriented)
    values = labels if kind == "classification" else labels + np.random.default_rng(1).normal(0, 0.1, len(labels))
    parts = np.arange(250), np.arange(250, 400)
    gain, error = strand_gain([texts], values, kind, *parts)
    assert (gain > 3 * error) if oriented else (gain < error)
    of_pairs, _ = strand_gain([np.array(["ACGU"] * 400, object), texts], values, kind, *parts)
    assert (of_pairs > 0) == (gain > 0)
    of_others, _ = strand_gain([np.array([other(t).lower() for t in texts], object)], values, kind, *parts)
    assert of_others == pytest.approx(gain, abs=1e-4)  # either strand will do, and letters of either case


def test_a_class_that_validation_or_training_lacks():
    texts, labels = sequences(True)
    parts = np.flatnonzero(labels[:200]), np.arange(200, 400)
    assert strand_gain([texts], labels, "classification", *parts) == (0, 0)  # one class alone says nothing
    labels[300:] = 7
    gain, error = strand_gain([texts], labels, "classification", np.arange(200), np.arange(200, 400))
    assert np.isfinite([gain, error]).all() and gain > error


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
    assert found == [0, "forward"] and data.facts()["strands, label"].startswith("as given; by 5-mers")
    *found, data = settled(*sequences(False))
    assert found == [0.5, "average"] and data.facts()["strands, label"].startswith("both; by 5-mers")
    assert settled(*sequences(False), "data.reverse_complement=0")[:2] == (0, "forward")  # the model follows the data
    assert settled(texts, labels, "data.reverse_complement=0.5", "model.strands=forward")[:2] == (0.5, "forward")


def test_labels_of_bases_belong_to_the_given_strand(settled):
    digits = ["01" * 20] * 40
    *found, _ = settled(sequences(False)[0][:40], digits, "objective=[token_label]", "objectives.label.separator=''", "data.text=[label]")
    assert found == [0, "forward"]


def test_strands_that_cannot_be_chosen(tmp_path, settled):
    texts, labels = sequences(False)
    with pytest.raises(InstantiationException, match=r"data.reverse_complement=both: a probability from 0 to 1, or auto, is expected"):
        settled(texts, labels, "data.reverse_complement=both")
    with pytest.raises(ValueError, match=r"model.strands=auto: .* has no labelled sequences to choose by; give forward or average"):
        assemble(compose("train", ["+recipe=dna_ref", "model=conv", "tokenizer=single_base", "model.strands=auto"]))
