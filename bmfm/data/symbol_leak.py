"""Whether classes can be told from how variants were written into their sequences.

A classifier that sees only which variant symbols occur in a sequence may tell classes apart as far as real classes differ in how many
variants of which kind there are. If it tells them apart better than one that sees the known variants at the same places, then the
writing gives the class away: as where one class has real variants and the other random ones, or where sequences of one class are found
in the genome more often.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bmfm.genome.alphabet import CODE_BITS, COMPLEMENT, DEL, INSERTED, PAIR, SYMBOLS, N
from bmfm.genome.copies import index_edits
from bmfm.genome.personal import touching_edits
from bmfm.genome.placement import Placements
from bmfm.genome.reference import Reference
from bmfm.genome.variants import VariantTable

MARGIN, DECIDED = 0.01, 0.05
"""Differences of areas under the ROC curve: what is no leak yet, and what must be excluded before it is said that there is none."""

_MOST, _FOLDS, _DRAWS = 50_000, 5, 200


@dataclass(frozen=True)
class SymbolLeak:
    """How well classes are told apart.

    Attributes
    ----------
    by_symbols
        Area under the ROC curve of a logistic regression on which variant symbols occur, by cross-validation; of several classes, the
        mean over them, each against the others.
    by_variants
        The same on the known variants at the places of the sequences, of those that are placed.
    low, high
        95% bootstrap interval of the difference.
    n, n_placed
        Sequences that were looked at, and those of them that are placed.
    """

    by_symbols: float
    by_variants: float
    low: float
    high: float
    n: int
    n_placed: int

    @property
    def is_leak(self) -> bool:
        """Whether symbols tell more than the known variants do: the interval lies above `MARGIN`."""
        return self.low > MARGIN

    def sentence(self) -> str:
        """In words."""
        if self.is_leak:
            verdict = "LEAK: the classes can be told from how variants were written"
        elif self.high < DECIDED:
            verdict = "no leak: the classes cannot be told from how variants were written"
        else:
            verdict = "undecided: the sequences are too few to say whether the classes can be told from how variants were written"
        return (
            f"{verdict}. A classifier that sees which variant symbols occur has an AUROC of {self.by_symbols:.3f}, one that sees the known variants "
            f"at the same places {self.by_variants:.3f} (difference {self.by_symbols - self.by_variants:+.3f}, 95% interval {self.low:+.3f} to "
            f"{self.high:+.3f}; {self.n:,} sequences, {self.n_placed:,} of them placed)"
        )


def symbol_presence(symbols: Sequence[np.ndarray]) -> np.ndarray:
    """Which symbols other than plain bases occur in each sequence, float32 [n, symbols]."""
    present = np.zeros((len(symbols), len(SYMBOLS)), np.float32)
    for row, codes in zip(present, symbols, strict=True):
        row[codes & CODE_BITS] = 1
    return present[:, N + 1 :]


def known_variants(placements: Placements, reference: Reference, variants: VariantTable, always: bool, seed: int = 0) -> np.ndarray:
    """Which symbols would name the known variants at the place of each sequence, float32 [n, symbols]; none of those not placed.

    Read from the table of variants, not from what was written.

    Parameters
    ----------
    always
        Take every variant; otherwise, each is drawn by the probability that two copies of the genome differ there.
    """
    edits, rng = index_edits(variants), np.random.default_rng(seed)
    present = np.zeros((len(placements.start), len(SYMBOLS)), np.float32)
    for number in np.flatnonzero(placements.is_placed).tolist():
        start, end, reverse = int(placements.start[number]), int(placements.end[number]), bool(placements.reverse[number])
        inside = touching_edits(edits, start, end)
        frequency = (edits.high[inside] - edits.low[inside]).astype(float)
        is_taken = always | (rng.random(len(inside)) < 2 * frequency * (1 - frequency))
        for e in inside[is_taken].tolist():
            present[number, _symbols_of(edits, e, start, end, reverse, reference)] = 1
    return present[:, N + 1 :]


def _symbols_of(edits, e: int, start: int, end: int, reverse: bool, reference: Reference) -> list[int]:
    """Pairs of the reference's state and that of an edit, at the loci of a window, as they are read."""
    first, last = int(edits.start[e]), int(edits.end[e])
    alt = edits.alt[edits.alt_start[e] : edits.alt_start[e + 1]]
    symbols = []
    for locus in range(max(first, start), min(last, end)):
        base = int(reference.codes[locus] & CODE_BITS)
        state = int(alt[locus - first]) if locus - first < len(alt) else DEL
        symbols.append(int(COMPLEMENT[PAIR[base, state]] if reverse else PAIR[base, state]))
    if len(alt) > last - first:
        locus = last if reverse else last - 1
        if start <= locus < end:
            base = int(COMPLEMENT[reference.codes[locus] & CODE_BITS] if reverse else reference.codes[locus] & CODE_BITS)
            symbols.append(int(PAIR[base, base + INSERTED]))
    return symbols


def measure_leak(
    classes: np.ndarray, by_symbols: np.ndarray, by_variants: np.ndarray, placed: np.ndarray, seed: int = 0
) -> SymbolLeak | None:
    """Compare what symbols and known variants tell of the classes; None where a class has too few sequences for cross-validation.

    Parameters
    ----------
    classes : int64 [n]
        Classes with fewer than five sequences, or fewer than five that are placed, are left out.
    by_symbols, by_variants : float [n, features]
        See `symbol_presence` and `known_variants`.
    placed : bool [n]
        Which sequences have a place.
    """
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(len(classes))[:_MOST])
    counts = np.bincount(classes[rows][placed[rows]], minlength=int(classes.max()) + 1)
    rows = rows[counts[classes[rows]] >= _FOLDS]
    if len(np.unique(classes[rows])) < 2:
        return None
    _, y = np.unique(classes[rows], return_inverse=True)
    is_placed = placed[rows]
    symbols = _scores(by_symbols[rows], y, seed)
    known = _scores(by_variants[rows][is_placed], y[is_placed], seed)
    place_of = np.cumsum(is_placed) - 1
    differences = []
    for _ in range(_DRAWS):
        drawn = rng.integers(0, len(rows), len(rows))
        with_place = drawn[is_placed[drawn]]
        differences.append(_auroc(symbols[drawn], y[drawn]) - _auroc(known[place_of[with_place]], y[with_place]))
    low, high = np.nanquantile(differences, [0.025, 0.975])
    return SymbolLeak(_auroc(symbols, y), _auroc(known, y[is_placed]), float(low), float(high), len(rows), int(is_placed.sum()))


def _scores(features: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Probabilities of the classes [n, C], each by a model that has not seen the sequence."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return cross_val_predict(model, features, y, cv=folds, method="predict_proba")


def _auroc(scores: np.ndarray, y: np.ndarray) -> float:
    """Area under the ROC curve, of several classes the mean over them, each against the others."""
    from scipy.stats import rankdata

    areas = []
    for number in range(1 if scores.shape[1] == 2 else 0, scores.shape[1]):
        positive = y == number
        n = int(positive.sum())
        if 0 < n < len(y):
            areas.append((rankdata(scores[:, number])[positive].sum() - n * (n + 1) / 2) / (n * (len(y) - n)))
    return float(np.mean(areas)) if areas else float("nan")
