"""What a ``config.json`` may say: read, cleared of what would fetch code, and checked, in one place for models of all kinds.

A configuration is data of others. It never chooses the code that computes attention, names no second model that
transformers would ask the Hub for, and every number that a model or its predictions depend on is of its kind.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bmfm.files import require_file
from bmfm.label_kinds import kind_of
from bmfm.storage.folders import read_json

CHOICES = ("attn_implementation", "experts_implementation")
"""Settings by which transformers takes code for a layer, maybe from the Hub; this package chooses attention itself."""

SECOND_MODEL = (
    "backbone", "backbone_config", "backbone_kwargs", "use_pretrained_backbone", "use_timm_backbone", "timm_backbone", "quantization_config",
)  # fmt: skip
"""Settings of models of others by which transformers would make, or fetch, something beside the model."""

UNUSED = ("esmfold_config",)
"""Second configurations that an encoder of text has room for and does not need."""


def read_config(folder: Path) -> dict:
    """``config.json`` of a model folder, without choices of attention code, and checked as far as it can be without the tokenizer.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file and the key.
    """
    file = require_file(folder / "config.json", "model folder (checkpoint), its")
    saved = read_json(file)
    _refuse_kernels(saved, file)
    config = without_choices(saved)
    kind = config.get("model_type")
    if not isinstance(kind, str) and "auto_map" not in config:
        raise ValueError(f"{file} has no 'model_type': it describes no model")
    if not isinstance(config.get("auto_map", {}), dict):
        raise ValueError(f"{file}: 'auto_map' is {shown(config['auto_map'])}, an object is expected")
    _check_shared(config, file)
    if kind == "bmfm":
        _check_ours(config, folder, file)
    return config


def shown(value: Any, n: int = 80) -> str:
    """A value of a file of others as one short line without control characters."""
    text = ascii(value[:n] if isinstance(value, str) else value)
    return text if len(text) <= n else text[:n] + "..."


def plain(text: str, n: int = 200) -> str:
    """A message with names of others in it, as one line of that length without control characters."""
    text = text[: n + 1]
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= n else text[:n] + "..."


def _is_choice(key: Any) -> bool:
    return str(key).strip("_").startswith(CHOICES)


def without_choices(part: Any) -> Any:
    """A copy without any choice of code for attention, however deep it lies."""
    if isinstance(part, dict):
        return {key: without_choices(value) for key, value in part.items() if not _is_choice(key)}
    return [without_choices(value) for value in part] if isinstance(part, list) else part


def _refuse_kernels(config: dict, file: Path) -> None:
    """Raise a ValueError if a configuration names attention code of a Hub repository; other choices are only left out."""
    parts: list[tuple[Any, str | None]] = [(config, None)]
    while parts:
        part, choice = parts.pop()
        if isinstance(part, dict | list):
            for key, value in part.items() if isinstance(part, dict) else enumerate(part):
                parts.append((value, str(key) if choice is None and _is_choice(key) else choice))
        elif choice is not None and "/" in str(part):
            raise ValueError(f"{file} asks for code from the Hub ({shown(choice)} {shown(part)}), which is not run: remove that setting")


@contextmanager
def offline() -> Iterator[None]:
    """Nothing is asked of the Hub inside, whatever a configuration would have fetched."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def check_huggingface(config: dict, where: object) -> None:
    """Raise a ValueError unless a configuration of others, which brings no code, is of one network that reads tokens of text.

    Parameters
    ----------
    where
        File, and the key in it, for errors.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_MAPPING_NAMES,
    )

    kind = config.get("model_type")
    reads_text = isinstance(kind, str) and (kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES or kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    if not reads_text or kind not in MODEL_MAPPING_NAMES or set(CONFIG_MAPPING[kind].sub_configs) - set(UNUSED):
        raise ValueError(
            f"{where}: model_type {shown(kind)} is no encoder or decoder of tokens that transformers has, as bert, esm or gpt2"
        )
    for key, value in config.items():
        if value is not None and (key in (*SECOND_MODEL, *UNUSED) or (isinstance(value, dict) and "model_type" in value)):
            raise ValueError(f"{where}: {shown(key)} asks for something beside the model itself, which is not made: remove that setting")


def _check_shared(config: dict, file: Path) -> None:
    """What models of every kind may say of their numbers, their inputs and their pooling."""
    import torch

    for key in ("dtype", "torch_dtype"):
        name = config.get(key)
        dtype = getattr(torch, name.removeprefix("torch."), None) if isinstance(name, str) else None
        if name is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ValueError(f"{file}: {key!r} is {shown(name)}, the name of a floating-point number is expected, as float32 or bfloat16")
    longest, pooling = config.get("max_tokens"), config.get("pooling")
    if longest is not None and not (_whole(longest) and longest >= 3):
        raise ValueError(f"{file}: 'max_tokens' is {shown(longest)}, a whole number of at least 3 is expected")
    if pooling not in (None, "balanced") and not _is_pooling(pooling):
        raise ValueError(
            f"{file}: 'pooling' is {shown(pooling)}; known are mean, mean_all, max_mean, pooler, balanced and numbers of CLS tokens"
        )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_pooling(value: Any) -> bool:
    return value in ("mean", "mean_all", "max_mean", "pooler") if isinstance(value, str) else _whole(value) and value >= 0


def _check_ours(config: dict, folder: Path, file: Path) -> None:
    for key in ("backbone", "fields", "heads"):
        if not isinstance(config.get(key), dict):
            raise ValueError(f"{file} has no {key!r} (an object), which a model of bmfm needs")
    if not isinstance(config.get("positions"), bool | None):
        raise ValueError(f"{file}: 'positions' is {shown(config['positions'])}, true or false is expected")
    backbone = config["backbone"]
    if not isinstance(backbone.get("_target_"), str):
        raise ValueError(f"{file} has no '_target_' in 'backbone': the dotted path of a class is expected")
    source = backbone.get("source")
    if source is not None and not (isinstance(source, str) and (folder / "code").is_dir()):
        raise ValueError(
            f"{file}: backbone.source says that the model brings code, and there is no folder {folder / 'code'}: copy it whole"
        )
    if backbone["_target_"].endswith(".HuggingFaceBackbone"):
        _check_huggingface_backbone(backbone, file)
    for name, head in config["heads"].items():
        check_head(head, f"{file}: heads.{shown(name)[1:-1]}", folder)


def _check_huggingface_backbone(backbone: dict, file: Path) -> None:
    config, ids = backbone.get("config"), backbone.get("hf_token_ids")
    if not isinstance(config, dict):
        raise ValueError(f"{file} has no 'config' (an object) in 'backbone', which a model of others needs")
    if not isinstance(ids, list) or not ids or not all(_whole(i) and i >= -1 for i in ids):
        raise ValueError(f"{file}: backbone.hf_token_ids is {shown(ids)}, a list of token ids is expected")
    if _whole(config.get("vocab_size")) and max(ids) >= config["vocab_size"]:
        raise ValueError(
            f"{file}: backbone.hf_token_ids holds {max(ids)}, and there are {config['vocab_size']} rows (backbone.config.vocab_size)"
        )
    if backbone.get("lm_head") not in (None, "masked", "causal"):
        raise ValueError(f"{file}: backbone.lm_head is {shown(backbone['lm_head'])}; known are masked and causal")
    if backbone.get("source") is None:
        check_huggingface(config, f"{file}: backbone.config")


def check_head(head: Any, where: str, folder: Path) -> None:
    """Raise a ValueError if predictions by a head would be nonsense, or end in the middle, or would run code of the folder.

    Parameters
    ----------
    where
        File and head, for errors.
    folder
        Of the file.
    """
    if not isinstance(head, dict) or not _whole(head.get("size")) or head["size"] < 1:
        raise ValueError(f"{where}: an object with a 'size', a whole number above 0, is expected")
    if "pooling" not in head:
        return
    if head["pooling"] not in ("token", "auto") and not _is_pooling(head["pooling"]):
        raise ValueError(
            f"{where}.pooling is {shown(head['pooling'])}; known are mean, mean_all, max_mean, pooler, token and numbers of CLS tokens"
        )
    classes = head.get("classes") or []
    if not isinstance(classes, list) or not all(isinstance(c, str | int | float) for c in classes):
        raise ValueError(f"{where}.classes is {shown(classes)}, a list of names is expected")
    if not _whole(head.get("places") or 0) or (head.get("places") or 0) < 0:
        raise ValueError(f"{where}.places is {shown(head['places'])}, a whole number, at least 0, is expected")
    for key in ("center", "scale"):
        value = head.get(key, 1.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or (key == "scale" and value == 0):
            raise ValueError(f"{where}.{key} is {shown(value)}, a finite number{' other than 0' if key == 'scale' else ''} is expected")
    kind_of(head, where, folder).check(where)
