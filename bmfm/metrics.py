"""Metrics of predictions: one definition for training, the benchmark and whoever else scores, that of scikit-learn and SciPy.

Each is a function of weighted examples, so that a bootstrap is the same function of other weights. Where a class is absent:
macro F1 of one class an example is the mean over the classes that occur or are predicted (`sklearn.metrics.f1_score` with
its default labels), of several classes an example the mean over all of them, an F1 without any occurrence or prediction
being 0 (``zero_division=0``); areas under the ROC curve and average precision are means over the classes that have both
outcomes, and are left out where none has. A correlation with what does not vary is 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Weighted = Callable[[np.ndarray], dict[str, float]]
"""{name: figure} from the weights [n] of examples."""
Measure = Callable[[np.ndarray, np.ndarray], Weighted]
"""Figures of truth and scores, as a function of the weights: what does not depend on these is computed once."""


@dataclass(frozen=True)
class Metric:
    """What a metric is called in words, its range, and which end of it is better."""

    words: str
    low: float = 0.0
    high: float = 1.0
    more_is_better: bool = True


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("accuracy"),
    "macro_f1": Metric("macro F1"),
    "mcc": Metric("Matthews correlation", -1.0),
    "auroc": Metric("area under the ROC curve"),
    "auprc": Metric("average precision"),
    "pearson": Metric("Pearson correlation", -1.0),
    "spearman": Metric("Spearman correlation", -1.0),
    "mae": Metric("mean absolute error", 0.0, np.inf, False),
    "mse": Metric("mean squared error", 0.0, np.inf, False),
    "nmi": Metric("normalised mutual information of clusters"),
    "ari": Metric("adjusted Rand index of clusters", -1.0),
    "asw_label": Metric("silhouette width of labels"),
    "graph_connectivity": Metric("graph connectivity"),
    "asw_batch": Metric("silhouette width of batches"),
    "avg_bio": Metric("biological conservation (mean of NMI, ARI, silhouette)"),
    "avg_batch": Metric("batch mixing (mean of graph connectivity, silhouette)"),
}
"""All metrics by name; a new one is an entry here and a figure of that name from a protocol."""


def _ratio(a: np.ndarray | float, b: np.ndarray | float) -> np.ndarray:
    a, b = np.asarray(a, float), np.asarray(b, float)
    return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape), where=b > 0)


def classification(truth: np.ndarray, scores: np.ndarray) -> Weighted:
    """Of class numbers [n] and probabilities [n, C]: accuracy, macro F1, Matthews correlation, areas under the curves."""
    n_classes = scores.shape[1]
    pairs = truth * n_classes + scores.argmax(1)
    positive = [truth == c for c in (range(n_classes) if n_classes > 2 else (1,))]
    rankings = [_ranking(p, scores[:, c]) for c, p in zip(range(n_classes) if n_classes > 2 else (1,), positive, strict=True)]

    def of(weight: np.ndarray) -> dict[str, float]:
        confusion = np.bincount(pairs, weight, n_classes**2).reshape(n_classes, n_classes)
        hits, true, predicted, n = confusion.diagonal(), confusion.sum(1), confusion.sum(0), confusion.sum()
        f1 = _ratio(2 * hits, true + predicted)
        spread = np.sqrt((n * n - (predicted**2).sum()) * (n * n - (true**2).sum()))
        return {
            "accuracy": float(hits.sum() / n),
            "macro_f1": float(f1[true + predicted > 0].mean()),
            "mcc": float((hits.sum() * n - (true * predicted).sum()) / spread) if spread > 0 else 0.0,
        } | _mean_over_classes([ranking(weight) for ranking in rankings])

    return of


def multilabel(truth: np.ndarray, scores: np.ndarray) -> Weighted:
    """Of 0, 1 or NaN (none) [n, C] and probabilities [n, C]: accuracy, macro F1, areas under the curves."""
    is_labelled = ~np.isnan(truth)
    true, predicted = (truth == 1) & is_labelled, (scores > 0.5) & is_labelled
    rankings = [_ranking(truth[:, c] == 1, scores[:, c], is_labelled[:, c]) for c in range(truth.shape[1])]

    def of(weight: np.ndarray) -> dict[str, float]:
        both, n_predicted, n_true = (weight @ x.astype(float) for x in (true & predicted, predicted, true))
        f1 = _ratio(2 * both, n_predicted + n_true)
        right = float((weight @ ((true == predicted) & is_labelled)).sum() / (weight @ is_labelled).sum())
        figures = {"accuracy": right, "macro_f1": float(f1.mean())}
        return figures | _mean_over_classes([ranking(weight) for ranking in rankings])

    return of


def _ranking(
    positive: np.ndarray, scores: np.ndarray, is_labelled: np.ndarray | None = None
) -> Callable[[np.ndarray], tuple[float, float]]:
    """Area under the ROC curve and average precision of one class, ties at their middle; NaN where an outcome is absent."""
    order = np.argsort(-scores, kind="stable")
    if is_labelled is not None:
        order = order[is_labelled[order]]
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    positive = positive[order]

    def of(weight: np.ndarray) -> tuple[float, float]:
        w = weight[order]
        hits, predicted = np.cumsum(w * positive)[ends], np.cumsum(w)[ends]
        p, n = hits[-1], predicted[-1] - hits[-1]
        if p <= 0 or n <= 0:
            return float("nan"), float("nan")
        gained = np.diff(hits, prepend=0.0)
        false = predicted - hits
        above = false - np.diff(false, prepend=0.0) / 2
        return float((gained * (n - above)).sum() / (p * n)), float((gained * _ratio(hits, predicted)).sum() / p)

    return of


def _mean_over_classes(figures: list[tuple[float, float]]) -> dict[str, float]:
    defined = np.array([f for f in figures if f[0] == f[0]])
    return {"auroc": float(defined[:, 0].mean()), "auprc": float(defined[:, 1].mean())} if len(defined) else {}


def _ranks(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Weighted mid-ranks of all values."""
    order = np.argsort(values, kind="stable")
    group = np.cumsum(np.append(False, np.diff(values[order]) != 0))
    back = np.empty(len(values), np.int64)
    back[order] = group

    def of(weight: np.ndarray) -> np.ndarray:
        total = np.bincount(group, weight[order])
        return (np.cumsum(total) - total / 2)[back]

    return of


def _correlation(x: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    return float(weight @ (_standard(x, weight) * _standard(y, weight)))


def _standard(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Values less their weighted mean, of weighted norm 1; zeros where they vary by no more than rounding, whatever their unit."""
    x, n = x.astype(float), weight.sum()
    largest = np.abs(x[weight > 0]).max(initial=0.0)
    if not largest:
        return np.zeros_like(x)
    x = x / largest  # so that no square underflows
    x = x - (weight @ x) / n
    norm = np.sqrt(weight @ (x * x))
    return x / norm if norm > 1e-13 * np.sqrt(n) else np.zeros_like(x)


def rank_correlations(*columns: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Spearman correlations of every two of k columns [n], ``float`` [k, k], as a function of weights [n]; 0 with what does not vary."""
    ranks = [_ranks(column) for column in columns]

    def of(weight: np.ndarray) -> np.ndarray:
        standard = np.stack([_standard(rank(weight), weight) for rank in ranks])
        return (standard * weight) @ standard.T

    return of


def regression(truth: np.ndarray, scores: np.ndarray) -> Weighted:
    """Of numbers [n] both: Pearson and Spearman correlation, mean absolute and mean squared error."""
    ranks = _ranks(truth), _ranks(scores)

    def of(weight: np.ndarray) -> dict[str, float]:
        n, error = weight.sum(), scores - truth
        return {
            "pearson": _correlation(truth, scores, weight),
            "spearman": _correlation(ranks[0](weight), ranks[1](weight), weight),
            "mae": float(weight @ np.abs(error) / n),
            "mse": float(weight @ error**2 / n),
        }

    return of


def probabilities(logits: np.ndarray, multilabel: bool = False) -> np.ndarray:
    """Probabilities [n, C] from logits [n, C]: of one class an example (softmax), or of each class by itself (sigmoid)."""
    if multilabel:
        return 1 / (1 + np.exp(-logits))
    chance = np.exp(logits - logits.max(1, keepdims=True))
    return chance / chance.sum(1, keepdims=True)


def score(
    measure: Measure, truth: np.ndarray, scores: np.ndarray, n_bootstrap: int = 0, seed: int = 0, groups: np.ndarray | None = None
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Metrics of predictions, and how far they would move with other test examples; ValueError where there are none.

    Parameters
    ----------
    measure
        `classification`, `multilabel`, `regression`, or another `Measure`, as `label_kinds.LabelKind.metrics` is one.
    truth, scores
        What it takes.
    n_bootstrap
        Times that the test examples are drawn again with replacement; fewer (20 at least) where there are so many figures
        that an interval is narrow anyhow and would take hours.
    groups
        What is drawn instead of single examples, [n]: the sequence of each base.

    Returns
    -------
    metrics, intervals
        {name: figure}, and {name: (low, high)}, the middle 95% of the bootstrap's figures; a figure that no draw has gets no interval.
    """
    truth, scores = np.asarray(truth), np.asarray(scores, float)
    if not np.isfinite(scores).all():
        raise ValueError(f"{int((~np.isfinite(scores)).sum())} of {scores.size} predictions are not finite")
    if not len(truth):
        raise ValueError("there are no examples to score: the part is empty, or none of it has a label")
    of = measure(truth, scores)
    rng, n_bootstrap = np.random.default_rng(seed), min(n_bootstrap, max(20, int(2e9 / scores.size)))
    metrics = of(np.ones(len(truth)))
    group = np.unique(groups, return_inverse=True)[1] if groups is not None else np.arange(len(truth))
    n = int(group.max()) + 1
    drawn = [of(np.bincount(rng.integers(0, n, n), minlength=n).astype(float)[group]) for _ in range(n_bootstrap)]
    intervals = {}
    for name in metrics if drawn else ():
        if figures := [d[name] for d in drawn if name in d]:
            intervals[name] = (float(np.quantile(figures, 0.025)), float(np.quantile(figures, 0.975)))
    return metrics, intervals
