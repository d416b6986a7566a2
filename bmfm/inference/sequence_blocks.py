"""Sequences of files, some at a time: FASTA records, regions and tiles of a genome, rows of tables."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bmfm.data.tables import is_table, table_blocks
from bmfm.inference.inputs import CHUNK
from bmfm.inference.sequences import fasta_records, read_regions

BLOCK_BASES = 1 << 24
"""Most bases of a block, but for a sequence that is longer."""


class Block(NamedTuple):
    """Sequences that follow one another.

    Attributes
    ----------
    first
        Number of the first among those of all files.
    sequences
        By their names; a frame of the columns ``sequence`` and ``second`` for pairs.
    """

    first: int
    sequences: pd.Series | pd.DataFrame


def sequence_blocks(data: Any) -> Iterator[Block]:
    """FASTA records, regions or tiles of a FASTA, or a table's sequences, of each file of a list after the other.

    A block has up to `inputs.CHUNK` sequences and `BLOCK_BASES` bases; no more than that, and one sequence more, is in memory.

    Parameters
    ----------
    data
        The group ``data`` of the configuration of a prediction.

    Yields
    ------
    Block
        Names are those of records or regions, those of the table's column `data.id` to the letter, or numbers from 0 on.

    Raises
    ------
    ValueError
        If there are no files, pairs and single sequences are mixed, or a sequence is missing, once its block is reached.
    """
    paths = [Path(str(p)).expanduser() for p in ([data.path] if isinstance(data.path, str | Path) else data.path)]
    if not paths:
        raise ValueError("data.path is an empty list: name a FASTA file or a table")
    if data.bed and data.tile:
        raise ValueError("data.bed and data.tile both say which parts of the FASTA file are read: leave one out")
    of_tables = [not (data.bed or data.tile) and is_table(path) for path in paths]
    if data.second and len(set(of_tables)) > 1:
        raise ValueError("data.path: pairs and single sequences are mixed; predict them one after the other")
    are_numbered = all(of_tables) and not data.id
    n = 0
    for path, is_of_table in zip(paths, of_tables, strict=True):
        n_before = n
        for sequences in _of_table(path, data) if is_of_table else _of_fasta(path, data):
            if isinstance(sequences.index, pd.RangeIndex):
                first = n if are_numbered else n - n_before
                sequences.index = pd.RangeIndex(first, first + len(sequences))
            if len(set(of_tables)) > 1:  # names of several kinds are one column
                sequences.index = pd.Index(sequences.index.astype(str), name="id")
            yield Block(n, sequences)
            n += len(sequences)
    if not n:
        raise ValueError(f"{paths[0]}: there are no sequences: give at least one")


def _of_fasta(path: Path, data: Any) -> Iterator[pd.Series]:
    if data.bed:
        return _gathered(read_regions(path, data.bed), "region")
    if data.tile:
        return _gathered(read_regions(path, data.tile), "region")
    return _gathered(fasta_records(path), "name")


def _gathered(records: Iterable[tuple[str, str]], title: str) -> Iterator[pd.Series]:
    names: list[str] = []
    texts: list[str] = []
    n_bases = 0
    for name, text in records:
        if texts and (len(texts) == CHUNK or n_bases + len(text) > BLOCK_BASES):
            yield pd.Series(texts, index=pd.Index(names, name=title), dtype=object)
            names, texts, n_bases = [], [], 0
        names.append(name)
        texts.append(text)
        n_bases += len(text)
    if texts:
        yield pd.Series(texts, index=pd.Index(names, name=title), dtype=object)


def _of_table(path: Path, data: Any) -> Iterator[pd.Series | pd.DataFrame]:
    # names are text, of columns that are named by figures too; without one, the first column, as in training
    sequence, second, name = (None if c in (None, "") else str(c) for c in (data.sequence, data.second, data.id))
    for table in table_blocks(path, [0 if sequence is None else sequence, *([second] if second else [])], [name] if name else [], CHUNK):
        if name:
            table = table.set_index(name, drop=False)
        first = table[sequence] if sequence else table.iloc[:, 0]
        rows = pd.DataFrame({"sequence": first, "second": table[second]}) if second else first
        bases = (first.str.len() + (table[second].str.len() if second else 0)).to_numpy().cumsum()
        begin = 0
        while begin < len(rows):
            before = bases[begin - 1] if begin else 0
            end = max(begin + 1, int(np.searchsorted(bases, before + BLOCK_BASES, "right")))
            yield rows.iloc[begin:end]
            begin = end
