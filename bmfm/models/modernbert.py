"""ModernBERT for token sequences: built from configuration, run on padded or packed batches."""

import torch

from bmfm.models.attention import attention_inputs, flattened, resolve
from bmfm.tokenizers.dna import CLS, PAD, SEP


def build(vocab_size: int, attention: str = "auto", **config):
    """A randomly initialised `transformers.ModernBertForMaskedLM`.

    Parameters
    ----------
    attention
        ``auto``, ``sdpa``, ``flex_attention``, ``flash_attention_2`` or ``eager``.
    config
        Fields of `transformers.ModernBertConfig`; a name that it does not have is an error.
    """
    from dataclasses import fields

    from transformers import ModernBertConfig, ModernBertForMaskedLM

    known = {f.name for f in fields(ModernBertConfig)} | {"global_attn_every_n_layers"}
    if unknown := sorted(set(config) - known):
        raise ValueError(f"model settings {unknown} are no fields of ModernBertConfig")
    special = {"pad_token_id": PAD, "cls_token_id": CLS, "bos_token_id": CLS, "sep_token_id": SEP, "eos_token_id": SEP}
    settings = ModernBertConfig(vocab_size=vocab_size, **special, **config)
    model = ModernBertForMaskedLM(settings)
    model.set_attn_implementation(resolve(attention))
    return model


def encode(model, batch: dict) -> torch.Tensor:
    """Final hidden states [B, L, H] of a batch; those of padding mean nothing."""
    input_ids, document = batch["input_ids"], batch["document"]
    if model.config._attn_implementation == "flash_attention_2":
        places, cumulative, longest = flattened(document)
        output = model.model(
            input_ids=input_ids.flatten()[places][None],
            position_ids=batch["position_ids"].flatten()[places][None],
            attention_mask={"full_attention": None, "sliding_attention": None},
            cu_seq_lens_q=cumulative,
            cu_seq_lens_k=cumulative,
            max_length_q=longest,
            max_length_k=longest,
        )
        hidden_TH = output.last_hidden_state[0]
        rows = hidden_TH.new_zeros(document.numel(), hidden_TH.shape[1])
        return rows.index_copy(0, places, hidden_TH).view(*document.shape, -1)
    embeds = model.model.embeddings.tok_embeddings(input_ids)
    return model.model(
        inputs_embeds=embeds, position_ids=batch["position_ids"], **attention_inputs(model.config, embeds, document)
    ).last_hidden_state
