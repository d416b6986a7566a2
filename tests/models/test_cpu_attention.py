"""Attention in bfloat16 on CPUs: its gradients against those of the formula in float64."""

import math

import pytest
import torch

from bmfm.models import cpu_attention
from bmfm.models.model import build


def formula(q, k, v, mask, scale):
    scores = q @ k.transpose(-1, -2) * scale
    return (scores if mask is None else scores + mask).softmax(-1) @ v


@pytest.mark.parametrize("mask_shape", [None, (3, 1, 1, 50), (1, 1, 50, 50), (3, 1, 50, 50)])
def test_gradients_are_those_of_the_formula(monkeypatch, mask_shape):
    monkeypatch.setattr(cpu_attention, "MOST_SCORES", 2 * 50 * 50)  # three heads are two and one
    draw = torch.Generator().manual_seed(0)
    exact = [torch.randn(3, 50, 3, 8, generator=draw).bfloat16().double().transpose(1, 2).requires_grad_() for _ in range(3)]
    half = [x.detach().bfloat16().requires_grad_() for x in exact]
    mask = None
    if mask_shape:
        keep = torch.rand(mask_shape, generator=draw) < 0.7
        keep[..., 0] = True
        mask = torch.zeros(mask_shape).masked_fill(~keep, -math.inf)
    weight = torch.randn(3, 50, 3, 8, generator=draw)
    expected = formula(*exact, None if mask is None else mask.double(), 0.3)
    expected.backward(weight.double().transpose(1, 2))
    module = torch.nn.Identity()
    mixed, _ = cpu_attention.attention_forward(module, *half, None if mask is None else mask.bfloat16(), 0.0, 0.3)
    mixed.backward(weight.bfloat16())
    pairs = [(mixed.transpose(1, 2), expected), *((a.grad, b.grad) for a, b in zip(half, exact, strict=True))]
    assert all((a.double() - b).norm() < 0.01 * b.norm() for a, b in pairs)


def test_padding_far_from_any_token_has_a_gradient_that_is_a_number():
    """Beyond the sliding window of the last token, padding sees nothing but padding."""
    torch.manual_seed(0)
    model = build(
        {"input_ids": {"size": 40}}, {}, "bmfm.models.backbones.modernbert.ModernBert", max_position_embeddings=256, hidden_size=32,
        intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, local_attention=8, global_attn_every_n_layers=2,
    )  # fmt: skip
    sequence_ids = torch.ones(2, 64, dtype=torch.long)
    sequence_ids[1, 4:] = 0
    batch = {"input_ids": torch.randint(5, 40, (2, 64)), "sequence_ids": sequence_ids, "position_ids": torch.arange(64).expand(2, 64)}
    gradients = {}
    for half in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            states = model.encode(batch | {"packed": False})
        states[sequence_ids > 0].float().pow(3).sum().backward()
        gradients[half] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert (gradients[True] - gradients[False]).norm() < 0.05 * gradients[False].norm()
