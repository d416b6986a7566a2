"""Predictions that travel with a submission: one ``.npz`` of numbers beside its JSON, from which every score is computed again.

An array is of one task, seed and objective, under the name ``TASK@SEED/OBJECTIVE``: scores of the test part as the protocol
``labels`` takes them. The submission has the `content_hash` of each seed's arrays, so that the file itself may also lie elsewhere.
"""

import ast
import hashlib
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

MAX_FILE = 200_000_000
MAX_UNPACKED = 2_000_000_000
"""Bytes of a file, and of all that it unpacks to."""
NOISE = 1e-5
"""Predictions of two trainings are further apart than this."""
MAX_HEADER, MAX_DIGITS = 4096, 100
"""Bytes of an array's header, and digits of a seed."""
DAMAGE = (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError, KeyError,
          OverflowError, struct.error)  # fmt: skip
"""What reading a damaged archive ends in."""
Arrays = dict[str, np.ndarray]


def content_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the names, types, shapes and bytes of arrays, sorted by name; of a seed's arrays, {objective: scores}."""
    whole = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        whole.update(f"{name} {array.dtype.newbyteorder('<').str} {array.shape}\n".encode())
        whole.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return whole.hexdigest()


def of_record(record: Mapping, jobs: Path) -> Arrays | None:
    """{objective: scores} that a run kept of a record below its ``jobs`` folder; None where it kept none, as of integration."""
    file = jobs / str(record.get("key")) / "predictions.npz"
    if not file.is_file():
        return None
    scores = {k.removesuffix("/scores"): v for k, v in read_arrays(file).items() if k.endswith("/scores")}
    return {k: small if np.array_equal(small := v.astype(np.float32), v) else v for k, v in scores.items()}


def write(file: Path, predictions: Mapping[tuple[str, int], Arrays]) -> None:
    """The arrays of all tasks and seeds in one file."""
    named: Any = {f"{task}@{seed}/{name}": a for (task, seed), arrays in predictions.items() for name, a in arrays.items()}
    np.savez_compressed(file, **named)


def read(file: Path) -> dict[tuple[str, int], Arrays]:
    """The same again; ValueError where the file is no such file."""
    predictions: dict[tuple[str, int], Arrays] = {}
    for key, array in read_arrays(file).items():
        task, _, rest = key.rpartition("@")
        seed, _, name = rest.partition("/")
        if not task or not name or not (seed.isascii() and seed.isdigit() and len(seed) <= MAX_DIGITS):
            raise ValueError(f"{file}: {key!r:.60} is not named TASK@SEED/OBJECTIVE")
        predictions.setdefault((task, int(seed)), {})[name] = array
    return predictions


def read_arrays(file: Path) -> Arrays:
    """Arrays of numbers in an ``.npz``; nothing in it is unpickled, and no array is made before its bytes are there.

    Raises
    ------
    ValueError
        Where it is no such archive, is larger than the limits, or an array holds anything but numbers.
    """
    if file.is_symlink() or not file.is_file():
        raise ValueError(f"{file}: not a file of predictions: it is a folder, a link or a device, or not there; put the .npz itself there")
    if file.stat().st_size > MAX_FILE:
        raise ValueError(f"{file} has more than {MAX_FILE:,} bytes")
    arrays: Arrays = {}
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if sum(e.file_size for e in entries) > MAX_UNPACKED:
                raise ValueError(f"unpacks to more than {MAX_UNPACKED:,} bytes")
            if len({e.filename for e in entries}) < len(entries):
                raise ValueError("an array stands twice in it")
            for entry in entries:
                if not entry.filename.endswith(".npy"):
                    raise ValueError(f"holds {entry.filename!r:.60}, which is no array")
                with archive.open(entry) as stream:
                    arrays[entry.filename.removesuffix(".npy")] = _array(stream.read(entry.file_size + 1), entry.filename)
    except DAMAGE as error:
        raise ValueError(f"{file}: not a file of predictions: {error}") from None
    return arrays


def _array(content: bytes, name: str) -> np.ndarray:
    """The array of an ``.npy`` of format 1.0 or 2.0, whose header is a literal of three entries; ValueError where it is none."""
    width = {b"\x93NUMPY\x01\x00": 2, b"\x93NUMPY\x02\x00": 4}.get(content[:8])
    if width is None:
        raise ValueError(f"{name!r:.60} is of a version of .npy that holds more than numbers, or is none")
    start = 8 + width
    end = start + int.from_bytes(content[8:start], "little")
    if end > min(len(content), MAX_HEADER):
        raise ValueError(f"{name!r:.60} has a header that is cut off or longer than {MAX_HEADER:,} bytes")
    try:
        header = ast.literal_eval(content[start:end].decode("latin-1").strip())
        kind, by_column, shape = header["descr"], header["fortran_order"], header["shape"]
    except (SyntaxError, ValueError, TypeError, KeyError, RecursionError, MemoryError):
        raise ValueError(f"{name!r:.60} has a header that is not of an .npy") from None
    whole = type(shape) is tuple and all(type(n) is int and 0 <= n <= MAX_UNPACKED for n in shape)
    if not whole or type(by_column) is not bool or type(kind) is not str or not re.fullmatch("[<>|=]?(?:[fiu][248]|[iu]1)", kind):
        raise ValueError(f"{name!r:.60} says that it holds {shape!r:.60} of {kind!r:.60}, which are no numbers")
    dtype = np.dtype(kind)
    if dtype.itemsize * math.prod(shape) != len(content) - end:
        raise ValueError(f"{name!r:.60} says that it holds {shape!r:.60} of {kind!r:.60}, which it does not")
    return np.frombuffer(content, dtype, offset=end).reshape(shape, order="F" if by_column else "C")


def alike(a: Mapping, file_a: Path, b: Mapping, file_b: Path) -> bool:
    """Whether of every task on which chance plays a part, one run of `a` and one of `b` differ by no more than `NOISE` anywhere.

    False where predictions of either are not at hand.
    """
    try:
        ours, theirs = read(file_a), read(file_b)
    except (ValueError, OSError):  # what is wrong with them is a reason against those that need them
        return False
    drawn = [t["task"] for t in a["tasks"] if not t["deterministic"]]
    runs = [
        ([r for (task, _), r in ours.items() if task == name], [r for (task, _), r in theirs.items() if task == name]) for name in drawn
    ]
    return bool(runs) and all(any(_close(x, y) for x in one for y in other) for one, other in runs)


def _close(a: Arrays, b: Arrays) -> bool:
    return set(a) == set(b) and all(a[k].shape == b[k].shape and np.allclose(a[k], b[k], rtol=0, atol=NOISE) for k in a)
