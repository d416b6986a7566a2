"""Sequences from FASTA files, regions and tables, as the command line names them, and tables of results."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.files import whole_file
from bmfm.inference.sequences import read_regions_of_fasta, read_sequences


def read_inputs(data: Any) -> pd.Series | pd.DataFrame:
    """FASTA records, regions of a FASTA, or a table's sequences, of each file of a list after the other.

    Parameters
    ----------
    data
        The group ``data`` of the configuration of a prediction.

    Returns
    -------
    Sequences, or a frame of the columns ``sequence`` and ``second`` for pairs, by their names: those of records or regions, those of
    the table's column `data.id` to the letter, or numbers from 0 on.
    """
    paths = [data.path] if isinstance(data.path, str | Path) else list(data.path)
    if not paths:
        raise ValueError("data.path is an empty list: name a FASTA file or a table")
    tables = [_read_file(Path(str(path)).expanduser(), data) for path in paths]
    if len({table.ndim for table in tables}) > 1:
        raise ValueError("data.path: pairs and single sequences are mixed; predict them one after the other")
    if len(tables) == 1:
        return tables[0]
    return pd.concat(tables, ignore_index=all(isinstance(t.index, pd.RangeIndex) for t in tables))


def _read_file(path: Path, data: Any) -> pd.Series | pd.DataFrame:
    from bmfm.data.tables import is_table, read_table

    if data.bed:
        return read_regions_of_fasta(path, data.bed)
    if not is_table(path):
        names, texts, _ = read_sequences(path)
        return pd.Series(texts, index=names)
    # names are text, of columns that are named by figures too; without one, the first column, as in training
    sequence, second, name = (None if c in (None, "") else str(c) for c in (data.sequence, data.second, data.id))
    table = read_table(path, sequences=[0 if sequence is None else sequence, *([second] if second else [])], ids=[name] if name else [])
    if name:
        table = table.set_index(name, drop=False)
    first = table[sequence] if sequence else table.iloc[:, 0]
    return pd.DataFrame({"sequence": first, "second": table[second]}) if second else first


def write_table(output: Path, names: pd.Index, embeddings: np.ndarray | None, predictions: pd.DataFrame | None) -> None:
    """A table keyed by the sequences' names: predictions, then the embeddings as columns ``e0``, ``e1``, ...

    The suffix of `output` says whether it is Parquet, TSV or CSV.
    """
    parts = [] if predictions is None else [predictions]
    if embeddings is not None:
        parts.append(pd.DataFrame(embeddings, index=names, columns=[f"e{i}" for i in range(embeddings.shape[1])]))
    write_rows(pd.concat(parts, axis=1).rename_axis(names.name or "id").reset_index(), output)


def write_rows(table: pd.DataFrame, output: Path) -> None:
    """A table without its index, as Parquet, TSV or CSV by the suffix of `output`; the file appears whole or not at all."""
    with whole_file(output) as file:
        if output.suffix == ".parquet":
            table.to_parquet(file, index=False)
        else:
            table.to_csv(file, index=False, sep="\t" if output.suffix == ".tsv" else ",")
