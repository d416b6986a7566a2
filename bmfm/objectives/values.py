"""Masked modelling of a cell's values: how much a gene is expressed, from the rest of the cell."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch.nn import functional

from bmfm.data.spec import DataSpec
from bmfm.objectives.masking import Masking
from bmfm.objectives.objective import HasHeads, Loss, Objective
from bmfm.objectives.statistics import binary_metrics, histogram, moments, pearson
from bmfm.tokenizers.batch import Batch

KINDS = ("mse", "is_zero", "bins")
SALT = 29
"""Of the draws of hidden values."""


class MaskedValues(Objective):
    """Predict the hidden values of genes that are known.

    Parameters
    ----------
    masking
        Which values are hidden.
    losses
        {kind: weight}: ``mse`` of the value, ``is_zero`` (binary cross-entropy of the value being 0), ``bins``
        (cross-entropy of an integer value; the tokenizer must bin).
    ignore_zeros
        Leave values of 0 out of ``mse``.
    """

    needs = frozenset({"shown_in_part"})

    def __init__(self, masking: Masking, losses: Mapping[str, float], ignore_zeros: bool = False):
        super().__init__()
        if unknown := sorted(set(losses) - set(KINDS)):
            raise ValueError(f"losses {unknown} are unknown; choose from {', '.join(KINDS)}")
        self.masking, self.weights, self.ignore_zeros = masking, dict(losses), ignore_zeros

    def setup(self, name: str, spec: DataSpec) -> None:
        if "bins" in self.weights and not spec.n_bins:
            raise ValueError("the loss `bins` needs a tokenizer whose values are bins: tokenizer.values.kind=bins")
        self.name, self.genes = name, spec.vocabulary
        self.columns = {kind: (spec.n_bins or 0 if kind == "bins" else 1) for kind in self.weights}
        self.heads = {name: {"size": sum(self.columns.values()), "transform": True, "outputs": self.columns}}
        self.masking.setup(self.genes)
        counts, sums, zeros = (spec.statistics[k].astype(np.float64) for k in ("token_counts", "value_sums", "zero_counts"))
        overall = sums.sum() / max(counts.sum(), 1)
        self.mean = torch.from_numpy((sums + overall) / (counts + 1)).float()
        self.zero_rate = torch.from_numpy((zeros + 0.5) / (counts + 1)).float().clamp(1e-4, 1 - 1e-4)
        self.bins = spec.statistics.get("bin_log_frequency")
        zero_share = zeros.sum() / max(counts.sum(), 1)
        begin = {"mse": [overall], "is_zero": [np.log((zero_share + 1e-3) / (1 - zero_share + 1e-3))], "bins": self.bins}
        self.baseline = torch.from_numpy(np.concatenate([begin[kind] for kind in self.columns])).float()

    def prepare(self, batch: Batch, keys: np.ndarray, training: bool = True) -> None:
        """Hide values and add them (or the read-depth target's, where there are ``targets``) as labels [B, L]."""
        mask_action = self.masking.choose(batch, keys, SALT, training)
        truth = batch.get("targets", batch["values"])
        batch["labels"][self.name] = torch.where(torch.from_numpy(mask_action > 0), truth, torch.nan)
        self.masking.replace_values(batch, keys, mask_action)

    def label_counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        labels = batch["labels"][self.name]
        n = {True: (labels > 0).sum(), False: (~labels.isnan()).sum()}
        return {kind: n[kind == "mse" and self.ignore_zeros] for kind in self.weights}

    def _outputs(
        self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
        labels = batch["labels"][self.name].flatten()
        places = (~labels.isnan()).nonzero().squeeze(1)
        logits = model.head(self.name, hidden_BLH.flatten(0, 1).index_select(0, places)).float()
        return dict(zip(self.columns, logits.split(list(self.columns.values()), 1), strict=True)), labels[places], places

    def _losses_per_value(self, outputs: dict[str, torch.Tensor], labels: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """{kind: (loss of each value [M], which of them count [M])}."""
        every = torch.ones_like(labels, dtype=torch.bool)
        losses: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for kind, logits in outputs.items():
            if kind == "mse":
                losses[kind] = ((logits[:, 0] - labels) ** 2, labels > 0 if self.ignore_zeros else every)
            elif kind == "is_zero":
                losses[kind] = (functional.binary_cross_entropy_with_logits(logits[:, 0], (labels == 0).float(), reduction="none"), every)
            else:
                losses[kind] = (functional.cross_entropy(logits, labels.long(), reduction="none"), every)
        return losses

    def losses(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> dict[str, Loss]:
        outputs, labels, _ = self._outputs(model, batch, hidden_BLH)
        return {
            kind: Loss((loss * on).sum(), on.sum(), self.weights[kind])
            for kind, (loss, on) in self._losses_per_value(outputs, labels).items()
        }

    def update_metrics(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> dict[str, torch.Tensor]:
        """Losses with their baselines, and sums for Pearson, MAE, zero F1 and AUC, and each gene's errors [V, 8]."""
        outputs, labels, places = self._outputs(model, batch, hidden_BLH)
        genes = batch["original_ids"].flatten()[places]
        mean, zero_rate = self.mean.to(labels.device)[genes], self.zero_rate.to(labels.device)[genes]
        baseline = {
            "mse": lambda: (mean - labels) ** 2,
            "is_zero": lambda: functional.binary_cross_entropy(zero_rate, (labels == 0).float(), reduction="none"),
            "bins": lambda: -torch.as_tensor(self.bins, device=labels.device)[labels.long()],
        }
        sums = {}
        for kind, (loss, on) in self._losses_per_value(outputs, labels).items():
            base = baseline[kind]()
            sums[f"loss/{kind}"] = torch.stack([(loss * on).sum().double(), on.sum().double(), (base * on).sum().double()])
        predicted = self.predict(outputs)
        absolute = (predicted - labels).abs().double()
        sums["values"] = torch.cat([moments(predicted, labels), absolute.sum()[None], (mean - labels).abs().double().sum()[None]])
        sums["baseline_values"] = moments(mean, labels)
        if "is_zero" in outputs:
            sums["zeros"] = histogram(outputs["is_zero"][:, 0], labels == 0)
        columns = torch.stack([torch.ones_like(predicted), predicted, labels, predicted**2, labels**2, predicted * labels], 1)
        squared = ((predicted - labels) ** 2)[:, None]
        by_gene = torch.zeros(len(self.genes), 7, dtype=torch.float64, device=labels.device)
        sums["by_gene"] = by_gene.index_add_(0, genes, torch.cat([columns, squared], 1).double())
        return sums

    def predict(self, outputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Values [M]: the regression's, 0 where a zero is likelier; or the likeliest bin."""
        if "bins" in outputs and "mse" not in outputs:
            return outputs["bins"].argmax(1).float()
        if "mse" not in outputs:
            return (outputs["is_zero"][:, 0] <= 0).float()
        value = outputs["mse"][:, 0]
        return torch.where(outputs["is_zero"][:, 0] > 0, 0.0, value) if "is_zero" in outputs else value

    def adapt(self, sums: Mapping[str, torch.Tensor]) -> None:
        self.masking.adapt(sums["by_gene"][:, 6], sums["by_gene"][:, 0])

    def compute_metrics(self, sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
        n = float(sums["values"][0])
        if not n:
            return {}
        metrics = {
            "pearson": float(pearson(sums["values"][:6])),
            "pearson_baseline": float(pearson(sums["baseline_values"])),
            "mae": float(sums["values"][6]) / n,
            "mae_baseline": float(sums["values"][7]) / n,
        }
        if "zeros" in sums and sums["zeros"].sum(1).min() > 0:
            metrics |= {f"zero_{k}": v for k, v in binary_metrics(sums["zeros"]).items()}
        return metrics

    def rows(self, metrics: Mapping[str, float]) -> list[tuple[str, str]]:
        if "pearson" not in metrics:
            return []
        text = f"Pearson {metrics['pearson']:.4f} (gene mean {metrics['pearson_baseline']:.4f}), MAE {metrics['mae']:.4f} ({metrics['mae_baseline']:.4f})"
        if "zero_auc" in metrics:
            text += f", zeros F1 {metrics['zero_f1']:.4f} AUC {metrics['zero_auc']:.4f}"
        losses = ", ".join(f"{k} {metrics[k]:.4f} ({metrics[f'{k}_baseline']:.4f})" for k in self.weights if k in metrics)
        return [("hidden values", text), ("losses (baseline)", losses)]

    def table(self, sums: Mapping[str, torch.Tensor]) -> list[dict]:
        return gene_table(self.genes, sums["by_gene"])

    def state_dict(self) -> dict:
        return self.masking.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.masking.load_state_dict(state)


def gene_table(names: Sequence[str], by_gene: torch.Tensor, at_least: int = 10) -> list[dict]:
    """Genes with `at_least` labels, best predicted first: n, mean, mean squared error, Pearson, from sums [V, 7]."""
    r, n = pearson(by_gene[:, :6]), by_gene[:, 0]
    order = torch.where(r.isnan() | (n < at_least), -2.0, r).argsort(descending=True)
    return [
        {
            "gene": names[g],
            "n": int(n[g]),
            "mean_value": round(float(by_gene[g, 2] / n[g]), 4),
            "mse": round(float(by_gene[g, 6] / n[g]), 4),
            "pearson": round(float(r[g]), 4),
        }
        for g in order.tolist()
        if n[g] >= at_least and not r[g].isnan()
    ]
