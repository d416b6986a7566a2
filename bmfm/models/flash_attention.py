"""FlashAttention 2 over many sequences in one row, each of which sees itself alone: torch's own kernel, which needs no other package.

torch has it with local attention from 2.11 on, without dropout of attention weights, and where it was built with it: not on Windows; on AMD's GPUs it
was not tried. Otherwise the package flash-attn is used, if it is installed.
"""

from importlib.util import find_spec
from inspect import signature

import torch
from transformers.modeling_utils import AttentionInterface

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # before torch 2.10
    varlen_attn = None  # type: ignore[assignment]

NAME = "bmfm_varlen"  # transformers wants a package for whatever has "flash" in its name
"""Of torch's kernel among the implementations of transformers."""
NAMES = (NAME, "flash_attention_2")
TORCH_HAS_IT = (
    varlen_attn is not None
    and "window_size" in signature(varlen_attn).parameters
    and torch.backends.cuda.is_flash_attention_available()
    and torch.version.hip is None
)
PACKAGE_IS_INSTALLED = find_spec("flash_attn") is not None


def kernel_for(dropout: float) -> str | None:
    """Which of `NAMES` is there for a call with this dropout of attention weights; None if neither is."""
    if TORCH_HAS_IT and not dropout:
        return NAME
    return "flash_attention_2" if PACKAGE_IS_INSTALLED else None


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int = 0,
    **options: object,
) -> tuple[torch.Tensor, None]:
    """As transformers calls its implementations, with queries, keys and values [1, h, T, d] and the lengths of `attention.flattened`.

    Each token of a local layer sees `sliding_window` - 1 tokens on either side, as transformers counts.
    """
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if len(k[0]) < len(q[0]):  # heads that share their keys
        k, v = (x.repeat_interleave(len(q[0]) // len(k[0]), dim=1) for x in (k, v))
    side = -1 if sliding_window is None else sliding_window - 1
    q, k, ends, longest = q.to(v.dtype), k.to(v.dtype), cu_seq_lens_q, max_length_q
    states = varlen_attn(q, k, v, ends, ends, longest, longest, scale=scaling, window_size=(side, side))  # type: ignore[arg-type]
    assert isinstance(states, torch.Tensor)
    return states[None], None


AttentionInterface.register(NAME, attention_forward)
