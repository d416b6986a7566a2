"""Reading of tables: CSV, TSV and Parquet, to the letter where that matters."""

import errno
import io
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd

from bmfm.files import naming, open_whole, require_file
from bmfm.tokenizers.texts import check_texts

FILE_NAMES = {"train": ("train",), "validation": ("dev", "validation", "valid", "val"), "test": ("test",)}
SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".parquet")
BLOCK = 1 << 14
"""Rows whose sequences are objects of Python at a time."""
COMPRESSED = (".gz", ".bgz", ".bz2", ".xz", ".zip", ".zst")

NO_TABLE = "it is no table of the kind that its name says, or it was damaged"


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
    with naming(file, remedy=NO_TABLE):
        table = pd.read_parquet(file, page_checksum_verification=True) if is_parquet else _read_lines(file, text, sequences, ids)
    _names(file, table, ids, "data.id")
    for name in _names(file, table, sequences, "data.sequence"):
        table[name] = check_texts(table[name], partial(_cell, file, name, 1 if is_parquet else 2))
    return table


def read_sequence_table(path: str | Path, text: Sequence[str], sequences: Sequence[str | int]) -> pd.DataFrame:
    """As `read_table`, with the sequences as texts of Arrow in a temporary file, which take no memory, rather than as objects of Python."""
    file = require_file(path, "table (CSV, TSV or Parquet)")
    texts = _arrow_on_disk(table_blocks(file, sequences, [], BLOCK))
    if texts is None:
        return read_table(file, text, sequences)
    with naming(file, remedy=NO_TABLE):
        if suffix_of(file) == ".parquet":
            columns, table = _parquet_without(file, texts.column_names)
        else:
            columns, table = _lines_without(file, text, sequences, texts.column_names)
    for name in texts.column_names:
        table[name] = pd.arrays.ArrowExtensionArray(texts[name])
    return table[columns]


def _arrow_on_disk(blocks: Iterator[pd.DataFrame]) -> Any:
    """Columns of texts as a table of Arrow, whose file goes when nobody has the table any more; None without blocks."""
    import pyarrow as pa

    first = next(blocks, None)
    if first is None:
        return None
    schema = pa.schema([(name, pa.large_string()) for name in first])
    with tempfile.NamedTemporaryFile(prefix="bmfm-") as kept:
        with pa.OSFile(kept.name, "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for block in chain([first], blocks):
                writer.write_table(pa.Table.from_pandas(block, schema, preserve_index=False))
        return pa.ipc.open_file(pa.memory_map(kept.name)).read_all()


def on_disk(pieces: Iterable[np.ndarray], dtype: Any) -> np.ndarray:
    """Arrays one after the other, in a temporary file that goes when nobody has the array any more: the system reads and drops its pages.

    Raises
    ------
    OSError
        Naming the folder for temporary files (``TMPDIR``), where it is full.
    """
    try:
        with tempfile.TemporaryFile() as file:
            for piece in pieces:
                file.write(np.ascontiguousarray(piece, dtype).data)
            file.flush()
            # writable for who must, without a change to the file
            return np.memmap(file, dtype, "c").view(np.ndarray) if file.tell() else np.empty(0, dtype)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(
            error.errno, f"{tempfile.gettempdir()} has no room for the tokens of the table: set TMPDIR to another folder"
        ) from error


def table_blocks(path: str | Path, sequences: Sequence[str | int], ids: Sequence[str | int], n_rows: int) -> Iterator[pd.DataFrame]:
    """The columns of sequences and ids as `read_table` gives them, `n_rows` rows at a time: no more of the file is in memory.

    Raises
    ------
    KeyError, ValueError
        As `read_table`, when the block is reached.
    """
    file = require_file(path, "table (CSV, TSV or Parquet)")
    is_parquet = suffix_of(file) == ".parquet"
    blocks = _parquet_blocks(file, sequences, ids, n_rows) if is_parquet else _line_blocks(file, sequences, ids, n_rows)
    first = 1 if is_parquet else 2
    while True:
        with naming(file, remedy=NO_TABLE):
            block = next(blocks, None)
        if block is None:
            return
        for name in _names(file, block, sequences, "data.sequence"):
            block[name] = check_texts(block[name], partial(_cell, file, name, first))
        yield block
        first += len(block)


def _names(file: Path, table: pd.DataFrame, columns: Sequence[str | int], option: str) -> list[str]:
    """Names of columns that are given by name or place."""
    names = [table.columns[c] if isinstance(c, int) else c for c in columns]
    if absent := [n for n in names if n not in table]:
        raise KeyError(f"{file} has no column {absent[0]!r}; it has {', '.join(map(str, table.columns))}. Name it by {option}")
    return names


def _cell(file: Path, column: str, first: int, number: int) -> str:
    return f"{file}: row {number + first}, column {column}"


def _parquet_blocks(file: Path, sequences: Sequence[str | int], ids: Sequence[str | int], n_rows: int) -> Iterator[pd.DataFrame]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file, pre_buffer=False, page_checksum_verification=True) as stored:
        head = stored.schema_arrow.empty_table().to_pandas()
        columns = dict.fromkeys([*_names(file, head, sequences, "data.sequence"), *_names(file, head, ids, "data.id")])
        for batch in stored.iter_batches(n_rows, columns=list(columns), use_threads=False):
            # an index that pandas kept is no column, and whole numbers are such whether or not one of them is missing
            yield batch.select(list(columns)).to_pandas(integer_object_nulls=True)


def _parquet_without(file: Path, leave_out: list[str]) -> tuple[list[str], pd.DataFrame]:
    """Names of all columns, and those that are not left out."""
    import pyarrow.parquet as pq

    columns = list(pq.read_schema(file).empty_table().to_pandas())
    others = [c for c in columns if c not in leave_out]
    return columns, pd.read_parquet(file, columns=others, page_checksum_verification=True) if others else pd.DataFrame()


def _lines_without(file: Path, text: Sequence[str], sequences: Sequence[str | int], leave_out: list[str]) -> tuple[list[str], pd.DataFrame]:
    """As `_parquet_without`, of a table of lines, whose sequences are among what is left out."""
    with _lines(file) as stream:
        options, columns = _layout(file, stream, text, sequences, ())
    others = [c for c in options.get("names", columns) if c not in leave_out]
    if not others:
        return columns, pd.DataFrame()
    options["converters"] = {c: read for c, read in options["converters"].items() if c in others}
    with _lines(file) as stream:
        table = pd.read_csv(stream, usecols=others, **options)
    return columns, _without_overfull(file, table, columns)


def read_text(file: Path) -> bytes:
    """The bytes of a table of text, decompressed by its suffix or its beginning, without blank lines at the end.

    Raises
    ------
    ValueError
        Naming file and row, of a NUL byte.
    """
    with _lines(file) as stream:
        return stream.read()


def _read_lines(file: Path, text: Sequence[str], sequences: Sequence[str | int], ids: Sequence[str | int]) -> pd.DataFrame:
    data = read_text(file)  # all at once: whether a column is one of numbers, all of its cells say
    options, columns = _layout(file, io.BytesIO(data), text, sequences, ids)
    return _without_overfull(file, pd.read_csv(io.BytesIO(data), **options), columns)


def _line_blocks(file: Path, sequences: Sequence[str | int], ids: Sequence[str | int], n_rows: int) -> Iterator[pd.DataFrame]:
    with _lines(file) as stream:
        options, columns = _layout(file, stream, (), sequences, ids)
    kept = [c for c in columns if c in options["converters"]]
    options["dtype"] = {c: str for c in columns if c not in kept}
    # not usecols: with it pandas cuts rows that are too long, rather than refuse them
    with _lines(file) as stream, pd.read_csv(stream, chunksize=n_rows, **options) as blocks:
        for block in blocks:
            yield _without_overfull(file, block, columns)[kept]


def _layout(
    file: Path, data: Any, text: Sequence[str], sequences: Sequence[str | int], ids: Sequence[str | int]
) -> tuple[dict[str, Any], list[str]]:
    """Options of `pandas.read_csv`, and the names in the header."""
    options: dict[str, Any] = {
        "sep": "\t" if suffix_of(file) in (".tsv", ".txt", ".tab") else ",",
        "encoding": "utf-8-sig",
        "skip_blank_lines": not sequences,  # in a table of one column, an empty line is a missing sequence
    }
    head = pd.read_csv(data, nrows=1, **options)
    columns = list(head.columns)
    letters = [*_names(file, head, sequences, "data.sequence"), *_names(file, head, ids, "data.id")]
    options |= {"dtype": {c: str for c in text if c not in letters}, "converters": dict.fromkeys(letters, str)}
    if not isinstance(head.index, pd.RangeIndex):
        # pandas takes the first columns for an index where the first line has more cells than the header
        more = [f"cell {len(columns) + i + 1}" for i in range(head.index.nlevels)]
        options["converters"] |= dict.fromkeys(more, str.strip)
        options |= {"header": 0, "names": [*columns, *more], "index_col": False}
    return options, columns


def _without_overfull(file: Path, table: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The columns of the header; a ValueError where a row has more cells than that."""
    more = [c for c in table if c not in columns]
    overfull = np.flatnonzero(table[more].fillna("").ne("").any(axis=1)) if more else np.empty(0, np.int64)
    if len(overfull):
        remedy = "Give every column a name"
        if len(more) == 1:
            remedy += "; names of rows, as R writes them, too: write.csv, or write.table(..., col.names=NA)"
        raise ValueError(
            f"{file}: row {int(table.index[overfull[0]]) + 2} has more cells than the header has names ({', '.join(map(str, columns))}), so that "
            f"which is which is not known. {remedy}"
        )
    return table.drop(columns=more)


def read_as_written(file: Path, column: str, sequences: Sequence[str | int]) -> np.ndarray:
    """A column of a CSV or TSV to the letter, object [n]; `sequences` as for `read_table`, so that the rows are the same."""
    return _read_lines(file, (), sequences, [column])[column].to_numpy(object)


@contextmanager
def _lines(file: Path) -> Iterator[BinaryIO]:
    """The bytes of a table of lines, decompressed, without blank lines at the end; an empty cell has quotes or a separator."""
    if file.suffix.lower() in (".bz2", ".xz", ".zip", ".zst"):
        from pandas.io.common import get_handle

        with get_handle(file, "rb", compression="infer", is_text=False) as opened:
            yield io.BufferedReader(_WithoutBlankEnd(opened.handle, file))  # type: ignore[assignment, arg-type]
        return
    with open_whole(file) as stream:
        yield io.BufferedReader(_WithoutBlankEnd(stream, file), 1 << 20)  # type: ignore[assignment]


class _WithoutBlankEnd(io.RawIOBase):
    """A stream without the line ends and spaces at its end; a ValueError names the row of a NUL byte, behind which pandas would leave out the
    rest of the cell."""

    def __init__(self, stream: BinaryIO, file: Path):
        self.stream, self.file, self.blank, self.ready, self.row = stream, file, b"", memoryview(b""), 1

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.ready:
            data = self.stream.read(1 << 20)
            if not data:
                return 0
            if (at := data.find(b"\0")) >= 0:
                row = self.row + data.count(b"\n", 0, at)
                raise ValueError(
                    f"{self.file}: row {row} holds a NUL byte: it is damaged, or UTF-16 (to have UTF-8: iconv -f UTF-16 -t UTF-8)"
                )
            self.row += data.count(b"\n")
            if text := data.rstrip(b"\r\n "):
                self.ready, self.blank = memoryview(self.blank + text), data[len(text) :]
            else:
                self.blank += data
        n = min(len(buffer), len(self.ready))
        buffer[:n], self.ready = self.ready[:n], self.ready[n:]
        return n


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
