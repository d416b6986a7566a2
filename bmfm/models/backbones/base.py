"""The contract of backbones: embeddings in, hidden states out, in two steps.

`embed` turns the fields of a batch into one vector a token; `run` mixes them. Gradients, interventions and other modalities enter
between the two. Nothing outside of a backbone assumes attention.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import nn

from bmfm.tokenizers.batch import Batch


@dataclass(frozen=True)
class Capabilities:
    """What a backbone can do, so that nobody has to try.

    Attributes
    ----------
    causal
        Tokens see only what is before them: the state of [CLS] says nothing.
    positions
        The order of tokens means something to it.
    packing
        It keeps several sequences of one row apart.
    isolation
        It can keep single tokens (``isolated_mask``) from being seen by others.
    attention
        Attention implementations that it can be told to use (`attention.IMPLEMENTATIONS`); empty where it has no attention.
    lm_head
        It has a language-model head of its own, see `Backbone.lm_logits`.
    mask_token
        Inputs may hold [MASK].
    max_tokens
        Longest input that it has positions for; None where there is no end.
    """

    causal: bool = False
    positions: bool = True
    packing: bool = True
    isolation: bool = True
    attention: tuple[str, ...] = ()
    lm_head: bool = False
    mask_token: bool = True
    max_tokens: int | None = None


@dataclass
class HiddenStates:
    """What a backbone makes of a batch.

    Attributes
    ----------
    last
        [R, L, H] after the last layer and its norm; those of padding mean nothing.
    layers
        The states after each layer, n times [R, L, H], where they were asked for.
    """

    last: torch.Tensor
    layers: list[torch.Tensor] = field(default_factory=list)


class Backbone(nn.Module, ABC):
    """A stack of layers over embedded tokens; made from its settings, which are saved with the model.

    Attributes
    ----------
    hidden_size
        H, of embeddings and states.
    layers
        The layers, from the input up: what adapters, layer-wise learning rates and ``layer=`` count.
    norm_eps, norm_bias
        Of its norms: heads take the same.
    own_embeddings
        Whether it brings embeddings for `embed`; else the model sums the encoders of the fields (`embeddings.FieldEmbeddings`).
    """

    hidden_size: int
    layers: nn.ModuleList
    norm_eps: float = 1e-12
    norm_bias: bool = True
    own_embeddings: bool = False

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What it can do."""

    def embed(self, batch: Batch) -> torch.Tensor:
        """Embeddings [R, L, H] of a batch, where it brings its own."""
        raise NotImplementedError(f"{type(self).__name__} has no embeddings of its own: the model sums those of the fields")

    @abstractmethod
    def run(self, embeddings_BLH: torch.Tensor, batch: Batch, all_layers: bool = False) -> HiddenStates:
        """Hidden states of embedded tokens; `batch` says which tokens belong together, where they stand, and which are isolated."""

    def use_attention(self, implementation: str) -> None:
        """Choose the attention kernel; a backbone without attention knows ``auto`` alone."""
        if implementation != "auto" and implementation not in self.capabilities.attention:
            raise ValueError(f"attention={implementation!r}: {type(self).__name__} has {', '.join(self.capabilities.attention) or 'none'}")

    def lm_logits(self, hidden_BLH: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Logits [R, L, V] over this project's ids, by the language-model head that it brings."""
        raise NotImplementedError(f"{type(self).__name__} has no language-model head of its own")

    def frozen_parameters(self) -> list[str]:
        """Names of parameters that the hidden states do not depend on, which must not be trained over several devices."""
        return []
