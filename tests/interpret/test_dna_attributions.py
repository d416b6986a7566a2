"""Integrated gradients of heads for DNA, beside answers by hand."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from bmfm.interpret.dna_attributions import base_attributions, shuffle_dinucleotides, shuffle_known
from bmfm.interpret.dna_explain import explain_sequences
from tests.conftest import HEADS, MODERNBERT, SMALL
from tests.interpret.dna_toys import MOTIF, SITE, TEXT, toy_predictor


@pytest.fixture(scope="module")
def toy():
    return toy_predictor()


def test_a_linear_head(toy):
    found = base_attributions(toy, ["N" + TEXT[1:]], target="head:letters", strands="forward", n_steps=3)
    middle = slice(len(MOTIF), -len(MOTIF))
    expected = np.array([[MOTIF.count(c)] for c in "ACGT"]) / (len(TEXT) + 1)  # a base may be any letter of a motif that is read there
    np.testing.assert_allclose(found.contributions.hypothetical[0, :, middle], np.tile(expected, len(TEXT) - 2 * len(MOTIF)), rtol=1e-5)
    assert not found.contributions.hypothetical[0, :, 0].any()
    report = found.report.iloc[0]
    assert report["complete"] and report["delta"] < 1e-6 and report["baseline_value"] == 0 and report["n_steps"] == 3


def test_the_planted_motif(toy):
    found = base_attributions(toy, [TEXT], target="head:site", n_steps=200, strands="both")
    expected = np.zeros(len(TEXT))
    expected[SITE : SITE + len(MOTIF)] = 1 / 7 / 2 / (len(TEXT) + 1)  # what is gained in the last seventh of the path, on one strand of two
    np.testing.assert_allclose(found.contributions.attribution()[0], expected, rtol=0.05, atol=1e-7)
    shuffled = base_attributions(toy, [TEXT], target="head:site", baseline="shuffled", n_shuffled=4, strands="forward")
    inside = shuffled.contributions.attribution()[0, SITE : SITE + len(MOTIF)].sum()
    assert inside / np.abs(shuffled.contributions.attribution()).sum() > 0.99 and shuffled.report["complete"].all()
    again = base_attributions(toy, [TEXT], target="head:site", baseline="shuffled", n_shuffled=4, strands="forward", batch_size=3)
    np.testing.assert_allclose(again.contributions.hypothetical, shuffled.contributions.hypothetical, atol=1e-7)


@pytest.mark.parametrize("baseline", ["mask", "shuffled"])
def test_n_contributes_nothing_and_rows_are_alone(toy, baseline):
    """Contributions add up without N, and what is said of a sequence does not depend on those before it."""
    texts = [TEXT, TEXT[:3] + "NN" + TEXT[5:20] + "N" + TEXT[21:], TEXT[::-1]]
    options = {"target": "head:letters", "baseline": baseline, "n_shuffled": 3, "strands": "forward"}
    every, alone = base_attributions(toy, texts, **options), base_attributions(toy, texts[1:2], **options)
    difference = every.report["value"] - every.report["baseline_value"]
    np.testing.assert_allclose(every.contributions.attribution().sum(1), difference, atol=1e-5)
    np.testing.assert_allclose(every.contributions.hypothetical[1:2], alone.contributions.hypothetical, atol=1e-6)


def test_bases_share_what_their_token_contributes(tmp_path):
    from bmfm.inference.predictor import Predictor
    from bmfm.models.model import build
    from bmfm.tokenizers import dna

    tokenizer = dna.DnaTokenizer.from_pretrained("dna_demo")
    torch.manual_seed(0)
    model = Predictor(build(tokenizer.fields, {"type": HEADS["type"] | {"pooling": "mean"}}, MODERNBERT, **SMALL), tokenizer, "cpu")
    texts = [TEXT, TEXT[::-1]]
    found = base_attributions(model, texts, target="head:type", strands="forward")
    assert found.contributions.resolution == "token" and found.report["complete"].all()
    attribution = found.contributions.attribution()
    inputs = model.read(texts)
    for row, (_, tokens) in enumerate((start, tokens.take(np.array([r]))) for start, tokens in inputs.chunks() for r in range(2)):
        for first, end in tokenizer.spans(tokens.ids):
            assert np.ptp(attribution[row, first:end]) == 0
    difference = found.report["value"] - found.report["baseline_value"]
    np.testing.assert_allclose(attribution.sum(1), difference, atol=0.05 * difference.abs().max())
    logits = model.logits(texts)["type"]
    others = [np.delete(row, row.argmax()).mean() for row in logits]
    np.testing.assert_allclose(found.report["value"], logits.max(1) - others, atol=1e-5)
    assert found.report["target"].tolist() == [HEADS["type"]["classes"][c] for c in logits.argmax(1)]
    with pytest.raises(ValueError, match="TF-MoDISco needs what other bases would contribute"):
        found.contributions.save_modisco(tmp_path / "x")
    with pytest.raises(ValueError, match="for tokens longer than a base choose mask"):
        base_attributions(model, texts, target="head:type", baseline="shuffled")


def test_a_model_of_others(tmp_path):
    """An ESM of single bases, as HuggingFace saves it: contributions add up, and a head may be asked about mutants."""
    from transformers import EsmConfig, EsmForMaskedLM, EsmTokenizer

    from bmfm.checkpoints.load import from_checkpoint, read_tokenizer
    from bmfm.inference.predictor import Predictor

    (tmp_path / "vocab.txt").write_text("\n".join(["<unk>", "<pad>", "<mask>", "<cls>", *"ACGTN"]))
    EsmTokenizer(str(tmp_path / "vocab.txt"), eos_token=None, model_max_length=64).save_pretrained(tmp_path)
    torch.manual_seed(0)
    size = {
        "vocab_size": 9,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 66,
    }
    EsmForMaskedLM(EsmConfig(**size, pad_token_id=1, mask_token_id=2, token_dropout=False)).save_pretrained(tmp_path)
    tokenizer = read_tokenizer(tmp_path)
    torch.manual_seed(1)
    model = from_checkpoint(tokenizer.fields, {"type": HEADS["type"] | {"pooling": "mean"}}, str(tmp_path))
    with torch.no_grad():
        model.heads.decoder("type").weight.normal_()
    predictor = Predictor(model, tokenizer, "cpu")
    found = base_attributions(predictor, [TEXT], target="head:type:b", strands="forward")
    difference = found.report["value"] - found.report["baseline_value"]
    assert found.report["complete"].all() and found.contributions.resolution == "base"
    np.testing.assert_allclose(found.contributions.attribution().sum(1), difference, atol=0.05 * difference.abs().max() + 1e-5)
    mutant = TEXT[:5] + "A" + TEXT[6:]
    logits = predictor.logits([mutant, TEXT])["type"]
    by_mutants = explain_sequences(predictor, [TEXT], method="ism", target="head:type:b", contrast="none", strands="forward")
    assert by_mutants.values[0, 0, 5] == pytest.approx(float(logits[0, 1] - logits[1, 1]), abs=1e-5)
    assert explain_sequences(predictor, [TEXT]).arrays["information"].shape == (1, len(TEXT))


def test_shuffles_keep_dinucleotides():
    rng = np.random.default_rng(0)
    symbols = rng.integers(0, 4, 200).astype(np.uint8)
    shuffled = shuffle_dinucleotides(symbols, rng)
    assert (shuffled != symbols).mean() > 0.5
    assert Counter(pairwise(shuffled)) == Counter(pairwise(symbols))
    symbols[[3, 4, 50]] = 4
    known = shuffle_known(symbols, rng)
    assert (known == 4).nonzero()[0].tolist() == [3, 4, 50]
    assert Counter(pairwise(known[5:50])) == Counter(pairwise(symbols[5:50])) and (known != symbols).mean() > 0.5
    for short in ([], [1], [0, 0, 3]):
        assert shuffle_dinucleotides(np.array(short, np.uint8), rng).tolist() == short
