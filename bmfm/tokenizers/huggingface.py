"""Tokenizers of others behind the calls of `DnaTokenizer`, in this project's ids (special tokens 0 to 4, then all others in their order)."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bmfm.special import CLS, SPECIAL_TOKENS, UNK
from bmfm.storage.config import read_config
from bmfm.storage.remote_code import refusal, remote_code_is_allowed, without_hub
from bmfm.tokenizers.dna import Vocabulary
from bmfm.tokenizers.texts import by_number, read_texts


class ForeignTokenizer(Vocabulary):
    """A tokenizer of others behind the calls of `DnaTokenizer`, in this project's ids.

    Parameters
    ----------
    n_rows
        Rows of the model's embedding: tokens beyond them, which transformers may have added, do not exist.
    n_positions
        Longest input that the model has positions for.

    Attributes
    ----------
    their_ids
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
        self.their_ids = np.array([i if i in known else -1 for i in special] + sorted(known - set(special)), np.int64)
        self._ours = np.full(max(tokenizer.get_vocab().values()) + 1, UNK, np.int32)
        self._ours[self.their_ids[self.their_ids >= 0]] = np.flatnonzero(self.their_ids >= 0)

    @classmethod
    def from_folder(cls, folder: Path) -> "ForeignTokenizer":
        from transformers import AutoTokenizer

        config = read_config(folder)
        config = config.get("backbone", {}).get("config", config)
        try:
            with without_hub():
                read = AutoTokenizer.from_pretrained(folder, trust_remote_code=remote_code_is_allowed())
            return cls(read, config.get("vocab_size"), positions(config))
        except Exception as error:
            if "trust_remote_code" in str(error):
                raise refusal(folder) from error
            said = f"{type(error).__name__}: {error}".split("\n")[0][:200]
            raise ValueError(f"{folder}: its tokenizer cannot be read ({said})") from error

    def __len__(self) -> int:
        return len(self.their_ids)

    @cached_property
    def names(self) -> list[str]:  # type: ignore[override]
        """Every token, in the order of its id."""
        return list(SPECIAL_TOKENS) + self.tokenizer.convert_ids_to_tokens(self.their_ids[len(SPECIAL_TOKENS) :].tolist())

    @property
    def max_tokens(self) -> int | None:
        """Longest input that the model and its makers allow, in tokens; None where there is no limit."""
        made_for = int(self.tokenizer.model_max_length)
        return min((n for n in (made_for if made_for < 1 << 30 else None, self.n_positions) if n), default=None)

    def check_cls(self, number: int, who: str) -> None:
        """Raise a ValueError if there is no such CLS token."""
        if number or self.their_ids[CLS] < 0:
            raise ValueError(
                f"{who} reads CLS token {number}, which this model does not have: choose pooling=mean (of a label: objectives.NAME.pooling=mean)"
            )

    def of_texts(self, texts, max_tokens: int = 1 << 40, alphabet: str = "plain", where=by_number) -> tuple[list[np.ndarray], int]:
        """Token ids of each text, and how many characters were read as N; these models know plain bases only."""
        from bmfm.genome.alphabet import decode

        symbols, n_replaced = read_texts(texts, "plain", where)
        written = [decode(codes) for codes in symbols]
        if k := self.overlapping:
            written = [" ".join(t[i : i + k] for i in range(len(t) - k + 1)) for t in written]
        found = self.tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"]
        return [self._ours[np.array(ids[:max_tokens], np.int64)] for ids in found], n_replaced

    def lengths(self, ids: np.ndarray, n_bases: int | None = None) -> np.ndarray:
        """How many bases each token covers [L]."""
        lengths = self._lengths[ids]
        if self.overlapping:
            lengths = np.append(np.ones(len(ids) - 1, np.int64), self.overlapping) if len(ids) else lengths
        if n_bases is not None and lengths.sum() != n_bases:
            raise ValueError(
                f"tokens of {self.tokenizer.__class__.__name__} cover {lengths.sum()} of {n_bases} bases: labels of bases cannot be placed"
            )
        return lengths

    @cached_property
    def overlapping(self) -> int:
        """k where the vocabulary is all k-mers of one length and nothing else: words of text, one for each base (DNABERT); else 0."""
        lengths = {len(name) for name in self.names[len(SPECIAL_TOKENS) :] if set(name) <= set("ACGT")}
        others = [n for n in self.names[len(SPECIAL_TOKENS) :] if not set(n) <= set("ACGT") and n.isalpha()]
        return lengths.pop() if len(lengths) == 1 and not others and lengths != {1} else 0


def _first(*ids: int | None) -> int | None:
    return next((i for i in ids if i is not None), None)


def positions(config: dict) -> int | None:
    """How many tokens a configuration has positions for; None where they have no end."""
    n = config.get("max_position_embeddings") or config.get("max_seq_len") or config.get("n_positions")
    if n and config.get("model_type") == "esm" and config.get("position_embedding_type", "absolute") == "absolute":
        n -= (config.get("pad_token_id") or 0) + 1  # its positions begin after that of padding
    return n
