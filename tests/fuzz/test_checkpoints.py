"""Models of others: checkpoints of Lightning, which are pickles, and model folders of our own, beside torch and safetensors."""

import io
import json
import os
import struct
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import torch
from safetensors.torch import load_file

import bmfm
from bmfm.checkpoints.transformers_format import to_transformers
from bmfm.models.model import build
from bmfm.storage.pickled import read_checkpoint
from bmfm.storage.weights import read_weights
from bmfm.tokenizers.dna import DnaTokenizer
from bmfm.tokenizers.rna import CellTokenizer
from tests.conftest import BERT, HEADS, MODERNBERT, VALUES
from tests.fuzz.harness import Fault, Files, Target, oracle, quickly, refusing
from tests.fuzz.mutations import BINARY, damaged, damaged_json
from tests.fuzz.test_cells import GENES

TINY = {"attention": "sdpa", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


@cache
def _saved(process: int) -> bytes:
    """A Lightning checkpoint: a state dict with a view and two kinds of numbers, and settings beside it."""
    weight = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = {"a.weight": weight, "a.view": weight[:, 1:3], "b": torch.tensor([1, 2, 3]), "c": weight.half()}
    sink = io.BytesIO()
    torch.save({"state_dict": state, "epoch": 3, "hyper_parameters": {"lr": 0.1, "names": ["x", None, ("y", True)]}}, sink)
    return sink.getvalue()


def make_pickled(random: Random) -> Files:
    data = _saved(os.getpid())
    if not random.randrange(3):
        return {"x.ckpt": damaged(data, random, BINARY)}
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(sink, "w") as target:
        for entry in source.namelist():
            content = source.read(entry)
            if entry.endswith("data.pkl") or not random.randrange(6):
                content = damaged(content, random, BINARY, 2)
            if random.randrange(40):
                target.writestr(random.choice(["x", entry]) if not random.randrange(40) else entry, content)
    return {"x.ckpt": sink.getvalue()}


def check_pickled(folder: Path) -> bool:
    file = folder / "x.ckpt"
    with refusing(str(file)):
        state = read_checkpoint(file).get("state_dict")
    theirs = oracle(lambda: torch.load(file, weights_only=True)["state_dict"])
    if isinstance(theirs, dict) and isinstance(state, dict):
        _same_weights({k: v for k, v in state.items() if isinstance(v, torch.Tensor)}, theirs)
    return True


def _same_weights(read: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    for name in read.keys() & theirs.keys():
        if isinstance(theirs[name], torch.Tensor) and not (
            read[name].dtype == theirs[name].dtype and torch.equal(read[name].nan_to_num(), theirs[name].nan_to_num())
        ):
            raise Fault(f"{name} is {read[name].flatten()[:5]} here, {theirs[name].flatten()[:5]} by another reader")


@cache
def _folder(process: int, omics: str) -> Files:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        if omics == "cells":
            tokenizer = CellTokenizer(GENES, order="descending")
            model = build(tokenizer.fields, HEADS, BERT, values=VALUES["mlp_special"], **TINY)
            model.config.max_tokens = 16
            model.save_pretrained(name)
        else:
            tokenizer = DnaTokenizer.from_pretrained("dna_demo")
            heads = {"mlm": {"size": len(tokenizer), "transform": True, "tied": "input_ids"}}
            to_transformers(
                build({"input_ids": {"size": len(tokenizer)}}, heads, MODERNBERT, max_position_embeddings=64, **TINY)
            ).save_pretrained(name)
        tokenizer.save_pretrained(name)
        return {f"model/{p.name}": p.read_bytes() for p in Path(name).iterdir()}


def _damaged_header(data: bytes, random: Random) -> bytes:
    """A safetensors file whose header says something else."""
    n = int.from_bytes(data[:8], "little")
    header = damaged_json(json.loads(data[8 : 8 + n]), random)
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data[8 + n :]


def make_folder(random: Random) -> Files:
    files = dict(_folder(os.getpid(), random.choice(["cells", "dna"])))
    for _ in range(random.choice([0, 1, 1, 1, 2])):
        name = random.choice(list(files))
        kind = random.randrange(8)
        if kind == 0:
            del files[name]
        elif name.endswith(".json") and kind < 6:
            content = oracle(lambda n=name: json.loads(files[n]))
            files[name] = json.dumps(damaged_json(content, random)).encode("utf-8", "surrogatepass") if content else b"[]"
        elif name.endswith(".safetensors") and kind < 5:
            files[name] = oracle(lambda n=name: _damaged_header(files[n], random)) or files[name]
        else:
            files[name] = damaged(files[name], random, BINARY, 1)
    return files


def check_folder(folder: Path) -> bool:
    model = folder / "model"
    model.mkdir(exist_ok=True)
    cells = np.array([[3, 0, 1, 0, 2, 0], [0, 1, 0, 0, 0, 5]], np.float32)
    with refusing(str(model), "max_tokens="):
        weights = read_weights(model)
        loaded = bmfm.load(model)
        given = _adata(cells) if (model / "cell_tokenizer.json").is_file() else ["ACGTACGTTT", "GGGTA"]
        states = np.asarray(loaded.embed(given))
    if len(states) != 2 or not np.isfinite(states).all():
        raise Fault(f"states {states.shape}, {np.isfinite(states).mean():.0%} of them finite")
    if (theirs := oracle(lambda: load_file(model / "model.safetensors"))) is not None:
        _same_weights(weights, theirs)
    return True


def _adata(matrix: np.ndarray):
    import anndata
    import pandas as pd

    return anndata.AnnData(matrix, var=pd.DataFrame(index=GENES))


PICKLED = Target("pickled", make_pickled, check_pickled)
FOLDER = Target("folder", make_folder, check_folder)

test_pickled = quickly(PICKLED)
test_folder = quickly(FOLDER, 6)
