"""Reading other people's Lightning checkpoints without running anything that is in them.

A ``.ckpt`` is a pickle, and a pickle may name any function to call. This reader knows how to rebuild tensors and plain
containers; classes of the published system's configuration become `Bag`, which keeps attributes and does nothing; any
other name is refused.
"""

import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from bmfm.files import require_file

BAGS = ("bmfm_targets.", "omegaconf.")
HARMLESS = {
    ("collections", "OrderedDict"), ("collections", "defaultdict"), ("builtins", "set"), ("builtins", "frozenset"), ("builtins", "slice"),
    ("builtins", "dict"), ("builtins", "list"), ("builtins", "int"), ("builtins", "float"), ("builtins", "complex"), ("typing", "Any"),
    ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter"), ("torch", "Size"), ("torch", "device"),
    ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath"), ("pathlib", "PurePosixPath"),
}  # fmt: skip
STORAGES = {f"{kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")}


class Bag:
    """Attributes of an object whose class is not here; ``name`` is the class, ``args`` what it was called with."""

    def __init__(self, *args: Any):
        self.args = args

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update({str(k): v for k, v in part.items()})

    def get(self, name: str, default: Any = None) -> Any:
        return self.__dict__.get(name, default)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.startswith(BAGS):
            return type(name, (Bag,), {"name": f"{module}.{name}"})
        if (
            (module, name) in HARMLESS
            or (module == "torch" and name in STORAGES)
            or (module == "torch.storage" and name == "UntypedStorage")
        ):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


def read_checkpoint(path: str | Path) -> dict:
    """A Lightning checkpoint with tensors on the CPU and configuration objects as `Bag`.

    Raises
    ------
    ValueError
        If the file asks for anything but tensors, containers and the published system's configuration; nothing was run.
    """
    file = require_file(path, "checkpoint")
    reader = SimpleNamespace(
        Unpickler=_Unpickler, load=lambda f, **options: _Unpickler(f, **options).load(), __name__="bmfm.models.pickled"
    )
    try:
        return torch.load(file, map_location="cpu", pickle_module=reader, weights_only=False)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} asks for {error}, which a checkpoint of weights does not need; it was refused and nothing in it was run. "
            "Ask its authors for safetensors"
        ) from None
