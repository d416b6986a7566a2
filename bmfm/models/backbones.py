"""Backbones: transformers' own layers over embeddings that are already there, each behind the same call.

A backbone takes ``embeds_BLH``, ``position_ids_BL`` and what `attention.attention_inputs` made, and returns [B, L, H];
``layers`` are its transformer layers. One that ``reads_ids`` (`foreign`) takes a whole batch instead, by ``of_batch``.
Where all positions are 0, rotary embeddings turn nothing: that is how an encoder of cells has no order of genes.
"""

from dataclasses import fields
from typing import Any

import torch
from torch import nn

from bmfm.models.foreign import Foreign
from bmfm.special import CLS, MASK, PAD, SEP

ROLES = {"pad_token_id": PAD, "cls_token_id": CLS, "bos_token_id": CLS, "sep_token_id": SEP, "eos_token_id": SEP}


def settings(kind: str, options: dict, extra: set[str] = frozenset()):  # type: ignore[assignment]
    """The transformers configuration of a backbone; a setting that it does not have is an error."""
    from transformers import BertConfig, LlamaConfig, ModernBertConfig

    cls = {"modernbert": ModernBertConfig, "bert": BertConfig, "llama": LlamaConfig}[kind]
    known = {f.name for f in fields(cls)} | ({"global_attn_every_n_layers"} if kind == "modernbert" else set()) | extra
    if unknown := sorted(set(options) - known):
        raise ValueError(f"model settings {unknown} are no fields of {cls.__name__}")
    roles = {k: v for k, v in ROLES.items() if k in {f.name for f in fields(cls)}}
    return cls(**roles | {k: v for k, v in options.items() if k not in extra})


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


KINDS: dict[str, Any] = {"modernbert": ModernBert, "bert": Bert, "llama": Llama, "foreign": Foreign}
