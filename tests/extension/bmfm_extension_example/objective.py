"""An objective with a head of its own: the profile of the perturbed cell, from the state of the control."""

from collections.abc import Mapping

import numpy as np
import torch

from bmfm.data.spec import DataSpec
from bmfm.objectives.objective import HasHeads, Loss, Objective
from bmfm.objectives.statistics import row_pearson
from bmfm.tokenizers.batch import Batch


def squared_error(predictions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum over the labels that there are; NaN is replaced before the difference, as it would spoil the gradient after it."""
    return ((predictions - labels.nan_to_num(0.0)) ** 2 * ~labels.isnan()).sum()


class ResponseDecoder(Objective):
    """Predict the expression of every measured gene of another part of the example.

    Its baseline is the mean profile of the inputs: that nothing happens.

    Parameters
    ----------
    part
        Which part is predicted.
    cls
        Number of the CLS token whose state is decoded.
    weight
        Of this loss among all.
    """

    needs = frozenset({"full_profile"})

    def __init__(self, part: str = "perturbed", cls: int = 0, weight: float = 1.0):
        super().__init__()
        self.part, self.cls, self.weights = part, cls, {"mse": weight}

    def setup(self, name: str, spec: DataSpec) -> None:
        spec.check_cls(self.cls, name)
        self.name = name
        self.heads = {name: {"size": len(spec.vocabulary), "transform": True}}
        self.baseline = torch.from_numpy(spec.statistics["profile_mean"]).float()

    def prepare(self, batch: Batch, keys: np.ndarray, training: bool = True) -> None:
        """Labels [N, V]: values of all genes of the other part, 0 where not expressed, NaN where not measured."""
        part = batch["parts"][self.part]
        labels = torch.where(part["gene_panel_mask"][part["source_ids"]], 0.0, torch.nan)
        profile = part["full_profile"]
        batch["labels"][self.name] = labels.index_put((profile["row"], profile["gene"]), profile["value"].float())

    def label_counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {"mse": (~batch["labels"][self.name].isnan()).sum()}

    def _predictions(self, model: HasHeads, batch: Batch, hidden_RLH: torch.Tensor) -> torch.Tensor:
        return model.head(self.name, model.pool(hidden_RLH, batch, self.cls)).float()

    def losses(self, model: HasHeads, batch: Batch, hidden_RLH: torch.Tensor) -> dict[str, Loss]:
        labels = batch["labels"][self.name]
        total = squared_error(self._predictions(model, batch, hidden_RLH), labels)
        return {"mse": Loss(total, (~labels.isnan()).sum(), self.weights["mse"])}

    def update_metrics(self, model: HasHeads, batch: Batch, hidden_RLH: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss beside that of the baseline, and correlations of the predicted and the true change from the mean."""
        labels, predictions = batch["labels"][self.name], self._predictions(model, batch, hidden_RLH)
        mean, measured = self.baseline.to(labels.device), ~labels.isnan()
        totals = [squared_error(p, labels).double() for p in (predictions, mean.expand_as(labels))]
        change = row_pearson(predictions - mean, labels.nan_to_num(0.0) - mean, measured)
        is_defined = change.isfinite()
        return {
            "loss/mse": torch.stack([totals[0], measured.sum().double(), totals[1]]),
            "change": torch.stack([is_defined.sum().double(), change[is_defined].double().sum()]),
        }

    def compute_metrics(self, sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
        n, total = sums["change"].tolist()
        return {"change_pearson": total / n} if n else {}
