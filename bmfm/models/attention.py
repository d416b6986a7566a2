"""Which tokens may see each other, in the form that each attention implementation takes. One function for all of them.

``sdpa`` and ``eager`` take a boolean mask for each kind of layer, ``flex_attention`` a compiled block mask,
``flash_attention_2`` the cumulative lengths of the documents. Documents of a packed row never see each other, and
results are those of the padded batch (transformers' ModernBERT leaks between packed documents when it is given
position ids alone).
"""

import torch
from transformers import PreTrainedConfig
from transformers.masking_utils import create_bidirectional_mask, create_bidirectional_sliding_window_mask

from bmfm.models import cpu_attention, flash_attention
from bmfm.tokenizers.batch import Batch

IMPLEMENTATIONS = ("sdpa", "flex_attention", "flash_attention_2", "eager")
_NEEDS = "needs torch 2.11 or newer with its kernels for NVIDIA GPUs (not on Windows) and no dropout of attention weights (attention_dropout=0), or the package flash-attn"


def check_name(implementation: str) -> str:
    """The name of an implementation, or ``auto``; a ValueError if it is neither, an ImportError if it is not installed."""
    if implementation != "auto" and implementation not in IMPLEMENTATIONS:
        raise ValueError(f"attention {implementation!r} is unknown; choose from auto, {', '.join(IMPLEMENTATIONS)}")
    if implementation == "flash_attention_2" and flash_attention.kernel_for(dropout=0.0) is None:
        raise ImportError(f"attention flash_attention_2 {_NEEDS} (and a GPU): pip install 'bmfm[gpu]'")
    return implementation


def choose(
    requested: str, dtype: torch.dtype, device_type: str, head_size: int, flash: bool = False, capability: tuple[int, int] = (0, 0)
) -> str:
    """The implementation for one call, by what that call computes in.

    ``auto`` is FlashAttention 2 where it can run, else SDPA: it knows bf16 and fp16 alone, GPUs of compute capability 8.0
    (Ampere) and newer, and heads of up to 256 in steps of 8.

    Parameters
    ----------
    requested
        ``auto`` or one of `IMPLEMENTATIONS`.
    dtype
        That queries and keys have: autocast's, or the parameters'.
    device_type
        ``cuda``, ``cpu``, ...
    head_size
        Of queries and keys.
    flash, capability
        Whether a kernel of FlashAttention 2 is there for this call (`flash_attention.kernel_for`); of the GPU.

    Raises
    ------
    ValueError
        If ``flash_attention_2`` or ``flex_attention`` is asked for by name and cannot run; says why.
    """
    if requested == "flex_attention" and device_type == "cuda" and head_size < 16:
        raise ValueError(f"attention flex_attention has no heads of size {head_size} on GPUs, only of 16 and more; choose auto or sdpa")
    if requested not in ("auto", "flash_attention_2"):
        return requested
    obstacle = (
        "a GPU is needed" if device_type != "cuda"
        else f"it computes in bf16 or fp16, not in {str(dtype).removeprefix('torch.')}" if dtype not in (torch.bfloat16, torch.float16)
        else f"it has no heads of size {head_size}, only multiples of 8 up to 256" if head_size % 8 or head_size > 256
        else f"GPUs of compute capability 8.0 or newer are needed, this one has {'.'.join(map(str, capability))}" if capability < (8, 0)
        else f"it {_NEEDS}" if not flash
        else None
    )  # fmt: skip
    if obstacle is None:
        return "flash_attention_2"
    if requested == "auto":
        return "sdpa"
    raise ValueError(f"attention flash_attention_2 cannot run here: {obstacle}; choose auto or sdpa, or precision bf16 on a GPU")


def dtype_of(embeds: torch.Tensor) -> torch.dtype:
    """What queries and keys of these embeddings are computed in: autocast's, or their own."""
    kind = embeds.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else embeds.dtype


def choose_for(requested: str, embeds: torch.Tensor, head_size: int, dropout: float = 0.0, is_compiled: bool = False) -> str:
    """The implementation, by its name in transformers, of a call whose first layer gets `embeds`.

    `dropout` is that of attention weights in it. Where the layers are compiled, loops of `cpu_attention` would be compiled anew for each shape.
    """
    on_gpu, dtype, flash = embeds.device.type == "cuda", dtype_of(embeds), flash_attention.kernel_for(dropout)
    capability = torch.cuda.get_device_capability(embeds.device) if on_gpu else (0, 0)
    chosen = choose(requested, dtype, embeds.device.type, head_size, flash is not None, capability)
    if chosen == "flash_attention_2" and flash is not None:
        return flash
    return cpu_attention.NAME if chosen == "sdpa" and not is_compiled and cpu_attention.is_for(embeds.device.type, dtype) else chosen


def attention_masks(config: PreTrainedConfig, embeds_BLH: torch.Tensor, batch: Batch, local: bool = False) -> dict:
    """The mask of each kind of layer, which keeps sequences apart and ignores padding (sequence 0).

    Tokens marked in ``batch["isolated_mask"]``, if that is there, are seen by themselves alone (scGPT, Nature Methods 2024).
    With `local`, there are layers that see only what is near.
    """
    sequence_ids_BL, isolated_BL = batch["sequence_ids"], batch.get("isolated_mask")
    common: dict = {"config": config, "inputs_embeds": embeds_BLH, "attention_mask": None}
    one_document_a_row = not batch.get("packed", True) and isolated_BL is None
    if one_document_a_row:
        common["attention_mask"] = sequence_ids_BL > 0  # one document a row: the cheap mask, or none where nothing is padded
    else:

        def visible(batch, head, query, key):
            same = (sequence_ids_BL[batch, query] == sequence_ids_BL[batch, key]) & (sequence_ids_BL[batch, query] > 0)
            if isolated_BL is not None:
                same = same & ~isolated_BL[batch, key]
            return same | (query == key)

        common["and_mask_function"] = visible
    additive = (
        embeds_BLH.device.type == "cpu"
        and config._attn_implementation in ("sdpa", cpu_attention.NAME)
        and not torch.compiler.is_compiling()
    )
    if additive and one_document_a_row:
        shown = sequence_ids_BL[:, None, None] > 0
        masks = {"full_attention": None if shown.all() else shown}
    else:
        masks = {"full_attention": create_bidirectional_mask(**common)}
    if local:
        masks["sliding_attention"] = create_bidirectional_sliding_window_mask(**common)
    return {kind: _as_added(mask, dtype_of(embeds_BLH)) for kind, mask in masks.items()} if additive else masks


def _as_added(mask: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """What is added to the scores: the CPU's kernel would make it of a boolean mask in every layer, forward and backward."""
    if mask is None:
        return None
    hidden = ~mask & mask.any(-1, keepdim=True)  # rows that see nothing are padding, and see everything: a softmax of nothing is NaN
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(hidden, -torch.inf)


def flattened(sequence_ids_BL: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Places of the real tokens in the flattened batch [T], cumulative lengths of documents [D + 1], the longest."""
    row = torch.arange(len(sequence_ids_BL), device=sequence_ids_BL.device)[:, None]
    number = (row * (sequence_ids_BL.max() + 1) + sequence_ids_BL).flatten()
    places = (sequence_ids_BL.flatten() > 0).nonzero().squeeze(1)
    _, lengths = torch.unique_consecutive(number[places], return_counts=True)
    cumulative = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    return places, cumulative, int(lengths.max())
