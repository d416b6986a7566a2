"""What every tokenizer keeps: its protocol, rows that hold every token once, spans against plain Python."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import BertTokenizerFast, PreTrainedTokenizerFast

from bmfm.cells.counts import CellBatch
from bmfm.genome.alphabet import SYMBOLS, encode
from bmfm.special import CLS, MASK, PAD, SEP, UNK
from bmfm.tokenizers import dna
from bmfm.tokenizers.base import Tokenizer, Tokens
from bmfm.tokenizers.collate import to_tensors
from bmfm.tokenizers.huggingface import HuggingFaceTokenizer
from bmfm.tokenizers.rna import CellTokenizer
from bmfm.tokenizers.texts import as_encoded, join_pairs
from tests.tokenizers.test_rna import FIRST, GENES, MEASURED, cells

WORDS = [a + b + c for a in "ACGT" for b in "ACGT" for c in "ACGT"]


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """One of each kind, {name: tokenizer}."""
    folder = tmp_path_factory.mktemp("vocab")
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    pieces = folder / "pieces.txt"
    pieces.write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACGTN", *(f"##{w}" for w in ["A", "C", "G", "T", "N", "ACG", "TT"])])
    )
    backend = Backend(WordLevel({"[PAD]": 0, "[UNK]": 1, "A": 2, "C": 3, "G": 4, "T": 5, "N": 6}, unk_token="[UNK]"))
    backend.pre_tokenizer = Split("", "isolated")
    return {
        "bpe": dna.DnaTokenizer.from_pretrained("snp2vec"),
        "kmer": dna.kmer(3),
        "single": dna.single_base("ACGT"),
        "hyena": HuggingFaceTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")),
        "dnabert": HuggingFaceTokenizer(BertTokenizerFast(str(folder / "vocab.txt"), do_lower_case=False)),
        "wordpiece": HuggingFaceTokenizer(BertTokenizerFast(str(pieces), do_lower_case=False)),
        "cells": CellTokenizer(GENES, n_cls=2, read_depth={"mode": "downsample", "min_total": 10, "target": 100}),
    }


DNA = ("bpe", "kmer", "single", "hyena", "dnabert", "wordpiece")
texts = st.lists(st.text("ACGTN", min_size=3, max_size=40), min_size=1, max_size=6)


def encoded(strings, seed=0):
    """Symbols of texts, a tenth of them marked as written from a variant."""
    rng = np.random.default_rng(seed)
    return as_encoded([encode(t) | (0x80 * (rng.random(len(t)) < 0.1)).astype(np.uint8) for t in strings])


def test_each_keeps_the_protocol(tokenizers):
    for name, tokenizer in tokenizers.items():
        assert isinstance(tokenizer, Tokenizer), name
        assert tokenizer.omics == ("rna" if name == "cells" else "dna")
        assert len(tokenizer.names) == len(tokenizer) == tokenizer.fields["input_ids"]["size"]
        assert tokenizer.plain_ids[1] <= len(tokenizer) and len(tokenizer.description()["tokens"]) == 64


@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from(DNA), st.integers(0, 99))
def test_packed_rows_hold_what_padded_rows_hold(tokenizers, data, name, seed):
    tokenizer = tokenizers[name]
    tokens = tokenizer.encode(encoded(data.draw(texts), seed), np.empty(0, np.uint64), 24)
    tokens.fields["labels"] = np.arange(len(tokens.ids))
    _rows_agree(tokens, tokenizer, 24)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from(["none", "equal", "downsample"]))
def test_packed_rows_of_cells_hold_what_padded_rows_hold(seed, mode):
    counts, keys = cells(seed)
    tokenizer = CellTokenizer(GENES, n_cls=2, read_depth={"mode": mode, "min_total": 10})
    tokens = tokenizer.encode(CellBatch(counts, np.zeros(6, np.int64), MEASURED), keys, 24)
    assert ("targets" in tokens.fields) == (mode == "downsample")
    _rows_agree(tokens, tokenizer, 24)


def _rows_agree(tokens, tokenizer, row_length):
    """Every example of padded and of packed rows is the one that plain Python writes."""
    padded, packed = tokenizer.collate(tokens), tokenizer.collate(tokens, row_length)
    assert packed["packed"] and not padded["packed"] and packed["input_ids"].shape[1] == -(-row_length // 8) * 8
    prefix, n_special = tokenizer.prefix.tolist(), tokenizer.plain_ids[0]
    depth = tokens.example_fields.get("read_depth")
    for batch in (padded, packed):
        for b in range(len(tokens)):
            mine = batch["example_ids"] == b
            ids = [*prefix, *tokens[b].tolist(), SEP]
            assert batch["input_ids"][mine].tolist() == ids
            assert batch["special_tokens_mask"][mine].tolist() == [i < n_special for i in ids]
            assert batch["position_ids"][mine].tolist() == (list(range(len(ids))) if tokenizer.positions else [0] * len(ids))
            assert np.flatnonzero(mine.ravel())[0] == batch["cls_index"][b] and len({*batch["sequence_ids"][mine].tolist()}) == 1
            part = slice(*tokens.offsets[b : b + 2])
            for name, values in tokens.fields.items():
                blank = False if values.dtype == bool else np.nan if values.dtype == np.float32 else -100
                expected = np.array([*[blank] * len(prefix), *values[part], blank])
                if name == "values":
                    expected = np.array([*(-(np.array(prefix) + 1.0)), *values[part], -(SEP + 1.0)], np.float32)
                    if depth is not None:
                        expected[len(prefix) - 2 : len(prefix)] = depth[b]
                np.testing.assert_array_equal(batch[name][mine], expected)
        blank = batch["sequence_ids"] == 0
        assert (batch["input_ids"][blank] == PAD).all() and (batch["example_ids"][blank] == -1).all()
        assert batch["special_tokens_mask"][blank].all()
        if "values" in batch:
            assert (batch["values"][blank] == -(PAD + 1.0)).all()
    assert to_tensors(packed)["input_ids"].shape == packed["input_ids"].shape


@settings(deadline=None, max_examples=60)
@given(st.data(), st.sampled_from(DNA))
def test_spans_are_the_places_of_tokens_in_the_text(tokenizers, data, name):
    """Of vocabularies that know every letter; each base of [UNK] by itself where its length is not told otherwise."""
    tokenizer = tokenizers[name]
    text = data.draw(st.text("ACGT", min_size=3, max_size=60))
    ids = tokenizer.encode(as_encoded([encode(text)])).ids
    spans = tokenizer.spans(ids, len(text))
    place, expected = 0, []
    for i, token in enumerate(tokenizer.names[i].removeprefix("##") for i in ids):
        assert text[place : place + len(token)] == token
        stop = place + (len(token) if name != "dnabert" or i == len(ids) - 1 else 1)
        expected.append([place, stop])
        place = stop
    assert place == len(text) and spans.tolist() == expected


def test_spans_of_unknown_tokens_share_what_is_left(tokenizers):
    ids = np.array([5, UNK, 6, UNK])
    single = tokenizers["single"]
    assert single.spans(ids).tolist() == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert single.spans(ids, 8).tolist() == [[0, 1], [1, 4], [4, 5], [5, 8]]
    assert single.spans(np.empty(0, np.int32)).shape == (0, 2)
    with pytest.raises(ValueError, match="cover 2 of 4 bases"):
        tokenizers["hyena"].spans(np.array([5, 6]), 4)


def test_spans_of_cells_are_genes(tokenizers):
    spans = tokenizers["cells"].spans(np.array([CLS, FIRST, FIRST + 3, SEP]))
    assert [tokenizers["cells"].names[a:b] for a, b in spans] == [[], ["G0"], ["G3"], []]


@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from(DNA), st.integers(0, 99))
def test_tokens_with_variants_are_those_whose_bases_have_one(tokenizers, data, name, seed):
    raw = encoded(data.draw(texts), seed)
    tokens = tokenizers[name].encode(raw)
    for b in range(len(raw)):
        is_variant, place, expected = raw[b] > 127, 0, []
        for i in tokens[b]:
            n = {UNK: 3 if name in ("kmer", "dnabert") else 1}.get(int(i), len(tokenizers[name].names[i].removeprefix("##")))
            expected.append(bool(is_variant[place : place + n].any()))
            place += 1 if name == "dnabert" else n
        assert tokens.fields["has_variant"][slice(*tokens.offsets[b : b + 2])].tolist() == expected


@pytest.mark.parametrize("name", DNA)
def test_pairs_stand_with_sep_between_them(tokenizers, name):
    tokenizer = tokenizers[name]
    first, second = ["ACGTACG", "ACG", "TTTACG"], ["GGGTTT", "CCC", "ACG"]
    tokens = tokenizer.encode(join_pairs(encoded(first), encoded(second)))
    alone = [tokenizer.encode(encoded(t)) for t in (first, second)]
    for b in range(3):
        assert tokens[b].tolist() == [*alone[0][b], SEP, *alone[1][b]]
    assert tokens.counts["bases"] == 28 and tokens.counts["sequences"] == 3
    assert tokenizer.collate(tokens)["special_tokens_mask"].sum() == tokenizer.collate(tokens)["input_ids"].size - len(tokens.ids) + 3
    cut = tokenizer.encode(join_pairs(encoded(first), encoded(second)), max_tokens=5)
    assert [cut[b].tolist() for b in range(3)] == [tokens[b][:3].tolist() for b in range(3)]
    assert cut.counts["truncated_sequences"] == sum(len(tokens[b]) > 3 for b in range(3))
    with pytest.raises(ValueError, match="no room"):
        tokenizer.encode(encoded(first), max_tokens=2)


def test_windows_with_pairs_are_written_for_models_of_plain_bases(tokenizers):
    """A locus with two alleles is written by its first, and counted."""
    pair = next(s for s in SYMBOLS if s not in "AGTCN" and dna.MEMBERS[SYMBOLS.index(s)].tolist() == [0, 1])
    tokens = tokenizers["hyena"].encode(as_encoded([encode("C" + pair + "T")]))
    assert [tokenizers["hyena"].names[i] for i in tokens.ids] == ["C", "A", "T"] and tokens.counts["fallback_symbols"] == 1


def test_some_tokens_are_taken_whole():
    rng = np.random.default_rng(0)
    counts, keys = cells(5)
    tokenizer = CellTokenizer(GENES, read_depth={"mode": "downsample", "min_total": 10})
    tokens = tokenizer.encode(CellBatch(counts, np.zeros(6, np.int64), MEASURED), keys, 24)
    rows = rng.permutation(6)[:4]
    some = tokens.take(rows)
    for at, b in enumerate(rows):
        assert some[at].tolist() == tokens[b].tolist()
        here, there = slice(*some.offsets[at : at + 2]), slice(*tokens.offsets[b : b + 2])
        assert (some.fields["targets"][here] == tokens.fields["targets"][there]).all()
        assert (some.example_fields["read_depth"][at] == tokens.example_fields["read_depth"][b]).all()
    assert (some.full_profile.lengths == np.diff(counts.offsets)[rows]).all()
    batch = tokens.full_profile.as_batch()
    dense = np.zeros((6, len(tokenizer)))
    dense[batch["row"], batch["gene"]] = batch["value"]
    assert ((dense > 0).sum(1) == np.diff(counts.offsets)).all()
    assert isinstance(some, Tokens) and MASK not in some.ids


def test_whole_cells_are_those_of_encode():
    counts, keys = cells(2)
    tokenizer = CellTokenizer(GENES, order="as_given")
    shuffled = tokenizer.encode(CellBatch(counts, np.zeros(6, np.int64), MEASURED), keys, 50)
    np.testing.assert_array_equal(shuffled.full_profile.values, tokenizer.full_profile(counts))


def test_spans_of_word_pieces_and_of_what_a_vocabulary_lacks(tokenizers):
    """By hand: ## of a name stands for no base, and [UNK] for what is left of the sequence."""
    pieces = tokenizers["wordpiece"]
    ids = pieces.encode(as_encoded([encode("AACGTTN")])).ids
    assert [pieces.names[i] for i in ids] == ["A", "##ACG", "##TT", "##N"]
    assert pieces.spans(ids, 7).tolist() == [[0, 1], [1, 4], [4, 6], [6, 7]]
    bases = Backend(WordLevel({"[PAD]": 0, "[UNK]": 1, "A": 2, "C": 3}, unk_token="[UNK]"))
    bases.pre_tokenizer = Split("C", "isolated")
    other = HuggingFaceTokenizer(PreTrainedTokenizerFast(tokenizer_object=bases, pad_token="[PAD]", unk_token="[UNK]"))
    tokens = other.encode(as_encoded([encode("ACGTTC")]))
    assert [other.names[i] for i in tokens.ids] == ["A", "C", "[UNK]", "C"] and tokens.counts["unknown_tokens"] == 1
    assert other.spans(tokens.ids, 6).tolist() == [[0, 1], [1, 2], [2, 5], [5, 6]]
    with pytest.raises(ValueError, match="cover 6 of 9 bases"):
        pieces.spans(ids[:3], 9)


def test_lower_case_is_the_same_sequence(tokenizers):
    for name in ("hyena", "wordpiece"):
        raw, n_replaced = tokenizers[name].read_texts(["acgtn"])
        tokens = tokenizers[name].encode(raw)
        assert "".join(tokenizers[name].names[i].removeprefix("##") for i in tokens.ids) == "ACGTN"
        assert n_replaced == tokens.counts["unknown_tokens"] == tokens.counts["fallback_symbols"] == 0
