"""What the processes of a run tell one another, and the state of a process's random generators."""

import random
from typing import Any

import numpy as np
import torch


def of_every_device(value: Any) -> list:
    """What every process gave, in the order of their ranks; each must ask. Tensors must be on the CPU."""
    values: list = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def rng_state() -> dict:
    """State of the generators of PyTorch (CPU and this process's GPU), NumPy and Python, in types that a checkpoint may hold."""
    numpy: dict = np.random.get_state(legacy=False)  # type: ignore[assignment]
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
        "numpy": numpy | {"state": {"key": torch.from_numpy(numpy["state"]["key"].astype(np.int64)), "pos": int(numpy["state"]["pos"])}},
        "python": random.getstate(),
    }


def set_rng_state(state: dict) -> None:
    """Set all generators to a state of `rng_state`."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"].cpu())
    numpy = state["numpy"]
    np.random.set_state(numpy | {"state": numpy["state"] | {"key": numpy["state"]["key"].cpu().numpy().astype(np.uint32)}})
    version, words, gauss_next = state["python"]
    random.setstate((version, tuple(words), gauss_next))
