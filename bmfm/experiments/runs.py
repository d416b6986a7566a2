"""The runs of the experiment: each an arm, a seed and a fold, trained, asked, and kept as one file."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bmfm.cli import instantiate
from bmfm.evaluation.leakage import write_bed
from bmfm.experiments.arms import Arm, check_no_leak, train_arm, variants_of
from bmfm.experiments.folds import Folds
from bmfm.experiments.loci import LocusSettings, mutation_table, select_loci
from bmfm.files import require_file
from bmfm.genome.control_variants import Snvs, contexts, snvs_of, write_snvs
from bmfm.genome.reference import Reference
from bmfm.genome.variants import VariantTable

REFERENCE = "R"
"""The arm that all others are compared with."""

DECIDING = ("block_size", "n_folds", "gap", "loci", "recipe", "training", "steps", "window")
"""Settings that every run of a folder shares."""


class Job(NamedTuple):
    """One run."""

    arm: str
    seed: int
    fold: int

    def __str__(self) -> str:
        return f"{self.arm}-seed{self.seed}-fold{self.fold}"


@dataclass(frozen=True)
class Experiment:
    """What was asked for.

    Attributes
    ----------
    settings
        The configuration, as plain data.
    arms
        All that are defined.
    """

    settings: dict[str, Any]
    arms: dict[str, Arm]

    @classmethod
    def of(cls, config: Any) -> "Experiment":
        """Of a composed configuration; a ValueError names what does not exist."""
        from omegaconf import OmegaConf

        settings: Any = OmegaConf.to_container(config, resolve=True)
        arms = {name: Arm(**definition) for name, definition in settings["definitions"].items()}
        if unknown := [name for name in settings["arms"] if name not in arms]:
            raise ValueError(f"arms: {', '.join(unknown)} are not among the definitions, which are {', '.join(arms)}")
        if REFERENCE not in settings["arms"]:
            raise ValueError(f"arms: {REFERENCE} must be among them, which the others are compared with")
        if absent := [f for f in settings["folds"] if not 0 <= f < settings["n_folds"]]:
            raise ValueError(f"folds: there is no fold {absent[0]}; with n_folds={settings['n_folds']} they are numbered from 0")
        for name in ("fasta", "variants"):
            require_file(settings[name], f"{name}: file")
        return cls(settings, arms)

    @property
    def folder(self) -> Path:
        return Path(self.settings["output"])

    @cached_property
    def reference(self) -> Reference:
        return Reference.from_fasta(self.settings["fasta"])

    @cached_property
    def table(self) -> VariantTable:
        return VariantTable.from_vcf(self.settings["variants"], self.reference)

    @cached_property
    def snvs(self) -> Snvs:
        snvs = snvs_of(self.table)
        if not len(snvs):
            raise ValueError(
                f"{self.settings['variants']}: there is no single-base variant with a frequency, so that there is nothing to ask about"
            )
        return snvs

    @cached_property
    def touched(self) -> np.ndarray:
        """Places that a variant of any kind touches, ascending."""
        return np.unique(np.concatenate([np.arange(s, max(e, s + 1)) for s, e in zip(self.table.start, self.table.end, strict=True)]))

    @cached_property
    def folds(self) -> Folds:
        return Folds.draw(self.reference, self.settings["block_size"], self.settings["n_folds"])

    @property
    def n_test_blocks(self) -> int:
        """Blocks of the folds that are asked for."""
        return int(np.isin(self.folds.fold, self.settings["folds"]).sum())

    @cached_property
    def locus_settings(self) -> LocusSettings:
        return instantiate(self.settings["loci"])

    def training_intervals(self, fold: int) -> np.ndarray:
        """Interval set that the arms of a fold are trained on."""
        return self.folds.training_intervals(fold, self.settings["gap"])

    def loci(self, fold: int) -> pd.DataFrame:
        """What the runs of a fold are asked about, see `loci.select_loci`, and ``rate``, what a table of mutation rates says of each."""
        frame = select_loci(self.reference, self.snvs, self.touched, self.folds, fold, self.locus_settings)
        intervals = self.training_intervals(fold)
        rates = mutation_table(self.reference, self.snvs.inside(intervals), intervals, self.locus_settings.common)
        frame["rate"] = rates[contexts(self.reference, frame["position"].to_numpy(), 5)]
        return frame

    def jobs(self) -> Iterator[Job]:
        """All runs: first every seed of the reference on one fold, which say what can be detected; then seed by seed and fold by fold, so that
        what is there is balanced."""
        seeds, folds = self.settings["seeds"], self.settings["folds"]
        first = [Job(REFERENCE, seed, fold) for fold in folds[:1] for seed in seeds]
        rest = [Job(name, seed, fold) for seed in seeds for fold in folds for name in self.settings["arms"]]
        yield from dict.fromkeys([*first, *rest])

    def file(self, job: Job) -> Path:
        return self.folder / "runs" / f"{job}.json"

    def identity(self, job: Job) -> dict[str, Any]:
        """What decides the outcome of a run."""
        files = {name: [Path(self.settings[name]).name, Path(self.settings[name]).stat().st_size] for name in ("fasta", "variants")}
        arm = self.arms[job.arm]
        definition = {"variants": arm.variants, "training": list(arm.training), "steps": arm.steps}
        return {"arm": definition, **files, **{name: self.settings[name] for name in DECIDING}}

    def finished(self, job: Job) -> dict[str, Any] | None:
        """The record of a run, or None.

        Raises
        ------
        ValueError
            If it was made with other settings.
        """
        file = self.file(job)
        if not file.is_file():
            return None
        record = json.loads(file.read_text())
        there, asked = record["identity"], self.identity(job)
        if there != json.loads(json.dumps(asked)):
            other = ", ".join(sorted(k for k in there.keys() | asked.keys() if there.get(k) != json.loads(json.dumps(asked.get(k)))))
            raise ValueError(f"{file} was made with other settings ({other}): choose another folder by output=..., or remove it")
        return record

    def carry_out(self, job: Job) -> dict[str, Any]:
        """Train and ask; the record appears at once and whole."""
        from bmfm.experiments.asking import log_probs_at, losses_of_blocks
        from bmfm.inference.loading import load

        start_time, settings, arm = time.time(), self.settings, self.arms[job.arm]
        work = self.folder / "work" / str(job)
        work.mkdir(parents=True, exist_ok=True)
        intervals = self.training_intervals(job.fold)
        shown = variants_of(arm, self.reference, self.snvs, self.touched, intervals, job.seed)
        check_no_leak(self.folds, job.fold, settings["gap"], intervals, shown)
        write_bed(work / "training.bed", intervals, self.reference)
        if shown is not None:
            write_snvs(work / "shown.vcf.gz", shown, self.reference, f"bmfm snp_aware {arm.variants}")
        vcf = None if shown is None else work / "shown.vcf.gz"
        model = train_arm(arm, settings | {"cache": work / "cache"}, job.seed, vcf, work / "training.bed", work / "run")
        predictor = load(model)
        trained = time.time()
        loci, blocks = self.loci(job.fold), self.folds.test_blocks(job.fold)
        log_probs = log_probs_at(predictor, self.reference, loci["position"].to_numpy(), settings["window"], settings["batch_size"])
        losses, counts = losses_of_blocks(predictor, self.reference, self.folds.blocks[blocks], self.touched, settings["batch_size"])
        record = {
            **job._asdict(),
            "identity": self.identity(job),
            "seconds": {"training": round(trained - start_time, 1), "asking": round(time.time() - trained, 1)},
            "variants_shown": 0 if shown is None else len(shown),
            "training_bases": int((intervals[:, 1] - intervals[:, 0]).sum()),
            "blocks": blocks.tolist(),
            "block_losses": losses.tolist(),
            "block_counts": counts.tolist(),
            "log_probs": np.round(log_probs, 5).tolist(),
        }
        self._write(job, record, work)
        return record

    def _write(self, job: Job, record: dict[str, Any], work: Path) -> None:
        if self.settings["keep_models"]:
            target = self.folder / "models" / str(job)
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            (work / "run" / "model").rename(target)
        file = self.file(job)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".part")
        partial.write_text(json.dumps(record))
        partial.replace(file)
        shutil.rmtree(work, ignore_errors=True)
