"""What a logistic regression reaches on the labels of a run, beside its model."""

import numpy as np
from scipy.sparse import csr_matrix

from bmfm.data.module import BatchModule
from bmfm.metrics import classification, score
from bmfm.objectives.labels import Label
from bmfm.objectives.multitask import Objectives
from bmfm.special import IGNORE


def logistic_regression(train: csr_matrix, train_labels: np.ndarray, held_out: csr_matrix, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, macro F1 and Matthews correlation of a logistic regression on features [n, G], over labels [n] that are not `IGNORE`."""
    from sklearn.linear_model import LogisticRegression

    has_label, is_scored = train_labels != IGNORE, labels != IGNORE
    model = LogisticRegression(max_iter=300).fit(train[has_label], train_labels[has_label])
    metrics, _ = score(classification, labels[is_scored], model.predict_proba(held_out[is_scored]))
    return {f"logistic_regression_{name}": metrics[name] for name in ("accuracy", "macro_f1", "mcc")}


def label_baselines(data: BatchModule, objectives: Objectives, part: str = "validation") -> dict[str, float]:
    """Logistic regression for every class label that is to be learned, {objective/metric: value}."""
    metrics: dict[str, float] = {}
    for name, task in objectives.tasks.items():
        if not isinstance(task, Label) or not task.monitored or task.label_kind.simple_as != "classification":
            continue
        features, labels = zip(*(data.features(p, name) for p in ("train", part)), strict=True)
        of_task = logistic_regression(features[0], labels[0], features[1], labels[1])
        metrics |= {f"{name}/{key}": value for key, value in of_task.items()}
    return metrics
