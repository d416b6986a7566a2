"""Loading a 113 M model, and embedding beside the bare forward pass on the same batches.

Run: ``python benchmarks/inference_speed.py``. Loading is timed in processes of their own; weights are random.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anndata
import numpy as np
import torch

import bmfm
from bmfm.checkpoints.transformers_format import to_transformers
from bmfm.files import ASSETS
from bmfm.models.model import build
from bmfm.tokenizers import dna
from bmfm.tokenizers.rna import CellTokenizer

LOAD = """import time
start_time = time.perf_counter()
def lap():
    global start_time
    spent, start_time = time.perf_counter() - start_time, time.perf_counter()
    return f"{{spent:.2f}} s"
import torch, transformers
from transformers import ModernBertForMaskedLM
libraries = lap()
import bmfm
bmfm.load({0!r})
first = lap()
bmfm.load({0!r})
print(f"{1}: torch and transformers with its model {{libraries}}, then bmfm.load {{first}} (limit 3); again {{lap()}}")
"""


def loading(folder: Path) -> None:
    heads = {"mlm": {"size": 4096, "transform": True, "tied": None}}
    shape = {"hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 22, "num_attention_heads": 12, "norm_bias": True}
    model = build({"input_ids": {"size": 4096}}, heads, "bmfm.models.backbones.modernbert.ModernBert", attention="sdpa", **shape)
    tokenizer = dna.DnaTokenizer.from_pretrained("ref2vec")
    for name, saved in (("bmfm folder", model), ("plain ModernBERT folder", to_transformers(model))):
        saved.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        out = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", LOAD.format(str(folder / name), name)], capture_output=True, text=True, check=True
        )
        print(out.stdout.strip())


def embedding(folder: Path) -> None:
    tokenizer = CellTokenizer()
    shape = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 4}
    model = build(
        tokenizer.fields,
        {},
        "bmfm.models.backbones.bert.Bert",
        attention="sdpa",
        values={"_target_": "bmfm.models.embeddings.MlpEncoder"},
        **shape,
    )
    model.config.max_tokens = 384
    model.save_pretrained(folder / "cells")
    tokenizer.save_pretrained(folder / "cells")
    loaded = bmfm.load(folder / "cells")
    encode = loaded.model.encode
    batches = [batch for _, batch in loaded.batches(ASSETS / "rna" / "pbmc3k.h5ad")]

    def bare() -> None:
        with torch.inference_mode():
            for batch in batches:
                encode(batch)

    adata = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")
    jobs = (bare, lambda: loaded.embed(adata), lambda: loaded.embed(ASSETS / "rna" / "pbmc3k.h5ad"))
    seconds = []
    for _ in range(3):
        for job in jobs:
            start_time = time.perf_counter()
            job()
            seconds.append(time.perf_counter() - start_time)
    forward, memory, disk = np.median(np.reshape(seconds, (3, 3)), 0)
    for what, took in (("in memory", memory), ("from .h5ad, decompressed and matched on the way", disk)):
        print(f"embedding 2,700 cells {what}: {2700 / took:,.0f} cells/s; bare forward pass {2700 / forward:,.0f}; ratio {forward / took:.2f} (limit 0.90)")  # fmt: skip


argparse.ArgumentParser(description=__doc__).parse_args()
with tempfile.TemporaryDirectory() as scratch:
    loading(Path(scratch))
    embedding(Path(scratch))
