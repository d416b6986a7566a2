"""Allele rules: what is asked of a masked model so that the answers say how much less, or more, it expects ALT than REF.

Every rule is a function ``(windows, vocabulary) -> Questions`` on one strand. A score is log p(ALT) - log p(REF) in nats: negative where ALT is
less expected. An allele that a rule says nothing of has no entry in the questions.

========== ==================================================================================================================
base       Vocabularies of single bases: the changed bases are hidden, all of them together, and asked for among A, C, G and T; the sum of
           the differences. Alleles of equal length.
kmer       Vocabularies of k-mers that follow one another: the k-mer with the locus in its middle is hidden. SNVs.
span       The token of the window with REF that covers the locus is hidden, and the tokens that spell REF and ALT over its bases are
           compared. Both must be in the vocabulary. Alleles of equal length within one token.
base_forced The locus alone is hidden, in a token of its own, which is not how the text around would be cut. SNVs.
multi      The mean over `base_forced` and all spans of 2 to 6 bases around the locus whose four spellings are tokens. SNVs.
pll        Each window is cut as its own text; over the tokens between the nearest common cuts around the change, outside of which both have
           the same tokens, the sum of the log-probabilities of each, hidden alone: pseudo-log-likelihoods (Salazar et al., ACL 2020).
           All alleles.
pll_cal    `pll` less what a linear model fitted to random variants says of the difference in tokens, in their frequency and in length.
           All alleles; see `calibration`.
likelihood Causal models: the difference of the log-likelihoods of the two windows. All alleles.
auto       Alleles of equal length: base or kmer where the vocabulary is of that kind, else pll, which is nearest to the truth where that is known
           (benchmarks/allele_rules.py); other alleles: pll_cal; of a causal model, likelihood.
uniform    pll_cal, or likelihood, for all alleles.
========== ==================================================================================================================
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bmfm.genome.alphabet import BASES, PAIR, SYMBOLS, decode
from bmfm.special import MASK, SPECIAL_TOKENS
from bmfm.tokenizers.base import Tokens
from bmfm.tokenizers.sequences import SequenceTokenizer
from bmfm.variants.questions import Questions, hide
from bmfm.variants.windows import AlleleWindows

LONGEST_SPAN = 6
"""Bases of the longest span of `multi`."""


class Vocabulary:
    """The tokens of a tokenizer of DNA by what they spell.

    Attributes
    ----------
    kind
        ``base``, ``kmer`` (tokens of k bases that follow one another), ``overlapping`` (one such token for each base) or ``bpe`` (tokens of any
        length).
    k
        Bases of the longest token of plain bases.
    """

    def __init__(self, tokenizer: SequenceTokenizer):
        self.tokenizer = tokenizer
        self.ids = {text: i for i, text in enumerate(tokenizer.spellings) if i >= len(SPECIAL_TOKENS) and text}
        lengths = {len(text) for text in self.ids if set(text) <= set("ACGT")}
        if not lengths:
            raise ValueError("no token of this tokenizer spells plain bases (A, C, G, T): variants cannot be scored with it")
        self.k = max(lengths)
        many = sum(len(text) == self.k and set(text) <= set("ACGT") for text in self.ids)
        self.kind = "overlapping" if tokenizer.overlapping else "base" if self.k == 1 else "kmer" if many == 4**self.k else "bpe"
        self.of_base = np.array([self.ids.get(base, -1) for base in BASES])

    def id(self, symbols: np.ndarray) -> int:
        """The token that spells some symbols; -1 where there is none."""
        return self.ids.get(decode(symbols), -1)


@dataclass
class _Entries:
    """Hidden places and the entries of `Questions`, while they are collected one by one."""

    window: list[int]
    start: list[int]
    end: list[int]
    candidates: list[tuple[int, ...]]
    allele: list[int]
    weight: list[float]

    @classmethod
    def empty(cls) -> "_Entries":
        return cls([], [], [], [], [], [])

    def add(self, allele: int, window: int, start: int, end: int, tokens: tuple[int, int]) -> None:
        """Ask for the tokens of REF and ALT over a span of a window."""
        self.window.append(window)
        self.start.append(start)
        self.end.append(end)
        self.candidates.append(tokens)
        self.allele.append(allele)
        self.weight.append(1.0)


def base(windows: AlleleWindows, vocabulary: Vocabulary) -> Questions:
    """See the module's text."""
    alleles = windows.alleles
    rows, row_of = _distinct(windows, np.flatnonzero(alleles.n_ref == alleles.n_alt))
    chosen = windows.take(rows)
    tokens, first = hide(vocabulary.tokenizer, chosen.ref, chosen.at_ref, chosen.at_ref + chosen.alleles.n_ref, chosen.alleles.n_ref)
    n = chosen.alleles.n_ref
    row = np.repeat(np.arange(len(rows)), n)
    first_question = np.cumsum(n) - n
    place = np.arange(len(row)) - np.repeat(first_question, n) + first[row]
    ids = np.broadcast_to(vocabulary.of_base[:4], (len(row), 4)).astype(np.int64)
    allele = np.repeat(np.arange(len(windows)), np.where(row_of >= 0, alleles.n_ref, 0))
    begins = np.cumsum(np.bincount(allele, minlength=len(windows))) - np.bincount(allele, minlength=len(windows))
    within = np.arange(len(allele)) - begins[allele]
    question = first_question[row_of[allele]] + within
    ref = windows.ref.symbols[windows.ref.offsets[allele] + windows.at_ref[allele] + within]
    alt = windows.alt_symbols(allele, within)
    changes = np.flatnonzero(ref != alt)
    allele, question, ref, alt = allele[changes], question[changes], ref[changes], alt[changes]
    return Questions(
        tokens, row, place, ids, np.tile(allele, 2), np.tile(question, 2), np.concatenate([alt, ref]).astype(np.int64),
        np.repeat([1.0, -1.0], len(allele)), renormalise=True,
    )  # fmt: skip


def _distinct(windows: AlleleWindows, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of some alleles those with a window and changed bases of their own, and for each allele the number of its like; -1 for others."""
    columns = (windows.origin, windows.width, windows.at_ref, windows.alleles.n_ref)
    keys = np.stack([column[numbers] for column in columns], 1)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    row_of = np.full(len(windows), -1)
    row_of[numbers] = inverse.reshape(-1)
    return numbers[first], row_of


def kmer(windows: AlleleWindows, vocabulary: Vocabulary) -> Questions:
    """See the module's text."""
    entries = _Entries.empty()
    for a in _snvs(windows):
        _add_span(entries, windows, vocabulary, a, int(windows.at_ref[a]) - vocabulary.k // 2, vocabulary.k)
    return _questions(windows, vocabulary, entries)


def span(windows: AlleleWindows, vocabulary: Vocabulary) -> Questions:
    """See the module's text."""
    entries = _Entries.empty()
    tokens = vocabulary.tokenizer.encode(windows.ref)
    for a in np.flatnonzero(windows.alleles.n_ref == windows.alleles.n_alt).tolist():
        spans = vocabulary.tokenizer.spans(tokens[a], int(windows.width[a]))
        start, end = spans[np.searchsorted(spans[:, 1], windows.at_ref[a], "right")]
        if windows.at_ref[a] + windows.alleles.n_ref[a] <= end:
            _add_span(entries, windows, vocabulary, a, int(start), int(end - start))
    return _questions(windows, vocabulary, entries)


def base_forced(windows: AlleleWindows, vocabulary: Vocabulary) -> Questions:
    """See the module's text."""
    entries = _Entries.empty()
    for a in _snvs(windows):
        _add_span(entries, windows, vocabulary, a, int(windows.at_ref[a]), 1)
    return _questions(windows, vocabulary, entries)


def multi(windows: AlleleWindows, vocabulary: Vocabulary) -> Questions:
    """See the module's text."""
    entries = _Entries.empty()
    for a in _snvs(windows):
        at, first = int(windows.at_ref[a]), len(entries.allele)
        _add_span(entries, windows, vocabulary, a, at, 1)
        symbols = windows.ref[a]
        for length in range(2, LONGEST_SPAN + 1):
            for start in range(max(0, at - length + 1), min(at, len(symbols) - length) + 1):
                if all(vocabulary.id(_with(symbols[start : start + length], at - start, code)) >= 0 for code in range(4)):
                    _add_span(entries, windows, vocabulary, a, start, length)
        n = len(entries.allele) - first
        entries.weight[first:] = [1 / n] * n
    return _questions(windows, vocabulary, entries)


def pll(windows: AlleleWindows, vocabulary: Vocabulary) -> Questions:
    """See the module's text."""
    return pll_questions(cut_pairs(windows, vocabulary))


def pll_questions(cut: "CutPairs") -> Questions:
    """One row for each token that differs, on each of the two sides."""
    pieces: list[np.ndarray] = []
    places, wanted, allele, weight = [], [], [], []
    for a in range(len(cut.ref)):
        for tokens, (first, end), sign in ((cut.ref[a], cut.ref_range[a], -1.0), (cut.alt[a], cut.alt_range[a], 1.0)):
            for place in range(first, end):
                hidden = tokens.copy()
                hidden[place] = MASK
                pieces.append(hidden)
                places.append(place)
                wanted.append(int(tokens[place]))
                allele.append(a)
                weight.append(sign)
    offsets = np.concatenate([[0], np.cumsum([len(p) for p in pieces])]).astype(np.int64)
    ids = np.concatenate(pieces or [np.empty(0, np.int32)])
    fields = {"has_variant": np.zeros(len(ids), bool)} if "has_variant" in cut.ref.fields else {}
    numbers = np.arange(len(pieces))
    return Questions(
        Tokens(ids, offsets, fields), numbers, np.array(places, np.int64), np.array(wanted, np.int64).reshape(-1, 1),
        np.array(allele, np.int64), numbers, np.zeros(len(pieces), np.int64), np.array(weight),
    )  # fmt: skip


@dataclass
class CutPairs:
    """Both windows of A alleles as tokens, and the ranges of tokens that differ: outside of them both have the same.

    Attributes
    ----------
    ref, alt
        Tokens of the windows.
    ref_range, alt_range : int64 [A, 2]
        Half-open ranges of their tokens.
    """

    ref: Tokens
    alt: Tokens
    ref_range: np.ndarray
    alt_range: np.ndarray

    @property
    def n_tokens(self) -> np.ndarray:
        """How many tokens differ with REF and with ALT [2, A]."""
        return np.stack([np.diff(self.ref_range)[:, 0], np.diff(self.alt_range)[:, 0]])

    def summed(self, of_token: np.ndarray) -> np.ndarray:
        """Sums of a value of each token id [V] over the tokens that differ, of ALT less those of REF [A]."""
        sums = [
            [of_token[tokens[a][first:end]].sum() for a, (first, end) in enumerate(ranges.tolist())]
            for tokens, ranges in ((self.ref, self.ref_range), (self.alt, self.alt_range))
        ]
        return np.array(sums[1]) - np.array(sums[0])


def cut_pairs(windows: AlleleWindows, vocabulary: Vocabulary) -> CutPairs:
    """Both windows as tokens, and which of these differ, see `CutPairs`."""
    tokenizer = vocabulary.tokenizer
    ref, alt = tokenizer.encode(windows.ref), tokenizer.encode(windows.alt)
    ranges = np.zeros((2, len(windows), 2), np.int64)
    for a in range(len(windows)):
        width = int(windows.width[a])
        of_ref, of_alt = tokenizer.spans(ref[a], width), tokenizer.spans(alt[a], width)
        ends = (windows.right_ref[a], windows.right_alt[a])
        left = _same_to(ref[a], alt[a], windows.at_ref[a] - of_ref[:, 0], windows.at_alt[a] - of_alt[:, 0])
        after = [(of[:, 1] - (width - end))[::-1] for of, end in zip((of_ref, of_alt), ends, strict=True)]
        right = _same_to(ref[a][::-1], alt[a][::-1], *after)
        for which, tokens in enumerate((ref[a], alt[a])):
            first, last = left[which], len(tokens) - right[which]
            ranges[which, a] = first, max(first, last)
    return CutPairs(ref, alt, ranges[0], ranges[1])


def _same_to(ref: np.ndarray, alt: np.ndarray, ref_distance: np.ndarray, alt_distance: np.ndarray) -> tuple[int, int]:
    """How many tokens of each window, from its far end on towards the change, are the same from the first common cut on.

    The distances are those of each token's far cut from the change, falling. Returns the numbers of tokens up to the nearest common cut.
    """
    common = np.intersect1d(ref_distance[ref_distance >= 0], alt_distance[alt_distance >= 0])
    if not len(common):
        return 0, 0
    i, j = (int(np.flatnonzero(d == common[-1])[0]) for d in (ref_distance, alt_distance))
    best = None
    while i < len(ref) and j < len(alt):
        near_ref = ref_distance[i + 1] if i + 1 < len(ref) else -1
        near_alt = alt_distance[j + 1] if j + 1 < len(alt) else -1
        if ref[i] != alt[j] or near_ref != near_alt or near_ref < 0:
            break
        i, j = i + 1, j + 1
        best = (i, j)
    return best or (i, j)


def _snvs(windows: AlleleWindows) -> list[int]:
    return np.flatnonzero((windows.alleles.n_ref == 1) & (windows.alleles.n_alt == 1)).tolist()


def _with(symbols: np.ndarray, at: int, code: int) -> np.ndarray:
    changed = symbols.copy()
    changed[at] = code
    return changed


def _add_span(entries: _Entries, windows: AlleleWindows, vocabulary: Vocabulary, a: int, start: int, length: int) -> None:
    """Add the question about a span of one allele's window with REF; nothing where the vocabulary lacks a spelling."""
    symbols = windows.ref[a][start : start + length]
    changed = symbols.copy()
    at = int(windows.at_ref[a]) - start
    changed[at : at + int(windows.alleles.n_alt[a])] = windows.alt_bases_of(a)
    ref, alt = vocabulary.id(symbols), vocabulary.id(changed)
    if start >= 0 and ref >= 0 and alt >= 0:
        entries.add(a, a, start, start + length, (ref, alt))


def _questions(windows: AlleleWindows, vocabulary: Vocabulary, entries: _Entries) -> Questions:
    """Questions about spans, each of which is asked once whatever alleles it concerns."""
    window, start, end = (np.array(values, np.int64) for values in (entries.window, entries.start, entries.end))
    genome = np.stack([windows.origin[window], windows.width[window], start, end], 1)
    _, first, inverse = np.unique(genome, axis=0, return_index=True, return_inverse=True)
    inverse = inverse.reshape(-1)
    chosen = windows.take(window[first])
    tokens, place = hide(vocabulary.tokenizer, chosen.ref, start[first], end[first], np.ones(len(first), np.int64))
    asked: list[list[int]] = [[] for _ in first]
    columns = np.zeros((len(entries.allele), 2), np.int64)
    for e, (question, pair) in enumerate(zip(inverse, entries.candidates, strict=True)):
        for c, token in enumerate(pair):
            if token not in asked[question]:
                asked[question].append(token)
            columns[e, c] = asked[question].index(token)
    candidates = np.full((len(first), max(map(len, asked), default=1)), -1, np.int64)
    for q, ids in enumerate(asked):
        candidates[q, : len(ids)] = ids
    weight = np.array(entries.weight)
    return Questions(
        tokens, np.arange(len(first)), place, candidates, np.tile(np.array(entries.allele, np.int64), 2), np.tile(inverse, 2),
        np.concatenate([columns[:, 1], columns[:, 0]]), np.concatenate([weight, -weight]),
    )  # fmt: skip


def polymorphism(windows: AlleleWindows, vocabulary: Vocabulary) -> Questions | None:
    """Of SNVs, how much more a model of pair symbols expects REF and ALT both than REF alone, at the hidden locus; None where the vocabulary
    has no pair symbols.

    It says where people differ, not what harms.
    """
    pairs = [vocabulary.ids.get(SYMBOLS[PAIR[i, j]], -1) for i in range(4) for j in range(i)]
    if max(pairs) < 0:
        return None
    entries = _Entries.empty()
    for a in _snvs(windows):
        at = int(windows.at_ref[a])
        ref, alt = int(windows.ref[a][at]), int(windows.alt_bases_of(a)[0])
        both = vocabulary.ids.get(SYMBOLS[PAIR[ref, alt]], -1)
        if both >= 0 and vocabulary.of_base[ref] >= 0:
            entries.add(a, a, at, at + 1, (int(vocabulary.of_base[ref]), both))
    return _questions(windows, vocabulary, entries)


RULES: dict[str, Callable[[AlleleWindows, Vocabulary], Questions]] = {
    "base": base, "kmer": kmer, "span": span, "base_forced": base_forced, "multi": multi, "pll": pll,
}  # fmt: skip
"""Rules of masked models by name; `pll_cal` is `pll`, calibrated."""
