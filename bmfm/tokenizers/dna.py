"""DNA tokenizers: load a published, saved or newly trained one, and encode windows of symbols with it.

Special ids are fixed, [UNK] 0, [SEP] 1, [PAD] 2, [CLS] 3, [MASK] 4, as are the templates ``[CLS] A [SEP]`` and
``[CLS] A [SEP] B [SEP]`` (BMFM-DNA, arXiv 2507.05265).
"""

from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bmfm.files import ASSETS
from bmfm.genome.alphabet import BASES, INSERTED, MEMBERS, PAIR, SYMBOLS, decode
from bmfm.genome.representation import Encoded
from bmfm.special import CLS, SEP, SPECIAL_TOKENS, UNK
from bmfm.tokenizers.base import Tokens
from bmfm.tokenizers.bpe import BpeTable, SymbolTokens, encode_symbols, encode_windows
from bmfm.tokenizers.sequences import SequenceTokenizer, join_parts
from bmfm.tokenizers.texts import BOUNDARY, split_at_boundaries


def fallback_symbol(code: int, known: set[str]) -> int:
    """The symbol that stands for one which a vocabulary lacks; -1 where nothing fits.

    First its insertion marks are dropped; then, of the pair's states, the first plain base is taken (in the order
    A, G, T, C); a deleted locus becomes N.
    """
    states = MEMBERS[code]
    bare = [int(s - INSERTED if s >= INSERTED else s) for s in states]
    candidates = [code, int(PAIR[bare[0], bare[1]]), *sorted(s for s in bare if s < BASES.index("N")), BASES.index("N")]
    return next((c for c in candidates if SYMBOLS[c] in known), -1)


class DnaTokenizer(SequenceTokenizer):
    """Encodes windows of symbols with a `PreTrainedTokenizerFast`; counts what is cut, unknown or written otherwise."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.table = BpeTable.from_tokenizer(tokenizer.backend_tokenizer.to_str())
        known = set(tokenizer.get_vocab())
        self.written_as = np.array([fallback_symbol(c, known) for c in range(len(SYMBOLS))], np.int16)
        self.falls_back = np.zeros(128, bool)
        self.falls_back[: len(SYMBOLS)] = self.written_as != np.arange(len(SYMBOLS))
        if self.table:
            number = {character: i for i, character in enumerate(self.table.characters)}
            character = np.full(128, -1, np.int16)
            character[: len(SYMBOLS)] = [number[SYMBOLS[c]] if c >= 0 else -1 for c in self.written_as]
            single_id = np.full(128, UNK, np.int32)
            single_id[BOUNDARY] = SEP
            self.symbol_tokens = SymbolTokens(character, single_id)
            one_each = len(self.table.merges.ids) == len(self.table.characters)  # every token is one symbol
            self.id_of_code = np.where(character >= 0, self.table.merges.ids[character], single_id) if one_each else None

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "DnaTokenizer":
        """The tokenizer of a model folder or a JSON file, or one that ships, by its name (``ref2vec``, ``snp2vec``, ...).

        Raises
        ------
        FileNotFoundError
            Naming the shipped ones, if it is none of these.
        ValueError
            If its special tokens have not the ids of this project.
        """
        return cls(_read(folder))

    @property
    def fallbacks(self) -> dict[str, str]:
        """Symbols that this vocabulary lacks, and what is written for them."""
        return {SYMBOLS[c]: SYMBOLS[w] if w >= 0 else "[UNK]" for c, w in enumerate(self.written_as) if c != w}

    def _encode(self, raw: Encoded, room: int) -> Tokens:
        if self.table and self.id_of_code is not None:
            ids, has_variant, offsets, n_cut = encode_symbols(raw.symbols, raw.offsets, self.id_of_code, room)
        elif self.table:
            ids, has_variant, offsets, n_cut = encode_windows(raw.symbols, raw.offsets, self.symbol_tokens, self.table.merges, room)
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


def _wrap(tokenizer: Any) -> Any:
    """A `transformers.PreTrainedTokenizerFast` of a `tokenizers.Tokenizer`, with the roles of the special tokens."""
    from transformers import PreTrainedTokenizerFast

    roles = {f"{t[1:-1].lower()}_token": t for t in SPECIAL_TOKENS}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles)


def _read(path: str | Path) -> Any:
    """A `transformers` tokenizer; see `DnaTokenizer.from_pretrained`."""
    shipped = ASSETS / "tokenizers"
    for candidate in (Path(path).expanduser(), shipped / str(path), shipped / f"{path}.json"):
        if candidate.is_dir():
            candidate = candidate / "tokenizer.json"
        if candidate.is_file():
            from tokenizers import Tokenizer

            tokenizer = _wrap(Tokenizer.from_file(str(candidate)))
            ids = tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS))
            if ids != list(range(5)):
                raise ValueError(f"{candidate}: special tokens {SPECIAL_TOKENS} have ids {ids}, expected 0 to 4")
            return tokenizer
    names = ", ".join(sorted(p.stem for p in shipped.iterdir()))
    raise FileNotFoundError(f"tokenizer {str(path)!r} is no file, no folder with tokenizer.json, and none of: {names}")


def _finish(tokenizer: Any) -> DnaTokenizer:
    """A new vocabulary with the special tokens and the templates of this project."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return DnaTokenizer(_wrap(tokenizer))


def train_bpe(sequences: Iterable[str], vocab_size: int, alphabet: Iterable[str] = (), max_token_length: int = 32) -> DnaTokenizer:
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


def single_base(alphabet: Iterable[str] = SYMBOLS) -> DnaTokenizer:
    """One token a symbol."""
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import Whitespace

    vocab = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    tokenizer = Tokenizer(BPE(vocab, [], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    return _finish(tokenizer)


def kmer(k: int) -> DnaTokenizer:
    """Non-overlapping k-mers of A, C, G, T; the end of a window is a shorter one. A k-mer with any other symbol is [UNK]."""
    from tokenizers import Regex, Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split

    words = ("".join(letters) for n in range(1, k + 1) for letters in product("ACGT", repeat=n))
    vocab = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *words])}
    tokenizer = Tokenizer(WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Split(Regex(f".{{1,{k}}}"), "isolated")
    return _finish(tokenizer)


def refuse_unknown(n_unknown: int, n_tokens: int, what: str) -> None:
    """Raise a ValueError if more than half of all tokens are [UNK]: this tokenizer is for other text."""
    if n_unknown > 0.5 * n_tokens:
        raise ValueError(
            f"{what}: {n_unknown:,} of {n_tokens:,} tokens are [UNK]: this tokenizer does not read nucleotides as they are written here"
        )


def symbols_for(representation: str) -> tuple[str, ...]:
    """The symbols that a representation can write, for the alphabet of a new tokenizer."""
    return SYMBOLS if representation == "biallele" else BASES
