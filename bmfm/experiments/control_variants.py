"""Write a VCF of control variants: ``python -m bmfm.experiments.control_variants shuffle genome.fa variants.vcf.gz control.vcf.gz``.

``shuffle`` permutes the frequencies of single-base variants among those with the same trinucleotide and the same alternative base;
``random`` draws as many variants at other places, with the same trinucleotides, alternative bases and frequencies. With ``--regions``
only variants there are taken, and random ones are drawn there.
"""

import argparse
import sys
from pathlib import Path

from bmfm.cli import exit_status


def _write(arguments: argparse.Namespace) -> None:
    import numpy as np

    from bmfm.genome.control_variants import random_snvs, shuffle_frequencies, snvs_of, write_snvs
    from bmfm.genome.reference import Reference
    from bmfm.genome.regions import read_regions
    from bmfm.genome.variants import VariantTable

    reference = Reference.from_fasta(arguments.fasta)
    table = VariantTable.from_vcf(arguments.variants, reference)
    snvs = snvs_of(table)
    intervals = reference.known_intervals() if arguments.regions is None else read_regions(arguments.regions, reference)
    snvs, rng = snvs.inside(intervals), np.random.default_rng(arguments.seed)
    if arguments.kind == "shuffle":
        control = shuffle_frequencies(reference, snvs, rng)
    else:
        touched = [np.arange(s, max(e, s + 1)) for s, e in zip(table.start, table.end, strict=True)]
        control = random_snvs(reference, snvs, intervals, np.concatenate(touched), rng)
    write_snvs(arguments.output, control, reference, f"bmfm control_variants {arguments.kind} seed={arguments.seed}")
    n_other = len(table) - len(snvs)
    print(f"{arguments.output}: {len(control):,} variants; {n_other:,} alleles of other kinds or outside the regions were left out")


def main(words: list[str] | None = None) -> int:
    """Run the command; returns its status."""
    parser = argparse.ArgumentParser(prog="python -m bmfm.experiments.control_variants", description=(__doc__ or "").split(":")[0] + ".")
    parser.add_argument("kind", choices=("shuffle", "random"), help="which control")
    parser.add_argument("fasta", type=Path, help="the genome")
    parser.add_argument("variants", type=Path, help="VCF or BCF with allele frequencies")
    parser.add_argument("output", type=Path, help="VCF to write, bgzip where its name ends in .gz")
    parser.add_argument("--regions", help="BED file or region, as chr20:1-1,000,000")
    parser.add_argument("--seed", type=int, default=0, help="of the drawing")
    arguments = parser.parse_args(words)
    return exit_status(lambda: _write(arguments))


if __name__ == "__main__":
    sys.exit(main())
