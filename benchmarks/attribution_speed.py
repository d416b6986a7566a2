"""Integrated gradients of cells beside bare forward and backward passes on the same batches.

Run: ``python benchmarks/attribution_speed.py``. Weights are random. `--device cuda --cells 2700 --tokens 512 --hidden 768 --layers 12 --precision bf16` is a
model of the published size.
"""

import argparse
import time

import anndata
import numpy as np
import torch

from bmfm.api import Model
from bmfm.files import ASSETS
from bmfm.interpret.attributions import select_rows
from bmfm.models.model import build
from bmfm.tokenizers.rna import CellTokenizer


def make_model(hidden: int, layers: int, tokens: int, device: str) -> Model:
    tokenizer = CellTokenizer(order="descending")
    heads = {"cell_type": {"size": 9, "pooling": 0, "classes": [f"type{i}" for i in range(9)]}}
    shape = {
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": max(2, hidden // 64),
    }
    values = {"_target_": "bmfm.models.embeddings.MlpEncoder"}
    torch.manual_seed(0)
    model = build(tokenizer.fields, heads, "bmfm.models.backbones.bert.Bert", values=values, **shape)
    model.config.max_tokens = tokens
    return Model(model, tokenizer, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("cells", 64), ("tokens", 256), ("steps", 10), ("hidden", 128), ("layers", 3), ("batch-size", 32)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default=None)
    asked = parser.parse_args()
    model = make_model(asked.hidden, asked.layers, asked.tokens, asked.device)
    cells = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")
    cells = cells[np.arange(asked.cells) % cells.n_obs].copy()
    cells.obs_names_make_unique()
    batches = [batch for _, batch in model.batches(cells, asked.batch_size)]

    def wait() -> None:
        if asked.device.startswith("cuda"):
            torch.cuda.synchronize()

    def bare() -> None:
        for batch in batches:
            for _ in range(asked.steps):
                outputs = model.forward(batch, grad=True, precision=asked.precision)
                outputs.gradient(outputs.logits("cell_type").float()[:, 0].sum())
        wait()

    def explained() -> None:
        options = {"n_steps": asked.steps, "batch_size": asked.batch_size, "precision": asked.precision, "max_cells": None}
        found = model.explain(cells, "head:cell_type", progress=False, **options)
        doubled.append(found.uns["ig_cell_type"]["n_doubled_cells"])
        wait()

    doubled: list[int] = []
    model.forward(select_rows(batches[0], torch.arange(2, device=model.device)), grad=True)
    seconds = []
    for run in (bare, explained, bare, explained):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    of_bare, of_explained = min(seconds[::2]), min(seconds[1::2])
    # a cell that is done again has taken three times the steps
    passes = asked.steps * (asked.cells + 2 * doubled[-1])
    print(f"bare forward and backward: {asked.steps * asked.cells / of_bare:,.0f} passes a second")
    print(
        f"explain: {passes / of_explained:,.0f} passes a second, {passes / of_explained / (asked.steps * asked.cells / of_bare):.0%} of that; {doubled[-1]} cells took twice the steps"
    )
    if asked.device.startswith("cuda"):
        print(f"peak memory: {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")


if __name__ == "__main__":
    main()
