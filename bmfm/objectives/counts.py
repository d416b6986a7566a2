"""Split counts: from a part of a cell's molecules, the likelihood of the others (count splitting, molecular cross-validation).

The tokenizer (``tokenizer.read_depth.mode=split``) shows each molecule of a cell with one probability s, drawn per cell, and hides the others.
The model sees what is shown; the objective is the likelihood of what is hidden, y_g molecules of gene g, n in all, under what the head says
of the cell from its [CLS] state, a logit z_g for each gene g that the cell's source measures.

**Why it is right.** If a cell's counts are Poisson with rates r_g, as sampling molecules gives them, the two parts are independent, given the
rates, and Poisson with rates s r_g and (1 - s) r_g. So nothing of the hidden part can be read off the noise of the shown part: what
helps to predict it is what the shown part says of the rates, which is the state of the cell. The best prediction is the mean of the rates given
what is shown, and the loss of held-out molecules is an honest one, without a second experiment (Batson, Royer and Webber, bioRxiv 786269, 2019,
molecular cross-validation; Neufeld, Gao, Popp, Battle and Witten, Biostatistics 2023, count splitting). Errors of genes with few molecules, most
of twenty thousand, weigh as little as they say, which a squared error of log-normalised values does not do.

**Likelihoods**, as losses per hidden molecule, without the terms that depend on counts alone:

``multinomial`` (default)
    -sum_g y_g log p_g with p = softmax(z) over the targets: which genes the n molecules are of. It is the Poisson likelihood given n.
``poisson``
    sum_g (m_g - y_g log m_g) with the mean m_g = n exp(z_g): the canonical log link, with the logarithm of the hidden total as offset. The
    rates are not normalised, so that with some genes as targets it also says how many of the n molecules are theirs. (With rates n softmax(z)
    over all genes it would be the multinomial likelihood again.)
``negative_binomial``
    Mean m_g = n p_g with p = softmax(z) over all measured genes, variance m_g + m_g^2 / k_g, with an inverse dispersion k_g that is learned for each
    gene. A gamma-Poisson gene keeps its k_g when molecules are hidden. It stands for how far the true rates lie from the model's mean, so that
    genes that vary in bursts do not drive the fit.

**Limits.** Counts must be those of molecules (UMIs): of reads, which are copies, or of corrected or normalised values, the parts are not
independent. Given its rates a cell is Poisson; over cells the parts are dependent, through the rates, which is what is learned. Ambient
molecules and doublets are in both parts, and are predicted like the rest. A deep cell has more molecules, and weighs more.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

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
    measured_genes,
    seen_genes,
)
from bmfm.objectives.values import gene_table
from bmfm.tokenizers.batch import Batch

LIKELIHOODS = ("multinomial", "poisson", "negative_binomial")
PER = 1e4
"""Figures of profiles are of log(1 + PER * share of the molecules)."""


class Hidden(NamedTuple):
    """Hidden molecules of N cells, of the genes that are targets.

    Attributes
    ----------
    row, gene, number
        [nnz] int64, int64 and float32: the cell, the gene, and how many.
    n
        [N] float32, molecules of each cell's targets.
    total
        [N] float32, of all its genes.
    on
        bool [N, V] or [1, V], the targets.
    """

    row: torch.Tensor
    gene: torch.Tensor
    number: torch.Tensor
    n: torch.Tensor
    total: torch.Tensor
    on: torch.Tensor


class _Multinomial(torch.autograd.Function):
    """-sum_i count_i log softmax(logits)[row_i, gene_i], with one dense array kept and one made: the gradient, n softmax(logits) - counts."""

    @staticmethod
    def forward(context, logits, row, gene, count, n):
        log_p = logits.log_softmax(1)
        context.save_for_backward(log_p, row, gene, count, n)
        return -(count.double() @ log_p[row, gene].double()).to(logits.dtype)

    @staticmethod
    def backward(context, gradient):
        log_p, row, gene, count, n = context.saved_tensors
        dense = log_p.exp().mul_((gradient * n)[:, None])
        dense.view(-1).index_add_(0, row * dense.shape[1] + gene, -gradient * count)
        return dense, None, None, None, None


def multinomial(logits: torch.Tensor, hidden: Hidden) -> torch.Tensor:
    """Summed loss of logits [N, V]."""
    on = hidden.on | (hidden.n == 0)[:, None] if len(hidden.on) > 1 else hidden.on  # a cell without targets needs some normaliser
    return _Multinomial.apply(logits.masked_fill(~on, -torch.inf), hidden.row, hidden.gene, hidden.number, hidden.n)


def poisson(logits: torch.Tensor, hidden: Hidden) -> torch.Tensor:
    """Summed loss of logits [N, V]."""
    rates = logits.masked_fill(~hidden.on, -torch.inf).exp().sum(1)
    return hidden.total @ rates - hidden.number @ logits[hidden.row, hidden.gene]


def negative_binomial(logits: torch.Tensor, hidden: Hidden, measured: torch.Tensor, log_k: torch.Tensor) -> torch.Tensor:
    """Summed loss of logits [N, V], with the logarithm of inverse dispersions `log_k` [V]; genes are measured, bool [N, V] or [1, V]."""
    k, log_p = log_k.exp(), logits.masked_fill(~measured, -torch.inf).log_softmax(1)
    spread = torch.log1p(hidden.total[:, None] * log_p.exp() / k)  # log(1 + m / k), of all genes
    at = (hidden.row, hidden.gene)
    k_of, y = k[hidden.gene], hidden.number
    found = torch.lgamma(y + k_of) - torch.lgamma(k_of) + y * (log_p[at] - spread[at] - log_k[hidden.gene])
    return (spread * hidden.on).sum(0) @ k - found.sum()


class SplitCounts(Objective):
    """Predict the molecules of a cell that the tokenizer hides; see the module for the mathematics.

    Parameters
    ----------
    targets
        Over which genes: ``all``, ``input`` (those that the model saw), ``non_input`` (those that it did not see, by dropout of genes,
        `tokenizer.sequence_dropout`, or truncation); each its own loss.
    likelihood
        ``multinomial``, ``poisson`` or ``negative_binomial``.
    weight
        Of each of these losses among all.
    cls
        Number of the CLS token whose state is decoded.
    tied
        The head's matrix is the embedding of the genes, which halves the weights of a small model.
    """

    needs = frozenset({"full_profile", "shown_in_part", "hidden_counts"})

    def __init__(
        self, targets: Sequence[str] = ("all",), likelihood: str = "multinomial", weight: float = 1.0, cls: int = 0, tied: bool = False
    ):
        super().__init__()
        check_choices("counts", targets, TARGETS)
        check_choices("counts", [likelihood], LIKELIHOODS)
        self.targets, self.likelihood, self.cls, self.tied = list(targets), likelihood, cls, tied
        self.weights = {f"{target}_nll": weight for target in targets}

    def setup(self, name: str, spec: DataSpec) -> None:
        self.name, self.genes = name, spec.vocabulary
        spec.check_cls(self.cls, name)
        head = {"size": len(self.genes), "cls": self.cls}
        self.heads = {name: head | {"transform": True, "tied": "input_ids" if self.tied else None}}
        counts, molecules = (spec.statistics[k].astype(np.float64) for k in ("gene_counts", "gene_molecules"))
        share = (counts + 0.5) / (np.where(molecules > 0, molecules, molecules.max()) + 0.5 * len(counts))
        self.baseline = torch.from_numpy(np.log(share / share.sum())).float()
        if self.likelihood == "negative_binomial":
            self.heads[self._dispersion] = head | {"constant": True}
            self.log_k = torch.from_numpy(-np.log(spec.statistics["gene_dispersion"].clip(1e-3, 1e3))).float()

    @property
    def _dispersion(self) -> str:
        """Name of the head of inverse dispersions."""
        return f"{self.name}_dispersion"

    @property
    def baselines(self) -> dict[str, torch.Tensor]:
        return super().baselines | ({self._dispersion: self.log_k} if self._dispersion in self.heads else {})

    def _hidden(self, batch: Batch) -> dict[str, Hidden]:
        """Hidden molecules of each target."""
        profile, measured, n = batch["full_profile"], measured_genes(batch), len(batch["cls_index"])
        row, gene, count = profile["row"], profile["gene"], profile["hidden_count"]
        total, is_hidden = count.new_zeros(n).index_add_(0, row, count), count > 0
        row, gene, count = row[is_hidden], gene[is_hidden], count[is_hidden]
        hidden = {"all": Hidden(row, gene, count, total, total, measured)}
        if set(self.targets) - {"all"}:
            seen = seen_genes(batch, len(self.genes))
            was_seen = seen[row, gene]
            for target, chosen, on in (("input", was_seen, measured & seen), ("non_input", ~was_seen, measured & ~seen)):
                of_target = (row[chosen], gene[chosen], count[chosen])
                hidden[target] = Hidden(*of_target, torch.zeros_like(total).index_add_(0, of_target[0], of_target[2]), total, on)
        return {target: hidden[target] for target in self.targets}

    def label_counts(self, batch: Batch) -> dict[str, torch.Tensor]:
        return {f"{target}_nll": hidden.n.double().sum() for target, hidden in self._hidden(batch).items()}

    def _logits(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> torch.Tensor:
        return model.head(self.name, hidden_BLH.flatten(0, 1)[batch["cls_index"] + self.cls]).float()

    def _inverse_dispersions(self, model: HasHeads, hidden_BLH: torch.Tensor) -> torch.Tensor:
        """Their logarithms [V], which depend on no state."""
        return model.head(self._dispersion, hidden_BLH[0, :1]).float()[0]

    def _loss(self, logits: torch.Tensor, hidden: Hidden, measured: torch.Tensor, log_k: torch.Tensor | None) -> torch.Tensor:
        if log_k is not None:
            return negative_binomial(logits, hidden, measured, log_k)
        return (multinomial if self.likelihood == "multinomial" else poisson)(logits, hidden)

    def losses(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> dict[str, Loss]:
        logits, measured = self._logits(model, batch, hidden_BLH), measured_genes(batch)
        log_k = self._inverse_dispersions(model, hidden_BLH) if self._dispersion in self.heads else None
        return {
            f"{target}_nll": Loss(self._loss(logits, hidden, measured, log_k), hidden.n.double().sum(), self.weights[f"{target}_nll"])
            for target, hidden in self._hidden(batch).items()
        }

    def update_metrics(self, model: HasHeads, batch: Batch, hidden_BLH: torch.Tensor) -> dict[str, torch.Tensor]:
        """Losses with baselines; multinomial losses of prediction, baseline and the hidden counts' own shares, ``deviance/...`` [3];
        correlations of log(1 + 10,000 p) by cell and by gene [V, 7], of the genes that are not seen, where these are targets."""
        logits, measured = self._logits(model, batch, hidden_BLH), measured_genes(batch)
        baseline = self.baseline.to(logits.device).expand_as(logits).masked_fill(~measured, -torch.inf).log_softmax(1)
        log_k = base_k = None
        if self._dispersion in self.heads:
            log_k, base_k = self._inverse_dispersions(model, hidden_BLH), self.log_k.to(logits.device)
        sums, every = {}, self._hidden(batch)
        for target, hidden in every.items():
            loss, base = self._loss(logits, hidden, measured, log_k), self._loss(baseline, hidden, measured, base_k)
            sums[f"loss/{target}_nll"] = torch.stack([loss.double(), hidden.n.double().sum(), base.double()])
            own = -(hidden.number.double() @ (hidden.number / hidden.n[hidden.row]).double().log())
            sums[f"deviance/{target}"] = torch.stack([multinomial(logits, hidden).double(), multinomial(baseline, hidden).double(), own])
        shown_of = every["non_input" if "non_input" in every else self.targets[0]]
        on = shown_of.on & (shown_of.total > 0)[:, None]
        truth = dense_profile(batch, batch["full_profile"]["hidden_count"], len(self.genes)) / shown_of.total.clamp(min=1)[:, None]
        shares = logits.masked_fill(~measured, -torch.inf).softmax(1)
        predicted, mean, truth = (torch.log1p(PER * x) for x in (shares, baseline.exp(), truth))
        sums["profiles"] = cell_correlations(predicted, truth, mean, on)
        sums["by_gene"] = gene_sums(predicted, truth, on, predicted)
        return sums

    def compute_metrics(self, sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """``TARGET_deviance_explained`` is the share of the baseline's multinomial deviance that the prediction takes away; the noise of
        counts, most of it, nothing can."""
        metrics = {}
        for target in self.targets:
            of_model, of_baseline, own = sums[f"deviance/{target}"].tolist()
            if of_baseline > own:
                metrics[f"{target}_deviance_explained"] = (of_baseline - of_model) / (of_baseline - own)
        return metrics | correlation_metrics(sums)

    def rows(self, metrics: Mapping[str, float]) -> list[tuple[str, str]]:
        losses = [
            f"{target.replace('_', ' ')} {metrics[name]:.4f} ({metrics[f'{name}_baseline']:.4f}, deviance explained "
            f"{metrics.get(f'{target}_deviance_explained', float('nan')):.2%})"
            for target, name in ((target, f"{target}_nll") for target in self.targets)
            if name in metrics
        ]
        genes = ("unseen genes", "an unseen gene") if "non_input" in self.targets else ("hidden molecules", "a gene's hidden molecules")
        return [
            (f"{self.likelihood.replace('_', ' ')} loss per hidden molecule (mean shares)", ", ".join(losses)),
            *correlation_rows(metrics, *genes),
        ]

    def table(self, sums: Mapping[str, torch.Tensor]) -> list[dict]:
        return gene_table(self.genes, sums["by_gene"])
