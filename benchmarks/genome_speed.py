"""Speed and memory of the genome floor and the tokenizer, on one core.

Without arguments the genome is the megabase that ships, tiled 64 times with its variants (64 Mbp, 1.86 M edits: real
sequence and real variants, repeated). Give ``--fasta`` and ``--variants`` for a genome of your own.
"""

import argparse
import gzip
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from bmfm.files import ASSETS
from bmfm.genome.alphabet import decode
from bmfm.genome.reference import Reference
from bmfm.genome.representation import BiAllele, Haplotype, ReferenceSequence
from bmfm.genome.variants import VariantTable
from bmfm.genome.windows import WindowSampler
from bmfm.tokenizers.dna import DnaTokenizer, load

TILES = 64


def tiled(folder: Path) -> tuple[Path, Path]:
    """Write the tiled genome and its VCF."""
    fasta, vcf = folder / "tiled.fa", folder / "tiled.vcf"
    with gzip.open(ASSETS / "genome" / "chr20_slice.fa.gz", "rt") as lines:
        next(lines)
        sequence = lines.read()
    fasta.write_text(">tiled\n" + sequence * TILES)
    with gzip.open(ASSETS / "genome" / "chr20_slice.1000g.vcf.gz", "rt") as lines:
        rows = [line for line in lines]
    header = [line for line in rows if line.startswith("##") and not line.startswith("##contig")]
    records = [line.split("\t") for line in rows if not line.startswith("#")]
    with vcf.open("w") as sink:
        sink.writelines([*header, "##contig=<ID=tiled>\n", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"])
        for tile in range(TILES):
            sink.writelines("\t".join(["tiled", str(int(r[1]) + tile * 1_000_000), *r[2:]]) for r in records)
    return fasta, vcf


def peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def mapped_rss() -> int:
    """Bytes of files that are mapped and resident: the store itself."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssFile:")[1].split()[0]) * 1024


def best_of(n: int, call) -> float:
    times = []
    for _ in range(n):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)


def beside_a_long_deletion(scratch: Path, n_long: int) -> list[float]:
    """Speed of biallele and haplotype over 2 Mb with 100,000 SNVs, and with one deletion of 1 Mb in the middle or without."""
    rng = np.random.default_rng(0)
    n, size = 100_000, 2_000_000
    fasta, vcf = scratch / "long.fa", scratch / f"long{n_long}.vcf"
    bases = rng.choice(np.frombuffer(b"ACGT", np.uint8), size).tobytes().decode()
    if not fasta.exists():
        fasta.write_text(f">a\n{bases}\n")
    rows = [(p, bases[p], "ACGT"[("ACGT".index(bases[p]) + 1) % 4], 0.3) for p in np.sort(rng.choice(size, n, replace=False)).tolist()]
    rows += [(500_000, bases[500_000:1_500_000], bases[500_000], 0.01)] * n_long
    header = '##fileformat=VCFv4.2\n##contig=<ID=a>\n##INFO=<ID=AF,Number=A,Type=Float,Description="f">\n'
    lines = (f"a\t{p + 1}\t.\t{ref}\t{alt}\t.\t.\tAF={f}\n" for p, ref, alt, f in sorted(rows, key=lambda row: row[0]))
    vcf.write_text(header + "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" + "".join(lines))
    reference = Reference.from_fasta(fasta, scratch)
    variants = VariantTable.from_vcf(vcf, reference, cache_dir=scratch)
    sampler = WindowSampler(reference.known_intervals(), 1_000, 1_000)
    windows = sampler.draw(0, np.arange(len(sampler)))
    speeds = []
    for represent in (BiAllele(reference, variants), Haplotype(reference, variants)):
        represent(windows)
        speeds.append(len(windows) * 1_000 / best_of(3, lambda r=represent: r(windows)) / 1e6)
    return speeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fasta", type=Path)
    parser.add_argument("--variants", type=Path)
    options = parser.parse_args()
    import pysam  # noqa: F401  (libraries are loaded before memory is measured)

    with tempfile.TemporaryDirectory() as scratch:
        fasta, vcf = (options.fasta, options.variants) if options.fasta else tiled(Path(scratch))
        small = Reference.from_fasta(ASSETS / "genome" / "chr20_slice.fa.gz", Path(scratch) / "warm")
        VariantTable.from_vcf(ASSETS / "genome" / "chr20_slice.1000g.vcf.gz", small, cache_dir=Path(scratch) / "warm")
        before, mapped = peak_rss(), mapped_rss()
        began = time.perf_counter()
        reference = Reference.from_fasta(fasta, scratch)
        middle = time.perf_counter()
        variants = VariantTable.from_vcf(vcf, reference, cache_dir=scratch)
        ended = time.perf_counter()
        of_map = (mapped_rss() - mapped) / len(reference)
        grown = (peak_rss() - before) / len(reference) - of_map
        print(f"genome of {len(reference) / 1e6:.1f} Mbp, {len(variants):,} edits")
        print(f"store built in {middle - began:.1f} s (FASTA) + {ended - middle:.1f} s (VCF); limit 60 s")
        print(f"peak memory grew by {grown:.2f} bytes a base beyond the map ({of_map:.2f}); limit 3, published 100 to 390")
        print("\nwindows, Mbp/s on one core (published: 0.18 to 1.3)")
        print(f"{'bases':>7} {'reference':>10} {'biallele':>10} {'always':>10} {'haplotype':>10}")
        intervals = reference.known_intervals()
        kinds = (
            ReferenceSequence(reference), BiAllele(reference, variants), BiAllele(reference, variants, "always"), Haplotype(reference, variants),
        )  # fmt: skip
        for length in (1_000, 10_000):
            sampler = WindowSampler(intervals, length, length, coverage=0.25)
            row = []
            for represent in kinds:
                batches = np.array_split(np.arange(len(sampler)), max(1, len(sampler) // 256))

                def draw(represent=represent, batches=batches, sampler=sampler):
                    for batch in batches:
                        represent(sampler.draw(0, batch))

                draw()
                row.append(len(sampler) * length / best_of(3, draw) / 1e6)
            print(f"{length:>7} " + " ".join(f"{speed:>10,.0f}" for speed in row))
        print("\nwindows of 1 kb among 100,000 SNVs, without and with one deletion of 1 Mb, Mbp/s on one core")
        for n_long in (0, 1):
            print(f"{n_long}: " + " ".join(f"{speed:,.0f}" for speed in beside_a_long_deletion(Path(scratch), n_long)))
        print("\nwindows of 10 kb to token ids, Mbp/s on one core")
        sampler = WindowSampler(intervals, 10_000, 10_000, coverage=0.02)
        for name, represent in (("ref2vec", kinds[0]), ("snp2vec", kinds[2])):
            tokenizer = DnaTokenizer(load(name))
            encoded = represent(sampler.draw(0, np.arange(len(sampler))))
            tokenizer(encoded, 10_000)
            ours = best_of(3, lambda t=tokenizer, e=encoded: t(e, 10_000))
            part = range(min(32, len(encoded)))
            texts = [decode(tokenizer.written_as.astype(np.uint8)[encoded[b] & 0x7F]) for b in part]
            library = tokenizer.tokenizer.backend_tokenizer
            theirs = best_of(3, lambda t=texts, lib=library: [lib.encode(x, add_special_tokens=False) for x in t])
            mbp, their_mbp = len(encoded.symbols) / ours / 1e6, sum(map(len, texts)) / theirs / 1e6
            print(f"{name}: {mbp:.1f}; tokenizers library {their_mbp:.1f}; ratio {mbp / their_mbp:.1f}; limit 6")


if __name__ == "__main__":
    main()
