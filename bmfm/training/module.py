"""The LightningModule: (batch, model, objectives) -> losses and metrics."""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig

from bmfm.data.module import BatchModule
from bmfm.inference import Predictor
from bmfm.models.model import BmfmModel
from bmfm.objectives.multitask import Objectives, add_up, weighted_mean
from bmfm.tokenizers.base import Tokenizer
from bmfm.tokenizers.batch import Batch
from bmfm.training.devices import of_every_device, rng_state, set_rng_state
from bmfm.training.nonfinite import NonFinite
from bmfm.training.optim import learning_rates
from bmfm.training.predicted import label_tasks, scores_of_predictions


class LitModel(pl.LightningModule):
    """Trains one model on its objectives.

    Parameters
    ----------
    optimizer
        Called with the model.
    schedule
        Learning-rate factor of a step.
    compile
        Compile the layers of the encoder while it is fitted.
    tokenizer
        With which the test part of label tasks is scored as `Predictor.predict` predicts it: long sequences in windows, in full precision
        whatever training computes in. None scores it in batches, as validation.
    test_precision
        What the test part is computed in where full precision does not exist, ``bf16`` or ``fp16``, as by FlashAttention.
    nonfinite
        What becomes of steps whose gradient is not finite; None ends the run.
    """

    def __init__(
        self,
        model: BmfmModel,
        objectives: Objectives,
        optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer],
        schedule: Callable[[int], float],
        compile: bool = False,
        tokenizer: Tokenizer | None = None,
        test_precision: str | None = None,
        nonfinite: NonFinite | None = None,
    ):
        super().__init__()
        self.model, self.objectives = model, objectives
        self.optimizer, self.schedule = optimizer, schedule
        self.encode, self.compiles_layers = model.encode, compile
        self.tokenizer, self.test_precision = tokenizer, test_precision
        self.nonfinite = nonfinite or NonFinite()
        self._predicted: frozenset[str] = frozenset()
        self.batches_seen = 0
        self.counts: Counter[str] = Counter()
        self.sums: dict[str, torch.Tensor] = {}
        self._rows: dict[str, list[torch.Tensor]] = {}
        self._n_scored = 0
        self._step_labels: dict[str, torch.Tensor] = {}
        self._step_losses: dict[str, torch.Tensor] = {}
        self._rng_to_restore: dict | None = None

    def on_fit_start(self) -> None:
        if self.compiles_layers:
            self.model.backbone.compile_layers()

    def on_fit_end(self) -> None:
        if self.compiles_layers:
            self.model.backbone.restore_layers()

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        if self._rng_to_restore is not None:
            set_rng_state(self._rng_to_restore)
            self._rng_to_restore = None
        self.batches_seen += 1
        self.counts.update(batch["counts"])
        accumulation = batch["accumulation"]
        if accumulation["number"] == 0:
            self._step_labels, self._step_losses = self._over_devices(accumulation["label_counts"]), {}
        losses = {}
        for name, (loss_sum, n, weight) in self.objectives.losses(self.model, batch, self.encode(batch)).items():
            loss_sum = torch.where(n > 0, loss_sum, 0.0)
            losses[name] = (loss_sum, self._step_labels[name], weight)
            self._step_losses[name] = self._step_losses.get(name, 0.0) + loss_sum.detach()
        if accumulation["number"] + 1 == accumulation["size"]:
            self._log_step({name: (self._step_losses[name], n, weight) for name, (_, n, weight) in losses.items()})
        # Lightning divides the loss of a batch by the number of batches of the step, which the number of labels holds already.
        return weighted_mean(losses) * self.trainer.accumulate_grad_batches

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Clip gradients; those that are not finite, on whatever device, leave the weights of all as they are."""
        parameters = [p for p in self.parameters() if p.grad is not None]
        rows = _rows_of_sparse(parameters)
        norm = self.gradient_norm([*rows, *(p.grad for p in parameters if p.grad is not None and not p.grad.is_sparse)])
        if self.trainer.precision == "16-mixed" or torch.isfinite(norm):  # half precision expects some, and leaves them out by itself
            self.nonfinite.n_in_a_row = 0
            if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
                dense = [p for p in parameters if p.grad is not None and not p.grad.is_sparse]
                torch.nn.utils.clip_grads_with_norm_(dense, gradient_clip_val, norm)
                for values in rows:
                    values.mul_((gradient_clip_val / (norm + 1e-6)).clamp(max=1.0))
            else:
                self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        seen, size = self.batches_seen, self.trainer.accumulate_grad_batches
        self.nonfinite.met(self.global_step, self._step_losses, range(seen - size, seen), self.data, self.global_rank)
        self.counts["skipped_steps"] += 1
        optimizer.zero_grad(set_to_none=True)  # an optimiser does nothing to parameters without a gradient

    def gradient_norm(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        """Euclidean norm of all gradients together."""
        return torch.nn.utils.get_total_norm(gradients)

    def _over_devices(self, label_counts: dict[str, float]) -> dict[str, torch.Tensor]:
        """By what a device divides each sum of a step's losses, so that every label of the global batch weighs the same.

        Devices' gradients are averaged, so each divides by the mean number of labels a device.
        """
        n = torch.tensor(list(label_counts.values()), dtype=torch.float64).float().to(self.device)
        if self.trainer.world_size > 1:
            gathered = self.all_gather(n)
            assert isinstance(gathered, torch.Tensor)
            n = gathered.sum(0) / self.trainer.world_size
        return dict(zip(label_counts, n.unbind(), strict=True))

    def _log_step(self, losses: dict[str, tuple[torch.Tensor, torch.Tensor, float]]) -> None:
        """Log the losses of a whole optimiser step over all devices, and the learning rates."""
        for name, (loss_sum, n, _) in losses.items():
            if len(losses) < 2 or n > 0:
                self.log(f"train/{name}", loss_sum / n.clamp(min=1e-8), sync_dist=True)
        self.log("train/loss", weighted_mean(losses), prog_bar=True, sync_dist=True)
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        for name, rate in learning_rates(optimizer.param_groups).items():
            self.log(f"train/{name}", rate)

    def on_validation_epoch_start(self) -> None:
        self._begin_scores("validation")

    def on_test_epoch_start(self) -> None:
        """Score the label tasks, by the one path that predictions take; `test_step` scores what else there is."""
        self._begin_scores("test")
        if self.tokenizer is not None and label_tasks(self.objectives):
            predictor = Predictor(self.model, self.tokenizer, str(self.device))
            places = np.arange(self.trainer.global_rank, len(self.data.parts["test"]), self.trainer.world_size)
            size = max(1, self.data.batch_size // self.trainer.world_size)
            self.sums = scores_of_predictions(predictor, self.data.parts["test"], places, self.objectives, size, self.test_precision)
            self._predicted = frozenset(label_tasks(self.objectives))

    @property
    def data(self) -> BatchModule:
        """The data module of the run."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]  # which Lightning sets without a type
        assert isinstance(data, BatchModule)
        return data

    def _begin_scores(self, part: str) -> None:
        self.sums, self._rows, self._n_scored = {}, {}, len(self.data.held_out_batches(part))
        self._predicted = frozenset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if batch_idx >= self._n_scored:
            return  # it is there so that all devices take as many steps
        for name, value in self.objectives.update_metrics(self.model, batch, self.encode(batch), self._predicted).items():
            if "/each/" in name:
                self._rows.setdefault(name, []).append(value)
            else:
                self.sums[name] = self.sums[name] + value if name in self.sums else value

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As in validation, but in full precision where that exists, of objectives whose predictions were not scored already."""
        if len(self._predicted) == len(self.objectives.tasks):
            return
        with torch.autocast(self.device.type, enabled=False) if self.test_precision is None else nullcontext():
            self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")
        self.objectives.adapt(self.sums)

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _log_scores(self, stage: str) -> None:
        self.sums |= {name: torch.cat(rows) for name, rows in self._rows.items()}
        if self.trainer.world_size > 1:
            self.sums = add_up(of_every_device(self.sums))
        for name, value in self.objectives.compute_metrics(self.sums).items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "loss")

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.optimizer(self.model)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def finish(self, model: BmfmModel) -> None:
        """Training is over: see to it that `model`, the one that the run was given, has the weights; here it has trained itself."""

    def all_counts(self) -> dict[str, int]:
        """What training saw, summed over all devices; every device must ask."""
        counts = of_every_device(dict(self.counts)) if self.trainer.world_size > 1 else [dict(self.counts)]
        return dict(sum((Counter(c) for c in counts), Counter()))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = rng_state()
        checkpoint["bmfm"] = {
            "batches_seen": self.batches_seen,
            "counts": self.all_counts(),
            "rng": of_every_device(state) if self.trainer.world_size > 1 else [state],
            "objectives": self.objectives.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on where the checkpoint was written.

        Generators go on, too, if there are as many devices as there were: with another number, dropout is drawn anew.
        """
        state = checkpoint["bmfm"]
        self.batches_seen = state["batches_seen"]
        self.counts = Counter(state["counts"] if self.global_rank == 0 else {})
        self.objectives.load_state_dict(state["objectives"])
        self._rng_to_restore = state["rng"][self.global_rank] if len(state["rng"]) == self.trainer.world_size else None


def _rows_of_sparse(parameters: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    """The rows that sparse gradients hold, each once; they are the gradients' own."""
    rows = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            rows.append(parameter.grad.values())
    return rows
