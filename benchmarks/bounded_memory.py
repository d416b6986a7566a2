"""The most memory that a prediction takes, of few and of many sequences: it must not grow with the file.

``python benchmarks/bounded_memory.py [--sizes 20000 200000] [--kinds parquet csv fasta tile bed]``, with a model of one layer; ``--bases`` is the
length of a sequence, and of a tile, which is cut from one contig. ``--kinds train_csv train_parquet`` are tables of training, which stay in memory:
what they take at most while they are read, and then.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SMALL = {"attention": "sdpa", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def save_model(folder: Path) -> Path:
    import torch

    from bmfm.models.model import build
    from bmfm.tokenizers.dna import DnaTokenizer

    torch.manual_seed(0)
    tokenizer = DnaTokenizer.from_pretrained("dna_demo")
    head = {"size": 2, "kind": "bmfm.label_kinds.Classification", "pooling": 0, "classes": ["a", "b"]}
    backbone = "bmfm.models.backbones.modernbert.ModernBert"
    model = build({"input_ids": {"size": len(tokenizer)}}, {"type": head}, backbone, max_position_embeddings=64, **SMALL)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sequences(n: int, bases: int):
    """Random sequences, some at a time."""
    rng = np.random.default_rng(0)
    for first in range(0, n, 10_000):
        letters = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, (min(10_000, n - first), bases))]
        yield first, [row.tobytes().decode() for row in letters]


TRAIN = """
import sys, threading, time
from pathlib import Path
from bmfm.data.table import SequenceTable
from bmfm.tokenizers.dna import DnaTokenizer
def now():  # memory of its own, without pages of files, which the system drops where it needs room
    return 1024 * int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")).split()[1])
def watch():
    global most
    while True:
        most = max(most, now())
        time.sleep(0.01)
def table(path):
    data = SequenceTable(path, {"by": "random", "validation": 0.1, "test": 0.1}, 128, 8)
    data.connect(DnaTokenizer.from_pretrained("dna_demo"))
    return data
few = table(sys.argv[2])
before = most = now()
threading.Thread(target=watch, daemon=True).start()
data = table(sys.argv[1])
print(now() - before, most - before)
"""


def train(folder: Path, kind: str, n: int, bases: int) -> None:
    """Print bytes a row of a table of training."""
    few = folder / "few"
    few.mkdir()
    paths = [write(kind.removeprefix("train_"), to, rows, bases)[0].split("=", 1)[1] for to, rows in ((folder, n), (few, 100))]
    found = subprocess.run([sys.executable, "-c", TRAIN, *paths], check=True, capture_output=True, text=True).stdout
    kept, most = (int(word) / n for word in found.split()[-2:])
    print(f"{kind:13} {n:10,} sequences  {kept:8,.0f} bytes a row in memory, {most:8,.0f} at most while they are read", flush=True)


def write(kind: str, folder: Path, n: int, bases: int) -> list[str]:
    """A file of n sequences; returns the settings that read it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if kind == "parquet":
        path = folder / "in.parquet"
        with pq.ParquetWriter(path, pa.schema([("sequence", pa.string()), ("name", pa.string())])) as writer:
            for first, texts in sequences(n, bases):
                writer.write_table(pa.table({"sequence": texts, "name": [f"s{first + i}" for i in range(len(texts))]}))
        return [f"data.path={path}", "data.id=name"]
    path = folder / ("in.csv" if kind == "csv" else "in.fa")
    with path.open("w") as file:
        if kind == "csv":
            file.write("sequence,name\n")
        elif kind != "fasta":
            file.write(">chr1\n")
        for first, texts in sequences(n, bases):
            lines = {"csv": "{text},s{i}\n", "fasta": ">s{i}\n{text}\n"}.get(kind, "{text}\n")
            file.writelines(lines.format(text=text, i=first + i) for i, text in enumerate(texts))
    if kind == "tile":
        return [f"data.path={path}", f"data.tile={bases}"]
    if kind == "bed":
        regions = folder / "regions.bed"
        with regions.open("w") as file:
            file.writelines(f"chr1\t{i * bases}\t{(i + 1) * bases}\n" for i in range(n))
        return [f"data.path={path}", f"data.bed={regions}"]
    return [f"data.path={path}"]


def predict(model: Path, folder: Path, settings: list[str], output: str) -> tuple[float, float]:
    """Seconds, and the most memory of the process in MB."""
    command = [sys.executable, "-m", "bmfm.predict", f"checkpoint={model}", *settings, f"output={folder / output}", "batch_size=512"]
    start = time.perf_counter()
    process = subprocess.Popen([*command, "device=cpu", "progress=false"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the prediction of {settings} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--kinds", nargs="+", default=["parquet", "csv", "fasta", "tile", "bed"])
    parser.add_argument("--bases", type=int, default=100)
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as name:
        os.environ["BMFM_CACHE"] = f"{name}/cache"
        model = save_model(Path(name) / "model")
        for kind in options.kinds:
            for n in options.sizes:
                with tempfile.TemporaryDirectory() as data:
                    if kind.startswith("train_"):
                        train(Path(data), kind, n, options.bases)
                        continue
                    settings = write(kind, Path(data), n, options.bases)
                    seconds, memory = predict(model, Path(data), settings, "out.csv" if kind == "csv" else "out.parquet")
                print(f"{kind:8} {n:10,} sequences  {memory:8,.0f} MB at most  {seconds:7.1f} s", flush=True)


if __name__ == "__main__":
    main()
