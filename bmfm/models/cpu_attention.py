"""Attention in bfloat16 on CPUs, where the backward pass of PyTorch's fused kernel is slow: here it is made of products of matrices.

The forward pass is that kernel's. The backward pass computes the weights again, some heads at a time, so that they stay in the processor's
cache; where not even those of one head do, from 1,024 tokens on, all of it is PyTorch's. Scores are rounded to bfloat16 before the softmax, so
that gradients are off by 0.5 to 1.3%, by the fused kernel 0.2 to 0.4%. `benchmarks/attention_speed.py` times both.
"""

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_utils import AttentionInterface

NAME = "bmfm_cpu"
"""Of this implementation among those of transformers."""
MOST_SCORES = 1 << 20
"""Weights that are computed at once."""


def is_for(device_type: str, dtype: torch.dtype) -> bool:
    """Whether a call that computes so, with gradients and without a compiler, is faster by this one."""
    return device_type == "cpu" and dtype == torch.bfloat16 and torch.is_grad_enabled() and not torch.compiler.is_compiling()


class Attention(torch.autograd.Function):
    """softmax(scale q k^T + mask) v of [B, h, L, d] each; the mask is additive, [B or 1, 1, L or 1, L], or None."""

    @staticmethod
    def forward(context, q, k, v, mask, scale):
        context.save_for_backward(q, k, v, mask)
        context.scale = scale
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)

    @staticmethod
    def backward(context, gradient):
        q, k, v, mask = context.saved_tensors
        q, k, v, gradient = (x.contiguous() for x in (q, k, v, gradient))
        dq, dk, dv = (torch.empty_like(x) for x in (q, k, v))
        n = max(1, MOST_SCORES // (q.shape[2] * k.shape[2]))
        for example in range(len(q)):
            added = q.new_zeros(1, 1, 1) if mask is None else mask[example if len(mask) > 1 else 0]
            for first in range(0, q.shape[1], n):
                at = (example, slice(first, first + n))
                weights = torch.baddbmm(added, q[at], k[at].mT, alpha=context.scale).softmax(-1)
                torch.bmm(weights.mT, gradient[at], out=dv[at])
                of_scores = torch._softmax_backward_data(torch.bmm(gradient[at], v[at].mT), weights, -1, q.dtype)
                torch.bmm(of_scores, k[at], out=dq[at])
                torch.bmm(of_scores.mT, q[at], out=dk[at])
        return dq.mul_(context.scale), dk.mul_(context.scale), dv, None, None


def attention_forward(module, query, key, value, attention_mask, dropout=0.0, scaling=None, is_causal=None, **options):
    """As transformers calls its implementations; what `Attention` does not know goes to SDPA."""
    is_long = query.shape[2] * key.shape[2] >= MOST_SCORES
    if dropout or query.dtype != torch.bfloat16 or query.shape != key.shape or is_long:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, is_causal, **options)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    mixed: torch.Tensor = Attention.apply(query, key, value, attention_mask, scale)  # type: ignore[no-untyped-call]  # of torch
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)
