"""Every example through the model: batches of like length, results in the order of the examples, finished chunks kept."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from bmfm.inference.inputs import Inputs
from bmfm.inference.outputs import Outputs
from bmfm.inference.readers import Reader
from bmfm.ledger import Ledger
from bmfm.models.config import check_strands
from bmfm.tokenizers.base import Tokens

PRECISIONS = {None: None, "fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class RunOptions:
    """How examples go through the model, whatever is computed.

    Attributes
    ----------
    batch_size
        Rows of a batch.
    max_tokens
        Longest input, special tokens included; None is the model's own.
    precision
        ``fp32`` (None, too), ``bf16`` or ``fp16``.
    progress
        A bar on stderr; None shows one if there is work for more than three seconds.
    ledger
        Where finished shards are kept, which others and the next run with it use.
    strands
        Of DNA, what embeddings and labels of whole examples are made of: ``forward``, the sequences as they are given; ``average``, the
        mean over both strands. None is the model's own, `BmfmConfig.strands`.
    """

    batch_size: int = 32
    max_tokens: int | None = None
    precision: str | None = None
    progress: bool | None = None
    ledger: Ledger | None = None
    strands: str | None = None

    def __post_init__(self) -> None:
        for what, number in (("batch_size", self.batch_size), ("max_tokens", self.max_tokens)):
            if number is not None and (isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 1):
                raise ValueError(f"{what}={number!r} must be a whole number of at least 1")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r} is unknown; choose fp32 (or none), bf16 or fp16")
        if self.strands is not None:
            check_strands(self.strands, "strands")

    @classmethod
    def split(cls, options: Mapping[str, Any], reader: Reader) -> tuple[Self, dict[str, Any]]:
        """These options, and those of the reader.

        Raises
        ------
        ValueError
            If one is neither.
        """
        names = {f.name for f in fields(cls)}
        if unknown := sorted(options.keys() - names - set(reader.options)):
            there = ", ".join([*sorted(names - {"ledger"}), *reader.options])
            raise ValueError(f"{', '.join(unknown)}: no such option for a model of {reader.examples}; there are {there}")
        return cls(**{k: v for k, v in options.items() if k in names}), {k: v for k, v in options.items() if k not in names}


class Request(NamedTuple):
    """What is computed from the outputs of each batch: a row an example [N, ...] or, `per_token`, a row a content token [M, ...]."""

    compute: Callable[[Outputs], torch.Tensor]
    per_token: bool = False
    all_layers: bool = False


@dataclass
class Results:
    """What was computed, in the order of the inputs.

    Attributes
    ----------
    values
        {name: float32 [n_rows, ...]}; of requests by token, all tokens one after the other [T, ...].
    of_examples
        {name: float32 [n examples, ...]} of requests by row: means over the windows of each example and, where both are read, its strands.
    ids, offsets
        Of the tokens: [T] int32 and [n_rows + 1] int64; empty where no request was by token.
    """

    values: dict[str, np.ndarray] = field(default_factory=dict)
    of_examples: dict[str, np.ndarray] = field(default_factory=dict)
    ids: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    offsets: np.ndarray = field(default_factory=lambda: np.zeros(1, np.int64))


def batches_by_length(tokens: Tokens, batch_size: int) -> Iterator[np.ndarray]:
    """Numbers of the rows of each batch: those of like length together, the longest first, so that there is little padding."""
    order = np.argsort(-np.diff(tokens.offsets), kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def collect(inputs: Inputs, requests: Mapping[str, Request], options: RunOptions, forward: Callable[[Tokens, bool], Outputs]) -> Results:
    """Every request for all rows of the inputs.

    Parameters
    ----------
    forward
        Called with the tokens of a batch, and whether the states of all layers are needed.
    """
    results, pieces = Results(), {name: [] for name, request in requests.items() if request.per_token}  # type: ignore[var-annotated]
    ids: list[np.ndarray] = []
    lengths: list[np.ndarray] = []
    with progress_bar(inputs.n_rows, options.progress) as bar:
        for start, tokens in inputs.chunks():
            chunk = finished_chunk(start, tokens, requests, options, forward, bar)
            assert chunk is not None
            for name, values in chunk.items():
                if requests[name].per_token:
                    pieces[name].append(values)
                    continue
                everything = results.values.setdefault(name, np.empty((inputs.n_rows, *values.shape[1:]), np.float32))
                everything[start : start + len(values)] = values
            if pieces:
                ids.append(tokens.ids)
                lengths.append(np.diff(tokens.offsets))
    if pieces:
        results.values |= {name: np.concatenate(values) for name, values in pieces.items()}
        results.ids, results.offsets = np.concatenate(ids), np.append(0, np.cumsum(np.concatenate(lengths)))
    return results


def finished_chunk(
    start: int, tokens: Tokens, requests: Mapping[str, Request], options: RunOptions, forward: Callable[[Tokens, bool], Outputs], bar: Any
) -> dict[str, np.ndarray] | None:
    """The requests for the rows of one chunk, {name: [n, ...] or, by token, [T, ...]}, from the ledger where that has them; None to a worker that
    has nothing to do."""
    begun = bar.n

    def compute() -> dict[str, np.ndarray]:
        return run_chunk(tokens, requests, options.batch_size, forward, bar)

    chunk = compute() if options.ledger is None else options.ledger.get(start, compute)
    bar.update(begun + len(tokens) - bar.n)
    return chunk


def work_on(inputs: Inputs, requests: Mapping[str, Request], options: RunOptions, forward: Callable[[Tokens, bool], Outputs]) -> None:
    """Add to the ledger what is open of it, as one of several workers; see `collect`."""
    assert options.ledger is not None
    with progress_bar(inputs.n_rows, False) as bar:
        for start, tokens in inputs.chunks(options.ledger.is_open):
            finished_chunk(start, tokens, requests, options, forward, bar)


def run_chunk(
    tokens: Tokens, requests: Mapping[str, Request], batch_size: int, forward: Callable[[Tokens, bool], Outputs], bar: Any
) -> dict[str, np.ndarray]:
    """The requests for the rows of one chunk, {name: [n, ...] or, by token, [T, ...]}."""
    results: dict[str, np.ndarray] = {}
    all_layers = any(request.all_layers for request in requests.values())
    with torch.inference_mode():
        for rows in batches_by_length(tokens, batch_size):
            outputs = forward(tokens.take(rows), all_layers)
            for name, request in requests.items():
                values = request.compute(outputs).float().cpu().numpy()
                n = len(tokens.ids) if request.per_token else len(tokens)
                places = places_of_rows(tokens.offsets, rows) if request.per_token else rows
                results.setdefault(name, np.empty((n, *values.shape[1:]), np.float32))[places] = values
            bar.update(len(rows))
    return results


def progress_bar(n: int, shown: bool | None) -> Any:
    """A bar on stderr: shown, not shown, or (None) only once three seconds have passed."""
    from tqdm.auto import tqdm

    return tqdm(total=n, unit="example", disable=shown is False, delay=0 if shown else 3)


def places_of_rows(offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Places of the tokens of some rows, one row after the other, in values of all tokens."""
    lengths = offsets[rows + 1] - offsets[rows]
    shift = np.repeat(offsets[rows] - (np.cumsum(lengths) - lengths), lengths)
    return np.arange(len(shift)) + shift
