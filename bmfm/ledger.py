"""Finished shards of long work, in a folder that several processes and machines share: nothing is done twice, and nothing is lost.

A shard is a file that appears whole, or not at all. Who works on one holds a claim beside it, a file that one process alone can make and whose
time it renews; the claim of a process that died, or has not been heard of for two minutes, is taken over. So any number of processes can work on the same
folder, together or one after the other, and each may be killed at any moment. Shards are functions of what the folder's name stands for, a plan:
should two processes ever compute the same one, they write the same bytes.

The folder may be one of an object store (`bmfm.places`). There a claim that nobody holds any more may be taken over by two at the same moment, who
then do the same work twice.
"""

import hashlib
import json
import os
import socket
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np

from bmfm.files import is_alive
from bmfm.places import Place, StoreError, StorePath, opened, remove_folder, whole

Shard = dict[str, np.ndarray]
"""What a shard holds: arrays of numbers or texts, by name."""

PLAN = "plan.json"

HEARTBEAT, SILENCE, PAUSE = 15.0, 120.0, 0.5
"""Seconds between signs of life of a claim, after how many without one it is taken over, and between looks at one that another holds."""


@dataclass(frozen=True)
class Ledger:
    """The shards of one plan.

    Parameters
    ----------
    folder
        Where they are; it is made. On a cluster a folder that all nodes see, or one of an object store.
    key
        What the plan's content comes to; it is written into every shard, and shards with another are not taken.
    is_worker
        Whether this process only adds to the shards, and another one puts them together.
    """

    folder: Place
    key: str = ""
    is_worker: bool = False

    @classmethod
    def of_plan(cls, output: Place, plan: dict) -> Self:
        """The ledger of a plan (what the shards depend on) beside the output file, ``.OUTPUT.KEY``, with the plan written down in it."""
        text = json.dumps(plan, sort_keys=True, default=str, indent=1)
        key = hashlib.sha256(text.encode()).hexdigest()[:12]
        ledger = cls(output.with_name(f".{output.name}.{key}"), key)
        ledger.folder.mkdir(parents=True, exist_ok=True)
        if not ledger.is_there():
            with whole(ledger.folder / PLAN) as file:
                file.write(text.encode() + b"\n")
        return ledger

    def below(self, name: str) -> Self:
        """A ledger for a part of the work, in a folder of its own."""
        return replace(self, folder=self.folder / name)

    def get(self, name: str | int, compute: Callable[[], Shard]) -> Shard | None:
        """A shard: read where it is finished, waited for where another process works on it, or else computed and written.

        Returns
        -------
        None to a worker where there is nothing to do for it.

        Raises
        ------
        OSError
            Where the shard cannot be written; those that are finished stay.
        """
        while True:
            if not self.is_worker and (found := self._read(self._file(name))) is not None:
                return found
            if self.is_worker and not self.is_open(name):
                return None
            with self._claim(name) as is_ours:
                if is_ours and not self.is_finished(name):
                    shard = compute()
                    self._write(name, shard)
                    return shard
            if not is_ours and not self.is_worker:
                time.sleep(PAUSE)

    def is_finished(self, name: str | int) -> bool:
        """Whether a shard is there and whole, by its table of contents, which is written last."""
        file = self._file(name)
        return file.exists() if isinstance(file, StorePath) else zipfile.is_zipfile(file)  # in a store nothing is there in part

    def is_open(self, name: str | int) -> bool:
        """Whether a shard is neither finished nor being worked on."""
        return not self.is_finished(name) and not _is_held(self._file(name).with_suffix(".claim"))

    def is_there(self) -> bool:
        """Whether there is a plan still: nobody has put its shards together."""
        return (self.folder / PLAN).exists()

    def n_finished(self) -> int:
        """How many shards are finished, those of parts of the work included."""
        return sum(1 for _ in self.folder.rglob("*.npz"))

    @contextmanager
    def finishing(self) -> Iterator[bool]:
        """Put the shards together, as one process at a time, and then remove them; False where another process did so meanwhile."""
        while True:
            with self._claim("output") as is_ours:
                if is_ours:
                    yield self.is_there()
                    (self.folder / PLAN).unlink(missing_ok=True)  # first: the claim must not go before what says that there is work
                    remove_folder(self.folder)
                    return
            time.sleep(PAUSE)

    def _file(self, name: str | int) -> Place:
        return self.folder / (f"{name:08d}.npz" if isinstance(name, int | np.integer) else f"{name}.npz")

    def _read(self, file: Place) -> Shard | None:
        try:
            with np.load(opened(file), allow_pickle=False) as stored:
                shard = dict(stored)
            if str(shard.pop("plan", "")) == self.key and all(isinstance(values, np.ndarray) for values in shard.values()):
                return shard
        except FileNotFoundError:
            return None
        except StoreError:
            raise  # the store is away: nothing is damaged
        except Exception:  # of the archive, or of the arrays in it: whatever the damage leads to
            pass
        file.unlink(missing_ok=True)  # damaged, or of another plan: it is computed again
        return None

    def _write(self, name: str | int, shard: Shard) -> None:
        try:
            with whole(self._file(name)) as file:
                np.savez(file, plan=np.array(self.key), **shard)  # type: ignore[arg-type]
        except StoreError:
            raise
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror}: finished shards are kept, so make room and start again") from error

    @contextmanager
    def _claim(self, name: str | int) -> Iterator[bool]:
        """Hold the claim of a shard, or False where another process does."""
        self.folder.mkdir(parents=True, exist_ok=True)
        claim = self._file(name).with_suffix(".claim")
        if not _take(claim):
            yield False
            return
        is_done = threading.Event()
        renewing = threading.Thread(target=_renew, args=(claim, is_done), daemon=True)
        renewing.start()
        try:
            yield True
        finally:
            is_done.set()
            renewing.join(SILENCE)  # or it might renew what is no more
            claim.unlink(missing_ok=True)


def _me() -> str:
    """This process and thread, among those of all machines."""
    return f"{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"


def _take(claim: Place) -> bool:
    """Make a claim, in place of one that nobody holds any more; False where another process has it."""
    if _make(claim):
        return True
    if _is_held(claim):
        return False
    if isinstance(claim, StorePath):
        claim.unlink(missing_ok=True)
        return _make(claim)
    grave = claim.with_name(f".{claim.name}.{_me()}")
    try:
        claim.rename(grave)  # of several, one succeeds
        if _is_held(grave):  # another process was faster, and this is its claim
            grave.rename(claim)
            return False
    except FileNotFoundError:
        return False
    grave.unlink(missing_ok=True)
    return _make(claim)


def _make(claim: Place) -> bool:
    holder = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "thread": threading.get_ident()})
    try:
        if isinstance(claim, StorePath):
            claim.create(holder.encode())
            return True
        with claim.open("x") as file:
            file.write(holder)
    except (FileExistsError, FileNotFoundError):  # another has it, or has just removed the folder, as all is done
        return False
    return True


def _renew(claim: Place, is_done: threading.Event) -> None:
    try:
        holder = claim.read_bytes() if isinstance(claim, StorePath) else b""
    except OSError:  # it is then taken over after a while, and the work maybe done twice
        return
    while not is_done.wait(HEARTBEAT):
        try:
            if isinstance(claim, Path):
                os.utime(claim)
            elif claim.read_bytes() == holder:
                claim.write_bytes(holder)
            else:  # it was given up
                return
        except FileNotFoundError:
            return
        except OSError:  # a file system that is away for a moment
            continue


def _is_held(claim: Place) -> bool:
    """Whether a claim is there and its process lives, as far as this machine can tell."""
    try:
        text = claim.read_bytes().decode(errors="replace")
        silent = _now(claim.parent) - _written(claim)
    except FileNotFoundError:  # it, or the whole folder, is gone
        return False
    try:
        holder = json.loads(text)
        is_dead = holder["host"] == socket.gethostname() and not is_alive(holder["pid"])
    except (ValueError, TypeError, KeyError):  # it is being written, or was damaged: its age alone counts
        is_dead = False
    return not is_dead and silent < SILENCE


def _now(folder: Place) -> float:
    """The time as the file system has it, whose clock may be another than that of this machine."""
    probe = folder / f".clock.{_me()}"
    if isinstance(probe, StorePath):
        probe.write_bytes(b"")
    else:
        probe.touch()
    now = _written(probe)
    probe.unlink(missing_ok=True)
    return now


def _written(file: Place) -> float:
    return file.modified() if isinstance(file, StorePath) else file.stat().st_mtime
