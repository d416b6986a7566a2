"""A layer of `model=conv` beside the same layer with its convolution by `nn.Conv1d`: milliseconds of a training step, in turns.

python benchmarks/conv_speed.py [--hidden 128] [--kernel 9] [--repeats 10]
"""

import argparse
import time
from typing import Any

import torch

from bmfm.models.backbones.conv import ConvBlock, Neighbours

BATCH, LENGTH = 32, 512


class Plain(ConvBlock):
    """The same layer, with channels apart in memory."""

    def _convolve(self, states_BLH: torch.Tensor) -> torch.Tensor:
        return self.conv(states_BLH.transpose(1, 2)).transpose(1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--kernel", type=int, default=9)
    parser.add_argument("--repeats", type=int, default=10)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    layers = {kind: kind(arguments.hidden, arguments.kernel, 4, 0.0, 1e-12) for kind in (ConvBlock, Plain)}
    layers[Plain].load_state_dict(layers[ConvBlock].state_dict())
    batch: Any = {"sequence_ids": torch.ones(BATCH, LENGTH, dtype=torch.long), "packed": False}
    states, neighbours = torch.randn(BATCH, LENGTH, arguments.hidden, requires_grad=True), Neighbours(batch)
    with torch.no_grad():
        difference = (layers[ConvBlock](states, neighbours) - layers[Plain](states, neighbours)).abs().max()
    print(f"{BATCH} x {LENGTH} tokens, {arguments.hidden} channels, {torch.get_num_threads()} threads; outputs differ by {difference:.1e}")
    for dtype in (torch.float32, torch.bfloat16):
        seconds: dict[type, list[float]] = {kind: [] for kind in layers}
        for _ in range(arguments.repeats + 2):
            for kind, layer in layers.items():
                start = time.perf_counter()
                with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                    layer(states, neighbours).float().sum().backward()
                seconds[kind].append(time.perf_counter() - start)
        ours, plain = (sorted(seconds[kind][2:])[arguments.repeats // 2] * 1e3 for kind in (ConvBlock, Plain))
        print(f"{dtype!s:16s} channels side by side {ours:7.1f} ms   nn.Conv1d {plain:7.1f} ms   ratio {plain / ours:.2f}")


if __name__ == "__main__":
    main()
