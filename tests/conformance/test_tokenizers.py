"""Every tokenizer that ``conf/tokenizer`` lists keeps the contract of `tokenizers.base`."""

import json

import numpy as np
import pytest

from bmfm.cli import compose
from bmfm.special import CLS, PAD, SEP
from bmfm.tokenizers.base import Tokenizer
from tests.conformance.cases import GENES, choices, raw_cells, raw_sequences, take, tokenizer_from

FROM_FOLDERS = ("cells_folder", "folder", "checkpoint")  # what others saved: `test_a_saved_tokenizer_is_the_same`
MORE = {"cells": [f"tokenizer.genes=[{','.join(GENES)}]", "tokenizer.order=random", "tokenizer.zeros=interleaved", "tokenizer.read_depth.mode=downsample", "tokenizer.n_cls=2"]}  # fmt: skip
LENGTHS = (37, 12, 1, 25, 30)
KEYS = np.random.default_rng(0).integers(0, 2**62, len(LENGTHS)).astype(np.uint64)
LIMIT = 24

every_tokenizer = pytest.mark.parametrize("name", [name for name in choices("tokenizer") if name not in FROM_FOLDERS])


def made(name: str) -> Tokenizer:
    tokenizer = tokenizer_from(compose("train", [f"tokenizer={name}", *MORE.get(name, [])]).tokenizer)
    assert isinstance(tokenizer, Tokenizer)
    return tokenizer


def raw_of(tokenizer: Tokenizer):
    if tokenizer.omics == "dna":
        return raw_sequences(LENGTHS)
    tokenizer.fit_normalization(np.array([300.0]))
    return raw_cells(LENGTHS, first=tokenizer.plain_ids[0])


def assert_same(a, b) -> None:
    """The same tokens, to the bit."""
    assert np.array_equal(a.ids, b.ids) and np.array_equal(a.offsets, b.offsets)
    for mine, theirs in ((a.fields, b.fields), (a.example_fields, b.example_fields)):
        assert mine.keys() == theirs.keys() and all(np.array_equal(mine[k], theirs[k], equal_nan=mine[k].dtype.kind == "f") for k in mine)


@every_tokenizer
def test_a_saved_tokenizer_is_the_same(tmp_path, name):
    tokenizer = made(name)
    raw = raw_of(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert_same(again.encode(raw, KEYS, LIMIT), tokenizer.encode(raw, KEYS, LIMIT))
    for what in ("omics", "names", "plain_ids", "n_cls", "n_bins", "max_tokens", "fields"):
        assert getattr(again, what) == getattr(tokenizer, what), what
    assert again.description() == tokenizer.description() == json.loads(json.dumps(tokenizer.description()))


@every_tokenizer
def test_an_example_does_not_depend_on_its_company(name):
    tokenizer = made(name)
    raw = raw_of(tokenizer)
    together = tokenizer.encode(raw, KEYS, LIMIT)
    alone = [tokenizer.encode(take(raw, [i]), KEYS[i : i + 1], LIMIT) for i in range(len(LENGTHS))]
    for i, tokens in enumerate(alone):
        mine = slice(*together.offsets[i : i + 2])
        assert np.array_equal(tokens.ids, together.ids[mine])
        assert all(np.array_equal(tokens.fields[k], v[mine]) for k, v in together.fields.items())
        assert all(np.array_equal(tokens.example_fields[k][0], v[i]) for k, v in together.example_fields.items())
    reverse = tokenizer.encode(take(raw, [4, 3, 2, 1, 0]), KEYS[::-1], LIMIT)
    assert np.array_equal(reverse.ids[: len(alone[4].ids)], alone[4].ids)
    for what, n in together.counts.items():  # and what is counted adds up
        assert n == sum(tokens.counts[what] for tokens in alone), what
    assert together.counts["tokens"] == len(together.ids) == together.offsets[-1]


@every_tokenizer
def test_ids_are_of_the_vocabulary_and_fit(name):
    tokenizer = made(name)
    tokens = tokenizer.encode(raw_of(tokenizer), KEYS, LIMIT)
    assert len(tokens) == len(LENGTHS) and len(tokenizer.names) == len(tokenizer) == len(set(tokenizer.names))
    assert tokens.ids.dtype == np.int32 and tokens.offsets.dtype == np.int64
    first, after = tokenizer.plain_ids
    assert ((tokens.ids >= first) & (tokens.ids < after)).all()
    batch = tokenizer.collate(tokens)
    assert (batch["sequence_ids"] > 0).sum(1).max() <= LIMIT
    for field in tokenizer.fields:
        assert batch[field].shape == batch["input_ids"].shape
    for number in range(tokenizer.n_cls):
        tokenizer.check_cls(number, "label")
    with pytest.raises(ValueError, match="label"):
        tokenizer.check_cls(tokenizer.n_cls, "label")


@every_tokenizer
def test_rows_hold_every_token_once(name):
    """Padded or packed: [CLS] tokens, the tokens in their order, [SEP]; nothing else, and every field beside its token."""
    tokenizer = made(name)
    tokens = tokenizer.encode(raw_of(tokenizer), KEYS, LIMIT)
    for row_length in (None, 64):
        batch = tokenizer.collate(tokens, row_length)
        assert batch["packed"] is (row_length is not None)
        for i in range(len(tokens)):
            mine, content = batch["example_ids"] == i, slice(*tokens.offsets[i : i + 2])
            ids, special = batch["input_ids"][mine], batch["special_tokens_mask"][mine]
            assert np.array_equal(ids[~special], tokens.ids[content])
            assert ids[0] == CLS and ids[-1] == SEP and special[0] and special[-1] and special.sum() >= tokenizer.n_cls + 1
            assert np.flatnonzero(mine.ravel())[0] == batch["cls_index"][i] and len(set(batch["sequence_ids"][mine])) == 1
            for field, values in tokens.fields.items():
                assert np.array_equal(batch[field][mine][~special], values[content], equal_nan=values.dtype.kind == "f"), field
        padding = batch["example_ids"] < 0
        assert (batch["input_ids"][padding] == PAD).all() and (batch["sequence_ids"][padding] == 0).all()
    assert len(batch["input_ids"]) < len(tokens)


@every_tokenizer
def test_spans_say_what_tokens_stand_for(name):
    """Bases of a sequence, one after the other from its beginning to its end; or the gene itself."""
    tokenizer = made(name)
    raw = raw_of(tokenizer)
    tokens = tokenizer.encode(raw, KEYS, 1000)
    for i, n_bases in enumerate(LENGTHS):
        ids = tokens.ids[slice(*tokens.offsets[i : i + 2])]
        spans = tokenizer.spans(ids, n_bases) if tokenizer.omics == "dna" else tokenizer.spans(ids)
        assert spans.shape == (len(ids), 2) and (spans[:, 1] > spans[:, 0]).all()
        if tokenizer.omics == "rna":
            assert np.array_equal(spans[:, 0], ids) and (spans[:, 1] == ids + 1).all()
            continue
        assert spans[0, 0] == 0 and spans[-1, 1] == n_bases and np.array_equal(spans[1:, 0], spans[:-1, 1])
        from bmfm.genome.alphabet import decode

        text = decode(raw[i])
        if name != "purines":  # whose tokens stand for classes of bases, and are not spelled as these
            assert [text[a:b] for a, b in spans] == [tokenizer.names[t] for t in ids]
