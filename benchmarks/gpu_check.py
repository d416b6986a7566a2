"""What the tests cannot say without a GPU: ``python benchmarks/gpu_check.py``, status 1 where a check fails.

On a machine without one the same checks run on the CPU with small models, so that the script itself is known to work; figures
of speed then say nothing of a GPU, and no utilisation is computed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from bmfm.cli import compose, instantiate
from bmfm.genome.alphabet import encode
from bmfm.genome.representation import Encoded
from bmfm.models.flash_attention import kernel_for
from bmfm.tokenizers.collate import to_tensors
from bmfm.training.devices import rng_state, set_rng_state

ROOT = Path(__file__).resolve().parent.parent
ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
PUBLISHED = {"DNA, ModernBERT 113M": ("modernbert_113m", "ref2vec"), "RNA, BERT 110M": ("bert_110m", "cells")}
CUT = [] if ON_GPU else ["model.num_hidden_layers=3", "model.hidden_size=96", "model.intermediate_size=128"]
PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "A10": 125e12, "V100": 125e12}
"""Dense bf16 operations a second, by the name of the device, as its maker states them."""


def published(name: str, *overrides: str):
    """A new model of a published size and its tokenizer."""
    model_name, tokenizer_name = PUBLISHED[name]
    values = ["values=mlp_special"] if tokenizer_name == "cells" else []
    config = compose("train", [f"model={model_name}", f"tokenizer={tokenizer_name}", *values, *CUT, *overrides])
    torch.manual_seed(0)
    tokenizer = instantiate(config.tokenizer, _convert_="all")
    head = {"size": len(tokenizer), "transform": True, "tied": "input_ids"}
    model = instantiate(config.model, fields=tokenizer.fields, heads={"lm": head}, genes={}, _convert_="all")
    return model.to(DEVICE), tokenizer


def batch_of(tokenizer, n: int, length: int) -> dict:
    """Random examples of about `length` tokens, one a row."""
    rng = np.random.default_rng(0)
    keys = np.arange(n, dtype=np.uint64)
    raw: object
    if tokenizer.omics == "dna":
        raw = Encoded(encode("".join(rng.choice(list("ACGT"), 8 * n * length))), np.arange(n + 1) * 8 * length)
    else:
        from bmfm.cells.counts import CellBatch, Counts

        first, after = tokenizer.plain_ids
        ids = np.concatenate([np.sort(rng.permutation(np.arange(first, after, dtype=np.int32))[:length]) for _ in range(n)])
        counts = Counts(ids, rng.integers(1, 9, len(ids)).astype(np.float32), np.arange(n + 1) * length)
        raw = CellBatch(counts, np.zeros(n, np.int64), [np.arange(first, after, dtype=np.int32)])
    batch = to_tensors(tokenizer.collate(tokenizer.encode(raw, keys, length)))
    return {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def loss_of(model, batch: dict, share: float = 1.0) -> torch.Tensor:
    """Of the tokens of a batch, or of so many of them, which the head then sees."""
    torch.manual_seed(0)
    shown = (batch["sequence_ids"] > 0) & (torch.rand(batch["sequence_ids"].shape, device=DEVICE) < share)
    return torch.nn.functional.cross_entropy(model.head("lm", model.encode(batch)[shown]).float(), batch["input_ids"][shown])


def synchronise() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def conformance() -> str:
    """The suite of backbones with models and batches on the device."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "tests/conformance/test_backbones.py"]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"BMFM_TEST_DEVICE": DEVICE.type}, capture_output=True, text=True, check=False
    )
    summary = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-300:]
    assert done.returncode == 0, "\n".join(done.stdout.splitlines()[-20:])
    return summary


@torch.no_grad()
def kernels(name: str) -> str:
    """Every attention kernel in bf16 against SDPA in float32: the relative error of all hidden states."""
    model, tokenizer = published(name)
    batch = batch_of(tokenizer, 2, 512 if ON_GPU else 64)
    model.eval().use_attention("sdpa")
    shown = batch["sequence_ids"] > 0
    expected = model.encode(batch)[shown]
    figures = []
    for kernel in model.backbone.capabilities.attention:
        if kernel.startswith("flash") and not (ON_GPU and kernel_for(dropout=0.0)):
            figures.append(f"{kernel} not here")
            continue
        model.use_attention(kernel)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            states = model.encode(batch)[shown].float()
        error = float((states - expected).norm() / expected.norm())
        assert error < 0.03, f"{kernel}: relative error {error:.4f}"
        figures.append(f"{kernel} {error:.1e}")
    return ", ".join(figures)


def compiled(name: str) -> str:
    """The encoder with compiled layers against the plain one, with gradients."""
    model, tokenizer = published(name)
    batch = batch_of(tokenizer, 2, 256 if ON_GPU else 48)
    model.eval().use_attention("sdpa")
    plain = model.encode(batch)
    model.backbone.compile_layers()
    fast = model.encode(batch)
    shown = batch["sequence_ids"] > 0
    error = float(((fast - plain)[shown].norm() / plain[shown].norm()).detach())
    assert error < 1e-3, f"relative error {error:.2e}"
    fast[shown].square().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    return f"relative error {error:.1e}"


def sharded(name: str) -> str:
    """Parameters cut over the devices by FSDP2: three steps at once, and two, a checkpoint, a new model and the third."""
    from torch.distributed import checkpoint
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    def begin(seed: int):
        model, tokenizer = published(name, "model.num_hidden_layers=2")
        model.use_attention("sdpa")
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
        for layer in model.backbone.layers:
            fully_shard(layer)
        fully_shard(model)
        register_fsdp_forward_method(model, "encode")
        return model, torch.optim.AdamW(model.parameters(), lr=1e-3), batch_of(tokenizer, 2, 64)

    def step(model, optimizer, batch) -> float:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("nccl" if ON_GPU else "gloo", init_method=f"file://{folder}/meet", rank=0, world_size=1)
        try:
            model, optimizer, batch = begin(1)
            model.eval()  # without dropout
            losses = [step(model, optimizer, batch) for _ in range(2)]
            weights, state = get_state_dict(model, optimizer)
            checkpoint.save({"model": weights, "optimizer": state}, checkpoint_id=f"{folder}/saved")
            losses.append(step(model, optimizer, batch))
            other, its_optimizer, _ = begin(2)
            other.eval()
            weights, state = get_state_dict(other, its_optimizer)
            restored = {"model": weights, "optimizer": state}
            checkpoint.load(restored, checkpoint_id=f"{folder}/saved")
            set_state_dict(other, its_optimizer, model_state_dict=restored["model"], optim_state_dict=restored["optimizer"])
            resumed = step(other, its_optimizer, batch)
        finally:
            dist.destroy_process_group()
    assert losses[0] > losses[1] > losses[2] and abs(resumed - losses[2]) < 1e-6 * losses[2], (losses, resumed)
    return f"losses {', '.join(f'{loss:.4f}' for loss in losses)}; resumed {resumed:.4f}"


def generators() -> str:
    """Dropout after a restart is that of the run that went on, on the device."""
    state = rng_state()
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder) / "state.pt")
        first = torch.nn.functional.dropout(torch.ones(1000, device=DEVICE))
        set_rng_state(torch.load(Path(folder) / "state.pt", weights_only=True))
    again = torch.nn.functional.dropout(torch.ones(1000, device=DEVICE))
    assert torch.equal(first, again)
    return "dropout is the same"


def speed(name: str) -> str:
    """Tokens a second of training steps in bf16, with plain and with compiled layers, and the share of what the device could compute at most."""
    n, length, n_steps = (32, 1024, 10) if ON_GPU else (2, 64, 2)
    peak = next((p for device, p in PEAK.items() if ON_GPU and device in torch.cuda.get_device_name()), None)
    figures = []
    for kernel, is_compiled in product(("sdpa", "auto"), (False, True)):
        model, tokenizer = published(name)
        batch = batch_of(tokenizer, n, length)
        model.train().use_attention(kernel)
        if is_compiled:
            model.backbone.compile_layers()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        begun = time.perf_counter()
        for step in range(4 + n_steps):
            if step == 4:
                synchronise()
                start = time.perf_counter()
            with torch.autocast(DEVICE.type, torch.bfloat16):
                loss = loss_of(model, batch, share=0.15)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        synchronise()
        rate = n_steps * n * length / (time.perf_counter() - start)
        matrices = sum(p.numel() for p in model.backbone.parameters() if p.ndim == 2)
        share = f" ({6 * matrices * rate / peak:.1%} of {peak / 1e12:,.0f} Tflop/s by the matrices of its layers)" if peak else ""
        figures.append(
            f"{kernel}{', compiled layers' if is_compiled else ''} {rate:,.0f} tokens a second{share}, after {start - begun:.0f} s"
        )
    return "; ".join(figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--skip-conformance", action="store_true", help="leave the test suite out, which takes minutes")
    options = parser.parse_args()
    each: tuple[Callable[[str], str], ...] = (kernels, compiled, sharded, speed)
    checks: list[tuple[str, Callable[[], str]]] = [(f"{check.__name__}: {name}", lambda c=check, n=name: c(n)) for check in each for name in PUBLISHED]  # type: ignore[misc]  # fmt: skip
    checks += [("generators", generators)] + ([] if options.skip_conformance else [("conformance", conformance)])
    where = torch.cuda.get_device_name() if ON_GPU else "no GPU is here: small models on the CPU, as stand-ins"
    table, failed = Table("check", "result", title=where, title_justify="left"), 0
    for name, check in checks:
        try:
            result = check()
        except Exception as error:
            result, failed = f"[red]failed[/red]: {type(error).__name__}: {str(error)[:400]}", failed + 1
        table.add_row(name, result)
    Console().print(table)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
