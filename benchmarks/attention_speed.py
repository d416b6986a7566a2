"""Attention in bfloat16 on a CPU, forward and backward: PyTorch's fused kernel beside `bmfm.models.cpu_attention`, milliseconds of CPU time.

``OMP_NUM_THREADS=1 python benchmarks/attention_speed.py [--repeats 10]``
"""

import argparse
import time

import torch

from bmfm.models.cpu_attention import Attention

SHAPES = ((16, 2, 512, 64), (8, 2, 512, 64), (4, 12, 512, 64))
"""Examples, heads, tokens, size of a head."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    torch.manual_seed(0)
    for n, heads, length, size in SHAPES:
        q, k, v = (torch.randn(n, length, heads, size).bfloat16().transpose(1, 2).requires_grad_() for _ in range(3))
        gradient = torch.randn(n, heads, length, size).bfloat16()
        keep = torch.rand(n, 1, 1, length) < 0.95
        added = torch.zeros(keep.shape, dtype=q.dtype).masked_fill(~keep, -torch.inf)
        boolean = keep.expand(n, 1, length, length).contiguous()
        sdpa = torch.nn.functional.scaled_dot_product_attention
        kinds = {
            "fused, boolean mask": lambda: sdpa(q, k, v, attn_mask=boolean),  # noqa: B023
            "fused, added mask": lambda: sdpa(q, k, v, attn_mask=added),  # noqa: B023
            "bmfm": lambda: Attention.apply(q, k, v, added, size**-0.5),  # noqa: B023
        }
        best = dict.fromkeys(kinds, float("inf"))
        for _ in range(repeats):
            for name, run in kinds.items():
                start = time.process_time()
                run().backward(gradient)
                best[name] = min(best[name], time.process_time() - start)
        print(f"{n} x {heads} heads x {length} x {size}: " + ", ".join(f"{name} {1000 * s:.1f} ms" for name, s in best.items()))


if __name__ == "__main__":
    main()
