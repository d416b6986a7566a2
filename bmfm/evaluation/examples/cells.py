"""Examples that are cells, in AnnData."""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.cells.counts import Counts
from bmfm.evaluation.examples.base import Examples


def cell_hashes(counts: Counts, genes: np.ndarray | None = None, least: int = 1) -> list[bytes]:
    """A hash of the genes and counts of each cell, in whatever order they are.

    Parameters
    ----------
    genes
        Which genes of the vocabulary count, ``bool`` [V]; None is all.
    least
        Genes that a cell must have; the hash of one with fewer is empty, as it is like no other.
    """
    hashes = []
    for begin, end in zip(counts.offsets, counts.offsets[1:], strict=False):
        ids, numbers = counts.ids[begin:end], counts.counts[begin:end]
        if genes is not None:
            ids, numbers = ids[genes[ids]], numbers[genes[ids]]
        order = np.argsort(ids, kind="stable")
        content = ids[order].tobytes() + numbers[order].astype(np.float64).tobytes()
        hashes.append(hashlib.blake2b(content, digest_size=16).digest() if len(ids) >= least else b"")
    return hashes


class CellExamples(Examples):
    """Cells: `inputs` is an AnnData. Cells are the same if they have the same counts of the same genes."""

    read_by = ("counts", "gene_column", "orthologs", "expects", "min_matched")

    def __len__(self) -> int:
        return len(self.data.cells)

    def lossless_tokenizer(self) -> Any:
        """All genes of the file."""
        from bmfm.tokenizers.rna import CellTokenizer

        return CellTokenizer("from_data", values={"kind": "log_normalise" if self.task.config.data.expects == "counts" else "as_is"})

    @cached_property
    def adata(self) -> Any:
        """The cells of all files, in the order of their numbers."""
        import anndata

        from bmfm.cells.formats import AnnDataView, find_sources

        read = [AnnDataView(source).whole() for source in find_sources(self.data.path)]
        return read[0] if len(read) == 1 else anndata.concat(read, join="outer", fill_value=0)

    @property
    def inputs(self) -> Any:
        return self.adata

    def of(self, part: str) -> Any:
        return self.adata[self.parts[part]].copy()

    def input_hashes(self) -> list[bytes]:
        """A hash of each cell's genes and counts; of an empty cell nothing, as it is like no other."""
        blocks = (self.data.cells.take(np.arange(start, min(start + 4096, len(self)))) for start in range(0, len(self), 4096))
        return [cell_hash for block in blocks for cell_hash in cell_hashes(block)]

    @staticmethod
    def predictor_options(data: Mapping[str, Any]) -> dict[str, Any]:
        return Examples.predictor_options(data) | {k: data[k] for k in CellExamples.read_by}

    def stored_embeddings(self, key: str) -> np.ndarray:
        """A matrix of ``.obsm``."""
        if key not in self.adata.obsm:
            raise ValueError(f"{self.task.name}: .obsm has no {key!r}; it has {', '.join(self.adata.obsm) or 'nothing'}")
        return np.asarray(self.adata.obsm[key], np.float32)

    def read_table(self, file: Path) -> pd.DataFrame:
        """Names of cells are read to the letter, as 001 and 1e5."""
        from bmfm.data.tables import read_table

        table = read_table(file, ids=[0])
        table = table if isinstance(table.index, pd.RangeIndex) else table.reset_index()
        first = table.columns[0]
        if not set(self.adata.obs_names.astype(str)) <= set(table[first]):
            with contextlib.suppress(ValueError, TypeError):  # other names, which are refused by what they lack
                table[first] = pd.to_numeric(table[first])
        return table

    @property
    def names_in_words(self) -> str:
        return "the names of cells as in .obs_names"

    def name_columns(self, table: pd.DataFrame) -> list:
        return [] if pd.api.types.is_numeric_dtype(table.dtypes.iloc[0]) else [table.columns[0]]

    def names(self, columns: Sequence, table_names: Sequence[str]) -> list[str] | None:
        names = self.adata.obs_names.astype(str).tolist()
        if len(set(names)) == len(names):
            return names
        if list(table_names) == names:
            return None
        raise ValueError(
            f"{self.task.name}: several cells have one name, so that rows must have the cells' names in their order; the table has others"
        )
