"""Embeddings of a checkpoint, as it is."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bmfm import __version__
from bmfm.evaluation.checksums import content_hash
from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.methods.base import EmbeddingMethod, Method
from bmfm.evaluation.task_spec import TaskSpec
from bmfm.files import cached_folder
from bmfm.storage.folders import default_pooling, find_folder

MODEL_FILES = (".safetensors", ".bin", ".json", ".txt", ".gz", ".py")


class CheckpointFolder:
    """A model folder or Hub id, looked at when something of it is asked for."""

    def __init__(self, name: str, remote_code: bool = False):
        self.name, self.remote_code = name, remote_code

    @cached_property
    def folder(self) -> Path:
        return find_folder(self.name)

    @cached_property
    def hash(self) -> str:
        """`content_hash` of weights, configuration, tokenizer and code."""
        return content_hash(sorted(p for p in self.folder.iterdir() if p.suffix in MODEL_FILES))

    @cached_property
    def omics(self) -> str:
        from bmfm.checkpoints.load import tokenizer_of

        return tokenizer_of(str(self.folder), remote_code=self.remote_code).omics

    @cached_property
    def parameters(self) -> int | None:
        """Numbers in all tensors; None where there are no safetensors."""
        from safetensors import safe_open

        n = 0
        for file in self.folder.glob("*.safetensors"):
            with safe_open(file, "np") as tensors:
                n += sum(int(np.prod(tensors.get_slice(k).get_shape())) for k in tensors.keys())  # noqa: SIM118
        return n or None


class OfCheckpoint(Method):
    """What methods that begin with a checkpoint share."""

    kind = "checkpoint"
    checkpoint: CheckpointFolder

    def takes(self, task: TaskSpec) -> bool:
        return task.omics == self.checkpoint.omics

    @property
    def model_hash(self) -> str:
        return self.checkpoint.hash

    @property
    def parameters(self) -> int | None:
        return self.checkpoint.parameters


class CheckpointEmbeddings(OfCheckpoint, EmbeddingMethod):
    """Embeddings of a model folder or Hub id, made once for a data set and kept in the cache.

    Parameters
    ----------
    pooling
        See `Predictor.embed`; ``auto`` is the model's own.
    precision
        ``bf16``, ``fp16`` or None.
    """

    mode = "zero_shot"

    def __init__(self, name: str, checkpoint: str, pooling: str | int = "auto", remote_code: bool = False, precision: str | None = None):
        super().__init__(name)
        self.checkpoint = CheckpointFolder(checkpoint, remote_code)
        self.requested_pooling, self.precision = pooling, precision

    @property
    def pooling(self) -> str | int:
        return self.requested_pooling if self.requested_pooling != "auto" else default_pooling(self.checkpoint.folder)

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        return {"model": self.model_hash, "pooling": self.pooling, "precision": self.precision}

    def shared_work(self, data_hash: str) -> str | None:
        return f"{self.model_hash} {data_hash} {self.pooling} {self.precision}"

    def embed(self, examples: Examples, seed: int = 0, learn_from: np.ndarray | None = None) -> np.ndarray:
        """Embeddings [n, H] of all examples, from the cache if the same model has seen the same data."""
        data = examples.task.config.data
        options: dict[str, Any] = {"pooling": self.pooling, "precision": self.precision} | examples.predictor_options(data)
        reading = {k: data.get(k) for k in examples.read_by}

        def build(folder: Path) -> None:
            from bmfm.inference import load

            model = load(self.checkpoint.name, remote_code=self.checkpoint.remote_code)
            np.save(folder / "embedding.npy", model.embed(examples.inputs, **options))
            (folder / "counts.json").write_text(json.dumps(dict(model.counts)))

        key = {"model": self.model_hash, "data": examples.hash, "bmfm": __version__} | options | reading
        folder = cached_folder("embeddings", key, build)
        self.counts = json.loads((folder / "counts.json").read_text())
        return np.load(folder / "embedding.npy")
