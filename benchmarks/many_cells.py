"""How long a collection of very many cells takes to open, and in what memory: ``python benchmarks/many_cells.py [--cells 100000000]``.

The collection is declared: its manifest names as many groups as that takes, and each is a link to one group of real counts (the cells that ship, again
and again). Everything but the counts is as of so many cells: numbers, parts, the order of an epoch, where rows begin. The vocabulary has all genes of
the collection.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

from cells_speed import SPLIT, Peak, tile

from bmfm.cells.formats import AnnDataView
from bmfm.cells.groups import MANIFEST
from bmfm.cells.sharding import run
from bmfm.cli import compose
from bmfm.data.rna import RnaDataModule
from bmfm.files import ASSETS
from bmfm.tokenizers.rna import CellTokenizer


def declare(group: Path, folder: Path, n_groups: int) -> None:
    """A collection of so many links to the group of another one."""
    folder.mkdir()
    manifest = json.loads((group / MANIFEST).read_text())
    manifest |= {"groups": manifest["groups"] * n_groups, "cells": manifest["cells"] * n_groups, "values": manifest["values"] * n_groups}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / "zarr.json").write_text((group / "zarr.json").read_text())
    for number in range(n_groups):
        (folder / f"dataset_{number}").symlink_to(group / "dataset_0")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=100_000_000)
    parser.add_argument("--group", type=int, default=65_536, help="cells of a group")
    parser.add_argument("--seconds", type=float, default=20.0, help="of reading")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tile(ASSETS / "rna" / "pbmc3k.h5ad", folder / "cells.h5ad", args.group)
        run(compose("shard_cells", [f"path={folder}/cells.h5ad", f"output={folder}/one", "progress=false", f"cells={args.group}"]))
        declare(folder / "one", folder / "many", -(-args.cells // args.group))
        genes = AnnDataView(folder / "many").var("X").index.tolist()
        tokenizer = CellTokenizer(genes)
        watch = Peak()
        watch.start()
        time.sleep(0.1)
        before, start_time, cpu = watch.peak, time.perf_counter(), time.process_time()
        data = RnaDataModule(str(folder / "many"), SPLIT | {"validation": 1e-4}, max_tokens=1024, batch_size=64, storage="disk", block=1024)
        data.connect(tokenizer)
        n, seconds, cpu = len(data.cells), time.perf_counter() - start_time, time.process_time() - cpu
        print(f"{n:,} cells opened and split in {seconds:.0f} s ({cpu:.0f} of CPU time), peak memory {(watch.peak - before) / 1e9:.2f} GB more, {(watch.peak - before) / n:.1f} bytes a cell")  # fmt: skip
        watch.peak = 0
        stream, read, start_time, cpu = iter(data.training_batches()), 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - start_time < args.seconds:
            read += len(next(stream)["input_ids"])
        seconds, cpu = time.perf_counter() - start_time, time.process_time() - cpu
        print(f"{read:,} cells in the order of training: {read / seconds:,.0f} cells/s ({read / cpu:,.0f} a second of CPU time), memory {(watch.peak - before) / 1e9:.2f} GB more than at the beginning")  # fmt: skip
        watch.on = False


if __name__ == "__main__":
    main()
