"""ModernBERT (arXiv 2412.13663)."""

from typing import Any

import torch

from bmfm.models.backbones.settings import transformers_config
from bmfm.models.backbones.transformer import AttentionBackbone
from bmfm.special import MASK


class ModernBert(AttentionBackbone):
    """Rotary positions, local and global attention, gated MLP, pre-norm (arXiv 2412.13663).

    Settings are those of `transformers.ModernBertConfig`, and ``global_attn_every_n_layers``.
    """

    def __init__(self, **settings: Any):
        from transformers import ModernBertConfig, ModernBertModel

        super().__init__()
        config = transformers_config(ModernBertConfig, settings | {"vocab_size": MASK + 1}, {"global_attn_every_n_layers"})
        self.body = ModernBertModel(config)
        self.body.embeddings.tok_embeddings = None  # embeddings come from the fields
        self.refer_to_layers(self.body.layers)
        self.set_config(config, config.norm_eps, config.norm_bias)

    def run_layers(self, embeddings_BLH: torch.Tensor, position_ids_BL: torch.Tensor, masks: dict, lengths: dict) -> torch.Tensor:
        return self.body(inputs_embeds=embeddings_BLH, position_ids=position_ids_BL, attention_mask=masks, **lengths).last_hidden_state
