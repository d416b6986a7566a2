"""Speed and memory of the genome floor and the tokenizer: a variant store on all cores, windows and tokens on one.

Without arguments the genome is the megabase that ships, tiled 64 times with its variants (64 Mbp, 1.86 M edits: real
sequence and real variants, repeated). Give ``--fasta`` and ``--variants`` for a genome of your own. The variant store is
also built from ``--records`` made-up records in the form of dbSNP, as VCF with and without samples and as BCF.
"""

import argparse
import gzip
import multiprocessing
import os
import resource
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from bmfm.files import ASSETS
from bmfm.genome.alphabet import decode
from bmfm.genome.reference import Reference
from bmfm.genome.representation import BiAllele, Haplotype, ReferenceSequence
from bmfm.genome.variants import VariantFilter, VariantTable
from bmfm.genome.windows import WindowSampler
from bmfm.tokenizers.dna import DnaTokenizer

TILES = 64
DBSNP = 90_000_000  # records that the figures of a store are extrapolated to
DBSNP_FIELDS = {"RS": "1 Integer", "dbSNPBuildID": "1 Integer", "SSR": "1 Integer", "VC": "1 String", "GNO": "0 Flag", "FREQ": ". String", "COMMON": "0 Flag"}  # fmt: skip


def dbsnp_header(samples: str) -> str:
    lines = ["##fileformat=VCFv4.2", "##contig=<ID=1>", "##contig=<ID=2>"]
    for name, form in DBSNP_FIELDS.items():
        number, kind = form.split()
        lines.append(f'##INFO=<ID={name},Number={number},Type={kind},Description="as in dbSNP">')
    lines.append('##FORMAT=<ID=GT,Number=1,Type=String,Description="genotype">')
    return "\n".join([*lines, "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO" + samples]) + "\n"


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


def write_dbsnp(folder: Path, n: int) -> tuple[Path, dict[str, Path]]:
    """A random genome of two contigs, and `n` records in the form of dbSNP: sites only, with three samples, and as BCF."""
    import pysam
    import pysam.bcftools

    rng = np.random.default_rng(0)
    length = 4 * n
    bases = rng.choice(np.frombuffer(b"ACGT", np.uint8), 2 * length).tobytes().decode()
    fasta = folder / "large.fa"
    fasta.write_text(f">1\n{bases[:length]}\n>2\n{bases[length:]}\n")
    other = str.maketrans("ACGT", "GTAC")
    paths = {name: folder / f"{name}.vcf.gz" for name in ("sites", "3 samples")}
    sinks = [pysam.BGZFile(str(path), "wb") for path in paths.values()]
    for sink, samples in zip(sinks, ("", "\tFORMAT\ts1\ts2\ts3"), strict=True):
        sink.write(dbsnp_header(samples).encode())
    for contig in (0, 1):
        position = np.sort(rng.choice(length - 10, n // 2, replace=False))
        lines: tuple[list[str], list[str]] = ([], [])
        for i, (p, f, kind) in enumerate(zip(position.tolist(), rng.random(n // 2).tolist(), rng.random(n // 2).tolist(), strict=True)):
            at = contig * length + p
            ref, alt, more = bases[at], bases[at].translate(other), ""
            if kind < 0.04:
                ref, alt = bases[at : at + 3], ref
            elif kind < 0.07:
                alt = ref + "GA"
            elif kind < 0.1:
                alt, more = f"{alt},{ref}C", ",0.0001"
            line = (
                f"{contig + 1}\t{p + 1}\trs{at}\t{ref}\t{alt}\t.\t.\tRS={at};dbSNPBuildID=151;SSR=0;VC=SNV;GNO;"
                f"FREQ=1000Genomes:{1 - f:.4g},{f:.4g}{more}|TOPMED:{1 - f / 2:.5g},{f / 2:.5g}{more}{';COMMON' if f > 0.01 else ''}"
            )
            lines[0].append(line + "\n")
            lines[1].append(line + ("\tGT" + ("\t0|1", "\t1|1", "\t0|0")[i % 3] * 3) + "\n")
            if len(lines[0]) == 10_000 or i == n // 2 - 1:
                for sink, some in zip(sinks, lines, strict=True):
                    sink.write("".join(some).encode())
                    some.clear()
    for sink in sinks:
        sink.close()
    paths["sites.bcf"] = folder / "sites.bcf"
    pysam.bcftools.view("-Ob", "-o", str(paths["sites.bcf"]), str(paths["sites"]), catch_stdout=False)
    return fasta, paths


def own_rss() -> int:
    """Bytes of memory that are no file's: what a program holds beyond its maps."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def peak_of(call) -> tuple[float, int]:
    """Seconds that a call takes, and by how much memory beyond file maps grew at most, looked at each 10 ms."""
    before = peak = own_rss()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, own_rss())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start_time = time.perf_counter()
    call()
    seconds = time.perf_counter() - start_time
    done.set()
    watcher.join()
    return seconds, peak - before


def measure_store(folder: Path, fasta: Path, name: str, vcf: Path, n: int) -> None:
    small = Reference.from_fasta(ASSETS / "genome" / "chr20_slice.fa.gz", folder / "warm")
    VariantTable.from_vcf(ASSETS / "genome" / "chr20_slice.1000g.vcf.gz", small, cache_dir=folder / f"warm {name}")
    reference = Reference.from_fasta(fasta, folder)
    int(reference.codes.sum())
    keep = VariantFilter(samples=["s1"] if "samples" in name else ())

    def build() -> VariantTable:
        return VariantTable.from_vcf(vcf, reference, keep, folder)

    used = time.process_time()
    seconds, memory = peak_of(build)
    used = time.process_time() - used
    opened, _ = peak_of(build)
    print(
        f"{name:>10}: {n / seconds:>9,.0f} records/s ({n / used:,.0f} a second of one core), {memory / 1e6:.0f} MB beyond the columns = "
        f"{memory / n:.1f} bytes a record, opened in {opened * 1e3:.0f} ms; {DBSNP / 1e6:.0f} M records: {DBSNP * seconds / n / 60:.0f} min",
        flush=True,
    )


def measure_stores(folder: Path, n: int) -> None:
    """Each store is built in a process of its own, whose memory nothing else has grown."""
    fasta, paths = write_dbsnp(folder, n)
    print(f"variant store of {n:,} records in the form of dbSNP, {os.cpu_count()} cores; limits 300,000 records/s, 40 bytes a record, 5 s")
    for name, path in paths.items():
        process = multiprocessing.get_context("spawn").Process(target=measure_store, args=(folder, fasta, name, path, n))
        process.start()
        process.join()
    print()


def peak_rss() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def mapped_rss() -> int:
    """Bytes of files that are mapped and resident: the store itself."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssFile:")[1].split()[0]) * 1024


def best_of(n: int, call) -> float:
    times = []
    for _ in range(n):
        start_time = time.perf_counter()
        call()
        times.append(time.perf_counter() - start_time)
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
    parser.add_argument("--records", type=int, default=2_000_000, help="made-up records of the large variant store; 0 leaves it out")
    options = parser.parse_args()
    import pysam  # noqa: F401  (libraries are loaded before memory is measured)

    with tempfile.TemporaryDirectory() as scratch:
        fasta, vcf = (options.fasta, options.variants) if options.fasta else tiled(Path(scratch))
        small = Reference.from_fasta(ASSETS / "genome" / "chr20_slice.fa.gz", Path(scratch) / "warm")
        VariantTable.from_vcf(ASSETS / "genome" / "chr20_slice.1000g.vcf.gz", small, cache_dir=Path(scratch) / "warm")
        if options.records:
            measure_stores(Path(scratch), options.records)
        before, mapped = peak_rss(), mapped_rss()
        start_time = time.perf_counter()
        reference = Reference.from_fasta(fasta, scratch)
        middle = time.perf_counter()
        variants = VariantTable.from_vcf(vcf, reference, cache_dir=scratch)
        ended = time.perf_counter()
        of_map = (mapped_rss() - mapped) / len(reference)
        grown = (peak_rss() - before) / len(reference) - of_map
        print(f"genome of {len(reference) / 1e6:.1f} Mbp, {len(variants):,} edits")
        print(f"store built in {middle - start_time:.1f} s (FASTA) + {ended - middle:.1f} s (VCF); limit 60 s")
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
            tokenizer = DnaTokenizer.from_pretrained(name)
            encoded = represent(sampler.draw(0, np.arange(len(sampler))))
            tokenizer.encode(encoded, max_tokens=10_000)
            ours = best_of(3, lambda t=tokenizer, e=encoded: t.encode(e, max_tokens=10_000))
            part = range(min(32, len(encoded)))
            texts = [decode(tokenizer.written_as.astype(np.uint8)[encoded[b] & 0x7F]) for b in part]
            library = tokenizer.tokenizer.backend_tokenizer
            theirs = best_of(3, lambda t=texts, lib=library: [lib.encode(x, add_special_tokens=False) for x in t])
            mbp, their_mbp = len(encoded.symbols) / ours / 1e6, sum(map(len, texts)) / theirs / 1e6
            print(f"{name}: {mbp:.1f}; tokenizers library {their_mbp:.1f}; ratio {mbp / their_mbp:.1f}; limit 6")


if __name__ == "__main__":
    main()
