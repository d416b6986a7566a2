"""Settings of other kinds, unknown ones, NaN, huge and negative numbers: on the command line, and in a run that is assembled and takes a step."""

import json
import os
import tempfile
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from bmfm.cli import _check, check_settings, compose, override, readable
from tests.conftest import SMALL
from tests.fuzz.harness import Fault, Files, Refused, Target, oracle, quickly
from tests.fuzz.mutations import VALUES, damaged

RECIPES = ["dna_ref", "dna_finetune", "rna_wced", "rna_mlm"]


@cache
def _settings(process: int, recipe: str) -> dict:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(compose("train", [f"+recipe={recipe}", *_needs(os.getpid(), recipe)]), resolve=False)


@cache
def _needs(process: int, recipe: str) -> list[str]:
    """What makes a recipe small and quick, with data of its own."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-data-"))
    numbers = np.random.default_rng(0)
    small = [f"model.{key}={value}" for key, value in SMALL.items() if key != "attention"]
    if recipe.startswith("dna"):
        text = "".join(numbers.choice(list("ACGT"), 20_000))
        (folder / "g.fa").write_text(f">chr1\n{text}\n")
        if recipe == "dna_finetune":
            from tests.fuzz.test_checkpoints import _folder

            model = folder / "model"
            model.mkdir()
            for name, content in _folder(process, "dna").items():
                (folder / name).write_bytes(content)
            rows = [f"{text[i : i + 40]},{'ab'[i % 2]}" for i in range(60)]
            (folder / "t.csv").write_text("\n".join(["sequence,label", *rows]) + "\n")
            return [f"checkpoint={model}", f"data.path={folder / 't.csv'}", *_QUICK]
        sizes = ["data.split.block_size=2500", "data.split.validation=0.2", "data.windows.min_length=50", "data.windows.max_length=100"]
        return [f"data.fasta={folder / 'g.fa'}", *sizes, "tokenizer=single_base", *small, *_QUICK]
    import anndata
    import pandas as pd

    from tests.fuzz.test_cells import GENES

    made = anndata.AnnData(numbers.poisson(2.0, (40, len(GENES))).astype(np.float32), var=pd.DataFrame(index=GENES))
    made.write_h5ad(folder / "x.h5ad")
    return [
        f"data.path={folder / 'x.h5ad'}",
        "tokenizer.genes=from_data",
        "data.max_tokens=64",
        "data.statistics_cells=20",
        *small,
        *_QUICK,
    ]


_QUICK = [
    "data.batch_size=4", "data.num_workers=0", "trainer.max_steps=1", "trainer.val_check_interval=1", "trainer.enable_progress_bar=false",
    "callbacks.progress=null", "trainer.precision=32-true", "trainer.log_every_n_steps=1", "trainer.accelerator=cpu", "trainer.devices=1",
    "+trainer.limit_val_batches=1", "logger.csv=null",
]  # fmt: skip


def _leaves(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict) or not node:
        return [prefix]
    return [key for name, child in node.items() for key in _leaves(child, f"{prefix}.{name}" if prefix else str(name))]


_LEFT = ("run_dir", "name", "hydra", "data_root", "logger", "resume", "overwrite", "trainer.max_steps", "compile", "trainer.devices", "trainer.num_nodes", "trainer.accelerator", "trainer.strategy", "data.num_workers")  # fmt: skip
"""Settings that are not tried: where the run is, and what would take processes, devices or hours."""


def make_settings(random: Random) -> Files:
    recipe = random.choice(RECIPES)
    keys = [key for key in _leaves(_settings(os.getpid(), recipe)) if not key.startswith(_LEFT)]
    key, value = random.choice(keys), random.choice(VALUES)
    return {"case.json": json.dumps([recipe, key, value]).encode()}


def make_overrides(random: Random) -> Files:
    keys = _leaves(_settings(os.getpid(), random.choice(RECIPES)))
    lines = [f"+recipe={random.choice(RECIPES)}"]
    for _ in range(random.randrange(1, 3)):
        line = oracle(lambda: override(random.choice(keys), random.choice(VALUES[:-1]))) or "x"
        lines.append(damaged(line.encode("utf-8", "surrogatepass"), random, most=2).decode("utf-8", "replace").replace("\0", ""))
    return {"case.json": json.dumps(lines).encode()}


def check_overrides(folder: Path) -> bool:
    lines = [readable(line) for line in json.loads((folder / "case.json").read_bytes())]
    try:
        _check("train", lines, False)
    except (ValueError, FileNotFoundError) as error:
        if not str(error).strip() or type(error) not in (ValueError, FileNotFoundError):
            raise Fault(f"{type(error).__name__}: {error} of {lines}") from error
        raise Refused(str(error)) from None
    except Exception as error:
        raise Fault(f"{type(error).__name__}: {str(error)[:300]} of {lines}") from error
    return True


def check_run(folder: Path) -> bool:
    import logging

    from omegaconf import OmegaConf

    from bmfm.training.run import Run

    for name in ("pytorch_lightning", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    recipe, key, value = json.loads((folder / "case.json").read_bytes())
    config = OmegaConf.create(_settings(os.getpid(), recipe))
    try:
        OmegaConf.update(config, key, value, force_add=True)
        config.run_dir = str(folder / "run")
        check_settings(config)
        run = Run.of(config)
        run.fit()
    except SystemExit as stop:
        raise Refused(str(stop.code)) from None
    except Exception as caught:
        error: BaseException = caught
        while type(error).__name__ == "InstantiationException" and error.__cause__ is not None:
            error = error.__cause__
        if (
            type(error) in (ValueError, KeyError, FileNotFoundError)
            or type(error).__name__ in ("MisconfigurationException", "StrictDataclassFieldValidationError")
            or type(error).__module__.startswith("omegaconf")
        ):
            raise Refused(str(error)) from None
        if isinstance(error, MemoryError) or str(error).startswith(
            "Early stopping conditioned on metric"
        ):  # Python's and Lightning's own words
            raise Refused(str(error)) from None
        raise Fault(f"{key}={str(value)[:40]!r} of {recipe}: {type(error).__name__}: {str(error)[:300]}") from error
    if run.trainer.global_step and not all(bool(p.isfinite().all()) for p in run.model.parameters()):
        raise Fault(f"{key}={str(value)[:40]!r} of {recipe}: weights that are not finite")
    return True


OVERRIDES = Target("overrides", make_overrides, check_overrides)
SETTINGS = Target("settings", make_settings, check_run)

test_overrides = quickly(OVERRIDES, 3)
