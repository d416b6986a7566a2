"""Settings of backbones that transformers defines, checked by name."""

from dataclasses import fields

from bmfm.special import CLS, PAD, SEP

ROLES = {"pad_token_id": PAD, "cls_token_id": CLS, "bos_token_id": CLS, "sep_token_id": SEP, "eos_token_id": SEP}


def settings(kind: str, options: dict, extra: set[str] = frozenset()):  # type: ignore[assignment]
    """The transformers configuration of a backbone; a setting that it does not have is an error."""
    from transformers import BertConfig, LlamaConfig, ModernBertConfig

    cls = {"modernbert": ModernBertConfig, "bert": BertConfig, "llama": LlamaConfig}[kind]
    known = {f.name for f in fields(cls)} | ({"global_attn_every_n_layers"} if kind == "modernbert" else set()) | extra
    if unknown := sorted(set(options) - known):
        raise ValueError(f"model settings {unknown} are no fields of {cls.__name__}")
    roles = {k: v for k, v in ROLES.items() if k in {f.name for f in fields(cls)}}
    return cls(**roles | {k: v for k, v in options.items() if k not in extra})
