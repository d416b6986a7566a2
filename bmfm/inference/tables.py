"""Tables of results, written as they come."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.files import whole_file

ROWS = 1 << 16
"""Rows that are written at a time; those of a row group of Parquet."""


def results_table(names: pd.Index, embeddings: np.ndarray | None, predictions: pd.DataFrame | None) -> pd.DataFrame:
    """A row for each sequence: its name, predictions, then the embedding as columns ``e0``, ``e1``, ..."""
    parts = [] if predictions is None else [predictions]
    if embeddings is not None:
        parts.append(pd.DataFrame(embeddings, index=names, columns=[f"e{i}" for i in range(embeddings.shape[1])]))
    return pd.concat(parts, axis=1).rename_axis(names.name or "id").reset_index()


def write_rows(table: pd.DataFrame, output: Path) -> None:
    """A table without its index, as Parquet, TSV or CSV by the suffix of `output`; the file appears whole or not at all."""
    write_tables([table], output)


def write_tables(tables: Iterable[pd.DataFrame], output: Path) -> None:
    """As `write_rows`, rows of the same columns that come one table after the other, of which no more than `ROWS` and one table are kept."""
    with whole_file(output) as file:
        writer: Any = None
        for number, table in enumerate(_gathered(tables)):
            if output.suffix == ".parquet":
                writer = _write_parquet(table, file, writer)
            else:
                lines = io.TextIOWrapper(file, "utf-8", newline="")
                table.to_csv(lines, index=False, header=number == 0, sep="\t" if output.suffix == ".tsv" else ",")
                lines.detach()
        if writer is not None:
            writer.close()


def _gathered(tables: Iterable[pd.DataFrame]) -> Iterable[pd.DataFrame]:
    """The same rows in tables of `ROWS`, but for the last."""
    kept: list[pd.DataFrame] = []
    n_rows = 0
    for table in tables:
        kept.append(table)
        n_rows += len(table)
        if n_rows < ROWS:
            continue
        whole = pd.concat(kept, ignore_index=True) if len(kept) > 1 else table
        last = len(whole) - len(whole) % ROWS
        yield from (whole.iloc[first : first + ROWS] for first in range(0, last, ROWS))
        kept, n_rows = [whole.iloc[last:]], len(whole) - last
    if kept:
        yield pd.concat(kept, ignore_index=True) if len(kept) > 1 else kept[0]


def _write_parquet(table: pd.DataFrame, file: Any, writer: Any) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if writer is None:
        schema = pa.Schema.from_pandas(table, preserve_index=False)
        # of a column without values so far, which are texts then: classes
        fields = [field.with_type(pa.string()) if pa.types.is_null(field.type) else field for field in schema]
        writer = pq.ParquetWriter(file, pa.schema(fields, schema.metadata))
    writer.write_table(pa.Table.from_pandas(table, writer.schema, preserve_index=False))
    return writer
