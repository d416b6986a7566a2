"""Tokenizers of HuggingFace models, in this project's ids: special tokens 0 to 4, then all others in their order."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bmfm.genome.alphabet import BASES, SYMBOLS, decode
from bmfm.genome.representation import Encoded
from bmfm.special import CLS, SPECIAL_TOKENS, UNK
from bmfm.storage.config import read_config
from bmfm.storage.remote_code import refusal, remote_code_is_allowed, without_hub
from bmfm.tokenizers.base import Tokens
from bmfm.tokenizers.dna import fallback_symbol
from bmfm.tokenizers.sequences import SequenceTokenizer, join_parts
from bmfm.tokenizers.texts import by_number, split_at_boundaries


class HuggingFaceTokenizer(SequenceTokenizer):
    """The tokenizer of a HuggingFace model of DNA, in this project's ids; these models know plain bases only.

    Parameters
    ----------
    n_rows
        Rows of the model's embedding: tokens beyond them, which transformers may have added, do not exist.
    n_positions
        Longest input that the model has positions for.

    Attributes
    ----------
    hf_token_ids
        The tokenizer's id of each of ours [V]; -1 for a special token that it lacks.
    """

    def __init__(self, tokenizer: Any, n_rows: int | None = None, n_positions: int | None = None):
        self.tokenizer, self.n_positions = tokenizer, n_positions
        special = [
            tokenizer.unk_token_id,
            _first(tokenizer.sep_token_id, tokenizer.eos_token_id),
            tokenizer.pad_token_id,
            _first(tokenizer.cls_token_id, tokenizer.bos_token_id),
            tokenizer.mask_token_id,
        ]
        known = {i for i in tokenizer.get_vocab().values() if n_rows is None or i < n_rows}
        self.hf_token_ids = np.array([i if i in known else -1 for i in special] + sorted(known - set(special)), np.int64)
        self._own_ids = np.full(max(tokenizer.get_vocab().values()) + 1, UNK, np.int32)
        self._own_ids[self.hf_token_ids[self.hf_token_ids >= 0]] = np.flatnonzero(self.hf_token_ids >= 0)
        bases = set(BASES)
        self.written_as = np.array([fallback_symbol(code, bases) for code in range(len(SYMBOLS))], np.uint8)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "HuggingFaceTokenizer":
        """The tokenizer of a model folder, read by transformers.

        Raises
        ------
        ValueError
            If transformers cannot read it, or it brings code and such was not asked for; names the folder.
        """
        from transformers import AutoTokenizer

        folder = Path(folder)
        config = read_config(folder)
        config = config.get("backbone", {}).get("config", config)
        try:
            with without_hub():
                tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=remote_code_is_allowed())
            return cls(tokenizer, config.get("vocab_size"), positions(config))
        except Exception as error:
            if "trust_remote_code" in str(error):
                raise refusal(folder) from error
            reason = f"{type(error).__name__}: {error}".split("\n")[0][:200]
            raise ValueError(f"{folder}: its tokenizer cannot be read ({reason})") from error

    def __len__(self) -> int:
        return len(self.hf_token_ids)

    @cached_property
    def names(self) -> list[str]:  # type: ignore[override]
        """Every token, in the order of its id."""
        return list(SPECIAL_TOKENS) + self.tokenizer.convert_ids_to_tokens(self.hf_token_ids[len(SPECIAL_TOKENS) :].tolist())

    @property
    def max_tokens(self) -> int | None:
        """Longest input that the model and its makers allow, in tokens; None where there is no limit."""
        made_for = int(self.tokenizer.model_max_length)
        return min((n for n in (made_for if made_for < 1 << 30 else None, self.n_positions) if n), default=None)

    def check_cls(self, number: int, who: str) -> None:
        """Raise a ValueError if there is no such CLS token."""
        if number or self.hf_token_ids[CLS] < 0:
            raise ValueError(
                f"{who} reads CLS token {number}, which this model does not have: choose pooling=mean (of a label: objectives.NAME.pooling=mean)"
            )

    def read_texts(self, texts: Sequence[str], alphabet: str = "plain", where: Callable[[int], str] = by_number) -> tuple[Encoded, int]:
        """Texts as symbols, read as plain bases whatever the alphabet, and how many characters were read as N."""
        return super().read_texts(texts, "plain", where)

    def _encode(self, raw: Encoded, room: int) -> Tokens:
        parts, owners = split_at_boundaries(raw)
        texts = [decode(self.written_as[part & 0x7F]) for part in parts]
        if k := self.overlapping:
            words = [" ".join(t[i : i + k] for i in range(len(t) - k + 1)) for t in texts]
        encodings = self.tokenizer(words if k else texts, add_special_tokens=False, verbose=False)["input_ids"]
        of_parts = [self._own_ids[np.array(ids, np.int64)] for ids in encodings]
        has_variant = [self._has_variant(ids, part, text) for ids, part, text in zip(of_parts, parts, texts, strict=True)]
        ids, marks, offsets, n_cut = join_parts(of_parts, has_variant, owners, len(raw), room)
        counts = {
            "sequences": len(raw),
            "bases": sum(map(len, parts)),
            "tokens": len(ids),
            "truncated_sequences": n_cut,
            "unknown_tokens": int((ids == UNK).sum()),
            "fallback_symbols": sum(int((self.written_as[p & 0x7F] != p & 0x7F).sum()) for p in parts),
        }
        return Tokens(ids, offsets, {"has_variant": marks}, counts=counts)

    def _has_variant(self, ids: np.ndarray, symbols: np.ndarray, text: str) -> np.ndarray:
        """Which of the tokens of one sequence hold a symbol that was written from a variant [L]."""
        is_variant = symbols > 127
        if not is_variant.any():
            return np.zeros(len(ids), bool)
        if k := self.overlapping:
            begins = np.arange(len(ids))
            spans = np.stack([begins, begins + k], 1)
        elif self.tokenizer.is_fast:
            spans = np.array(self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"])
            spans = spans.reshape(-1, 2)
        else:
            spans = self.spans(ids, len(symbols))
        seen = np.concatenate([[0], np.cumsum(is_variant)])
        return seen[spans[:, 1]] > seen[spans[:, 0]]

    def _lengths_of(self, ids: np.ndarray, n_bases: int | None = None) -> np.ndarray:
        """How many bases each token stands for [L]; of overlapping k-mers each stands for its first base, the last for all k.

        Raises
        ------
        ValueError
            If that is not the length of the sequence.
        """
        lengths = super()._lengths_of(ids, n_bases)
        if self.overlapping and len(ids):
            lengths = np.append(np.ones(len(ids) - 1, np.int64), self.overlapping)
        if n_bases is not None and lengths.sum() != n_bases:
            raise ValueError(
                f"tokens of {self.tokenizer.__class__.__name__} cover {lengths.sum()} of {n_bases} bases: labels of bases cannot be placed"
            )
        return lengths

    @cached_property
    def overlapping(self) -> int:
        """k where the vocabulary is all k-mers of one length and nothing else: words of text, one for each base (DNABERT); else 0."""
        plain = self.names[len(SPECIAL_TOKENS) :]
        lengths = {len(name) for name in plain if set(name) <= set("ACGT")}
        others = [name for name in plain if not set(name) <= set("ACGT") and name.isalpha()]
        return lengths.pop() if len(lengths) == 1 and not others and lengths != {1} else 0


def _first(*ids: int | None) -> int | None:
    return next((i for i in ids if i is not None), None)


def positions(config: dict) -> int | None:
    """How many tokens a configuration has positions for; None where they have no end."""
    n = config.get("max_position_embeddings") or config.get("max_seq_len") or config.get("n_positions")
    if n and config.get("model_type") == "esm" and config.get("position_embedding_type", "absolute") == "absolute":
        n -= (config.get("pad_token_id") or 0) + 1  # its positions begin after that of padding
    return n
