"""A published checkpoint read without unpickling, beside `torch.load`: seconds, and that both give the same tensors.

Run: ``python benchmarks/checkpoint_speed.py [--parameters 113]``. One process; the file is made up and lies in memory after the first read.
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch

from bmfm.storage.pickled import read_checkpoint
from bmfm.storage.weights import refuse_not_finite


def best_of(n: int, call) -> float:
    seconds = []
    for _ in range(n):
        start_time = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start_time)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parameters", type=int, default=113, help="millions")
    millions = parser.parse_args().parameters
    state = {f"model.layers.{i}.weight": torch.randn(1000, 1000) for i in range(millions)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "last.ckpt"
        torch.save({"state_dict": state, "hyper_parameters": {}}, file)
        print(f"checkpoint of {file.stat().st_size / 1e6:,.0f} MB, best of 3")
        ours, theirs = read_checkpoint(file)["state_dict"], torch.load(file, weights_only=True)["state_dict"]
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in theirs)
        seconds, plain = best_of(3, lambda: read_checkpoint(file)), best_of(3, lambda: torch.load(file, weights_only=True))
        print(f"read without unpickling: {seconds:.2f} s; torch.load(weights_only=True): {plain:.2f} s; ratio {seconds / plain:.2f}")
    print(f"check for NaN and infinite weights: {best_of(3, lambda: refuse_not_finite(state, 'weights')):.2f} s")


if __name__ == "__main__":
    main()
