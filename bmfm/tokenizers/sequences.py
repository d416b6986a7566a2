"""What tokenizers of DNA have in common, ours and those of HuggingFace models."""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from bmfm.genome.representation import Encoded
from bmfm.special import CLS, SEP, SPECIAL_TOKENS, UNK
from bmfm.tokenizers.base import Tokens, hash_of_names
from bmfm.tokenizers.collate import collate
from bmfm.tokenizers.texts import as_encoded, by_number, read_texts

MARKS = ("##", "\u2581", "\u0120")
"""How names of tokens begin that go on with a word (WordPiece) or begin one (SentencePiece, byte-level BPE): they stand for no base."""


class SequenceTokenizer:
    """What tokenizers of DNA have in common, ours (`DnaTokenizer`), those of HuggingFace models, and those of other packages.

    A subclass encodes (`_encode`) and is read by ``from_pretrained(folder)``. One that wraps no `transformers` tokenizer has `names`,
    ``len`` and `save_pretrained` of its own, too.

    Attributes
    ----------
    tokenizer
        The `transformers` tokenizer.
    """

    tokenizer: Any
    omics = "dna"
    positions = True
    n_cls = 1
    n_bins: int | None = None
    overlapping: Any = 0  # k, where there is a token of k bases for each base
    prefix = np.array([CLS])

    @property
    def names(self) -> list[str]:
        """Every token, in the order of its id."""
        return self.tokenizer.convert_ids_to_tokens(list(range(len(self))))

    @property
    def plain_ids(self) -> tuple[int, int]:
        """Ids of ordinary tokens, half-open."""
        return len(SPECIAL_TOKENS), len(self)

    @property
    def max_tokens(self) -> int | None:
        """Longest input that the vocabulary's makers allow, in tokens; None where there is no limit."""
        return None

    @property
    def fields(self) -> dict[str, dict]:
        """What the model's field encoders must take."""
        return {"input_ids": {"size": len(self)}}

    def __len__(self) -> int:
        return len(self.tokenizer)

    def check_cls(self, number: int, who: str) -> None:
        """Raise a ValueError if there is no such CLS token."""
        if number:
            raise ValueError(f"objective {who} reads CLS token {number}, but DNA has one [CLS] token, number 0")

    def for_inference(self, *, shown_in_part: bool = False) -> Self:
        """Itself: tokens of sequences are drawn by nothing."""
        return self

    def read_texts(self, texts: Sequence[str], alphabet: str = "auto", where: Callable[[int], str] = by_number) -> tuple[Encoded, int]:
        """Texts as symbols, what `encode` takes, and how many characters were read as N; see `texts.read_texts`."""
        symbols, n_replaced = read_texts(texts, alphabet, where)
        return as_encoded(symbols), n_replaced

    def encode(self, raw: Encoded, keys: np.ndarray | None = None, max_tokens: int = 1 << 40) -> Tokens:
        """Tokens of windows or sequences; of pairs (`texts.join_pairs`) with [SEP] between the two.

        Parameters
        ----------
        raw
            Symbols of n examples. Those that the vocabulary lacks are written otherwise, and counted, see `fallback_symbol`.
        keys
            Not used: the tokens of a sequence are a function of the sequence.
        max_tokens
            Longest input, [CLS] and [SEP] included; longer ones lose their end, and are counted.

        Returns
        -------
        Tokens
            With the field ``has_variant``: tokens with a symbol that was written from a variant; and ``label_probs`` where `raw` has them.
        """
        room = max_tokens - len(self.prefix) - 1
        if room < 1:
            raise ValueError(f"max_tokens={max_tokens} leaves no room for tokens beside [CLS] and [SEP]")
        tokens = self._encode(raw, room)
        if raw.label_probs is not None:
            tokens.fields["label_probs"] = self._label_probs(raw, tokens)
        return tokens

    def _label_probs(self, raw: Encoded, tokens: Tokens) -> np.ndarray:
        """Of each token [T, 4]; a ValueError where tokens are longer than the bases that the probabilities are of."""
        assert raw.label_probs is not None
        if (longest := int(self._lengths.max())) > 1:
            raise ValueError(
                f"representation=soft_labels gives probabilities of single bases, and tokens of this tokenizer have up to {longest}: "
                "choose tokenizer=single_base"
            )
        first = np.repeat(raw.offsets[:-1] - tokens.offsets[:-1], tokens.lengths)
        return raw.label_probs[first + np.arange(len(tokens.ids))]

    def _encode(self, raw: Encoded, room: int) -> Tokens:
        """As `encode`, with at most `room` tokens an example."""
        raise NotImplementedError

    def collate(self, tokens: Tokens, row_length: int | None = None) -> dict[str, Any]:
        """Rows ``[CLS] tokens [SEP]`` of a batch, in NumPy arrays; packed where a row length is given."""
        return collate(tokens, self.prefix, self.plain_ids[0], row_length)

    def spans(self, ids: np.ndarray, n_bases: int | None = None) -> np.ndarray:
        """Bases that each of an example's tokens [L] stands for, [L, 2], 0-based and half-open; see `base.Tokenizer.spans`."""
        ends = np.cumsum(self._lengths_of(ids, n_bases))
        return np.stack([np.concatenate([[0], ends[:-1]]).astype(np.int64)[: len(ends)], ends], 1)

    def _lengths_of(self, ids: np.ndarray, n_bases: int | None = None) -> np.ndarray:
        """How many bases each token stands for [L]; what [UNK] stands for follows from the length of the whole sequence."""
        lengths = self._lengths[ids]
        unknown = np.flatnonzero(ids == UNK)
        if len(unknown) and n_bases is not None:
            rest = max(0, n_bases - int(lengths.sum()))
            lengths[unknown] = np.diff(np.linspace(0, rest, len(unknown) + 1).round()).astype(np.int64)
        elif len(unknown):
            lengths[unknown] = 1
        return lengths

    def description(self) -> dict[str, Any]:
        """What a model depends on of its tokenizer: a hash of the tokens in the order of their ids."""
        return {"tokens": hash_of_names(self.names)}

    @cached_property
    def spellings(self) -> list[str]:
        """What each token spells, in the order of their ids; nothing for special tokens."""
        texts = (next((name[len(mark) :] for mark in MARKS if name.startswith(mark)), name) for name in self.names)
        return ["" if i < len(SPECIAL_TOKENS) else text for i, text in enumerate(texts)]

    @cached_property
    def _lengths(self) -> np.ndarray:
        return np.array([len(text) for text in self.spellings], np.int64)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files that `transformers.AutoTokenizer` loads."""
        self.tokenizer.save_pretrained(folder)


def join_parts(
    ids: list[np.ndarray], has_variant: list[np.ndarray], owners: np.ndarray, n: int, room: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Tokens of single sequences as those of n examples, with [SEP] between the sequences of one, cut to `room` tokens each.

    Returns
    -------
    ids : int32 [T], has_variant : bool [T], offsets : int64 [n + 1], n_cut : int
    """
    of_example: list[list[np.ndarray]] = [[] for _ in range(n)]
    marks: list[list[np.ndarray]] = [[] for _ in range(n)]
    for part, mark, owner in zip(ids, has_variant, owners, strict=True):
        if of_example[owner]:
            of_example[owner].append(np.array([SEP], np.int32))
            marks[owner].append(np.zeros(1, bool))
        of_example[owner].append(part)
        marks[owner].append(mark)
    whole = [np.concatenate(parts) for parts in of_example]
    lengths = np.array([len(w) for w in whole], np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.minimum(lengths, room))])
    if not n:
        return np.empty(0, np.int32), np.empty(0, bool), offsets, 0
    return (
        np.concatenate([w[:room] for w in whole]),
        np.concatenate([np.concatenate(m)[:room] for m in marks]),
        offsets,
        int((lengths > room).sum()),
    )
