"""Llama looking both ways."""

from typing import Any

import torch
from torch import nn

from bmfm.models.backbones.settings import transformers_config
from bmfm.models.backbones.transformer import AttentionBackbone


class Llama(AttentionBackbone):
    """Llama's layers looking both ways: RMSNorm before attention and gated MLP.

    Settings are those of `transformers.LlamaConfig` and the parameters.

    Parameters
    ----------
    embedding_dropout, embedding_eps
        Of the norm of the embeddings.
    first_norm, final_norm
        Whether there is a norm before the first attention, and one after the last layer; the published encoder has neither.
    """

    def __init__(
        self,
        embedding_dropout: float = 0.0,
        embedding_eps: float = 1e-12,
        first_norm: bool = True,
        final_norm: bool = True,
        **settings: Any,
    ):
        from transformers import LlamaConfig
        from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding

        super().__init__()
        config = transformers_config(LlamaConfig, settings)
        self.norm = nn.LayerNorm(config.hidden_size, eps=embedding_eps)
        self.dropout = nn.Dropout(embedding_dropout)
        layers = [LlamaDecoderLayer(config, i) for i in range(config.num_hidden_layers)]
        for layer in layers:
            layer.self_attn.is_causal = False
        if not first_norm:
            layers[0].input_layernorm = nn.Identity()
        self.layers = nn.ModuleList(layers)
        self.final_norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps) if final_norm else nn.Identity()
        self.rotary = LlamaRotaryEmbedding(config)
        self.set_config(config, embedding_eps)

    def run_layers(self, embeddings_BLH: torch.Tensor, position_ids_BL: torch.Tensor, masks: dict, lengths: dict) -> torch.Tensor:
        hidden = self.dropout(self.norm(embeddings_BLH))
        rotation = self.rotary(hidden, position_ids_BL)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=masks["full_attention"], position_embeddings=rotation, **lengths)
        return self.final_norm(hidden)
