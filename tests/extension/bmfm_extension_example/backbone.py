"""A backbone without attention: every layer tells each token what is strongest in its whole sequence."""

import torch
from torch import nn

from bmfm.models.backbones.base import Backbone, Capabilities, HiddenStates
from bmfm.tokenizers.batch import Batch


def largest_of_sequence(states_RLH: torch.Tensor, sequence_ids_RL: torch.Tensor) -> torch.Tensor:
    """The largest value of each feature over each token's own sequence [R, L, H]: packed sequences do not see each other, nor padding."""
    n_rows, length, size = states_RLH.shape
    row = torch.arange(n_rows, device=states_RLH.device)[:, None]
    sequence = (row * (length + 1) + sequence_ids_RL).flatten()[:, None].expand(-1, size)  # padding of a row is one more sequence
    largest = states_RLH.new_zeros(n_rows * (length + 1), size)
    largest = largest.scatter_reduce(0, sequence, states_RLH.flatten(0, 1), "amax", include_self=False)
    return largest.gather(0, sequence).view_as(states_RLH)


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
        context = self.context(largest_of_sequence(normed, sequence_ids_RL))
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
