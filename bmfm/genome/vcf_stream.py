"""Bytes of a VCF or BCF whatever its compression, in order and checked to the end; blocks of bgzip are inflated on threads."""

import gzip
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

from bmfm.files import open_whole

_READ = 1 << 19  # compressed bytes read at a time
_BLOCKS = 32  # of at most 64 KiB of text each, that are inflated as one piece
_BGZF = b"\x1f\x8b\x08\x04"
_BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")


def in_order(pool: Executor, call: Callable[[Any], Any], items: Iterable, ahead: int) -> Iterator:
    """Results of `call` on each item, in the order of the items; at most `ahead` calls run before they are asked for."""
    waiting: deque[Future] = deque()
    for item in items:
        waiting.append(pool.submit(call, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def read_pieces(path: Path, pool: Executor, ahead: int) -> Iterator[tuple[bytes, int]]:
    """Pieces of the inflated file, each with the number of bytes of the file itself that have been read.

    Raises
    ------
    ValueError
        If a compressed file is damaged or ends early; names the file.
    """
    with path.open("rb") as file:
        start = file.read(18)
        file.seek(0)
        if start.startswith(_BGZF) and start[12:16] == b"BC\x02\x00":
            try:
                yield from in_order(pool, _inflate, _block_groups(file), ahead)
            except (zlib.error, _Damaged) as error:
                raise ValueError(f"{path}: the bgzip data are cut or damaged ({error}); copy or download the file again") from None
            return
    with open_whole(path) as source:
        raw = source.fileobj if isinstance(source, gzip.GzipFile) else source
        while data := source.read(4 * _READ):
            yield data, raw.tell()


class _Damaged(Exception):
    """What is wrong with a compressed file."""


def _block_groups(source) -> Iterator[tuple[list[bytes], int]]:
    """Whole bgzip blocks, some at a time."""
    blocks: list[bytes] = []
    block, buffer, at, offset = b"", b"", 0, 0
    while True:
        if len(buffer) - at < 18 or len(buffer) - at < int.from_bytes(buffer[at + 16 : at + 18], "little") + 1:
            more = source.read(_READ)
            if not more:
                break
            buffer, at = buffer[at:] + more, 0
            continue
        if buffer[at : at + 4] != _BGZF or buffer[at + 12 : at + 16] != b"BC\x02\x00":
            raise _Damaged(f"no bgzip block at byte {offset:,}")
        size = int.from_bytes(buffer[at + 16 : at + 18], "little") + 1
        block = buffer[at : at + size]
        at, offset = at + size, offset + size
        blocks.append(block)
        if len(blocks) == _BLOCKS:
            yield blocks, offset
            blocks = []
    if blocks:
        yield blocks, offset
    if at < len(buffer):
        raise _Damaged("its last block is cut")
    if block != _BGZF_END:
        raise _Damaged("the mark that bgzip writes at the end is missing")


def _inflate(group: tuple[list[bytes], int]) -> tuple[bytes, int]:
    blocks, offset = group
    pieces = []
    for block in blocks:
        data = zlib.decompress(memoryview(block)[18:-8], wbits=-15, bufsize=65536)
        if zlib.crc32(data) != int.from_bytes(block[-8:-4], "little") or len(data) != int.from_bytes(block[-4:], "little"):
            raise _Damaged(f"a checksum before byte {offset:,} is wrong")
        pieces.append(data)
    return b"".join(pieces), offset


def cut_at_records(
    pieces: Iterable[tuple[bytes, int]], first: bytes, last_end: Callable[[bytes], int], path: Path, longest: int = 1 << 30
) -> Iterator[tuple[bytes, int]]:
    """The same bytes in pieces of whole records; whatever follows the last whole record comes as the last piece.

    Parameters
    ----------
    first
        Bytes that have been read before.
    last_end
        Where the last whole record of some bytes ends.
    path, longest
        For errors, and how many bytes a record may have.

    Raises
    ------
    ValueError
        If a record has more bytes than `longest`, as a damaged length says: the rest of the file is not read into memory.
    """
    parts, size, wanted, at = [first], len(first), 0, 0
    for data, at in pieces:
        parts.append(data)
        size += len(data)
        if size < wanted:  # part of a long record: it is joined when as much again is there, not for every piece
            continue
        joined = b"".join(parts)
        end = last_end(joined)
        if end:
            yield joined[:end], at
        parts, size = [joined[end:]], len(joined) - end
        wanted = 0 if end else 2 * size
        if size > longest:
            raise ValueError(f"{path}: a record of more than {longest:,} bytes: the file is damaged, copy or download it again")
    if size:
        yield b"".join(parts), at
