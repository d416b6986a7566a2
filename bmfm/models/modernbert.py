"""A model of DNA tokens alone is a ModernBERT with a masked-language head: written and read as transformers' own."""

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
    from dataclasses import fields

    c = theirs.config
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
    options = {f.name: getattr(c, f.name) for f in fields(type(c)) if f.name not in skipped and not f.name.endswith("token_id") and f.init}
    options = {k: v for k, v in options.items() if v is not None}
    head = {"size": c.vocab_size, "transform": True, "tied": "input_ids" if c.tie_word_embeddings else None, "bias": c.decoder_bias}
    model = BmfmModel(
        BmfmConfig(
            backbone={"kind": "modernbert", **options, "head_bias": c.classifier_bias},
            fields={"input_ids": {"kind": "embedding", "size": c.vocab_size}},
            heads={HEAD: head},
        )
    )
    given = theirs.state_dict()
    state: dict[str, torch.Tensor] = {name: given[_their_name(name, False)[0]] for name in model.state_dict()}
    model.load_state_dict(state)
    return model
