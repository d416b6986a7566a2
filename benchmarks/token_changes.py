"""What a variant does to tokens: ``python benchmarks/token_changes.py``; seconds on one core.

For each way to cut DNA into tokens: how many bases a token has, how many tokens of a window one variant changes, and how far from it. Windows are of the megabase that ships,
variants are its own (1000 Genomes), each written into a window of 400 bases by itself.
"""

from collections.abc import Iterator

import numpy as np
import pysam

from bmfm.files import ASSETS
from bmfm.tokenizers.dna import DnaTokenizer, kmer, single_base

HALF, N = 200, 2000


def pairs(n: int) -> Iterator[tuple[str, str]]:
    """Windows around variants drawn evenly from the file: the reference, and the same with ALT."""
    fasta = pysam.FastaFile(str(ASSETS / "genome" / "chr20_slice.fa.gz"))
    with pysam.VariantFile(str(ASSETS / "genome" / "chr20_slice.1000g.vcf.gz")) as variants:
        records = [r for r in variants if r.alts and set(r.ref + r.alts[0]) <= set("ACGT") and HALF < r.pos < 999_000]
    for record in records[:: max(1, len(records) // n)]:
        left = fasta.fetch(record.chrom, record.start - HALF, record.start).upper()
        right = fasta.fetch(record.chrom, record.stop, record.stop + HALF).upper()
        yield left + record.ref + right, left + record.alts[0] + right


def changed(before: list[str], after: list[str]) -> int:
    """Tokens of `before` that are neither in the common beginning nor in the common end of both."""
    same = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
    rest = min(len(before), len(after)) - same
    end = next((i for i in range(rest) if before[-1 - i] != after[-1 - i]), rest)
    return len(before) - same - end


def report(name: str, tokenizer: DnaTokenizer, windows: list[tuple[str, str]]) -> None:
    """Print a line: size of the vocabulary, bases a token, and how many tokens a variant changes (mean, 95th percentile, share above five)."""
    cut = [(tokens(tokenizer, a), tokens(tokenizer, b)) for a, b in windows]
    counts = np.array([changed(a, b) for a, b in cut])
    bases = sum(len(a) for a, _ in windows) / sum(len(a) for a, _ in cut)
    print(
        f"{name:22} {len(tokenizer.tokenizer):>6,} {bases:6.2f} {np.mean(counts):6.2f} {np.quantile(counts, 0.95):5.0f} {(counts > 5).mean():7.1%}"
    )


def tokens(tokenizer: DnaTokenizer, text: str) -> list[str]:
    """Names of the tokens of a text, without special ones."""
    return tokenizer.tokenizer.tokenize(text)


if __name__ == "__main__":
    chosen = list(pairs(N))
    snvs = [(a, b) for a, b in chosen if len(a) == len(b)]
    indels = [(a, b) for a, b in chosen if len(a) != len(b)]
    for title, windows in ((f"{len(snvs):,} substitutions", snvs), (f"{len(indels):,} insertions and deletions", indels)):
        print(f"\n{title}\n{'tokens':22} {'vocab.':>6} {'bases':>6} {'mean':>6} {'95%':>5} {'over 5':>7}")
        for name in ("ref2vec", "snp2vec", "dna_demo"):
            report(f"BPE, {name}", DnaTokenizer.from_pretrained(name), windows)
        report("6-mers", kmer(6), windows)
        report("single bases", single_base(), windows)
