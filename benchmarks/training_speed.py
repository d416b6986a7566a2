"""The demonstration recipe's training loop beside the bare model: forward, backward and optimiser on one batch."""

import sys
import tempfile
import time

import torch
from hydra.utils import instantiate

from bmfm.cli import compose
from bmfm.models.modernbert import encode
from bmfm.train import train
from bmfm.training.report import read_curve

RECIPE = next((a for a in sys.argv[1:] if not a.startswith("-")), "dna_snp")
STEPS = 60


def bare() -> float:
    """Tokens a second without data or Lightning."""
    config = compose("train", [f"+recipe={RECIPE}"])
    tokenizer = instantiate(config.tokenizer)
    objective = instantiate(config.objective, vocab_size=len(tokenizer))
    data = instantiate(config.data, _convert_="all")
    data.connect(tokenizer, objective)
    model = instantiate(config.model, vocab_size=len(tokenizer), _convert_="all")
    optimizer = instantiate(config.optimizer, model)
    batch = next(iter(data.train_dataloader()))
    for step in range(STEPS // 2):
        if step == 5:
            began = time.perf_counter()
        total, n = objective.losses(model, batch, encode(model, batch))["mlm"]
        (total / n).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return batch["counts"]["tokens"] * (STEPS // 2 - 5) / (time.perf_counter() - began)


with tempfile.TemporaryDirectory() as folder:
    limits = [f"trainer.max_steps={STEPS}", f"trainer.val_check_interval={STEPS}", "trainer.limit_val_batches=1", "callbacks.progress=null"]
    train(compose("train", [f"+recipe={RECIPE}", f"run_dir={folder}", "trainer.enable_progress_bar=false", *limits]))
    from pathlib import Path

    curves = read_curve(Path(folder) / "csv")
mean = lambda name: sum(v for _, v in curves[name][1:]) / len(curves[name][1:])  # noqa: E731
alone = bare()
print(
    f"training loop {mean('train/tokens_per_second'):,.0f} tokens/s; bare model {alone:,.0f}; ratio {mean('train/tokens_per_second') / alone:.2f}"
)
print(f"share of a step spent on data {mean('train/data_share'):.1%}; limit 5%")
