"""Optimiser and learning-rate schedule."""

import math
from collections.abc import Callable

import torch

SCHEDULES = ("linear", "cosine", "constant", "warmup_stable_decay")


def parameter_groups(model: torch.nn.Module, weight_decay: float) -> list[dict]:
    """Weight decay on matrices only: biases, norms and other vectors are left free, and what is marked ``no_decay``."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim >= 2 and not getattr(p, "no_decay", False)]
    vectors = [p for p in trained if p.ndim < 2 or getattr(p, "no_decay", False)]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


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


def adamw(model: torch.nn.Module, lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with decay on matrices only, fused where the device has it."""
    groups = parameter_groups(model, weight_decay)
    fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, lr=lr, betas=tuple(betas), eps=eps, fused=fused)
