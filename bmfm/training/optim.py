"""Optimiser and learning-rate schedule."""

import math
import re
from collections.abc import Callable

import torch

from bmfm.models.embeddings import TokenEmbedding
from bmfm.models.model import BmfmModel

SCHEDULES = ("linear", "cosine", "constant", "warmup_stable_decay")


def parameter_groups(model: BmfmModel, weight_decay: float) -> list[dict]:
    """Weight decay on matrices only: biases, norms and other vectors are left free, and what the model says (`undecayed_parameters`)."""
    left_free = {id(p) for p in model.undecayed_parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim >= 2 and id(p) not in left_free]
    vectors = [p for p in trained if p.ndim < 2 or id(p) in left_free]
    return [
        {"name": "matrices", "params": matrices, "weight_decay": weight_decay},
        {"name": "vectors", "params": vectors, "weight_decay": 0.0},
    ]


def freeze_unread(model: BmfmModel) -> list[str]:
    """Freeze the parameters that no head of the model reads, and return their names: they would get no gradient, for which training on
    several devices waits in vain."""
    names = model.unused_parameters()
    for name in names:
        model.get_parameter(name).requires_grad = False
    return names


def learning_rates(groups: list[dict]) -> dict[str, float]:
    """``lr``, the largest rate of all groups, and where they differ ``lr_GROUP`` of each."""
    rates = {f"lr_{group['name']}": float(group["lr"]) for group in groups}
    return {"lr": max(rates.values())} | (rates if len(set(rates.values())) > 1 else {})


def schedule(kind: str, total_steps: int, warmup_steps: int, final: float = 0.0, decay_share: float = 0.2) -> Callable[[int], float]:
    """Learning rate at a step, as a multiple of its peak.

    Parameters
    ----------
    kind
        What follows the linear warm-up: ``linear`` or ``cosine`` decay to `final`, ``constant``, or
        ``warmup_stable_decay``: constant, then linear decay over the last `decay_share` of all steps.
    """
    if kind not in SCHEDULES:
        raise ValueError(f"schedule {kind!r} is unknown; choose from {', '.join(SCHEDULES)}")

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
        if kind == "constant":
            return 1.0
        if kind == "cosine":
            return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done))
        if kind == "linear":
            return final + (1 - final) * (1 - done)
        left = (total_steps - step) / max(1.0, decay_share * total_steps)
        return final + (1 - final) * min(1.0, max(0.0, left))

    return factor


def depth_of(name: str, n_layers: int) -> int:
    """How far below the heads a parameter is: 0 heads and final norm, 1 the last layer, ..., n_layers + 1 the embeddings."""
    if layer := re.search(r"\.layers?\.(\d+)\.", name):
        return n_layers - int(layer[1])
    return n_layers + 1 if "embeddings" in name or name.startswith(("backbone.norm", "backbone.rotary")) else 0


def adamw(
    model: BmfmModel,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    head_lr: float | None = None,
    lazy_rows: bool = False,
) -> torch.optim.AdamW:
    """AdamW with decay on matrices only, fused where the device has it.

    Parameters
    ----------
    layer_decay
        Learning rate of a layer over that of the layer above it.
    head_lr
        Learning rate of the heads, where it is not `lr`.
    lazy_rows
        Spend no time on rows of the table of tokens that a batch does not read, see `lazy_rows.LazyRowsAdamW`: the same numbers, sooner where
        the vocabulary is large; for one process on a CPU.

    Raises
    ------
    ValueError
        If `lazy_rows` is asked for where it cannot be.
    """
    groups = parameter_groups(model, weight_decay)
    if layer_decay != 1.0 or head_lr is not None:
        assert isinstance(model, BmfmModel)
        names = {id(p): name for name, p in model.named_parameters()}
        n_layers = len(model.backbone.layers)
        split: dict[str, dict] = {}
        for group in groups:
            for p in group["params"]:
                name = names[id(p)]
                is_head, depth = name.startswith("heads."), depth_of(name, n_layers)
                rate = head_lr if head_lr is not None and is_head else lr * layer_decay**depth
                level = "heads" if is_head else f"depth_{depth}" if layer_decay != 1.0 else "encoder"
                called = f"{level}_{group['name']}"
                split.setdefault(called, {"name": called, "params": [], "lr": rate, "weight_decay": group["weight_decay"]})
                split[called]["params"].append(p)
        groups = list(split.values())
    options: dict = {"lr": lr, "betas": (betas[0], betas[1]), "eps": eps}
    if lazy_rows:
        from bmfm.training.lazy_rows import LazyRowsAdamW

        return _undoing_scale(LazyRowsAdamW(groups, table=_lazy_table(model), fused=True, **options))
    fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
    return _undoing_scale(torch.optim.AdamW(groups, fused=fused, **options))


def _undoing_scale(optimizer: torch.optim.AdamW) -> torch.optim.AdamW:
    """A fused optimiser would undo a gradient scaler's factor itself, after clipping; Lightning, which refuses to clip then even where bf16 needs
    no scaler, undoes it first when the optimiser does not say so."""
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
    return optimizer


def _lazy_table(model: BmfmModel) -> torch.nn.Embedding:
    """The table of tokens, if all that reads it looks up rows."""
    encoder = None if model.backbone.own_embeddings else model.embeddings.encoder("input_ids")
    obstacle = (
        "tokens have no plain table of rows" if not isinstance(encoder, TokenEmbedding) or encoder.frozen
        else "a head is tied to the table, and reads all of it" if any(h.get("tied") == "input_ids" for h in model.config.heads.values())
        else "the cell summary or perturbations read the table, too" if model.config.fields.keys() & {"summary", "perturbation"}
        else "the model is on a GPU" if encoder.embedding.weight.device.type != "cpu"
        else "several devices train together" if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
        else "the table is not trained" if not encoder.embedding.weight.requires_grad
        else None
    )  # fmt: skip
    if obstacle is not None or not isinstance(encoder, TokenEmbedding):
        raise ValueError(f"optimizer.lazy_rows=true: {obstacle}; choose optimizer.lazy_rows=false")
    return encoder.embedding
