"""The LightningModule: (batch, model, objectives) -> losses and metrics."""

from collections import Counter
from collections.abc import Callable

import pytorch_lightning as pl
import torch

from bmfm.models.model import BmfmModel
from bmfm.objectives.together import Objectives, weighted_mean


class Training(pl.LightningModule):
    """Trains one model on its objectives.

    Parameters
    ----------
    optimizer
        Called with the model.
    schedule
        Learning-rate factor of a step.
    """

    def __init__(
        self,
        model: BmfmModel,
        objectives: Objectives,
        optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer],
        schedule: Callable[[int], float],
        compile: bool = False,
    ):
        super().__init__()
        self.model, self.objectives = model, objectives
        self.optimizer, self.schedule = optimizer, schedule
        self.encode = torch.compile(model.encode, dynamic=True) if compile else model.encode
        self.batches_seen = 0
        self.counts: Counter[str] = Counter()
        self.sums: dict[str, torch.Tensor] = {}
        self._rng_to_restore: torch.Tensor | None = None

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        if self._rng_to_restore is not None:
            torch.set_rng_state(self._rng_to_restore)
            self._rng_to_restore = None
        self.batches_seen += 1
        self.counts.update(batch["counts"])
        losses = {}
        for name, (loss_sum, n, weight) in self.objectives.losses(self.model, batch, self.encode(batch)).items():
            # Every label of the global batch weighs the same, on whichever device it lies: devices' gradients are
            # averaged, so each divides its sum by the mean number of labels a device.
            if self.trainer.world_size > 1:
                n = self.all_gather(n).sum() / self.trainer.world_size
            losses[name] = (loss_sum, n, weight)
            if len(losses) < 2 or n > 0:
                self.log(f"train/{name}", loss_sum / n.clamp(min=1e-8), sync_dist=True)
        total = weighted_mean(losses)
        self.log("train/loss", total, prog_bar=True, sync_dist=True)
        self.log("train/lr", self.lr_schedulers().get_last_lr()[0])
        return total

    def on_validation_epoch_start(self) -> None:
        self.sums = {}

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        for name, value in self.objectives.score(self.model, batch, self.encode(batch)).items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")
        self.objectives.after_validation(self.sums)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _log_scores(self, stage: str) -> None:
        if self.trainer.world_size > 1:
            self.sums = {name: self.all_gather(value).sum(0) for name, value in self.sums.items()}
        self.sums = {name: value.cpu() for name, value in self.sums.items()}
        for name, value in self.objectives.summarise(self.sums).items():
            self.log(f"{stage}/{name}", value, prog_bar=name == "loss")

    def configure_optimizers(self):
        optimizer = self.optimizer(self.model)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.schedule)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict) -> None:
        checkpoint["bmfm"] = {
            "batches_seen": self.batches_seen,
            "counts": dict(self.counts),
            "rng": torch.get_rng_state(),
            "objectives": self.objectives.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        state = checkpoint["bmfm"]
        self.batches_seen = state["batches_seen"]
        self.counts = Counter(state["counts"])
        self.objectives.load_state_dict(state["objectives"])
        self._rng_to_restore = state["rng"].cpu()
