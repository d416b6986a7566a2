"""A backbone without attention: every layer tells each token what is strongest in its whole sequence."""

import torch
from torch import nn

from bmfm.models.backbones.base import Backbone, Capabilities, HiddenStates
from bmfm.tokenizers.batch import Batch

SHARPNESS = 2.0
"""How much more the larger values of a feature count; 0 would be the mean, and infinity the largest value."""


def strongest_of_sequence(states_RLH: torch.Tensor, sequence_ids_RL: torch.Tensor) -> torch.Tensor:
    """A smooth maximum of each feature over each token's own sequence [R, L, H]: packed sequences do not see each other, nor padding."""
    n_rows, length, size = states_RLH.shape
    row = torch.arange(n_rows, device=states_RLH.device)[:, None]
    sequence = (row * (length + 1) + sequence_ids_RL).flatten()  # the padding of a row is one more sequence
    weights = (SHARPNESS * states_RLH).exp()
    sums = states_RLH.new_zeros(2, n_rows * (length + 1), size)
    sums = sums.index_add(1, sequence, torch.stack([weights * states_RLH, weights]).flatten(1, 2))
    return (sums[0, sequence] / sums[1, sequence]).view_as(states_RLH)


class MixerLayer(nn.Module):
    """A gated MLP over a token's state and what is strongest in its sequence."""

    def __init__(self, hidden_size: int, intermediate_size: int, eps: float, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, eps=eps)
        self.token = nn.Linear(hidden_size, 2 * intermediate_size)
        self.context = nn.Linear(hidden_size, 2 * intermediate_size, bias=False)
        self.out = nn.Linear(intermediate_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states_RLH: torch.Tensor, sequence_ids_RL: torch.Tensor) -> torch.Tensor:
        normed = self.norm(states_RLH)
        context = self.context(strongest_of_sequence(normed, sequence_ids_RL))
        value, gate = (self.token(normed) + context).chunk(2, -1)
        return states_RLH + self.dropout(self.out(nn.functional.gelu(gate) * value))


class SetMixer(Backbone):
    """Layers of `MixerLayer`; its input is a set, and its cost grows linearly with the number of tokens.

    Parameters
    ----------
    hidden_size, intermediate_size
        Width of the states, and inside of a layer.
    num_hidden_layers
        Number of layers.
    dropout
        Of what each layer adds.
    """

    initializer_range = 0.1

    def __init__(self, hidden_size: int, intermediate_size: int, num_hidden_layers: int, dropout: float = 0.0):
        super().__init__()
        self.hidden_size = hidden_size
        self.layers = nn.ModuleList(MixerLayer(hidden_size, intermediate_size, self.norm_eps, dropout) for _ in range(num_hidden_layers))
        self.final_norm = nn.LayerNorm(hidden_size, eps=self.norm_eps)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(positions=False, isolation=False)

    def run(self, embeddings_RLH: torch.Tensor, batch: Batch, all_layers: bool = False) -> HiddenStates:
        states, layers = embeddings_RLH, []
        for layer in self.layers:
            states = layer(states, batch["sequence_ids"])
            if all_layers:
                layers.append(states)
        return HiddenStates(self.final_norm(states), layers)
