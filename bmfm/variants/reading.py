"""Variants as users have them, VCF, BCF, tables or texts, as shards of records; every record in its order, none left out."""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.data.tables import read_text
from bmfm.files import naming, require_file
from bmfm.genome.vcf_header import read_header
from bmfm.genome.vcf_stream import cut_at_records, read_pieces

_POSITION = re.compile(rb"[0-9]{1,17}")

COLUMNS = {
    "chrom": ("chrom", "#chrom", "chr", "chromosome", "contig"),
    "pos": ("pos", "position"),
    "ref": ("ref", "reference", "ref_allele"),
    "alt": ("alt", "alternate", "alt_allele", "alternative"),
}
"""Names of the columns of tables, in any case."""


@dataclass
class Records:
    """R records, as they are written.

    Attributes
    ----------
    contigs : list of str [R]
    positions : int64 [R]
        1-based.
    ids : list of str [R]
        ``.`` where there is none.
    refs, alts : lists of bytes [R]
        ALTs of one record are apart by commas.
    lines : list of bytes [R], or None
        Of a VCF, without the end of the line.
    begin, end
        Which part of the input they are, from 0 to 1.
    """

    contigs: list[str]
    positions: np.ndarray
    ids: list[str]
    refs: list[bytes]
    alts: list[bytes]
    lines: list[bytes] | None = None
    begin: float = 0.0
    end: float = 1.0

    def __len__(self) -> int:
        return len(self.positions)


def read_variants(variants: Any, shard_size: int) -> Iterator[Records]:
    """Records in shards of about `shard_size` alleles.

    Raises
    ------
    ValueError, FileNotFoundError
        Naming the file and the record that cannot be read.
    """
    if isinstance(variants, str | Path):
        path = require_file(variants, "file of variants")
        if is_table(path):
            yield from table_records(read_table(path), str(path), shard_size)
        else:
            yield from VcfFile(path).shards(shard_size)
    elif isinstance(variants, pd.DataFrame):
        yield from table_records(variants, "the table of variants", shard_size)
    else:
        yield from table_records(_of_texts(list(variants)), "the list of variants", shard_size)


def is_table(path: Path) -> bool:
    """Whether a file is read as a table, by the end of its name."""
    return path.name.removesuffix(".gz").endswith((".tsv", ".csv", ".parquet", ".txt"))


def read_table(path: Path) -> pd.DataFrame:
    """A table of variants; texts stay as they are."""
    separator = "," if path.name.removesuffix(".gz").endswith(".csv") else "\t"
    with naming(path, remedy="it is no table of the kind that its name says, or it was damaged"):
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(BytesIO(read_text(path)), sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")


def _of_texts(texts: Sequence[Any]) -> pd.DataFrame:
    parts = [str(text).split(":") for text in texts]
    if wrong := [text for text, part in zip(texts, parts, strict=True) if len(part) != 4]:
        raise ValueError(f"variant {wrong[0]!r}: write chromosome:position:REF:ALT, as chr20:1000:A:G (the position counts from 1)")
    return pd.DataFrame(parts, columns=["chrom", "pos", "ref", "alt"])


def variant_columns(table: pd.DataFrame, where: str) -> dict[str, str]:
    """{chrom, pos, ref, alt: the column of the table}, by the names in `COLUMNS`.

    Raises
    ------
    ValueError
        Naming what is missing.
    """
    lower = {str(column).lower(): column for column in table.columns}
    found = {name: next((lower[a] for a in aliases if a in lower), None) for name, aliases in COLUMNS.items()}
    if absent := [name for name, column in found.items() if column is None]:
        raise ValueError(f"{where} has no column {', '.join(absent)}; it has {', '.join(map(str, table.columns))}. Rename what is meant")
    return {name: str(column) for name, column in found.items()}


def table_records(table: pd.DataFrame, where: str, shard_size: int) -> Iterator[Records]:
    """The rows of a table as records."""
    columns = variant_columns(table, where)
    positions = pd.to_numeric(table[columns["pos"]], errors="coerce").to_numpy(np.float64)
    if (bad := np.flatnonzero(~np.isfinite(positions) | (positions != np.round(positions)) | (np.abs(positions) > 1e15))).size:
        raise ValueError(f"{where}: row {bad[0] + 1} has the position {table[columns['pos']].iloc[bad[0]]!r}, a whole number is expected")
    texts = {name: table[columns[name]].astype(str).tolist() for name in ("chrom", "ref", "alt")}
    lower = {str(column).lower(): column for column in table.columns}
    ids = table[lower["id"]].astype(str).tolist() if "id" in lower else ["."] * len(table)
    for start in range(0, len(table), shard_size):
        part = slice(start, start + shard_size)
        yield Records(
            texts["chrom"][part], positions[part].astype(np.int64), ids[part], [t.encode() for t in texts["ref"][part]],
            [t.encode() for t in texts["alt"][part]], None, start / len(table), min(1.0, (start + shard_size) / len(table)),
        )  # fmt: skip


class VcfFile:
    """A VCF or BCF as its header and lines of text.

    Attributes
    ----------
    header
        Lines of the header, without their ends; the last begins with ``#CHROM``.
    """

    def __init__(self, path: Path):
        self.path = path
        with path.open("rb") as file:
            start = file.read(3)
        self.is_bcf = start == b"BCF" or path.name.endswith(".bcf")
        if self.is_bcf:
            import pysam

            with naming(path), pysam.VariantFile(str(path)) as source:
                self.header = str(source.header).rstrip("\n").split("\n")
        else:
            with ThreadPoolExecutor(1) as pool:
                pieces = read_pieces(path, pool, 1)
                data = b""
                for piece, _ in pieces:
                    data += piece
                    if (at := data.find(b"\n#CHROM")) >= 0 and data.find(b"\n", at + 1) >= 0:
                        break
                read_header(path, iter([(data, 0)]))
                end = data.find(b"\n", data.find(b"\n#CHROM") + 1)
                text = data if end < 0 else data[:end]
            self.header = [line.rstrip("\r") for line in text.decode("utf-8", "surrogateescape").split("\n")]

    def shards(self, shard_size: int) -> Iterator[Records]:
        """Its records, in shards of about so many alleles."""
        lines: list[bytes] = []
        n, number, begin, read = 0, 0, 0.0, 0.0
        for piece, at in self._pieces():
            for place, line in enumerate(piece, 1):
                lines.append(line)
                n += 1 + (line.split(b"\t", 5)[4].count(b",") if line.count(b"\t", 0, 4096) > 3 else 0)
                if n >= shard_size:
                    number, end = number + len(lines), read + (at - read) * place / len(piece)
                    yield self._records(lines, number, begin, end)
                    lines, n, begin = [], 0, end
            read = at
        if lines:
            yield self._records(lines, number + len(lines), begin, 1.0)

    def _pieces(self) -> Iterator[tuple[list[bytes], float]]:
        """Lines of records, some at a time, and which part of the file has been read."""
        if self.is_bcf:
            import pysam

            n = 0
            with pysam.VariantFile(str(self.path), threads=2) as source:
                while True:
                    n += 1
                    with naming(self.path, f"record {n}"):
                        record = next(source, None)
                        line = b"" if record is None else str(record).rstrip("\n").encode("utf-8", "surrogateescape")
                    if record is None:
                        return
                    yield [line], 0.0
        size = max(1, self.path.stat().st_size)
        with ThreadPoolExecutor(2) as pool:
            pieces = read_pieces(self.path, pool, 4)
            _, rest = read_header(self.path, pieces)
            for data, at in cut_at_records(pieces, rest, lambda piece: piece.rfind(b"\n") + 1, self.path):
                yield [line.removesuffix(b"\r") for line in data.split(b"\n") if line not in (b"", b"\r")], min(1.0, at / size)

    def _records(self, lines: list[bytes], last: int, begin: float, end: float) -> Records:
        """The columns of some lines, of which the last has that number in the file, from 1."""
        contigs, positions, ids, refs, alts = [], np.empty(len(lines), np.int64), [], [], []
        for i, line in enumerate(lines):
            columns = line.split(b"\t", 8)
            if len(columns) < 8 or not _POSITION.fullmatch(columns[1]):
                number = last - len(lines) + i + 1
                problem = "it has fewer than the 8 columns of a VCF, apart by tabs" if len(columns) < 8 else "its POS is no whole number"
                raise ValueError(f"{self.path}: record {number} ({line[:40].decode(errors='replace')!r}) cannot be read: {problem}")
            contig, position, name, ref, alt = columns[:5]
            positions[i] = int(position)
            contigs.append(contig.decode("utf-8", "replace"))
            ids.append(name.decode("utf-8", "replace"))
            refs.append(ref)
            alts.append(alt)
        return Records(contigs, positions, ids, refs, alts, lines, begin, end)
