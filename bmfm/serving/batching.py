"""Examples of several requests in one pass of the model.

Parts of requests wait in a queue; one thread runs the model. It takes what waits as long as the batch has room, by rows and by tokens with padding,
and waits for more no longer than `Limits.max_wait_ms`. What comes while the model runs is the next batch.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from bmfm.serving.errors import Refusal
from bmfm.serving.metrics import Metrics
from bmfm.serving.pieces import Piece, split


@dataclass(frozen=True)
class Limits:
    """What a server takes at once.

    Attributes
    ----------
    max_batch
        Rows of a batch.
    max_tokens
        Tokens of a batch, padding included; a longer row is run by itself.
    max_wait_ms
        How long an example waits for others.
    max_queue
        Rows that wait; more are refused (429).
    max_body_mb
        Megabytes of a request; a larger one is refused (413).
    max_total_mb
        Megabytes of all requests that are read or have no answer yet; more are refused (429).
    max_examples
        Examples of a request.
    max_slow
        Examples of an explanation, which takes many passes for each; of variants ten times as many.
    max_requests
        Requests that are read at a time; more are refused (429).
    """

    max_batch: int = 32
    max_tokens: int = 16384
    max_wait_ms: float = 10.0
    max_queue: int = 1024
    max_body_mb: float = 16.0
    max_total_mb: float = 256.0
    max_examples: int = 1024
    max_slow: int = 16
    max_requests: int = 256

    def __post_init__(self) -> None:
        for name, value in self.__dict__.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not (value > 0 or (name == "max_wait_ms" and value == 0)):
                raise ValueError(f"{name}={value!r} must be a number above 0")
        if self.max_total_mb < self.max_body_mb:
            raise ValueError(
                f"max_total_mb={self.max_total_mb:g} of all requests is less than max_body_mb={self.max_body_mb:g} of one: raise the one, or lower the other"
            )

    def has_room(self, n_rows: int, longest: int) -> bool:
        """Whether so many rows of so many tokens are a batch."""
        return n_rows <= self.max_batch and n_rows * (longest + 8) <= self.max_tokens


@dataclass
class _Waiting:
    """A part of a request, or a job of its own."""

    key: Hashable
    piece: Piece | None
    job: Callable[[], Any] | None
    future: "asyncio.Future[Any]"
    since: float = field(default_factory=time.monotonic)

    @property
    def n_rows(self) -> int:
        return self.piece.n_rows if self.piece else 1


class Batcher:
    """The queue of a server, and the thread that runs the model.

    Parameters
    ----------
    run
        Called in that thread with a key and the pieces of a batch, all of that key; gives a result for each piece.
    """

    def __init__(self, run: Callable[[Any, Sequence[Piece]], list[Any]], limits: Limits, metrics: Metrics):
        self.run, self.limits, self.metrics = run, limits, metrics
        self.waiting: deque[_Waiting] = deque()
        self.n_rows = 0
        self.is_closing = self.is_running = False
        self.arrived = asyncio.Event()
        self.thread = ThreadPoolExecutor(1, "model")
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work, in the event loop that runs now."""
        self.task = asyncio.get_running_loop().create_task(self._work())

    async def close(self, seconds: float | None = None) -> bool:
        """Refuse what comes, and finish what waits, for so many seconds; whether all is finished."""
        self.is_closing = True
        self.arrived.set()
        if self.task is not None:
            await asyncio.wait({self.task}, timeout=seconds)
            self.task.cancel()
        self.thread.shutdown(wait=not self.is_running, cancel_futures=True)
        return not self.is_running

    async def submit(self, key: Hashable, piece: Piece) -> list[Any]:
        """Results of the pieces that the examples of a request are cut into, in their order.

        Raises
        ------
        Refusal
            429 where too much waits, 413 where the examples are more than may ever wait.
        """
        pieces = split(piece, self._room(piece.longest))
        self._admit(piece.n_rows)
        return await self._results([self._put(_Waiting(key, p, None, asyncio.get_running_loop().create_future())) for p in pieces])

    async def submit_job(self, job: Callable[[], Any]) -> Any:
        """What a function returns that is called in the model's thread, between batches."""
        self._admit(1)
        (result,) = await self._results([self._put(_Waiting(object(), None, job, asyncio.get_running_loop().create_future()))])
        return result

    def _room(self, longest: int) -> int:
        return max(1, min(self.limits.max_batch, self.limits.max_tokens // (longest + 8)))

    def _admit(self, n_rows: int) -> None:
        if self.is_closing:
            raise Refusal(503, "the server is stopping: ask another")
        if n_rows > self.limits.max_queue:
            raise Refusal(
                413, f"the request has {n_rows:,} rows, at most {self.limits.max_queue:,} (max_queue) wait at a time: send parts of it"
            )
        if self.n_rows + n_rows > self.limits.max_queue:
            raise Refusal(429, f"{self.n_rows:,} rows are waiting: ask again later", headers={"Retry-After": "1"})

    def _put(self, one: _Waiting) -> "asyncio.Future[Any]":
        self.waiting.append(one)
        self.n_rows += one.n_rows
        self.metrics.set("bmfm_queue_rows", self.n_rows)
        self.arrived.set()
        return one.future

    async def _results(self, futures: list["asyncio.Future[Any]"]) -> list[Any]:
        try:
            return list(await asyncio.gather(*futures))
        finally:  # of a request that went away, or failed, the rest need not be run
            for future in futures:
                future.cancel()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self.waiting:
                if self.is_closing:
                    return
                self.arrived.clear()
                await self.arrived.wait()
            await self._wait_for_more()
            batch = self._take()
            if not batch:
                continue
            try:
                results = await loop.run_in_executor(self.thread, self._run, batch)
            except Exception as error:
                results = [error] * len(batch)
            for one, result in zip(batch, results, strict=True):
                if one.future.done():
                    continue
                if isinstance(result, Exception):
                    one.future.set_exception(result)
                else:
                    one.future.set_result(result)

    async def _wait_for_more(self) -> None:
        """Until the first that waits has waited for long enough, or a batch is full."""
        first = self.waiting[0]
        while first.piece is not None and not self.is_closing:
            left = first.since + self.limits.max_wait_ms / 1000 - time.monotonic()
            same = [one.piece for one in self.waiting if one.key == first.key and one.piece is not None]
            if left <= 0 or not self.limits.has_room(sum(p.n_rows for p in same) + 1, max(p.longest for p in same)):
                return
            self.arrived.clear()
            try:
                await asyncio.wait_for(self.arrived.wait(), left)
            except TimeoutError:
                return

    def _take(self) -> list[_Waiting]:
        """The first that waits, and others of its key that fit beside it."""
        batch: list[_Waiting] = []
        kept: deque[_Waiting] = deque()
        n_rows = longest = 0
        for one in self.waiting:
            if one.future.done():
                self.n_rows -= one.n_rows
                continue
            fits = not batch
            if batch and one.piece is not None and one.key == batch[0].key:
                fits = self.limits.has_room(n_rows + one.n_rows, max(longest, one.piece.longest))
            if not fits:
                kept.append(one)
                continue
            batch.append(one)
            n_rows, longest = n_rows + one.n_rows, max(longest, one.piece.longest if one.piece else 0)
        self.waiting = kept
        self.n_rows -= n_rows
        self.metrics.set("bmfm_queue_rows", self.n_rows)
        return batch

    def _run(self, batch: list[_Waiting]) -> list[Any]:
        """In the model's thread."""
        self.is_running = True
        try:
            return self._results_of(batch)
        finally:
            self.is_running = False

    def _results_of(self, batch: list[_Waiting]) -> list[Any]:
        """Results, or what went wrong, of each; what fails together is tried one by one."""
        first = batch[0]
        try:
            if first.piece is None:
                assert first.job is not None
                return [first.job()]
            pieces = [one.piece for one in batch if one.piece is not None]
            results = self.run(first.key, pieces)
        except Exception as error:
            if len(batch) == 1:
                return [error]
            return [result for one in batch for result in self._results_of([one])]
        self.metrics.observe("bmfm_batch_requests", len(pieces))
        self.metrics.observe("bmfm_batch_rows", sum(p.n_rows for p in pieces))
        self.metrics.count("bmfm_examples_total", sum(p.n_examples for p in pieces))
        self.metrics.count("bmfm_tokens_total", sum(len(p.tokens.ids) for p in pieces))
        return results
