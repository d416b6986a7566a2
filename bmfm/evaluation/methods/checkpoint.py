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
from bmfm.storage.folders import CALIBRATION, PROJECTION, TRAINING_DATA, default_pooling, find_folder

MODEL_FILES = (".safetensors", ".bin", ".json", ".txt", ".gz", ".py")
BESIDE = (PROJECTION, TRAINING_DATA, CALIBRATION)
"""Files that say something of a model, and change nothing of what it embeds and predicts."""


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
        return content_hash(sorted(p for p in self.folder.iterdir() if p.suffix in MODEL_FILES and p.name not in BESIDE))

    @cached_property
    def omics(self) -> str:
        from bmfm.checkpoints.load import tokenizer_of

        return tokenizer_of(str(self.folder), remote_code=self.remote_code).omics

    @cached_property
    def parameters(self) -> int | None:
        """Numbers in all tensors; None where there are no safetensors."""
        from safetensors import safe_open

        n = 0
        for file in self.folder.glob("model*.safetensors"):
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
    random_init
        The same network with new weights, which the seed draws, and the same tokenizer: what the architecture alone is worth. It is a
        baseline.
    """

    mode = "zero_shot"

    def __init__(self, name: str, checkpoint: str, pooling: str | int = "auto", remote_code: bool = False,
                 precision: str | None = None, random_init: bool = False):  # fmt: skip
        super().__init__(name)
        self.checkpoint = CheckpointFolder(checkpoint, remote_code)
        self.requested_pooling, self.precision, self.random_init = pooling, precision, random_init
        if random_init:
            self.kind, self.deterministic = "baseline", False

    @property
    def pooling(self) -> str | int:
        return self.requested_pooling if self.requested_pooling != "auto" else default_pooling(self.checkpoint.folder)

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        settings = {"model": self.model_hash, "pooling": self.pooling, "precision": self.precision}
        return settings | ({"random_init": True} if self.random_init else {})

    def shared_work(self, data_hash: str) -> str | None:
        if self.random_init:
            return None  # every seed has weights of its own
        return f"{self.model_hash} {data_hash} {self.pooling} {self.precision}"

    def embed(self, examples: Examples, seed: int = 0, learn_from: np.ndarray | None = None) -> np.ndarray:
        """Embeddings [n, H] of all examples, from the cache if the same model has seen the same data."""
        data = examples.task.config.data
        options: dict[str, Any] = {"pooling": self.pooling, "precision": self.precision} | examples.predictor_options(data)
        reading = {k: data.get(k) for k in examples.read_by}

        def build(folder: Path) -> None:
            model = self._untrained(seed) if self.random_init else self._trained()
            np.save(folder / "embedding.npy", model.embed(examples.inputs, **options))
            (folder / "counts.json").write_text(json.dumps(dict(model.counts)))

        key = {"model": self.model_hash, "data": examples.hash, "bmfm": __version__} | options | reading
        key |= {"random_init": seed} if self.random_init else {}
        folder = cached_folder("embeddings", key, build)
        self.counts = json.loads((folder / "counts.json").read_text())
        return np.load(folder / "embedding.npy")

    def _trained(self) -> Any:
        from bmfm.inference import load

        return load(self.checkpoint.name, remote_code=self.checkpoint.remote_code)

    def _untrained(self, seed: int) -> Any:
        """A `Predictor` with the checkpoint's tokenizer and the network with weights that the seed draws."""
        import torch

        from bmfm.checkpoints.load import from_checkpoint, read_model, tokenizer_of
        from bmfm.inference.predictor import Predictor
        from bmfm.storage.remote_code import remote_code as allow_remote_code

        folder, remote_code = self.checkpoint.folder, self.checkpoint.remote_code
        with allow_remote_code(remote_code):
            config = read_model(folder).config
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = from_checkpoint({}, config.heads, str(folder), remote_code=remote_code, random_init=True)
        model.config.max_tokens = config.max_tokens
        return Predictor(model.eval(), tokenizer_of(str(folder), remote_code=remote_code))
