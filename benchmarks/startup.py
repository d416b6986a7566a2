"""How long a user waits before anything happens."""

import argparse
import subprocess
import sys
import time


def seconds(*command: str) -> float:
    times = []
    for _ in range(3):
        start_time = time.perf_counter()
        subprocess.run([sys.executable, *command], capture_output=True, check=False)
        times.append(time.perf_counter() - start_time)
    return min(times)


argparse.ArgumentParser(description=__doc__).parse_args()
for label, limit, command in (
    ("python -c pass", "", ("-c", "pass")),
    ("import bmfm", "limit 0.5, published 9.4", ("-c", "import bmfm")),
    ("--help", "limit 2, published 11.4", ("-m", "bmfm.train", "--help")),
    ("a typo in a recipe's name", "limit 2", ("-m", "bmfm.train", "+recipe=dna_spn")),
    ("an unknown override", "limit 2", ("-m", "bmfm.train", "+recipe=dna_snp", "optimizer.lrr=1")),
    ("a missing file", "limit 2", ("-m", "bmfm.train", "+recipe=dna_snp", "data.fasta=nowhere.fa")),
):
    print(f"{label:30} {seconds(*command):6.2f} s   {limit}")
