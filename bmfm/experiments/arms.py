"""The arms of the experiment: which letters each of them is trained on, and the training itself."""

import shutil
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from bmfm.cli import compose, override
from bmfm.experiments.folds import Folds
from bmfm.genome.alphabet import VARIANT_BIT, N
from bmfm.genome.control_variants import Snvs, random_snvs, shuffle_frequencies
from bmfm.genome.reference import Reference
from bmfm.genome.regions import within
from bmfm.genome.representation import Encoded, Haplotype
from bmfm.genome.windows import Windows
from bmfm.hashing import example_keys

VARIANTS = ("observed", "shuffled", "random")


class DroppedBases(Haplotype):
    """The reference, with N where a haplotype would show an alternative allele of a single base."""

    def __call__(self, windows: Windows) -> Encoded:
        encoded = super().__call__(windows)
        return replace(encoded, symbols=np.where(encoded.symbols & VARIANT_BIT, np.uint8(N), encoded.symbols))


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes
    ----------
    title
        In words.
    variants
        ``observed``, ``shuffled`` in frequency, ``random`` in place; None shows none.
    training
        Overrides of the recipe.
    steps
        Multiple of the steps that the others take.
    """

    title: str
    variants: str | None = None
    training: Sequence[str] = field(default_factory=list)
    steps: float = 1

    def __post_init__(self) -> None:
        if self.variants is not None and self.variants not in VARIANTS:
            raise ValueError(f"definitions: variants={self.variants!r} is unknown; choose null, {', '.join(VARIANTS)}")


def variants_of(arm: Arm, reference: Reference, snvs: Snvs, touched: np.ndarray, intervals: np.ndarray, seed: int) -> Snvs | None:
    """The variants of the training intervals that an arm is shown; controls are drawn by the seed of the run."""
    if arm.variants is None:
        return None
    observed = snvs.inside(intervals)
    rng = np.random.default_rng(int(example_keys(seed, 1, np.zeros(1))[0]))
    if arm.variants == "shuffled":
        return shuffle_frequencies(reference, observed, rng)
    if arm.variants == "random":
        return random_snvs(reference, observed, intervals, touched, rng)
    return observed


def check_no_leak(folds: Folds, fold: int, gap: int, intervals: np.ndarray, shown: Snvs | None) -> None:
    """Raise a ValueError if a training interval, or a variant that is shown in training, lies in or near a block that is held out."""
    held_out = folds.blocks[np.concatenate([folds.test_blocks(fold), folds.validation_blocks(fold)])]
    for start, end in held_out:
        if ((intervals[:, 0] < end + gap) & (intervals[:, 1] > start - gap)).any():
            raise ValueError(
                f"fold {fold}: a training interval reaches into the held-out block {start}-{end}, or nearer than {gap} bases to it"
            )
        if shown is not None and ((shown.position >= start - gap) & (shown.position < end + gap)).any():
            raise ValueError(f"fold {fold}: a variant that is shown in training lies in the held-out block {start}-{end}, or near it")
    if shown is not None and not within(shown.position, shown.position + 1, intervals).all():
        raise ValueError(f"fold {fold}: a variant that is shown in training lies outside the training intervals")


def train_arm(arm: Arm, settings: Mapping[str, Any], seed: int, vcf: Path | None, bed: Path, folder: Path) -> Path:
    """Train by the recipe of the package; returns the folder of the model.

    Parameters
    ----------
    settings
        ``fasta``, ``recipe``, ``training``, ``steps``, ``cache``.
    vcf, bed
        Variants that are shown, and the intervals that windows are drawn from.
    folder
        Of the run; replaced where there is one.
    """
    from bmfm.training.run import train

    steps = max(1, round(arm.steps * settings["steps"]))
    fixed = {
        "data.fasta": settings["fasta"], "data.variants": None if vcf is None else str(vcf), "data.regions": str(bed),
        "data.cache_dir": str(settings["cache"]), "data.split.validation": 0.0, "data.split.test": 0.0,
        "trainer.max_steps": steps, "trainer.val_check_interval": steps, "trainer.enable_progress_bar": False,
        "callbacks.best": None, "callbacks.last": None, "callbacks.progress": None, "callbacks.throughput": None,
        "seed": seed, "run_dir": str(folder), "name": folder.name,
    }  # fmt: skip
    shutil.rmtree(folder, ignore_errors=True)
    words = [f"+recipe={settings['recipe']}", *settings["training"], *arm.training, *(override(k, v) for k, v in fixed.items())]
    folder.mkdir(parents=True)
    with (folder / "training.log").open("w") as log, redirect_stdout(log):
        train(compose("train", words))
    return folder / "model"
