"""Whether labels of sequences depend on the strand that is given, as those of promoters do, which have the direction of transcription."""

from dataclasses import dataclass

import numba
import numpy as np

from bmfm.genome.alphabet import CODE_BITS
from bmfm.genome.representation import Encoded

K = 4
MOST_EXAMPLES, FEWEST_VALIDATION = {"train": 5000, "validation": 2000}, 20
MOST_SYMBOLS = 4096
"""More examples of a part are not looked at, nor what stands further on in a long sequence."""


@dataclass(frozen=True)
class StrandGain:
    """By how much simple models predict validation labels better from the strand that is given than from both alike.

    Attributes
    ----------
    loss
        Mean difference of losses: nats (`classification`), or shares of the variance (numbers).
    error
        Its standard error over validation examples.
    n
        Validation examples.
    """

    loss: float
    error: float
    n: int

    @property
    def is_found(self) -> bool:
        """Whether labels depend on the strand: by more than the standard error, and of so many examples that there is one."""
        return self.n >= FEWEST_VALIDATION and self.loss > self.error

    def __str__(self) -> str:
        if self.n < FEWEST_VALIDATION:
            return f"not tested, {self.n} validation examples have a label that simple models can learn"
        return f"{K}-mers of the given strand alone change the validation loss by {-self.loss:+.4f} +-{self.error:.4f}"


def strand_gain(sequences: Encoded, labels: np.ndarray, kind: str, train: np.ndarray, validation: np.ndarray) -> StrandGain:
    """Whether the strand that is given says more of labels than both do.

    Two linear models are fitted to k-mers of the training part, one of which cannot tell a k-mer from its reverse complement: half of its
    features are the other half, and it is the better one where nothing depends on the strand. Which k-mers a sequence has is all that they
    see. With few examples both learn little, and the answer is no.

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
    rng = np.random.default_rng(0)
    rows = {p: np.sort(rng.permutation(n)[: MOST_EXAMPLES[p]]) for p, n in (("train", train), ("validation", validation))}
    if min(map(len, rows.values())) == 0:
        return StrandGain(0.0, 0.0, 0)
    counts = [_count_kmers(sequences.symbols, sequences.offsets[n], sequences.offsets[n + 1], K, MOST_SYMBOLS) for n in rows.values()]
    known = [labels[n] for n in rows.values()]
    losses = _cross_entropies if kind == "classification" else _squared_errors
    given, both = (losses(*map(_scaled, of_parts), *known) for of_parts in (counts, [c + c[:, _reverse_complements(K)] for c in counts]))
    gains = both - given
    if len(gains) < 2:
        return StrandGain(0.0, 0.0, len(gains))
    return StrandGain(float(gains.mean()), float(gains.std(ddof=1) / len(gains) ** 0.5), len(gains))


@numba.njit(cache=True)
def _count_kmers(symbols, starts, ends, k, most):
    """How often each sequence has each k-mer, ``float32`` [n, 4^k]: its bases are digits of base four, the first one the highest. What is no
    single base ends one."""
    counts = np.zeros((len(starts), 4**k), np.float32)
    for row in range(len(starts)):
        word, n_known = 0, 0
        for i in range(starts[row], min(ends[row], starts[row] + most)):
            base = symbols[i] & CODE_BITS
            if base > 3:
                word, n_known = 0, 0
                continue
            word, n_known = (word * 4 + base) % 4**k, n_known + 1
            if n_known >= k:
                counts[row, word] += 1
    return counts


def _reverse_complements(k: int) -> np.ndarray:
    """The reverse complement of each k-mer [4^k]: A, G, T, C are 0 to 3, so that two bits are a base, and 2 is A or T from T or A."""
    words, result = np.arange(4**k), np.zeros(4**k, np.int64)
    for _ in range(k):
        result, words = result * 4 + (words % 4 ^ 2), words // 4
    return result


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
