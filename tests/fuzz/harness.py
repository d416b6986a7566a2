"""What all fuzzing shares: a target makes files by choices of a random generator, and checks what a reader of ours does with them.

The same targets run as quick tests by hypothesis, for longer by a loop of their own, and guided by coverage by atheris (`__main__`).
"""

import contextlib
import shutil
import signal
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

SECONDS = 20.0
"""Of the processor, for one file; whatever takes longer hangs."""

Files = dict[str, bytes]
"""What a case is made of: bytes by the name of a file."""


@dataclass(frozen=True)
class Target:
    """A reader under test.

    Attributes
    ----------
    name
        For the command line.
    make
        Files from a random generator; those of one state of the generator are always the same.
    check
        Reads the files of a folder; True if they were read and compared, False if they were refused. Anything wrong is raised.
    """

    name: str
    make: Callable[[Random], Files]
    check: Callable[[Path], bool]


class Fault(AssertionError):
    """What a reader did that is neither an error of our own kind nor a right result."""


class Refused(Exception):
    """An error of our own kind."""


class Hang(BaseException):
    """A reader that does not end; no reader may catch it."""


def ours(error: BaseException, *names: str) -> bool:
    """Whether an error is of our own kind: one of three plain types, a line for people, which names the file (or what else is given)."""
    return type(error) in (ValueError, FileNotFoundError, KeyError) and any(name in str(error) for name in names)


@contextlib.contextmanager
def refusing(*names: str) -> Iterator[None]:
    """Errors of our own kind become `Refused`, and any other is a `Fault`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        if isinstance(error, Fault):
            raise
        if not ours(error, *names):
            raise Fault(f"{type(error).__name__} that does not name {' or '.join(names)}: {str(error)[:300]}") from error
        raise Refused(str(error)) from None


def oracle(read: Callable[[], Any]) -> Any:
    """What another reader makes of a file, or None where it fails."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read()
    except Exception:
        return None


def same(ours: Any, theirs: Any, what: str) -> None:
    """A `Fault` where two readers differ."""
    if ours != theirs:
        raise Fault(f"{what}: {str(ours)[:300]} here, {str(theirs)[:300]} by another reader")


def _stop(*_: Any) -> None:
    raise Hang("more seconds than a file may take")


def run(target: Target, random: Random, seconds: float = SECONDS) -> bool:
    """Make one case of a target and check it; True if its files were read."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    before = signal.signal(signal.SIGPROF, _stop)
    try:
        for name, content in target.make(random).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        return target.check(folder)
    except Refused:
        return False
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        shutil.rmtree(folder, ignore_errors=True)


def quickly(target: Target, examples: int = 15) -> Callable[[], None]:
    """A test of some cases, the same each time, that hypothesis makes smaller where one fails."""

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(random=st.randoms(use_true_random=False))
    def test(random: Random) -> None:
        run(target, random)

    return test
