"""Weights of a model folder: read whole, or refused with the file and the key that are wrong.

Weights come from safetensors alone. Nothing that a folder says is taken on trust: a key that is missing, left over or of
another shape is an error, as a model with some random weights looks like any other.
"""

import warnings
from pathlib import Path

import torch
from torch import nn

from bmfm.storage.config import shown
from bmfm.storage.folders import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def weight_files(folder: Path) -> dict[Path, set[str] | None]:
    """The safetensors files of a folder, {file: keys to take from it, or None for all}.

    One ``model.safetensors``, or the shards that ``model.safetensors.index.json`` names. Where shards lie beside the
    one, or are in no index, nobody knows which are the model's.

    Raises
    ------
    FileNotFoundError
        If there is neither, or a shard is absent.
    ValueError
        If the index is broken, or there are more weights than it says.
    """
    shards = sorted(p.name for p in folder.glob("model-*-of-*.safetensors"))
    if (folder / SINGLE).is_file():
        if shards:
            raise ValueError(f"{folder} holds {SINGLE} and {some(shards, n=2)}: remove those of another model, nobody can tell which it is")
        if (folder / INDEX).is_file():  # as saving a small model over a large one leaves it
            warnings.warn(f"{folder / INDEX} is of no use beside {SINGLE}, which was read: remove it", stacklevel=3)
        return {folder / SINGLE: None}
    index = folder / INDEX
    if not index.is_file():
        exported = '; it holds a graph, which bmfm.load(..., backend="onnx") reads' if (folder / "model.onnx").is_file() else ""
        raise FileNotFoundError(f"{folder} holds no {SINGLE} and no {INDEX}{exported}")
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{index} has no 'weight_map' from the names of weights to files")
    files: dict[Path, set[str] | None] = {}
    for name in sorted(set(places.values())):
        if Path(name).name != name:
            raise ValueError(f"{index} names {name!r}: shards lie in the folder itself")
        if not (folder / name).is_file():
            n = sum(place == name for place in places.values())
            raise FileNotFoundError(f"{index} names {name} for {n:,} weights, and there is no such file: download the folder again")
        files[folder / name] = {key for key, place in places.items() if place == name}
    if stale := [name for name in shards if folder / name not in files]:
        raise ValueError(f"{folder} holds {some(stale, n=2)}, which {INDEX} does not name: remove what is of another model")
    return files


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a folder, {key: tensor}.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file that is absent, truncated or no safetensors file, and the keys that an index promises.
    """
    from safetensors import SafetensorError, safe_open

    weights: dict[str, torch.Tensor] = {}
    for file, wanted in weight_files(folder).items():
        try:
            with safe_open(file, "pt") as tensors:
                keys = set(tensors.keys())
                if wanted is not None and (absent := sorted(wanted - keys)):
                    raise ValueError(f"{file} lacks {some(absent)}, which {INDEX} says are in it")
                if wanted is not None and (extra := sorted(keys - wanted)):
                    raise ValueError(
                        f"{file} holds {some([shown(k)[1:-1] for k in extra])}, which {INDEX} does not name: they belong to another model"
                    )
                weights |= {key: tensors.get_tensor(key) for key in sorted(keys if wanted is None else wanted)}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{file} is damaged or no safetensors file ({error}): copy or download it again") from None
    return weights


def load_strictly(model: nn.Module, weights: dict[str, torch.Tensor], source: object, names: dict[str, str] | None = None) -> None:
    """Put weights into a model, which must need all of them and no others, see `check_fit`."""
    expected, called = model.state_dict(), names or {}
    check_fit(expected, weights, source, called)
    keys = {name: called.get(name, name) for name in expected}
    model.load_state_dict({name: weights[key] for name, key in keys.items() if key in weights}, strict=False)


def refuse_not_finite(weights: dict[str, torch.Tensor], source: object) -> None:
    """Raise a ValueError that names the weights with a NaN or an infinite number, which would make every prediction one."""
    floats = [(key, w) for key, w in weights.items() if w.is_floating_point() and not w.is_meta]
    odd = [
        key for key, w in floats if not w.sum(dtype=torch.float32).isfinite() and not w.isfinite().all()
    ]  # sums are fast, and may overflow
    if odd:
        raise ValueError(
            f"{source}: weights {some([shown(key) for key in odd], n=3)} hold numbers that are NaN or infinite: the file is spoiled"
        )


def check_fit(
    expected: dict[str, torch.Tensor], weights: dict[str, torch.Tensor], source: object, names: dict[str, str] | None = None
) -> None:
    """Raise a ValueError unless `weights` are the weights that a model with the state dict `expected` needs.

    A weight that shares its memory with one that is there (tied matrices, of which files keep one) may be absent.

    Parameters
    ----------
    source
        File or folder, for errors.
    names
        {name in the model: name in the file} where they differ.

    Raises
    ------
    ValueError
        Naming `source` and the keys that are missing, left over, of another shape, no numbers of the same kind, NaN or
        infinite.
    """
    called = names or {}
    fitting = {name: weights[called.get(name, name)] for name in expected if called.get(name, name) in weights}
    there = {_place(expected[name]) for name in fitting}
    missing, wrong = [], []
    for name, weight in expected.items():
        key = called.get(name, name)
        if name not in fitting:
            if _place(weight) is None or _place(weight) not in there:
                missing.append(f"{shown(key)[1:-1]} is missing")
        elif weight.shape != fitting[name].shape:
            wrong.append(f"{shown(key)[1:-1]} has shape {tuple(fitting[name].shape)}, {tuple(weight.shape)} is expected")
        elif weight.is_floating_point() != fitting[name].is_floating_point():
            wrong.append(f"{shown(key)[1:-1]} holds {fitting[name].dtype}, {weight.dtype} is expected")
    places = {called.get(name, name) for name in expected}
    extra = [f"{shown(key)[1:-1]} has no place" for key in weights if key not in places]
    if n := len(missing) + len(extra) + len(wrong):
        listed = [some(kind, "; ", 3) for kind in (missing, extra, wrong) if kind]
        raise ValueError(f"{source}: {n:,} weights do not fit: {'; '.join(listed)}")
    refuse_not_finite(weights, source)


def _place(weight: torch.Tensor) -> tuple | None:
    """Where in memory a weight is; None for one that is nowhere."""
    return (weight.data_ptr(), weight.shape, weight.stride()) if weight.data_ptr() else None


def some(names: list[str], between: str = ", ", n: int = 6) -> str:
    """The first names of a list, and how many more there are."""
    return between.join(names[:n]) + (f" and {len(names) - n:,} more" if len(names) > n else "")
