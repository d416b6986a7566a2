"""Cells to batches: fused kernels beside a plain numpy version of the same, and streaming from a file larger than asked.

Run: ``python benchmarks/cells_speed.py [--stream-cells 1000000]``. Real counts (the cells that ship), one process.
"""

import argparse
import resource
import tempfile
import threading
import time
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stream-cells", type=int, default=1_000_000)
    parser.add_argument("--scratch", default=None)
    args = parser.parse_args()
    path = ASSETS / "rna" / "pbmc3k.h5ad"
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
