"""Log-probabilities of tokens are those of plain transformers models, which are asked about one place at a time."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertForMaskedLM, GPT2LMHeadModel, ModernBertForMaskedLM

import bmfm
from tests.conftest import BERT, SMALL, VALUES
from tests.inference.conftest import save_gpt2

TEXTS = ["ACGTTGCAACGATTACCATG", "acgtn", "GATTACAGATTACAGGGACCCATTTAGCA"]


def _masked_oracle(model, ids, places_together, mask):
    """Log-probabilities [L, V] at every place of ids [L], masked with the places of its group."""
    out = np.full((len(ids), model.config.vocab_size), np.nan, np.float32)
    for places in places_together:
        hidden = ids.clone()
        hidden[places] = mask
        with torch.no_grad():
            logits = model(hidden[None], attention_mask=torch.ones_like(hidden)[None]).logits[0]
        out[places] = logits[places].log_softmax(-1).numpy()
    return out


def _each(ids):
    return [[i] for i in range(1, len(ids) - 1)]


@pytest.mark.parametrize("which", ["modernbert", "bert"])
def test_masked_tokens_are_those_of_the_plain_model(which, dna_model, bert_folder):
    folder, model_class = {"modernbert": (dna_model, ModernBertForMaskedLM), "bert": (bert_folder, BertForMaskedLM)}[which]
    plain, tokenizer = model_class.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    model = bmfm.load(folder)
    every = model.log_probs(TEXTS, tokens="all", batch_size=7)
    likelihoods = model.log_probs(TEXTS, batch_size=5)
    names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    columns = [model.tokenizer.names.index(name) for name in names]
    for number, text in enumerate(TEXTS):
        ids = torch.tensor(tokenizer(text.upper())["input_ids"])
        expected = _masked_oracle(plain, ids, _each(ids), tokenizer.mask_token_id)[1:-1]
        np.testing.assert_allclose(every.of(number)[:, columns], expected, atol=2e-5)
        own = np.take_along_axis(expected, ids[1:-1, None].numpy(), 1)[:, 0]
        np.testing.assert_allclose(likelihoods.of(number), own, atol=2e-5)
        total = likelihoods.total().iloc[number]
        assert total["log_likelihood"] == pytest.approx(own.sum(), abs=1e-3) and total["tokens"] == len(own)
        here = likelihoods.example == number
        assert likelihoods.position[here].tolist() == list(range(len(own)))
        assert [model.tokenizer.names[i] for i in likelihoods.ids[here]] == [names[i] for i in ids[1:-1]]
        texts = [text.upper()[a:b] for a, b in likelihoods.spans[here]]
        assert texts == [names[i] for i in ids[1:-1]]


def test_some_places_and_some_tokens(bert_folder):
    plain, tokenizer = BertForMaskedLM.from_pretrained(bert_folder).eval(), AutoTokenizer.from_pretrained(bert_folder)
    model = bmfm.load(bert_folder)
    a, c = (model.tokenizer.names.index(name) for name in ("A", "C"))
    places = [[3, 0, 9], [], [28]]
    scores = model.log_probs(TEXTS, positions=places, tokens=[a, c])
    assert scores.example.tolist() == [0, 0, 0, 2] and scores.position.tolist() == [0, 3, 9, 28] and scores.log_probs.shape == (4, 2)
    theirs = tokenizer.convert_tokens_to_ids(["A", "C"])
    for number, place, found in zip(scores.example, scores.position, scores.log_probs, strict=True):
        ids = torch.tensor(tokenizer(TEXTS[number].upper())["input_ids"])
        np.testing.assert_allclose(found, _masked_oracle(plain, ids, [[place + 1]], tokenizer.mask_token_id)[place + 1, theirs], atol=2e-5)
    together = model.log_probs(TEXTS[:1], positions=[[3, 0, 9]], tokens=[a, c], mask_share=1.0)
    ids = torch.tensor(tokenizer(TEXTS[0])["input_ids"])
    expected = _masked_oracle(plain, ids, [[1, 4, 10]], tokenizer.mask_token_id)[[1, 4, 10]][:, theirs]
    np.testing.assert_allclose(together.log_probs, expected, atol=2e-5)


def test_a_share_of_the_tokens_at_a_time(dna_model):
    """A third is every third token: three passes over each sequence, whatever its length."""
    plain, tokenizer = ModernBertForMaskedLM.from_pretrained(dna_model).eval(), AutoTokenizer.from_pretrained(dna_model)
    model = bmfm.load(dna_model)
    passes = []
    forward = model.forward
    model.forward = lambda batch, **options: passes.append(len(batch["input_ids"])) or forward(batch, **options)
    scores = model.log_probs(TEXTS, mask_share=0.34)
    for number, text in enumerate(TEXTS):
        ids = torch.tensor(tokenizer(text.upper())["input_ids"])
        groups = [list(range(1 + first, len(ids) - 1, 3)) for first in range(3)]
        expected = _masked_oracle(plain, ids, groups, tokenizer.mask_token_id)[np.arange(1, len(ids) - 1), ids[1:-1]]
        np.testing.assert_allclose(scores.of(number), expected, atol=2e-5)
    assert sum(passes) == sum(min(3, len(tokenizer(t)["input_ids"]) - 2) for t in TEXTS)


def test_a_causal_model_is_asked_what_comes_next(gpt2_folder):
    plain, tokenizer = GPT2LMHeadModel.from_pretrained(gpt2_folder).eval(), AutoTokenizer.from_pretrained(gpt2_folder)
    model = bmfm.load(gpt2_folder)
    assert model.model.backbone.capabilities.causal
    scores, every = model.log_probs(TEXTS, batch_size=2), model.log_probs(TEXTS, tokens="all")
    columns = [model.tokenizer.names.index(c) for c in "ACGTN"]
    for number, text in enumerate(TEXTS):
        ids = torch.tensor([2, *tokenizer.convert_tokens_to_ids(list(text.upper()))])
        expected = []
        for length in range(1, len(ids)):  # of ever longer beginnings, so that nothing can be shifted wrongly
            with torch.no_grad():
                expected.append(plain(ids[None, :length]).logits[0, -1].log_softmax(-1).numpy())
        expected = np.stack(expected)
        np.testing.assert_allclose(every.of(number)[:, columns], expected[:, 3:8], atol=2e-5)
        own = expected[np.arange(len(text)), ids[1:]]
        np.testing.assert_allclose(scores.of(number), own, atol=2e-5)
        with torch.no_grad():  # transformers' own loss is the mean over the tokens after the first
            loss = float(plain(ids[None], labels=ids[None]).loss)
        assert scores.total()["log_likelihood"].iloc[number] == pytest.approx(-loss * len(text), abs=1e-3)


def test_a_causal_model_without_a_first_token_says_nothing_of_the_first_base(tmp_path):
    """As transformers, whose loss leaves it out."""
    tokens_before = save_gpt2(tmp_path, first_token=False)
    assert tokens_before == 2
    plain, model = GPT2LMHeadModel.from_pretrained(tmp_path).eval(), bmfm.load(tmp_path)
    scores = model.log_probs(TEXTS)
    for number, text in enumerate(TEXTS):
        ids = torch.tensor([[tokens_before + "ACGTN".index(c) for c in text.upper()]])
        with torch.no_grad():
            loss = float(plain(ids, labels=ids).loss)
        assert scores.position[scores.example == number].tolist() == list(range(1, len(text)))
        total = scores.total().iloc[number]
        assert total["log_likelihood"] == pytest.approx(-loss * (len(text) - 1), abs=1e-3) and total["tokens"] == len(text) - 1
    asked = model.log_probs(TEXTS[:1], positions=[[0, 1]]).log_probs
    assert np.isnan(asked[0]) and asked[1] == pytest.approx(scores.of(0)[0], abs=1e-5)


def test_a_long_sequence_is_scored_window_by_window(dna_model):
    model = bmfm.load(dna_model)
    text = "ACGTTGCAACGATTACCATGGTACC" * 12
    whole = model.log_probs([text], max_tokens=18, mask_share=0.5)
    ids = model.read([text], max_tokens=10_000)
    tokens = next(iter(ids.chunks()))[1]
    assert len(tokens.ids) > 40 and whole.position.tolist() == list(range(len(tokens.ids)))
    plain, own = ModernBertForMaskedLM.from_pretrained(dna_model).eval(), []
    for start in range(0, len(tokens.ids), 16):
        window = torch.tensor([3, *tokens.ids[start : start + 16].tolist(), 1])
        groups = [list(range(1 + first, len(window) - 1, 2)) for first in range(2)]
        own.append(_masked_oracle(plain, window, groups, 4)[np.arange(1, len(window) - 1), window[1:-1]])
    np.testing.assert_allclose(whole.log_probs, np.concatenate(own), atol=2e-5)
    late = model.log_probs([text], positions=[[17]], max_tokens=18)
    window = torch.tensor([3, *tokens.ids[16:32].tolist(), 1])
    np.testing.assert_allclose(late.log_probs, _masked_oracle(plain, window, [[2]], 4)[2, window[2]], atol=2e-5)


def test_genes_of_cells(tmp_path):
    """The gene is hidden and its value shown: one cell by hand, token by token, through the model's own parts."""
    import anndata

    from bmfm.models.model import build
    from bmfm.tokenizers.rna import CellTokenizer

    names = ["TP53", "MYC", "EGFR", "GAPDH", "CD4", "CD8A", "MS4A1", "NKG7", "LYZ", "PPBP", "FCER1A", "GNLY"]
    torch.manual_seed(0)
    tokenizer = CellTokenizer(names)
    head = {"size": len(tokenizer), "transform": True, "tied": "input_ids"}
    model = build(tokenizer.fields, {"genes": head}, BERT, values=VALUES["mlp"], **SMALL)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    counts = np.random.default_rng(0).poisson(2.0, (3, 12)).astype(np.float32)
    predictor = bmfm.load(tmp_path)
    adata = anndata.AnnData(counts)
    adata.var_names = names
    scores = predictor.log_probs(adata, batch_size=4)
    ((_, batch),) = predictor.batches(adata)
    lengths = (counts > 0).sum(1)
    assert np.bincount(scores.example).tolist() == lengths.tolist()
    order = np.argsort(-lengths, kind="stable")
    for row, cell in enumerate(order):
        for place in range(lengths[cell]):
            ids = batch["input_ids"].clone()
            gene = int(ids[row, 1 + place])
            ids[row, 1 + place] = 4
            with torch.no_grad():
                hidden = predictor.model.encode(batch | {"input_ids": ids})[row, 1 + place]
                expected = predictor.model.head("genes", hidden[None]).log_softmax(-1)[0, gene]
            assert scores.of(cell)[place] == pytest.approx(float(expected), abs=2e-5)
            assert tokenizer.names[gene] == tokenizer.names[scores.spans[scores.example == cell][place, 0]]


def test_what_cannot_be_scored(cells_model, dna_model, bert_folder):
    import anndata

    from bmfm.files import ASSETS

    with pytest.raises(ValueError, match="no head that predicts tokens"):
        bmfm.load(cells_model).log_probs(anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:2].copy())
    model = bmfm.load(dna_model)
    for options, match in (
        ({"positions": [[0]]}, "positions are given for 1 examples, there are 3"),
        ({"positions": [[0], [0], [500]]}, "example 2 has no token 500"),
        ({"positions": [[0], [-1], [0]]}, "example 1 has no token -1"),
        ({"tokens": "some"}, "tokens='some' is unknown"),
        ({"tokens": [10**6]}, "is no id of this tokenizer"),
        ({"mask_share": 1.5}, "above 0 and at most 1"),
        ({"nonsense": 1}, "no such option"),
    ):
        with pytest.raises(ValueError, match=match):
            model.log_probs(TEXTS, **options)
    other = bmfm.load(bert_folder).log_probs(TEXTS, tokens="all")
    with pytest.raises(ValueError, match="tokens=None"):
        other.total()
