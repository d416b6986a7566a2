"""Integrated gradients of cells beside bare forward and backward passes on the same batches.

Run: ``python benchmarks/attribution_speed.py``, which takes 128 cells of pbmc3k, 512 genes of each and 50 steps, and `--whole` for all 2,700. The model
is the one that ships, with a new label head; `--model bert` has random weights and the shape that is asked for: `--model bert --device cuda --whole
--hidden 768 --layers 12 --precision bf16` is one of the published size. What is bare starts from embeddings that are there: it reads no cell,
embeds no gene and keeps no result; of all cells it takes every fourth batch. Times are those of the processor, all threads together, so that what
else runs on the machine is not counted; of a GPU, those of the clock.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import torch

from bmfm.api import Model
from bmfm.checkpoints.load import from_checkpoint, read_tokenizer
from bmfm.files import ASSETS
from bmfm.interpret.attributions import select_rows
from bmfm.models.model import build
from bmfm.storage.folders import find_folder
from bmfm.tokenizers.rna import CellTokenizer

HEADS = {"cell_type": {"size": 9, "pooling": 0, "classes": [f"type{i}" for i in range(9)]}}


def make_model(asked: argparse.Namespace) -> Model:
    """A model with a label head whose weights are random, of the longest input that is asked for."""
    torch.manual_seed(0)
    if asked.model != "bert":
        tokenizer = read_tokenizer(find_folder(asked.model))
        model = from_checkpoint(tokenizer.fields, HEADS, asked.model)
        with torch.no_grad():
            model.heads.decoder("cell_type").weight.normal_()  # type: ignore[union-attr]
    else:
        tokenizer, hidden = CellTokenizer(order="descending"), asked.hidden
        shape = {
            "hidden_size": hidden,
            "intermediate_size": 4 * hidden,
            "num_hidden_layers": asked.layers,
            "num_attention_heads": max(2, hidden // 64),
        }
        values = {"_target_": "bmfm.models.embeddings.MlpEncoder"}
        model = build(tokenizer.fields, HEADS, "bmfm.models.backbones.bert.Bert", values=values, **shape)
    model.config.max_tokens = asked.tokens
    return Model(model, tokenizer, asked.device)


def measure(model: Model, cells: anndata.AnnData, asked: argparse.Namespace) -> dict[str, Any]:
    """Passes a second of both, the least of `asked.runs` that take turns, and the peak of the memory."""
    inputs = model.read(cells, asked.tokens)

    def clock() -> float:
        if not asked.device.startswith("cuda"):
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def bare() -> float:
        """Seconds a pass of one cell."""
        seconds, passes = 0.0, 0
        for number, (rows, batch) in enumerate(model.batches(inputs, asked.batch_size)):
            if asked.whole and number % 4:
                continue
            embeddings = model.model.embed(batch).detach()
            start = clock()
            for _ in range(asked.steps):
                outputs = model.forward(batch, embeddings, grad=True, precision=asked.precision)
                outputs.gradient(outputs.logits("cell_type").float()[:, 0].sum())
            seconds, passes = seconds + clock() - start, passes + asked.steps * len(rows)
        return seconds / passes

    def explained() -> float:
        options = {"n_steps": asked.steps, "batch_size": asked.batch_size, "precision": asked.precision, "max_tokens": asked.tokens}
        start = clock()
        found = model.explain(cells, "head:cell_type", progress=asked.whole, max_cells=None, **options)
        seconds = clock() - start
        doubled.append(found.uns["ig_cell_type"]["n_doubled_cells"])
        return seconds

    doubled: list[int] = []
    _, batch = next(model.batches(inputs, 2))
    model.forward(select_rows(batch, torch.zeros(2, dtype=torch.int64, device=model.device)), grad=True)
    memory = peak_memory()
    seconds = [(bare(), explained()) for _ in range(asked.runs)]
    a_pass, of_explained = (min(times) for times in zip(*seconds, strict=True))
    # a cell that is done again with twice the steps has taken three times as many
    passes = asked.steps * (cells.n_obs + 2 * doubled[-1])
    rates = 1 / a_pass, passes / of_explained
    return {
        "model": asked.model, "cells": cells.n_obs, "genes": asked.tokens, "steps": asked.steps, "batch_size": asked.batch_size,
        "device": asked.device, "cells_done_twice": doubled[-1], "seconds_explain": of_explained,
        "passes_per_second_bare": rates[0], "passes_per_second_explain": rates[1], "share": rates[1] / rates[0],
        "peak_rss_gib_before": memory, "peak_rss_gib": peak_memory(),
        "peak_gpu_gib": torch.cuda.max_memory_allocated() / 2**30 if asked.device.startswith("cuda") else None,
    }  # fmt: skip


def peak_memory() -> float:
    """The most that the process ever held, in GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bmfm-rna-mini", help="a checkpoint, or bert")
    defaults = {"cells": 128, "tokens": 512, "steps": 50, "batch-size": 32, "hidden": 128, "layers": 3, "runs": 2}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--whole", action="store_true", help="all cells, once")
    parser.add_argument("--data", default=str(ASSETS / "rna" / "pbmc3k.h5ad"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default=None)
    parser.add_argument("--json", type=Path, default=None, help="file to write the figures to")
    asked = parser.parse_args()
    cells = anndata.read_h5ad(asked.data)
    if asked.whole:
        asked.runs = 1
    else:
        cells = cells[np.random.default_rng(0).permutation(cells.n_obs)[: asked.cells]].copy()
    found = measure(make_model(asked), cells, asked)
    print(f"{found['cells']:,} cells x {asked.tokens} genes x {asked.steps} steps, {asked.model} on {asked.device}")
    print(f"bare forward and backward: {found['passes_per_second_bare']:,.0f} passes a second")
    print(
        f"explain: {found['passes_per_second_explain']:,.0f} passes a second, {found['share']:.0%} of that; "
        f"{found['cells_done_twice']:,} cells took twice the steps; {found['seconds_explain']:,.1f} s in all"
    )
    print(f"peak memory: {found['peak_rss_gib']:.2f} GiB; {found['peak_rss_gib_before']:.2f} GiB once model and cells are read")
    if found["peak_gpu_gib"] is not None:
        print(f"peak memory of the GPU: {found['peak_gpu_gib']:.2f} GiB")
    if asked.json is not None:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
