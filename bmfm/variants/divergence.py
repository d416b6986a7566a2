"""How much an allele changes what a model predicts of the bases around it."""

from collections.abc import Callable
from typing import Any

import numpy as np

from bmfm.inference.predictor import Predictor
from bmfm.special import MASK
from bmfm.tokenizers.base import Tokens
from bmfm.variants.questions import Questions, ask
from bmfm.variants.rules import Vocabulary
from bmfm.variants.windows import AlleleWindows

RADIUS = 16
"""Bases on each side that are predicted."""

TURNS = 8
"""Passes over a window: every eighth base is hidden at a time."""


def divergence(
    predictor: Predictor,
    windows: AlleleWindows,
    vocabulary: Vocabulary,
    radius: int = RADIUS,
    batch_size: int = 32,
    precision: str | None = None,
    done: Callable[[int], Any] | None = None,
) -> np.ndarray:
    """Mean over the unchanged bases around of the Jensen-Shannon divergence, in nats, of the distributions over A, C, G and T with REF and with ALT, [A].

    Each base is hidden when it is predicted, together with every eighth other. Bounded by log 2.

    Parameters
    ----------
    radius
        Bases on each side.

    Raises
    ------
    ValueError
        If the vocabulary is not of single bases, whose places can be compared.
    """
    if vocabulary.kind != "base":
        raise ValueError(
            "scores: jsd compares predictions of single bases, and the tokens of this model are longer: leave it out of scores"
        )
    left = np.minimum(radius, np.minimum(windows.at_ref, windows.at_alt))
    right = np.minimum(radius, np.minimum(windows.right_ref, windows.right_alt))
    total = left + right
    allele = np.repeat(np.arange(len(windows)), total)
    within = np.arange(len(allele)) - np.repeat(np.cumsum(total) - total, total)
    is_right = within >= left[allele]
    answers = []
    sides = ((windows.ref, windows.at_ref, windows.alleles.n_ref), (windows.alt, windows.at_alt, windows.alleles.n_alt))
    for encoded, at, n_changed in sides:
        place = (at - left)[allele] + within + np.where(is_right, n_changed[allele], 0)
        questions = _in_turns(vocabulary, vocabulary.tokenizer.encode(encoded), allele, place, within % TURNS)
        log_probs = ask(predictor, questions, batch_size, precision, done)
        answers.append(log_probs - np.log(np.exp(log_probs).sum(1, keepdims=True)))
    values = jensen_shannon(*answers)
    return np.bincount(allele, values, len(windows)) / np.maximum(total, 1)


def jensen_shannon(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """Divergence of rows of log-probabilities, in nats [m]; 0 for equal ones, at most log 2."""
    log_m = np.logaddexp(log_p, log_q) - np.log(2)
    return np.maximum(0, 0.5 * ((np.exp(log_p) * (log_p - log_m)).sum(1) + (np.exp(log_q) * (log_q - log_m)).sum(1)))


def _in_turns(vocabulary: Vocabulary, tokens: Tokens, allele: np.ndarray, place: np.ndarray, turn: np.ndarray) -> Questions:
    """Questions about all four bases at places of windows, a row for each window and turn."""
    row = allele * TURNS + turn
    rows = tokens.take(np.repeat(np.arange(len(tokens)), TURNS))
    rows.ids = rows.ids.copy()
    rows.ids[rows.offsets[row] + place] = MASK
    candidates = np.broadcast_to(vocabulary.of_base[:4], (len(row), 4)).astype(np.int64)
    nothing = np.empty(0, np.int64)
    return Questions(rows, row, place, candidates, nothing, nothing, nothing, np.empty(0))
