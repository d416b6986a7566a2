"""Metrics as functions of sums, so that they add up exactly over batches, devices and restarts."""

import torch

BINS = 512
SIDE = 256


def moments(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Sums [6] of two vectors: n, x, y, xx, yy, xy."""
    x, y = x.double(), y.double()
    return torch.stack([torch.ones_like(x).sum(), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()])


def pearson(sums: torch.Tensor) -> torch.Tensor:
    """Pearson correlation from sums [..., 6]; NaN where one side does not vary."""
    n, x, y, xx, yy, xy = sums.double().unbind(-1)
    spread = (n * xx - x * x).clamp(min=0) * (n * yy - y * y).clamp(min=0)
    r = (n * xy - x * y) / spread.sqrt()
    return torch.where(spread > 1e-9 * (n * n).clamp(min=1), r, torch.nan)


def row_pearson(x_NV: torch.Tensor, y_NV: torch.Tensor, mask_NV: torch.Tensor) -> torch.Tensor:
    """Pearson correlation of each row over its masked-in columns, [N]."""
    m, x, y = mask_NV.double(), x_NV.double(), y_NV.double()
    x, y = x * m, y * m
    return pearson(torch.stack([m.sum(1), x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)], -1))


def histogram(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Counts [2, BINS] of log-odds [N] where the truth [N] is false and where it is true; of [N, C], counts [C, 2, BINS].

    Bins are even in sigmoid(z / 4), so that far ends are told apart; probability 0.5 is the edge in the middle.
    """
    bins = ((logits.float() / 4).sigmoid() * BINS).long().clamp(max=BINS - 1) + BINS * truth.long()
    if logits.ndim == 1:
        return torch.bincount(bins, minlength=2 * BINS).view(2, BINS).double()
    n_classes = logits.shape[1]
    bins = bins + 2 * BINS * torch.arange(n_classes, device=bins.device)
    return torch.bincount(bins.flatten(), minlength=2 * BINS * n_classes).view(n_classes, 2, BINS).double()


def ranking_metrics(counts: torch.Tensor) -> dict[str, float]:
    """Area under the ROC curve and average precision, from `histogram` counts [C, 2, BINS]; means over classes with both outcomes.

    Those of one bin are tied: exact to about 1 / BINS.
    """
    negative, positive = counts[:, 0], counts[:, 1]
    n, p = negative.sum(1), positive.sum(1)
    both = (n > 0) & (p > 0)
    if not both.any():
        return {}
    n, p, negative, positive = n[both], p[both], negative[both], positive[both]
    below = negative.cumsum(1) - negative
    area = (positive * (below + 0.5 * negative)).sum(1) / (n * p)
    hits, said = positive.flip(1).cumsum(1), (positive + negative).flip(1).cumsum(1)
    precision = (positive.flip(1) * hits / said.clamp(min=1)).sum(1) / p
    return {"auroc": float(area.mean()), "auprc": float(precision.mean())}


def rank_counts(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Counts [SIDE, SIDE] of pairs of standardised numbers [N], in bins even under the normal distribution."""
    place = [(torch.special.ndtr(v.double()) * SIDE).long().clamp(0, SIDE - 1) for v in (x, y)]
    return torch.bincount(place[0] * SIDE + place[1], minlength=SIDE**2).view(SIDE, SIDE).double()


def spearman(counts: torch.Tensor) -> float:
    """Spearman correlation from `rank_counts`, those of one bin tied: near 0.001 where both sides spread like a normal."""
    rank = [s.cumsum(0) - s / 2 for s in (counts.sum(1), counts.sum(0))]
    n = counts.sum()
    x, y = (r - n / 2 for r in rank)
    spread = (counts.sum(1) * x * x).sum() * (counts.sum(0) * y * y).sum()
    return float((counts * x[:, None] * y[None]).sum() / spread.sqrt()) if spread > 0 else float("nan")


def binary_metrics(counts: torch.Tensor) -> dict[str, float]:
    """F1 at probability 0.5 and the area under the ROC curve, from `histogram` counts (ties within a bin count half)."""
    half = BINS // 2
    true_positive, false_positive = counts[1, half:].sum(), counts[0, half:].sum()
    f1 = 2 * true_positive / (true_positive + false_positive + counts[1].sum()).clamp(min=1)
    return {"f1": float(f1), "auc": ranking_metrics(counts[None]).get("auroc", float("nan"))}


def class_metrics(confusion: torch.Tensor) -> dict[str, float]:
    """Accuracy, macro F1 over the classes that occur or are said to (as scikit-learn has it), and Matthews correlation, from a confusion matrix [true, predicted]."""
    hits, truth, said = confusion.diag(), confusion.sum(1), confusion.sum(0)
    f1 = 2 * hits / (truth + said).clamp(min=1)
    n = truth.sum()
    spread = ((n * n - (said * said).sum()) * (n * n - (truth * truth).sum())).sqrt()
    return {
        "accuracy": float(hits.sum() / n.clamp(min=1)),
        "macro_f1": float(f1[truth + said > 0].mean()) if n > 0 else 0.0,
        "mcc": float((hits.sum() * n - (truth * said).sum()) / spread) if spread > 0 else 0.0,
    }
