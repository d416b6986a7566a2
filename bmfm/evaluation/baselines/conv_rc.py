"""The convolutional backbone, trained on the task alone, from the strands that its labels need."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bmfm.evaluation.baselines.network import BEYOND, N_BASES, NetworkBaseline, NetworkSettings, one_hot
from bmfm.models.backbones.conv import Conv


@dataclass(frozen=True)
class ConvSettings(NetworkSettings):
    """Shape and training of the network.

    Parameters
    ----------
    channels, layers, kernel_size, dropout
        Of the backbone, see `Conv`.
    head_dropout
        Of the pooled state.
    """

    channels: int = 64
    layers: int = 3
    kernel_size: int = 7
    dropout: float = 0.1
    head_dropout: float = 0.2


class ConvBaseline(NetworkBaseline):
    """The layers of `model=conv` over one-hot bases, and a linear map of the mean and the maximum over positions; see `ConvSettings`."""

    settings_class = ConvSettings

    def network(self, n_outputs: int) -> nn.Module:
        return PooledConv(self.settings, n_outputs)


class PooledConv(nn.Module):
    """Codes of bases [B, L] to logits [B, outputs]."""

    def __init__(self, s: ConvSettings, n_outputs: int):
        super().__init__()
        self.embedding = nn.Linear(N_BASES, s.channels)
        self.backbone = Conv(s.channels, s.layers, s.kernel_size, dropout=s.dropout)
        self.head = nn.Sequential(nn.Dropout(s.head_dropout), nn.Linear(2 * s.channels, n_outputs))

    def forward(self, codes_BL: torch.Tensor) -> torch.Tensor:
        is_base = codes_BL != BEYOND
        batch: Any = {"sequence_ids": is_base.long(), "packed": False}
        states = self.backbone.run(self.embedding(one_hot(codes_BL)), batch).last
        outside = ~is_base[..., None]
        mean = states.masked_fill(outside, 0).sum(1) / is_base.sum(1, keepdim=True).clamp(min=1)
        return self.head(torch.cat([mean, states.masked_fill(outside, -torch.inf).amax(1)], 1))
