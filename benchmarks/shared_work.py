"""One command by one process and by workers that share its shards: seconds of each, and whether the outputs are the same.

``python benchmarks/shared_work.py [--workers 2] [--variants 4000] [--kill]``; with ``--kill`` a worker is killed in the middle.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from bmfm.files import ASSETS

GENOME = ASSETS / "genome"


def score(folder: Path, variants: Path, name: str, *more: str) -> float:
    """Seconds of scoring."""
    command = [
        sys.executable,
        "-m",
        "bmfm.score",
        "checkpoint=bmfm-dna-mini",
        f"fasta={GENOME / 'chr20_slice.fa.gz'}",
        f"variants={variants}",
    ]
    start = time.perf_counter()
    subprocess.run([*command, f"output={folder / name}", "shard_size=500", "progress=false", *more], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def kill_a_worker(folder: Path) -> None:
    """Kill the process that holds the first claim that is seen."""
    import json

    while True:
        for claim in folder.glob(".*/0*.claim"):
            try:
                pid = json.loads(claim.read_text())["pid"]
            except (OSError, ValueError):
                continue
            os.kill(pid, signal.SIGKILL)
            print(f"killed process {pid}, which worked on {claim.stem}")
            return
        time.sleep(0.01)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--variants", type=int, default=4000)
    parser.add_argument("--kill", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        variants = folder / "some.vcf"
        whole = subprocess.run(
            ["bcftools", "view", str(GENOME / "chr20_slice.1000g.vcf.gz")], capture_output=True, text=True, check=True
        ).stdout.splitlines(keepends=True)
        n_header = sum(line.startswith("#") for line in whole)
        variants.write_text("".join(whole[: n_header + options.variants]))
        one_thread = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        os.environ.update(one_thread)
        alone = score(folder, variants, "alone.vcf")
        if options.kill:
            threading.Thread(target=kill_a_worker, args=(folder,), daemon=True).start()
        shared = score(folder, variants, "shared.vcf", "launcher=local", f"launcher.workers={options.workers}")
        same = (folder / "alone.vcf").read_bytes() == (folder / "shared.vcf").read_bytes()
        print(
            f"{options.variants:,} variants: one process with one thread {alone:.1f} s, {options.workers} workers with one each {shared:.1f} s"
        )
        print("the outputs are the same to the byte" if same else "THE OUTPUTS DIFFER")


if __name__ == "__main__":
    main()
