"""The SNP-aware alphabet: what one locus can be written as, and its one-character spelling.

A locus is in one of eleven *states*: a base, a deleted base, or a base followed by an inserted sequence. A *symbol*
is one state, or the unordered pair of two different states. Everything in this folder handles symbols as ``uint8``
codes: 0-10 are the states in the order of `STATES`, 11-65 the pairs.

The characters are those of BMFM-DNA (arXiv 2507.05265), so that published vocabularies read our text; of the table's
two characters for a pair, the one whose state names stand in alphabetical order is used.
"""

import json
from itertools import combinations

import numpy as np

from bmfm.files import ASSETS

BASES = ("A", "G", "T", "C", "N")
STATES = (*BASES, "DEL", "AI", "GI", "TI", "CI", "NI")
N, DEL, INSERTED = 4, 5, 6  # code of N; code of a deleted base; code of "A followed by an insertion" (base + INSERTED)
VARIANT_BIT = np.uint8(0x80)  # set on a symbol that was written from a variant rather than from the reference
CODE_BITS = np.uint8(0x7F)  # the symbol without that bit; of `Reference.codes`, the base without its soft mask


def _build() -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    table = json.loads((ASSETS / "snp_alphabet.json").read_text())
    characters = [table[state] for state in STATES]
    pair = np.empty((len(STATES), len(STATES)), np.uint8)
    members = [(state, state) for state in range(len(STATES))]
    pair[np.diag_indices(len(STATES))] = np.arange(len(STATES))
    for first, second in combinations(range(len(STATES)), 2):
        pair[first, second] = pair[second, first] = len(characters)
        characters.append(table["_".join(sorted((STATES[first], STATES[second])))])
        members.append((first, second))
    return tuple(characters), pair, np.array(members, np.uint8)


SYMBOLS, PAIR, MEMBERS = _build()
"""`SYMBOLS[code]`: the character. `PAIR[s, t]`: code of the symbol for states s and t. `MEMBERS[code]`: its states."""


def symbol_name(code: int) -> str:
    """Name of a symbol in terms of its states, e.g. ``"A"`` or ``"A_G"``."""
    first, second = MEMBERS[code]
    return STATES[first] if first == second else "_".join(sorted((STATES[first], STATES[second])))


def _complements() -> np.ndarray:
    of_base = np.array([2, 3, 0, 1, 4], np.uint8)  # A<->T, G<->C, N
    of_state = np.concatenate([of_base, [DEL], of_base + INSERTED]).astype(np.uint8)
    return PAIR[of_state[MEMBERS[:, 0]], of_state[MEMBERS[:, 1]]]


COMPLEMENT = _complements()
"""`COMPLEMENT[code]`: complement of each symbol at its own locus. Insertions also change locus: see below."""

_CODE_OF = {ord(character): code for code, character in enumerate(SYMBOLS)}


def decode(symbols: np.ndarray) -> str:
    """Text of an array of symbol codes (any variant bits are ignored)."""
    return "".join(SYMBOLS[code] for code in (symbols & ~VARIANT_BIT).tolist())


def encode(text: str) -> np.ndarray:
    """Symbol codes, ``uint8`` [L], of text in the SNP-aware alphabet.

    Raises
    ------
    ValueError
        On a character that is not a symbol; names it and its 0-based position.
    """
    codes = np.fromiter((_CODE_OF.get(ord(c), 255) for c in text), np.uint8, len(text))
    if (bad := np.flatnonzero(codes == 255)).size:
        raise ValueError(
            f"character {text[bad[0]]!r} at position {bad[0]} is not in the SNP-aware alphabet; "
            "`read_text` reads lower case, and other characters as N"
        )
    return codes


IUPAC_AMBIGUOUS = "RYSWKMBDHV"


def base_table() -> np.ndarray:
    """256-entry table from FASTA bytes to state codes; lower case carries bit 7, whatever is no nucleotide is 255."""
    table = np.full(256, 255, np.uint8)
    for letters, code in (("A", 0), ("G", 1), ("TU", 2), ("C", 3), ("N" + IUPAC_AMBIGUOUS, N)):
        for letter in letters:
            table[ord(letter)] = code
            table[ord(letter.lower())] = code | 0x80
    return table


ALPHABETS = ("auto", "plain", "snp")


def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Of every character below 65,536 its code when read as plain and as SNP-aware text, ``uint8``; 255 for none."""
    plain, snp = np.full(1 << 16, 255, np.uint8), np.full(1 << 16, 255, np.uint8)
    for letters, code in (("A", 0), ("G", 1), ("TU", 2), ("C", 3), ("N", N)):
        for letter in letters + letters.lower():
            plain[ord(letter)] = code
    for code, symbol in enumerate(SYMBOLS):
        snp[ord(symbol)] = snp[ord(symbol.lower())] = code
    return plain, snp


_PLAIN, _SNP = _tables()


def read_text(text: str, alphabet: str = "auto") -> tuple[np.ndarray, int]:
    """Symbol codes of a sequence in either case, and how many of its characters have none and were read as N.

    The letters B, D, H, O, U and X mean one thing in nucleotide sequences (IUPAC codes, uracil, an unknown base) and
    another in the SNP-aware alphabet (an insertion after a base, a deleted base).

    Parameters
    ----------
    alphabet
        ``plain``: A, C, G, T and U (the same as T) are bases; all else, IUPAC codes among it, is read as N. ``snp``:
        characters are symbols of the SNP-aware alphabet, and those that are none are read as N. ``auto``: ``snp`` if
        the text holds a character that only the SNP-aware alphabet has (those of pairs), else ``plain``. A text that
        holds insertions or deletions, but no pair, must therefore be declared.

    Returns
    -------
    codes
        ``uint8`` [L].
    n_replaced
        Characters that are no symbol (nor N itself) and became N.
    """
    if alphabet not in ALPHABETS:
        raise ValueError(f"alphabet {alphabet!r} is unknown; choose from {', '.join(ALPHABETS)}")
    if text.isascii():
        characters = np.frombuffer(text.encode("ascii"), np.uint8)
        table = _SNP if alphabet == "snp" else _PLAIN
    else:
        characters = np.minimum(np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32), 0xFFFF)
        has_pairs = alphabet == "auto" and bool((_SNP[characters[characters > 127]] != 255).any())
        table = _SNP if alphabet == "snp" or has_pairs else _PLAIN
    codes = table[characters]
    unknown = codes == 255
    codes[unknown] = N
    return codes, int(unknown.sum())


def reverse_complement(symbols: np.ndarray) -> np.ndarray:
    """The same locus sequence read on the other strand, ``uint8`` [L] -> [L], variant bits cleared.

    A base, a pair and a deletion are complemented in place. An insertion stands between its base and the next one, so
    on the other strand it follows the *next* base's complement: the mark moves one locus to the right (over deleted
    loci) before the reversal. Two cases cannot be kept exactly, because a symbol says neither what lies outside the
    sequence nor which states of neighbouring heterozygous loci share a chromosome:

    - an insertion after the last base leaves the sequence;
    - a heterozygous insertion that moves to a heterozygous locus is given to the first of its bases in `STATES` order.

    Windows drawn by `representation` know both haplotypes and have neither limit.
    """
    states = MEMBERS[symbols & ~VARIANT_BIT]
    marked = states >= INSERTED
    bare = np.where(marked, states - INSERTED, states)
    moved = bare.copy()
    for locus in np.flatnonzero(marked.any(axis=1)):
        target = locus + 1
        while target < len(moved) and (bare[target] == DEL).all():
            target += 1
        if target == len(moved):
            continue
        carries = bare[target] != DEL
        if not marked[locus].all():
            carries = np.arange(2) == np.flatnonzero(carries)[0]
            if bare[target, 0] == bare[target, 1]:
                carries = np.array([False, True])
        moved[target] = np.where(carries, bare[target] + INSERTED, moved[target])
    return COMPLEMENT[PAIR[moved[:, 0], moved[:, 1]]][::-1]
