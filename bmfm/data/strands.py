"""Whether labels of sequences depend on the strand that is given, as those of promoters do, which have the direction of transcription."""

from collections.abc import Sequence
from typing import Any

import numpy as np

K = 5
MOST_EXAMPLES = {"train": 5000, "validation": 2000}
MOST_BASES = 5_000_000
"""More examples than these, and more bases of a part, are not looked at: the answer does not change, and takes longer."""


def strand_gain(
    columns: Sequence[np.ndarray], labels: np.ndarray, kind: str, train: np.ndarray, validation: np.ndarray
) -> tuple[float, float]:
    """By how much simple models predict validation labels better from the strand that is given than from both alike.

    Two linear models are fitted to 5-mers of the training part, one of which cannot tell a 5-mer from its reverse complement: it has half the
    features, and is the better one where nothing depends on the strand.

    Parameters
    ----------
    columns
        Sequences, of pairs those of both columns: arrays of text [n].
    labels
        [n], all of them known.
    kind
        ``classification`` (logistic regression, cross-entropy) or ``regression`` (ridge regression, squared error over the variance).
    train, validation
        Numbers of the examples.

    Returns
    -------
    gain, error
        Of the mean loss, and its standard error over validation examples.
    """
    rng = np.random.default_rng(0)
    rows = {}
    for part, numbers in (("train", train), ("validation", validation)):
        length = max(1, sum(len(str(column[i])) for column in columns for i in numbers[:1000]) // len(numbers[:1000]))
        n = max(100, min(MOST_EXAMPLES[part], MOST_BASES // length))
        rows[part] = np.sort(rng.permutation(numbers)[:n])
    given = {part: _kmers(columns, numbers) for part, numbers in rows.items()}
    fit = _cross_entropies if kind == "classification" else _squared_errors
    both = {part: _both_strands(counts) for part, counts in given.items()}
    of_both, of_given = (
        fit(_scaled(k["train"]), _scaled(k["validation"]), labels[rows["train"]], labels[rows["validation"]]) for k in (both, given)
    )
    gains = of_both - of_given
    return float(gains.mean()), float(gains.std() / max(1, len(gains)) ** 0.5)


def _kmers(columns: Sequence[np.ndarray], numbers: np.ndarray) -> np.ndarray:
    """How often each sequence has each 5-mer [n, columns, 1024]."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectors = CountVectorizer(analyzer="char", ngram_range=(K, K), lowercase=False, vocabulary=_words())
    texts = [[str(column[i]).upper().replace("U", "T") for i in numbers] for column in columns]
    return np.stack([vectors.transform(of_column).toarray().astype(np.float32) for of_column in texts], 1)


def _words() -> list[str]:
    """All 5-mers."""
    words = [""]
    for _ in range(K):
        words = [word + base for word in words for base in "ACGT"]
    return words


def _both_strands(counts: np.ndarray) -> np.ndarray:
    """Counts of each 5-mer and its reverse complement together."""
    words = _words()
    place = {word: i for i, word in enumerate(words)}
    other = str.maketrans("ACGT", "TGCA")
    return counts + counts[..., [place[word.translate(other)[::-1]] for word in words]]


def _scaled(counts: np.ndarray) -> np.ndarray:
    """Roots of the counts, of length 1 [n, features]."""
    flat = np.sqrt(counts.reshape(len(counts), -1))
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)


def _cross_entropies(train: np.ndarray, validation: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Of the validation examples whose class is in training."""
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(labels)) < 2:
        return np.zeros(len(truth))
    model: Any = LogisticRegression(max_iter=200).fit(train, labels)
    known = np.isin(truth, model.classes_)
    columns = np.searchsorted(model.classes_, truth[known])
    return -np.log(np.maximum(model.predict_proba(validation[known])[np.arange(len(columns)), columns], 1e-9))


def _squared_errors(train: np.ndarray, validation: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Over the variance of the training labels."""
    from sklearn.linear_model import Ridge

    return (Ridge(1.0).fit(train, labels).predict(validation) - truth) ** 2 / max(float(labels.var()), 1e-12)
