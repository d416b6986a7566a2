"""The header of a VCF or BCF: its samples, the INFO fields that it declares, and the dictionaries of BCF."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

_ID = re.compile(r"[<,]ID=([^,>]+)")
_IDX = re.compile(r",IDX=([0-9]{1,9})>\s*$")
_COLUMNS = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO"]


@dataclass
class Header:
    """What a header declares.

    Attributes
    ----------
    samples
        Names, in order of their columns.
    info
        INFO fields, each with its Type; a flag has the Type ``Flag``.
    is_bcf
        Whether the records are binary.
    contigs, keys
        Dictionaries of a BCF: name of each contig number, number of each FILTER, INFO or FORMAT name.
    """

    samples: tuple[str, ...] = ()
    info: dict[str, str] = field(default_factory=dict)
    is_bcf: bool = False
    contigs: dict[int, str] = field(default_factory=dict)
    keys: dict[str, int] = field(default_factory=lambda: {"PASS": 0})


def read_header(path: Path, pieces: Iterator[tuple[bytes, int]]) -> tuple[Header, bytes]:
    """The header, and the bytes that were read beyond it.

    Raises
    ------
    ValueError
        If the file is no VCF or BCF; names it and says what is missing.
    """
    data = b""
    for piece, _ in pieces:
        data = (data + piece).removeprefix(b"\xef\xbb\xbf")
        if len(data) > 16 and not data.startswith((b"##fileformat=VCF", b"BCF\x02")):
            break
        if data.startswith(b"BCF\x02"):
            if len(data) >= 9 and len(data) >= (end := 9 + int.from_bytes(data[5:9], "little")):
                return _parse(path, data[9:end].rstrip(b"\0"), True), data[end:]
        elif (at := data.find(b"\n#CHROM")) >= 0 and (end := data.find(b"\n", at + 1) + 1):
            return _parse(path, data[:end], False), data[end:]
    if not data.startswith((b"##fileformat=VCF", b"BCF\x02")):
        raise ValueError(f"{path}: cannot be read as VCF or BCF: its first line is not ##fileformat=VCF...")
    if data.find(b"\n#CHROM") >= 0:  # a header and nothing else, without a newline
        return _parse(path, data, False), b""
    if b"\n" not in data and b"\r" in data:
        raise ValueError(
            f"{path}: cannot be read as VCF: its lines end in carriage returns alone; rewrite it: tr '\\r' '\\n' < {path.name} > new.vcf"
        )
    raise ValueError(f"{path}: cannot be read as VCF or BCF: its header has no #CHROM line, or ends early")


def _parse(path: Path, text: bytes, is_bcf: bool) -> Header:
    header = Header(is_bcf=is_bcf)
    contigs: set[str] = set()
    for line in text.decode("utf-8", "replace").replace("\r\n", "\n").split("\n"):
        if line.startswith("#CHROM"):
            columns = line.split("\t")
            if len(columns) < 8:
                raise ValueError(f"{path}: cannot be read as VCF: its #CHROM line has {len(columns)} columns of 8, apart by tabs")
            if columns[:8] != _COLUMNS:
                raise ValueError(
                    f"{path}: cannot be read as VCF: its #CHROM line names {' '.join(columns[:8])!r}, not {' '.join(_COLUMNS)}"
                )
            header.samples = tuple(columns[9:])
            continue
        section, _, rest = line.removeprefix("##").partition("=")
        if section not in ("INFO", "FILTER", "FORMAT", "contig"):
            continue
        if not rest.startswith("<"):  # VCF 3: ##INFO=AF,1,Float,"what it is"
            words = rest.split(",")
            if section == "INFO" and len(words) > 2:
                header.info[words[0]] = words[2]
            continue
        if not (match := _ID.search(rest)):
            continue
        name, index = match[1], _IDX.search(rest)
        if section == "INFO":
            kind = re.search(r"[<,]Type=(\w+)", rest)
            header.info.setdefault(name, kind[1] if kind else "")
        if section == "contig":
            if name not in contigs:
                contigs.add(name)
                header.contigs[int(index[1]) if index else len(header.contigs)] = name
        elif name not in header.keys:
            header.keys[name] = int(index[1]) if index else len(header.keys)
    return header
