"""Damage as files meet it: flipped bits, cuts, lines twice or in another order, huge numbers, other line ends, other encodings."""

import bz2
import gzip
import json
import lzma
import struct
from collections.abc import Callable
from random import Random
from typing import Any

WORDS = [
    b"", b"\0", b"\xff", b"\xe9", b"\xef\xbb\xbf", b"\r\n", b"\r", b"\n", b"\n\n", b"\t", b" ", b",", b";", b":", b"|", b"/", b".", b"-", b"+",
    b"#", b">", b"@", b'"', b"'", b"=", b"nan", b"NA", b"inf", b"-1", b"0", b"1e400", b"1e-400", b"2147483648", b"9223372036854775808",
    b"9" * 30, b"9" * 5000, b"chr1", b"\xc2\x85", b"\xe2\x80\xa8", b"\x0b", b"\x1c", "é".encode(), "名".encode(), "１２".encode(), b"1_000", b"\\N",
]  # fmt: skip
"""What is written over, or between, the bytes of a file."""
NUMBERS = [0, 1, 7, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1]
VALUES = [
    None, True, False, 0, -1, 1, 3, 2**31, 2**63, 10**400, 0.5, -0.5, 1e308, float("nan"), float("inf"), "", "x", "0", "é", "\0", "\ud800", "../x", [], [[]],
    {}, {"a": {}}, [None], [-1], ["x"], [1e400], "a" * 5000,
]  # fmt: skip
"""What stands in place of a setting."""


def place(random: Random, size: int) -> int:
    """A place in so many bytes; the beginning, where headers are, is as likely as the rest."""
    return random.randrange(min(size, 512) if random.randrange(2) else size) if size else 0


def _flip(data: bytearray, random: Random) -> None:
    if data:
        data[place(random, len(data))] ^= 1 << random.randrange(8)


def _byte(data: bytearray, random: Random) -> None:
    if data:
        data[place(random, len(data))] = random.choice([0, 9, 10, 13, 32, 48, 255, random.randrange(256)])


def _cut(data: bytearray, random: Random) -> None:
    del data[random.randrange(len(data) + 1) :]


def _remove(data: bytearray, random: Random) -> None:
    at = place(random, len(data))
    del data[at : at + random.choice([1, 1, 2, 8, 100, 5000])]


def _repeat(data: bytearray, random: Random) -> None:
    at = place(random, len(data))
    data[at:at] = data[at : at + random.choice([1, 4, 30, 300])] * random.choice([1, 1, 3, 50])


def _word(data: bytearray, random: Random) -> None:
    at, word = place(random, len(data)), random.choice(WORDS)
    data[at : at + random.choice([0, 0, 1, len(word)])] = word


def _number(data: bytearray, random: Random) -> None:
    """A number over a field of a binary file."""
    form = random.choice(["<B", "<H", "<I", "<Q"])
    at, number = place(random, len(data)), random.choice(NUMBERS) & ((1 << 8 * struct.calcsize(form)) - 1)
    data[at : at + struct.calcsize(form)] = struct.pack(form, number)


def _lines(data: bytearray, random: Random) -> None:
    """A line left out, twice, joined with its neighbour, or in another place."""
    lines = bytes(data).splitlines(keepends=True)
    if len(lines) < 2:
        return
    a, b = random.randrange(len(lines)), random.randrange(len(lines))
    match random.randrange(4):
        case 0:
            del lines[a]
        case 1:
            lines.insert(b, lines[a])
        case 2:
            lines[a], lines[b] = lines[b], lines[a]
        case 3:
            lines[a] = lines[a].rstrip(b"\r\n")
    data[:] = b"".join(lines)


def _cells(data: bytearray, random: Random) -> None:
    """A word in place of a cell of a table."""
    lines = bytes(data).split(b"\n")
    row = random.randrange(len(lines))
    separator = max((b"\t", b",", b" "), key=lines[row].count)
    cells = lines[row].split(separator)
    cells[random.randrange(len(cells))] = random.choice(WORDS)
    lines[row] = separator.join(cells)
    data[:] = b"\n".join(lines)


def _line_ends(data: bytearray, random: Random) -> None:
    data[:] = bytes(data).replace(b"\n", random.choice([b"\r\n", b"\r", b"\n\n"]))


def _empty(data: bytearray, random: Random) -> None:
    data.clear()


BINARY: list[Callable[[bytearray, Random], None]] = [_flip, _flip, _byte, _cut, _remove, _repeat, _word, _number, _number, _empty]
TEXT: list[Callable[[bytearray, Random], None]] = [_flip, _byte, _cut, _remove, _repeat, _word, _word, _lines, _lines, _cells, _cells, _cells, _line_ends, _empty]  # fmt: skip


def damaged(data: bytes, random: Random, ways: list = TEXT, most: int = 3) -> bytes:
    """The bytes after up to so many damages; one file in four is whole."""
    out = bytearray(data)
    for _ in range(random.choice([0, *range(1, most + 1)])):
        random.choice(ways)(out, random)
    return bytes(out)


def damaged_json(content: Any, random: Random) -> Any:
    """An object of JSON in which something is left out, added or of another kind."""
    content = json.loads(json.dumps(content))
    for _ in range(random.choice([1, 1, 2])):
        part, parents = content, []
        while isinstance(part, dict | list) and part and (not parents or random.randrange(4)):
            key = random.choice(list(part)) if isinstance(part, dict) else random.randrange(len(part))
            parents.append((part, key))
            part = part[key]
        if not parents:
            return random.choice(VALUES)
        holder, key = parents[-1]
        match random.randrange(6):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[random.choice(["x", "_target_", "attn_implementation", "auto_map", "", "size"])] = holder[key]
            case 2 if isinstance(part, int | float) and not isinstance(part, bool):
                holder[key] = part + random.choice([-1, 1, 0.5, -part, 10**9])
            case _:
                holder[key] = random.choice(VALUES)
    return content


def bgzip(data: bytes, size: int = 65280) -> bytes:
    """Blocks of bgzip (SAM specification, section 4.1) and the empty one that ends them."""
    import zlib

    out = []
    for part in [*(data[i : i + size] for i in range(0, len(data), size)), b""]:
        pressed = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = pressed.compress(part) + pressed.flush()
        head = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + struct.pack("<H", len(body) + 25)
        out.append(head + body + struct.pack("<II", zlib.crc32(part), len(part)))
    return b"".join(out)


PRESSED = {"": bytes, ".gz": gzip.compress, ".bgz": bgzip, ".bz2": bz2.compress, ".xz": lzma.compress}
"""Compression by the suffix of a file."""


def pressed(data: bytes, suffix: str, random: Random) -> bytes:
    """The bytes compressed, and one time in four damaged after that."""
    out = PRESSED[suffix](data)
    return damaged(out, random, BINARY, 1) if suffix and not random.randrange(4) else out
