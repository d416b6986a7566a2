"""Questions to a masked model, and its answers: what stands at hidden places of a sequence, of some tokens."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import pandas as pd
import torch

from bmfm.genome.representation import Encoded
from bmfm.inference.inputs import Inputs
from bmfm.inference.predictor import Predictor
from bmfm.special import MASK
from bmfm.tokenizers.base import Tokens
from bmfm.tokenizers.sequences import SequenceTokenizer

ROWS = 4096
"""Rows that are sorted by length and made into batches at a time."""


@dataclass
class Questions:
    """Q hidden places, the tokens that are asked for there, and how answers add up to scores of alleles.

    The score of an allele is the sum of ``weight * log p(candidate)`` over its entries.

    Attributes
    ----------
    tokens
        R rows with [MASK] at the hidden places.
    row, place : int64 [Q]
        Of each question: its row, and the place of the hidden token in it, special tokens around it not counted.
    candidates : int64 [Q, K]
        Ids of tokens; -1 where there are fewer.
    allele, question, column : int64 [E]
        Of each entry: the allele, the question and the number of the candidate.
    weight : float64 [E]
    renormalise
        Whether the candidates' probabilities are divided by their sum.
    """

    tokens: Tokens
    row: np.ndarray
    place: np.ndarray
    candidates: np.ndarray
    allele: np.ndarray
    question: np.ndarray
    column: np.ndarray
    weight: np.ndarray
    renormalise: bool = False

    def scores(self, answers: np.ndarray, n_alleles: int) -> np.ndarray:
        """Sums of the alleles [n_alleles], float64, from `answers` [Q, K]; NaN for an allele without an entry."""
        if self.renormalise:
            answers = answers - np.log(np.nansum(np.exp(answers), 1, keepdims=True))
        sums = np.bincount(self.allele, self.weight * answers[self.question, self.column], n_alleles)
        return np.where(np.bincount(self.allele, minlength=n_alleles) > 0, sums, np.nan)


def batches_of(predictor: Predictor, tokens: Tokens, batch_size: int) -> Iterator[tuple[np.ndarray, Any]]:
    """Batches of the rows of some tokens, as `Predictor.batches` gives them.

    Raises
    ------
    ValueError
        If a row is longer than the model has positions for.
    """
    limits = (predictor.tokenizer.max_tokens, predictor.model.backbone.capabilities.max_tokens)
    room = min((n for n in limits if n), default=1 << 40) - predictor.tokenizer.n_cls - 1
    if len(tokens) and tokens.lengths.max() > room:
        raise ValueError(f"a window has {tokens.lengths.max():,} tokens, and the model has positions for {room:,}: choose a smaller window")

    yield from predictor.batches(_inputs(tokens), batch_size)


def log_likelihoods(predictor: Predictor, tokens: Tokens, batch_size: int = 32, precision: str | None = None) -> np.ndarray:
    """Of each row the log-likelihood by a causal model, float64 [R]."""
    found = predictor.log_probs(_inputs(tokens), batch_size=batch_size, precision=precision, progress=False)
    return found.total()["log_likelihood"].to_numpy()


def _inputs(tokens: Tokens) -> Inputs:
    """Rows as the `Predictor` takes them."""

    def chunks() -> Iterator[tuple[int, Tokens]]:
        for start in range(0, len(tokens), ROWS):
            yield start, tokens.take(np.arange(start, min(start + ROWS, len(tokens))))

    n = len(tokens)
    return Inputs(pd.RangeIndex(n), n, chunks, np.arange(n), np.maximum(tokens.lengths, 1))


def ask(
    predictor: Predictor, questions: Questions, batch_size: int = 32, precision: str | None = None, done: Callable[[int], Any] | None = None
) -> np.ndarray:
    """Log-probabilities of the candidates, float64 [Q, K]; NaN where there is none.

    Parameters
    ----------
    done
        Called with the number of rows that were run.
    """
    order = np.argsort(questions.row, kind="stable")
    first = np.searchsorted(questions.row[order], np.arange(len(questions.tokens) + 1))
    answers = np.full(questions.candidates.shape, np.nan)
    for rows, batch in batches_of(predictor, questions.tokens, batch_size):
        numbers = np.concatenate([order[first[r] : first[r + 1]] for r in rows])
        begins = np.cumsum(questions.tokens.lengths[rows]) - questions.tokens.lengths[rows]
        content = np.repeat(begins, np.diff(first)[rows]) + questions.place[numbers]
        places = batch["content_index"][torch.from_numpy(content).to(predictor.device)]
        candidates = torch.from_numpy(questions.candidates[numbers]).to(predictor.device)
        with torch.inference_mode():
            log_probs = predictor.forward(batch, precision=precision).log_probs(places).gather(1, candidates.clamp(min=0))
        answers[numbers] = np.where(questions.candidates[numbers] >= 0, log_probs.double().cpu().numpy(), np.nan)
        if done:
            done(len(rows))
    return answers


def hide(
    tokenizer: SequenceTokenizer, windows: Encoded, start: np.ndarray, end: np.ndarray, n_masks: np.ndarray
) -> tuple[Tokens, np.ndarray]:
    """Windows with some of their bases hidden: what is left and right of them is tokenized for itself, with masks between.

    Parameters
    ----------
    start, end : int64 [R]
        The bases that are hidden, counted in the window.
    n_masks : int64 [R]
        How many masks stand for them.

    Returns
    -------
    tokens : Tokens
    place : int64 [R]
        Of the first mask of each row.
    """
    n = len(windows)
    lengths = np.empty(2 * n, np.int64)
    lengths[0::2], lengths[1::2] = start, np.diff(windows.offsets) - end
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flanks = np.empty(offsets[-1], np.uint8)
    _flanks(windows.symbols, windows.offsets, start, end, flanks)
    encoded = tokenizer.encode(Encoded(flanks, offsets))
    ends = np.concatenate([[0], np.cumsum(encoded.lengths[0::2] + encoded.lengths[1::2] + n_masks)])
    ids = np.full(ends[-1], MASK, np.int32)
    _join(encoded.ids, encoded.offsets, ends, ids)
    has_variant = np.zeros(len(ids), bool)
    return Tokens(ids, ends, {"has_variant": has_variant} if "has_variant" in encoded.fields else {}), encoded.lengths[0::2]


@numba.njit(cache=True)
def _flanks(symbols, offsets, start, end, out):
    at = 0
    for r in range(len(start)):
        for i in range(offsets[r], offsets[r] + start[r]):
            out[at] = symbols[i]
            at += 1
        for i in range(offsets[r] + end[r], offsets[r + 1]):
            out[at] = symbols[i]
            at += 1


@numba.njit(cache=True)
def _join(ids, offsets, ends, out):
    """Write the tokens of the left flank at the beginning of each row, those of the right flank at its end."""
    for r in range(len(ends) - 1):
        n_left = offsets[2 * r + 1] - offsets[2 * r]
        n_right = offsets[2 * r + 2] - offsets[2 * r + 1]
        for i in range(n_left):
            out[ends[r] + i] = ids[offsets[2 * r] + i]
        for i in range(n_right):
            out[ends[r + 1] - n_right + i] = ids[offsets[2 * r + 1] + i]
