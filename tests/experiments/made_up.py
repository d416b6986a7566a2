"""Genomes that were made up, for which the answer of the experiment is known."""

from pathlib import Path

import numpy as np

from bmfm.cli import compose, override

HEADER = '##fileformat=VCFv4.2\n##contig=<ID=c>\n##INFO=<ID=AF,Number=A,Type=Float,Description="f">\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n'
SMALL = ["model.num_hidden_layers=2", "model.kernel_size=11", "trainer.accelerator=cpu", "schedule.warmup_steps=20"]
SHORT = ["data.windows.min_length=200", "data.windows.max_length=200", "data.max_tokens=202"]
"""Of windows, where blocks are short."""


def write_genome(folder: Path, bases: np.ndarray, variants: list[tuple[int, str, float]]) -> list[str]:
    """A genome of one contig ``c``, and its variants (0-based place, ALT, frequency); returns overrides."""
    text = "".join(bases)
    (folder / "g.fa").write_text(f">c\n{text}\n")
    rows = "".join(f"c\t{p + 1}\t.\t{text[p]}\t{alt}\t.\t.\tAF={f:g}\n" for p, alt, f in sorted(variants))
    (folder / "v.vcf").write_text(HEADER + rows)
    return [override("fasta", folder / "g.fa"), override("variants", folder / "v.vcf"), override("output", folder / "out")]


def planted(folder: Path, n_bases: int, seed: int = 0) -> list[str]:
    """Wherever TCACG?TGACA stands, ? is A or G alike, and each A there is G in nine of ten chromosomes; other A of GAT hardly vary."""
    rng = np.random.default_rng(seed)
    bases = rng.choice(list("ACGT"), n_bases, p=[0.3, 0.1, 0.3, 0.3])
    sites = np.arange(100, n_bases - 300, 250) + rng.integers(0, 200, len(range(100, n_bases - 300, 250)))
    for site in sites:
        bases[site - 5 : site + 6] = [*"TCACG", rng.choice(["A", "G"]), *"TGACA"]
    text = "".join(bases)
    chosen = {int(s) for s in sites if text[s] == "A"}
    others = [p for p in range(1, n_bases - 1) if text[p - 1 : p + 2] == "GAT" and p not in chosen]
    return write_genome(folder, bases, [*((p, "G", 0.9) for p in chosen), *((p, "G", 0.0002) for p in others)])


def random_genome(folder: Path, n_bases: int, n_variants: int, seed: int = 0) -> list[str]:
    """Bases and variants without any rule."""
    rng = np.random.default_rng(seed)
    bases = rng.choice(list("ACGT"), n_bases)
    places = rng.choice(n_bases, n_variants, replace=False)
    variants = [
        (int(p), str(rng.choice([b for b in "ACGT" if b != bases[p]])), float(rng.choice([0.0002, 0.02, 0.3, 0.7]))) for p in places
    ]
    return write_genome(folder, bases, variants)


def config(*overrides: str, training: tuple[str, ...] = ()):
    """The experiment, small."""
    return compose("snp_aware", [override("training", [*SMALL, *training]), "loci.gc_radius=10", "gap=200", "window=41", *overrides])
