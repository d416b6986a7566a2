"""A checkpoint that is trained further on the task."""

import contextlib
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.cli import override
from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.examples.perturbations import PerturbationExamples
from bmfm.evaluation.methods.base import LabelMethod
from bmfm.evaluation.methods.checkpoint import CheckpointFolder, OfCheckpoint
from bmfm.evaluation.methods.perturbation import PerturbationMethod, Responses, respond_by
from bmfm.evaluation.task_files import read_task
from bmfm.evaluation.task_spec import TaskSpec

SET_BY_THE_TASK = (
    "data.path", "data.source", "data.split", "data.sequence", "data.second", "data.derived", "data.counts", "seed", "run_dir", "test", "task",
)  # fmt: skip
"""Settings that no fine-tuning may change: every model is scored on the same examples."""


ALLOWED = ("data.source.gene_weights",)
"""What of these may be: it says how a model is trained, not which examples there are."""


class FineTuned(OfCheckpoint, LabelMethod, PerturbationMethod):
    """A checkpoint trained further on the task, all of it or by adapters; the best on validation predicts the test part: labels of examples, or
    what perturbations do to cells.

    Parameters
    ----------
    overrides
        Of the training configuration, as on the command line.
    lora
        Settings of adapters, see `checkpoints.load.from_checkpoint`; None trains all weights.
    random_init
        The same network from new weights: what pretraining is worth.
    keep
        Leave the trained model in the job's folder.
    """

    deterministic = False

    def __init__(self, name: str, checkpoint: str, overrides: list[str] | None = None, lora: dict | None = None,
                 random_init: bool = False, remote_code: bool = False, keep: bool = False):  # fmt: skip
        super().__init__(name)
        self.checkpoint, self.overrides, self.lora = CheckpointFolder(checkpoint, remote_code), list(overrides or []), lora
        self.random_init, self.keep = random_init, keep
        self.mode = "from_scratch" if random_init else "lora" if lora else "finetune"

    def check(self, task: TaskSpec) -> None:
        """Compose the configuration: a mistake in the overrides is told now rather than by every job."""
        if fixed := [
            o.split("=")[0] for o in self.overrides if o.lstrip("+~").startswith(SET_BY_THE_TASK) and not o.lstrip("+").startswith(ALLOWED)
        ]:
            raise ValueError(f"finetune.{fixed[0]} cannot be changed: the task sets it, so that every model is scored on the same examples")
        read_task(task.name, ["checkpoint=none", *self.overrides])

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        return {"model": self.model_hash, "overrides": self.overrides, "lora": self.lora, "random_init": self.random_init}

    def predict(self, examples: Examples, seed: int, folder: Path) -> dict[str, np.ndarray]:
        with self._trained(examples, seed, folder) as (model, data):
            predictions = model.predict(examples.of("test"), **examples.predictor_options(data))
            self.counts = dict(model.counts)
        return {name: kind.from_columns(partial(_column, predictions, name)) for name, kind in examples.kinds.items()}

    def respond(self, examples: PerturbationExamples, seed: int, folder: Path) -> Responses:
        with self._trained(examples, seed, folder) as (model, _):
            return respond_by(model, examples)

    @contextlib.contextmanager
    def _trained(self, examples: Examples, seed: int, folder: Path) -> Iterator[tuple[Any, Any]]:
        """A model that was trained on the task, and the settings of the data that it was trained on; what is printed on the way goes into the
        job's log."""
        from bmfm.inference import load
        from bmfm.training.run import train

        run = folder / "run"
        settings = [
            override("checkpoint", self.checkpoint.name), override("run_dir", run), override("data_root", examples.task.config.data_root),
            f"seed={seed}", "overwrite=true", "test=false", "logistic_regression=false", "trainer.enable_progress_bar=false",
            "callbacks.progress=null", override("remote_code", self.checkpoint.remote_code), override("model.random_init", self.random_init),
            override("++data.split.seed", examples.task.config.data.split.get("seed", 0)),  # the parts stay whatever the seed
        ]  # fmt: skip
        if self.lora:
            settings.append(override("model.lora", self.lora))
        task = read_task(examples.task.name, [*settings, *self.overrides])
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log.txt").open("w") as log, contextlib.redirect_stdout(log):
            train(task.config)
            yield load(run / "model", remote_code=self.checkpoint.remote_code), task.config.data
        if not self.keep:
            shutil.rmtree(run / "model")
        shutil.rmtree(run / "checkpoints", ignore_errors=True)


def _column(predictions: pd.DataFrame, name: str, ending: str) -> np.ndarray:
    return predictions[f"{name}{ending}"].to_numpy()
