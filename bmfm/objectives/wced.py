"""Whole-cell expression decoding: from the [CLS] state alone, the value of every gene (BMFM-RNA, arXiv 2506.14861)."""

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

from bmfm.data.spec import DataSpec
from bmfm.objectives.objective import HasHeads, Loss, Objective
from bmfm.objectives.profiles import (
    TARGETS,
    cell_correlations,
    check_choices,
    correlation_metrics,
    correlation_rows,
    dense_profile,
    gene_sums,
    target_masks,
)
from bmfm.objectives.statistics import binary_metrics, histogram
from bmfm.objectives.values import gene_table
from bmfm.tokenizers.batch import Batch

KINDS = ("mse", "is_zero")


class WholeCellDecoder(Objective):
    """Predict a cell's whole profile from what the model saw of it.

    Nothing is masked: the tokenizer shows a part of the cell (truncation, sequence dropout). Genes that the cell's file
    does not measure are no targets.

    Parameters
    ----------
    targets
        Over which genes losses are averaged: ``input`` (those the model saw), ``non_input``, ``all``; each its own loss.
    losses
        {kind: weight}: ``mse`` of the value, ``is_zero`` (binary cross-entropy).
    ignore_zeros
        Leave zeros out of ``mse``.
    cls
        Number of the CLS token that is decoded.
    """

    needs = frozenset({"full_profile", "shown_in_part"})

    def __init__(self, targets: Sequence[str], losses: Mapping[str, float], ignore_zeros: bool = False, cls: int = 0):
        super().__init__()
        check_choices("wced", targets, TARGETS)
        check_choices("wced", losses, KINDS)
        self.targets, self.kinds = list(targets), list(losses)
        self.weights = {f"{target}_{kind}": weight for target in targets for kind, weight in losses.items()}
        self.ignore_zeros, self.cls = ignore_zeros, cls

    def setup(self, name: str, spec: DataSpec) -> None:
        self.name, self.genes = name, spec.vocabulary
        spec.check_cls(self.cls, name)
        self.heads = {name: {"size": len(self.genes) * len(self.kinds), "transform": True, "outputs": self.kinds, "cls": self.cls}}
        self.mean = torch.from_numpy(spec.statistics["profile_mean"]).float()
        self.zero_rate = torch.from_numpy(spec.statistics["profile_zero_rate"]).float().clamp(1e-4, 1 - 1e-4)
        begin = {"mse": self.mean, "is_zero": torch.logit(self.zero_rate)}
        self.baseline = torch.stack([begin[kind] for kind in self.kinds], 1).flatten()

    def label_counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        masks = target_masks(batch, len(self.genes))
        truth = self._truth(batch) if self.ignore_zeros else None
        every = {target: torch.count_nonzero(masks[target]) for target in self.targets}
        return {
            f"{t}_{k}": every[t] if truth is None else self._counted(k, masks[t], truth).sum() for k in self.kinds for t in self.targets
        }

    def _truth(self, batch: Batch) -> torch.Tensor:
        """True values [N, V]."""
        return dense_profile(batch, batch["full_profile"]["value"], len(self.genes))

    def _outputs(
        self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, torch.Tensor]]:
        """Logits {kind: [N, V]}, true values [N, V] and masks {target: [N, V]}."""
        states_NH = hidden_BLH.flatten(0, 1)[batch["cls_index"] + self.cls]
        logits_NVK = model.head(self.name, states_NH).float().view(len(states_NH), len(self.genes), len(self.kinds))
        return {kind: logits_NVK[..., k] for k, kind in enumerate(self.kinds)}, self._truth(batch), target_masks(batch, len(self.genes))

    def _losses_per_gene(self, outputs: dict[str, torch.Tensor], truth: torch.Tensor) -> dict[str, torch.Tensor]:
        each = {}
        if "mse" in outputs:
            each["mse"] = (outputs["mse"] - truth) ** 2
        if "is_zero" in outputs:
            each["is_zero"] = functional.binary_cross_entropy_with_logits(outputs["is_zero"], (truth == 0).float(), reduction="none")
        return each

    def _counted(self, kind: str, mask: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return mask & (truth > 0) if kind == "mse" and self.ignore_zeros else mask

    def losses(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> dict[str, Loss]:
        outputs, truth, masks = self._outputs(model, batch, hidden_BLH)
        losses = {}
        for kind, each in self._losses_per_gene(outputs, truth).items():
            for target in self.targets:
                on = self._counted(kind, masks[target], truth)
                losses[f"{target}_{kind}"] = Loss((each * on).sum(), on.sum(), self.weights[f"{target}_{kind}"])
        return losses

    def predict(self, outputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Values [N, V]: 0 where a zero is likelier."""
        value = outputs["mse"] if "mse" in outputs else torch.ones_like(outputs["is_zero"])
        return torch.where(outputs["is_zero"] > 0, 0.0, value) if "is_zero" in outputs else value

    def update_metrics(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> dict[str, torch.Tensor]:
        """Losses with baselines; correlations of the genes the model did not see, by cell and by gene [V, 7]."""
        outputs, truth, masks = self._outputs(model, batch, hidden_BLH)
        mean, zero_rate = self.mean.to(truth.device).expand_as(truth), self.zero_rate.to(truth.device).expand_as(truth)
        sums = {}
        baselines = self._losses_per_gene({"mse": mean, "is_zero": torch.logit(zero_rate)}, truth)
        for kind, each in self._losses_per_gene(outputs, truth).items():
            for target in self.targets:
                on = self._counted(kind, masks[target], truth)
                sums[f"loss/{target}_{kind}"] = torch.stack(
                    [(x * on).sum().double() for x in (each, torch.ones_like(each), baselines[kind])]
                )
        on = masks["non_input"]
        expected = outputs["mse"] if "mse" in outputs else -outputs["is_zero"]
        sums["profiles"] = cell_correlations(expected, truth, mean, on)
        predicted = self.predict(outputs)
        absolute = torch.stack([(p - truth).abs()[on].double().sum() for p in (predicted, mean)])
        sums["absolute"] = torch.cat([on.sum().double()[None], absolute])
        if "is_zero" in outputs:
            sums["zeros"] = histogram(outputs["is_zero"][on], truth[on] == 0)
        sums["by_gene"] = gene_sums(expected, truth, on, predicted)
        return sums

    def compute_metrics(self, sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
        metrics = correlation_metrics(sums)
        if sums["absolute"][0] > 0:
            metrics |= {k: float(v / sums["absolute"][0]) for k, v in zip(("mae", "mae_baseline"), sums["absolute"][1:], strict=True)}
        if "zeros" in sums and sums["zeros"].sum(1).min() > 0:
            metrics |= {f"zero_{k}": v for k, v in binary_metrics(sums["zeros"]).items()}
        return metrics

    def rows(self, metrics: Mapping[str, float]) -> list[tuple[str, str]]:
        rows = correlation_rows(metrics, "unseen genes", "an unseen gene")
        if "zero_auc" in metrics:
            rows.append(("which unseen genes are zero", f"F1 {metrics['zero_f1']:.4f}, AUC {metrics['zero_auc']:.4f}"))
        losses = ", ".join(f"{k} {metrics[k]:.4f} ({metrics[f'{k}_baseline']:.4f})" for k in self.weights if k in metrics)
        return [*rows, ("losses (mean profile)", losses)]

    def table(self, sums: Mapping[str, torch.Tensor]) -> list[dict]:
        return gene_table(self.genes, sums["by_gene"])
