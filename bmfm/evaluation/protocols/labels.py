"""Predict the labels of the test part, having seen those of the other parts alone."""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from bmfm import metrics as measures
from bmfm.evaluation import own_metrics
from bmfm.evaluation.examples import Examples
from bmfm.evaluation.protocols import Outcome
from bmfm.evaluation.tasks import TaskSpec
from bmfm.metrics import score
from bmfm.special import IGNORE

needs = "predict"


def run(card: TaskSpec, examples: Examples, entrant, seed: int, folder: Path, n_bootstrap: int) -> Outcome:
    """What an entrant predicts, scored by `score_predictions`."""
    began = time.perf_counter()
    said = entrant.predict(examples, seed, folder)
    duration = time.perf_counter() - began
    outcome = score_predictions(card, examples, said, n_bootstrap)
    outcome.duration = duration
    return outcome


def score_predictions(card: TaskSpec, examples: Examples, said: Mapping[str, np.ndarray], n_bootstrap: int) -> Outcome:
    """Metrics over the test part; where a card has several objectives, each one's and their means (of intervals, too).

    Parameters
    ----------
    said
        {objective: scores of the test part}: of classes or several labels [n, C], of numbers [n], of bases lists of classes,
        or what `Outcome.arrays` kept of them.

    Raises
    ------
    ValueError
        Where scores are missing, or not of the form of the labels.
    """
    outcome, figures, own_functions = Outcome({}, 0.0), [], own_metrics.functions(card.metrics)
    for name, (kind, classes) in examples.kinds.items():
        if name not in said:
            raise ValueError(f"objective {name} has no scores; there are {', '.join(said) or 'none'}")
        truth, scores, groups = examples.labels("test", name), np.asarray(said[name]), None
        if kind == "bases":
            kind, (truth, scores, groups) = "classification", _of_bases(truth, scores, classes, name)
        wanted = (len(truth),) if kind == "regression" else (len(truth), len(classes))
        if scores.shape != wanted:
            raise ValueError(f"objective {name}: scores have the shape {scores.shape}, the labels need {wanted}")
        given = truth != IGNORE if kind == "classification" else ~np.isnan(truth)
        given = given if given.ndim == 1 else given.any(1)
        outcome.counts[f"{name}: test labels missing or unknown to training, not scored"] = int((~given).sum())
        own = groups[given] if groups is not None else None
        metrics, intervals = score(getattr(measures, kind), truth[given], scores[given], n_bootstrap, groups=own)
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
    """Class numbers [bases], certain scores [bases, C], and the sequence that each base is of, over the labelled sequences.

    `said` may also be such scores already.
    """
    number = {c: i for i, c in enumerate(classes)}
    if said.dtype != object:
        known = [(i, t) for i, t in enumerate(truth) if t is not None]
        true = np.array([number.get(b, IGNORE) for _, t in known for b in t])
        return true, said, np.repeat([i for i, _ in known], [len(t) for _, t in known])
    pairs = [(i, t, s) for i, (t, s) in enumerate(zip(truth, said, strict=True)) if t is not None]
    for i, t, s in pairs:
        if len(t) != len(s):
            raise ValueError(f"objective {name}: test example {i} has labels for {len(t)} bases, {len(s)} were predicted")
    true = np.concatenate([[number.get(b, IGNORE) for b in t] for _, t, _ in pairs])
    scores = np.eye(len(classes))[np.concatenate([[number[b] for b in s] for _, _, s in pairs])]
    return true, scores, np.repeat([i for i, _, _ in pairs], [len(t) for _, t, _ in pairs])
