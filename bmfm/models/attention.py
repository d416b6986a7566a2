"""Which tokens may see each other, in the form that each attention implementation takes. One function for all of them.

``sdpa`` and ``eager`` take a boolean mask for each kind of layer, ``flex_attention`` a compiled block mask,
``flash_attention_2`` the cumulative lengths of the documents. Documents of a packed row never see each other, and
results are those of the padded batch (transformers' ModernBERT leaks between packed documents when it is given
position ids alone).
"""

import torch
from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask

IMPLEMENTATIONS = ("sdpa", "flex_attention", "flash_attention_2", "eager")


def resolve(implementation: str) -> str:
    """The implementation to use: ``auto`` is FlashAttention where it is installed and there is a GPU, else SDPA.

    Raises
    ------
    ImportError, ValueError
        If FlashAttention is asked for and not there, or the name is unknown.
    """
    from importlib.util import find_spec

    flash = find_spec("flash_attn") is not None and torch.cuda.is_available()
    if implementation == "auto":
        return "flash_attention_2" if flash else "sdpa"
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"attention {implementation!r} is unknown; choose from auto, {', '.join(IMPLEMENTATIONS)}")
    if implementation == "flash_attention_2" and not flash:
        raise ImportError("flash_attention_2 needs a GPU and the package flash-attn: pip install 'bmfm[gpu]'")
    return implementation


def attention_inputs(config, embeds_BLH: torch.Tensor, batch: dict) -> dict:
    """Keyword arguments that make a backbone keep documents apart and ignore padding (document 0).

    Tokens marked in ``batch["unseen"]``, if that is there, are seen by themselves alone (scGPT, Nature Methods 2024).
    """
    document_BL, unseen_BL = batch["document"], batch.get("unseen")
    common: dict = {"config": config, "inputs_embeds": embeds_BLH, "attention_mask": None}
    if not batch.get("packed", True) and unseen_BL is None:
        common["attention_mask"] = document_BL > 0  # one document a row: the cheap mask, or none where nothing is padded
    else:

        def visible(batch, head, query, key):
            same = (document_BL[batch, query] == document_BL[batch, key]) & (document_BL[batch, query] > 0)
            if unseen_BL is not None:
                same = same & ~unseen_BL[batch, key]
            return same | (query == key)

        common["and_mask_function"] = visible
    masks = {"full_attention": create_bidirectional_mask(**common)}
    if getattr(config, "sliding_window", None) and "sliding_attention" in config.layer_types:
        masks["sliding_attention"] = create_bidirectional_sliding_window_mask(**common)
    return {"attention_mask": masks}


def flattened(document_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Places of the real tokens in the flattened batch [T], cumulative lengths of documents [D + 1], the longest."""
    row = torch.arange(len(document_BL), device=document_BL.device)[:, None]
    number = (row * (document_BL.max() + 1) + document_BL).flatten()
    places = (document_BL.flatten() > 0).nonzero().squeeze(1)
    _, lengths = torch.unique_consecutive(number[places], return_counts=True)
    cumulative = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    return places, cumulative, int(lengths.max())
