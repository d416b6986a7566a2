"""A tokenizer of DNA: purines and pyrimidines, one token a base."""

import json
from pathlib import Path
from typing import Self

import numpy as np

from bmfm.genome.alphabet import BASES, MEMBERS, SYMBOLS
from bmfm.genome.representation import Encoded
from bmfm.special import SPECIAL_TOKENS, UNK
from bmfm.tokenizers.base import Tokens
from bmfm.tokenizers.sequences import SequenceTokenizer, join_parts
from bmfm.tokenizers.texts import split_at_boundaries

FILE = "purine_tokenizer.json"


class PurineTokenizer(SequenceTokenizer):
    """A and G are purines, C and T pyrimidines; two states of a locus that differ in that, and N, are [UNK].

    Parameters
    ----------
    purine, pyrimidine
        Names of the two tokens.
    """

    def __init__(self, purine: str = "R", pyrimidine: str = "Y"):
        self.letters = [purine, pyrimidine]
        self.id_of_symbol = np.full(128, UNK, np.int32)
        for code in range(len(SYMBOLS)):
            classes = {"AG".count(BASES[s]) for s in MEMBERS[code] if s < 4}
            if len(classes) == 1 and all(s < 4 for s in MEMBERS[code]):
                self.id_of_symbol[code] = len(SPECIAL_TOKENS) + 1 - classes.pop()

    @property
    def names(self) -> list[str]:
        return [*SPECIAL_TOKENS, *self.letters]

    def __len__(self) -> int:
        return len(self.names)

    def _encode(self, raw: Encoded, room: int) -> Tokens:
        parts, owners = split_at_boundaries(raw)
        all_ids, marks = [self.id_of_symbol[part & 0x7F] for part in parts], [part > 127 for part in parts]
        ids, has_variant, offsets, n_cut = join_parts(all_ids, marks, owners, len(raw), room)
        counts = {"sequences": len(raw), "tokens": len(ids), "truncated_sequences": n_cut, "unknown_tokens": int((ids == UNK).sum())}
        return Tokens(ids, offsets, {"has_variant": has_variant}, counts=counts)

    def save_pretrained(self, folder: str | Path) -> None:
        (Path(folder) / FILE).write_text(json.dumps(self.letters))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        return cls(*json.loads((Path(folder) / FILE).read_text()))
