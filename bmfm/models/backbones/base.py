"""The contract of backbones: embeddings in, hidden states out, in two steps.

`embed` turns the fields of a batch into one vector a token; `run` mixes them. Gradients, interventions and other modalities enter
between the two. Nothing outside of a backbone assumes attention.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

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
    reach
        How many tokens on each side the last state of a token depends on; None: all.
    """

    causal: bool = False
    positions: bool = True
    packing: bool = True
    isolation: bool = True
    attention: tuple[str, ...] = ()
    lm_head: bool = False
    mask_token: bool = True
    max_tokens: int | None = None
    reach: int | None = None


@dataclass
class HiddenStates:
    """What a backbone makes of a batch.

    Attributes
    ----------
    last
        [R, L, H] after the last layer and its norm; those of padding mean nothing.
    layers
        The states after each layer, n times [R, L, H], where they were asked for; the last of them before the final norm.
    """

    last: torch.Tensor
    layers: list[torch.Tensor] = field(default_factory=list)


MOST_COMPILED = 64
"""Times that torch compiles the same code before it goes on without."""


class Backbone(nn.Module, ABC):
    """A stack of layers over embedded tokens.

    It is made from its settings, which are keyword arguments, are saved with the model in ``config.json``, and are numbers, texts,
    lists and mappings. The class is named there by its dotted path, and may lie in any installed package.

    Attributes
    ----------
    hidden_size
        H, of embeddings and states.
    layers
        The layers, from the input up: what adapters, layer-wise learning rates and ``layer=`` count.
    norm_eps, norm_bias
        Of its norms: heads take the same.
    initializer_range
        Standard deviation that new weights of linear maps and embeddings are drawn with, here and in the heads.
    own_embeddings
        Whether it brings embeddings for `embed`; else the model sums the encoders of the fields (`embeddings.FieldEmbeddings`).
    """

    hidden_size: int
    layers: nn.ModuleList
    norm_eps: float = 1e-12
    norm_bias: bool = True
    initializer_range: float = 0.02
    own_embeddings: bool = False
    _plain: Sequence[Any] = ()  # what layers had in place of their class's forward before they were compiled

    @classmethod
    def encoders(cls, fields: Mapping[str, dict], settings: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, dict]:
        """The encoders of the fields {batch key: settings} of a new model, where this backbone needs others than the usual.

        Parameters
        ----------
        fields
            What is chosen otherwise; of ``input_ids``, an encoder that looks up a row for each token.
        settings
            Of the backbone.
        tokens
            Names of all tokens [V] in the order of their ids.
        """
        return dict(fields)

    @property
    def name(self) -> str:
        """What people call it."""
        return type(self).__name__

    def refer_to_layers(self, layers: nn.ModuleList) -> None:
        """Name as `layers` those of another module, which they stay part of."""
        object.__setattr__(self, "layers", layers)

    def compile_layers(self) -> None:
        """Compile the forward pass of each layer by itself: layers that compute alike share what is compiled, which takes seconds instead of minutes."""
        if self.is_compiled:
            return
        # torch counts for layers of all kinds together how often they are compiled, in training and in validation
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, MOST_COMPILED)
        self._plain = [vars(layer).get("forward") for layer in self.layers]
        for layer in self.layers:
            layer.forward = torch.compile(layer.forward, dynamic=True)

    def restore_layers(self) -> None:
        """Undo `compile_layers`, if there is anything to undo."""
        if not self.is_compiled:
            return
        for layer, forward in zip(self.layers, self._plain, strict=True):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward
        self._plain = []

    @property
    def is_compiled(self) -> bool:
        """Whether the layers are compiled."""
        return bool(self._plain)

    @property
    def encoder(self) -> nn.Module:
        """The part that makes hidden states, which adapters change: all of it but a language-model head."""
        return self

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What it can do."""

    @abstractmethod
    def run(self, embeddings_BLH: torch.Tensor, batch: Batch, all_layers: bool = False) -> HiddenStates:
        """Hidden states of embedded tokens; `batch` says which tokens belong together, where they stand, and which are isolated."""

    def embed(self, batch: Batch) -> torch.Tensor:
        """Embeddings [R, L, H] of a batch, where it brings its own."""
        raise NotImplementedError(f"{type(self).__name__} has no embeddings of its own: the model sums those of the fields")

    def embedding_table(self) -> torch.Tensor:
        """The embedding of every token [V, H] in this project's ids, where it brings its own; for heads that are tied to it."""
        raise NotImplementedError(f"{type(self).__name__} has no embeddings of its own: the model sums those of the fields")

    def attention_mask(self, batch: Batch) -> torch.Tensor:
        """Tokens [R, L] that it sees, and that a mean over tokens counts: neither padding nor special tokens that it lacks."""
        return batch["example_ids"] >= 0

    def use_attention(self, implementation: str) -> None:
        """Choose the attention kernel; a backbone without attention knows ``auto`` alone."""
        choices = self.capabilities.attention
        if implementation != "auto" and implementation not in choices:
            raise ValueError(
                f"attention={implementation!r}: {type(self).__name__} has {', '.join(choices) or 'no attention'}; choose attention=auto"
            )

    def lm_logits(self, hidden_BLH: torch.Tensor) -> torch.Tensor:
        """Logits [..., V] over this project's ids of states [..., H], by the language-model head that it brings."""
        raise NotImplementedError(f"{type(self).__name__} has no language-model head of its own")

    def frozen_parameters(self, lm_head: bool = False) -> list[str]:
        """Names of parameters that the hidden states (with `lm_head`, and its logits) do not depend on.

        They would get no gradient, for which training on several devices waits in vain.
        """
        return []


@contextmanager
def record_outputs(layers: nn.ModuleList, wanted: bool = True) -> Iterator[list[torch.Tensor]]:
    """A list that fills with what each layer returns while the body runs; it stays empty where that is not `wanted`."""
    states: list[torch.Tensor] = []

    def append(module: nn.Module, arguments: object, output: torch.Tensor | tuple[torch.Tensor, ...]) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    hooks = [layer.register_forward_hook(append) for layer in layers] if wanted else []
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()
