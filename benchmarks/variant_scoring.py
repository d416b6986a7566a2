"""Speed of variant scoring: everything but the model, on a VCF of many records, and scoring beside the bare model.

python benchmarks/variant_scoring.py [--records 1000000] [--checkpoint bmfm-dna-mini] [--alleles 2000]

The first part reads, checks, aligns, makes windows and questions for both strands, and writes the VCF, with answers of 0 in place of a model's; printed are
seconds, records a second and the peak memory at a tenth of the records and at all. The second part scores SNVs and prints windows a second beside
forward passes over the same batches.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from bmfm.files import ASSETS

FASTA = ASSETS / "genome" / "chr20_slice.fa.gz"


def write_vcf(path: Path, n: int) -> None:
    """A sorted VCF of n SNVs and, each twentieth, short insertions and deletions."""
    import pysam

    from bmfm.genome.alphabet import decode
    from bmfm.genome.reference import Reference

    reference = Reference.from_fasta(FASTA)
    length = reference.contigs[0]["length"]
    text, rng = decode(reference.fetch("chr20_slice", 0, length)), np.random.default_rng(0)
    with pysam.BGZFile(str(path), "wb", None) as file:
        file.write(
            b'##fileformat=VCFv4.2\n##contig=<ID=chr20_slice,length=%d>\n##INFO=<ID=AC,Number=A,Type=Integer,Description="n">\n' % length
        )
        file.write(b"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n")
        for i, position in enumerate(np.sort(rng.integers(200, length - 200, n)).tolist()):
            ref = text[position] if i % 20 else text[position : position + 4]
            alt = "ACGT".replace(ref[0], "")[i % 3] if i % 20 else ref[0]
            file.write(f"chr20_slice\t{position + 1}\trs{i}\t{ref}\t{alt}\t100\tPASS\tAC={i % 500}\n".encode())


WITHOUT_MODEL = """
import sys, time, resource
import numpy as np
from bmfm.cli import compose
from bmfm.variants import command, scoring
scoring.ask = lambda predictor, questions, *rest: np.where(questions.candidates >= 0, -1.0, np.nan)
started = time.perf_counter()
command.run(compose("score", sys.argv[1:]))
print(f"SECONDS {time.perf_counter() - started:.1f} MB {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}")
"""


def without_model(checkpoint: str, n: int, folder: Path) -> tuple[float, float]:
    """Seconds and peak megabytes of a process that scores n records with answers of 0."""
    vcf = folder / f"{n}.vcf.gz"
    write_vcf(vcf, n)
    settings = [f"checkpoint={checkpoint}", f"fasta={FASTA}", f"variants={vcf}", f"output={folder / 'out.vcf.gz'}", "overwrite=true"]
    settings += ["progress=false", "max_ref_mismatch=1", "background=null", "allele_model=base"]
    done = subprocess.run([sys.executable, "-c", WITHOUT_MODEL, *settings], capture_output=True, text=True, check=True)
    words = done.stdout.split("SECONDS ")[1].split()
    return float(words[0]), float(words[2])


def beside_model(checkpoint: str, n: int) -> None:
    """Windows a second of scoring, and of forward passes alone over the same batches."""
    import torch

    import bmfm
    from bmfm.genome.reference import Reference
    from bmfm.variants.calibration import random_variants
    from bmfm.variants.options import ScoreOptions
    from bmfm.variants.questions import batches_of
    from bmfm.variants.reading import table_records
    from bmfm.variants.rules import RULES
    from bmfm.variants.scoring import Scorer

    model, reference = bmfm.load(checkpoint), Reference.from_fasta(FASTA)
    scorer = Scorer(model, reference, ScoreOptions(background=None))
    (records,) = table_records(random_variants(reference, n, snvs_only=True), "random variants", n)
    alleles = scorer.prepare(records)
    windows = scorer.place(alleles.take(np.flatnonzero(alleles.is_scored)))
    rule = scorer.vocabulary.kind if scorer.vocabulary.kind != "bpe" else "multi"
    questions = RULES[rule](windows, scorer.vocabulary)
    batches = [batch for _, batch in batches_of(model, questions.tokens, 32)]
    for turn in range(2):  # the first warms up
        started = time.perf_counter()
        with torch.inference_mode():
            for batch in batches:
                model.forward(batch)
        bare = 2 * len(questions.tokens) / (time.perf_counter() - started) / 2
        started = time.perf_counter()
        scorer.score(alleles)
        scored = 2 * len(questions.tokens) / (time.perf_counter() - started)
        if turn:
            print(
                f"{checkpoint}, windows of {scorer.window} bases: {scored:,.0f} windows/s scored, {bare:,.0f} bare forward: {scored / bare:.0%}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--alleles", type=int, default=2_000)
    parser.add_argument("--checkpoint", default="bmfm-dna-mini")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for n in (arguments.records // 10, arguments.records):
            seconds, megabytes = without_model(arguments.checkpoint, n, Path(folder))
            print(f"{n:,} records without the model: {seconds:.1f} s, {n / seconds:,.0f} records/s, peak {megabytes:,.0f} MB", flush=True)
    beside_model(arguments.checkpoint, arguments.alleles)
    print(f"peak memory of the second part: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB")


if __name__ == "__main__":
    main()
