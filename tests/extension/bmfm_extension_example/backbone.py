"""A backbone without attention: every layer tells each token what the whole sequence looks like on average."""

import torch
from torch import nn

from bmfm.models.backbones.base import Backbone, Capabilities, HiddenStates
from bmfm.tokenizers.batch import Batch


def sequence_means(states_RLH: torch.Tensor, sequence_ids_RL: torch.Tensor) -> torch.Tensor:
    """The mean over each token's own sequence [R, L, H], so that packed sequences do not see each other; 0 where padded."""
    n_rows, length, size = states_RLH.shape
    sequence = sequence_ids_RL + torch.arange(n_rows, device=states_RLH.device)[:, None] * (length + 1)
    sequence = torch.where(sequence_ids_RL > 0, sequence, 0).flatten()  # all padding together
    is_token = (sequence_ids_RL > 0).flatten()[:, None].to(states_RLH.dtype)
    sums = states_RLH.new_zeros(n_rows * (length + 1), size).index_add(0, sequence, states_RLH.flatten(0, 1) * is_token)
    n_tokens = is_token.new_zeros(n_rows * (length + 1), 1).index_add(0, sequence, is_token)
    return (sums / n_tokens.clamp(min=1))[sequence].view_as(states_RLH)


class MixerLayer(nn.Module):
    """A gated MLP over a token's state and the mean of its sequence."""

    def __init__(self, hidden_size: int, intermediate_size: int, eps: float, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, eps=eps)
        self.token = nn.Linear(hidden_size, 2 * intermediate_size)
        self.context = nn.Linear(hidden_size, 2 * intermediate_size, bias=False)
        self.out = nn.Linear(intermediate_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states_RLH: torch.Tensor, sequence_ids_RL: torch.Tensor) -> torch.Tensor:
        normed = self.norm(states_RLH)
        value, gate = (self.token(normed) + self.context(sequence_means(normed, sequence_ids_RL))).chunk(2, -1)
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
