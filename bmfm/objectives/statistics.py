"""Metrics as functions of sums, so that they add up exactly over batches, devices and restarts."""

import torch

BINS = 512


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
    """Counts [2, BINS] of predicted probabilities where the truth is false and where it is true."""
    bins = (logits.float().sigmoid() * BINS).long().clamp(max=BINS - 1)
    return torch.bincount(truth.long() * BINS + bins, minlength=2 * BINS).view(2, BINS).double()


def binary_metrics(counts: torch.Tensor) -> dict[str, float]:
    """F1 at probability 0.5 and the area under the ROC curve, from `histogram` counts (ties within a bin count half)."""
    negative, positive = counts[0], counts[1]
    n, p = negative.sum(), positive.sum()
    half = BINS // 2
    true_positive, false_positive = positive[half:].sum(), negative[half:].sum()
    below = negative.cumsum(0) - negative
    area = (positive * (below + 0.5 * negative)).sum() / (n * p) if n * p > 0 else torch.tensor(float("nan"))
    return {"f1": float(2 * true_positive / (true_positive + false_positive + p).clamp(min=1)), "auc": float(area)}


def class_metrics(confusion: torch.Tensor) -> dict[str, float]:
    """Accuracy, macro F1 over the classes that occur, and Matthews correlation, from a confusion matrix [true, predicted]."""
    hits, truth, said = confusion.diag(), confusion.sum(1), confusion.sum(0)
    f1 = 2 * hits / (truth + said).clamp(min=1)
    n = truth.sum()
    spread = ((n * n - (said * said).sum()) * (n * n - (truth * truth).sum())).sqrt()
    return {
        "accuracy": float(hits.sum() / n.clamp(min=1)),
        "macro_f1": float(f1[truth > 0].mean()) if (truth > 0).any() else 0.0,
        "mcc": float((hits.sum() * n - (truth * said).sum()) / spread) if spread > 0 else 0.0,
    }
