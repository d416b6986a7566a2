"""What a run leaves behind: a model folder that transformers loads, a model card, a loss curve, a summary."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from bmfm import __version__
from bmfm.models.config import BmfmConfig
from bmfm.models.model import BmfmModel
from bmfm.objectives.multitask import Objectives
from bmfm.tokenizers.base import Tokenizer
from bmfm.tokenizers.dna import SequenceTokenizer
from bmfm.training import transparency


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


def metrics_at(curves: dict[str, list[tuple[int, float]]], step: int) -> dict[str, float]:
    """The validation metrics of a checkpoint that was written after so many steps; Lightning logs them at that step or the one before."""
    validation = {name: dict(points) for name, points in curves.items() if name.startswith("val/")}
    return {name: points[s] for name, points in validation.items() for s in (step - 1, step) if s in points}


def write_metrics(metrics: dict[str, float], folder: Path) -> None:
    """Write ``metrics.json``."""
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1))


def plot_loss(curves: dict[str, list[tuple[int, float]]], target: Path, title: str) -> None:
    """Draw training and validation loss with the baseline that knows nothing but frequencies or means."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for name, style in (
        ("train/loss", {"color": "0.75", "label": "training"}),
        ("val/loss", {"color": "C0", "marker": "o", "ms": 4, "label": "validation"}),
        ("val/baseline_loss", {"color": "C3", "ls": "--", "label": "validation, baseline"}),
    ):
        if points := curves.get(name):
            axes.plot(*zip(*points, strict=True), **style)
    parts = sorted({n.split("/", 1)[1] for n in curves if n.startswith("train/") and n.count("/") == 2})
    axes.set(xlabel="optimiser step", ylabel="loss" if len(parts) != 1 else parts[0].replace("/", ", ").replace("_", " "), title=title)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(target, dpi=120)


def write_tables(tables: dict[str, list[dict]], folder: Path) -> list[Path]:
    """Write each table as CSV; returns the files."""
    files = []
    for name, rows in tables.items():
        files.append(folder / f"{name}.csv")
        with files[-1].open("w", newline="") as out:
            writer = csv.DictWriter(out, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return files


SUBJECTS = {"dna": ("genomic DNA", "genomics, dna"), "rna": ("single-cell RNA", "transcriptomics, single-cell")}
"""{omics: what a model is of, and the tags of its card}."""

USE = {
    "dna": """import bmfm

model = bmfm.load(".")  # print(model) says what it is
model.embed(["ACGTTAGCAGCATCGGATTA", "GATTACA"])  # [2, H]; or the path of a FASTA{predict}""",
    "rna": """import anndata
import bmfm

model = bmfm.load(".")  # print(model) says what it is
adata = anndata.read_h5ad("cells.h5ad")  # raw counts
adata.obsm["X_bmfm"] = model.embed(adata){predict}""",
}
PREDICT = {"dna": '\nmodel.predict(["ACGTTAGCAGCATCGGATTA", "GATTACA"])', "rna": "\nmodel.predict(adata)"}
PLAIN = """
Or with transformers alone:

```python
from transformers import AutoModelForMaskedLM, AutoTokenizer

model = AutoModelForMaskedLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
```
"""
OURS = """{packages}
transformers has no class for this kind of model, and a folder brings no code: `pip install bmfm`, and
`import bmfm.models.model` before `transformers.AutoModel.from_pretrained(".")`, which then gives the network alone.
"""


def usage(omics: str, plain: bool, predicts: bool, packages: Sequence[str] = ()) -> str:
    """The lines of a model card that show how the model is used, of Python that runs in the folder.

    Parameters
    ----------
    packages
        Others that must be installed, see `packages_beside`.
    """
    lines = USE[omics].replace("{predict}", PREDICT[omics] if predicts else "")
    others = (
        f"\nClasses of this model are in {' and '.join(f'`{p}`' for p in packages)}, which Python must find, too.\n" if packages else ""
    )
    return f"```python\n{lines}\n```\n{PLAIN if plain else OURS.replace('{packages}', others)}"


def packages_beside(config: BmfmConfig) -> list[str]:
    """Packages other than this one that have classes of a model: its backbone, encoders of fields, kinds of labels."""
    named = [config.backbone["_target_"], *(f["_target_"] for f in config.fields.values() if "_target_" in f)]
    named += [head["kind"] for head in config.heads.values() if "kind" in head]
    return sorted({path.split(".")[0] for path in named} - {"bmfm"})


def save_model(
    model: BmfmModel,
    tokenizer: Tokenizer,
    folder: Path,
    config: dict,
    metrics: dict[str, float],
    facts: dict[str, str],
    sources: dict[str, str],
) -> None:
    """Write a folder with weights, tokenizer, recipe and model card (safetensors, JSON, text).

    A model of DNA tokens alone is written as a `ModernBertForMaskedLM`, which transformers loads without this package.
    """
    import transformers

    from bmfm.checkpoints.load import save_together
    from bmfm.checkpoints.transformers_format import is_hf_compatible

    transformers.utils.logging.disable_progress_bar()
    model.config.max_tokens = config["data"]["max_tokens"]
    model.config.positions = tokenizer.positions and model.backbone.capabilities.positions
    if is_hf_compatible(model) and isinstance(tokenizer, SequenceTokenizer):
        tokenizer.tokenizer.model_max_length = config["data"]["max_tokens"]
    save_together(model, tokenizer, folder)
    (folder / "recipe.json").write_text(json.dumps(config, indent=1, default=str))
    write_card(model, folder, config, metrics, facts, sources)


def write_card(
    model: BmfmModel,
    folder: Path,
    config: dict,
    metrics: dict[str, float],
    facts: dict[str, str],
    sources: dict[str, str],
    seconds: float | None = None,
) -> None:
    """Write the model card, ``README.md``; once more when figures have come that were not known when the model was saved, as the time that training took."""
    from bmfm.checkpoints.transformers_format import is_hf_compatible

    plain, omics = is_hf_compatible(model), "rna" if "values" in model.config.fields else "dna"
    what, tags = SUBJECTS[omics]
    predicts = any("pooling" in h for h in model.config.heads.values())
    objectives = ", ".join(config["objectives"])
    (folder / "README.md").write_text(
        f"""---
library_name: {"transformers" if plain else "bmfm"}
{"pipeline_tag: fill-mask" if plain else "pipeline_tag: feature-extraction"}
tags: [biology, {tags}, bmfm]
---
# {config["name"]}

A model of {what}, trained for {objectives} with bmfm {__version__}; `recipe.json` holds every setting.

{usage(omics, plain, predicts, packages_beside(model.config))}
## Data

{_lines(sources | facts)}

Weights carry no licence of their own: they follow the terms of the data above.

## Held-out metrics

Of examples (windows, cells) that training never saw; losses in nats or squared units. `_baseline` knows only how
frequent tokens and classes are, or the mean of each gene in training. In DNA, `_variant` counts only tokens with a base
that was written from a variant, `_reference` all others.

| metric | value |
|---|---|
{"".join(f"| {name} | {value:.4f} |{chr(10)}" for name, value in metrics.items())}
{transparency.table(omics, config, seconds)}"""
    )


def _lines(facts: dict[str, str]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def print_summary(
    title: str,
    facts: dict[str, str],
    counts: dict[str, int],
    objectives: Objectives,
    metrics: dict[str, float],
    folder: Path,
    files: list[Path],
) -> None:
    """Print the table that ends a run.

    Parameters
    ----------
    counts
        What training saw.
    files
        Tables of genes.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False)
    for what, value in facts.items():
        table.add_row(what, value)
    for what, n in counts.items():
        table.add_row(f"training {what.replace('_', ' ')}", f"{n:,}")
    table.add_section()
    for stage, part in (("val", "validation"), ("test", "test")):
        of_stage = {k.removeprefix(f"{stage}/"): v for k, v in metrics.items() if k.startswith(f"{stage}/")}
        if not of_stage:
            continue
        if "loss" in of_stage:
            table.add_row(f"{part} loss (baseline)", f"{of_stage['loss']:.4f} ({of_stage['baseline_loss']:.4f})")
        for what, text in objectives.rows(of_stage):
            table.add_row(f"{part}, {what}", text)
    table.add_section()
    table.add_row("model", str(folder / "model"))
    table.add_row("checkpoints", str(folder / "checkpoints"))
    table.add_row("loss curve", str(folder / "loss.png"))
    for file in files:
        table.add_row("genes, best predicted first", str(file))
    Console().print(table)
