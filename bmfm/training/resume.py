"""A run's folder: whether it may begin there, from which checkpoint it goes on, and which of its weights were best."""

import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from bmfm.files import remove_abandoned, whole_file

DAMAGE = (
    RuntimeError, OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, pickle.UnpicklingError, zipfile.BadZipFile,
)  # fmt: skip
"""What reading a damaged checkpoint ends in."""


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside the one that is there, and puts it in its place once it is on the disk.

    Lightning's own way goes by the system's folder for temporary files, which is often another disk: from there the checkpoint is copied, and a run that
    is killed meanwhile is left with none.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        try:
            with whole_file(path) as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # which torch makes of a full disk
            raise OSError(f"{path} cannot be written ({str(error).splitlines()[0]}); what was there before is kept") from error


def begin_or_resume(folder: Path, resume: bool, overwrite: bool, is_main_process: bool) -> Path | None:
    """The checkpoint to go on from, or None; a run that is there already is replaced only if that is asked for."""
    last = folder / "checkpoints" / "last.ckpt"
    if last.exists() and not (resume or overwrite) and is_main_process:
        raise SystemExit(
            f"bmfm: {folder} already holds a run. Go on with it by resume=true, replace it by overwrite=true, "
            "or choose another folder by run_dir=..."
        )
    if overwrite and not resume and is_main_process:
        for stale in ("checkpoints", "model", "csv"):
            shutil.rmtree(folder / stale, ignore_errors=True)
    return last if resume and last.exists() else None


def check_checkpoint(file: Path, module: pl.LightningModule) -> int:
    """How many training batches a checkpoint has seen; ValueError where it is damaged, or of another model or other objectives."""
    remedy = "start anew by overwrite=true without resume=true, or choose another folder by run_dir=..."
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
        n_batches, shapes = int(saved["bmfm"]["batches_seen"]), {k: tuple(v.shape) for k, v in saved["state_dict"].items()}
    except DAMAGE:
        raise ValueError(f"{file} is damaged, or no checkpoint of this package, and cannot be resumed from: {remedy}") from None
    expected = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    if other := sorted(k for k in expected.keys() | shapes.keys() if expected.get(k) != shapes.get(k)):
        first = f"{len(other)} weights differ, first {other[0]}: {shapes.get(other[0], 'none')} there, {expected.get(other[0], 'none')} asked for"
        raise ValueError(f"{file} is of another model or other objectives ({first}): resume with the settings it began with; or {remedy}")
    return n_batches


def load_best(trainer: pl.Trainer, model: torch.nn.Module) -> int | None:
    """Give the model the weights of the best checkpoint and return its step; None where nothing was monitored."""
    best = next((c.best_model_path for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.best_model_path), None)
    if not best:
        return None
    saved = torch.load(best, map_location="cpu", weights_only=True)
    model.load_state_dict({k.removeprefix("model."): v for k, v in saved["state_dict"].items() if k.startswith("model.")})
    return int(saved["global_step"])
