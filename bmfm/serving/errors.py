"""What a server answers where it gives no result: one form of JSON for all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]


class Refusal(Exception):
    """A request that gets no result.

    Parameters
    ----------
    status
        Of HTTP, from 400 on.
    message
        What is wrong, and what to do.
    items
        (number of an example of the request from 0, what is wrong with it).
    headers
        More of the reply.
    """

    def __init__(self, status: int, message: str, items: Sequence[tuple[int, str]] = (), headers: Mapping[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.items, self.headers = status, message, list(items), dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON of the reply."""
        return {"error": {"message": self.message, "items": [{"item": number, "message": text} for number, text in self.items]}}


def of_input(error: Exception) -> bool:
    """Whether an error is one that this package raised about its input."""
    if not isinstance(error, ValueError | KeyError | FileNotFoundError):
        return False
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and Path(frame.tb_frame.f_code.co_filename).is_relative_to(PACKAGE)


def message_of(error: Exception) -> str:
    """The words of an error; a KeyError would put them into quotes."""
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def place_of(error: BaseException) -> str:
    """The kind of an error and where it was raised, without its words, which may hold data."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f"{Path(frame.tb_frame.f_code.co_filename).name}:{frame.tb_lineno}" if frame is not None else "?"
    return f"{type(error).__name__} at {where}"
