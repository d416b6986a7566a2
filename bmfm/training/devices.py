"""What the processes of a run tell one another, and the state of a process's random generators."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch


def choose_precision(precision: Any, accelerator: str) -> Any:
    """What a run computes in: ``auto`` is bf16-mixed where the device multiplies bfloat16 faster than float32 (NVIDIA GPUs since Ampere, CPUs with
    AVX512-BF16, AMX or ARM's bf16), and else 32-true; anything else is as it is.

    Parameters
    ----------
    accelerator
        Lightning's: ``cpu``, or another that takes the GPU where there is one.
    """
    if precision != "auto":
        return precision
    if accelerator != "cpu" and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.get_device_capability() >= (8, 0) else "32-true"
    return "bf16-mixed" if cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"} else "32-true"


def cpu_flags() -> set[str]:
    """What this machine's CPU can do, as Linux lists it; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))), set())


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
