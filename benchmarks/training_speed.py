"""Training steps taken apart: data alone, the model alone on one batch, and whole steps of the training loop, with FLOPs and memory.

``python benchmarks/training_speed.py [SIZE ...] [SETTING=VALUE ...] [--precision 32-true bf16-mixed] [--json OUT] [--compare SAVED] [--cpu-time]``

The three are measured in turns, several times, and the best median of each counts, because machines are noisy; where others use the cores,
``--cpu-time`` with ``OMP_NUM_THREADS=1`` counts the seconds that this process computes. The utilisation is the share of the rate that a
multiplication of large matrices in the same precision reaches on the same device in the same run.
"""

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from torch.utils.flop_counter import FlopCounterMode

from bmfm.cli import compose
from bmfm.objectives.multitask import weighted_mean
from bmfm.training.memory import freed_memory_kept
from bmfm.training.run import Run, assemble

SMALL = ["model.hidden_size=128", "model.intermediate_size=512", "model.num_attention_heads=2", "data.max_tokens=512"]
CELLS = [*SMALL, "model.num_hidden_layers=2", "data.batch_size=16"]
WINDOWS = ["data.windows.min_length=2500", "data.windows.max_length=2500"]
SIZES = {
    "rna_mlm": ["+recipe=rna_mlm", *CELLS],
    "rna_wced": ["+recipe=rna_wced", *CELLS],
    "dna_mlm": ["+recipe=dna_snp", *SMALL, *WINDOWS, "model.num_hidden_layers=4", "data.batch_size=8"],
    "rna_counts": ["+recipe=rna_counts"],
    "dna_mini": ["+recipe=dna_mini"],
}
"""{name: recipe and settings}; the first three are those that the published code was measured at. Other names are recipes."""

ROUNDS, N_BATCHES, N_STEPS = 3, 6, 30


class Clock(pl.Callback):
    """When the training loop ended each of its steps."""

    def __init__(self, now: Callable[[], float]):
        self.now, self.ended = now, []

    def on_train_batch_end(self, *_: object) -> None:
        self.ended.append(self.now())


class Parts:
    """Data, model and optimiser of one size in one precision."""

    def __init__(self, size: str, precision: str, now: Callable[[], float] = time.perf_counter, settings: tuple[str, ...] = ()):
        self.now = now
        self.overrides = [*SIZES.get(size, [f"+recipe={size}"]), f"trainer.precision={precision}", *settings]
        self.config = compose("train", self.overrides)
        self.precision = precision
        self.data, self.objectives, self.model = assemble(self.config)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model.to(self.device)
        self.optimizer = instantiate(self.config.optimizer, self.model)
        self.batches = iter(self.data.training_batches())
        self.batch = self.data.prepare_batch(next(self.batches))
        if self.device == "cuda":
            self.batch = self.data.transfer_batch_to_device(self.batch, torch.device("cuda"), 0)

    def data_alone(self) -> float:
        """Seconds a batch."""
        start = self.now()
        for _ in range(N_BATCHES):
            self.data.prepare_batch(next(self.batches))
        return (self.now() - start) / N_BATCHES

    def backward(self) -> None:
        half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.precision)
        with torch.autocast(self.device, half) if half else nullcontext():
            loss = weighted_mean(self.objectives.losses(self.model, self.batch, self.model.encode(self.batch)))
        loss.backward()

    def model_alone(self) -> float:
        """Seconds a step on one batch, whose data are ready."""
        ended = []
        for _ in range(N_BATCHES + 1):
            self.backward()
            # rows of a lazy table are few, and sparse gradients have no norm in torch
            dense = [p for p in self.model.parameters() if p.grad is not None and not p.grad.is_sparse]
            torch.nn.utils.clip_grad_norm_(dense, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.wait()
            ended.append(self.now())
        return median(b - a for a, b in pairwise(ended))

    def whole_step(self) -> float:
        """Seconds a step of the training loop, without its first ten."""
        limits = [f"trainer.max_steps={N_STEPS}", f"trainer.val_check_interval={N_STEPS}", "trainer.limit_val_batches=1"]
        quiet = ["callbacks.progress=null", "trainer.enable_progress_bar=false", "logistic_regression=false"]
        clock = Clock(self.now)
        with tempfile.TemporaryDirectory() as folder:
            run = Run.of(compose("train", [*self.overrides, *limits, *quiet, f"run_dir={folder}"]))
            run.trainer.callbacks.insert(0, clock)
            run.fit()
        return median(b - a for a, b in pairwise(clock.ended[9:]))

    def flops(self) -> int:
        """Of a forward and a backward pass, as torch counts them."""
        with FlopCounterMode(display=False) as counter:
            self.backward()
        self.optimizer.zero_grad()
        return counter.get_total_flops()

    def matrix_rate(self, n: int = 2048) -> float:
        """FLOPs a second of a product of two n x n matrices."""
        a = torch.randn(n, n, device=self.device, dtype={"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(self.precision))
        best = float("inf")
        for _ in range(4):
            self.wait()
            start = self.now()
            a @ a
            self.wait()
            best = min(best, self.now() - start)
        return 2 * n**3 / best

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def memory(self) -> float:
        """Peak in GiB: of the GPU, or of this process up to now."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated() / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def measure(size: str, precision: str, now: Callable[[], float], settings: tuple[str, ...]) -> dict:
    """The figures of one size."""
    parts = Parts(size, precision, now, settings)
    kinds = {"data": parts.data_alone, "model": parts.model_alone, "step": parts.whole_step}
    seconds = dict.fromkeys(kinds, float("inf"))
    with freed_memory_kept() if parts.device == "cpu" else nullcontext():
        for _ in range(ROUNDS):
            for name, kind in kinds.items():
                seconds[name] = min(seconds[name], kind())
    counts, flops = parts.batch["counts"], parts.flops()
    n = counts.get("cells", counts.get("examples", len(parts.batch["cls_index"])))
    peak = parts.matrix_rate()
    return {
        "examples_per_batch": n,
        "tokens_per_batch": counts["tokens"],
        "parameters": sum(p.numel() for p in parts.model.parameters()),
        **{f"{name}_examples_per_second": n / s for name, s in seconds.items()},
        **{f"{name}_tokens_per_second": counts["tokens"] / s for name, s in seconds.items()},
        "step_over_model": seconds["model"] / seconds["step"],
        "gflops_per_batch": flops / 1e9,
        "utilisation": flops / seconds["step"] / peak,
        "matrix_gflops_per_second": peak / 1e9,
        "peak_gib": parts.memory(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", nargs="*", help=f"{', '.join(SIZES)}, or a recipe; and settings, as optimizer=adamw")
    parser.add_argument("--cpu-time", action="store_true", help="count seconds that this process computes")
    parser.add_argument("--precision", nargs="+", default=["32-true"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--compare", type=Path, help="what --json wrote before")
    options = parser.parse_args()
    saved = json.loads(options.compare.read_text()) if options.compare else {}
    found, now = {}, time.process_time if options.cpu_time else time.perf_counter
    settings = tuple(o for o in options.sizes if "=" in o)
    for size in [o for o in options.sizes if "=" not in o] or ["rna_mlm", "dna_mlm"]:
        for precision in options.precision:
            key = f"{size}, {precision}"
            f = found[key] = measure(size, precision, now, settings)
            print(
                f"{key} ({f['parameters'] / 1e6:.2f} M parameters): a step {f['step_examples_per_second']:,.1f} examples/s, "
                f"{f['step_tokens_per_second']:,.0f} tokens/s; data alone {f['data_examples_per_second']:,.0f}, model alone "
                f"{f['model_examples_per_second']:,.1f} examples/s; step over model {f['step_over_model']:.2f}; {f['gflops_per_batch']:.1f} GFLOP a batch, "
                f"{f['utilisation']:.0%} of a matrix product's {f['matrix_gflops_per_second']:,.0f} GFLOP/s; at most {f['peak_gib']:.2f} GiB"
            )
            if key in saved:
                ratio = f["step_examples_per_second"] / saved[key]["step_examples_per_second"]
                print(f"  {ratio:.2f} times the saved {saved[key]['step_examples_per_second']:,.1f} examples/s")
        full = [found[f"{size}, {p}"]["step_examples_per_second"] for p in options.precision]
        if len(full) > 1:
            print(f"  {options.precision[-1]} is {full[-1] / full[0]:.2f} times as fast as {options.precision[0]}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
