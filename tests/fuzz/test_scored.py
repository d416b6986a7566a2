"""Files of variants as the scorer reads them, record by record: VCF, BCF and tables."""

import gzip
from pathlib import Path
from random import Random

import pandas as pd

from bmfm.evaluation.variant_tables import read_variants as read_for_a_task
from bmfm.variants.alleles import prepare
from bmfm.variants.reading import read_variants
from tests.fuzz.harness import Fault, Files, Refused, Target, oracle, quickly, refusing, same
from tests.fuzz.mutations import damaged, pressed
from tests.fuzz.test_genome import GENOME, make_bcf, make_vcf, small
from tests.fuzz.test_tables import by_csv


def make_scored(random: Random) -> Files:
    form = random.randrange(4)
    if form < 2:
        return (make_vcf, make_bcf)[form](random)
    rows = [["chrom", "pos", "ref", "alt", "score"]]
    for _ in range(random.randrange(1, 6)):
        at = random.randrange(1, 50)
        rows.append(
            ["chr1", str(at), GENOME["chr1"][at - 1], random.choice(["A", "CC", "-", "A,T", "*"]), random.choice(["0.5", "", "NA", "é"])]
        )
    kind, separator = random.choice([("csv", ","), ("tsv", "\t")])
    comments = random.choice(["", "", "## as CADD\n"]) if kind == "tsv" else ""
    suffix = random.choice(["", "", ".gz"])
    text = comments + "\n".join(separator.join(row) for row in rows) + "\n"
    return {f"x.{kind}{suffix}": pressed(damaged(text.encode(), random), suffix, random)}


def check_scored(folder: Path) -> bool:
    file = next(iter(folder.iterdir()))
    try:
        with refusing(str(file)):
            read_for_a_task(file)
    except Refused:
        pass
    with refusing(str(file)):
        shards = list(read_variants(file, 3))
        records = [row for s in shards for row in zip(s.contigs, s.positions.tolist(), s.ids, s.refs, s.alts, strict=True)]
        alleles = [prepare(small(), s.contigs, s.positions, s.refs, s.alts) for s in shards]
    for some in alleles:
        length = len(small().codes)
        if some.is_scored.any() and not (
            (some.start[some.is_scored] >= 0).all() and (some.start + some.n_ref)[some.is_scored].max() <= length
        ):
            raise Fault("a scored allele outside of the genome")
    raw = file.read_bytes()
    raw = oracle(lambda: gzip.decompress(raw)) if raw[:2] == b"\x1f\x8b" else raw
    if ".vcf" in file.name:
        lines = [line.removesuffix(b"\r").split(b"\t") for line in raw.split(b"\n") if line not in (b"", b"\r")]
        at = next(i for i, columns in enumerate(lines) if columns[0] == b"#CHROM")
        same(
            [(*r[:2], r[3], r[4]) for r in records],
            [(c[0].decode("utf-8", "replace"), int(c[1]), c[3], c[4]) for c in lines[at + 1 :]],
            "records",
        )
    elif ".bcf" not in file.name:
        rows = oracle(lambda: by_csv(raw, "\t" if ".tsv" in file.name else ","))
        if rows is not None and not any("" in row for row in rows):
            frame = pd.DataFrame(rows[1:], columns=[name.lower() for name in rows[0]])
            same(len(records), len(frame), "rows")
            if {"chrom", "pos", "ref", "alt"} <= set(frame.columns):
                same([r[3] for r in records], [t.encode() for t in frame["ref"]], "REF")
    return True


SCORED = Target("scored", make_scored, check_scored)

test_scored = quickly(SCORED)
