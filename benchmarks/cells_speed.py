"""Cells to batches: fused kernels beside a plain numpy version of the same, and streaming from a file larger than asked.

Run: ``python benchmarks/cells_speed.py [--stream-cells 1000000]``. Real counts (the cells that ship), one process. With
``--collection 4`` instead: four files of so many cells together, and the collection that ``bmfm shard_cells`` makes of them, read through to
batches in the same run, and beside them, where tiledbsoma is installed, a SOMA experiment of the first file.
"""

import argparse
import resource
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from bmfm.data.rna import RnaDataModule
from bmfm.files import ASSETS
from bmfm.objectives.masking import Masking
from bmfm.objectives.multitask import Objectives
from bmfm.objectives.values import MaskedValues
from bmfm.objectives.wced import WholeCellDecoder
from bmfm.tokenizers.rna import CellTokenizer

SPLIT = {"by": "random", "validation": 0.0, "test": 0.0}


def rate(data: RnaDataModule, n_batches: int) -> float:
    """Cells a second through the loader and the objectives, best of three."""
    best = 0.0
    stream = iter(data.training_batches())
    data.prepare_batch(next(stream))
    for _ in range(3):
        start_time, n = time.perf_counter(), 0
        for _ in range(n_batches):
            n += data.prepare_batch(next(stream))["counts"]["cells"]
        best = max(best, n / (time.perf_counter() - start_time))
    return best


def plain_rate(path: Path, genes: list[str], n: int = 300) -> float:
    """The same in numpy, a cell at a time: choose genes, normalise, mask, pad."""
    import anndata

    adata = anndata.read_h5ad(path)
    tokenizer = CellTokenizer()
    assert tokenizer.vocabulary is not None
    ids = tokenizer.vocabulary.match(adata.var).ids
    rng = np.random.default_rng(0)
    rows = [adata.X[i].astype(np.float64) for i in range(n)]
    start_time = time.perf_counter()
    for row in rows:
        expressed = np.flatnonzero((row > 0) & (ids >= 0))
        chosen = rng.permutation(expressed)[:1021]
        values = np.log1p(row[chosen] / row[expressed].sum() * 1e4).astype(np.float32)
        hidden = rng.random(len(values)) < 0.15
        line = np.full(1024, -3, np.float32)
        line[1 : 1 + len(values)] = np.where(hidden, -5, values)
        tokens = np.full(1024, 2)
        tokens[1 : 1 + len(values)] = ids[chosen]
    return n / (time.perf_counter() - start_time)


def module(objective, tokenizer: CellTokenizer, path, **options) -> RnaDataModule:
    data = RnaDataModule(path, SPLIT, max_tokens=1024, batch_size=64, **options)
    data.connect(tokenizer)
    Objectives({"objective": objective}).connect(data)
    return data


def tile(path: Path, target: Path, n_cells: int) -> None:
    """An h5ad of `n_cells` real cells, repeated, written in parts."""
    import anndata
    import h5py
    import scipy.sparse as sp

    adata = anndata.read_h5ad(path)
    counts = sp.csr_matrix(adata.X)
    repeats, rest = divmod(n_cells, counts.shape[0])
    anndata.AnnData(sp.csr_matrix((n_cells, counts.shape[1]), dtype=np.int32), var=adata.var).write_h5ad(target)
    size = counts.nnz * repeats + int(counts.indptr[rest])
    with h5py.File(target, "r+") as file:
        group = file["X"]
        for name, kind in (("data", np.int16), ("indices", np.int32)):
            del group[name]
            group.create_dataset(name, (size,), kind, chunks=(1 << 18,))
        for r in range(repeats + 1):
            part = slice(0, counts.nnz if r < repeats else int(counts.indptr[rest]))
            at = slice(r * counts.nnz, r * counts.nnz + part.stop)
            group["data"][at] = counts.data[part]
            group["indices"][at] = counts.indices[part]
        lengths = np.concatenate([np.tile(np.diff(counts.indptr), repeats), np.diff(counts.indptr)[:rest]])
        del group["indptr"]
        group["indptr"] = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


class Peak(threading.Thread):
    """Greatest resident memory, in bytes, while running."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak, self.on = 0, True

    def run(self) -> None:
        page = resource.getpagesize()
        while self.on:
            self.peak = max(self.peak, int(Path("/proc/self/statm").read_text().split()[1]) * page)
            time.sleep(0.02)


def bytes_read() -> int:
    """Bytes that this process has asked for so far, from the disk or from memory that holds parts of it."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["rchar"])


def through_to_batches(name: str, path: Path, seconds: float, loaded: bool) -> None:
    """Cells a second of one core through the loader, for a time; what is read for what is used, and the greatest memory."""
    watch, start_time = Peak(), time.perf_counter()
    watch.start()
    data = module(MaskedValues(Masking(), {"mse": 1.0, "is_zero": 1.0}), CellTokenizer(), str(path), storage="disk")
    opened = time.perf_counter() - start_time
    stream, n, used, start, cpu = iter(data.training_batches()), 0, 0, bytes_read(), time.process_time()
    sampler, lengths = data.parts["train"].sampler, data.cells.sources[0].matrix
    values_a_cell = lengths.n_values / lengths.shape[0]
    size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file()) / len(data.cells)
    start_time = time.perf_counter()
    while time.perf_counter() - start_time < seconds and n < len(sampler):
        if loaded:
            n += data.prepare_batch(next(stream))["counts"]["cells"]
        else:
            places = np.arange(n, min(n + 64, len(sampler)))
            n += len(data.cells.take(sampler(np.zeros_like(places), places)))
    taken, cpu = time.perf_counter() - start_time, time.process_time() - cpu
    used, watch.on = n * size, False
    what = "batches" if loaded else "cells in random order"
    print(
        f"{name}, {what}: {n:,} cells of {values_a_cell:,.0f} genes, {n / taken:,.0f} cells/s ({n / cpu:,.0f} a second of CPU time), "
        f"{(bytes_read() - start) / used:.2f} bytes read for each stored byte of a cell that was used, peak memory {watch.peak / 1e9:.2f} GB, opened in {opened:.1f} s"
    )


def collection(path: Path, folder: Path, n_files: int, n_cells: int, seconds: float) -> None:
    """Files of cells, and the collection made of them."""
    from bmfm.cells.sharding import run
    from bmfm.cli import compose

    files, shuffled = folder / "files", folder / "collection"
    files.mkdir()
    for number in range(n_files):
        tile(path, files / f"cells_{number}.h5ad", n_cells // n_files)
    start_time = time.perf_counter()
    run(compose("shard_cells", [f"path={files}", f"output={shuffled}", "progress=false"]))
    print(f"written in {time.perf_counter() - start_time:.0f} s: {n_cells / (time.perf_counter() - start_time):,.0f} cells/s")
    forms = {"h5ad files": files, "collection": shuffled}
    if find_spec("tiledbsoma"):
        forms["SOMA experiment, of the first file"] = folder / "cells.soma"
        write_soma(files / "cells_0.h5ad", folder / "cells.soma")
    for name, at in forms.items():
        print(f"{name}: {sum(p.stat().st_size for p in at.rglob('*') if p.is_file()) / 1e9:.2f} GB")
    for loaded in (False, True):
        for name, at in forms.items():
            through_to_batches(name, at, seconds, loaded)


def write_soma(source: Path, target: Path) -> None:
    """A SOMA experiment of a file, as tiledbsoma writes it."""
    from tiledbsoma.io import from_h5ad

    start_time = time.perf_counter()
    from_h5ad(str(target), str(source), "RNA")
    print(f"SOMA experiment written in {time.perf_counter() - start_time:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stream-cells", type=int, default=1_000_000)
    parser.add_argument("--scratch", default=None)
    parser.add_argument("--collection", type=int, metavar="FILES", help="measure a collection made of so many files instead")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement of the collection")
    args = parser.parse_args()
    path = ASSETS / "rna" / "pbmc3k.h5ad"
    if args.collection:
        with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
            collection(path, Path(scratch), args.collection, args.stream_cells, args.seconds)
        return
    masked = lambda: MaskedValues(Masking(), {"mse": 1.0, "is_zero": 1.0})  # noqa: E731
    decoded = lambda: WholeCellDecoder(["input", "non_input"], {"mse": 1.0, "is_zero": 1.0})  # noqa: E731
    plain = plain_rate(path, [])
    print(f"plain numpy, MLM, length 1024: {plain:,.0f} cells/s")
    for name, objective, tokenizer in (
        ("MLM, expressed genes in random order", masked, CellTokenizer()),
        ("MLM, by descending expression", masked, CellTokenizer(order="descending")),
        ("MLM, a third zeros", masked, CellTokenizer(zeros="interleaved", zero_share=0.33)),
        ("MLM, all genes", masked, CellTokenizer(zeros="all")),
        ("MLM, zeros by batch", masked, CellTokenizer(zeros="batch_wise")),
        ("MLM, read-depth aware", masked, CellTokenizer(read_depth={"mode": "downsample"})),
        ("MLM, percentile bins", masked, CellTokenizer(values={"kind": "percentile_bins"})),
        ("WCED, all genes as targets", decoded, CellTokenizer(sequence_dropout=0.3)),
        ("WCED, zeros shown too", decoded, CellTokenizer(zeros="all")),
    ):
        fused = rate(module(objective(), tokenizer, str(path)), 100)
        print(f"{name}: {fused:,.0f} cells/s ({fused / plain:.0f} times plain)")
    with tempfile.TemporaryDirectory(dir=args.scratch) as folder:
        big = Path(folder) / "big.h5ad"
        tile(path, big, args.stream_cells)
        print(f"file of {args.stream_cells:,} cells: {big.stat().st_size / 1e9:.1f} GB")
        watch = Peak()
        watch.start()
        start_time = time.perf_counter()
        data = module(masked(), CellTokenizer(), str(big), storage="disk")
        print(f"opened in {time.perf_counter() - start_time:.1f} s")
        stream, n, start_time = iter(data.training_batches()), 0, time.perf_counter()
        while n < args.stream_cells and time.perf_counter() - start_time < 120:
            n += data.prepare_batch(next(stream))["counts"]["cells"]
        seconds = time.perf_counter() - start_time
        watch.on = False
        print(
            f"streamed from disk, shuffled: {n:,} cells in {seconds:.0f} s, {n / seconds:,.0f} cells/s; peak memory {watch.peak / 1e9:.2f} GB"
        )


if __name__ == "__main__":
    main()
