"""Of single tokens: their log-probabilities, masked or after what precedes them, and their states."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from bmfm.inference.inputs import Inputs
from bmfm.inference.outputs import Outputs
from bmfm.inference.runner import RunOptions, progress_bar
from bmfm.models.model import BmfmModel
from bmfm.objectives.masking import leave_out_of_summary
from bmfm.special import MASK
from bmfm.tokenizers.base import Tokenizer, Tokens
from bmfm.tokenizers.batch import Batch

AT_ONCE = 1 << 24
"""Logits that are turned into log-probabilities at a time."""


@dataclass
class TokenStates:
    """Hidden states of the tokens of every example, without special tokens around them.

    Attributes
    ----------
    names
        Of the examples.
    states
        For each example [L, H], or [layers, L, H] where layers were asked for, float32.
    ids
        For each example its tokens [L], int32.
    """

    names: pd.Index
    states: list[np.ndarray]
    ids: list[np.ndarray]
    _spans: Callable[[], list[np.ndarray]] = field(repr=False)

    @cached_property
    def spans(self) -> list[np.ndarray]:
        """For each example what its tokens stand for, [L, 2], see `Tokenizer.spans`; a ValueError where that cannot be known."""
        return self._spans()


@dataclass
class TokenLogProbs:
    """Log-probabilities (natural logarithm) at P scored tokens, example by example.

    Attributes
    ----------
    names
        Of the examples, scored or not.
    example
        [P] number of the example of each scored token, ascending.
    position
        [P] place of the token among those of its example, from 0, special tokens around the example not counted.
    ids
        [P] the tokens that stand there, int32.
    log_probs
        [P] float32 of these tokens; or [P, K] of the K tokens that were asked for.
    """

    names: pd.Index
    example: np.ndarray
    position: np.ndarray
    ids: np.ndarray
    log_probs: np.ndarray
    _spans: Callable[[], list[np.ndarray]] = field(repr=False)

    @cached_property
    def spans(self) -> np.ndarray:
        """[P, 2] what the scored tokens stand for, see `Tokenizer.spans`; a ValueError where that cannot be known."""
        per_example = self._spans()
        first = np.cumsum([0, *map(len, per_example)])[self.example]
        return np.concatenate(per_example)[first + self.position]

    def of(self, number: int) -> np.ndarray:
        """Log-probabilities of one example's scored tokens, [L] or [L, K]."""
        return self.log_probs[np.searchsorted(self.example, number) : np.searchsorted(self.example, number, "right")]

    def total(self) -> pd.DataFrame:
        """Of every example the sum of the log-probabilities of its tokens, ``log_likelihood``, and of how many, ``tokens``.

        Of a causal model that is the log-likelihood of the sequence (without its first token, where nothing stands before it), of a
        masked model its pseudo-log-likelihood (Salazar et al., ACL 2020).

        Raises
        ------
        ValueError
            If log-probabilities of other tokens were asked for.
        """
        if self.log_probs.ndim > 1:
            raise ValueError("these are log-probabilities of several tokens at each place: for likelihoods call log_probs with tokens=None")
        n = len(self.names)
        sums = np.bincount(self.example, self.log_probs.astype(np.float64), n)
        return pd.DataFrame({"log_likelihood": sums, "tokens": np.bincount(self.example, minlength=n)}, index=self.names)


class _Scored(NamedTuple):
    """Tokens to score: row, place in the row, and the pass over the row in which each is masked, [P] each."""

    row: np.ndarray
    place: np.ndarray
    turn: np.ndarray


def score_inputs(
    inputs: Inputs,
    tokenizer: Tokenizer,
    model: BmfmModel,
    make_batch: Callable[[Tokens], Batch],
    forward: Callable[[Batch], Outputs],
    options: RunOptions,
    positions: Sequence[Sequence[int] | np.ndarray] | None = None,
    tokens: str | Sequence[int] | None = None,
    mask_share: float | None = None,
) -> TokenLogProbs:
    """See `Predictor.log_probs`."""
    if mask_share is not None and not 0 < mask_share <= 1:
        raise ValueError(f"mask_share={mask_share!r} must be above 0 and at most 1")
    wanted = None if positions is None else _check_positions(positions, len(inputs.names))
    columns = _columns(tokens, tokenizer, model.device)
    capabilities = model.backbone.capabilities
    if not capabilities.causal and not capabilities.mask_token:
        raise ValueError("this model has no [MASK] token, so that it cannot be asked about hidden tokens")
    is_blind = capabilities.causal and not _has_cls(tokenizer)  # of the first token, before which nothing stands
    pieces: dict[str, list[np.ndarray]] = {name: [] for name in ("example", "position", "ids", "log_probs", "all_ids")}
    n_seen = np.zeros(len(inputs.names), np.int64)  # tokens of each example in the rows before
    with progress_bar(inputs.n_rows, options.progress) as bar:
        for start, chunk in inputs.chunks():
            owner = inputs.owner[start : start + len(chunk)]
            first = _first_places(owner, np.diff(chunk.offsets), n_seen)
            if wanted is None:
                scored = _ordinary_tokens(chunk, tokenizer.plain_ids, int(is_blind), mask_share)
            else:
                scored = _wanted_tokens(chunk, first, [wanted[i] for i in owner], mask_share)
            values = np.empty((len(scored.row), *([] if columns is None else [len(columns)])), np.float32)
            for numbers, of_batch in _of_batches(chunk, scored, options.batch_size, make_batch, forward, capabilities.causal, columns):
                values[numbers] = of_batch
            if is_blind:
                values[scored.place == 0] = np.nan
            pieces["example"].append(owner[scored.row])
            pieces["position"].append(first[scored.row] + scored.place)
            pieces["ids"].append(chunk.ids[chunk.offsets[scored.row] + scored.place])
            pieces["log_probs"].append(values)
            pieces["all_ids"].append(chunk.ids)
            bar.update(len(chunk))
    if wanted is not None:
        _check_all_scored(inputs.names, wanted, n_seen)
    joined = {name: np.concatenate(arrays) for name, arrays in pieces.items()}
    all_ids = np.split(joined.pop("all_ids"), np.cumsum(n_seen)[:-1])
    return TokenLogProbs(inputs.names, **joined, _spans=partial(inputs.spans, tokenizer, all_ids))


def _check_positions(positions: Sequence[Sequence[int] | np.ndarray], n: int) -> list[np.ndarray]:
    """Places of the tokens of each example, ascending, each once."""
    if len(positions) != n:
        raise ValueError(f"positions are given for {len(positions):,} examples, there are {n:,}: give one list of places for each example")
    return [np.unique(np.asarray(places, np.int64)) for places in positions]


def _check_all_scored(names: pd.Index, wanted: Sequence[np.ndarray], n_tokens: np.ndarray) -> None:
    """Raise a ValueError for the first place that was asked for and is not there."""
    for number, (places, n) in enumerate(zip(wanted, n_tokens, strict=True)):
        if absent := [int(p) for p in places if not 0 <= p < n]:
            raise ValueError(f"example {names[number]!r} has no token {absent[0]}: it has {n:,}, which count from 0")


def _columns(tokens: str | Sequence[int] | None, tokenizer: Tokenizer, device: torch.device) -> torch.Tensor | None:
    if tokens is None:
        return None
    if isinstance(tokens, str):
        if tokens != "all":
            raise ValueError(f"tokens={tokens!r} is unknown; give None for the tokens that are there, all, or a list of ids")
        return torch.arange(len(tokenizer), device=device)
    if absent := [i for i in tokens if not 0 <= i < len(tokenizer)]:
        raise ValueError(f"tokens={absent[0]} is no id of this tokenizer, which has {len(tokenizer):,}, from 0 on")
    return torch.tensor(list(tokens), dtype=torch.int64, device=device)


def _has_cls(tokenizer: Tokenizer) -> bool:
    try:
        tokenizer.check_cls(0, "log_probs")
    except ValueError:
        return False
    return True


def _first_places(owner: np.ndarray, lengths: np.ndarray, n_seen: np.ndarray) -> np.ndarray:
    """Place in its example of the first token of each row of a chunk; `n_seen` [n examples] goes on with the chunk's tokens."""
    before = np.cumsum(lengths) - lengths
    first_row = np.searchsorted(owner, owner)
    places = before - before[first_row] + n_seen[owner]
    np.add.at(n_seen, owner, lengths)
    return places


def _ordinary_tokens(tokens: Tokens, plain: tuple[int, int], first: int, mask_share: float | None) -> _Scored:
    """All tokens of a chunk with ids in `plain`, from place `first` of each row on."""
    lengths = np.diff(tokens.offsets)
    row = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(row)) - np.repeat(tokens.offsets[:-1], lengths)
    chosen = (tokens.ids >= plain[0]) & (tokens.ids < plain[1]) & (place >= first)
    return _in_turns(row[chosen], place[chosen], len(lengths), mask_share)


def _wanted_tokens(tokens: Tokens, first: np.ndarray, wanted: Sequence[np.ndarray], mask_share: float | None) -> _Scored:
    """The tokens of a chunk at places that are asked for.

    Parameters
    ----------
    first
        [n] place in its example of the first token of each row.
    wanted
        For each row places in its example, of which some may be in other rows.
    """
    lengths = np.diff(tokens.offsets)
    inside = [p[(p >= f) & (p < f + n)] - f for p, f, n in zip(wanted, first, lengths, strict=True)]
    row = np.repeat(np.arange(len(lengths)), [len(places) for places in inside])
    return _in_turns(row, np.concatenate(inside), len(lengths), mask_share)


def _in_turns(row: np.ndarray, place: np.ndarray, n_rows: int, mask_share: float | None) -> _Scored:
    """Tokens with the pass in which each is masked: one a pass, or, spread over the row, a share of the row's."""
    counts = np.bincount(row, minlength=n_rows)
    number = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return _Scored(row, place, number if mask_share is None else number % int(np.ceil(1 / mask_share)))


def _of_batches(
    tokens: Tokens,
    scored: _Scored,
    batch_size: int,
    make_batch: Callable[[Tokens], Batch],
    forward: Callable[[Batch], Outputs],
    causal: bool,
    columns: torch.Tensor | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Numbers [m] of scored tokens and their log-probabilities, [m] or [m, K], batch by batch.

    A batch has a row for each pass over an example, so that memory does not grow with how many tokens are scored.
    """
    turn = np.zeros_like(scored.turn) if causal else scored.turn
    order = np.lexsort((scored.place, turn, scored.row, -np.diff(tokens.offsets)[scored.row]))
    row, turn, place = scored.row[order], turn[order], scored.place[order]
    begins = np.flatnonzero(np.append(len(order) > 0, (np.diff(row) != 0) | (np.diff(turn) != 0)))
    ends = np.append(begins[1:], len(order))
    for start in range(0, len(begins), batch_size):
        passes = slice(start, start + batch_size)
        part = slice(begins[start], ends[passes][-1])
        examples = tokens.take(row[begins[passes]])
        batch = make_batch(examples)
        content = np.repeat(examples.offsets[:-1], ends[passes] - begins[passes]) + place[part]
        places = batch["content_index"][torch.from_numpy(content).to(batch["content_index"].device)]
        ids = batch["input_ids"].view(-1)
        observed = ids[places]
        if not causal:
            ids[places] = MASK
            if "shown_profile" in batch:  # which would tell the gene
                leave_out_of_summary(batch, batch["example_ids"].view(-1)[places], observed)
        outputs = forward(batch)
        yield order[part], _at_places(outputs, places - int(causal), observed, columns)


def _at_places(outputs: Outputs, places: torch.Tensor, observed: torch.Tensor, columns: torch.Tensor | None) -> np.ndarray:
    """Log-probabilities at places [m]: of the observed tokens [m], or of the columns [m, K]; some places at a time."""
    pieces, step = [], max(1, AT_ONCE // outputs.model.n_tokens)
    for at, ids in zip(places.split(step), observed.split(step), strict=True):
        log_probs = outputs.log_probs(at)
        pieces.append(log_probs.gather(1, ids[:, None])[:, 0] if columns is None else log_probs[:, columns])
    return torch.cat(pieces).cpu().numpy()
