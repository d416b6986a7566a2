"""What a perturbation does to a cell: from the [CLS] state of a control cell, to which the perturbation is told, the change of every gene.

The head gives a change d_g for each gene g, and the prediction is c_g + d_g, where c is the mean control cell of the context. Its bias begins at
the mean change over all training conditions, and its matrix near 0: what is learned is learned beyond the strongest of the simple baselines.
Pairs are drawn at random within a context, so that the squared error is smallest at the mean of the perturbed cells.
"""

from collections.abc import Mapping

import torch
from torch.nn import functional

from bmfm.data.spec import DataSpec
from bmfm.objectives.objective import HasHeads, Loss, Objective
from bmfm.objectives.profiles import check_choices, dense_profile, measured_genes
from bmfm.objectives.statistics import row_pearson
from bmfm.tokenizers.batch import Batch

LOSSES = ("mse", "wmse", "is_zero")
PART = "perturbed"
"""The part of an example that is predicted."""
GROUP = "group_number"
"""The column that says which condition in which context an example is of."""


class PerturbationResponse(Objective):
    """Predict the values of all measured genes of the perturbed cell.

    Parameters
    ----------
    losses
        {kind: weight}: ``mse`` of the value; ``wmse``, weighted by how much each gene tells the condition from all others (the source computes the
        weights, `data.perturbations.gene_weights`); ``is_zero``, binary cross-entropy of whether the gene is not expressed, as in WCED.
    cls
        Number of the CLS token that is decoded.
    """

    needs = frozenset({"full_profile"})

    def __init__(self, losses: Mapping[str, float], cls: int = 0):
        super().__init__()
        check_choices("perturbation", losses, LOSSES)
        if not losses.keys() & {"mse", "wmse"}:
            raise ValueError("perturbation: losses need mse or wmse, which the change of genes is learned by")
        self.weights, self.cls = dict(losses), cls
        self.outputs = ["change"] + (["is_zero"] if "is_zero" in losses else [])

    def setup(self, name: str, spec: DataSpec) -> None:
        self.name, self.n_genes = name, len(spec.vocabulary)
        spec.check_cls(self.cls, name)
        head: dict = {
            "size": self.n_genes * len(self.outputs),
            "transform": True,
            "outputs": self.outputs,
            "cls": self.cls,
            "begins_at_bias": True,
        }
        if spec.column is not None:
            head["trained_targets"] = sorted(
                {target for targets in set(spec.column("targets")[spec.training_examples]) for target in targets}
            )
        self.heads = {name: head}
        self.mean_change = torch.from_numpy(spec.statistics["response_mean"]).float()
        begin = {"change": self.mean_change}
        if "is_zero" in self.outputs:
            zero_rate = torch.from_numpy(spec.statistics["perturbed_zero_rate"]).float()
            begin["is_zero"] = torch.logit(zero_rate.clamp(1e-4, 1 - 1e-4))
        self.baseline = torch.stack([begin[output] for output in self.outputs], 1).flatten()
        if "wmse" in self.weights:
            assert spec.column is not None
            self.gene_weights = torch.from_numpy(spec.statistics["response_weights"])
            self.labels = {f"{name}_group": spec.column(GROUP).astype("int64")}

    def label_counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        n = torch.count_nonzero(self._measured(batch))
        return dict.fromkeys(self.weights, n)

    def _measured(self, batch: Batch) -> torch.Tensor:
        """Genes that the file of the perturbed cell measures, bool [N, V]."""
        return measured_genes(batch["parts"][PART]).expand(len(batch["cls_index"]), -1)

    def _outputs(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> dict[str, torch.Tensor]:
        """{output: [N, V]}."""
        states = hidden_BLH.flatten(0, 1)[batch["cls_index"] + self.cls]
        outputs = model.head(self.name, states).float().view(len(states), self.n_genes, len(self.outputs))
        return {output: outputs[..., k] for k, output in enumerate(self.outputs)}

    def _per_gene(self, outputs: Mapping[str, torch.Tensor], batch: Batch) -> dict[str, torch.Tensor]:
        """{loss: of each gene [N, V]}."""
        part = batch["parts"][PART]
        truth = dense_profile(part, part["full_profile"]["value"], self.n_genes)
        squared = (batch["control_profiles"][batch["context_ids"]] + outputs["change"] - truth) ** 2
        of_kind = {"mse": lambda: squared, "wmse": lambda: squared * self._weights(batch)}
        if "is_zero" in self.weights:
            of_kind["is_zero"] = lambda: functional.binary_cross_entropy_with_logits(
                outputs["is_zero"], (truth == 0).float(), reduction="none"
            )
        return {kind: of_kind[kind]() for kind in self.weights}

    def _weights(self, batch: Batch) -> torch.Tensor:
        groups = batch["labels"][f"{self.name}_group"]
        return self.gene_weights.to(groups.device)[groups]

    def losses(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> dict[str, Loss]:
        on = self._measured(batch)
        each = self._per_gene(self._outputs(model, batch, hidden_BLH), batch)
        return {kind: Loss((x * on).sum(), on.sum(), self.weights[kind]) for kind, x in each.items()}

    def update_metrics(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> dict[str, torch.Tensor]:
        """Losses beside those of the mean change, and correlations over genes of the change: of the prediction and of the mean change."""
        outputs, on = self._outputs(model, batch, hidden_BLH), self._measured(batch)
        baseline = self.baseline.to(on.device).view(self.n_genes, len(self.outputs))
        mean = {output: baseline[:, k].expand_as(on) for k, output in enumerate(self.outputs)}
        of_mean, sums = self._per_gene(mean, batch), {}
        for kind, x in self._per_gene(outputs, batch).items():
            sums[f"loss/{kind}"] = torch.stack([(x * on).sum().double(), on.sum().double(), (of_mean[kind] * on).sum().double()])
        part = batch["parts"][PART]
        change = dense_profile(part, part["full_profile"]["value"], self.n_genes) - batch["control_profiles"][batch["context_ids"]]
        correlations = torch.stack([row_pearson(predicted["change"], change, on) for predicted in (outputs, mean)])
        known = correlations.isfinite()
        return sums | {"change": torch.stack([known.double().sum(1), correlations.nan_to_num(0.0).double().sum(1)])}

    def compute_metrics(self, sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
        n, totals = sums["change"]
        names = ("change_pearson", "change_pearson_baseline")
        return {name: float(total / k) for name, k, total in zip(names, n, totals, strict=True) if k > 0}

    def rows(self, metrics: Mapping[str, float]) -> list[tuple[str, str]]:
        rows = []
        if "change_pearson" in metrics:
            text = f"Pearson {metrics['change_pearson']:.4f} (mean change {metrics.get('change_pearson_baseline', float('nan')):.4f})"
            rows.append(("change of a single cell from the mean control", text))
        losses = ", ".join(f"{k} {metrics[k]:.4f} ({metrics[f'{k}_baseline']:.4f})" for k in self.weights if k in metrics)
        return [*rows, ("losses (mean change)", losses)]
