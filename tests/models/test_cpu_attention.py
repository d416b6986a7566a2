"""Attention in bfloat16 on CPUs: its gradients against those of the formula in float64."""

import math

import pytest
import torch

from bmfm.models import cpu_attention


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
