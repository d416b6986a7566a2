"""A recipe's training loop beside the bare model: forward, backward and optimiser on one batch.

Run: ``python benchmarks/training_speed.py [recipe ...]`` (default: dna_snp rna_mlm rna_wced).
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from hydra.utils import instantiate

from bmfm.cli import compose
from bmfm.objectives.multitask import weighted_mean
from bmfm.training.report import read_curve
from bmfm.training.run import assemble, train

STEPS = 60


def bare(recipe: str) -> float:
    """Tokens a second without data or Lightning."""
    config = compose("train", [f"+recipe={recipe}"])
    data, objectives, model = assemble(config)
    optimizer = instantiate(config.optimizer, model)
    batch = data.prepare_batch(next(iter(data.training_batches())))
    for step in range(STEPS // 2):
        if step == 5:
            start_time = time.perf_counter()
        weighted_mean(objectives.losses(model, batch, model.encode(batch))).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return batch["counts"]["tokens"] * (STEPS // 2 - 5) / (time.perf_counter() - start_time)


def loop(recipe: str) -> dict[str, float]:
    """Means of what the throughput callback logs, without the first ten steps."""
    with tempfile.TemporaryDirectory() as folder:
        limits = [
            f"trainer.max_steps={STEPS}",
            f"trainer.val_check_interval={STEPS}",
            "trainer.limit_val_batches=1",
            "callbacks.progress=null",
        ]
        train(compose("train", [f"+recipe={recipe}", f"run_dir={folder}", "trainer.enable_progress_bar=false", *limits]))
        curves = read_curve(Path(folder) / "csv")
    rows = {name.removeprefix("train/"): [v for _, v in points[1:]] for name, points in curves.items()}
    return {name: sum(rows[name]) / len(rows[name]) for name in ("tokens_per_second", "data_share")}


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("recipes", nargs="*", default=["dna_snp", "rna_mlm", "rna_wced"])
for recipe in parser.parse_args().recipes:
    bare_rate, means = bare(recipe), loop(recipe)
    print(
        f"{recipe}: training loop {means['tokens_per_second']:,.0f} tokens/s; bare model {bare_rate:,.0f}; ratio "
        f"{means['tokens_per_second'] / bare_rate:.2f}; share of a step spent on data {means['data_share']:.1%} (limit 5%)"
    )
