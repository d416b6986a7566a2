"""Tables of sequences and labels: CSV, TSV and Parquet, beside Python's csv and pyarrow."""

import bz2
import csv
import gzip
import io
import lzma
from pathlib import Path
from random import Random

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from bmfm.data.tables import read_as_written, read_table, suffix_of
from tests.fuzz.harness import Files, Target, oracle, quickly, refusing, same
from tests.fuzz.mutations import BINARY, damaged, pressed


def _rows(random: Random) -> list[list[str]]:
    cell = lambda: random.choice(["rich", "poor", "001", "NA", "", "1e5", "0.25", '"a,b"', "é"])  # noqa: E731
    return [
        ["".join(random.choices("ACGTN", k=random.randrange(1, 20))), cell(), str(random.randrange(9))]
        for _ in range(random.randrange(1, 9))
    ]


def make_table(random: Random) -> Files:
    kind, separator = random.choice([("csv", ","), ("csv", ","), ("tsv", "\t")])
    suffix = random.choice(["", "", "", ".gz", ".bz2", ".xz"])
    lines = [["sequence", "label", "number"], *_rows(random)]
    text = random.choice(["\n", "\n", "\r\n"]).join(separator.join(cells) for cells in lines) + "\n"
    return {f"x.{kind}{suffix}": pressed(damaged(text.encode(), random), suffix, random)}


def make_parquet(random: Random) -> Files:
    sequence, label, number = zip(*_rows(random), strict=True)
    columns = {"sequence": pa.array(sequence), "label": pa.array(label).dictionary_encode() if random.randrange(2) else pa.array(label)}
    columns["number"] = random.choice(
        [pa.array(map(int, number)), pa.array(map(float, number)), pa.array([[1], None] * len(number))[: len(number)]]
    )
    sink = io.BytesIO()
    pq.write_table(
        pa.table(columns),
        sink,
        compression=random.choice(["snappy", "none", "zstd", "gzip"]),
        write_page_checksum=bool(random.randrange(2)),
    )
    return {"x.parquet": damaged(sink.getvalue(), random, BINARY)}


OPEN = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}


def check_table(folder: Path) -> bool:
    file = next(iter(folder.iterdir()))
    with refusing(str(file)):
        read = read_table(file, sequences=["sequence"], ids=["label"])
        read_table(file, sequences=[0])
        if suffix_of(file) != ".parquet":
            same(list(read_as_written(file, "label", ["sequence"])), list(read["label"]), "labels as they are written")
    if suffix_of(file) == ".parquet":
        theirs = oracle(lambda: pq.read_table(file).to_pydict())
        if theirs is not None:
            same(list(read["sequence"]), ["".join(s.split()) for s in theirs["sequence"]], "sequences")
            same([str(x) for x in read["label"] if not pd.isna(x)], [x for x in theirs["label"] if x is not None], "labels")
        return True
    raw = OPEN.get(file.suffix, bytes)(file.read_bytes())
    rows = oracle(lambda: by_csv(raw, "\t" if ".tsv" in file.name else ","))
    if rows is not None:
        header, *rows = rows
        same([str(c) for c in read.columns], header, "columns")
        same([list(pair) for pair in zip(read["sequence"], read["label"], strict=True)], [["".join(r["sequence"].split()), r["label"]] for r in (dict(zip(header, row, strict=False)) for row in rows)], "rows")  # fmt: skip
    return True


def by_csv(raw: bytes, separator: str) -> list[list[str]] | None:
    """Header and rows by Python's csv; None where the file is not so plain that all readers agree."""
    text = raw.decode("utf-8-sig").rstrip("\r\n ")
    rows = [row or [""] for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)]
    plain = len(set(rows[0])) == len(rows[0]) and "" not in rows[0] and all(len(row) == len(rows[0]) for row in rows)
    return rows if plain else None


TABLE = Target("table", make_table, check_table)
PARQUET = Target("parquet", make_parquet, check_table)

test_table = quickly(TABLE)
test_parquet = quickly(PARQUET)
