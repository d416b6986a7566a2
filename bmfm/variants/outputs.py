"""Scores into files, shard by shard: a VCF with all that it had, or tables; a file appears whole and under its name at the end."""

import gzip
from abc import ABC, abstractmethod
from io import TextIOWrapper
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from bmfm.variants.reading import Records

INFO: dict[str, tuple[str, str, str]] = {
    "llr": ("LLR", "Float", "log p(ALT) - log p(REF) in nats, mean of the strands; negative: ALT is less expected"),
    "llr_fwd": ("LLR_FWD", "Float", "The same on the forward strand"),
    "llr_rc": ("LLR_RC", "Float", "The same on the reverse strand"),
    "emb_l2": ("L2", "Float", "Euclidean distance of the states with REF and with ALT"),
    "emb_cos": ("COS", "Float", "Cosine distance of the states with REF and with ALT"),
    "jsd": ("JSD", "Float", "Mean Jensen-Shannon divergence, in nats, of what is predicted around REF and around ALT"),
    "pop": ("POP", "Float", "log p(REF and ALT both) - log p(REF alone): polymorphism, not harm"),
    "quantile": ("Q", "Float", "Share of random variants of the same context whose score is nearer to 0"),
    "method": ("METHOD", "String", "Rule of the log-likelihood ratio"),
    "dtok": ("DTOK", "Integer", "Tokens with ALT less tokens with REF"),
    "status": ("STATUS", "String", "OK, or why there is no score"),
}
"""Columns of scores as INFO fields: name, type, what it is."""

TABLES = (".parquet", ".tsv", ".csv", ".tsv.gz", ".csv.gz")
VCFS = (".vcf", ".vcf.gz", ".bcf")
LAYOUTS = ("full", "traitgym", "cadd")


def info_field(column: str) -> tuple[str, str, str] | None:
    """The INFO field of a column; None for one that is not written there."""
    if column.startswith("head_"):
        return column.upper(), "Float", f"Change of {column.removeprefix('head_')} from REF to ALT"
    return INFO.get(column)


class Output(ABC):
    """A file that is written shard by shard.

    Attributes
    ----------
    path
        Where it appears once `close` was called.
    """

    endings: ClassVar[tuple[str, ...]]

    def __init__(self, path: Path):
        self.path = path
        self.partial = path.with_name(f".{path.name}.partial")

    @abstractmethod
    def write(self, records: Records, first: np.ndarray, table: pd.DataFrame) -> None:
        """Add a shard; record r has the rows ``first[r]:first[r + 1]`` of the table."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file under its name."""


class TableOutput(Output):
    """One row an ALT.

    Parameters
    ----------
    layout
        ``full``; ``traitgym``: scores alone, in the order of the input; ``cadd``: ``#Chrom Pos Ref Alt RawScore PHRED``, where RawScore is
        -llr and PHRED is -10 log10(rank / N) within the file.
    """

    endings = TABLES

    def __init__(self, path: Path, layout: str = "full"):
        super().__init__(path)
        if layout not in LAYOUTS:
            raise ValueError(f"layout={layout!r} is unknown; choose from {', '.join(LAYOUTS)}")
        self.layout = layout
        self.writer: Any = None
        self.kept: list[pd.DataFrame] = []

    def write(self, records: Records, first: np.ndarray, table: pd.DataFrame) -> None:
        if self.layout == "cadd":
            self.kept.append(table[["chrom", "pos", "ref", "alt", "llr"]])
        else:
            names = {"chrom", "pos", "id", "ref", "alt", "kind", "status", "method"}
            self._append(table if self.layout == "full" else table[[c for c in table if c not in names]])

    def _append(self, table: pd.DataFrame) -> None:
        if self.path.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            rows = pa.Table.from_pandas(table, preserve_index=False)
            self.writer = self.writer or pq.ParquetWriter(self.partial, rows.schema)
            self.writer.write_table(rows)
            return
        is_first = self.writer is None
        if self.writer is None:
            self.file = self.partial.open("wb")
            stream: Any = gzip.GzipFile("", "wb", fileobj=self.file, mtime=0) if self.path.suffix == ".gz" else self.file
            self.writer = TextIOWrapper(stream, newline="")
        separator = "," if self.path.name.removesuffix(".gz").endswith(".csv") else "\t"
        table.to_csv(self.writer, sep=separator, index=False, header=is_first, float_format="%.6g", lineterminator="\n")

    def close(self) -> None:
        if self.layout == "cadd":
            self._append(as_cadd(pd.concat(self.kept, ignore_index=True)))
        if self.writer is not None:
            self.writer.close()
            if self.path.suffix == ".gz":
                self.file.close()  # which gzip leaves open
            self.partial.replace(self.path)


def as_cadd(table: pd.DataFrame) -> pd.DataFrame:
    """Scores in the columns of CADD's files; rows without a score are left out, as there."""
    scored = table[table["llr"].notna()]
    raw = -scored["llr"]
    rank = raw.rank(ascending=False, method="max")
    phred = -10 * np.log10(rank / len(raw))
    columns = {"#Chrom": "chrom", "Pos": "pos", "Ref": "ref", "Alt": "alt"}
    return pd.DataFrame({new: scored[old] for new, old in columns.items()} | {"RawScore": raw, "PHRED": phred.abs()})


class VcfOutput(Output):
    """Every record of the input as it is, with scores in INFO, one value an ALT.

    Parameters
    ----------
    header
        Lines of the input's header; None where it is no VCF: one is made.
    prefix
        Of the INFO fields.
    facts
        {what: value}, of the line ``##bmfm_score``.
    contigs
        [(name, length)] of the genome, for a header that declares none.
    """

    endings = VCFS

    def __init__(self, path: Path, header: list[str] | None, prefix: str, facts: dict[str, Any], contigs: list[tuple[str, int]]):
        super().__init__(path)
        self.prefix, self.facts, self.is_plain = prefix, facts, path.name.endswith(".vcf")
        self.header = header or ["##fileformat=VCFv4.3", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
        if taken := [line for line in self.header if line.startswith(f"##INFO=<ID={prefix}_")]:
            raise ValueError(
                f"{path}: the input has the INFO field {taken[0][11:].split(',')[0]} already, from scores that were written before; choose "
                f"info_prefix={prefix}2, or remove it: bcftools annotate -x INFO/{taken[0][11:].split(',')[0]} ..."
            )
        if not any(line.startswith("##contig=") for line in self.header):
            self.header[-1:-1] = [f"##contig=<ID={name},length={length}>" for name, length in contigs]
        self.writer: Any = None
        self.last: tuple[str, int] | None = None
        self.done: set[str] = set()
        self.is_sorted = True
        self.end = 0

    def _open(self, fields: dict[str, tuple[str, str, str]]) -> None:
        import pysam

        declared = [f'##INFO=<ID={self.prefix}_{n},Number=A,Type={kind},Description="{text}">' for n, kind, text in fields.values()]
        said = ",".join(f'{name}="{value}"' for name, value in self.facts.items())
        lines = [*self.header[:-1], *declared, f"##bmfm_score=<ID={self.prefix},{said}>", self.header[-1]]
        self.writer = self.partial.open("wb") if self.is_plain else pysam.BGZFile(str(self.partial), "wb", None)
        self.writer.write(("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))

    def write(self, records: Records, first: np.ndarray, table: pd.DataFrame) -> None:
        fields = {column: field for column in table if (field := info_field(column))}
        if self.writer is None:
            self._open(fields)
        texts = info_texts(table, first, {c: f"{self.prefix}_{field[0]}={{}}" for c, field in fields.items()}, fields)
        lines = records.lines or [
            b"\t".join((c.encode(), b"%d" % p, i.encode(), r, a, b".", b".", b"."))
            for c, p, i, r, a in zip(records.contigs, records.positions.tolist(), records.ids, records.refs, records.alts, strict=True)
        ]
        out = []
        for line, text in zip(lines, texts, strict=True):
            columns = line.split(b"\t", 8)
            if text:
                columns[7] = text if columns[7] == b"." else columns[7].rstrip(b";") + b";" + text
            out.append(b"\t".join(columns))
        self.writer.write(b"\n".join(out) + b"\n")
        self._note_order(records)

    def _note_order(self, records: Records) -> None:
        """Whether records are in the order that an index needs."""
        if self.is_sorted:
            contigs = np.array(records.contigs)
            begins = np.flatnonzero(np.append(True, contigs[1:] != contigs[:-1]))
            for begin, end in zip(begins, np.append(begins[1:], len(contigs)), strict=True):
                name, positions = str(contigs[begin]), records.positions[begin:end]
                goes_on = self.last is not None and self.last[0] == name
                if (
                    (not goes_on and name in self.done)
                    or (goes_on and self.last and positions[0] < self.last[1])
                    or (np.diff(positions) < 0).any()
                ):
                    self.is_sorted = False
                self.done.add(name)
                self.last = (name, int(positions[-1]))
        self.end = max(self.end, int(records.positions.max(initial=0)))

    def close(self) -> None:
        import pysam
        import pysam.bcftools

        if self.writer is None:
            self._open({})
        self.writer.close()
        if self.path.suffix == ".bcf":
            pysam.bcftools.view("-Ob", "-o", f"{self.partial}.bcf", "--no-version", str(self.partial), catch_stdout=False)
            self.partial.unlink()
            Path(f"{self.partial}.bcf").replace(self.path)
            if self.is_sorted:
                pysam.bcftools.index("-f", str(self.path))
            return
        self.partial.replace(self.path)
        if self.is_sorted and not self.is_plain:
            pysam.tabix_index(str(self.path), preset="vcf", force=True, csi=self.end > 1 << 29)


def info_texts(table: pd.DataFrame, first: np.ndarray, forms: dict[str, str], fields: dict[str, tuple[str, str, str]]) -> list[bytes]:
    """INFO of every record, from the rows of its ALTs; nothing for a record without ALT."""
    written = {}
    for column, (_, kind, _) in fields.items():
        values = table[column]
        if kind == "String":
            written[column] = [v or "." for v in values]
        elif kind == "Integer":
            written[column] = ["." if v != v else f"{v:.0f}" for v in values.tolist()]
        else:
            written[column] = ["." if v != v else f"{v:.6g}" for v in values.tolist()]
    form, columns = ";".join(forms.values()).format, list(written.values())
    if len(first) - 1 == len(table) and (np.diff(first) == 1).all():
        return [form(*row).encode() for row in zip(*columns, strict=True)]
    texts = []
    for begin, end in zip(first[:-1].tolist(), first[1:].tolist(), strict=True):
        texts.append(form(*(",".join(values[begin:end]) for values in columns)).encode() if end > begin else b"")
    return texts
