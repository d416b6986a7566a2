"""DNA tokenizers: load a published, saved or newly trained one, and encode windows of symbols with it.

Special ids are fixed, [UNK] 0, [SEP] 1, [PAD] 2, [CLS] 3, [MASK] 4, as are the templates ``[CLS] A [SEP]`` and
``[CLS] A [SEP] B [SEP]`` (BMFM-DNA, arXiv 2507.05265).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bmfm.files import ASSETS
from bmfm.genome.alphabet import BASES, INSERTED, MEMBERS, PAIR, SYMBOLS, decode
from bmfm.genome.representation import Encoded
from bmfm.special import CLS, SEP, SPECIAL_TOKENS, UNK
from bmfm.tokenizers.base import Tokens, hash_of_names
from bmfm.tokenizers.bpe import BpeTable, encode_windows
from bmfm.tokenizers.collate import collate_tokens
from bmfm.tokenizers.texts import BOUNDARY, as_encoded, by_number, read_texts, split_at_boundaries


def wrap(tokenizer):
    """A `transformers.PreTrainedTokenizerFast` of a `tokenizers.Tokenizer`, with the roles of the special tokens."""
    from transformers import PreTrainedTokenizerFast

    roles = {f"{t[1:-1].lower()}_token": t for t in SPECIAL_TOKENS}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def load(path: str | Path):
    """Load a tokenizer by the name of a shipped one (``ref2vec``, ``snp2vec``, ...), a JSON file, or a folder.

    Raises
    ------
    FileNotFoundError
        Naming the shipped ones, if `path` is none of these.
    ValueError
        If its special tokens have not the ids of this project.
    """
    shipped = ASSETS / "tokenizers"
    for candidate in (Path(path).expanduser(), shipped / str(path), shipped / f"{path}.json"):
        if candidate.is_dir():
            candidate = candidate / "tokenizer.json"
        if candidate.is_file():
            from tokenizers import Tokenizer

            tokenizer = wrap(Tokenizer.from_file(str(candidate)))
            ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
            if ids != list(range(5)):
                raise ValueError(f"{candidate}: special tokens {SPECIAL_TOKENS} have ids {ids}, expected 0 to 4")
            return tokenizer
    names = ", ".join(sorted(p.stem for p in shipped.iterdir()))
    raise FileNotFoundError(f"tokenizer {str(path)!r} is no file, no folder with tokenizer.json, and none of: {names}")


def _finish(tokenizer):
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return wrap(tokenizer)


def train_bpe(sequences: Iterable[str], vocab_size: int, alphabet: Iterable[str] = (), max_token_length: int = 32):
    """Train a BPE tokenizer on an iterator of window texts, each window one word.

    Parameters
    ----------
    alphabet
        Symbols that become tokens whether they occur or not (``"ACGTN"`` and, for ``biallele``, the pairs).
    """
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(alphabet),
        max_token_length=max_token_length,
        show_progress=False,
    )
    tokenizer.train_from_iterator(sequences, trainer)
    return _finish(tokenizer)


def single_base(alphabet: Iterable[str] = SYMBOLS):
    """One token a symbol."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import Whitespace

    vocab = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    tokenizer = Tokenizer(BPE(vocab, [], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return _finish(tokenizer)


def kmer(k: int):
    """Non-overlapping k-mers of A, C, G, T; the end of a window is a shorter one. A k-mer with any other symbol is [UNK]."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split

    words = ("".join(letters) for n in range(1, k + 1) for letters in product("ACGT", repeat=n))
    vocab = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *words])}
    tokenizer = Tokenizer(WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Split(Regex(f".{{1,{k}}}"), "isolated")
    return _finish(tokenizer)


def fallback_symbol(code: int, known: set[str]) -> int:
    """The symbol that stands for one which a vocabulary lacks; -1 where nothing fits.

    First its insertion marks are dropped; then, of the pair's states, the first plain base is taken (in the order
    A, G, T, C); a deleted locus becomes N.
    """
    states = MEMBERS[code]
    bare = [int(s - INSERTED if s >= INSERTED else s) for s in states]
    candidates = [code, int(PAIR[bare[0], bare[1]]), *sorted(s for s in bare if s < BASES.index("N")), BASES.index("N")]
    return next((c for c in candidates if SYMBOLS[c] in known), -1)


@dataclass
class TokenBatch:
    """Tokens of a batch of windows, without special tokens: window b is ``ids[offsets[b]:offsets[b + 1]]``."""

    ids: np.ndarray
    has_variant: np.ndarray
    offsets: np.ndarray
    n_truncated: int
    n_unknown: int
    n_fallback: int


class SequenceTokenizer:
    """What tokenizers of DNA have in common, ours (`DnaTokenizer`) and those of HuggingFace models.

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
            With the field ``has_variant``: tokens with a symbol that was written from a variant.
        """
        room = max_tokens - len(self.prefix) - 1
        if room < 1:
            raise ValueError(f"max_tokens={max_tokens} leaves no room for tokens beside [CLS] and [SEP]")
        return self._encode(raw, room)

    def _encode(self, raw: Encoded, room: int) -> Tokens:
        """As `encode`, with at most `room` tokens an example."""
        raise NotImplementedError

    def collate(self, tokens: Tokens, row_length: int | None = None) -> dict[str, Any]:
        """Rows ``[CLS] tokens [SEP]`` of a batch, in NumPy arrays; packed where a row length is given."""
        return collate_tokens(tokens, self.prefix, self.plain_ids[0], row_length)

    def spans(self, ids: np.ndarray, n_bases: int | None = None) -> np.ndarray:
        """Bases that each of an example's tokens [L] stands for, [L, 2], 0-based and half-open; see `base.Tokenizer.spans`."""
        ends = np.cumsum(self.lengths(ids, n_bases))
        return np.stack([np.concatenate([[0], ends[:-1]]).astype(np.int64)[: len(ends)], ends], 1)

    def lengths(self, ids: np.ndarray, n_bases: int | None = None) -> np.ndarray:
        """How many bases each token stands for [L]; see `base.Tokenizer.spans`."""
        raise NotImplementedError

    def description(self) -> dict[str, Any]:
        """What a model depends on of its tokenizer: a hash of the tokens in the order of their ids."""
        return {"tokens": hash_of_names(self.names)}

    @cached_property
    def _lengths(self) -> np.ndarray:
        return np.array([0 if i < len(SPECIAL_TOKENS) else len(name) for i, name in enumerate(self.names)], np.int64)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the files that `transformers.AutoTokenizer` loads."""
        self.tokenizer.save_pretrained(folder)

    def of_texts(
        self, texts: Sequence[str], max_tokens: int = 1 << 40, alphabet: str = "auto", where: Callable[[int], str] = by_number
    ) -> tuple[list[np.ndarray], int]:
        """Token ids of each text, and how many characters were read as N (until everyone takes `read_texts` and `encode`)."""
        raw, n_replaced = self.read_texts(texts, alphabet, where)
        tokens = self._encode(raw, max_tokens)
        return [tokens[b] for b in range(len(tokens))], n_replaced


class DnaTokenizer(SequenceTokenizer):
    """Encodes windows of symbols with a `PreTrainedTokenizerFast`; counts what is cut, unknown or written otherwise."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self.table = BpeTable.from_tokenizer(tokenizer.backend_tokenizer.to_str())
        known = set(tokenizer.get_vocab())
        self.written_as = np.array([fallback_symbol(c, known) for c in range(len(SYMBOLS))], np.int16)
        self.falls_back = np.zeros(128, bool)
        self.falls_back[: len(SYMBOLS)] = self.written_as != np.arange(len(SYMBOLS))
        self.single_id = np.full(128, UNK, np.int32)  # of symbols that are no character of the vocabulary
        self.single_id[BOUNDARY] = SEP
        if self.table:
            number = {character: i for i, character in enumerate(self.table.characters)}
            self.character_of = np.full(128, -1, np.int16)
            self.character_of[: len(SYMBOLS)] = [number[SYMBOLS[c]] if c >= 0 else -1 for c in self.written_as]

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "DnaTokenizer":
        """The tokenizer of a model folder, a JSON file, or one that ships; see `load`."""
        return cls(load(folder))

    def check_cls(self, number: int, who: str) -> None:
        """Raise a ValueError if there is no such CLS token."""
        if number:
            raise ValueError(f"objective {who} reads CLS token {number}, but DNA has one [CLS] token, number 0")

    @property
    def fallbacks(self) -> dict[str, str]:
        """Symbols that this vocabulary lacks, and what is written for them."""
        return {SYMBOLS[c]: SYMBOLS[w] if w >= 0 else "[UNK]" for c, w in enumerate(self.written_as) if c != w}

    def _encode(self, raw: Encoded, room: int) -> Tokens:
        if self.table:
            t = self.table
            ids, has_variant, offsets, n_cut = encode_windows(
                raw.symbols, raw.offsets, self.character_of, t.ids, t.length, t.next_node, t.token_at, t.shorter,
                t.follows, self.single_id, room,
            )  # fmt: skip
        else:
            ids, has_variant, offsets, n_cut = self._through_text(raw, room)
        counts = {
            "sequences": len(raw),
            "bases": int(raw.offsets[-1] - (raw.symbols == BOUNDARY).sum()),
            "tokens": len(ids),
            "truncated_sequences": int(n_cut),
            "unknown_tokens": int((ids == UNK).sum()),
            "fallback_symbols": int(self.falls_back[raw.symbols & 0x7F].sum()),
        }
        return Tokens(ids, offsets, {"has_variant": has_variant}, counts=counts)

    def __call__(self, encoded: Encoded, max_tokens: int) -> TokenBatch:
        """Tokens of windows (until everyone takes `encode`); `max_tokens` leaves special tokens out."""
        tokens = self._encode(encoded, max_tokens)
        counts = [tokens.counts[name] for name in ("truncated_sequences", "unknown_tokens", "fallback_symbols")]
        return TokenBatch(tokens.ids, tokens.fields["has_variant"], tokens.offsets, *counts)

    def lengths(self, ids: np.ndarray, n_bases: int | None = None) -> np.ndarray:
        """How many bases each token stands for [L]; what [UNK] stands for follows from the length of the whole sequence."""
        lengths = self._lengths[ids]
        unknown = np.flatnonzero(ids == UNK)
        if len(unknown) and n_bases is not None:
            rest = n_bases - int(lengths.sum())
            lengths[unknown] = np.diff(np.linspace(0, rest, len(unknown) + 1).round()).astype(np.int64)
        elif len(unknown):
            lengths[unknown] = 1
        return lengths

    def _through_text(self, raw: Encoded, room: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        rewritten = np.where(self.written_as < 0, np.arange(len(SYMBOLS)), self.written_as).astype(np.uint8)
        parts, owners = split_at_boundaries(raw)
        texts = [decode(rewritten[part & 0x7F]) for part in parts]
        ids, variants = [], []
        for part, encoding in zip(parts, self.tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False), strict=True):
            marks = np.concatenate([[0], np.cumsum(part > 127)])
            spans = np.array(encoding.offsets, np.int64).reshape(-1, 2)
            ids.append(np.array(encoding.ids, np.int32))
            variants.append(marks[spans[:, 1]] > marks[spans[:, 0]])
        return join_parts(ids, variants, owners, len(raw), room)


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


def refuse_unknown(ids: Sequence[np.ndarray], what: str) -> None:
    """Raise a ValueError if more than half of all tokens are [UNK]: this tokenizer is for other text."""
    n, unknown = sum(map(len, ids)), sum(int((i == UNK).sum()) for i in ids)
    if unknown > 0.5 * n:
        raise ValueError(
            f"{what}: {unknown:,} of {n:,} tokens are [UNK]: this tokenizer does not read nucleotides as they are written here"
        )


def symbols_for(representation: str) -> tuple[str, ...]:
    """The symbols that a representation can write, for the alphabet of a new tokenizer."""
    return SYMBOLS if representation == "biallele" else BASES
