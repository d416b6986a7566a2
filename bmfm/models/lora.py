"""Low-rank adapters (LoRA, DoRA) by peft: put into a backbone, and merged into its matrices."""

import torch

from bmfm.models.model import BmfmModel


def add_lora(model: BmfmModel, r: int = 8, alpha: int = 16, dropout: float = 0.0, dora: bool = False) -> None:
    """Put low-rank adapters into all linear maps of the backbone, by peft.

    Those of `torch.nn.MultiheadAttention` stay as they are: it reads their matrices itself, so that adapters in them would do nothing.

    Raises
    ------
    ValueError
        If there are none.
    """
    from peft import LoraConfig, inject_adapter_in_model
    from transformers.pytorch_utils import Conv1D

    modules = dict(model.backbone.encoder.named_modules())
    fused = {name for name, m in modules.items() if isinstance(m, torch.nn.MultiheadAttention)}
    maps = {name: m for name, m in modules.items() if isinstance(m, torch.nn.Linear | Conv1D) and name.rpartition(".")[0] not in fused}
    if not maps:
        raise ValueError(f"model.lora: {model.backbone.name} has no linear maps to put adapters into: train it without (model.lora=null)")
    transposed = any(isinstance(m, Conv1D) for m in maps.values())  # as GPT-2 has its matrices
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, use_dora=dora, target_modules=list(maps), fan_in_fan_out=transposed)
    kept = {name for name, p in model.named_parameters() if p.requires_grad}
    inject_adapter_in_model(config, model.backbone.encoder)
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
    """Whether a model has adapters that are not merged."""
    return any("lora_" in name for name, _ in model.named_parameters())
