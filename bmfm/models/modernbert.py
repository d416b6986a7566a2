"""A model of DNA tokens alone is a ModernBERT with a masked-language head: written and read as transformers' own."""

from pathlib import Path

import torch

from bmfm.models.model import BmfmConfig, BmfmModel

HEAD = "mlm"


def is_plain(model: BmfmModel) -> bool:
    """Whether transformers' `ModernBertForMaskedLM` can hold the model without loss."""
    config = model.config
    only_tokens = list(config.fields) == ["input_ids"] and list(config.heads) == [HEAD] and model.pooler is None
    eps = config.backbone.get("head_eps")
    return config.backbone["kind"] == "modernbert" and only_tokens and eps in (None, model.backbone.eps)


def _their_name(name: str, tied: bool) -> list[str]:
    if name == "embeddings.input_ids.rows.weight":
        return ["model.embeddings.tok_embeddings.weight"] + (["decoder.weight"] if tied else [])
    for ours, theirs in (("backbone.body.", "model."), ("heads.transform.", "head."), (f"heads.decoders.to_{HEAD}.", "decoder.")):
        if name.startswith(ours):
            return [theirs + name.removeprefix(ours)]
    raise KeyError(name)


def to_transformers(model: BmfmModel):
    """The same network as a `transformers.ModernBertForMaskedLM`."""
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    from bmfm.models.backbones import ROLES

    options = {k: v for k, v in model.config.backbone.items() if k not in ("kind", "head_bias", "head_eps", "pooler")}
    head = model.config.heads[HEAD]
    config = ModernBertConfig(
        vocab_size=head["size"],
        **ROLES,
        **options,
        classifier_bias=model.config.backbone.get("head_bias", True),
        decoder_bias=head.get("bias", True),
        tie_word_embeddings=bool(head.get("tied")),
    )
    theirs = ModernBertForMaskedLM(config)
    state = {n: v for name, v in model.state_dict().items() for n in _their_name(name, bool(head.get("tied")))}
    theirs.load_state_dict(state)
    return theirs


def from_transformers(theirs) -> BmfmModel:
    """The same network as a `BmfmModel`, from a `transformers.ModernBertForMaskedLM`."""
    return from_weights(theirs.config, theirs.state_dict())


def from_weights(config, given: dict[str, torch.Tensor]) -> BmfmModel:
    """As `from_transformers`, from a `transformers.ModernBertConfig` and a state dict, without drawing weights first."""
    from dataclasses import fields

    from transformers.initialization import no_init_weights

    skipped = {
        "vocab_size",
        "classifier_bias",
        "decoder_bias",
        "tie_word_embeddings",
        "architectures",
        "transformers_version",
        "id2label",
        "label2id",
    }
    options = {
        f.name: getattr(config, f.name)
        for f in fields(type(config))
        if f.name not in skipped and not f.name.endswith("token_id") and f.init
    }
    options = {k: v for k, v in options.items() if v is not None}
    tied = "input_ids" if config.tie_word_embeddings else None
    head = {"size": config.vocab_size, "transform": True, "tied": tied, "bias": config.decoder_bias}
    with no_init_weights():
        model = BmfmModel(
            BmfmConfig(
                backbone={"kind": "modernbert", **options, "head_bias": config.classifier_bias},
                fields={"input_ids": {"kind": "embedding", "size": config.vocab_size}},
                heads={HEAD: head},
            )
        )
    model.load_state_dict({name: given[_their_name(name, False)[0]] for name in model.state_dict()})
    return model


def read(folder: Path) -> BmfmModel:
    """The model of a folder that `ModernBertForMaskedLM.save_pretrained` wrote (safetensors, in one file or several)."""
    from safetensors.torch import load_file
    from transformers import ModernBertConfig

    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no model.safetensors")
    return from_weights(ModernBertConfig.from_pretrained(folder), {k: v for f in files for k, v in load_file(f).items()})
