"""Callbacks: speed in the progress bar, the checkpoint from which a run goes on."""

import signal
import threading
import time
from pathlib import Path

import pytorch_lightning as pl


class Throughput(pl.Callback):
    """Logs tokens a second and the share of step time that was spent waiting for data.

    A batch's tokens are counted over all devices; figures are means over `every` steps.
    """

    def __init__(self, every: int = 10):
        self.every = every
        self._reset(time.perf_counter())

    def _reset(self, now: float) -> None:
        self.began, self.waited, self.tokens, self.steps = now, 0.0, 0, 0

    def on_train_start(self, trainer, module) -> None:
        self._reset(time.perf_counter())
        self.ended = self.began

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:
        self.waited += time.perf_counter() - self.ended

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.tokens += batch["counts"]["tokens"] * trainer.world_size
        self.steps += 1
        self.ended = time.perf_counter()
        if self.steps >= self.every:
            seconds = self.ended - self.began
            module.log("train/tokens_per_second", self.tokens / seconds, prog_bar=True, rank_zero_only=True)
            module.log("train/data_share", self.waited / seconds, rank_zero_only=True)
            self._reset(self.ended)

    def on_validation_end(self, trainer, module) -> None:
        now = time.perf_counter()
        self._reset(now)
        self.ended = now


class LastCheckpoint(pl.Callback):
    """Writes ``last.ckpt`` every so many steps, and on SIGTERM before training ends as usual.

    Where a validation follows a step, the checkpoint is written after it: what training learns from held-out errors
    (adaptive masking) is then part of it, and a resumed run goes on as if it had not been interrupted.
    """

    def __init__(self, folder: str, every_n_train_steps: int):
        self.folder, self.every = Path(folder), every_n_train_steps
        self.asked = self.due = False
        self.saved = -1

    def on_train_start(self, trainer, module) -> None:
        self.saved = trainer.global_step
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number, frame) -> None:
        self.asked = True

    def _save(self, trainer) -> None:
        trainer.save_checkpoint(self.folder / "last.ckpt")
        self.saved, self.due = trainer.global_step, False

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        asked = trainer.strategy.reduce_boolean_decision(self.asked, all=False) if trainer.world_size > 1 else self.asked
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        trainer.should_stop = trainer.should_stop or asked
        self.due = asked or (trainer.global_step % self.every == 0 and trainer.global_step > self.saved)
        validates = trainer.enable_validation and (batch_idx + 1) % trainer.val_check_batch == 0
        if self.due and not validates:
            self._save(trainer)

    def on_validation_end(self, trainer, module) -> None:
        if self.due and not trainer.sanity_checking:
            self._save(trainer)
