"""Callbacks: speed in the progress bar, leaving in good order on SIGTERM."""

import signal
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


class SaveOnTerm(pl.Callback):
    """On SIGTERM: finish the step, write ``last.ckpt``, and end training as usual."""

    def __init__(self, folder: str):
        self.folder = Path(folder)
        self.asked = False

    def on_train_start(self, trainer, module) -> None:
        signal.signal(signal.SIGTERM, self._ask)

    def _ask(self, number, frame) -> None:
        self.asked = True

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        asked = trainer.strategy.reduce_boolean_decision(self.asked, all=False) if trainer.world_size > 1 else self.asked
        between_steps = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if asked and between_steps:
            trainer.save_checkpoint(self.folder / "last.ckpt")
            trainer.should_stop = True
