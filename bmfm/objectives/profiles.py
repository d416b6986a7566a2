"""What the objectives of whole cells share: dense profiles, which genes are targets, and how well a gene or a cell is predicted."""

from collections.abc import Collection, Mapping

import torch

from bmfm.objectives.statistics import pearson, row_pearson
from bmfm.tokenizers.batch import Batch

TARGETS = ("input", "non_input", "all")
"""Genes that the model saw, those that it did not see, and both; of those that the cell's source measures."""


def check_choices(objective: str, chosen: Collection[str], choices: Collection[str]) -> None:
    """Raise a ValueError naming what is unknown among some settings of an objective."""
    if unknown := sorted(set(chosen) - set(choices)):
        raise ValueError(f"{objective}: {unknown} are unknown; choose from {', '.join(choices)}")


def n_cells(batch: Batch) -> int:
    return len(batch["cls_index"])


def dense_profile(batch: Batch, numbers: torch.Tensor, n_genes: int) -> torch.Tensor:
    """Numbers of the entries [nnz] of a batch's full profiles, as [N, V], 0 elsewhere."""
    cell = batch["full_profile"]
    dense = torch.zeros((n_cells(batch), n_genes), device=numbers.device)
    return dense.index_put_((cell["row"], cell["gene"]), numbers.float())


def seen_genes(batch: Batch, n_genes: int) -> torch.Tensor:
    """Genes that a model was shown of each cell, as tokens or in a summary, bool [N, V]."""
    n, example, ids = n_cells(batch), batch["example_ids"].flatten(), batch["input_ids"].flatten()
    seen = torch.zeros((n + 1, n_genes), dtype=torch.bool, device=ids.device)
    seen[torch.where(example < 0, n, example), ids] = True
    if "shown_profile" in batch:
        seen[batch["shown_profile"]["row"], batch["shown_profile"]["gene"]] = True
    return seen[:n]


def measured_genes(batch: Batch) -> torch.Tensor:
    """Genes that each cell's source measures, bool [N, V]; [1, V] where there is one source."""
    panels = batch["gene_panel_mask"]
    return panels if len(panels) == 1 else panels[batch["source_ids"]]


def target_masks(batch: Batch, n_genes: int) -> dict[str, torch.Tensor]:
    """Which genes are targets of each kind, {target: bool [N, V]}."""
    measured, seen = measured_genes(batch).expand(n_cells(batch), -1), seen_genes(batch, n_genes)
    return {"all": measured, "input": measured & seen, "non_input": measured & ~seen}


def cell_correlations(predicted: torch.Tensor, truth: torch.Tensor, mean: torch.Tensor, on: torch.Tensor) -> torch.Tensor:
    """Sums over cells [2, 3] of how well a cell's profile is predicted: numbers of correlations that exist, and their sums.

    They are those of the prediction, of the mean profile, and of the differences of prediction and truth from it; all [N, V].
    """
    correlations = torch.stack(
        [row_pearson(predicted, truth, on), row_pearson(mean, truth, on), row_pearson(predicted - mean, truth - mean, on)]
    )
    known = correlations.isfinite()
    return torch.stack([known.double().sum(1), correlations.nan_to_num(0.0).double().sum(1)])


def gene_sums(expected: torch.Tensor, truth: torch.Tensor, on: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Sums over cells [V, 7] for `values.gene_table`: the moments of what is expected and true, and the squared error of the prediction."""
    e, t, m = expected.double() * on, truth.double() * on, on.double()
    squared = (predicted - truth).double() ** 2 * m
    return torch.stack([x.sum(0) for x in (m, e, t, e * e, t * t, e * t, squared)], 1)


def correlation_metrics(sums: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Means of the correlations of `cell_correlations` (``profiles``) and, over expressed genes, of `gene_sums` (``by_gene``)."""
    n, totals = sums["profiles"]
    names = ("profile_pearson", "profile_pearson_baseline", "profile_delta_pearson")
    metrics = {name: float(total / k) for name, k, total in zip(names, n, totals, strict=True) if k > 0}
    by_gene = pearson(sums["by_gene"][:, :6])
    expressed = (sums["by_gene"][:, 2] > 0) & by_gene.isfinite()
    if expressed.any():
        metrics |= {"gene_pearson": float(by_gene[expressed].mean()), "genes": float(expressed.sum())}
    return metrics


def correlation_rows(metrics: Mapping[str, float], genes: str, gene: str) -> list[tuple[str, str]]:
    """Lines of a run's summary for `correlation_metrics`, with words for the genes, and for one of them."""
    rows = []
    if "profile_pearson" in metrics:
        text = f"Pearson {metrics['profile_pearson']:.4f} (mean profile {metrics['profile_pearson_baseline']:.4f})"
        text += f", of the difference from the mean profile {metrics.get('profile_delta_pearson', float('nan')):.4f}"
        rows.append((f"profile of a cell's {genes}", text))
    if "gene_pearson" in metrics:
        text = f"mean Pearson {metrics['gene_pearson']:.4f} of {metrics['genes']:,.0f} genes (mean profile: 0)"
        rows.append((f"{gene} over cells", text))
    return rows
