"""Whole-cell expression decoding: from the [CLS] state alone, the value of every gene (BMFM-RNA, arXiv 2506.14861)."""

from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional

from bmfm.data.spec import DataSpec
from bmfm.objectives.objective import HasHeads, Loss, Objective
from bmfm.objectives.statistics import binary_metrics, histogram, pearson, row_pearson
from bmfm.objectives.values import gene_table
from bmfm.tokenizers.batch import Batch

KINDS = ("mse", "is_zero")
TARGETS = ("input", "non_input", "all")


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
        for chosen, choices in ((targets, TARGETS), (losses, KINDS)):
            if unknown := sorted(set(chosen) - set(choices)):
                raise ValueError(f"wced: {unknown} are unknown; choose from {', '.join(choices)}")
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
        masks = self._masks(batch)
        truth = self._truth(batch) if self.ignore_zeros else None
        every = {target: torch.count_nonzero(masks[target]) for target in self.targets}
        return {
            f"{t}_{k}": every[t] if truth is None else self._counted(k, masks[t], truth).sum() for k in self.kinds for t in self.targets
        }

    def _truth(self, batch: Batch) -> torch.Tensor:
        """True values [N, V]."""
        cell = batch["full_profile"]
        truth = torch.zeros((len(batch["cls_index"]), len(self.genes)), device=cell["value"].device)
        return truth.index_put_((cell["row"], cell["gene"]), cell["value"].float())

    def _masks(self, batch: Batch) -> dict[str, torch.Tensor]:
        """Which genes each target averages over {target: [N, V]}."""
        n, example = len(batch["cls_index"]), batch["example_ids"].flatten()
        measured = batch["gene_panel_mask"][batch["source_ids"]]
        seen = torch.zeros((n + 1, len(self.genes)), dtype=torch.bool, device=measured.device)
        seen[torch.where(example < 0, n, example), batch["input_ids"].flatten()] = True
        seen = seen[:n]
        return {"all": measured, "input": measured & seen, "non_input": measured & ~seen}

    def _outputs(
        self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, dict[str, torch.Tensor]]:
        """Logits {kind: [N, V]}, true values [N, V] and masks {target: [N, V]}."""
        states_NH = hidden_BLH.flatten(0, 1)[batch["cls_index"] + self.cls]
        logits_NVK = model.head(self.name, states_NH).float().view(len(states_NH), len(self.genes), len(self.kinds))
        return {kind: logits_NVK[..., k] for k, kind in enumerate(self.kinds)}, self._truth(batch), self._masks(batch)

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
        correlations = [row_pearson(expected, truth, on), row_pearson(mean, truth, on), row_pearson(expected - mean, truth - mean, on)]
        known = torch.stack(correlations).isfinite()
        sums["profiles"] = torch.stack([known.double().sum(1), torch.stack(correlations).nan_to_num(0.0).double().sum(1)])
        predicted = self.predict(outputs)
        absolute = torch.stack([(p - truth).abs()[on].double().sum() for p in (predicted, mean)])
        sums["absolute"] = torch.cat([on.sum().double()[None], absolute])
        if "is_zero" in outputs:
            sums["zeros"] = histogram(outputs["is_zero"][on], truth[on] == 0)
        e, t, m = expected.double() * on, truth.double() * on, on.double()
        squared = (predicted - truth).double() ** 2 * m
        sums["by_gene"] = torch.stack([x.sum(0) for x in (m, e, t, e * e, t * t, e * t, squared)], 1)
        return sums

    def compute_metrics(self, sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
        n, totals = sums["profiles"]
        metrics = {
            name: float(total / k)
            for name, k, total in zip(("profile_pearson", "profile_pearson_baseline", "profile_delta_pearson"), n, totals, strict=True)
            if k > 0
        }
        by_gene = pearson(sums["by_gene"][:, :6])
        expressed = (sums["by_gene"][:, 2] > 0) & by_gene.isfinite()
        if expressed.any():
            metrics |= {"gene_pearson": float(by_gene[expressed].mean()), "genes": float(expressed.sum())}
        if sums["absolute"][0] > 0:
            metrics |= {k: float(v / sums["absolute"][0]) for k, v in zip(("mae", "mae_baseline"), sums["absolute"][1:], strict=True)}
        if "zeros" in sums and sums["zeros"].sum(1).min() > 0:
            metrics |= {f"zero_{k}": v for k, v in binary_metrics(sums["zeros"]).items()}
        return metrics

    def rows(self, metrics: Mapping[str, float]) -> list[tuple[str, str]]:
        rows = []
        if "profile_pearson" in metrics:
            text = f"Pearson {metrics['profile_pearson']:.4f} (mean profile {metrics['profile_pearson_baseline']:.4f})"
            text += f", of the difference from the mean profile {metrics.get('profile_delta_pearson', float('nan')):.4f}"
            rows.append(("profile of a cell's unseen genes", text))
        if "gene_pearson" in metrics:
            rows.append(
                (
                    "an unseen gene over cells",
                    f"mean Pearson {metrics['gene_pearson']:.4f} of {metrics['genes']:,.0f} genes (mean profile: 0)",
                )
            )
        if "zero_auc" in metrics:
            rows.append(("which unseen genes are zero", f"F1 {metrics['zero_f1']:.4f}, AUC {metrics['zero_auc']:.4f}"))
        losses = ", ".join(f"{k} {metrics[k]:.4f} ({metrics[f'{k}_baseline']:.4f})" for k in self.weights if k in metrics)
        return [*rows, ("losses (mean profile)", losses)]

    def table(self, sums: Mapping[str, torch.Tensor]) -> list[dict]:
        return gene_table(self.genes, sums["by_gene"])
