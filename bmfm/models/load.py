"""Models from folders and the Hub, whole or as the beginning of a fine-tuning."""

import copy
import json
from pathlib import Path
from typing import Any

import torch

from bmfm.models.folders import find_folder
from bmfm.models.foreign import ForeignTokenizer, is_foreign
from bmfm.models.foreign import remote_code as allow_remote_code
from bmfm.models.model import BmfmConfig, BmfmModel


def read_model(folder: Path) -> BmfmModel:
    """The model of a folder: ours, a plain ModernBERT of DNA tokens, or a DNA model of others (see `foreign`).

    Weights of ours are read from safetensors alone.
    """
    kind = json.loads((folder / "config.json").read_text()).get("model_type")
    if is_foreign(folder):
        from bmfm.models import foreign

        model: Any = foreign.read_saved(folder) if kind == "bmfm" else foreign.read(folder)
    elif kind == "bmfm":
        model = BmfmModel.from_pretrained(folder, use_safetensors=True)
    else:
        from bmfm.models.modernbert import read

        model = read(folder)
    return model.eval()


def read_tokenizer(folder: Path, **changes):
    """The tokenizer of a model folder: `CellTokenizer` or `DnaTokenizer`."""
    from bmfm.tokenizers.rna import CellTokenizer

    if (folder / CellTokenizer.FILES[0]).is_file():
        return CellTokenizer.from_pretrained(folder, **changes)
    from bmfm.tokenizers import dna

    if changes:
        raise ValueError(f"a DNA tokenizer has no settings to change, {sorted(changes)} were given")
    if is_foreign(folder):
        return ForeignTokenizer.from_folder(folder)
    return dna.DnaTokenizer(dna.load(folder))


def tokenizer_of(checkpoint: str, revision: str | None = None, remote_code: bool = False, **changes):
    """The tokenizer of a model folder or Hub id, as training takes it."""
    with allow_remote_code(remote_code):
        return read_tokenizer(find_folder(checkpoint, revision), **changes)


def from_checkpoint(
    fields: dict[str, dict],
    heads: dict[str, dict],
    checkpoint: str,
    attention: str = "auto",
    trained: str = "all",
    lora: dict | None = None,
    dropout: float | None = None,
    scratch: bool = False,
    revision: str | None = None,
    genes: dict[str, int] | None = None,
    remote_code: bool = False,
) -> BmfmModel:
    """A model that begins with the weights of another and has the heads that objectives ask for.

    Heads of the same name and size keep their weights; new ones begin anew.

    Parameters
    ----------
    checkpoint
        Folder or Hub id.
    trained
        ``all``, or ``heads``: the encoder stays as it is.
    lora
        ``{r, alpha, dropout, dora}``: low-rank adapters on all linear maps of the backbone; the rest of the encoder stays.
    dropout
        Of the encoder, in place of the checkpoint's.
    scratch
        The same network with new weights: what pretraining is compared with.
    remote_code
        Run Python code that comes with the checkpoint, if it needs any.
    """
    if trained not in ("all", "heads"):
        raise ValueError(f"model.trained={trained!r} is unknown; choose all or heads")
    with allow_remote_code(remote_code):
        before = read_model(find_folder(checkpoint, revision))
    for name, options in fields.items():
        held = before.config.fields.get(name, {})
        if name not in before.config.fields or options.get("size", held.get("size")) != held.get("size"):
            raise ValueError(
                f"{checkpoint}: its field {name} is {held or 'absent'}, the tokenizer gives {options}; use the checkpoint's tokenizer"
            )
    backbone = copy.deepcopy(before.config.backbone)
    body = backbone.get("config", backbone)
    if dropout is not None:
        body |= {k: dropout for k in ("hidden_dropout_prob", "mlp_dropout", "embedding_dropout") if k in body}
    with allow_remote_code(remote_code):
        model = BmfmModel(BmfmConfig(backbone=backbone, fields=before.config.fields, heads=heads))
    own, given = model.state_dict(), {} if scratch else before.state_dict()
    kept = {k for k, v in own.items() if k in given and given[k].shape == v.shape}
    model.load_state_dict({k: given[k] if k in kept else v for k, v in own.items()})
    model.begun = frozenset(
        name for name in heads if all(f"{model.heads.path(name)}.{n}" in kept for n in model.heads.decoder(name).state_dict())
    )
    model.use_attention(attention)
    if trained == "heads" or lora:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith("heads.")
    if lora:
        add_lora(model, **lora)
    return model


def add_lora(model: BmfmModel, r: int = 8, alpha: int = 16, dropout: float = 0.0, dora: bool = False) -> None:
    """Put low-rank adapters into all linear maps of the backbone, by peft."""
    from peft import LoraConfig, inject_adapter_in_model

    targets = sorted({name.split(".")[-1] for name, m in model.backbone.named_modules() if isinstance(m, torch.nn.Linear)})
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, use_dora=dora, target_modules=targets)
    kept = {name for name, p in model.named_parameters() if p.requires_grad}
    inject_adapter_in_model(config, model.backbone)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name in kept or "lora_" in name


def merge_lora(model: BmfmModel) -> BmfmModel:
    """Adapters added into the matrices they adapt, so that the model is as any other."""
    from peft.tuners.lora import LoraLayer

    for parent in list(model.backbone.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLayer):
                child.merge()  # type: ignore[attr-defined]
                setattr(parent, name, child.get_base_layer())
    for parameter in model.parameters():
        parameter.requires_grad = True
    return model


def has_lora(model: BmfmModel) -> bool:
    return any("lora_" in name for name, _ in model.named_parameters())


def save_adapter(model: BmfmModel, folder: Path, base: str, lora: dict) -> None:
    """What training changed: adapters and heads in one safetensors file, with the name of the model they belong to."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    trained = {n: p.detach().contiguous() for n, p in model.named_parameters() if p.requires_grad}
    save_file(trained, folder / "adapter.safetensors")
    (folder / "adapter.json").write_text(json.dumps({"base": base, "lora": lora, "heads": model.config.heads}, indent=1))
