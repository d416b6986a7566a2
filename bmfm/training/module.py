"""The LightningModule: (batch, model, objectives) -> losses and metrics."""

import math
from collections import Counter
from collections.abc import Callable

import pytorch_lightning as pl
import torch

from bmfm.models.modernbert import encode

PARTS = ("reference", "variant")


class Training(pl.LightningModule):
    """Trains one model on one objective.

    Parameters
    ----------
    unigram
        Log-probability of each token among the training windows [V]: the baseline that validation is shown beside.
    optimizer
        Called with the model.
    schedule
        Learning-rate factor of a step.
    """

    def __init__(
        self,
        model,
        objective,
        unigram: torch.Tensor,
        optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer],
        schedule: Callable[[int], float],
        compile: bool = False,
    ):
        super().__init__()
        self.model, self.objective = model, objective
        self.optimizer, self.schedule = optimizer, schedule
        self.register_buffer("unigram", unigram, persistent=False)
        self.encode = torch.compile(encode, dynamic=True) if compile else encode
        self.batches_seen = 0
        self.counts: Counter[str] = Counter()
        self._rng_to_restore: torch.Tensor | None = None

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        if self._rng_to_restore is not None:
            torch.set_rng_state(self._rng_to_restore)
            self._rng_to_restore = None
        self.batches_seen += 1
        self.counts.update(batch["counts"])
        total = torch.zeros((), device=self.device)
        for name, (loss_sum, n) in self.objective.losses(self.model, batch, self.encode(self.model, batch)).items():
            # Every hidden token of the global batch weighs the same, on whichever device it lies: devices' gradients
            # are averaged, so each divides its sum by the mean number of tokens a device.
            if self.trainer.world_size > 1:
                n = self.all_gather(n).sum() / self.trainer.world_size
            loss = loss_sum / n.clamp(min=1e-8)
            self.log(f"train/{name}", loss, sync_dist=True)
            total = total + loss
        self.log("train/loss", total, prog_bar=True, sync_dist=True)
        self.log("train/lr", self.lr_schedulers().get_last_lr()[0])
        return total

    def on_validation_epoch_start(self) -> None:
        self._sums = torch.zeros(2, 4, dtype=torch.float64, device=self.device)

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        hidden = self.encode(self.model, batch)
        self._sums += self.objective.score(self.model, batch, hidden, self.unigram)

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _log_scores(self, stage: str) -> None:
        sums = self.all_gather(self._sums).reshape(-1, 2, 4).sum(0)
        for name, value in summarise(sums.cpu()).items():
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
        }

    def on_load_checkpoint(self, checkpoint: dict) -> None:
        state = checkpoint["bmfm"]
        self.batches_seen = state["batches_seen"]
        self.counts = Counter(state["counts"])
        self._rng_to_restore = state["rng"].cpu()


def summarise(sums: torch.Tensor) -> dict[str, float]:
    """Metrics from the sums of `MaskedLanguageModel.score`, over all hidden tokens and by part."""
    metrics = {}
    for suffix, row in (("", sums.sum(0)), *((f"_{part}", sums[i]) for i, part in enumerate(PARTS))):
        n, loss, hits, unigram = row.tolist()
        metrics[f"tokens{suffix}"] = n
        if n:
            metrics[f"loss{suffix}"] = loss / n
            metrics[f"perplexity{suffix}"] = math.exp(min(loss / n, 50.0))
            metrics[f"accuracy{suffix}"] = hits / n
            metrics[f"unigram_loss{suffix}"] = unigram / n
    return metrics
