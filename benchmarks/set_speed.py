"""Cells a second of one core's time of training steps, forward, backward and optimiser, and where the time goes.

Run: ``OMP_NUM_THREADS=1 python benchmarks/set_speed.py [--hidden 128] [--tokens 128,256,512] [--bf16] [--profile]``. Made-up cells of 800 genes
out of 19,321, which are predicted whole from [CLS]. What is measured is the time of the processor, which other programs disturb less.
"""

import argparse
import time
from functools import partial

import torch
from hydra.utils import instantiate

from bmfm.cli import compose
from bmfm.models.model import BmfmModel

GENES, SPECIAL, EXPRESSED, STEPS = 19_283, 38, 800, 6
VARIANTS = {
    "bert": ["model=bert", "values=mlp_special"],
    "set": ["model=set", "values=gene_scaled"],
    "set, states of [CLS] alone": ["model=set", "values=gene_scaled", "model.gene_states=false"],
    "set, states of [CLS] alone, summary": ["model=set", "values=gene_scaled", "model.gene_states=false", "+summary"],
}


def made_up(n_cells: int, n_tokens: int) -> dict:
    """A padded batch whose cells have so many tokens each, and the profile of all their genes."""
    generator = torch.Generator().manual_seed(0)
    genes = torch.stack([torch.randperm(GENES, generator=generator)[:EXPRESSED] for _ in range(n_cells)]) + SPECIAL
    values = torch.rand(genes.shape, generator=generator) * 4
    ends = [torch.full((n_cells, 1), i) for i in (3, 1)]
    batch: dict = {
        "input_ids": torch.cat([ends[0], genes[:, : n_tokens - 2], ends[1]], 1),
        "values": torch.cat([-ends[0] - 1.0, values[:, : n_tokens - 2], -ends[1] - 1.0], 1),
        "cls_index": torch.arange(n_cells) * n_tokens,
        "packed": False,
        "shown_profile": {"row": torch.arange(n_cells).repeat_interleave(EXPRESSED), "gene": genes.flatten(), "value": values.flatten()},
    }
    ones = torch.ones_like(batch["input_ids"])
    return batch | {"sequence_ids": ones, "position_ids": ones * 0, "example_ids": ones.cumsum(0) - 1}


def trained(overrides: list[str], hidden: int) -> tuple[BmfmModel, torch.optim.Optimizer]:
    """A new model that decodes whole cells, and its optimiser."""
    chosen = [o for o in overrides if o != "+summary"]
    config = compose("train", ["~representation", "data=rna", "tokenizer=cells", *chosen, f"model.hidden_size={hidden}"])
    size = GENES + SPECIAL
    fields = {"input_ids": {"size": size}, "values": {"n_special": SPECIAL}} | (
        {"summary": {"size": size}} if "+summary" in overrides else {}
    )
    model = instantiate(config.model, fields=fields, heads={"genes": {"size": size, "transform": True}}, genes={}, _convert_="all").train()
    return model, instantiate(config.optimizer, model)


def step(model: BmfmModel, optimizer: torch.optim.Optimizer, batch: dict) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
        states = model.encode(batch).flatten(0, 1)[batch["cls_index"]]
        loss = model.head("genes", states).float().logsumexp(-1).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def seconds(work: partial) -> float:
    """The least of a few repetitions, after one."""
    times = []
    for _ in range(STEPS):
        start_time = time.process_time()
        work()
        times.append(time.process_time() - start_time)
    return min(times[1:])


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--hidden", type=int, default=128)
parser.add_argument("--cells", type=int, default=256)
parser.add_argument("--tokens", default="128")
parser.add_argument("--bf16", action="store_true")
parser.add_argument("--only", default="", help="part of the name of a variant")
parser.add_argument("--profile", action="store_true")
options = parser.parse_args()
for n_tokens in map(int, options.tokens.split(",")):
    batch = made_up(options.cells, n_tokens)
    for name, overrides in VARIANTS.items():
        if options.only not in name:
            continue
        work = partial(step, *trained(overrides, options.hidden), batch)
        print(f"{n_tokens} tokens, {options.hidden} wide, {name}: {options.cells / seconds(work):,.0f} cells/s", flush=True)
        if options.profile:
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                work()
            print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=22, max_name_column_width=50))
