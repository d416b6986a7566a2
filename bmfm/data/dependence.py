"""What labels of sequences depend on: the strand that is given, as those of promoters do, which have the direction of transcription; and the
place in the sequence, where all are cut out around something, as a start of transcription."""

from dataclasses import dataclass
from functools import cached_property

import numba
import numpy as np

from bmfm.genome.alphabet import CODE_BITS
from bmfm.genome.kmers import kmer_counts, reverse_complements
from bmfm.genome.representation import Encoded

K = 4
FEWEST_VALIDATION = 20
MOST_EXAMPLES, MOST_SYMBOLS = (5000, 2000), 4096
"""More training and validation examples are not looked at, nor what stands further on in a long sequence."""


@dataclass(frozen=True)
class Gain:
    """By how much a simple model predicts validation labels better with more to see.

    Attributes
    ----------
    loss
        Mean difference of losses: nats (`classification`), or shares of the variance (numbers).
    error
        Its standard error over validation examples.
    n
        Validation examples.
    """

    loss: float = 0.0
    error: float = 0.0
    n: int = 0

    @property
    def is_found(self) -> bool:
        """Whether labels depend on what was added: by more than the standard error, and of so many examples that there is one."""
        return self.n >= FEWEST_VALIDATION and self.loss > self.error

    def __str__(self) -> str:
        if self.n < FEWEST_VALIDATION:
            return f"not tested, {self.n} validation examples have a label that simple models can learn"
        return f"the validation loss of a linear model changes by {-self.loss:+.4f} +-{self.error:.4f}"


@dataclass(frozen=True)
class Known:
    """Sequences with labels that are known.

    Parameters
    ----------
    sequences
        All n of them; of pairs both, with a boundary between.
    labels
        [n], or [n, C] of several at once.
    kind
        ``classification`` (logistic regression, cross-entropy); ``regression`` and ``multilabel`` (ridge regression, squared error over the
        variance, mean over labels).
    train, validation
        Numbers of the examples whose labels are known.
    """

    sequences: Encoded
    labels: np.ndarray
    kind: str
    train: np.ndarray
    validation: np.ndarray

    @cached_property
    def rows(self) -> list[np.ndarray]:
        """Those that are looked at, of training and of validation."""
        rng, parts = np.random.default_rng(0), (self.train, self.validation)
        return [np.sort(rng.permutation(part)[:most]) for part, most in zip(parts, MOST_EXAMPLES, strict=True)]

    @cached_property
    def kmers(self) -> list[np.ndarray]:
        """How often each of them has each k-mer."""
        return [np.stack([kmer_counts(self.sequences[row][:MOST_SYMBOLS], K) for row in rows]) for rows in self.rows]

    def bases(self, length: int) -> list[np.ndarray]:
        """Which of the four bases stands at each of the first places, ``float32`` [m, length * 4], of length 1."""
        symbols, offsets = self.sequences.symbols, self.sequences.offsets
        return [_one_hot(symbols, offsets[rows], offsets[rows + 1], length) / np.float32(length**0.5) for rows in self.rows]

    def gain(self, less: list[np.ndarray], more: list[np.ndarray]) -> Gain:
        """What features [m, F] of training and validation gain over others."""
        losses = _cross_entropies if self.kind == "classification" else _squared_errors
        labels = [self.labels[rows] for rows in self.rows]
        gains = losses(*less, *labels) - losses(*more, *labels)
        if len(gains) < 2:
            return Gain(n=len(gains))
        return Gain(float(gains.mean()), float(gains.std(ddof=1) / len(gains) ** 0.5), len(gains))


def strand_gain(known: Known) -> Gain:
    """Whether the strand that is given says more of labels than both do.

    Two linear models are fitted to k-mers, one of which cannot tell a k-mer from its reverse complement: half of its features are the other
    half, and it is the better one where nothing depends on the strand. Which k-mers a sequence has is all that they see. With few examples
    both learn little, and the answer is no.
    """
    if not all(map(len, known.rows)):
        return Gain()
    both = [counts + counts[:, reverse_complements(K)] for counts in known.kmers]
    return known.gain([_scaled(counts) for counts in both], [_scaled(counts) for counts in known.kmers])


def place_gain(known: Known, length: int) -> Gain:
    """Whether labels depend on which base stands where, counted from the beginning of the sequence, beside the k-mers that it has.

    Parameters
    ----------
    length
        Places that are looked at.
    """
    if not all(map(len, known.rows)):
        return Gain()
    kmers = [_scaled(counts) for counts in known.kmers]
    return known.gain(kmers, [np.concatenate(both, 1) for both in zip(kmers, known.bases(length), strict=True)])


@numba.njit(cache=True)
def _one_hot(symbols, starts, ends, length):
    """[n, length * 4]: 1 for the base that stands at a place, if any of the four does."""
    found = np.zeros((len(starts), length * 4), np.float32)
    for row in range(len(starts)):
        for place in range(min(length, ends[row] - starts[row])):
            base = symbols[starts[row] + place] & CODE_BITS
            if base <= 3:
                found[row, place * 4 + base] = 1
    return found


def _scaled(counts: np.ndarray) -> np.ndarray:
    """Roots of the counts, of length 1."""
    roots = np.sqrt(counts)
    return roots / np.maximum(np.linalg.norm(roots, axis=1, keepdims=True), 1e-9)


def _cross_entropies(train: np.ndarray, validation: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of the validation examples whose class is in training; of none where that is one class."""
    from sklearn.linear_model import LogisticRegression

    known = np.isin(truth, labels)
    if len(np.unique(labels)) < 2 or not known.any():
        return np.empty(0)
    model = LogisticRegression(max_iter=200).fit(train, labels)
    columns = np.searchsorted(model.classes_, truth[known])
    return -np.log(np.maximum(model.predict_proba(validation[known])[np.arange(len(columns)), columns], 1e-9))


def _squared_errors(train: np.ndarray, validation: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Over the variance of the training labels, mean over several."""
    from sklearn.linear_model import Ridge

    errors = (Ridge(1.0).fit(train, labels).predict(validation) - truth) ** 2 / np.maximum(labels.var(0), 1e-12)
    return errors if errors.ndim == 1 else errors.mean(1)
