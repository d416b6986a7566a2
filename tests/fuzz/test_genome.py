"""Files of genomes and variants: FASTA, BED, VCF and BCF, beside htslib."""

import gzip
import os
from functools import cache
from pathlib import Path
from random import Random

import pysam

from bmfm.genome.alphabet import decode
from bmfm.genome.fasta import read_records
from bmfm.genome.reference import Reference
from bmfm.genome.regions import bed_rows, locate, read_regions
from bmfm.genome.variants import VariantFilter, VariantTable
from tests.fuzz.harness import Fault, Files, Refused, Target, oracle, quickly, refusing, same
from tests.fuzz.mutations import BINARY, bgzip, damaged, pressed
from tests.genome.reference_vcf import read as read_by_pysam
from tests.genome.vcf_texts import DECLARED, GENOME, table, text_of

pysam.set_verbosity(0)
LETTERS = "ACGTacgtNRYKM"


def _contigs(random: Random) -> bytes:
    width, end = random.choice([1, 5, 60]), random.choice(["\n", "\n", "\r\n"])
    lines = []
    for number in range(random.randrange(1, 4)):
        bases = "".join(random.choices(LETTERS, k=random.randrange(1, 90)))
        lines += [f">{random.choice(['chr', '', 'NC_'])}{number} of all", *(bases[i : i + width] for i in range(0, len(bases), width))]
    return (end.join(lines) + random.choice([end, ""])).encode()


def make_fasta(random: Random) -> Files:
    suffix = random.choice(["", "", ".gz", ".bgz"])
    name = f"genome.fa{suffix}"
    index = random.choice(
        [b"chr0\t4\t6\t4\t5\n", b"", b"\xff\0", b"chr0\t99999999999\t6\t4\t5\n"]
    )  # no index is read, stale ones least of all
    return {name: pressed(damaged(_contigs(random), random), suffix, random), f"{name}.fai": index}


def _plain(text: str) -> str:
    return "".join(c if c in "ACGTN" else "N" for c in text.upper().replace("U", "T"))


def _by_lines(file: Path) -> dict[str, str]:
    """A FASTA file as its format has it: names to sequences without white space."""
    raw = file.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    records: dict[str, str] = {}
    for line in raw.removeprefix(b"\xef\xbb\xbf").replace(b"\r", b"\n").split(b"\n"):
        if line[:1] == b">":
            words = line[1:].split()
            name = words[0].decode("utf-8") if oracle(words[0].decode) is not None else words[0].decode("latin-1")
            records[name] = ""
        elif records:
            records[name] += line.translate(None, b" \t").decode("latin-1")
    return records


def check_fasta(folder: Path) -> bool:
    file = next(f for f in folder.iterdir() if f.suffix != ".fai")
    sequences = None
    try:
        with refusing(str(file)):
            sequences = list(read_records(file))
    except Refused:
        pass
    with refusing(str(file)):
        reference = Reference.from_fasta(file, folder / "cache")
        read = {n: decode(reference.fetch(n, 0, c["length"])) for n, c in zip(reference.names.names, reference.contigs, strict=True)}
    theirs = _by_lines(file)
    same(read, {n: _plain(s) for n, s in theirs.items()}, "bases")
    if sequences is not None:
        same(dict(sequences), theirs, "records")
    return True


def make_bed(random: Random) -> Files:
    rows = [random.choice(["track name=x", "#", ""])] if random.randrange(2) else []
    for _ in range(random.randrange(1, 8)):
        contig = random.choice(["chr1", "1", "chrM", "MT", "chr2"] if not random.randrange(4) else ["chr1", "chrM"])
        start = random.randrange(0, 12)
        more = random.choice([[], ["name", "0", random.choice("+-.")]])
        rows.append("\t".join([contig, str(start), str(start + random.randrange(0 if not random.randrange(6) else 1, 5)), *more]))
    suffix = random.choice(["", "", ".gz"])
    words = ["chr1:1-5", "1", "chrM:3-", "chr1:-4", "chr1:1,0-2,0", "chr1:0-1", "chr1:9" + "9" * random.choice([1, 30, 5000]) + "-"]
    word = damaged(random.choice(words).encode(), random, most=1)
    return {f"x.bed{suffix}": pressed(damaged("\n".join(rows).encode(), random), suffix, random), "word": word}


@cache
def small(process: int = 0) -> Reference:
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="fuzz-genome-"))
    (folder / "g.fa").write_text("".join(f">{name}\n{bases}\n" for name, bases in GENOME.items()))
    return Reference.from_fasta(folder / "g.fa", folder)


def check_bed(folder: Path) -> bool:
    reference = small(os.getpid())
    word = (folder / "word").read_bytes().decode("utf-8", "surrogateescape")
    if word and not word.endswith((".bed", ".bed.gz")):
        try:
            with refusing("region ", "contig"):
                read_regions([word], reference)
        except Refused:
            pass
    file = next(f for f in folder.iterdir() if f.name != "word")
    with refusing(str(file)):
        rows = list(bed_rows(file))
        places = [locate(row, reference) for row in rows]
        read_regions(str(file), reference)
    raw = file.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    theirs = []
    for line in raw.removeprefix(b"\xef\xbb\xbf").replace(b"\r", b"\n").split(b"\n"):
        cells = line.split(b"\t") if b"\t" in line else line.split()
        if len(cells) > 2 and not line.startswith(b"#") and cells[1].strip().isdigit() and cells[2].strip().isdigit():
            theirs.append((cells[0].strip().decode("utf-8", "replace"), int(cells[1]), int(cells[2])))
    same([(row.contig, row.start, row.end) for row in rows], theirs, "regions")
    for contig, start, end in places:
        if not 0 <= start < end <= reference.contigs[contig]["length"]:
            raise Fault(f"a region {start}-{end} outside of contig {contig}")
    return True


def _alleles(random: Random, ref: str) -> str:
    some = "".join(random.choices("ACGTN", k=random.randrange(1, 9)))
    kinds = [random.choice("ACGT"), ref + random.choice("ACGT"), ref[:1], some, "*", "<DEL>", "a", "."]
    return ",".join(random.choices(kinds, k=random.choice([1, 1, 1, 2, 3])))


def _info(random: Random, n_alts: int) -> str:
    some = lambda n: ",".join(random.choice(["0.25", "0.5", ".", "0", "1", "1e-3", "0.1"]) for _ in range(n))  # noqa: E731
    figures = n_alts if random.randrange(5) else random.randrange(1, 5)
    items = [
        f"AF={some(figures)}",
        f"AC={','.join('1' for _ in range(n_alts))}",
        "AN=8",
        "COMMON",
        f"FREQ=TOPMED:{some(n_alts + 1)}",
        f"EUR_AF={some(n_alts)}",
    ]
    items += [f"CAF={some(n_alts + 1)}", "X=1"]
    return ";".join(random.sample(items, random.randrange(1, 4)))


def _vcf(random: Random) -> str:
    samples = random.choice(["", "s1", "s1 s2"])
    lines, position = [], 1
    for _ in range(random.randrange(1, 9)):
        contig = "chr1" if random.randrange(8) else "9"
        position = min(60, position + random.randrange(0, 9))
        ref = GENOME["chr1"][position - 1 : position - 1 + random.choice([1, 1, 2, 4])]
        alts = _alleles(random, ref)
        columns = [contig, str(position), ".", ref, alts, ".", random.choice([".", "PASS", "q10"]), _info(random, alts.count(",") + 1)]
        for _ in samples.split():
            columns.append(random.choice(["0|1", "1|0", "1|1", "0/1", "./.", ".", "0", "0|0|1", "2|1", "0|1:3"]))
        if samples:
            columns.insert(8, random.choice(["GT", "GT", "GT:PS", "DP"]))
        lines.append(" ".join(columns))
    return text_of(*lines, samples=samples.replace(" ", "\t"), declared=DECLARED)


def make_vcf(random: Random) -> Files:
    suffix = random.choice(["", "", "", ".gz", ".bgz"])
    text = damaged(_vcf(random).encode(), random)
    return {f"x.vcf{suffix}": pressed(text, suffix, random)}


@cache
def _bcf(process: int, seed: int) -> bytes:
    """Inflated bytes of a BCF that htslib wrote."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        text, binary = Path(name) / "x.vcf", Path(name) / "x.bcf"
        text.write_text(_vcf(Random(seed)))
        with pysam.VariantFile(str(text)) as source, pysam.VariantFile(str(binary), "wb", header=source.header) as sink:
            for record in source:
                sink.write(record)
        return gzip.decompress(binary.read_bytes())


def make_bcf(random: Random) -> Files:
    number = random.randrange(100)
    seeds = range(number, number + 50)  # htslib does not write all that is made
    whole = next(found for found in (oracle(lambda seed=seed: _bcf(os.getpid(), seed)) for seed in seeds) if found is not None)
    at = 9 + int.from_bytes(whole[5:9], "little")
    content = whole[:at] + damaged(whole[at:], random, BINARY) if random.randrange(5) else damaged(whole, random, BINARY)
    return {"x.bcf": random.choice([bytes, bgzip])(content)}


def check_variants(folder: Path) -> bool:
    file = next(iter(folder.iterdir()))
    reference = small(os.getpid())
    keep = VariantFilter(max_ref_mismatch=1.0)
    samples = oracle(lambda: list(pysam.VariantFile(str(file)).header.samples))
    chosen = VariantFilter(max_ref_mismatch=1.0, samples=samples[:1], missing_frequency=0.5) if samples else None
    for number, wanted in enumerate(filter(None, (keep, chosen))):
        with refusing(str(file)):
            read = VariantTable.from_vcf(file, reference, wanted, folder / f"cache{number}")
        _consistent(read, reference)
        if file.name.startswith("x.bcf"):
            if oracle(lambda: _as_text(file, folder / "by_htslib.vcf")):
                theirs = oracle(
                    lambda n=number, w=wanted: VariantTable.from_vcf(folder / "by_htslib.vcf", reference, w, folder / f"text{n}")
                )
                if theirs is not None:
                    same(*([(*row[:3], *row[5:]) for row in table(t)] for t in (read, theirs)), "edits")
                    same(read.genotypes.tolist(), theirs.genotypes.tolist(), "genotypes")
                    same(read.report.skipped, theirs.report.skipped, "left out")
            continue
        theirs = oracle(lambda wanted=wanted: read_by_pysam(file, reference, wanted))
        if theirs is not None and not _says_twice(file):
            rows, genotypes, report = theirs
            same(table(read), [(*r[:2], r[2].upper(), *(float(x) for x in r[3:5]), *r[5:]) for r in rows], "edits")
            same(read.genotypes.tolist(), [[list(c) for c in g] for g in genotypes], "genotypes")
            same(dict(read.report.skipped), {k: n for k, n in report.skipped.items() if n}, "left out")
    return True


def _as_text(file: Path, target: Path) -> bool:
    """Write a BCF as the VCF that htslib makes of it; whether htslib makes the same records of that again, so that nothing was lost."""
    again = target.with_suffix(".bcf")
    with pysam.VariantFile(str(file)) as source:
        target.write_text(str(source.header) + "".join(map(str, source)))
    with pysam.VariantFile(str(target)) as source, pysam.VariantFile(str(again), "wb", header=source.header) as sink:
        for record in source:
            sink.write(record)
    return _records(file) == _records(again)


def _records(file: Path) -> bytes:
    """The bytes behind the header of a BCF."""
    raw = file.read_bytes()
    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    return raw[9 + int.from_bytes(raw[5:9], "little") :]


def _says_twice(file: Path) -> bool:
    """Whether a record has an INFO key twice, which the format forbids: we take the first, and our plain reader the last."""
    raw = file.read_bytes()
    lines = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).split(b"\n")
    for columns in (line.split(b"\t") for line in lines if line[:1] != b"#"):
        keys = [item.partition(b"=")[0] for item in columns[7].split(b";")] if len(columns) > 7 else []
        if len(keys) != len(set(keys)):
            return True
    return False


def _consistent(read: VariantTable, reference: Reference) -> None:
    """Every edit lies in one contig, and none was lost on its way."""
    length = len(reference.codes)
    for start, end, alt, low, high, record, allele in table(read):
        if not (0 <= start <= end <= length and 0 <= low <= high <= 1.000001 and set(alt) <= set("ACGTN") and allele > 0):
            raise Fault(f"an edit {(start, end, alt, low, high, record, allele)}")
        if not 0 <= record < read.report.records:
            raise Fault(f"record {record} of {read.report.records}")
    if sum(read.report.kept.values()) != len(read):
        raise Fault(f"{sum(read.report.kept.values())} kept, {len(read)} there")


FASTA = Target("fasta", make_fasta, check_fasta)
BED = Target("bed", make_bed, check_bed)
VCF = Target("vcf", make_vcf, check_variants)
BCF = Target("bcf", make_bcf, check_variants)

test_fasta = quickly(FASTA)
test_bed = quickly(BED)
test_vcf = quickly(VCF)
test_bcf = quickly(BCF)
