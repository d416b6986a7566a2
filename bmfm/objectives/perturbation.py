"""What a perturbation does to a cell: the change of every gene, from what is targeted and from a control cell that is told of it.

The prediction for gene g is c_g + sum_t a_tg + h_g, where c is the mean control cell of the context, a_t what target t does by itself, in whatever cell
and beside whatever other target, and h what the [CLS] state of the control cell adds: what depends on the cell, and what several targets do
together that they do not do alone. So the additive model, which is hard to beat on pairs of genes, is part of this one. The matrices of
both heads begin near 0, and the bias of a at the mean change of training conditions for each of their targets: what is learned is learned beyond the
mean. Pairs are drawn at random within a context, so that the squared error is smallest at the mean of the perturbed cells.
"""

from collections.abc import Mapping, Sequence

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


def of_targets(name: str) -> str:
    """The head of what each target does by itself, beside the head `name`."""
    return f"{name}_targets"


def respond(model: HasHeads, name: str, batch: Batch, states_NH: torch.Tensor, outputs: Sequence[str]) -> dict[str, torch.Tensor]:
    """What a model says of a batch of control cells: ``change`` and whatever else its head `name` gives, {output: [N, V]}.

    Parameters
    ----------
    states_NH
        Of the CLS token that the head reads.
    """
    of_cells = model.head(name, states_NH).float().view(len(states_NH), -1, len(outputs))
    found = {output: of_cells[..., k] for k, output in enumerate(outputs)}
    cell, vectors = model.perturbation_targets(batch)
    of_each = model.head(of_targets(name), vectors).float()
    return found | {"change": found["change"].index_add(0, cell, of_each)}


def _what_was_trained(spec: DataSpec) -> dict[str, list[str]]:
    """What a head remembers of the training examples: names of their targets, kinds of perturbation, and units of doses (none: no doses)."""
    if spec.column is None:
        return {}
    targets, kinds, units = (set(spec.column(name)[spec.training_examples]) for name in ("targets", "kind", "dose_unit"))
    return {
        "trained_targets": sorted({target for of_condition in targets for target in of_condition}),
        "trained_kinds": sorted(kinds),
        "dose_units": sorted(unit for unit in units if unit is not None),
    }


class PerturbationResponse(Objective):
    """Predict the values of all measured genes of the perturbed cell.

    Parameters
    ----------
    losses
        {kind: weight}, of which those of weight 0 are left out: ``mse`` of the value; ``wmse``, weighted by how much each gene tells the condition from all others (the source computes the
        weights, `data.perturbations.gene_weights`); ``is_zero``, binary cross-entropy of whether the gene is not expressed, as in WCED.
    cls
        Number of the CLS token that is decoded.
    """

    needs = frozenset({"full_profile"})

    def __init__(self, losses: Mapping[str, float], cls: int = 0):
        super().__init__()
        check_choices("perturbation", losses, LOSSES)
        self.weights, self.cls = {kind: weight for kind, weight in losses.items() if weight}, cls
        if not self.weights.keys() & {"mse", "wmse"}:
            raise ValueError("perturbation: losses need mse or wmse, which the change of genes is learned by")
        self.outputs = ["change"] + (["is_zero"] if "is_zero" in self.weights else [])

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
        each = {"size": self.n_genes, "of": "targets", "begins_at_bias": True}
        head |= _what_was_trained(spec)
        self.heads = {name: head, of_targets(name): each}
        self.mean_change = torch.from_numpy(spec.statistics["response_mean"]).float()
        begin = {"change": torch.zeros(self.n_genes)}
        if "is_zero" in self.outputs:
            zero_rate = torch.from_numpy(spec.statistics["perturbed_zero_rate"]).float()
            begin["is_zero"] = torch.logit(zero_rate.clamp(1e-4, 1 - 1e-4))
        self.baseline = torch.stack([begin[output] for output in self.outputs], 1).flatten()
        self.zero_logits = begin.get("is_zero")
        if "wmse" in self.weights:
            assert spec.column is not None
            if "response_weights" not in spec.statistics:
                raise ValueError("perturbation: the loss wmse needs the weights of genes: set data.source.gene_weights=true")
            self.gene_weights = torch.from_numpy(spec.statistics["response_weights"])
            self.labels = {f"{name}_group": spec.column(GROUP).astype("int64")}

    @property
    def baselines(self) -> dict[str, torch.Tensor]:
        return super().baselines | {of_targets(self.name): self.mean_change}

    def label_counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        n = torch.count_nonzero(self._measured(batch))
        return dict.fromkeys(self.weights, n)

    def _measured(self, batch: Batch) -> torch.Tensor:
        """Genes that the file of the perturbed cell measures, bool [N, V]."""
        return measured_genes(batch["parts"][PART]).expand(len(batch["cls_index"]), -1)

    def _outputs(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> dict[str, torch.Tensor]:
        """{output: [N, V]}."""
        states = hidden_BLH.flatten(0, 1)[batch["cls_index"] + self.cls]
        return respond(model, self.name, batch, states, self.outputs)

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
        self.gene_weights = self.gene_weights.to(groups.device)
        return self.gene_weights[groups]

    def losses(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> dict[str, Loss]:
        on = self._measured(batch)
        each = self._per_gene(self._outputs(model, batch, hidden_BLH), batch)
        return {kind: Loss((x * on).sum(), on.sum(), self.weights[kind]) for kind, x in each.items()}

    def update_metrics(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> dict[str, torch.Tensor]:
        """Losses beside those of the mean change, and correlations over genes of the change: of the prediction and of the mean change."""
        outputs, on = self._outputs(model, batch, hidden_BLH), self._measured(batch)
        n_targets = (batch["perturbation_ids"][..., 0] >= 0).sum(1, keepdim=True)
        mean = {"change": n_targets * self.mean_change.to(on.device)}
        if self.zero_logits is not None:
            mean["is_zero"] = self.zero_logits.to(on.device).expand_as(on)
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
