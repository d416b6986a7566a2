import gzip
import json

import numpy as np
import pysam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmfm.genome import alphabet
from bmfm.genome.contigs import ContigNames, canonical_name
from bmfm.genome.frequency import dbsnp_freq
from bmfm.genome.reference import Reference
from bmfm.genome.regions import intersect, merge, read_regions, split_by_block, split_by_contig, within
from bmfm.genome.representation import BiAllele, Haplotype, ReferenceSequence
from bmfm.genome.sites import site_table
from bmfm.genome.variants import VariantFilter, VariantTable
from bmfm.genome.windows import Windows, WindowSampler
from tests.conftest import SLICE_FASTA, vcf
from tests.genome.reference_representation import biallele, haplotype
from tests.genome.reference_vcf import trim


def test_alphabet_is_the_published_table():
    table = json.loads((alphabet.ASSETS / "snp_alphabet.json").read_text())
    assert len(set(alphabet.SYMBOLS)) == 66
    for code in range(66):
        assert table[alphabet.symbol_name(code)] == alphabet.SYMBOLS[code]
    assert alphabet.SYMBOLS[alphabet.PAIR[0, 1]] == "高" and alphabet.symbol_name(alphabet.COMPLEMENT[alphabet.PAIR[0, 1]]) == "C_T"


@given(st.lists(st.integers(0, 65), max_size=30))
def test_reverse_complement_twice_is_identity_without_insertions(codes):
    symbols = np.array([c for c in codes if (alphabet.MEMBERS[c] <= alphabet.DEL).all()], np.uint8)
    assert (alphabet.reverse_complement(alphabet.reverse_complement(symbols)) == symbols).all()


def test_reverse_complement_moves_an_insertion_to_the_next_base():
    text = alphabet.decode(alphabet.reverse_complement(alphabet.encode("AB" + "C")))
    assert text == "HTT"  # the base after the insertion is C; on the other strand it is G, now followed by it
    assert alphabet.decode(alphabet.reverse_complement(alphabet.encode("A" + "BX" + "C"))) == "HXTT"


def test_bases_are_normalised_and_counted():
    codes, replaced = alphabet.read_text("acgtNRy-")
    assert alphabet.decode(codes) == "ACGTNNNN" and replaced == 3
    with pytest.raises(ValueError, match="position 1"):
        alphabet.encode("Aq")


@pytest.mark.parametrize("name", ["1", "chr1", "CHR1", "NC_000001.10", "NC_000001.11", "NC_060925.1", "NC_000067.7"])
def test_contig_styles(name):
    assert canonical_name(name) == "1"


def test_contig_names():
    assert [canonical_name(n) for n in ("chrM", "MT", "NC_012920.1", "chrX", "NC_000023.11", "NC_000024.10", "HLA-A")] == [
        "MT", "MT", "MT", "X", "X", "Y", "HLA-A",
    ]  # fmt: skip
    names = ContigNames(["chr1", "chrM"])
    assert names.find("MT") == 1 and names.find("2") is None
    with pytest.raises(ValueError, match=r"a\.vcf.*'7' is not in the genome"):
        names.require("7", "a.vcf")
    both = ContigNames(["chrM", "chrMT", "X", "x", "1"])  # hg19 has two mitochondria
    assert [both.find(n) for n in ("chrM", "chrMT", "X", "x", "chr1", "MT", "chrX")] == [0, 1, 2, 3, 4, None, None]
    with pytest.raises(ValueError, match=r"a\.vcf: contig 'MT' may be any of chrM, chrMT"):
        both.require("MT", "a.vcf")


FASTA = ">chr1 first\nACGTNNNNNNNNNNNNNNNacgtR\nACGTACGTAC\n>chrM\nGGGGCCCCAATT\n"


@pytest.mark.parametrize("kind", ["plain", "gzip", "bgzip", "windows"])
def test_reference_from_every_kind_of_file(tmp_path, kind):
    path = tmp_path / ("x.fa" if kind in ("plain", "windows") else "x.fa.gz")
    text = FASTA.replace("\n", "\r\n") if kind == "windows" else FASTA
    if kind == "gzip":
        path.write_bytes(gzip.compress(text.encode()))
    elif kind == "bgzip":
        with pysam.BGZFile(str(path), "wb") as sink:
            sink.write(text.encode())
    else:
        path.write_bytes(text.encode())
    reference = Reference.from_fasta(path)
    assert [(c["name"], c["length"], c["n_ambiguous"], c["n_soft_masked"]) for c in reference.contigs] == [
        ("chr1", 34, 1, 4),
        ("chrM", 12, 0, 0),
    ]
    assert alphabet.decode(reference.fetch("1", 17, 28)) == "NNACGTNACGT"
    assert reference.soft_masked("chr1", 18, 25).tolist() == [False, True, True, True, True, False, False]
    assert reference.known_intervals(10).tolist() == [[0, 4], [19, 34], [35, 47]]
    assert reference.locate(36) == ("chrM", 1)
    with pytest.raises(ValueError, match="outside"):
        reference.fetch("chr1", 30, 40)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ACGT\n", "does not begin"),
        (">a\nACGT1\n", "position 5"),
        ("", "no sequence"),
        (">a\nA\n>a\nC\n", "more than once"),
        (">\nA\n", "no name"),
    ],
)
def test_broken_fasta_says_what_is_wrong(write, text, message):
    with pytest.raises(ValueError, match=message):
        Reference.from_fasta(write("x.fa", text))


def test_missing_file_names_near_matches(write):
    path = write("genome.fa", FASTA)
    with pytest.raises(FileNotFoundError, match=r"did you mean.*genome\.fa"):
        Reference.from_fasta(path.parent / "genom.fa")


def test_slice_is_what_pysam_reads(slice_reference):
    with pysam.FastaFile(str(SLICE_FASTA)) as fasta:
        assert alphabet.decode(slice_reference.fetch("chr20_slice", 0, 1_000_000)) == fasta.fetch("chr20_slice").upper()


@pytest.fixture
def small(write):
    return Reference.from_fasta(write("g.fa", ">chr1\nACGTACGTACGTACGTACGT\n>chrM\nACGTACGT\n"))


def test_every_skip_is_counted_by_reason(small, write):
    text = vcf(
        "1 1 . A G . PASS AF=0.5", "1 2 . C T,G . PASS AF=0.25,0.1", "1 3 . G <DEL> . PASS AF=0.1", "1 4 . T A . PASS .",
        "chr1 5 . ACG A . q10 AC=1;AN=4", "chr1 9 . A AGG . PASS FREQ=X:0.9,0.1|Y:0.7,0.3|Z:.,.", "MT 2 . CG TA . PASS AF=0.5",
        "9 1 . A C . . AF=0.5", "chr1 3 . G A . PASS AF=0.0001", "1 6 . C . . . .",
    )  # fmt: skip
    variants = VariantTable.from_vcf(write("v.vcf", text), small, VariantFilter(min_frequency=0.001))
    report = variants.report
    assert report.records == 10
    assert report.kept == {"snv": 3, "deletion": 1, "insertion": 1, "mnv": 1}
    assert report.skipped == {
        "symbolic, spanning or non-ACGTN ALT": 1, "no frequency stated": 1, "contig not in the genome": 1,
        "frequency out of bounds": 1, "no ALT allele": 1,
    }  # fmt: skip
    assert report.noted["record out of order (sorted)"] == 1
    rows = {(int(s), int(e), alphabet.decode(variants.alt[a:b])): round(float(h - low), 4) for s, e, a, b, low, h in zip(variants.start, variants.end, variants.alt_start[:-1], variants.alt_start[1:], variants.low, variants.high, strict=True)}  # fmt: skip
    assert rows == {(0, 1, "G"): 0.5, (1, 2, "T"): 0.25, (1, 2, "G"): 0.1, (5, 7, ""): 0.25, (9, 9, "GG"): 0.2, (22, 24, "TA"): 0.5}
    strict = VariantTable.from_vcf(
        write("v.vcf", text), small, VariantFilter(pass_only=True, kinds=["snv", "deletion"], regions=["chr1:1-4"])
    )
    assert strict.report.kept == {"snv": 4} and strict.report.skipped["FILTER is not PASS"] == 1
    assert strict.report.skipped["kind insertion not wanted"] == 1


def test_wrong_assembly_is_refused(small, write):
    records = [f"1 {p} . {'T' if p % 2 else 'A'} G . . AF=0.5" for p in range(1, 20)]
    with pytest.raises(ValueError, match="wrong assembly"):
        VariantTable.from_vcf(write("v.vcf", vcf(*records)), small)
    with pytest.raises(ValueError, match="none of its 1 records"):
        VariantTable.from_vcf(write("w.vcf", vcf("9 1 . A C . . AF=0.5")), small)
    with pytest.raises(ValueError, match="cannot be read"):
        VariantTable.from_vcf(write("x.vcf", "not a vcf\n"), small)


def test_frequencies():
    assert dbsnp_freq("A:0.9,0.1|B:0.8,.|C:.,.", 1, set()) == [0.1]
    assert dbsnp_freq("A:.,.", 1, set()) is None
    assert trim("CAGT", "CGT") == (1, "A", "") and trim("A", "AGG") == (1, "", "GG") and trim("AT", "GC") == (0, "AT", "GC")
    assert trim("C", "TTC") == (0, "", "TT") and trim("ACG", "G") == (0, "AC", "")  # anchored by the base after, as at a contig's start


def test_phased_genotypes_write_the_samples_chromosomes(small, write):
    text = vcf("1 1 . A G . . . GT 0|1", "1 5 . ACG A . . . GT 1|0", "1 9 . A ATT . . . GT 1|1", "M 2 . C T . . . GT 1", samples="s1")
    keep = VariantFilter(samples=["s1"], missing_frequency=0.5)
    variants = VariantTable.from_vcf(write("p.vcf", text), small, keep)
    represent = Haplotype(small, variants, samples=["s1"], positions=True)
    many = Windows(*(np.full(64, v, t) for v, t in ((0, np.int64), (12, np.int64), (False, bool))), np.arange(64, dtype=np.uint64) * 7919)
    encoded = represent(many)
    assert {alphabet.decode(encoded[b]) for b in range(64)} == {"ACGTATATTCGT", "GCGTACGTATTCGT"}
    with pytest.raises(ValueError, match="nobody"):
        VariantTable.from_vcf(write("p.vcf", text), small, VariantFilter(samples=["nobody"]))
    pair = BiAllele(small, variants, sample="s1")
    one = Windows(np.array([0]), np.array([12]), np.array([False]), np.array([1], np.uint64))
    names = [alphabet.symbol_name(c & 0x7F) for c in pair(one)[0]]
    assert names == ["A_G", "C", "G", "T", "A", "C_DEL", "DEL_G", "T", "AI", "C", "G", "T"]
    back = Windows(one.start, one.end, np.array([True]), one.key)
    assert [alphabet.symbol_name(c & 0x7F) for c in pair(back)[0]] == [
        "A",
        "C",
        "GI",
        "T",
        "A",
        "C_DEL",
        "DEL_G",
        "T",
        "A",
        "C",
        "G",
        "C_T",
    ]


@pytest.mark.parametrize("reverse", [False, True])
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), start=st.integers(0, 990_000), length=st.integers(1, 2000))
def test_kernels_agree_with_plain_python(slice_reference, slice_variants, reverse, seed, start, length):
    end = min(start + length, 1_000_000)
    near = np.flatnonzero((slice_variants.start > start - 5000) & (slice_variants.start < end + 5000))
    few = _subset(slice_variants, near)
    windows = Windows(np.array([start]), np.array([end]), np.array([reverse]), np.array([seed], np.uint64))
    assert BiAllele(slice_reference, few)(windows)[0].tolist() == biallele(slice_reference, few, start, end, reverse, np.uint64(seed))
    encoded = Haplotype(slice_reference, few, positions=True)(windows)
    symbols, positions = haplotype(slice_reference, few, start, end, reverse, np.uint64(seed))
    assert encoded[0].tolist() == symbols and encoded.positions.tolist() == positions
    plain = ReferenceSequence(slice_reference)(windows)[0]
    expected = slice_reference.fetch("chr20_slice", start, end)
    assert (plain == (alphabet.reverse_complement(expected) if reverse else expected)).all()


def _subset(variants, rows):
    lengths = np.diff(variants.alt_start)[rows]
    columns = {n: np.asarray(getattr(variants, n))[rows] for n in ("start", "end", "record", "allele")}
    boosted = np.asarray(variants.high)[rows] - np.asarray(variants.low)[rows]
    high = np.minimum(np.asarray(variants.low)[rows] + np.maximum(boosted, np.float32(0.3)), 1).astype(np.float32)  # rare ones too
    alt = np.concatenate([variants.alt[variants.alt_start[r] : variants.alt_start[r + 1]] for r in rows] or [np.empty(0, np.uint8)])
    alt_start = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return VariantTable(
        **columns,
        low=np.asarray(variants.low)[rows],
        high=high,
        alt=alt,
        alt_start=alt_start,
        genotypes=variants.genotypes,
        samples=(),
        report=variants.report,
    )


def test_pairs_follow_frequency(slice_reference, slice_variants):
    sampler = WindowSampler(slice_reference.known_intervals(), 1000, 1000, coverage=20, strand="forward")
    symbols = BiAllele(slice_reference, slice_variants)(sampler.draw(0, np.arange(len(sampler)))).symbols & 0x7F
    share = (symbols > 10).sum() / len(symbols)
    p = np.asarray(slice_variants.high) - np.asarray(slice_variants.low)
    deleted = np.maximum(np.asarray(slice_variants.end - slice_variants.start), 1)
    expected = (2 * p * (1 - p) * deleted).sum() / 1_000_000
    assert share == pytest.approx(expected, rel=0.1)


def test_always_writes_every_site_on_both_strands(slice_reference, slice_variants):
    position, first_state, _, frequency = site_table(slice_reference, slice_variants, reverse=False)
    assert (np.diff(first_state) >= 2).all() and len(frequency) == first_state[-1]
    window = [Windows(np.array([1000]), np.array([9000]), np.array([r]), np.array([3], np.uint64)) for r in (False, True)]
    forward, back = (BiAllele(slice_reference, slice_variants, "always")(w)[0] for w in window)
    inside = (position >= 1000) & (position < 9000)
    assert (np.flatnonzero(forward > 127) + 1000 == position[inside]).all() and inside.sum() > 100
    snv = (alphabet.MEMBERS[forward & 0x7F] < 4).all(1)
    same = alphabet.COMPLEMENT[back[::-1] & 0x7F] == forward & 0x7F
    assert same[snv].mean() > 0.99  # sites with an insertion lie one base further on the other strand


def test_windows_depend_on_seed_epoch_and_index_alone():
    sampler = WindowSampler(np.array([[0, 5000], [9000, 20000]]), 100, 1000, multiple=50, coverage=5, seed=4)
    whole = sampler.draw(2, np.arange(300))
    part = sampler.draw(2, np.arange(100, 200))
    for name in ("start", "end", "reverse", "key"):
        assert (getattr(whole, name)[100:200] == getattr(part, name)).all()
    assert (whole.start != sampler.draw(3, np.arange(300)).start).any()
    assert within(whole.start, whole.end, sampler.intervals).all()
    assert set((whole.end - whole.start) % 50) == {0} and 0.3 < whole.reverse.mean() < 0.7


def test_tiling_and_both_strands():
    sampler = WindowSampler(np.array([[0, 1000], [2000, 2350]]), 300, 300, stride=100, strand="both")
    windows = sampler.draw(0, np.arange(len(sampler)))
    assert windows.start[::2].tolist() == [*range(0, 800, 100), 2000] and windows.reverse.tolist() == [False, True] * 9
    with pytest.raises(ValueError, match="no interval holds"):
        WindowSampler(np.array([[0, 10]]), 100, 100)


def test_splits_share_no_locus(slice_reference):
    parts = split_by_block(slice_reference, 25_000, {"validation": 0.1, "test": 0.2}, seed=1)
    assert [int((r[:, 1] - r[:, 0]).sum()) for r in parts.values()] == [100_000, 200_000, 700_000]
    assert merge(np.concatenate(list(parts.values()))).tolist() == [[0, 1_000_000]]
    assert not len(intersect(parts["train"], parts["validation"])) and not len(intersect(parts["train"], parts["test"]))
    with pytest.raises(ValueError, match="all 1 blocks"):
        split_by_block(slice_reference, 2_000_000, {"validation": 0.1})


def test_split_by_contig_and_regions(small, write):
    parts = split_by_contig(small, {"validation": ["MT"]})
    assert parts["validation"].tolist() == [[21, 29]] and parts["train"].tolist() == [[0, 20]]
    bed = write("r.bed", "track x\n1\t2\t6\nchr1\t5\t9\nM\t0\t2\n")
    assert read_regions(str(bed), small).tolist() == [[2, 9], [21, 23]]
    assert read_regions(["chr1:3-6", "MT"], small).tolist() == [[2, 6], [21, 29]]
    with pytest.raises(ValueError, match=r"b\.bed:1.*not inside"):
        read_regions(str(write("b.bed", "1\t2\t60\n")), small)
    with pytest.raises(ValueError, match=r"c\.bed:2"):
        read_regions(str(write("c.bed", "1\t2\t3\nchr1 x 3\n")), small)


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=8),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=8),
)
def test_interval_sets_are_sets(a, b):
    sets = [merge(np.array([(s, s + n) for s, n in rows], np.int64)) for rows in (a, b)]
    members = [{p for s, e in rows for p in range(s, e)} for rows in sets]
    assert members[0] == {p for s, n in a for p in range(s, s + n)}
    assert {p for s, e in intersect(*sets) for p in range(s, e)} == members[0] & members[1]
