"""ModernBERT (arXiv 2412.13663)."""

import torch
from torch import nn

from bmfm.models.backbones.settings import settings
from bmfm.special import MASK


class ModernBert(nn.Module):
    """Rotary positions, local and global attention, gated MLP, pre-norm (arXiv 2412.13663)."""

    def __init__(self, options: dict):
        from transformers import ModernBertModel

        super().__init__()
        self.config = settings("modernbert", options | {"vocab_size": MASK + 1})
        self.body = ModernBertModel(self.config)
        self.body.embeddings.tok_embeddings = None  # embeddings come from the fields
        self.eps, self.norm_bias = self.config.norm_eps, self.config.norm_bias

    @property
    def layers(self) -> nn.ModuleList:
        return self.body.layers

    def forward(self, embeds_BLH: torch.Tensor, position_ids_BL: torch.Tensor, attention: dict) -> torch.Tensor:
        return self.body(inputs_embeds=embeds_BLH, position_ids=position_ids_BL, **attention).last_hidden_state
