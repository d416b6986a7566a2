"""What stands between the network and the endpoints: bounds before a request is read, and an answer whatever happens."""

import asyncio
import logging
import time

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bmfm.serving.batching import Limits
from bmfm.serving.errors import Refusal, message_of, of_input, place_of
from bmfm.serving.metrics import Metrics

LOGGER = logging.getLogger("bmfm.serving")
PATHS = ("/health", "/info", "/metrics", "/embed", "/predict", "/score_variants", "/explain", "/openapi.json")


class LimitMiddleware:
    """Refuses bodies that are too large, and requests where too many, or too many bytes, are read already; counts requests by path and status.

    An error of ours about what was sent is 422, any other 500, of which the log has the kind and the place alone: its words may hold data.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics, body_seconds: float = 60.0):
        self.app, self.limits, self.metrics, self.body_seconds = app, limits, metrics, body_seconds
        self.n_requests = self.n_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in PATHS else "other"
        begin, status = time.monotonic(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self.n_requests += 1
        try:
            await self._answer(scope, receive, watched)
        except ClientDisconnect:
            status = 499  # nobody is there to be told
        except asyncio.CancelledError:  # the time for requests is over
            if status:
                raise
            await self._refuse(Refusal(503, "the server is stopping, and this takes too long: ask another"), scope, receive, watched)
        except Exception as error:
            if not of_input(error):
                LOGGER.error("%s: %s", path, place_of(error))
            if not status:
                refusal = Refusal(422, message_of(error)) if of_input(error) else Refusal(500, "the server failed; its log says where")
                await self._refuse(refusal, scope, receive, watched)
        finally:
            self.n_requests -= 1
            self.metrics.count("bmfm_requests_total", path=path, status=str(status))
            self.metrics.observe("bmfm_request_seconds", time.monotonic() - begin)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        most = int(self.limits.max_body_mb * 1e6)
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if scope["method"] == "POST" and self.n_requests > self.limits.max_requests:
            await self._refuse(
                Refusal(429, "too many requests are being read: ask again later", headers={"Retry-After": "1"}), scope, receive, send
            )
            return
        too_large = Refusal(413, f"the body is larger than {self.limits.max_body_mb:g} MB (max_body_mb): send parts of it")
        if declared.isdigit() and int(declared) > most:
            await self._refuse(too_large, scope, receive, send)
            return
        if scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        held = _Held(self, int(declared) if declared.isdigit() else 0)
        try:
            try:
                async with asyncio.timeout(self.body_seconds):
                    body = await _read(receive, most, held)
            except TimeoutError:
                await self._refuse(Refusal(408, f"the body did not come within {self.body_seconds:g} seconds"), scope, receive, send)
                return
            if len(body) > most:
                await self._refuse(too_large, scope, receive, send)
                return
            await self._while_there(scope, body, receive, send)
        except _Full:
            refusal = Refusal(429, f"the requests that are answered now have {self.limits.max_total_mb:g} MB (max_total_mb): ask again later", headers={"Retry-After": "1"})  # fmt: skip
            await self._refuse(refusal, scope, receive, send)
        finally:
            held.let_go()

    async def _while_there(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Ask the endpoint as long as the client waits: what has not begun of a request that nobody waits for is not run."""
        has_begun = False

        async def noted(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        gone = asyncio.create_task(_gone(receive))
        answer = asyncio.ensure_future(self.app(scope, _replay(body, gone), noted))
        try:
            await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and not has_begun:
                raise ClientDisconnect
            await answer
        finally:
            answer.cancel()
            gone.cancel()

    async def _refuse(self, refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
        # the rest of the body is not read, so that the connection cannot be used again
        headers = refusal.headers | {"Connection": "close"}
        await JSONResponse(refusal.body(), refusal.status, headers)(scope, receive, send)


class _Full(Exception):
    """There is no room for the bytes of a request."""


class _Held:
    """The bytes of a request among those of all; of a body whose length is declared, all of them from the beginning.

    Raises
    ------
    _Full
        Where all have more than they may.
    """

    def __init__(self, middleware: LimitMiddleware, declared: int):
        self.middleware, self.declared, self.n_bytes = middleware, declared, 0

    def grow(self, size: int) -> None:
        """Hold so many bytes at least."""
        more = max(self.declared, size) - self.n_bytes
        if self.middleware.n_bytes + more > self.middleware.limits.max_total_mb * 1e6:
            raise _Full
        if more > 0:
            self.n_bytes += more
            self.middleware.n_bytes += more

    def let_go(self) -> None:
        self.middleware.n_bytes -= self.n_bytes
        self.n_bytes = 0


async def _read(receive: Receive, most: int, held: _Held) -> bytes:
    """A body; of one that is longer than `most`, no more than shows that it is."""
    held.grow(0)
    parts, size = [], 0
    while size <= most:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        held.grow(size)
        if not message.get("more_body", False):
            break
    return b"".join(parts)


async def _gone(receive: Receive) -> None:
    """Until the client is there no more."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _replay(body: bytes, gone: asyncio.Task[None]) -> Receive:
    """A body that was read, and then the end of the connection."""
    is_given = False

    async def replayed() -> Message:
        nonlocal is_given
        if not is_given:
            is_given = True
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.wait({gone})
        return {"type": "http.disconnect"}

    return replayed
