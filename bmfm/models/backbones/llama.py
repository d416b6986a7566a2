"""Llama looking both ways."""

import torch
from torch import nn

from bmfm.models.backbones.settings import settings


class Llama(nn.Module):
    """Llama's layers looking both ways: RMSNorm before attention and gated MLP.

    Settings beside those of `transformers.LlamaConfig`: ``embedding_dropout``; ``first_norm`` and ``final_norm`` (the
    published encoder has neither a norm before its first attention nor one after its last layer).
    """

    EXTRA = frozenset({"embedding_dropout", "embedding_eps", "first_norm", "final_norm"})

    def __init__(self, options: dict):
        from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm, LlamaRotaryEmbedding

        super().__init__()
        self.config = settings("llama", options, self.EXTRA)  # type: ignore[arg-type]
        size = self.config.hidden_size
        self.eps, self.norm_bias = options.get("embedding_eps", 1e-12), True
        self.norm = nn.LayerNorm(size, eps=self.eps)
        self.dropout = nn.Dropout(options.get("embedding_dropout", 0.0))
        self.layers = nn.ModuleList(LlamaDecoderLayer(self.config, i) for i in range(self.config.num_hidden_layers))
        for layer in self.layers:
            layer.self_attn.is_causal = False
        if not options.get("first_norm", True):
            self.layers[0].input_layernorm = nn.Identity()
        self.final_norm = LlamaRMSNorm(size, self.config.rms_norm_eps) if options.get("final_norm", True) else nn.Identity()
        self.rotary = LlamaRotaryEmbedding(self.config)

    def forward(self, embeds_BLH: torch.Tensor, position_ids_BL: torch.Tensor, attention: dict) -> torch.Tensor:
        hidden = self.dropout(self.norm(embeds_BLH))
        rotation = self.rotary(hidden, position_ids_BL)
        masks = attention.pop("attention_mask")
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=masks["full_attention"], position_embeddings=rotation, **attention)
        return self.final_norm(hidden)
