"""Records of a VCF case by case: where they lie, in which order, with which genotypes and line ends."""

from collections import Counter

import numpy as np
import pytest

from bmfm.genome import vcf_stream
from bmfm.genome.alphabet import decode
from bmfm.genome.reference import Reference
from bmfm.genome.variants import VariantFilter, VariantTable
from tests.conftest import vcf
from tests.genome.vcf_texts import DECLARED, GENOME, slices, table, text_of


def test_records_that_lie_nowhere_are_told_apart(write):
    two = Reference.from_fasta(write("two.fa", ">chrM\nACGT\n>chrMT\nACGT\n>chr1\nACGT\n"))
    text = text_of(
        "MT 1 . A G . . AF=0.5", "chrM 1 . A G . . AF=0.5", "chr1 7 . A G . . AF=0.5", "chr1 4 . TA T . . AF=0.5", "9 1 . A G . . AF=0.5"
    )
    path = write("x.vcf", text)
    variants = VariantTable.from_vcf(path, two, VariantFilter(max_ref_mismatch=1))
    assert variants.report.skipped == {
        "contig may be either of several in the genome": 1, "beyond the end of the contig": 2, "contig not in the genome": 1
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"disagrees with .* in 2 of 3 records \(first: chr1:7"):
        VariantTable.from_vcf(path, two)
    with pytest.raises(ValueError, match=r"none of its 1 records can be applied.*telomere; first: chr1:5"):
        VariantTable.from_vcf(write("y.vcf", text_of("chr1 5 . N <DEL> . . AF=0.5")), two)


def test_headers_and_genomes_of_many_contigs_are_read_in_a_moment(small, write):
    from time import perf_counter

    from bmfm.genome.vcf_header import read_header

    n = 60_000
    head = "".join(f"##contig=<ID=scaffold_{i},length=9>\n" for i in range(n))
    data = vcf().replace("##FILTER", head + "##FILTER", 1).encode()
    start = perf_counter()
    header, _ = read_header(write("x.vcf", ""), iter([(data, 0)]))
    assert len(header.contigs) == n + 3 and perf_counter() - start < 5  # half a minute, where each is compared with each


def test_telomeres_are_left_out_and_counted(small, write):
    text = text_of("chrM 0 . N T . . AF=0.5", "chr1 0 . N NA . . AF=0.5", "chr1 61 . N A . . AF=0.5", "chr1 60 . T A . . AF=0.5")
    variants = VariantTable.from_vcf(write("x.vcf", text), small)
    assert [row[:3] for row in table(variants)] == [(59, 60, "A")]
    assert variants.report.skipped == {"before the first or after the last base of the contig": 3}


def test_a_record_of_many_alleles(small, write):
    alts = ["A" + "".join("ACGT"[(i >> s) & 3] for s in (0, 2, 4, 6)) for i in range(200)]
    text = text_of(f"chr1 1 . A {','.join(alts)} . . . GT 0|200", samples="s1")
    variants = VariantTable.from_vcf(write("x.vcf", text), small, VariantFilter(samples=["s1"]))
    assert variants.allele.tolist() == list(range(1, 201)) and variants.genotypes.tolist() == [[[0, 200]]]
    assert decode(variants.alt[variants.alt_start[199] :]) == alts[-1][1:] and slices(variants)[-1] == 0.5


def test_genotypes_that_are_no_pair_of_phased_alleles_are_counted(small, write):
    text = text_of(
        "chr1 1 . A G . . AF=0.5 GT:PS 0|1:5", "chr1 2 . C G . . AF=0.5 GT 0|0|1", "chr1 3 . G T . . AF=0.5 DP 7",
        "chr1 4 . T G . . AF=0.5 GT ./.", "chr1 5 . A G . . AF=0.5 GT 0|2", "chr1 6 . C G . . AF=0.5 GT 0/1",
        "chr1 7 . G T . . AF=0.5 GT 1", "chr1 8 . T G . . AF=0.5 GT:PS 1|0:5", "chr1 9 . A G . . AF=0.5 GT:PS 1|0:77",
        "chr1 10 . C G . . AF=0.5 GT 1|.", "chr1 11 . G . . . . GT ./.", samples="s1", declared=DECLARED,
    )  # fmt: skip
    variants = VariantTable.from_vcf(write("x.vcf", text), small, VariantFilter(samples=["s1"]))
    assert variants.genotypes[:, 0].tolist() == [
        [0, 1], [0, 0], [-1, -1], [-1, -1], [0, -1], [0, 1], [1, 1], [1, 0], [1, 0], [1, -1], [-1, -1]
    ]  # fmt: skip
    assert variants.report.noted == {
        "genotypes lack GT (read as the reference)": 1, "genotype not called (read as the reference)": 2,
        "genotype of more than two copies (the first two are read)": 1, "heterozygous genotype without phase (order in the file used)": 1,
        "genotype names an allele that its record lacks (read as the reference)": 1,
        "phase set (PS) changes within a contig (the phase between sets is unknown)": 1,
    }  # fmt: skip
    assert variants.report.examples["genotype of more than two copies (the first two are read)"] == "chr1:2"
    with pytest.raises(ValueError, match=r"y\.vcf: record 1 at chr1:1 cannot be read: a genotype"):
        bad = text_of("chr1 1 . A G . . AF=0.5 GT a|b", samples="s1")
        VariantTable.from_vcf(write("y.vcf", bad), small, VariantFilter(samples=["s1"]))


@pytest.mark.parametrize("piece", [16, 1 << 20])
def test_records_in_any_order_give_one_sorted_table(small, write, monkeypatch, piece):
    monkeypatch.setattr(vcf_stream, "_READ", piece)
    records = [f"{c} {p} . {GENOME[c][p - 1]} {GENOME[c][p - 1]}T,N . . AF=0.25,0.5" for c in GENOME for p in range(1, 9)]
    expected = None
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(len(records)) if seed else np.r_[8:16, 0:8]
        variants = VariantTable.from_vcf(write(f"{seed}-{piece}.vcf", text_of(*(records[i] for i in order))), small)
        rows = sorted(row[:5] for row in table(variants))
        assert [row[:2] for row in table(variants)] == [row[:2] for row in rows] and len(rows) == 32
        expected = expected or rows
        assert rows == expected
        assert {int(order[r]) for r in variants.record} == set(range(16))


def test_line_ends_blank_lines_and_columns_too_many(small, write):
    text = text_of("chr1 1 . A G . . AF=0.5", "chr1 2 . C G . . AF=0.5").replace("\n", "\r\n") + "\r\n"
    path = write("x.vcf", "")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode().replace(b"AF=0.5\r\n\r\n", b"AF=0.5\tGT\t0|1\r\n\r\n"))
    variants = VariantTable.from_vcf(path, small)
    assert slices(variants) == [0.5, 0.5]
    assert variants.report.noted == Counter({"record has more columns than the header names (not read)": 1})
