"""What the tests of tasks of variants share: a small genome, its SNVs, cards, and scores that are given."""

import gzip
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from bmfm.cli import compose, instantiate
from bmfm.evaluation.examples.variants import VariantExamples
from bmfm.evaluation.methods.variants import VariantMethod, VariantScores
from bmfm.evaluation.task_files import read_examples, read_task

RNG = np.random.default_rng(0)
GENOME = {c: "".join(RNG.choice(list("ACGT"), 400)) for c in ("1", "2", "3", "X")}
COMPLEMENT = str.maketrans("ACGT", "TGCA")


def write_fasta(file: Path, contigs: dict[str, str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(file, "wt") as out:
        out.writelines(f">{name}\n{sequence}\n" for name, sequence in contigs.items())
    return file


def snvs(n: int, seed: int = 0) -> pd.DataFrame:
    """Different SNVs of `GENOME` on all its contigs."""
    rng = np.random.default_rng(seed)
    rows = []
    for chrom, sequence in GENOME.items():
        for pos in rng.choice(np.arange(20, 380), n // len(GENOME), replace=False):
            ref = sequence[pos - 1]
            rows.append((chrom, int(pos), ref, rng.choice([b for b in "ACGT" if b != ref])))
    return pd.DataFrame(rows, columns=["chrom", "pos", "ref", "alt"])


@cache
def card(name):
    """A task as it ships; what it reads is found below the root that `read` is given."""
    return read_task(f"variants/{name}", ["checkpoint=none"])


def read(task, root) -> VariantExamples:
    examples = read_examples(task, root)
    assert isinstance(examples, VariantExamples)
    return examples


class Given(VariantMethod):
    """Scores as they are given."""

    def __init__(self, values, scale="magnitude"):
        super().__init__("given")
        self.values, self.scale = np.asarray(values, float), scale

    def score(self, examples, seed=0):
        return VariantScores(self.values, self.scale)


# figures


def by_name():
    config = compose("benchmark", ["+suite=small_variants", "baseline=[variants]"])
    return {k: instantiate(v, _convert_="all") for k, v in OmegaConf.to_container(config.baselines, resolve=True).items()}
