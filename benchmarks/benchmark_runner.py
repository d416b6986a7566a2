"""How much of a benchmark's time goes to anything but training, fits and forward passes.

Run: ``python benchmarks/benchmark_runner.py CHECKPOINT [SUITE]``, into an empty folder, then once more to see what a finished grid costs.
"""

import sys
import tempfile
import time

from bmfm.benchmark import benchmark
from bmfm.cli import compose

if __name__ == "__main__":
    checkpoint, suite = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "demo_dna"
    with tempfile.TemporaryDirectory() as folder:
        config = compose("benchmark", [f"+suite={suite}", f"checkpoint={checkpoint}", f"run_dir={folder}", "launcher.workers=1"])
        began = time.perf_counter()
        records = benchmark(config)
        wall = time.perf_counter() - began
        worked = sum(r["train_seconds"] or 0 for r in records)
        began = time.perf_counter()
        benchmark(config)
        again = time.perf_counter() - began
    n = len(records)
    print(f"RESULT {suite}: {n} cells in {wall:.1f} s with one process, {worked:.1f} s of it training, fits and forward passes; the runner {1 - worked / wall:.1%} (limit 5%)")  # fmt: skip
    print(f"RESULT {suite} again, all finished: {again:.1f} s")
