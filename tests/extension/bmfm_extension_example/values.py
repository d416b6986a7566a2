"""A value encoder: how the expression of a gene becomes a vector."""

import torch
from torch import nn

from bmfm.models.embeddings import FieldEncoder, split_special


class SoftBins(FieldEncoder):
    """Values are spread over learned bins: a softmax over the distances to their centres weighs one row for each.

    A value between two centres is a mixture of their rows, so that nothing is lost at the borders of bins
    (the idea of scFoundation, Nature Methods 2024).

    Parameters
    ----------
    hidden_size
        H of the model.
    n_special
        Special tokens, which have rows of their own: their values are -(id + 1).
    n_bins
        Number of bins.
    largest
        The centres begin evenly spread between 0 and this value.
    """

    def __init__(self, hidden_size: int, n_special: int, n_bins: int = 16, largest: float = 8.0):
        super().__init__()
        self.n_special = n_special
        self.centres = nn.Parameter(torch.linspace(0, largest, n_bins))
        self.rows = nn.Embedding(n_bins, hidden_size)
        self.special = nn.Embedding(n_special + 1, hidden_size)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Vectors [..., H] of values [...]."""
        row, is_special = split_special(values, self.n_special, zero_is_special=True)
        weights = (-((values[..., None] - self.centres) ** 2)).softmax(-1).to(self.rows.weight.dtype)
        return torch.where(is_special[..., None], self.special(row), weights @ self.rows.weight)
