"""Callbacks: speed, progress, and the checkpoint from which a run goes on."""

import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, TQDMProgressBar
from tqdm.auto import tqdm

from bmfm.tokenizers.batch import Batch


class Throughput(pl.Callback):
    """Logs tokens a second and the share of step time that was spent waiting for data.

    A batch's tokens are counted over all devices; figures are means over `every` steps.
    """

    def __init__(self, every: int = 10):
        self.every = every
        self._reset(time.perf_counter())

    def _reset(self, now: float) -> None:
        self.start_time, self.waited, self.tokens, self.steps = now, 0.0, 0, 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._reset(time.perf_counter())
        self.ended = self.start_time

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Batch, batch_idx: int) -> None:
        self.waited += time.perf_counter() - self.ended

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.tokens += batch["counts"]["tokens"] * trainer.world_size
        self.steps += 1
        self.ended = time.perf_counter()
        if self.steps >= self.every:
            seconds = self.ended - self.start_time
            module.log("train/tokens_per_second", self.tokens / seconds, prog_bar=True, rank_zero_only=True)
            module.log("train/data_share", self.waited / seconds, rank_zero_only=True)
            self._reset(self.ended)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        now = time.perf_counter()
        self._reset(now)
        self.ended = now


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` every so many steps, at the end, and on SIGTERM (also in a validation) before training ends as usual.

    A resumed run goes on as if it had not been interrupted, so the checkpoint is written when all is known that the step
    brought: after the validation that follows it, if one does, and after every other callback (early stopping, the best
    checkpoint, averaged weights), among which it comes last.
    """

    def __init__(self, folder: str, every_n_train_steps: int):
        self.folder, self.every = Path(folder), every_n_train_steps
        self.stop_requested = self.due = False
        self.saved = -1

    def on_sanity_check_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._listen()

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._listen()
        self.saved = trainer.global_step
        if self._is_asked_to_stop(trainer):
            print("bmfm: stopped by SIGTERM before a step was taken; begin or go on by resume=true", file=sys.stderr, flush=True)
            raise SystemExit(0)
        # a run that early stopping ended, and whose last.ckpt says so, has nothing to go on with
        trainer.should_stop = trainer.should_stop or any(c.wait_count >= c.patience for c in trainer.early_stopping_callbacks)

    def _listen(self) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._request_stop)

    def _is_asked_to_stop(self, trainer: pl.Trainer) -> bool:
        """Whether any process was; every one must ask."""
        if trainer.world_size > 1:
            return trainer.strategy.reduce_boolean_decision(self.stop_requested, all=False)
        return self.stop_requested

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        self.stop_requested = True

    def _save(self, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.folder / "last.ckpt")
        self.saved, self.due = trainer.global_step, False

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int) -> None:
        stop_requested = self._is_asked_to_stop(trainer)
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        trainer.should_stop = trainer.should_stop or stop_requested
        ends = trainer.should_stop or trainer.global_step == trainer.max_steps
        self.due = ends or (trainer.global_step % self.every == 0 and trainer.global_step > self.saved)
        every = trainer.val_check_batch  # None until Lightning has seen the loaders
        validates = trainer.enable_validation and every is not None and (trainer.fit_loop.total_batch_idx + 1) % every == 0
        if self.due and not validates:
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        trainer.should_stop = trainer.should_stop or self._is_asked_to_stop(trainer)  # while it ran
        if self.due or trainer.should_stop:
            self._save(trainer)


class Progress(TQDMProgressBar):
    """A bar of optimiser steps on a terminal; elsewhere, as in a log file, a plain line every so many seconds.

    Parameters
    ----------
    refresh_rate
        Batches between two redraws of the bar.
    seconds
        Between two plain lines.
    """

    def __init__(self, refresh_rate: int = 10, seconds: float = 30.0):
        self.plain, self.seconds = not sys.stderr.isatty(), seconds
        super().__init__(0 if self.plain else refresh_rate)

    def _bar(self, what: str, leave: bool, position: int = 0, **options: Any) -> tqdm:
        return tqdm(desc=what, leave=leave, position=position, disable=self.is_disabled, dynamic_ncols=True, file=sys.stderr, **options)

    def init_validation_tqdm(self) -> tqdm:
        return self._bar("validation", False, 1)

    def init_test_tqdm(self) -> tqdm:
        return self._bar("test", False)

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.first, self.start_time = trainer.global_step, time.perf_counter()
        self.printed_at = self.start_time
        total = trainer.max_steps if trainer.max_steps > 0 else None
        self.train_progress_bar = self._bar("training", True, initial=self.first, total=total, unit="step", smoothing=0)

    def on_train_epoch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """The stream of batches has no epochs that a bar could count."""

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int) -> None:
        now = time.perf_counter()
        if self.plain and trainer.is_global_zero and now - self.printed_at >= self.seconds:
            self.printed_at = now
            self._say(trainer, now)
        elif self.is_enabled and (batch_idx + 1) % self.refresh_rate == 0:
            self.train_progress_bar.n = trainer.global_step
            self.train_progress_bar.set_postfix(self.get_metrics(trainer, module))

    def on_train_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if self.plain and trainer.is_global_zero and trainer.global_step > self.first:
            self._say(trainer, time.perf_counter())
        self.train_progress_bar.n = trainer.global_step
        self.train_progress_bar.refresh()
        super().on_train_end(trainer)

    def _say(self, trainer: pl.Trainer, now: float) -> None:
        step, total = trainer.global_step, trainer.max_steps
        rate = (step - self.first) / (now - self.start_time)
        line = f"step {step:,}" + (f" of {total:,}" if total > 0 else "") + f", {rate:.2f} a second"
        if total > 0 and rate > 0:
            line += f", {timedelta(seconds=round((total - step) / rate))} left"
        shown = {k: v for k, v in trainer.progress_bar_metrics.items() if isinstance(v, float)}
        print(line + "".join(f", {name} {value:.4g}" for name, value in shown.items()), file=sys.stderr, flush=True)
