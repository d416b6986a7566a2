"""What the suite is run over: every choice that ``conf/`` and the extension list, made small; and raw examples of both omics."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from bmfm.cells.counts import CellBatch
from bmfm.cli import CONFIG_DIR, compose, config_folder, instantiate
from bmfm.genome.alphabet import encode
from bmfm.genome.representation import Encoded
from bmfm.tokenizers.base import Tokenizer
from bmfm.tokenizers.collate import to_tensors
from bmfm.tokenizers.dna import DnaTokenizer

DEVICE = torch.device(os.environ.get("BMFM_TEST_DEVICE", "cpu"))
"""Where models of the suite run: benchmarks/gpu_check.py runs it on a GPU."""

EXTENSION = Path(__file__).parents[1] / "extension"
USER_CONFIG = Path(os.environ.get(CONFIG_DIR) or EXTENSION / "conf").absolute()
"""Choices beside those that ship: of the extension, or of a folder of your own, whose backbones (`test_backbones.py`) are then tried."""

SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
    "local_attention": 8, "max_position_embeddings": 128,
}  # fmt: skip
"""Settings of a model where its YAML has them."""

GENES = [f"G{i}" for i in range(40)]


def choices(group: str) -> dict[str, dict]:
    """{name: YAML} of every choice of a group, those that ship and those of `USER_CONFIG`."""
    files = [f for folder in (config_folder(), USER_CONFIG) for f in sorted((folder / group).glob("*.yaml"))]
    return {f.stem: yaml.safe_load(f.read_text()) for f in files}


def small(group: str, name: str) -> list[str]:
    """Overrides that make a model small."""
    return [f"{group}.{key}={value}" for key, value in SMALL.items() if key in choices(group)[name]]


def tokenizer_from(config: Any) -> Tokenizer:
    """What a choice of the group makes, as the data modules use it."""
    tokenizer = instantiate(config, _convert_="all")
    return tokenizer if isinstance(tokenizer, Tokenizer) else DnaTokenizer(tokenizer)


@cache
def tokenizer_of(omics: str) -> Any:
    """One tokenizer of each omics with few tokens: single bases, and forty genes."""
    chosen = {
        "dna": ["tokenizer=single_base"],
        "rna": ["tokenizer=cells", f"tokenizer.genes=[{','.join(GENES)}]", "tokenizer.order=as_given", "tokenizer.summary=true"],
    }
    return tokenizer_from(compose("train", chosen[omics]).tokenizer)


def raw_sequences(lengths: tuple[int, ...], seed: int = 0) -> Encoded:
    """Random bases."""
    rng = np.random.default_rng(seed)
    return Encoded(encode("".join(rng.choice(list("ACGT"), sum(lengths)))), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def raw_cells(lengths: tuple[int, ...], seed: int = 0, first: int | None = None) -> CellBatch:
    """Cells that express so many of the forty genes, all of one source that measures them all."""
    from bmfm.cells.counts import Counts

    rng = np.random.default_rng(seed)
    first = tokenizer_of("rna").plain_ids[0] if first is None else first
    ids = np.concatenate([np.sort(rng.permutation(len(GENES))[:n]) for n in lengths]).astype(np.int32) + first
    counts = Counts(ids, rng.integers(1, 30, len(ids)).astype(np.float32), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
    return CellBatch(counts, np.zeros(len(lengths), np.int64), [np.arange(first, first + len(GENES), dtype=np.int32)])


def take(raw: Any, numbers: list[int]) -> Any:
    """Some raw examples, in that order."""
    if isinstance(raw, Encoded):
        parts = [raw[i] for i in numbers]
        return Encoded(np.concatenate(parts), np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int64))
    from bmfm.cells.counts import gather

    return CellBatch(gather(raw.counts, np.array(numbers)), raw.source_ids[numbers], raw.gene_panels)


LENGTHS = (30, 9, 21, 14)


def batch_of(omics: str, numbers: tuple[int, ...] = (0, 1, 2, 3), row_length: int | None = None, width: int | None = None) -> Any:
    """A batch of some of four examples of either omics: a row each, or packed into rows.

    Parameters
    ----------
    width
        Least length of the rows, where each example has one.
    """
    tokenizer = tokenizer_of(omics)
    raw = (raw_sequences if omics == "dna" else raw_cells)(LENGTHS)
    keys = np.arange(1, 5, dtype=np.uint64)
    tokens = tokenizer.encode(take(raw, list(numbers)), keys[list(numbers)], 64)
    batch = to_tensors(tokenizer.collate(tokens, row_length), DEVICE)
    return batch if width is None else _widen(batch, width)


def _widen(batch: Any, width: int) -> Any:
    """More padding at the end of every row."""
    from bmfm.special import PAD

    more = width - batch["input_ids"].shape[1]
    padding = {"input_ids": PAD, "example_ids": -1, "special_tokens_mask": True, "values": -(PAD + 1.0)}
    wider = {
        k: torch.nn.functional.pad(v, (0, more), value=padding.get(k, 0)) if isinstance(v, torch.Tensor) and v.ndim == 2 else v
        for k, v in batch.items()
    }
    row = batch["cls_index"] // batch["input_ids"].shape[1]
    return wider | {"cls_index": batch["cls_index"] + row * more}


def of_example(states_RLH: torch.Tensor, batch: Any, example: int) -> torch.Tensor:
    """States [length, H] of one example's tokens, wherever they lie."""
    return states_RLH[batch["example_ids"] == example]


@dataclass(frozen=True)
class Case:
    """A backbone on one omics."""

    name: str
    omics: str

    def __str__(self) -> str:
        return f"{self.name}-{self.omics}"


HEADS = {"label": {"size": 3, "pooling": "mean", "classes": ["a", "b", "c"]}}


def _transformers_config(name: str) -> Any:
    """Small models as transformers has them: absolute positions, rotary ones, and one that looks back alone."""
    from transformers import BertConfig, EsmConfig, GPT2Config

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 128}
    vocab_size = len(tokenizer_of("dna"))
    return {
        "hf_bert": lambda: BertConfig(vocab_size=vocab_size, **sizes),
        "hf_esm": lambda: EsmConfig(vocab_size=vocab_size, pad_token_id=2, mask_token_id=4, token_dropout=False, position_embedding_type="rotary", **sizes),
        "hf_gpt2": lambda: GPT2Config(vocab_size=vocab_size, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    }[name]()  # fmt: skip


HUGGINGFACE = ("hf_bert", "hf_esm", "hf_gpt2")


def _of_transformers(name: str) -> Any:
    from bmfm.models.config import BmfmConfig
    from bmfm.models.model import BmfmModel

    tokenizer = tokenizer_of("dna")
    backbone = {
        "_target_": "bmfm.models.backbones.huggingface.HuggingFaceBackbone",
        "config": _transformers_config(name).to_dict(),
        "hf_token_ids": list(range(len(tokenizer))),
        "causal": name == "hf_gpt2",
    }
    return BmfmModel(BmfmConfig(backbone=backbone, fields=tokenizer.fields, heads=HEADS))


def _of_configuration(case: Case) -> Any:
    values = ["values=mlp_special"] if case.omics == "rna" else []
    config = compose("train", [f"model={case.name}", *small("model", case.name), *values]).model
    return instantiate(config, fields=tokenizer_of(case.omics).fields, heads=HEADS, genes={}, _convert_="all")


@cache
def _built(case: Case) -> Any:
    torch.manual_seed(0)
    model = _of_transformers(case.name) if case.name in HUGGINGFACE else _of_configuration(case)
    with torch.no_grad():
        for parameter in model.parameters():  # so that norms, biases and whatever begins at 0 or 1 take part
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval().to(DEVICE)


def model_of(case: Case) -> Any:
    """A small model of random weights, evaluating; a copy, which may be changed."""
    from copy import deepcopy

    return deepcopy(_built(case))
