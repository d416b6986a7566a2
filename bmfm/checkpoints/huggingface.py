"""Model folders of others, as transformers reads them, whole and checked."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bmfm.models.backbones.huggingface import COMPUTED, configuration, is_causal
from bmfm.special import SPECIAL_TOKENS
from bmfm.storage.config import check_foreign, read_config
from bmfm.storage.folders import read_json
from bmfm.storage.remote_code import refusal, remote_code_is_allowed, without_hub
from bmfm.storage.weights import refuse_not_finite, some, weight_files
from bmfm.tokenizers.huggingface import ForeignTokenizer


def is_foreign(folder: Path) -> bool:
    """Whether a model folder is neither a `BmfmModel` with a backbone of ours nor a ModernBERT with our special tokens."""
    config = read_config(folder)
    kind = config.get("model_type")
    if kind == "bmfm":
        return config["backbone"]["kind"] == "foreign"
    if kind == "modernbert" and (folder / "tokenizer.json").is_file():
        added = read_json(folder / "tokenizer.json").get("added_tokens", [])
        return {t["content"]: t["id"] for t in added if t["id"] < 5} != {t: i for i, t in enumerate(SPECIAL_TOKENS)}
    return kind != "modernbert"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' list of weights that the encoder has no use for; those that it lacks are an error below."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def read(folder: Path):
    """A `BmfmModel` around the model of a folder; weights from safetensors, or tensors alone from PyTorch files."""
    from transformers.initialization import no_init_weights

    from bmfm.models.model import BmfmConfig, BmfmModel

    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise FileNotFoundError(f"{folder} holds no weights (safetensors or bin); a published .ckpt is made readable by bmfm.convert")
    if (folder / "adapter_config.json").exists():  # by which transformers would load another model, maybe from the Hub
        raise ValueError(f"{folder} holds a peft adapter: merge it into its model (merge_and_unload), save that, and load it")
    described = read_config(folder)
    brought = described.get("auto_map", {})
    if "AutoModel" in brought and not remote_code_is_allowed():
        raise refusal(folder)
    if "AutoModel" not in brought:
        check_foreign(described, folder / "config.json")
    tokenizer = ForeignTokenizer.from_folder(folder)
    body = _read_body(folder, described, "AutoModel" in brought)
    config = {k: v for k, v in body.config.to_dict().items() if k != "_name_or_path"}  # which may be a path of this machine
    backbone = {"kind": "foreign", "config": config, "their_ids": tokenizer.their_ids.tolist()}
    backbone |= {"source": str(folder)} if "AutoModel" in brought else {}
    with no_init_weights():
        model = BmfmModel(BmfmConfig(backbone=backbone, fields=tokenizer.fields))
    model.backbone.body.load_state_dict(body.state_dict())
    model.config.max_tokens = tokenizer.max_tokens
    model.config.backbone["looks_back"] = is_causal(model)
    return model


def _read_body(folder: Path, described: dict, with_code: bool) -> Any:
    """The encoder of a folder as `transformers.AutoModel` reads it, whole."""
    from transformers import AutoModel

    if any(folder.glob("*.safetensors")):
        weight_files(folder)
    try:
        with _quiet(), without_hub():
            config = configuration(described, folder if with_code else None)
            body, told = AutoModel.from_pretrained(
                folder, config=config, trust_remote_code=remote_code_is_allowed(), output_loading_info=True, ignore_mismatched_sizes=True,
                dtype=torch.float32,
            )  # fmt: skip
    except Exception as error:  # what a damaged file meets first: transformers, torch, safetensors, pickle, struct, zip, ...
        if "trust_remote_code" in str(error):
            raise refusal(folder) from error
        said = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{folder}: its weights or configuration are damaged, or hold more than tensors, and were not read ({said})"
        ) from error
    if absent := sorted(k for k in told["missing_keys"] if "pooler" not in k):
        raise ValueError(f"{folder} has no weights for {some(absent, n=3)} of {type(body).__name__}")
    if other := sorted(told["mismatched_keys"]):
        raise ValueError(f"{folder}: weights {some([f'{k} {tuple(a)} instead of {tuple(b)}' for k, a, b in other])} have another shape")
    if extra := sorted(k for k in told["unexpected_keys"] if _belongs(k, body)):
        raise ValueError(f"{folder}: weights {some(extra)} have no place in the {type(body).__name__} that its config.json describes")
    refuse_not_finite(dict(body.named_parameters()), folder)
    return body


def _belongs(key: str, body: Any) -> bool:
    """Whether a key that the encoder has no place for names one of its parts, rather than a head or a table that is computed."""
    part, _, rest = key.removeprefix(f"{body.base_model_prefix}.").partition(".")
    return bool(rest) and part in dict(body.named_children()) and not key.endswith(COMPUTED)
