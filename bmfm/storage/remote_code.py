"""Whether Python code that comes with a checkpoint may run: asked for by whoever loads it, and by nothing that the checkpoint says."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from bmfm.storage.config import offline

_REMOTE_CODE: ContextVar[bool] = ContextVar("remote_code", default=False)


@contextmanager
def remote_code(allowed: bool) -> Iterator[None]:
    """Whether models made inside may run Python code that comes with a checkpoint; otherwise they never do."""
    token = _REMOTE_CODE.set(allowed)
    try:
        yield
    finally:
        _REMOTE_CODE.reset(token)


def remote_code_is_allowed() -> bool:
    return _REMOTE_CODE.get()


def asks_for_code(error: Exception, source: object) -> Exception:
    return refusal(source) if "trust_remote_code" in str(error) else error


def refusal(source: object) -> ValueError:
    return ValueError(
        f"{source} comes with Python code of its own, which is not run unless you say so: read it, then ask for it by remote_code=true"
    )


def without_hub() -> Any:
    """Without the Hub, unless code of a checkpoint may run, which may lie in another repository."""
    return nullcontext() if _REMOTE_CODE.get() else offline()
