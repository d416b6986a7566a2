"""Files: those that ship, those the user names, and derived ones, built once for a source file and found again by its identity."""

import gzip
import hashlib
import json
import os
import shutil
import socket
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

ASSETS = Path(__file__).parent / "assets"
"""Data that ship with the package; see its NOTICE.md."""


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """`cache_dir`, or ``$BMFM_CACHE``, or ``~/.cache/bmfm`` (``$XDG_CACHE_HOME`` honoured)."""
    if cache_dir:
        return Path(cache_dir).expanduser()
    if root := os.environ.get("BMFM_CACHE"):
        return Path(root).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bmfm"


def fingerprint(path: Path) -> dict:
    """What identifies a source file: its resolved path, size and modification time."""
    stat = path.stat()
    return {"path": str(path.resolve()), "bytes": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def sha256_of_file(path: Path) -> str:
    """SHA-256 of the bytes of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_file(path: str | Path, what: str, folder: bool = False) -> Path:
    """The path (of a folder, if that is allowed), or a FileNotFoundError that says what was expected and names near matches in the same folder."""
    from difflib import get_close_matches

    found = Path(path).expanduser()
    if found.is_file() or (folder and found.is_dir()):
        return found
    if found.is_fifo() or found.is_socket():
        raise FileNotFoundError(f"{what} {str(path)!r} is a pipe, which can be read only once: write it to a file, and name that")
    if found.is_dir():
        raise FileNotFoundError(f"{what} {str(path)!r} is a folder: name the file in it")
    message = f"{what} {str(path)!r} does not exist (looked in {found.absolute().parent})"
    if found.parent.is_dir():
        near = get_close_matches(found.name, [p.name for p in found.parent.iterdir()], n=3, cutoff=0.5)
        if near:
            message += "; did you mean " + " or ".join(repr(str(found.parent / name)) for name in near) + "?"
    else:
        message += "; that folder does not exist either"
    raise FileNotFoundError(message)


PARTIAL = ".partial"
"""End of the names of files that are being written."""
ABANDONED = 86_400.0
"""Seconds without a change after which such a file of another machine belongs to nobody."""


def remove_abandoned(path: Path) -> None:
    """Remove what killed processes left of this file by `whole_file`: of processes of this machine that are gone, and of other
    machines what has not changed for a day. What a living process writes stays."""
    for partial in path.parent.glob(f".{path.name}.*{PARTIAL}"):
        host, _, numbers = partial.name.removeprefix(f".{path.name}.").removesuffix(PARTIAL).rpartition("-")[0].rpartition("-")
        try:
            is_of_here = host == socket.gethostname()
            abandoned = not is_alive(int(numbers)) if is_of_here else time.time() - partial.stat().st_mtime > ABANDONED
        except (FileNotFoundError, ValueError):  # it was finished meanwhile, or is no file of ours
            continue
        if abandoned:
            partial.unlink(missing_ok=True)


def is_alive(process: int) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return True


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears whole or not at all, on the disk by the end of ``with``, in place of one of the same name.

    Raises
    ------
    OSError
        Naming the file, if it cannot be written; what was there before stays.
    """
    partial = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        if error.errno is None:  # of what is written, rather than of the disk
            raise
        raise OSError(error.errno, f"{path} cannot be written ({error.strerror or error}); what was there before is kept") from error
    finally:
        partial.unlink(missing_ok=True)


_GZIP = b"\x1f\x8b"
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")  # SAM specification, section 4.1.2


@contextmanager
def open_whole(path: str | Path) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed if it begins as gzip or bgzip does, whatever its name.

    Reading inside ``with`` ends in an error wherever the compressed data end early: a gzip member says where it ends, and
    a bgzip file, whose blocks are members of their own, ends with an empty block.

    Raises
    ------
    ValueError
        Naming the file, if it is compressed and was cut or damaged.
    """
    with Path(path).open("rb") as file:
        head = file.read(18)
        if not head.startswith(_GZIP):
            file.seek(0)
            yield file
            return
        remedy = "the file was cut or damaged: copy or download it again"
        if head[12:16] == b"BC\x02\x00":
            file.seek(max(0, file.seek(0, os.SEEK_END) - len(_BGZF_END)))
            if file.read() != _BGZF_END:
                raise ValueError(f"{path}: the bgzip data end early, without the block that marks their end; {remedy}")
        file.seek(0)
        try:
            with gzip.open(file) as stream:
                yield stream  # type: ignore[misc]
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: the gzip data cannot be read to their end ({error}); {remedy}") from error


def cached_folder(kind: str, key: dict, build: Callable[[Path], None], cache_dir: str | Path | None = None) -> Path:
    """The folder that `build` filled for this key, building it if it is not there.

    Several processes may ask at the same time: one builds, the others wait for it. The folder appears at once and whole
    (built beside, then renamed), so that where locks mean nothing, as on some network drives, whoever comes second
    throws its own copy away.

    Raises
    ------
    OSError
        Naming the cache folder and how to choose another, where it cannot be written.
    """
    from filelock import FileLock

    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    target = cache_root(cache_dir) / kind / digest
    if (target / "key.json").is_file():
        return target
    lock = FileLock(target.parent / f".{digest}.lock")
    with _explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        return target if (target / "key.json").is_file() else _built(target, key, build)
    finally:
        lock.release()


@contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Name the cache and the remedy in the error of a folder that cannot be written."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            error.errno,
            f"the cache folder {target.parents[1]} cannot be written ({reason}); name another by BMFM_CACHE=FOLDER, or data.cache_dir of a genome",
        ) from error


def _built(target: Path, key: dict, build: Callable[[Path], None]) -> Path:
    with _explained(target):
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        build(partial)
        (partial / "key.json").write_text(json.dumps(key, indent=1))
        try:
            partial.rename(target)
        except OSError:
            if not (target / "key.json").is_file():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


@contextmanager
def naming(file: str | Path, part: str = "", remedy: str = "it was cut or damaged, copy or download it again") -> Iterator[None]:
    """What libraries raise about a file becomes an error that names it: they have errors of any kind, and most name no file.

    Parameters
    ----------
    file
        As it is to be named.
    part
        What of it is read.
    remedy
        What is most likely wrong, and what to do.

    Raises
    ------
    ValueError
        In place of any other exception inside ``with``, but one of ours, which names the file already, and a package that is missing.
    """
    try:
        yield
    except ImportError:
        raise
    except Exception as error:
        if type(error) in (ValueError, FileNotFoundError, KeyError) and str(file) in str(error):
            raise
        where, said = f"{file}, {part}" if part else str(file), " ".join(str(error).split())[:300]
        raise ValueError(f"{where} cannot be read ({type(error).__name__}: {said}): {remedy}") from error
