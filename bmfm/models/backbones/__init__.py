"""Backbones: transformers' own layers over embeddings that are already there, each behind the same call.

A backbone takes ``embeds_BLH``, ``position_ids_BL`` and what `attention.attention_inputs` made, and returns [B, L, H];
``layers`` are its transformer layers. One that ``reads_ids`` (`foreign`) takes a whole batch instead, by ``of_batch``.
Where all positions are 0, rotary embeddings turn nothing: that is how an encoder of cells has no order of genes.
"""

from typing import Any

from bmfm.models.backbones.bert import Bert
from bmfm.models.backbones.huggingface import Foreign
from bmfm.models.backbones.llama import Llama
from bmfm.models.backbones.modernbert import ModernBert

KINDS: dict[str, Any] = {"modernbert": ModernBert, "bert": Bert, "llama": Llama, "foreign": Foreign}
