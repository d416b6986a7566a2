"""Collections: many files of cells as one folder of AnnData zarr groups, shuffled once, for training from disk.

The cells of all files are numbered in the order of the files. Each has a key, drawn by the seed and its number, and the collection has
its cells by ascending key, cut into groups. That is an external sort: runs of as many cells as a group has are sorted and written to
disk, and a group is put together from its part of every run. So memory holds one group at a time, whatever the number of cells.

The folder is laid out as annbatch lays out its collections: a zarr group of the encoding ``annbatch-preshuffled`` with the groups
``dataset_0``, ``dataset_1``, ..., each an AnnData of zarr format 3 whose matrix is CSR in shards.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.cells.counts import Counts, align, by_gene, concatenate, gather
from bmfm.cells.formats import AnnDataView
from bmfm.cells.groups import MANIFEST
from bmfm.cells.raw_counts import checked_rows, open_matrix
from bmfm.cells.sources import GENE_PANEL
from bmfm.cells.unified import FILE, FileOfCells, Union
from bmfm.files import whole_file
from bmfm.hashing import example_keys

ENCODING = {"encoding-type": "annbatch-preshuffled", "encoding-version": "0.1.0"}
SHUFFLE = 0x5348554646
"""What the place of a cell is drawn by, beside the seed and its number: a number that nothing else is drawn by."""
ROWS = 8192
"""Cells read from a file at a time."""


@dataclass(frozen=True)
class Layout:
    """Sizes of a collection.

    Attributes
    ----------
    cells
        Cells of a group, about: what memory holds at a time.
    chunk, shard
        Values of a chunk of the matrix (what is read and decompressed at least) and of a shard (a file).
    """

    cells: int = 65_536
    chunk: int = 1 << 18
    shard: int = 1 << 25

    def __post_init__(self) -> None:
        if self.cells < 64:
            raise ValueError(f"cells={self.cells} of a group are too few; at least 64 are needed")
        if self.chunk < 1 or self.shard < 1 or self.shard % self.chunk:
            raise ValueError(f"a shard must hold whole chunks: shard={self.shard} is no multiple of chunk={self.chunk}")

    def n_groups(self, n_cells: int) -> int:
        return max(1, n_cells // self.cells)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Write a folder that appears whole or not at all; one process at a time.

    Raises
    ------
    OSError
        If it cannot be written; says that what is finished stays.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(folder)
    except OSError as error:
        said = f"{folder} cannot be written ({error.strerror}); what is finished is kept, so make room and start again"
        raise OSError(error.errno, said) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class Runs:
    """The cells of all files in sorted runs of about a group's size, each a folder of arrays.

    Parameters
    ----------
    folder
        Where runs are; those that are there already stay.
    """

    def __init__(self, folder: Path, union: Union, seed: int, layout: Layout):
        self.folder, self.union, self.seed, self.layout = folder, union, seed, layout
        self.first = np.cumsum([0, *(f.n_cells for f in union.files)])
        self.n_groups = layout.n_groups(union.n_cells)
        self._open: tuple[int, AnnDataView, Any] | None = None

    def __len__(self) -> int:
        return -(-self.union.n_cells // self.layout.cells)

    def path(self, run: int) -> Path:
        return self.folder / f"run_{run}"

    def write(self, run: int) -> None:
        """Write a run, if it is not there."""
        if self.path(run).exists():
            return
        numbers = np.arange(run * self.layout.cells, min((run + 1) * self.layout.cells, self.union.n_cells))
        keys = example_keys(self.seed, SHUFFLE, numbers)
        order = np.argsort(keys, kind="stable")
        group = ((keys[order] >> np.uint64(32)) * np.uint64(self.n_groups)) >> np.uint64(32)
        counts, tables = self._read(numbers)
        sorted_counts = gather(counts, order)
        arrays = {name: np.concatenate([t[name] for t in tables])[order] for name in tables[0]}
        arrays |= {"keys": keys[order], "cuts": np.searchsorted(group, np.arange(self.n_groups + 1))}
        arrays |= {"ids": sorted_counts.ids, "counts": sorted_counts.counts, "offsets": sorted_counts.offsets}
        with whole_folder(self.path(run)) as folder:
            for name, values in arrays.items():
                np.save(folder / f"{name}.npy", values, allow_pickle=False)

    def _read(self, numbers: np.ndarray) -> tuple[Counts, list[dict[str, np.ndarray]]]:
        """Cells of consecutive numbers, in their order: their counts, and the columns of their tables a file at a time."""
        parts, tables = [], []
        begin, end = int(numbers[0]), int(numbers[-1]) + 1
        for index in range(int(np.searchsorted(self.first, begin, "right")) - 1, int(np.searchsorted(self.first, end, "left"))):
            file = self.union.files[index]
            start, stop = max(begin - int(self.first[index]), 0), min(end - int(self.first[index]), file.n_cells)
            view, matrix = self._opened(index)
            for row in range(start, stop, ROWS):
                parts.append(self._rows(file, view, matrix, row, min(row + ROWS, stop)))
            tables.append(self._table(index, view.obs.iloc[start:stop]))
        return concatenate(parts), tables

    def _opened(self, index: int) -> tuple[AnnDataView, Any]:
        """A file, and the matrix of its counts; the last one stays open."""
        if self._open is None or self._open[0] != index:
            self._open = None
            view = AnnDataView(self.union.files[index].path)
            self._open = index, view, open_matrix(view, self.union.files[index].key)
        return self._open[1:]

    def _rows(self, file: FileOfCells, view: AnnDataView, matrix: Any, start: int, stop: int) -> Counts:
        indptr, indices, data = checked_rows(view, file.key, matrix, start, stop, True)
        n_genes = len(self.union.genes)
        counts = align(indptr, indices, data, file.gene_of_column, n_genes, np.float64)
        if len(counts.counts) and counts.counts.max() > np.iinfo(np.uint32).max:
            raise ValueError(f"{matrix.name}: counts above {np.iinfo(np.uint32).max:,} cannot be stored; correct or remove these cells")
        return by_gene(Counts(counts.ids, counts.counts.astype(np.uint32), counts.offsets), n_genes)

    def _table(self, index: int, obs: pd.DataFrame) -> dict[str, np.ndarray]:
        columns = list(self.union.obs.values())
        table = {f"obs_{i}": c.encode(obs.get(c.name, None), len(obs)) for i, c in enumerate(columns)}
        names = np.char.encode(obs.index.astype(str).to_numpy().astype(np.str_), "utf-8")
        return table | {"names": names, "files": np.full(len(obs), index, np.int32)}

    def group(self, number: int) -> tuple[Counts, dict[str, np.ndarray]]:
        """The cells of a group by ascending key: their counts, and the columns of their tables."""
        counts, tables = [], []
        for run in range(len(self)):
            stored = {p.stem: np.load(p, mmap_mode="r") for p in self.path(run).glob("*.npy")}
            a, b = map(int, stored.pop("cuts")[number : number + 2])
            offsets = np.asarray(stored.pop("offsets")[a : b + 1])
            span = slice(int(offsets[0]), int(offsets[-1]))
            counts.append(Counts(np.asarray(stored.pop("ids")[span]), np.asarray(stored.pop("counts")[span]), offsets - offsets[0]))
            tables.append({name: np.asarray(values[a:b]) for name, values in stored.items()})
        table = {name: np.concatenate([t[name] for t in tables]) for name in tables[0]}
        order = np.argsort(table["keys"], kind="stable")
        return gather(concatenate(counts), order), {name: values[order] for name, values in table.items()}

    def greatest(self) -> int:
        """The greatest count of all."""
        stored = (np.load(self.path(run) / "counts.npy", mmap_mode="r") for run in range(len(self)))
        return max(int(counts.max()) for counts in stored if len(counts))


def write_group(folder: Path, union: Union, counts: Counts, table: dict[str, np.ndarray], layout: Layout, dtype: Any) -> None:
    """Write some cells as an AnnData of zarr format 3, in a folder that appears whole.

    Parameters
    ----------
    counts, table
        As `Runs.group` gives them.
    dtype
        Of the stored counts.
    """
    import anndata
    import zarr
    from anndata.io import write_elem

    files = table["files"]
    columns: dict[str, Any] = {c.name: c.decode(table[f"obs_{i}"]) for i, c in enumerate(union.obs.values())}
    columns[FILE] = pd.Categorical.from_codes(files, union.file_names)
    columns[GENE_PANEL] = np.array([f.panel for f in union.files], np.int32)[files]
    index = pd.Index(np.char.decode(table["names"], "utf-8").astype(object))
    with whole_folder(folder) as partial, anndata.settings.override(auto_shard_zarr_v3=False):
        root = zarr.open_group(partial, mode="w", zarr_format=3)
        root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        write_elem(root, "obs", pd.DataFrame(columns, index=index))
        write_elem(root, "var", union.var_table)
        write_elem(root, "varm", {GENE_PANEL: union.panel_mask})
        matrix = root.create_group("X")
        matrix.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [len(counts), len(union.genes)]})
        _write_array(matrix, "data", counts.counts.astype(dtype), layout)
        _write_array(matrix, "indices", counts.ids, layout)
        _write_array(matrix, "indptr", counts.offsets, layout)


def _write_array(group: Any, name: str, values: np.ndarray, layout: Layout) -> None:
    from zarr.codecs import BloscCodec

    array = group.create_array(
        name, shape=values.shape, dtype=values.dtype, chunks=(layout.chunk,), shards=(layout.shard,),
        compressors=BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),
    )  # fmt: skip
    if len(values):
        array[:] = values


def write_collection(work: Path, union: Union, seed: int, layout: Layout, facts: dict[str, Any], done: Callable[[int], Any]) -> Path:
    """Write the collection of some files into a folder for the work, where what is finished already stays.

    Parameters
    ----------
    facts
        What the manifest says beside counts of cells and genes.
    done
        Called with the number of cells that were read or written.

    Returns
    -------
    The finished folder, in `work`.
    """
    import zarr

    runs, target = Runs(work / "runs", union, seed, layout), work / "collection"
    for run in range(len(runs)):
        runs.write(run)
        done(min(layout.cells, union.n_cells - run * layout.cells))
    dtype = next(kind for kind in (np.uint8, np.uint16, np.uint32) if runs.greatest() <= np.iinfo(kind).max)
    zarr.open_group(target, mode="a", zarr_format=3).attrs.update(ENCODING)
    sizes, n_values, n_empty = [], 0, 0
    for number in range(runs.n_groups):
        folder = target / f"dataset_{number}"
        if not folder.exists():
            write_group(folder, union, *runs.group(number), layout, dtype)
        matrix: Any = zarr.open_group(folder, mode="r")["X"]
        sizes.append(int(matrix.attrs["shape"][0]))
        n_values += matrix["data"].shape[0]
        n_empty += int((np.diff(matrix["indptr"][:]) == 0).sum())
        done(sizes[-1])
    assert sum(sizes) == union.n_cells
    manifest = {
        "cells": union.n_cells,
        "genes": len(union.genes),
        "groups": sizes,
        "values": n_values,
        "cells_without_counts": n_empty,
        "dtype": np.dtype(dtype).name,
        "seed": seed,
        **facts,
    }
    with whole_file(target / MANIFEST) as file:
        file.write(json.dumps(manifest, indent=1).encode() + b"\n")
    return target
