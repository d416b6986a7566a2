"""What the shards of a prediction depend on: a model and data, known by content, and options."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bmfm import __version__
from bmfm.checkpoints.adapters import adapter_base
from bmfm.files import sha256_of_file
from bmfm.inference.predictor import Predictor
from bmfm.places import is_experiment, known_as
from bmfm.storage.folders import find_folder

WHOLE = 1 << 30
"""Bytes up to which a file is hashed whole."""

ASIDE = ("checkpoint", "revision", "output", "progress", "overwrite", "device", "launcher", "hydra")
"""Options that results do not depend on, or that content stands for."""


def work_plan(config: Any, predictor: Predictor, files: Iterable[str | Path], asked: Any) -> dict[str, Any]:
    """What shards depend on: model and data by content, options, version.

    A model is known by the hashes of its files, wherever it lies; so are data, see `digest`.

    Parameters
    ----------
    config
        The composed configuration of a prediction.
    files
        Files and folders with its data.
    asked
        The configuration as it was given, where paths of inputs may be URLs.
    """
    from omegaconf import OmegaConf

    checkpoint = Path(config.checkpoint).expanduser()
    # of an adapter, its model too
    folders = [predictor.folder] if predictor.folder else [checkpoint, find_folder(adapter_base(checkpoint))]
    model = [(p.name, digest(p)) for folder in folders for p in sorted(folder.iterdir()) if p.is_file() and not p.name.startswith(".")]
    settings: Any = OmegaConf.to_container(asked, resolve=True)
    # of an address nothing but itself is known
    data = [[(file, "")] if is_experiment(file) else digest_tree(Path(file).expanduser()) for file in files]
    return {"version": __version__, "model": model, "data": data, "options": {k: v for k, v in settings.items() if k not in ASIDE}}


def digest(path: Path) -> str:
    """SHA-256 of a file; of one above 1 GiB, of its size, its time, and 16 MiB at 16 places from its beginning to its end."""
    stat, block = path.stat(), 1 << 24
    if stat.st_size <= WHOLE:
        return sha256_of_file(path)
    sampled = hashlib.sha256(f"{stat.st_size} {stat.st_mtime_ns}".encode())
    with path.open("rb") as file:
        for i in range(16):
            file.seek((stat.st_size - block) * i // 15)
            sampled.update(file.read(block))
    return sampled.hexdigest()


def digest_tree(path: Path) -> list[tuple[str, str]]:
    """Name and digest of a file, or of every file of a folder."""
    files = sorted(q for q in path.rglob("*") if q.is_file()) if path.is_dir() else [path]
    return [(known_as(file), digest(file)) for file in files]
