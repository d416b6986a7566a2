"""Reading of tables: CSV, TSV and Parquet, to the letter where that matters."""

from collections.abc import Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.files import naming, open_whole, require_file
from bmfm.tokenizers.texts import check_texts

FILE_NAMES = {"train": ("train",), "validation": ("dev", "validation", "valid", "val"), "test": ("test",)}
SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".parquet")
COMPRESSED = (".gz", ".bgz", ".bz2", ".xz", ".zip", ".zst")


def is_table(path: str | Path) -> bool:
    """Whether a file is a table of a kind that a sequence file is not (CSV, TSV, Parquet), by its suffix in either case."""
    return suffix_of(path) in (".csv", ".tsv", ".parquet")


def suffix_of(path: str | Path) -> str:
    """The last suffix in lower case, before that of a compression."""
    suffixes = [s.lower() for s in Path(path).suffixes]
    return next((s for s in reversed(suffixes) if s not in COMPRESSED), "")


def read_table(
    path: str | Path, text: Sequence[str] = (), sequences: Sequence[str | int] = (), ids: Sequence[str | int] = ()
) -> pd.DataFrame:
    """A CSV, TSV (by their suffix, compressed or not) or Parquet file.

    Lines of text may end in one more separator than the header has (as some programs write them): nothing stands behind it.
    Where something does, the file is refused, since either the header lacks a name, or (``write.table`` of R) the first
    column is one of row names, and no one can tell which. Blank lines at the end are no rows.

    Parameters
    ----------
    text
        Columns that are not read as numbers; what stands for "no value" (empty, ``NA``) is missing.
    sequences
        Columns, by name or place, that hold sequences: read to the letter but for white space, which is left out, and
        refused where one is missing or no text (see `tokenizers.texts.check_texts`).
    ids
        Columns, by name or place, that are read to the letter: ``001``, ``1e5`` and ``NA`` stay what they are.

    Raises
    ------
    KeyError
        If there is no such column of sequences or ids.
    ValueError
        Naming the file and, where it is known, the row.
    """
    file = require_file(path, "table (CSV, TSV or Parquet)")
    is_parquet = suffix_of(file) == ".parquet"
    with naming(file, remedy="it is no table of the kind that its name says, or it was damaged"):
        table = _read_parquet(file) if is_parquet else _read_lines(file, text, sequences, ids)
    _names(file, table, ids, "data.id")
    for name in _names(file, table, sequences, "data.sequence"):
        table[name] = check_texts(table[name], partial(_cell, file, name, 1 if is_parquet else 2))
    return table


def _read_parquet(file: Path) -> pd.DataFrame:
    """A Parquet file; pages that have a checksum are held against it."""
    return pd.read_parquet(file, page_checksum_verification=True)


def _names(file: Path, table: pd.DataFrame, columns: Sequence[str | int], option: str) -> list[str]:
    """Names of columns that are given by name or place."""
    names = [table.columns[c] if isinstance(c, int) else c for c in columns]
    if absent := [n for n in names if n not in table]:
        raise KeyError(f"{file} has no column {absent[0]!r}; it has {', '.join(map(str, table.columns))}. Name it by {option}")
    return names


def _cell(file: Path, column: str, first: int, number: int) -> str:
    return f"{file}: row {number + first}, column {column}"


def _read_lines(file: Path, text: Sequence[str], sequences: Sequence[str | int], ids: Sequence[str | int]) -> pd.DataFrame:
    data = read_text(file).rstrip(b"\r\n ")  # blank lines at the end; an empty cell has quotes or a separator
    options: dict[str, Any] = {
        "sep": "\t" if suffix_of(file) in (".tsv", ".txt", ".tab") else ",",
        "encoding": "utf-8-sig",
        "skip_blank_lines": not sequences,  # in a table of one column, an empty line is a missing sequence
    }
    head = pd.read_csv(BytesIO(data), nrows=1, **options)
    letters = [*_names(file, head, sequences, "data.sequence"), *_names(file, head, ids, "data.id")]
    options |= {"dtype": {c: str for c in text if c not in letters}, "converters": dict.fromkeys(letters, str)}
    if isinstance(head.index, pd.RangeIndex):
        return pd.read_csv(BytesIO(data), **options)
    # pandas takes the first columns for an index where the first line has more cells than the header
    more = [f"cell {len(head.columns) + i + 1}" for i in range(head.index.nlevels)]
    options["converters"] |= dict.fromkeys(more, str.strip)
    table = pd.read_csv(BytesIO(data), header=0, names=[*head.columns, *more], index_col=False, **options)
    overfull = np.flatnonzero(table[more].fillna("").ne("").any(axis=1))
    if len(overfull):
        remedy = "Give every column a name"
        if len(more) == 1:
            remedy += "; names of rows, as R writes them, too: write.csv, or write.table(..., col.names=NA)"
        raise ValueError(
            f"{file}: row {int(overfull[0]) + 2} has more cells than the header has names ({', '.join(map(str, head.columns))}), so that "
            f"which is which is not known. {remedy}"
        )
    return table[list(head.columns)]


def read_as_written(file: Path, column: str, sequences: Sequence[str | int]) -> np.ndarray:
    """A column of a CSV or TSV to the letter, object [n]; `sequences` as for `read_table`, so that the rows are the same."""
    return _read_lines(file, (), sequences, [column])[column].to_numpy(object)


def read_text(file: Path) -> bytes:
    """The bytes of a table of text, decompressed by its suffix or its beginning.

    Raises
    ------
    ValueError
        Naming file and row, of a NUL byte: pandas would leave out the rest of the cell.
    """
    data = _read_bytes(file)
    if (at := data.find(b"\0")) >= 0:
        row = data.count(b"\n", 0, at) + 1
        raise ValueError(f"{file}: row {row} holds a NUL byte: it is damaged, or UTF-16 (to have UTF-8: iconv -f UTF-16 -t UTF-8)")
    return data


def _read_bytes(file: Path) -> bytes:
    if file.suffix.lower() in (".bz2", ".xz", ".zip", ".zst"):
        from pandas.io.common import get_handle

        with get_handle(file, "rb", compression="infer", is_text=False) as opened:
            return opened.handle.read()  # type: ignore[return-value]
    with open_whole(file) as stream:
        return stream.read()


def find_tables(path: Any) -> dict[str, Path]:
    """Files of the parts: of a folder with train, dev (or validation), test; of a mapping; or one file (``all``)."""
    if isinstance(path, Mapping):
        return {part: require_file(file, f"data.path.{part}: table") for part, file in path.items() if file}
    if not isinstance(path, str | Path):
        raise ValueError(f"data.path={path!r:.80}: a table, a folder of tables, or {{part: table}} is expected")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return {"all": require_file(folder, "data.path: table (CSV, TSV or Parquet) or folder")}
    tables = {}
    for part, names in FILE_NAMES.items():
        files = [folder / f"{name}{suffix}" for name in names for suffix in SUFFIXES if (folder / f"{name}{suffix}").is_file()]
        if files:
            tables[part] = files[0]
    if "train" not in tables:
        raise FileNotFoundError(f"data.path={str(path)!r} is a folder without train.csv (or .tsv, .parquet)")
    return tables
