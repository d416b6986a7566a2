import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmfm.genome.alphabet import BASES, SYMBOLS, decode, encode
from bmfm.genome.representation import Encoded
from bmfm.tokenizers import dna


@pytest.fixture(scope="module", params=["ref2vec", "snp2vec", "dna_demo"])
def published(request):
    return dna.DnaTokenizer.from_pretrained(request.param)


def _encoded(*texts: str) -> Encoded:
    symbols = [encode(t) for t in texts]
    return Encoded(np.concatenate(symbols), np.concatenate([[0], np.cumsum([len(s) for s in symbols])]).astype(np.int64))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ids_are_those_of_the_tokenizers_library(published, data):
    assert published.table is not None
    known = [s for s in SYMBOLS if s in published.tokenizer.get_vocab()]
    letters = st.one_of(st.text("ACGT", max_size=400), st.text("AT", max_size=200), st.text(known, max_size=200))
    texts = data.draw(st.lists(letters, min_size=1, max_size=4))
    batch = published.encode(_encoded(*texts))
    for b, text in enumerate(texts):
        expected = published.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert batch[b].tolist() == expected


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(20, 120))
def test_ids_agree_for_vocabularies_of_any_text(seed, vocab_size):
    rng = np.random.default_rng(seed)
    unit = "".join(rng.choice(list("ACGT"), 12))
    texts = ["".join(rng.choice(list("AACGT"), 60)) + unit * int(rng.integers(1, 5)) for _ in range(30)]
    tokenizer = dna.train_bpe(texts, vocab_size, "ACGTN")
    assert tokenizer.table is not None
    batch = tokenizer.encode(_encoded(*texts))
    expected = [i for t in texts for i in tokenizer.tokenizer(t, add_special_tokens=False)["input_ids"]]
    assert batch.ids.tolist() == expected


def test_published_ids_and_template():
    tokenizer = dna.DnaTokenizer.from_pretrained("snp2vec").tokenizer
    assert len(tokenizer) == 4096
    ids = tokenizer("ATT高", "C")["input_ids"]
    assert (
        ids[0] == dna.CLS and ids[-1] == dna.SEP and tokenizer.convert_ids_to_tokens(ids) == ["[CLS]", "ATT", "高", "[SEP]", "C", "[SEP]"]
    )


def test_unknown_symbols_fall_back_by_rule_and_are_counted():
    snp = dna.DnaTokenizer.from_pretrained("snp2vec")
    assert len(snp.fallbacks) == 66 - 38 - 5
    assert snp.fallbacks["X"] == "N" and snp.fallbacks["B"] == "A"  # a deleted locus; A followed by an insertion
    batch = snp.encode(_encoded("AXC"))
    assert batch.counts["fallback_symbols"] == 1 and batch.counts["unknown_tokens"] == 0
    assert "".join(snp.tokenizer.convert_ids_to_tokens(batch.ids)) == "ANC"
    ref = dna.DnaTokenizer.from_pretrained("ref2vec")
    assert ref.fallbacks["高"] == "A" and ref.encode(_encoded("C高C")).counts["fallback_symbols"] == 1


def test_truncation_is_counted_and_variants_are_flagged():
    own = dna.single_base()
    encoded = _encoded("ACGTACGT", "AC")
    encoded.symbols[2] |= 0x80
    batch = own.encode(encoded, max_tokens=6)
    assert batch.counts["truncated_sequences"] == 1 and batch.offsets.tolist() == [0, 4, 6]
    assert batch.fields["has_variant"].tolist() == [False, False, True, False, False, False]


def test_symbols_outside_the_vocabulary_are_counted_as_unknown():
    own = dna.single_base("ACGT")
    batch = own.encode(_encoded("ANNC"))
    assert batch.ids.tolist() == [5, dna.UNK, dna.UNK, 6] and batch.counts["unknown_tokens"] == 2


def test_kmers():
    own = dna.kmer(3)
    encoded = _encoded("ACGTAGC", "ANG")
    encoded.symbols[6] |= 0x80
    batch = own.encode(encoded)
    assert own.tokenizer.convert_ids_to_tokens(batch.ids) == ["ACG", "TAG", "C", "[UNK]"]
    assert batch.fields["has_variant"].tolist() == [False, False, True, False] and batch.counts["unknown_tokens"] == 1


def test_round_trip_through_a_folder(tmp_path):
    tokenizer = dna.train_bpe(["ACGTACGTTTGACA"] * 3, 20, BASES)
    tokenizer.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    text = decode(encode("ACGTTTGACAN"))
    read = dna.DnaTokenizer.from_pretrained(tmp_path).tokenizer(text)["input_ids"]
    assert read == AutoTokenizer.from_pretrained(tmp_path)(text)["input_ids"] == tokenizer.tokenizer(text)["input_ids"]
    with pytest.raises(FileNotFoundError, match="snp2vec"):
        dna.DnaTokenizer.from_pretrained("nowhere")


def test_vocabularies_of_single_symbols_need_no_merges():
    """The short way writes what the merges do."""
    from bmfm.tokenizers.bpe import encode_windows

    tokenizer, rng = dna.single_base(), np.random.default_rng(0)
    symbols = rng.integers(0, 66, 5000).astype(np.uint8) | np.where(rng.random(5000) < 0.1, 128, 0).astype(np.uint8)
    offsets = np.concatenate([[0], np.sort(rng.integers(0, 5000, 40)), [5000]]).astype(np.int64)
    assert tokenizer.id_of_code is not None and dna.DnaTokenizer.from_pretrained("ref2vec").id_of_code is None
    for room in (1 << 40, 100):
        found = tokenizer._encode(Encoded(symbols, offsets), room)
        expected = encode_windows(symbols, offsets, tokenizer.symbol_tokens, tokenizer.table.merges, room)
        for got, wanted in zip(
            (found.ids, found.fields["has_variant"], found.offsets, found.counts["truncated_sequences"]), expected, strict=True
        ):
            assert np.array_equal(got, wanted)
