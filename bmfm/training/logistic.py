"""What a logistic regression reaches on the labels of a run, beside its model."""

import numpy as np
from scipy.sparse import csr_matrix

from bmfm.special import IGNORE


def logistic_regression(train: csr_matrix, train_labels: np.ndarray, held_out: csr_matrix, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, macro F1 and Matthews correlation of a logistic regression on features [n, G], over labels [n] that are not `IGNORE`."""
    from sklearn.linear_model import LogisticRegression

    from bmfm.metrics import classification, score

    known, asked = train_labels != IGNORE, labels != IGNORE
    model = LogisticRegression(max_iter=300).fit(train[known], train_labels[known])
    found, _ = score(classification, labels[asked], model.predict_proba(held_out[asked]))
    return {f"logistic_regression_{name}": found[name] for name in ("accuracy", "macro_f1", "mcc")}


def label_baselines(data, objectives, part: str = "validation") -> dict[str, float]:
    """Logistic regression for every class label that is to be learned, {objective/metric: value}."""
    from bmfm.objectives.labels import Classification

    metrics: dict[str, float] = {}
    for name, objective in objectives.parts.items():
        if not isinstance(objective, Classification) or objective.reversal or objective.pooling == "token":
            continue
        features, labels = zip(*(data.features(p, name) for p in ("train", part)), strict=True)
        found = logistic_regression(features[0], labels[0], features[1], labels[1])
        metrics |= {f"{name}/{key}": value for key, value in found.items()}
    return metrics
