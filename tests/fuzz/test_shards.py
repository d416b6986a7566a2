"""Finished shards of long work that were damaged: each is given back whole, or computed again; numpy says what is in it."""

import io
import os
import zipfile
from functools import cache
from pathlib import Path
from random import Random

import numpy as np

from bmfm.ledger import Ledger
from tests.fuzz.harness import Fault, Files, Target, oracle, quickly
from tests.fuzz.mutations import BINARY, damaged

AGAIN = {"again": np.array([7])}


@cache
def _shard(process: int) -> bytes:
    sink = io.BytesIO()
    np.savez(sink, plan=np.array("key"), score=np.arange(6, dtype=np.float32), name=np.array(["a", "é"]))
    return sink.getvalue()


def make_shard(random: Random) -> Files:
    data = _shard(os.getpid())
    if random.randrange(2):
        return {"00000003.npz": damaged(data, random, BINARY)}
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(sink, "w") as target:
        for name in source.namelist():
            if random.randrange(12):
                target.writestr(name, damaged(source.read(name), random, BINARY, 1))
    return {"00000003.npz": sink.getvalue()}


def check_shard(folder: Path) -> bool:
    theirs = oracle(lambda: dict(np.load(folder / "00000003.npz", allow_pickle=False)))
    try:
        shard = Ledger(folder, "key").get(3, lambda: AGAIN)
    except Exception as error:
        raise Fault(f"{type(error).__name__}: {error}") from error
    if shard is AGAIN:
        return False
    if (
        theirs is None
        or theirs.pop("plan") != "key"
        or any(not np.array_equal(shard[name], theirs[name], theirs[name].dtype.kind in "fc") for name in theirs)
    ):
        raise Fault(f"a shard of {shard}, {theirs} by numpy")
    return True


SHARD = Target("shard", make_shard, check_shard)

test_shard = quickly(SHARD)
