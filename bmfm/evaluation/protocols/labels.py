"""Predict the labels of the test part, having seen those of the other parts alone."""

import time
from pathlib import Path

import numpy as np

from bmfm.evaluation import own_metrics
from bmfm.evaluation.cards import Card
from bmfm.evaluation.examples import Examples
from bmfm.evaluation.metrics import score
from bmfm.evaluation.protocols import Outcome
from bmfm.special import IGNORE

needs = "predict"


def run(card: Card, examples: Examples, entrant, seed: int, folder: Path, n_bootstrap: int) -> Outcome:
    """Metrics over the test part; where a card has several objectives, each one's and their means (of intervals, too)."""
    began = time.perf_counter()
    said = entrant.predict(examples, seed, folder)
    outcome = Outcome({}, time.perf_counter() - began)
    figures, own_functions = [], own_metrics.functions(card.metrics)
    for name, (kind, classes) in examples.kinds.items():
        truth, scores, groups = examples.labels("test", name), said[name], None
        if kind == "bases":
            kind, (truth, scores, groups) = "classification", _of_bases(truth, scores, classes, name)
        given = truth != IGNORE if kind == "classification" else ~np.isnan(truth)
        given = given if given.ndim == 1 else given.any(1)
        outcome.counts[f"{name}: test labels missing or unknown to training, not scored"] = int((~given).sum())
        own = groups[given] if groups is not None else None
        metrics, intervals = score(kind, truth[given], scores[given], n_bootstrap, groups=own)
        more = own_metrics.score(own_functions, truth[given], scores[given], n_bootstrap, groups=own)
        figures.append((metrics | more[0], intervals | more[1]))
        outcome.arrays |= {f"{name}/truth": truth, f"{name}/scores": scores}
        if len(examples.kinds) > 1:
            outcome.metrics |= {f"{name}/{k}": v for k, v in figures[-1][0].items()}
    shared = [k for k in figures[0][0] if all(k in f for f, _ in figures)]
    outcome.metrics |= {k: float(np.mean([f[k] for f, _ in figures])) for k in shared}
    outcome.intervals = {k: tuple(np.mean([i[k] for _, i in figures], 0).tolist()) for k in shared if all(k in i for _, i in figures)}
    return outcome


def _of_bases(truth: np.ndarray, said: np.ndarray, classes: list[str], name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Class numbers [bases], certain scores [bases, C], and the sequence that each base is of, over the labelled sequences."""
    number = {c: i for i, c in enumerate(classes)}
    pairs = [(i, t, s) for i, (t, s) in enumerate(zip(truth, said, strict=True)) if t is not None]
    for i, t, s in pairs:
        if len(t) != len(s):
            raise ValueError(f"objective {name}: test example {i} has labels for {len(t)} bases, {len(s)} were predicted")
    true = np.concatenate([[number.get(b, IGNORE) for b in t] for _, t, _ in pairs])
    scores = np.eye(len(classes))[np.concatenate([[number[b] for b in s] for _, _, s in pairs])]
    return true, scores, np.repeat([i for i, _, _ in pairs], [len(t) for _, t, _ in pairs])
