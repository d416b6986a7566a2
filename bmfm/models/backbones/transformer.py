"""What backbones with attention share: the choice of its kernel for each call, and masks that keep sequences apart."""

from abc import abstractmethod

import torch
from transformers import PreTrainedConfig

from bmfm.models import flash_attention
from bmfm.models.attention import IMPLEMENTATIONS, attention_masks, check_name, choose_for, flattened
from bmfm.models.backbones.base import Backbone, Capabilities, HiddenStates, record_outputs
from bmfm.tokenizers.batch import Batch


class AttentionBackbone(Backbone):
    """A bidirectional transformer that is made of transformers' own layers.

    Attributes
    ----------
    config
        Its transformers configuration.
    head_size
        Of queries and keys.
    attention_dropout
        Of attention weights.
    has_local_layers
        Whether some layers see only what is near.
    """

    config: PreTrainedConfig
    head_size: int
    attention_dropout: float
    has_local_layers: bool
    attention: str = "auto"

    def set_config(self, config: PreTrainedConfig, norm_eps: float, norm_bias: bool = True) -> None:
        """Take sizes and norms from a transformers configuration; until the first call chooses, attention is SDPA."""
        self.config, self.hidden_size, self.initializer_range = config, config.hidden_size, config.initializer_range
        self.norm_eps, self.norm_bias = norm_eps, norm_bias
        self.config._attn_implementation = "sdpa"
        settings = config.to_dict()
        self.head_size = settings.get("head_dim") or self.hidden_size // settings["num_attention_heads"]
        self.attention_dropout = settings.get("attention_dropout") or settings.get("attention_probs_dropout_prob") or 0.0
        self.has_local_layers = "sliding_attention" in (settings.get("layer_types") or ())

    @abstractmethod
    def run_layers(self, embeddings_BLH: torch.Tensor, position_ids_BL: torch.Tensor, masks: dict, lengths: dict) -> torch.Tensor:
        """Final states [B, L, H].

        Parameters
        ----------
        masks
            The mask of each kind of layer, ``full_attention`` and ``sliding_attention``, in the form that the kernel takes.
        lengths
            Keyword arguments for FlashAttention, see `attention.flattened`; empty for all others.
        """

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(attention=IMPLEMENTATIONS, max_tokens=self.config.max_position_embeddings)

    def use_attention(self, implementation: str) -> None:
        """Choose the kernel; what ``auto`` is depends on what each call computes in, see `attention.choose`."""
        self.attention = check_name(implementation)

    def run(self, embeddings_BLH: torch.Tensor, batch: Batch, all_layers: bool = False) -> HiddenStates:
        sequence_ids, isolated = batch["sequence_ids"], "isolated_mask" in batch
        if isolated and self.attention == "flash_attention_2":
            raise ValueError("masking.hide=true needs attention masks: choose model.attention=sdpa or flex_attention")
        requested = "sdpa" if isolated and self.attention == "auto" else self.attention
        dropout = self.attention_dropout if self.training else 0.0
        chosen = choose_for(requested, embeddings_BLH, self.head_size, dropout, self.is_compiled)
        if self.config._attn_implementation != chosen:
            self.config._attn_implementation = chosen
        if chosen not in flash_attention.NAMES:
            masks = attention_masks(self.config, embeddings_BLH, batch, self.has_local_layers)
            with record_outputs(self.layers, all_layers) as layers:
                last = self.run_layers(embeddings_BLH, batch["position_ids"], masks, {})
            return HiddenStates(last, layers)
        places, cumulative, longest = flattened(sequence_ids)
        positions = batch["position_ids"].flatten()[places][None]
        lengths = {"cu_seq_lens_q": cumulative, "cu_seq_lens_k": cumulative, "max_length_q": longest, "max_length_k": longest}
        with record_outputs(self.layers, all_layers) as layers:
            last = self.run_layers(embeddings_BLH.flatten(0, 1)[places][None], positions, dict.fromkeys(LAYER_TYPES), lengths)
        last, *layers = (_unflattened(hidden[0], places, sequence_ids) for hidden in (last, *layers))
        return HiddenStates(last, layers)


LAYER_TYPES = ("full_attention", "sliding_attention")


def _unflattened(hidden_TH: torch.Tensor, places: torch.Tensor, sequence_ids_BL: torch.Tensor) -> torch.Tensor:
    """States [B, L, H] of a batch from those of its real tokens; 0 where it is padded."""
    rows = hidden_TH.new_zeros(sequence_ids_BL.numel(), hidden_TH.shape[1])
    return rows.index_copy(0, places, hidden_TH).view(*sequence_ids_BL.shape, -1)
