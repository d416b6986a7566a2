"""Embeddings made elsewhere."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.evaluation.checksums import content_hash
from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.examples.sequences import join_columns
from bmfm.evaluation.methods.base import EmbeddingMethod
from bmfm.evaluation.task_spec import TaskSpec
from bmfm.files import require_file


class PrecomputedEmbeddings(EmbeddingMethod):
    """Embeddings made elsewhere: a key of ``.obsm``, or a table with a row for each example.

    Parameters
    ----------
    key
        Of ``.obsm`` in the task's file.
    path
        .parquet, .csv, .tsv or .npy; ``{task}`` stands for the task's name. Rows are matched to the examples by the table's
        first column (of pairs its first two): the names of cells as in ``.obs_names``; the sequence itself, or its SHA-256
        in hexadecimal; or a column that the task's own table has under the same name, with a value for each example alone.
        Rows of the same sequence must agree; rows that are no examples are counted.
    ordered
        Rows are those of the examples in their order (of the files train, dev, test, or of the one file), as whoever made
        the table knows: what an .npy, or a table of numbers alone, needs. A wrong order cannot be seen from such a table.
    """

    kind, mode = "embedding", "zero_shot"

    def __init__(self, name: str, key: str | None = None, path: str | None = None, ordered: bool = False):
        super().__init__(name)
        if (key is None) == (path is None):
            raise ValueError(f"embedding {name}: give either key (of .obsm) or path (of a table)")
        self.key, self.path, self.ordered = key, path, ordered
        self.omics = ("rna",) if key is not None else None  # .obsm is a part of AnnData

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        content = content_hash([self._file(task)]) if self.path and task else None
        return {"key": self.key, "path": self.path, "content": content} | ({"ordered": True} if self.ordered else {})

    def _file(self, task: TaskSpec) -> Path:
        return require_file(str(self.path).replace("{task}", task.name), f"embedding {self.name}: table")

    def embed(self, examples: Examples, seed: int = 0, learn_from: np.ndarray | None = None) -> np.ndarray:
        if self.key:
            return examples.stored_embeddings(self.key)
        file, n = self._file(examples.task), len(examples)
        table = pd.DataFrame(np.load(file)) if file.suffix == ".npy" else examples.read_table(file)
        columns = _name_columns(table, examples)
        embeddings = _numbers(table.drop(columns=columns), file)
        if columns:
            rows = match_rows(table[columns], embeddings, examples, file)
            self.counts = {"rows of the table that are no examples": len(table) - len(set(rows))}
            return embeddings[rows]
        if not self.ordered:
            raise ValueError(
                f"{file} does not say which row is which example: give it a first column with {examples.names_in_words}; "
                f"or, where its rows are in the order of the {n:,} examples, say so: embeddings={{{self.name}: {{path: ..., ordered: true}}}}"
            )
        if len(embeddings) != n:
            raise ValueError(f"{file} holds {len(embeddings):,} rows, {examples.task.name} has {n:,} examples: one row each is needed")
        return embeddings


def _name_columns(table: pd.DataFrame, examples: Examples) -> list:
    """The leading columns that say which example a row is."""
    columns, first = examples.name_columns(table), table.columns[0]
    if not columns and (str(first).startswith("Unnamed") or first in ("index", "id")):
        raise ValueError(
            f"the first column {first!r} of the embeddings numbers rows: leave it out (to_csv(index=False)), or name examples in it"
        )
    return columns


def _numbers(table: pd.DataFrame, file: Path) -> np.ndarray:
    """Columns of numbers as embeddings [rows, H]."""
    if text := [str(c) for c, t in table.dtypes.items() if not pd.api.types.is_numeric_dtype(t)]:
        raise ValueError(f"{file}: column {text[0]!r} is text; an embedding is a column of numbers for each dimension")
    embeddings = table.to_numpy(np.float32, na_value=np.nan)
    if (bad := np.flatnonzero(~np.isfinite(embeddings).all(1))).size:
        raise ValueError(f"{file}: {len(bad):,} rows hold what is not finite (first: row {int(bad[0]) + 1} of the table)")
    return embeddings


def match_rows(table_names: pd.DataFrame, embeddings: np.ndarray, examples: Examples, file: Path) -> list[int]:
    """The row of each example in a table, from the table's columns of names and its embeddings [rows, H]."""
    row_names = join_columns(table_names)
    names = examples.names(list(table_names.columns), row_names)
    if names is None:
        return list(range(len(row_names)))
    row_of: dict[str, int] = {}
    for row, name in enumerate(row_names):
        if name in row_of and not np.array_equal(embeddings[row_of[name]], embeddings[row]):
            raise ValueError(f"{file} has several rows named {name[:40]!r}, which differ")
        row_of.setdefault(name, row)
    if absent := [name for name in names if name not in row_of]:
        raise ValueError(
            f"{file} has no row for {len(absent):,} of {len(names):,} examples of {examples.task.name} (first: {absent[0][:40]!r}); "
            f"its column {table_names.columns[0]!r} must hold {examples.names_in_words}"
        )
    return [row_of[name] for name in names]
