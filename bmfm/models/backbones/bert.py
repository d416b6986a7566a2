"""BERT without positions: its input is a set."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bmfm.models.backbones.base import Capabilities
from bmfm.models.backbones.settings import transformers_config
from bmfm.models.backbones.transformer import AttentionBackbone


class Bert(AttentionBackbone):
    """BERT's encoder, post-norm, without positions; settings are those of `transformers.BertConfig`."""

    def __init__(self, **settings: Any):
        from transformers import BertConfig
        from transformers.models.bert.modeling_bert import BertEncoder

        super().__init__()
        config = transformers_config(BertConfig, settings)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.body = BertEncoder(config)
        self.refer_to_layers(self.body.layer)
        self.set_config(config, config.layer_norm_eps)

    @property
    def capabilities(self) -> Capabilities:
        return replace(super().capabilities, positions=False, max_tokens=None)

    def run_layers(self, embeddings_BLH: torch.Tensor, position_ids_BL: torch.Tensor, masks: dict, lengths: dict) -> torch.Tensor:
        hidden = self.dropout(self.norm(embeddings_BLH))
        return self.body(hidden, masks["full_attention"], **lengths).last_hidden_state
