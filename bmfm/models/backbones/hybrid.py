"""Convolutions over single bases, then attention: motifs are found by the first, and put together by the second (as in Enformer)."""

from typing import Any

import torch
from torch import nn

from bmfm.models.backbones.base import Backbone, Capabilities, HiddenStates
from bmfm.models.backbones.conv import ConvBlock, Neighbours, dilations
from bmfm.models.backbones.modernbert import ModernBert
from bmfm.tokenizers.batch import Batch


class Hybrid(Backbone):
    """The blocks of `Conv`, followed by the layers of `ModernBert`; every token keeps a state.

    Parameters
    ----------
    num_conv_layers, kernel_size, max_dilation, conv_dropout
        Of the convolutions, see `Conv`.
    settings
        Of `ModernBert`.
    """

    def __init__(self, num_conv_layers: int = 2, kernel_size: int = 7, max_dilation: int = 4, conv_dropout: float = 0.1, **settings: Any):
        super().__init__()
        self.transformer = ModernBert(**settings)
        self.hidden_size, self.norm_eps, self.norm_bias = (
            self.transformer.hidden_size,
            self.transformer.norm_eps,
            self.transformer.norm_bias,
        )
        self.initializer_range = self.transformer.initializer_range
        blocks = (
            ConvBlock(self.hidden_size, kernel_size, d, conv_dropout, self.norm_eps) for d in dilations(num_conv_layers, max_dilation)
        )
        # all layers are in one list, which counts them from the input up; the transformer refers to its own
        body = self.transformer.body
        attention_layers = body.layers
        del body.layers
        object.__setattr__(body, "layers", attention_layers)
        self.layers = nn.ModuleList([*blocks, *attention_layers])
        self.n_conv_layers = num_conv_layers

    @property
    def capabilities(self) -> Capabilities:
        return self.transformer.capabilities

    def use_attention(self, implementation: str) -> None:
        self.transformer.use_attention(implementation)

    def run(self, embeddings_BLH: torch.Tensor, batch: Batch, all_layers: bool = False) -> HiddenStates:
        states_BLH, neighbours, layers = embeddings_BLH, Neighbours(batch), []
        for block in self.layers[: self.n_conv_layers]:
            states_BLH = block(states_BLH, neighbours)
            layers.append(states_BLH)
        hidden = self.transformer.run(states_BLH, batch, all_layers)
        return HiddenStates(hidden.last, [*layers, *hidden.layers] if all_layers else [])
