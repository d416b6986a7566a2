"""How much of a benchmark's time goes to anything but training, fits and forward passes.

Run: ``python benchmarks/benchmark_runner.py CHECKPOINT [SUITE]``, into an empty folder, then once more to see what a finished grid costs.
"""

import argparse
import tempfile
import time

from bmfm.cli import compose
from bmfm.evaluation.benchmark import benchmark

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("suite", nargs="?", default="demo_dna")
    arguments = parser.parse_args()
    checkpoint, suite = arguments.checkpoint, arguments.suite
    with tempfile.TemporaryDirectory() as folder:
        config = compose("benchmark", [f"+suite={suite}", f"checkpoint={checkpoint}", f"run_dir={folder}", "launcher.workers=1"])
        start_time = time.perf_counter()
        records = benchmark(config)
        wall = time.perf_counter() - start_time
        duration = sum(r["train_seconds"] or 0 for r in records)
        start_time = time.perf_counter()
        benchmark(config)
        again = time.perf_counter() - start_time
    n = len(records)
    print(f"RESULT {suite}: {n} jobs in {wall:.1f} s with one process, {duration:.1f} s of it training, fits and forward passes; the runner {1 - duration / wall:.1%} (limit 5%)")  # fmt: skip
    print(f"RESULT {suite} again, all finished: {again:.1f} s")
