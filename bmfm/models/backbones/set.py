"""A few latents that read all genes: attention over a set whose cost grows linearly with the number of genes.

Perceiver (Jaegle et al., ICML 2021) and the induced points of the Set Transformer (Lee et al., ICML 2019). The queries of the latents live in
the space of the embeddings, and keys and values are the embeddings themselves, so that a token costs two products with the queries and no
linear map of its own: the maps come after the weighted means, once a latent. What follows is a small transformer over the latents and [CLS].
"""

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

from bmfm.models.backbones.base import Backbone, Capabilities, HiddenStates
from bmfm.tokenizers.batch import Batch


class LatentSet(Backbone):
    """Latents that read the tokens, layers over the latents and the first token, [CLS], and states of all tokens that read the latents.

    [CLS] goes through the layers beside the latents by residual connections, so that what its embedding holds stays in its state. Its input is
    a set: positions mean nothing.

    Parameters
    ----------
    hidden_size, intermediate_size
        Width of the states, and inside of the layers' MLPs.
    num_latents
        Number of latents.
    num_hidden_layers
        Layers over the latents. With 0 and no `gene_states` nothing reads the latents, and there are none: [CLS] is what its embedding holds, the
        summary of a cell.
    num_attention_heads
        Of all attention; each latent reads the tokens by so many queries.
    hidden_dropout_prob
        Of the embeddings and of what each layer adds.
    gene_states
        Whether all tokens read the latents, as objectives and labels of tokens, and means over tokens, need; else only [CLS] has a state
        that knows of the others, and every other token keeps its embedding.
    """

    initializer_range = 0.05

    def __init__(
        self,
        hidden_size: int = 128,
        intermediate_size: int = 256,
        num_latents: int = 16,
        num_hidden_layers: int = 2,
        num_attention_heads: int = 4,
        hidden_dropout_prob: float = 0.0,
        gene_states: bool = True,
    ):
        super().__init__()
        if hidden_size % num_attention_heads:
            raise ValueError(f"model.hidden_size={hidden_size} is no multiple of model.num_attention_heads={num_attention_heads}")
        self.hidden_size = hidden_size
        self.norm = nn.LayerNorm(hidden_size, eps=self.norm_eps)
        self.dropout = nn.Dropout(hidden_dropout_prob)
        self.read = LatentsRead(hidden_size, num_latents, num_attention_heads) if num_hidden_layers or gene_states else None
        sizes = (hidden_size, intermediate_size, num_attention_heads)
        self.layers = nn.ModuleList(LatentLayer(*sizes, hidden_dropout_prob, self.norm_eps) for _ in range(num_hidden_layers))
        self.write = TokensRead(hidden_size, num_attention_heads, self.norm_eps) if gene_states else None
        self.final_norm = nn.LayerNorm(hidden_size, eps=self.norm_eps)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(positions=False)

    def run(self, embeddings_BLH: torch.Tensor, batch: Batch, all_layers: bool = False) -> HiddenStates:
        hidden = self.dropout(self.norm(embeddings_BLH))
        cls_index = batch["cls_index"]

        def with_cls(states_RLH: torch.Tensor, cls_NH: torch.Tensor) -> torch.Tensor:
            flat = states_RLH.flatten(0, 1)
            return flat.index_copy(0, cls_index, cls_NH.to(flat.dtype)).view_as(states_RLH)

        cls = hidden.flatten(0, 1)[cls_index]
        if self.read is None:
            return HiddenStates(with_cls(hidden, self.final_norm(cls)), [])
        examples = _examples(batch)
        tokens_NWH = examples.of(hidden)
        latents = torch.cat([cls[:, None], self.read(tokens_NWH, examples.is_seen)], 1)
        each = []
        for layer in self.layers:
            latents = layer(latents)
            each.append(latents)

        def states(cls_NH: torch.Tensor, latents_NKH: torch.Tensor) -> torch.Tensor:
            everywhere = hidden
            if self.write is not None:
                everywhere = examples.add(hidden, self.write(tokens_NWH, latents_NKH))
            return with_cls(everywhere, cls_NH)

        layers = [states(of_layer[:, 0], of_layer[:, 1:]) for of_layer in each] if all_layers else []
        if self.write is None:
            return HiddenStates(states(self.final_norm(latents[:, 0]), latents), layers)
        return HiddenStates(self.final_norm(states(latents[:, 0], latents[:, 1:])), layers)


class _Examples(NamedTuple):
    """The tokens of each example beside one another [N, W], wherever they lie in the rows.

    Attributes
    ----------
    places
        In the flattened rows [N, W]; None where every example has a row to itself.
    is_token, is_seen
        [N, W]: which places hold a token of the example, and which of these others see.
    """

    places: torch.Tensor | None
    is_token: torch.Tensor
    is_seen: torch.Tensor

    def of(self, states_RLH: torch.Tensor) -> torch.Tensor:
        """The states [N, W, H] of every example's tokens."""
        return states_RLH if self.places is None else states_RLH.flatten(0, 1)[self.places]

    def add(self, states_RLH: torch.Tensor, update_NWH: torch.Tensor) -> torch.Tensor:
        """States with something added to those of every example's tokens."""
        if self.places is None:
            return states_RLH + update_NWH
        update = (update_NWH * self.is_token[..., None]).flatten(0, 1).to(states_RLH.dtype)
        return states_RLH.flatten(0, 1).index_add(0, self.places.flatten(), update).view_as(states_RLH)


def _examples(batch: Batch) -> _Examples:
    sequence_ids, isolated = batch["sequence_ids"], batch.get("isolated_mask")
    is_seen = sequence_ids > 0 if isolated is None else (sequence_ids > 0) & ~isolated
    if not batch.get("packed", True):
        return _Examples(None, sequence_ids > 0, is_seen)
    first, width = batch["cls_index"][:, None], sequence_ids.shape[1]
    places = first + torch.arange(width, device=first.device)
    is_token = (first % width + torch.arange(width, device=first.device)) < width
    places = places.where(is_token, first)
    is_token = is_token & (sequence_ids.flatten()[places] == sequence_ids.flatten()[first])
    longest = int(is_token.sum(1).max())
    places, is_token = places[:, :longest], is_token[:, :longest]
    return _Examples(places, is_token, is_token & is_seen.flatten()[places])


class LatentsRead(nn.Module):
    """What each latent reads of the tokens: weighted means of their embeddings by each of its queries, and then a linear map."""

    def __init__(self, hidden_size: int, num_latents: int, num_heads: int):
        super().__init__()
        self.num_latents = num_latents
        self.latents = nn.Embedding(num_latents, hidden_size)
        self.queries = nn.Parameter(
            torch.randn(num_latents * num_heads, hidden_size)
        )  # as long as the tokens, to read apart from the start
        self.out = nn.Linear(num_heads * hidden_size, hidden_size)

    def forward(self, tokens_NWH: torch.Tensor, is_seen_NW: torch.Tensor) -> torch.Tensor:
        """Latents [N, K, H]."""
        scores = functional.linear(tokens_NWH, self.queries * self.queries.shape[1] ** -0.5).transpose(1, 2)
        weights = scores.masked_fill(~is_seen_NW[:, None], -torch.inf).softmax(-1)
        means = torch.matmul(weights.to(tokens_NWH.dtype), tokens_NWH)
        return self.latents.weight + self.out(means.unflatten(1, (self.num_latents, -1)).flatten(2))


class TokensRead(nn.Module):
    """What each token reads of the latents; its embedding is the query, of every head."""

    def __init__(self, hidden_size: int, num_heads: int, eps: float):
        super().__init__()
        self.num_heads, self.scale = num_heads, hidden_size**-0.5
        self.norm = nn.LayerNorm(hidden_size, eps=eps)
        self.keys = nn.Linear(hidden_size, num_heads * hidden_size)
        self.values = nn.Linear(hidden_size, num_heads * hidden_size)

    def forward(self, tokens_NWH: torch.Tensor, latents_NKH: torch.Tensor) -> torch.Tensor:
        """What is added to the states of the tokens [N, W, H]."""
        latents = self.norm(latents_NKH)
        keys, values = (linear(latents).unflatten(-1, (self.num_heads, -1)).flatten(1, 2) for linear in (self.keys, self.values))
        scores = torch.matmul(tokens_NWH.to(keys.dtype), keys.transpose(1, 2) * self.scale)
        weights = scores.unflatten(-1, (-1, self.num_heads)).softmax(-2).flatten(-2)
        return torch.matmul(weights.to(values.dtype), values)


class LatentLayer(nn.Module):
    """Self-attention and an MLP, pre-norm."""

    def __init__(self, hidden_size: int, intermediate_size: int, num_heads: int, dropout: float, eps: float):
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm, self.mlp_norm = (nn.LayerNorm(hidden_size, eps=eps) for _ in range(2))
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size)
        self.attention_out = nn.Linear(hidden_size, hidden_size)
        self.mlp_in = nn.Linear(hidden_size, intermediate_size)
        self.mlp_out = nn.Linear(intermediate_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states_NKH: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(self.attention_norm(states_NKH)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        queries, keys, values = qkv.unbind()
        weights = torch.matmul(queries, keys.transpose(-1, -2) * queries.shape[-1] ** -0.5).softmax(-1)
        mixed = torch.matmul(weights.to(values.dtype), values).transpose(1, 2).flatten(2)
        states = states_NKH + self.dropout(self.attention_out(mixed))
        return states + self.dropout(self.mlp_out(functional.gelu(self.mlp_in(self.mlp_norm(states)))))
