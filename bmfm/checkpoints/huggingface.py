"""Model folders of others, as transformers reads them, whole and checked."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bmfm.models.backbones.huggingface import AUTO_CLASSES, COMPUTED, HuggingFaceBackbone, transformers_config
from bmfm.models.config import BmfmConfig
from bmfm.models.model import BmfmModel
from bmfm.special import SPECIAL_TOKENS
from bmfm.storage.config import check_huggingface, read_config
from bmfm.storage.folders import read_json
from bmfm.storage.remote_code import refusal, remote_code_is_allowed, without_hub
from bmfm.storage.weights import refuse_not_finite, some, weight_files
from bmfm.targets import class_path
from bmfm.tokenizers.huggingface import HuggingFaceTokenizer

TARGET = class_path(HuggingFaceBackbone)
LM_ENDINGS = {"ForMaskedLM": "masked", "ForCausalLM": "causal", "LMHeadModel": "causal"}
"""{end of the name of an architecture: kind of its language-model head}."""


def is_huggingface(folder: Path) -> bool:
    """Whether a model folder is neither a `BmfmModel` with a backbone of ours nor a ModernBERT with our special tokens."""
    config = read_config(folder)
    kind = config.get("model_type")
    if kind == "bmfm":
        return config["backbone"]["_target_"] == TARGET
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


def read_huggingface(folder: Path) -> BmfmModel:
    """A `BmfmModel` around the model of a folder, with its language-model head where it has one; weights from safetensors, or tensors
    alone from PyTorch files."""
    from transformers.initialization import no_init_weights

    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise FileNotFoundError(f"{folder} holds no weights (safetensors or bin); a published .ckpt is made readable by bmfm.convert")
    if (folder / "adapter_config.json").exists():  # by which transformers would load another model, maybe from the Hub
        raise ValueError(f"{folder} holds a peft adapter: merge it into its model (merge_and_unload), save that, and load it")
    described = read_config(folder)
    with_code = any(name.startswith("AutoModel") for name in described.get("auto_map", {}))
    if with_code and not remote_code_is_allowed():
        raise refusal(folder)
    if not with_code:
        check_huggingface(described, folder / "config.json")
    tokenizer = HuggingFaceTokenizer.from_pretrained(folder)
    lm_head = _lm_head(described)
    network = _read_network(folder, described, with_code, lm_head) if lm_head else None
    if network is None:
        lm_head, network = None, _read_network(folder, described, with_code, None)
    config = {k: v for k, v in network.config.to_dict().items() if k != "_name_or_path"}  # which may be a path of this machine
    backbone = {"_target_": TARGET, "config": config, "hf_token_ids": tokenizer.hf_token_ids.tolist(), "lm_head": lm_head}
    backbone |= {"source": str(folder)} if with_code else {}
    with no_init_weights():
        model = BmfmModel(BmfmConfig(backbone=backbone, fields=tokenizer.fields))
    assert isinstance(model.backbone, HuggingFaceBackbone)
    model.backbone.network.load_state_dict(network.state_dict())
    model.config.max_tokens = tokenizer.max_tokens
    model.config.backbone["causal"] = model.backbone.causal = model.backbone.looks_back()
    return model


def _lm_head(described: dict) -> str | None:
    """The kind of the language-model head that a configuration speaks of, where transformers or the model's code can make one."""
    architectures = described.get("architectures")
    names = [name for name in architectures if isinstance(name, str)] if isinstance(architectures, list) else []
    kind = next((kind for name in names for end, kind in LM_ENDINGS.items() if name.endswith(end)), None)
    brought = described.get("auto_map", {})
    if kind is None and "AutoModel" not in brought:
        kind = next((kind for kind, name in AUTO_CLASSES.items() if kind and name in brought), None)
    return None if brought and AUTO_CLASSES[kind] not in brought else kind


def _read_network(folder: Path, described: dict, with_code: bool, lm_head: str | None) -> Any:
    """The model of a folder as transformers reads it, whole; None if it shall have a language-model head and the folder has no
    weights for one."""
    import transformers

    if any(folder.glob("*.safetensors")):
        weight_files(folder)
    try:
        with _quiet(), without_hub():
            config = transformers_config(described, folder if with_code else None)
            network, report = getattr(transformers, AUTO_CLASSES[lm_head]).from_pretrained(
                folder, config=config, trust_remote_code=remote_code_is_allowed(), output_loading_info=True, ignore_mismatched_sizes=True,
                dtype=torch.float32,
            )  # fmt: skip
    except Exception as error:  # what a damaged file meets first: transformers, torch, safetensors, pickle, struct, zip, ...
        if "trust_remote_code" in str(error):
            raise refusal(folder) from error
        message = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{folder}: its weights or configuration are damaged, or hold more than tensors, and were not read ({message})"
        ) from error
    prefix = f"{network.base_model_prefix}."
    if lm_head and (network.base_model is network or any(not key.startswith(prefix) for key in report["missing_keys"])):
        return None
    if absent := sorted(key.removeprefix(prefix) for key in report["missing_keys"] if "pooler" not in key):
        raise ValueError(f"{folder} has no weights for {some(absent, n=3)} of {type(network).__name__}")
    if other := sorted(report["mismatched_keys"]):
        raise ValueError(f"{folder}: weights {some([f'{k} {tuple(a)} instead of {tuple(b)}' for k, a, b in other])} have another shape")
    if extra := sorted(key for key in report["unexpected_keys"] if _belongs(key, network.base_model if lm_head else network)):
        raise ValueError(f"{folder}: weights {some(extra)} have no place in the {type(network).__name__} that its config.json describes")
    refuse_not_finite(dict(network.named_parameters()), folder)
    return network


def _belongs(key: str, encoder: Any) -> bool:
    """Whether a key that the encoder has no place for names one of its parts, rather than a head or a table that is computed."""
    part, _, rest = key.removeprefix(f"{encoder.base_model_prefix}.").partition(".")
    return bool(rest) and part in dict(encoder.named_children()) and not key.endswith(COMPUTED)
