"""HuggingFace models with their own tokenizers, masked and causal: scores are those of plain transformers."""

import pytest
import torch
from transformers import AutoTokenizer, BertForMaskedLM, GPT2LMHeadModel

import bmfm
from bmfm.genome.alphabet import decode
from tests.inference.conftest import bert_folder, gpt2_folder  # noqa: F401

COMPLEMENT = str.maketrans("ACGT", "TGCA")


@pytest.fixture(scope="module")
def text(reference):
    return decode(reference.fetch("chr1", 0, 600))


def _windows(row, text, n):
    start, position = int(row.window_start), row.pos - 1
    return [(text[start:position] + a + text[position + len(row.ref) :])[:n] for a in (row.ref, row.alt)]


def test_a_masked_model(bert_folder, reference, text):  # noqa: F811
    plain, tokenizer = BertForMaskedLM.from_pretrained(bert_folder).eval(), AutoTokenizer.from_pretrained(bert_folder)
    found = bmfm.load(bert_folder).score_variants([f"chr1:301:{text[300]}:{'ACGT'.replace(text[300], '')[1]}"], reference).iloc[0]
    window = _windows(found, text, 62)[0]
    at = 300 - int(found.window_start)
    for strand, letters, place, complement in (("fwd", window, at, False), ("rc", window.translate(COMPLEMENT)[::-1], 61 - at, True)):
        ids = torch.tensor(tokenizer(letters)["input_ids"])
        ids[place + 1] = tokenizer.mask_token_id
        with torch.no_grad():
            logits = plain(ids[None]).logits[0, place + 1]
        ref, alt = (tokenizer.convert_tokens_to_ids(b.translate(COMPLEMENT) if complement else b) for b in (found.ref, found.alt))
        assert found[f"llr_{strand}"] == pytest.approx(float(logits[alt] - logits[ref]), abs=1e-4)


def test_a_causal_model(gpt2_folder, reference, text):  # noqa: F811
    plain, tokenizer = GPT2LMHeadModel.from_pretrained(gpt2_folder).eval(), AutoTokenizer.from_pretrained(gpt2_folder)
    model = bmfm.load(gpt2_folder)
    rows = [f"chr1:301:{text[300]}:{'ACGT'.replace(text[300], '')[1]}", f"chr1:321:{text[320:323]}:{text[320]}"]
    found = model.score_variants(rows, reference)
    assert found["method"].tolist() == ["likelihood"] * 2
    for row in found.itertuples():
        likelihoods = []
        for window in _windows(row, text, int(row.window_end - row.window_start)):
            ids = torch.tensor([tokenizer.bos_token_id, *tokenizer(window, add_special_tokens=False)["input_ids"]])
            with torch.no_grad():
                log_probs = plain(ids[None]).logits[0].log_softmax(-1)
            likelihoods.append(float(log_probs[:-1].gather(1, ids[1:, None]).sum()))
        assert row.llr_fwd == pytest.approx(likelihoods[1] - likelihoods[0], abs=1e-3)
    with pytest.raises(ValueError, match="allele_model=pll asks about hidden tokens; a causal model has the rule likelihood alone"):
        model.score_variants(rows, reference, allele_model="pll")
