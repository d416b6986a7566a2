"""FASTA and FASTQ files, read piece by piece."""

from collections.abc import Iterator
from pathlib import Path

from bmfm.files import open_whole

_CHUNK = 1 << 22
_BOM = b"\xef\xbb\xbf"  # by which some systems begin a text


def fasta_pieces(path: Path) -> Iterator[tuple[str | None, bytes]]:
    """Headers and sequence of a FASTA file (plain, gzip or bgzip; lines end as on any system), in their order.

    Yields
    ------
    name, sequence
        The name (first word of the header, UTF-8 or Latin-1) of a record that begins, with no bytes; or None and some
        bytes of the record's sequence, line ends among them. ``>`` begins a header at the start of a line only.

    Raises
    ------
    ValueError
        If the file holds no record, does not begin with ``>``, has a header without name, or ends with a header.
    """
    n_records, header, at_line_start, has_sequence, first = 0, None, True, True, True
    with open_whole(path) as source:
        while data := source.read(_CHUNK):
            if first:
                data, first = data.removeprefix(_BOM), False
            if b"\r" in data:
                data = data.replace(b"\r", b"\n")  # an empty line more, where they end in both
            start = 0
            while start < len(data):
                if header is None and at_line_start and data[start] == ord(">"):
                    header = b""
                    start += 1
                if header is not None:
                    newline = data.find(b"\n", start)
                    stop = len(data) if newline < 0 else newline
                    header += data[start:stop]
                    at_line_start = newline >= 0
                    if newline >= 0:
                        n_records += 1
                        has_sequence = False
                        yield _name(header, path, n_records), b""
                        header = None
                    start = stop + 1
                    continue
                following = data.find(b"\n>", start)
                stop = len(data) if following < 0 else following + 1
                piece = data[start:stop]
                blank = not piece.strip()
                if not n_records and not blank:
                    raise ValueError(f"{path}: not a FASTA file, it does not begin with '>' but with {piece.lstrip()[:20]!r}")
                has_sequence |= not blank
                at_line_start = piece.endswith(b"\n")
                if n_records:
                    yield None, piece
                start = stop
    if header is not None:
        n_records += 1
        _name(header, path, n_records)
    if not n_records:
        raise ValueError(f"{path}: no sequence in the file")
    if header is not None or not has_sequence:
        raise ValueError(f"{path}: record {n_records}, the last, has a header and no sequence: the file was cut, or remove that line")


def _name(header: bytes, path: Path, number: int) -> str:
    words = header.split()
    if not words:
        raise ValueError(f"{path}: sequence number {number} has no name after '>'")
    try:
        return words[0].decode()
    except UnicodeDecodeError:
        return words[0].decode("latin-1")


def read_records(path: Path) -> Iterator[tuple[str, str]]:
    """Name and sequence of every record of a FASTA file, or of a FASTQ file with four lines a record.

    Raises
    ------
    ValueError
        As `fasta_pieces`; also where a record of FASTQ is not whole, or a sequence holds bytes that are no ASCII.
    """
    with open_whole(path) as source:
        is_fastq = source.read(4).removeprefix(_BOM)[:1] == b"@"
    if is_fastq:
        yield from _fastq_records(path)
        return
    name, parts = None, []
    for header, piece in fasta_pieces(path):
        if header is None:
            parts.append(piece)
            continue
        if name is not None:
            yield name, _joined(parts, path, name)
        name, parts = header, []
    yield str(name), _joined(parts, path, str(name))


def _joined(parts: list[bytes], path: Path, name: str) -> str:
    try:
        return b"".join(parts).translate(None, b"\n \t").decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: the sequence of {name!r} is no text: {error}") from error


def _fastq_records(path: Path) -> Iterator[tuple[str, str]]:
    with open_whole(path) as source:
        lines = (line for some in source for line in some.rstrip(b"\r\n").removeprefix(_BOM).split(b"\r"))
        for number, header in enumerate(lines, start=1):
            if not header:
                continue
            sequence, plus, quality = (next(lines, b"") for _ in range(3))
            if header[:1] != b"@" or plus[:1] != b"+" or len(sequence) != len(quality):
                raise ValueError(f"{path}: record {number} is no FASTQ of four lines; make it FASTA, as by samtools fasta")
            yield _name(header[1:], path, number), _joined([sequence], path, header.decode("latin-1"))
