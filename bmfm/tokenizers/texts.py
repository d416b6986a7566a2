"""Sequences as text, before any tokenizer: what is no sequence is refused, and the rest is read as symbols."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from bmfm.genome.alphabet import CODE_BITS, COMPLEMENT, INSERTED, MEMBERS, read_text, reverse_complement
from bmfm.genome.representation import Encoded

BOUNDARY = np.uint8(0x7F)
"""Code between the two sequences of a pair (`join_pairs`), which tokenizers write as [SEP]; no symbol of the alphabet has it."""

MISSING = frozenset(
    "".join(word.split()).lower()
    for word in (
        *("", "-", "--", ".", "?", "NA", "N/A", "N.A.", "N.A", "#N/A", "#NA", "#N/A N/A", "<NA>", "NaN", "-NaN", "NIL", "\\N"),
        *("None", "NULL", "#NULL!", "ND", "N/D", "N.D.", "N.D", "not available", "not determined", "unknown", "unk", "missing"),
        *("1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN", "#VALUE!", "#REF!", "#NAME?", "#DIV/0!", "#NUM!"),
    )
)
"""How tables and programs write "no value", in lower case and without white space. No such text is a sequence in either
case, not even ``NA``, ``ND`` or ``NAN`` (bases, and an IUPAC code, otherwise); ``N`` and ``NN`` are sequences."""


def by_number(number: int) -> str:
    return f"sequence {number} (counted from 0)"


def check_texts(values: Iterable, where: Callable[[int], str] = by_number) -> list[str]:
    """The values as a list of texts without white space: line ends and gaps stand for no base, as in FASTA files.

    Raises
    ------
    ValueError
        If one is missing (None, NaN, empty, or spelled as in `MISSING`) or no text; says how many and names the first by
        ``where(number)``.
    """
    import pandas as pd

    texts = list(values)
    missing, others = [], []
    for number, value in enumerate(texts):
        if isinstance(value, str):
            texts[number] = "".join(value.split())
            if len(texts[number]) < 20 and texts[number].lower() in MISSING:
                missing.append(number)
        elif pd.api.types.is_scalar(value) and pd.isna(value):
            missing.append(number)
        else:
            others.append(number)
    if missing:
        raise ValueError(f"{len(missing):,} of {len(texts):,} sequences are missing: {_listed(missing, texts, where)}. Remove them")
    if others:
        raise ValueError(
            f"{len(others):,} of {len(texts):,} sequences are no text: {_listed(others, texts, where)}. Give the letters as str, or name "
            "another column"
        )
    return texts


def _listed(numbers: list[int], values: list, where: Callable[[int], str]) -> str:
    said = "; ".join(f"{where(n)} is {str(values[n])[:20]!r}" for n in numbers[:5])
    return said + (f"; and {len(numbers) - 5:,} more" if len(numbers) > 5 else "")


def read_texts(texts: Sequence[str], alphabet: str = "auto", where: Callable[[int], str] = by_number) -> tuple[list[np.ndarray], int]:
    """Symbol codes of each text, and how many characters were read as N; each text alone decides how it is read.

    Parameters
    ----------
    alphabet
        As in `genome.alphabet.read_text`.

    Raises
    ------
    ValueError
        If more than half of a text's characters are no A, C, G, T, U or N (nor a symbol, where it is SNP-aware), as in
        proteins.
    """
    symbols, n_replaced = [], 0
    for number, text in enumerate(texts):
        codes, n = read_text(text, alphabet)
        if 2 * n > len(text):
            raise ValueError(
                f"{where(number)}: {n:,} of {len(text):,} characters are no nucleotide ({text[:20]!r}): this model reads DNA or RNA; "
                "is it a protein, a name, or a file that was meant?"
            )
        symbols.append(codes)
        n_replaced += n
    return symbols, n_replaced


def as_encoded(symbols: Sequence[np.ndarray]) -> Encoded:
    """Symbol codes of each sequence as one batch, what tokenizers encode."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(s) for s in symbols], dtype=np.int64)])
    return Encoded(np.concatenate(symbols) if symbols else np.empty(0, np.uint8), offsets)


def join_pairs(first: Encoded, second: Encoded) -> Encoded:
    """Pairs of sequences as one batch; tokenizers give ``A [SEP] B`` for each."""
    if len(first) != len(second):
        raise ValueError(f"{len(first):,} sequences cannot be paired with {len(second):,}")
    boundary = np.array([BOUNDARY])
    return as_encoded([np.concatenate([first[b], boundary, second[b]]) for b in range(len(first))])


def split_at_boundaries(encoded: Encoded) -> tuple[list[np.ndarray], np.ndarray]:
    """Symbol codes of each single sequence (a pair has two), and the number of the example that it belongs to."""
    parts: list[np.ndarray] = []
    owners: list[int] = []
    for b in range(len(encoded)):
        pieces = np.split(encoded[b], np.flatnonzero(encoded[b] == BOUNDARY))
        parts += [pieces[0], *(piece[1:] for piece in pieces[1:])]
        owners += [b] * len(pieces)
    return parts, np.array(owners, np.int64)


def other_strands(encoded: Encoded) -> Encoded:
    """The other strand of each sequence, of pairs of each of the two, which stay in their order; variant bits are cleared.

    See `genome.alphabet.reverse_complement` for symbols with insertions, which alone take more than a look-up.
    """
    symbols = encoded.symbols & CODE_BITS
    is_boundary = symbols == BOUNDARY
    of_code = np.full(128, BOUNDARY, np.uint8)
    of_code[: len(COMPLEMENT)] = COMPLEMENT
    # pieces without boundaries, each of which is read from its end
    edges = np.unique(np.concatenate([encoded.offsets, np.flatnonzero(is_boundary), np.flatnonzero(is_boundary) + 1]))
    piece = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    result = of_code[symbols[edges[piece] + edges[piece + 1] - 1 - np.arange(len(symbols))]]
    with_insertion = np.flatnonzero((MEMBERS >= INSERTED).any(axis=1))
    for number in np.unique(piece[np.isin(symbols, with_insertion)]):
        first, end = edges[number], edges[number + 1]
        result[first:end] = reverse_complement(symbols[first:end])
    return Encoded(result, encoded.offsets)
