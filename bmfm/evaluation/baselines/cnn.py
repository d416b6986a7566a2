"""A small convolutional network, trained on the task alone."""

from dataclasses import dataclass

import torch
from torch import nn

from bmfm.evaluation.baselines.network import N_BASES, NetworkBaseline, NetworkSettings, one_hot


@dataclass(frozen=True)
class CnnSettings(NetworkSettings):
    """Shape and training of the network.

    Parameters
    ----------
    channels, width
        Of the first convolution, whose filters span `width` bp; the second has as many channels.
    """

    channels: int = 64
    width: int = 12
    dropout: float = 0.3


class CnnBaseline(NetworkBaseline):
    """Two convolutions over one-hot bases, pooled; trained with early stopping on validation; see `CnnSettings`."""

    settings_class = CnnSettings

    def network(self, n_outputs: int) -> nn.Module:
        s = self.settings
        return nn.Sequential(
            OneHot(),
            nn.Conv1d(N_BASES, s.channels, s.width, padding=s.width // 2), nn.ReLU(), nn.MaxPool1d(2, ceil_mode=True),
            nn.Conv1d(s.channels, s.channels, 5, padding=2), nn.ReLU(), MeanAndMax(), nn.Dropout(s.dropout),
            nn.Linear(2 * s.channels, n_outputs),
        )  # fmt: skip


class OneHot(nn.Module):
    """Codes of bases [B, L] to channels [B, 4, L], zeros where there is no base."""

    def forward(self, codes_BL: torch.Tensor) -> torch.Tensor:
        return one_hot(codes_BL).transpose(1, 2)


class MeanAndMax(nn.Module):
    """Mean and maximum over positions: [B, C, L] to [B, 2 C]."""

    def forward(self, x_BCL: torch.Tensor) -> torch.Tensor:
        return torch.cat([x_BCL.mean(2), x_BCL.amax(2)], 1)
