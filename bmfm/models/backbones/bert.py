"""BERT without positions: its input is a set."""

import torch
from torch import nn

from bmfm.models.backbones.settings import settings


class Bert(nn.Module):
    """BERT's encoder, post-norm, without positions."""

    def __init__(self, options: dict):
        from transformers.models.bert.modeling_bert import BertEncoder

        super().__init__()
        self.config = settings("bert", options)
        self.norm = nn.LayerNorm(self.config.hidden_size, eps=self.config.layer_norm_eps)
        self.dropout = nn.Dropout(self.config.hidden_dropout_prob)
        self.body = BertEncoder(self.config)
        self.eps, self.norm_bias = self.config.layer_norm_eps, True

    @property
    def layers(self) -> nn.ModuleList:
        return self.body.layer

    def forward(self, embeds_BLH: torch.Tensor, position_ids_BL: torch.Tensor, attention: dict) -> torch.Tensor:
        masks = attention.pop("attention_mask")
        return self.body(self.dropout(self.norm(embeds_BLH)), masks["full_attention"], **attention).last_hidden_state
