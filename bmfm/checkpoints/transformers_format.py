"""A model of DNA tokens alone is a ModernBERT with a masked-language head: written and read as transformers' own."""

from pathlib import Path

import torch

from bmfm.models.backbones.modernbert import ModernBert
from bmfm.models.config import BmfmConfig, check_strands
from bmfm.models.embeddings import TokenEmbedding
from bmfm.models.model import BmfmModel
from bmfm.storage.config import read_config
from bmfm.storage.weights import load_strictly, read_weights
from bmfm.targets import class_path

HEAD = "mlm"


def is_hf_compatible(model: BmfmModel) -> bool:
    """Whether transformers' `ModernBertForMaskedLM` can hold the model without loss: a class of somebody else's, though it inherits from
    ours, computes something else."""
    config = model.config
    if type(model.backbone) is not ModernBert or list(config.fields) != ["input_ids"] or list(config.heads) != [HEAD]:
        return False
    encoder, options = model.embeddings.encoder("input_ids"), config.fields["input_ids"].keys() - {"_target_", "size"}
    has_plain_rows = type(encoder) is TokenEmbedding and not options  # none of another width, none frozen
    return has_plain_rows and model.pooler is None and config.head_eps in (None, model.backbone.norm_eps)


def _their_name(name: str, tied: bool) -> list[str]:
    if name == "embeddings.input_ids.embedding.weight":
        return ["model.embeddings.tok_embeddings.weight"] + (["decoder.weight"] if tied else [])
    for ours, theirs in (("backbone.body.", "model."), ("heads.transform.", "head."), (f"heads.decoders.to_{HEAD}.", "decoder.")):
        if name.startswith(ours):
            return [theirs + name.removeprefix(ours)]
    raise KeyError(name)


def to_transformers(model: BmfmModel):
    """The same network as a `transformers.ModernBertForMaskedLM`."""
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    from bmfm.models.backbones.settings import ROLES

    options = {k: v for k, v in model.config.backbone.items() if k != "_target_"}
    head = model.config.heads[HEAD]
    config = ModernBertConfig(
        vocab_size=head["size"],
        **ROLES,
        **options,
        classifier_bias=model.config.head_bias,
        decoder_bias=head.get("bias", True),
        tie_word_embeddings=bool(head.get("tied")),
    )
    config.pooling = model.config.pooling  # beside ModernBERT's own settings; transformers keeps what it does not know
    config.strands = model.config.strands
    if model.config.max_tokens:
        config.max_tokens = model.config.max_tokens
    if model.config.tokenizer:
        config.tokenizer = model.config.tokenizer
    theirs = ModernBertForMaskedLM(config)
    state = {n: v for name, v in model.state_dict().items() for n in _their_name(name, bool(head.get("tied")))}
    theirs.load_state_dict(state)
    return theirs


def from_transformers(theirs) -> BmfmModel:
    """The same network as a `BmfmModel`, from a `transformers.ModernBertForMaskedLM`."""
    return from_weights(theirs.config, theirs.state_dict(), type(theirs).__name__)


def from_weights(config, state: dict[str, torch.Tensor], source: object) -> BmfmModel:
    """As `from_transformers`, from a `transformers.ModernBertConfig` and a state dict, without drawing weights first.

    Raises
    ------
    ValueError
        Naming `source` and the weights that are missing, left over or of another shape.
    """
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
                backbone={"_target_": class_path(ModernBert), **options},
                head_bias=config.classifier_bias,
                fields={"input_ids": {"_target_": class_path(TokenEmbedding), "size": config.vocab_size}},
                heads={HEAD: head},
            )
        )
    names = {name: _their_name(name, False)[0] for name in model.state_dict()}
    if config.tie_word_embeddings and "decoder.weight" in state:  # one matrix, written twice
        state = dict(state)
        embedding = state.get(names["embeddings.input_ids.embedding.weight"])
        if embedding is not None and not torch.equal(state.pop("decoder.weight"), embedding):
            raise ValueError(
                f"{source}: decoder.weight differs from the embedding, and its configuration says that they are one (tie_word_embeddings)"
            )
    load_strictly(model, state, source, names)
    return model


def read_modernbert(folder: Path) -> BmfmModel:
    """The model of a folder that `ModernBertForMaskedLM.save_pretrained` wrote (safetensors, in one file or several)."""
    from transformers import ModernBertConfig

    described = read_config(folder)
    weights = read_weights(folder)
    try:
        config = ModernBertConfig.from_dict(dict(described))
    except Exception as error:
        raise ValueError(f"{folder / 'config.json'} is no configuration of a ModernBERT: {type(error).__name__}: {error}") from error
    model = from_weights(config, weights, folder)
    model.config.pooling = described.get("pooling", model.config.pooling)
    model.config.max_tokens, model.config.tokenizer = described.get("max_tokens"), described.get("tokenizer")
    model.config.strands = check_strands(described.get("strands", "forward"), f"{folder / 'config.json'}: strands")
    return model
