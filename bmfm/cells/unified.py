"""What the tables of many AnnData files have in common: one list of genes, and one set of columns of cells."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.cells.formats import AnnDataView
from bmfm.cells.genes import other_features
from bmfm.cells.raw_counts import find_counts, open_matrix
from bmfm.cells.sources import GENE_PANEL

FILE = "source_file"
"""The column of .obs that says which file a cell came from."""


@dataclass
class FileOfCells:
    """One file, as it goes into the union.

    Attributes
    ----------
    path, name, key
        The file, its name, and which of its matrices holds counts.
    n_cells
        Of the file.
    gene_of_column
        Number of the gene in the union of each of the matrix's columns, int32 [G]; -1 for what is no gene.
    panel
        Number of its set of genes among `Union.panels`.
    n_known
        How many of its genes were in files before it.
    n_other
        Features that are no genes; they are left out.
    n_shared
        Columns that share their gene with another; their counts are added.
    """

    path: Any
    name: str
    key: str
    n_cells: int
    gene_of_column: np.ndarray
    panel: int = 0
    n_known: int = 0
    n_other: int = 0
    n_shared: int = 0


@dataclass
class ObsColumn:
    """A column of .obs in the union: ``kind`` is bool, int, float or text; `categories` are the texts, by number."""

    name: str
    kind: str
    categories: dict[str, int] = field(default_factory=dict)
    n_files: int = 0
    n_missing: int = 0
    is_mixed: bool = False

    def add(self, values: pd.Series) -> None:
        """Take one more file's values in."""
        kind = _kind_of(values)
        if self.n_files and kind != self.kind:
            self.is_mixed |= "text" in (kind, self.kind) or "bool" in (kind, self.kind)
            kind = "float" if {kind, self.kind} == {"int", "float"} else "text"
        self.kind = kind
        self.n_files += 1
        self.n_missing += int(values.isna().sum())

    def add_categories(self, values: pd.Series) -> None:
        """Number the texts that a file has and the files before it had not."""
        for text in texts_of(values)[1]:
            self.categories.setdefault(text, len(self.categories))

    def encode(self, values: pd.Series | None, n: int) -> np.ndarray:
        """Values of n cells as an array of numbers [n]: of texts the numbers of their categories, -1 for none."""
        if values is None:
            return np.full(n, -1, np.int32) if self.kind == "text" else np.full(n, np.nan)
        if self.kind == "text":
            codes, texts = texts_of(values)
            numbers = np.array([*(self.categories[t] for t in texts), -1], np.int32)
            return numbers[codes]
        if self.kind == "float":
            return values.to_numpy(np.float64, na_value=np.nan)
        return values.to_numpy(np.bool_ if self.kind == "bool" else np.int64)

    def decode(self, numbers: np.ndarray) -> Any:
        """What a table holds for an array of `encode`."""
        return pd.Categorical.from_codes(numbers, list(self.categories)) if self.kind == "text" else numbers


def _kind_of(values: pd.Series) -> str:
    kind = values.dtype
    if isinstance(kind, pd.CategoricalDtype):
        return "text"
    if pd.api.types.is_bool_dtype(kind):
        return "text" if values.hasnans else "bool"
    if pd.api.types.is_integer_dtype(kind):
        is_exact = not len(values) or values.abs().max() <= 1 << 53  # as float64 has them, where another file lacks the column
        return ("float" if values.hasnans else "int") if is_exact else "text"
    return "float" if pd.api.types.is_float_dtype(kind) else "text"


def texts_of(values: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Values as (codes [n], -1 for missing; the texts that occur)."""
    codes, found = pd.factorize(values)
    texts = [str(v) for v in found]
    if len(set(texts)) < len(texts):  # 1 and "1"
        again, texts = pd.factorize(np.array(texts, object))
        codes = np.append(again, -1)[codes]
    return codes, list(texts)


@dataclass
class Union:
    """The files together.

    Attributes
    ----------
    genes
        {name: number}, in the order in which they first occur.
    var
        Texts that files say of their genes in .var, {column: {gene: text}}; of several that differ the first is kept.
    n_differing
        {column of .var: genes of which files say different things}.
    panels
        The distinct sets of genes that files measure, numbers in ascending order, int32 each.
    obs
        Columns of .obs, by name.
    """

    files: list[FileOfCells] = field(default_factory=list)
    genes: dict[str, int] = field(default_factory=dict)
    var: dict[str, dict[int, str]] = field(default_factory=dict)
    n_differing: dict[str, int] = field(default_factory=dict)
    panels: list[np.ndarray] = field(default_factory=list)
    obs: dict[str, ObsColumn] = field(default_factory=dict)

    @property
    def n_cells(self) -> int:
        return sum(f.n_cells for f in self.files)

    @property
    def file_names(self) -> list[str]:
        """Names of the files; where some are alike, their paths; objects in memory are numbered."""
        names = [f.name for f in self.files]
        names = names if len(set(names)) == len(names) else [str(f.path) if isinstance(f.path, str | Path) else f.name for f in self.files]
        return names if len(set(names)) == len(names) else [f"{name} ({number})" for number, name in enumerate(names)]

    @property
    def var_table(self) -> pd.DataFrame:
        columns = {name: pd.Series(texts, dtype=object).reindex(range(len(self.genes))).to_numpy() for name, texts in self.var.items()}
        return pd.DataFrame(columns, index=pd.Index(list(self.genes), dtype=object))

    @property
    def panel_mask(self) -> np.ndarray:
        """Which genes each set has, bool [genes, sets]."""
        mask = np.zeros((len(self.genes), len(self.panels)), bool)
        for number, genes in enumerate(self.panels):
            mask[genes, number] = True
        return mask


def unite(paths: Sequence[Any], counts: str, gene_column: str | None, columns: Sequence[str] | None, seen: Callable[[int], Any]) -> Union:
    """Look through files for what they have in common; one is open at a time.

    Parameters
    ----------
    counts
        As `cells.sources.find_counts` takes it; of each file on its own.
    gene_column
        Column of .var with the names of genes; None takes the index.
    columns
        Columns of .obs to keep; None keeps all.
    seen
        Called with 1 after each file.

    Raises
    ------
    KeyError, ValueError
        Where a file holds no counts, or lacks the column of genes, or no file has a column that is to be kept.
    """
    union = Union()
    for path in paths:
        view = AnnDataView(path)
        table = view.table
        if not len(table):
            raise ValueError(f"{view.name} holds no cell")
        _add_file(union, path, view, find_counts(view, counts, True), gene_column)
        for name in table.columns if columns is None else [c for c in columns if c in table.columns]:
            if name not in (FILE, GENE_PANEL):
                union.obs.setdefault(str(name), ObsColumn(str(name), "")).add(table.column(name))
        seen(1)
    if absent := [c for c in columns or () if c not in union.obs]:
        raise KeyError(
            f"no file has an .obs column {absent[0]!r} (obs); the first has {', '.join(map(str, AnnDataView(paths[0]).table.columns))}"
        )
    for column in union.obs.values():
        if column.n_files < len(union.files) and column.kind in ("int", "bool"):
            column.kind = "float" if column.kind == "int" else "text"
    for path, file in zip(paths, union.files, strict=True):
        table = AnnDataView(path).table
        for column in union.obs.values():
            if column.name not in table.columns:
                column.n_missing += file.n_cells
            elif column.kind == "text":
                column.add_categories(table.column(column.name))
        seen(1)
    return union


def _add_file(union: Union, path: Any, view: AnnDataView, key: str, gene_column: str | None) -> None:
    var = view.var(key)
    if gene_column is not None and gene_column not in var:
        raise KeyError(f"{view.name}: there is no .var column {gene_column!r} (gene_column); there are {', '.join(map(str, var.columns))}")
    names = (var.index if gene_column is None else var[gene_column]).astype(str).tolist()
    other = other_features(var, view.var("X") if key == "raw" else None)
    n_before = len(union.genes)
    numbers = np.array([union.genes.setdefault(n, len(union.genes)) if o is None else -1 for n, o in zip(names, other, strict=True)], np.int32)  # fmt: skip
    panel = np.unique(numbers[numbers >= 0])
    known = next((i for i, p in enumerate(union.panels) if np.array_equal(p, panel)), len(union.panels))
    if known == len(union.panels):
        union.panels.append(panel)
    n_genes = int((numbers >= 0).sum())
    matrix = open_matrix(view, key)
    file = FileOfCells(path, Path(view.name).name, key, matrix.shape[0], numbers, known)
    file.n_known, file.n_other, file.n_shared = int((panel < n_before).sum()), len(names) - n_genes, n_genes - len(panel)
    union.files.append(file)
    for column in var.columns:
        if isinstance(var[column].dtype, pd.CategoricalDtype) or var[column].dtype == object or pd.api.types.is_string_dtype(var[column]):
            _add_texts(union, str(column), numbers, var[column])


def _add_texts(union: Union, column: str, numbers: np.ndarray, values: pd.Series) -> None:
    """What a file's .var says of genes, where no file before it said something; differences are counted."""
    texts = union.var.setdefault(column, {})
    there = values.notna().to_numpy()
    for number, value, is_there in zip(numbers.tolist(), values.astype(object), there, strict=True):
        if number >= 0 and is_there and texts.setdefault(number, str(value)) != str(value):
            union.n_differing[column] = union.n_differing.get(column, 0) + 1
