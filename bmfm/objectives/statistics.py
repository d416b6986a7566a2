"""Metrics as functions of sums, so that they add up exactly over batches, devices and restarts."""

import torch

BINS = 512
ROUNDING = 1e-12
"""What a difference of sums of squares may be beside them, and mean nothing."""


def moments(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Sums [6] of two vectors: n, x, y, xx, yy, xy."""
    x, y = x.double(), y.double()
    return torch.stack([torch.ones_like(x).sum(), x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum()])


def pearson(sums: torch.Tensor) -> torch.Tensor:
    """Pearson correlation from sums [..., 6]; NaN where one side does not vary by more than the rounding of its sums."""
    n, x, y, xx, yy, xy = sums.double().unbind(-1)
    spreads = n * xx - x * x, n * yy - y * y
    varies = (spreads[0] > ROUNDING * n * xx) & (spreads[1] > ROUNDING * n * yy)  # beside their own size: the unit has no say
    r = (n * xy - x * y) / (spreads[0].clamp(min=0).sqrt() * spreads[1].clamp(min=0).sqrt())
    return torch.where(varies, r, torch.nan)


def row_pearson(x_NV: torch.Tensor, y_NV: torch.Tensor, mask_NV: torch.Tensor) -> torch.Tensor:
    """Pearson correlation of each row over its masked-in columns, [N]."""
    m, x, y = mask_NV.double(), x_NV.double(), y_NV.double()
    x, y = x * m, y * m
    return pearson(torch.stack([m.sum(1), x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)], -1))


def histogram(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Counts [2, BINS] of log-odds [N] where the truth [N] is false and where it is true.

    Bins are even in sigmoid(z / 4), so that far ends are told apart; probability 0.5 is the edge in the middle.
    """
    bins = ((logits.float() / 4).sigmoid() * BINS).long().clamp(max=BINS - 1) + BINS * truth.long()
    return torch.bincount(bins, minlength=2 * BINS).view(2, BINS).double()


def binary_metrics(counts: torch.Tensor) -> dict[str, float]:
    """F1 at probability 0.5 and the area under the ROC curve, from `histogram` counts.

    Those of one bin are tied: the area is exact to about 1 / BINS, and NaN where an outcome is absent.
    """
    half = BINS // 2
    true_positive, false_positive = counts[1, half:].sum(), counts[0, half:].sum()
    f1 = 2 * true_positive / (true_positive + false_positive + counts[1].sum()).clamp(min=1)
    negative, positive = counts
    below = negative.cumsum(0) - negative
    pairs = negative.sum() * positive.sum()
    area = (positive * (below + 0.5 * negative)).sum() / pairs if pairs > 0 else torch.nan
    return {"f1": float(f1), "auc": float(area)}
