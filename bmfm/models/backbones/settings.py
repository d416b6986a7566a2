"""Settings of backbones that transformers defines, checked by name."""

from collections.abc import Mapping, Set
from dataclasses import fields
from typing import Any, TypeVar

from transformers import PreTrainedConfig

from bmfm.special import CLS, PAD, SEP

ROLES = {"pad_token_id": PAD, "cls_token_id": CLS, "bos_token_id": CLS, "sep_token_id": SEP, "eos_token_id": SEP}

AnyConfig = TypeVar("AnyConfig", bound=PreTrainedConfig)


def transformers_config(config_class: type[AnyConfig], settings: Mapping[str, Any], more: Set[str] = frozenset()) -> AnyConfig:
    """The transformers configuration of a backbone, with this project's special tokens.

    Parameters
    ----------
    more
        Settings that the class takes beside its fields.

    Raises
    ------
    ValueError
        Naming the settings that it does not have.
    """
    names = {f.name for f in fields(config_class)}
    if unknown := sorted(settings.keys() - names - more):
        raise ValueError(f"model settings {unknown} are no fields of {config_class.__name__}")
    return config_class(**{role: i for role, i in ROLES.items() if role in names} | dict(settings))
