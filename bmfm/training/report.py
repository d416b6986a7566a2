"""What a run leaves behind: a model folder that transformers loads, a model card, a loss curve, a summary."""

import csv
import json
from pathlib import Path

from bmfm import __version__


def read_curve(log_folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) rows of every logged metric. Where a run was resumed, later files replace the steps they repeat."""
    curves: dict[str, dict[int, float]] = {}
    files = sorted(log_folder.glob("version_*/metrics.csv"), key=lambda p: int(p.parent.name.split("_")[1]))
    for file in files:
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                for name, value in row.items():
                    if name not in ("step", "epoch") and value not in ("", None):
                        curves.setdefault(name, {})[int(row["step"])] = float(value)
    return {name: sorted(points.items()) for name, points in curves.items()}


def plot_loss(curves: dict[str, list[tuple[int, float]]], target: Path, title: str) -> None:
    """Draw training and validation loss with the unigram baseline."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, style in (
        ("train/loss", {"color": "0.75", "label": "training"}),
        ("val/loss", {"color": "C0", "marker": "o", "ms": 4, "label": "validation"}),
        ("val/unigram_loss", {"color": "C3", "ls": "--", "label": "validation, unigram baseline"}),
    ):
        if points := curves.get(name):
            axes.plot(*zip(*points, strict=True), **style)
    axes.set(xlabel="optimiser step", ylabel="cross-entropy of hidden tokens (nats)", title=title)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=120)


def save_model(model, tokenizer, folder: Path, config: dict, metrics: dict[str, float], facts: dict[str, str]) -> None:
    """Write a folder that `AutoModelForMaskedLM` and `AutoTokenizer` load without this package (safetensors, JSON)."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.model_max_length = config["data"]["max_tokens"]
    tokenizer.save_pretrained(folder)
    (folder / "recipe.json").write_text(json.dumps(config, indent=1, default=str))
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in metrics.items())
    said = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    (folder / "README.md").write_text(
        f"""---
library_name: transformers
pipeline_tag: fill-mask
tags: [biology, genomics, dna, bmfm]
---
# {config["name"]}

A masked language model of genomic DNA, trained with bmfm {__version__}; `recipe.json` holds every setting.

```python
from transformers import AutoModelForMaskedLM, AutoTokenizer

model = AutoModelForMaskedLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
```

## Data

- sequence: `{Path(config["data"]["fasta"]).name}`
- variants: `{Path(config["data"]["variants"]).name if config["data"]["variants"] else "none"}`
{said}

Weights carry no licence of their own: they follow the terms of the data above.

## Held-out metrics

Natural-log cross-entropy of hidden tokens in blocks or contigs that training never saw. `_variant` counts only tokens
with a base that was written from a variant, `_reference` all others; `unigram` is the loss of guessing by frequency.

| metric | value |
|---|---|
{rows}
"""
    )
