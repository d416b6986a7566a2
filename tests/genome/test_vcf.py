"""Reading of VCF and BCF: against plain Python over pysam's records, against bcftools, and case by case."""

import gzip
import shutil
import subprocess
from collections import Counter

import numpy as np
import pysam
import pysam.bcftools
import pytest
from hydra.utils import instantiate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bmfm.cli import compose
from bmfm.data.dna import DnaDataModule
from bmfm.genome import vcf_stream
from bmfm.genome.alphabet import decode
from bmfm.genome.reference import Reference
from bmfm.genome.variants import VariantFilter, VariantTable
from tests.conftest import SLICE_VCF, vcf
from tests.genome.reference_vcf import read

GENOME = {"chr1": "ACGTACGTACGTACGTACGT" * 3, "chrM": "ACGTACGTNNGT"}
DECLARED = (
    "##contig=<ID=1>\n##contig=<ID=MT>\n"
    '##INFO=<ID=CAF,Number=.,Type=String,Description="c">\n##INFO=<ID=EUR_AF,Number=A,Type=Float,Description="e">\n'
    '##FORMAT=<ID=PS,Number=1,Type=Integer,Description="p">\n##FORMAT=<ID=DP,Number=1,Type=Integer,Description="d">\n'
)


@pytest.fixture(scope="module")
def small(tmp_path_factory, cache) -> Reference:
    path = tmp_path_factory.mktemp("genome") / "g.fa"
    path.write_text("".join(f">{name}\n{bases}\n" for name, bases in GENOME.items()))
    return Reference.from_fasta(path)


pysam.set_verbosity(0)


def text_of(*records: str, samples: str = "", declared: str = "") -> str:
    return vcf(*records, samples=samples).replace("##FILTER", declared + "##FILTER", 1)


def table(variants: VariantTable) -> list[tuple]:
    alt = [decode(variants.alt[a:b]) for a, b in zip(variants.alt_start[:-1], variants.alt_start[1:], strict=True)]
    columns = (variants.start, variants.end, alt, variants.low, variants.high, variants.record, variants.allele)
    return [tuple(c.item() if hasattr(c, "item") else c for c in row) for row in zip(*columns, strict=True)]


def slices(variants: VariantTable) -> list[float]:
    return [round(float(h - low), 4) for low, h in zip(variants.low, variants.high, strict=True)]


def assert_agrees(path, reference, keep, plain, folder):
    variants = VariantTable.from_vcf(path, reference, keep, folder)
    rows, genotypes, report = read(plain, reference, keep)
    rows = [tuple(c.item() if hasattr(c, "item") else c for c in row) for row in rows]
    # htslib keeps a frequency as float32 and rescaling divides it: the slices may differ in the last bit
    assert [row[:3] + row[5:] for row in table(variants)] == [row[:3] + row[5:] for row in rows]
    np.testing.assert_allclose([row[3:5] for row in table(variants)], [row[3:5] for row in rows], atol=1e-6)
    assert variants.genotypes.tolist() == [[list(g) for g in record] for record in genotypes]
    assert variants.report.records == report.records
    for name in ("kept", "skipped", "noted"):
        assert getattr(variants.report, name) == getattr(report, name), name
    return variants


_figure = st.sampled_from(["0.5", "0.25", "1e-3", "2.5E-02", "0", "1", ".", "0.123456", "1.0", "0.3333333333333333333", "nan"])
_name = st.sampled_from(["chr1"] * 6 + ["1", "MT", "chrM", "9"])
_bases = st.text("ACGT", min_size=1, max_size=4)


@st.composite
def _record(draw, n_samples):
    name, position = draw(_name), draw(st.integers(0, 62))
    sequence = GENOME["chrM" if name in ("MT", "chrM") else "chr1"]
    ref = sequence[position - 1 : position - 1 + draw(st.integers(1, 5))] or "A"
    ref = draw(_bases) if draw(st.integers(0, 9)) == 0 else draw(st.sampled_from([ref, ref.lower()]))
    special = st.sampled_from(["<DEL>", "*", "n", ref, "AR", "acg"])
    alts = draw(st.lists(st.one_of(_bases, _bases, _bases.map(lambda b: ref + b), special), max_size=4, unique=True))
    n = max(len(alts), 1)
    numbers = st.lists(_figure, min_size=max(n - 1, 1), max_size=n + 1)
    counts = st.lists(st.sampled_from(["0", "1", "3", "."]), min_size=n, max_size=n)
    study = numbers.map(lambda f: f"S:0.5,{','.join(f)}")
    items = {
        "AF": numbers.map(",".join), "AC": counts.map(",".join), "AN": st.sampled_from(["4", "8", ".", "0"]),
        "FREQ": st.lists(study, min_size=1, max_size=3).map("|".join), "CAF": numbers.map(lambda f: f"[0.5,{','.join(f)}]"), "EUR_AF": numbers.map(",".join),
    }  # fmt: skip
    chosen = draw(st.lists(st.sampled_from(list(items)), unique=True, max_size=3))
    info = ([f"{k}={draw(items[k])}" for k in chosen] + ["COMMON"] * draw(st.integers(0, 1))) or ["."]
    if "AC" in chosen and "AN" in chosen:
        info = [i for i in info if not i.startswith("AN=")] + ["AN=16"]
    fields = [name, str(position), ".", ref, ",".join(alts) or ".", ".", draw(st.sampled_from([".", "PASS", "q10"])), ";".join(info)]
    if n_samples:
        shape = draw(st.sampled_from(["GT", "GT:PS", "GT:DP:PS", "DP", "GT:DP"]))
        allele = st.sampled_from([".", *map(str, range(len(alts) + 1))])
        genotype = st.lists(allele, min_size=1, max_size=3).flatmap(lambda a: st.sampled_from(["|".join(a), "/".join(a)]))
        small_number = st.sampled_from([".", "7", "300", "70000"])
        fields += [shape, *(":".join(draw(genotype if f == "GT" else small_number) for f in shape.split(":")) for _ in range(n_samples))]
    return "\t".join(fields)


@st.composite
def _file(draw):
    n_samples = draw(st.sampled_from([0, 0, 2]))
    records = draw(st.lists(_record(n_samples), min_size=1, max_size=25))
    if draw(st.booleans()):
        records.sort(key=lambda r: (not r.startswith("chr1"), int(r.split("\t")[1])))
    samples = ("s1", "s2")[:n_samples]
    keep = VariantFilter(
        min_frequency=draw(st.sampled_from([0.0, 0.0, 0.001, 0.25])),
        max_frequency=draw(st.sampled_from([1.0, 1.0, 0.5])),
        missing_frequency=draw(st.sampled_from([None, 0.4])),
        frequency_source=draw(st.sampled_from(["auto", "auto", "FREQ", "EUR_AF", "CAF"] + ["genotypes"] * bool(samples))),
        pass_only=draw(st.booleans()),
        info_flag=draw(st.sampled_from([None, None, "COMMON"])),
        kinds=draw(st.sampled_from([("snv", "mnv", "insertion", "deletion", "complex"), ("snv", "deletion")])),
        regions=draw(st.sampled_from([None, ["chr1:5-20"]])),
        samples=draw(st.sampled_from([(), samples, samples[::-1]])),
        max_ref_mismatch=1.0,
    )
    return vcf(*records, samples="\t".join(samples)).replace("##FILTER", DECLARED + "##FILTER", 1), keep


@pytest.mark.parametrize("binary", [False, True], ids=["vcf", "bcf"])
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(file=_file(), piece=st.sampled_from([16, 64, vcf_stream._READ]))
def test_agrees_with_plain_python_on_random_files(small, tmp_path_factory, binary, file, piece):
    text, keep = file
    folder = tmp_path_factory.mktemp("random")
    path = plain = folder / "x.vcf"
    path.write_text(text)
    if binary:
        path = folder / "x.bcf"
        pysam.bcftools.view("--no-version", "-Ob", "-o", str(path), str(plain), catch_stdout=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vcf_stream, "_READ", piece)
        try:
            assert_agrees(path, small, keep, plain, folder)
        except ValueError as error:
            assert "none of its" in str(error) or "no alternative alleles" in str(error) or "not in the file" in str(error)
    shutil.rmtree(folder)


def test_agrees_with_plain_python_on_real_variants(slice_reference, tmp_path):
    common = VariantFilter(frequency_source="EUR_AF", min_frequency=0.01, regions=["chr20_slice:200000-700000"])
    for keep in (VariantFilter(), common):
        assert_agrees(SLICE_VCF, slice_reference, keep, SLICE_VCF, tmp_path)


@pytest.mark.skipif(not shutil.which("bcftools"), reason="needs bcftools")
def test_records_and_alleles_are_those_of_bcftools(slice_reference, tmp_path):
    def ask(*words: str) -> list[str]:
        return subprocess.run(["bcftools", *words, str(SLICE_VCF)], capture_output=True, text=True, check=True).stdout.splitlines()

    alts = [alt for line in ask("query", "-f", "%ALT\n") for alt in line.split(",")]
    for form, name in (("z", "x.vcf.gz"), ("v", "x.vcf"), ("b", "x.bcf"), ("u", "y.bcf")):
        ask("view", f"-O{form}", "-o", str(tmp_path / name))
        report = VariantTable.from_vcf(tmp_path / name, slice_reference, cache_dir=tmp_path).report
        assert report.records == len(ask("view", "-H"))
        assert sum(report.kept.values()) + sum(report.skipped.values()) == len(alts)
        assert sum(report.kept.values()) == sum(set(alt) <= set("ACGT") for alt in alts)


def test_dbsnp_in_its_new_and_its_old_form(small, write):
    """No AF in the header; FREQ or CAF, whose first figure is that of REF; COMMON as a flag and as a number."""
    head = '##fileformat=VCFv4.2\n##INFO=<ID=COMMON,Number={},Description="x">\n##INFO=<ID={},Number=.,Type=String,Description="x">\n'
    columns = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    new = head.format("0,Type=Flag", "FREQ") + columns + (
        "NC_000001.11\t1\trs1\tA\tG\t.\t.\tFREQ=1000Genomes:0.9,0.1|TOPMED:0.8,0.2;COMMON\n"
        "NC_000001.11\t2\trs2\tC\tA,T\t.\t.\tFREQ=1000Genomes:0.7,.,0.3;COMMON\nNC_000001.11\t3\trs3\tG\tT\t.\t.\tRS=3\n"
    )  # fmt: skip
    old = head.format("1,Type=Integer", "CAF") + columns + (
        "1\t1\trs1\tA\tG\t.\t.\tCAF=[0.9,0.1];COMMON=1\n1\t2\trs2\tC\tA,T\t.\t.\tCAF=0.7,.,0.3;COMMON=1\n1\t3\trs3\tG\tT\t.\t.\tCAF=0.9,0.1;COMMON=0\n"
    )  # fmt: skip
    keep = VariantFilter(info_flag="COMMON", min_frequency=0.001)
    for name, text, first in (("new.vcf", new, 0.15), ("old.vcf", old, 0.1)):
        variants = VariantTable.from_vcf(write(name, text), small, keep)
        assert [(row[0], row[2]) for row in table(variants)] == [(0, "G"), (1, "T")]
        assert slices(variants) == [first, 0.3]
        assert variants.report.skipped == {"no INFO flag COMMON": 1, "frequency out of bounds": 1}
        assert variants.report.noted == {"no frequency for one of several ALT alleles (0 used)": 1}


def test_a_flag_or_field_that_the_header_lacks_is_named(small, write):
    path = write("x.vcf", '##fileformat=VCFv4.2\n##INFO=<ID=VALIDATED,Number=0,Type=Flag,Description="x">\n'
                 "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\nchr1\t1\t.\tA\tG\t.\t.\tVALIDATED\n")  # fmt: skip
    with pytest.raises(ValueError, match=r"x\.vcf.*COMMON.*VALIDATED.*info_flag=null"):
        VariantTable.from_vcf(path, small, VariantFilter(info_flag="COMMON"))
    with pytest.raises(ValueError, match=r"x\.vcf.*EUR_AF.*VALIDATED"):
        VariantTable.from_vcf(path, small, VariantFilter(frequency_source="EUR_AF"))
    with pytest.raises(ValueError, match=r"x\.vcf.*no samples"):
        VariantTable.from_vcf(path, small, VariantFilter(frequency_source="genotypes"))
    assert slices(VariantTable.from_vcf(path, small, VariantFilter(missing_frequency=0.25))) == [0.25]


@pytest.mark.parametrize(
    ("declared", "info", "frequency"),
    [
        ("Number=A,Type=Integer", "AC=.;AN=4", None),
        ("Number=A,Type=Integer", "AC=1;AN=.", None),
        ("Number=A,Type=Integer", "AC=1;AN=0", None),
        ("Number=1,Type=String", "AC=1;AN=4", 0.25),
        ("Number=1,Type=String", "AF=0.5", 0.5),
        ("Number=1,Type=Float", "AF=.", None),
        ("Number=1,Type=Float", "AF=nan;AC=3;AN=4", 0.75),
        ("Number=A,Type=Float", "AF=0.5,0.1", None),
        ("Number=0,Type=Flag", "AF", None),
    ],
)
def test_frequencies_however_they_are_declared(small, write, tmp_path, declared, info, frequency):
    head = "".join(f'##INFO=<ID={key},{declared},Description="x">\n' for key in ("AF", "AC", "AN"))
    text = (
        f"##fileformat=VCFv4.2\n##contig=<ID=chr1>\n{head}#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\nchr1\t1\t.\tA\tG\t.\t.\t{info}\n"
    )
    variants = VariantTable.from_vcf(write("x.vcf", text), small)
    assert slices(variants) == ([] if frequency is None else [frequency])
    assert variants.report.skipped["no frequency stated"] == (frequency is None)


def test_counts_of_two_alleles_one_missing(small, write):
    assert slices(VariantTable.from_vcf(write("x.vcf", text_of("chr1 1 . A G,T . . AC=1,.;AN=4")), small)) == [0.25, 0]


@pytest.mark.parametrize("binary", [False, True], ids=["vcf", "bcf"])
@pytest.mark.parametrize(
    ("declared", "info", "said"),
    [("Float", "FREQ=0.125", "FREQ=0.125"), ("String", "FREQ=12.5%", "FREQ=12.5%"), ("Float", "AF=1.00002", "AF=1.00002: 1.0000")],
)
def test_a_freq_that_is_not_that_of_dbsnp_is_named(small, write, tmp_path, binary, declared, info, said):
    text = text_of("chr1 1 . A G . . AF=0.5;FREQ=.", f"chr1 3 . G T . . {info}").replace(
        "ID=FREQ,Number=.,Type=String", f"ID=FREQ,Number=.,Type={declared}"
    )
    path = write("x.vcf", text)
    if binary:
        pysam.bcftools.view("-Ob", "-o", str(tmp_path / "x.bcf"), str(path), catch_stdout=False)
        path = tmp_path / "x.bcf"
    with pytest.raises(ValueError) as caught:
        VariantTable.from_vcf(path, small)
    assert f"{path}: record 2 at chr1:3" in str(caught.value) and said in str(caught.value)
    if "FREQ" in info:
        assert "STUDY:0.9,0.1" in str(caught.value) and "+fill-tags" in str(caught.value)
        with_af = write("y.vcf", text.replace(info, f"{info};AF=0.25"))  # as long as AF is there, FREQ may be anything
        assert slices(VariantTable.from_vcf(with_af, small)) == [0.5, 0.25]


def test_what_is_above_1_by_rounding_is_1(small, write):
    text = text_of("chr1 1 . A G . . AF=1.0000001", "chr1 2 . C G,T . . AF=0.6,0.4", "chr1 3 . G T,A . . AF=0.7,0.4")
    variants = VariantTable.from_vcf(write("x.vcf", text), small)
    assert slices(variants) == [1.0, 0.6, 0.4, 0.6364, 0.3636]
    assert variants.report.noted == {"frequencies add up to more than 1 (rescaled)": 1}


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


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ("AF=17", "AF=17: 17 is no frequency"),
        ("AF=-0.1", "AF=-0.1: -0.1 is no frequency"),
        ("AF=inf", "AF=inf: inf is no frequency"),
        ("AF=half", "AF=half: 'half' is no number"),
        ("AC=5;AN=4", "AC=5;AN=4: 1.25 is no frequency"),
        ("AC=1;AN=many", "'many' is no number"),
        ("FREQ=A:0.9,0.1|B:0.2,8", "8 is no frequency"),
        ("CAF=[0.9,x]", "'x' is no number"),
    ],
)
@pytest.mark.parametrize("binary", [False, True], ids=["vcf", "bcf"])
def test_impossible_frequencies_name_their_record(small, write, tmp_path, binary, info, said):
    path = write("x.vcf", text_of("chr1 1 . A G . . AF=0.5", f"chr1 3 . G T . . {info}", declared=DECLARED))
    if binary:
        if "half" in info or "many" in info:
            pytest.skip("a BCF holds numbers where numbers are declared")
        pysam.bcftools.view("-Ob", "-o", str(tmp_path / "x.bcf"), str(path), catch_stdout=False)
        path = tmp_path / "x.bcf"
    with pytest.raises(ValueError) as caught:
        VariantTable.from_vcf(path, small)
    assert f"{path}: record 2 at chr1:3 cannot be read" in str(caught.value) and said in str(caught.value)


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


def test_plain_gzip_is_read_and_cut_files_are_refused(small, tmp_path):
    raw = text_of(*(f"chr1 {p} . {GENOME['chr1'][p - 1]} N . . AF=0.5" for p in range(1, 61))).encode()
    whole = tmp_path / "whole.vcf.gz"
    whole.write_bytes(gzip.compress(raw[:900]) + gzip.compress(raw[900:]))  # two members
    assert len(VariantTable.from_vcf(whole, small)) == 60
    with pysam.BGZFile(str(tmp_path / "whole.vcf.bgz"), "wb") as sink:
        sink.write(raw)
    block = (tmp_path / "whole.vcf.bgz").read_bytes()
    assert len(VariantTable.from_vcf(tmp_path / "whole.vcf.bgz", small)) == 60
    damaged = block[:200] + bytes([block[200] ^ 1]) + block[201:]
    for number, data in enumerate((whole.read_bytes()[:-20], block[:-28], block[:-40], damaged)):
        path = tmp_path / f"cut{number}.vcf.gz"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"cut{number}\.vcf\.gz: the b?gzip data (cannot be read to their end|are cut or damaged)"):
            VariantTable.from_vcf(path, small)
    pysam.bcftools.view("-Ou", "-o", str(tmp_path / "x.bcf"), str(whole), catch_stdout=False)
    (tmp_path / "cut.bcf").write_bytes(gzip.decompress((tmp_path / "x.bcf").read_bytes())[:-5])
    with pytest.raises(ValueError, match=r"cut\.bcf: record 60 cannot be read: the file ends"):
        VariantTable.from_vcf(tmp_path / "cut.bcf", small)


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([], "a header and no records"),
        (["chr1 1 . A . . . .", "chr1 2 . C <NON_REF> . . END=9"], "no alternative alleles in its 2 records"),
        (["chr1 1 . A G . . .", "chr1 2 . C"], "record 2 cannot be read: it has fewer than the 8 columns.*'chr1.t2"),
        (["chr1 x . A G . . ."], "record 1 cannot be read: its POS is no whole number"),
        (["chr1 -5 . A G . . ."], "record 1 cannot be read: its POS is no whole number"),
        (["9 1 . A G . . ."], "none of its 1 records lies on a contig"),
    ],
)
def test_files_with_nothing_to_give(small, write, records, said):
    with pytest.raises(ValueError, match=rf"x\.vcf: {said}"):
        VariantTable.from_vcf(write("x.vcf", text_of(*records)), small)


def test_what_is_no_vcf(small, write, tmp_path):
    for name, text in (
        ("a.vcf", "hello\n"),
        ("b.vcf", ""),
        ("c.vcf", "##fileformat=VCFv4.2\nchr1\t1\n"),
        ("d.vcf", "##fileformat=VCFv4.2\n#CHROM POS\n"),
    ):
        with pytest.raises(ValueError, match=rf"{name}: cannot be read as VCF"):
            VariantTable.from_vcf(write(name, text), small)
    (tmp_path / "folder.vcf").mkdir()
    with pytest.raises(ValueError, match=r"folder\.vcf.*is a folder"):
        VariantTable.from_vcf(tmp_path / "folder.vcf", small)


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


def test_fields_of_the_specification_are_read_though_the_header_lacks_them(small, write):
    text = "##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\nchr1\t1\t.\tA\tG,T\t.\t.\tAF=0.5,0.1\n"
    assert slices(VariantTable.from_vcf(write("x.vcf", text), small)) == [0.5, 0.1]


def test_the_published_recipe_reads_a_file_of_dbsnp(small, write):
    """Its options go through a file that has neither AF nor samples."""
    text = (
        '##fileformat=VCFv4.2\n##INFO=<ID=RS,Number=1,Type=Integer,Description="x">\n##INFO=<ID=FREQ,Number=.,Type=String,Description="x">\n'
        '##INFO=<ID=COMMON,Number=0,Type=Flag,Description="x">\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n'
        "NC_000001.11\t1\trs1\tA\tG\t.\t.\tRS=1;FREQ=1000Genomes:0.9,0.1;COMMON\n"
        "NC_000001.11\t2\trs2\tC\tG\t.\t.\tRS=2;FREQ=1000Genomes:0.9995,0.0005;COMMON\n"
        "NC_000001.11\t3\trs3\tG\tC\t.\t.\tRS=3;FREQ=1000Genomes:0.5,0.5\nNC_000001.11\t4\trs4\tT\tC\t.\t.\tRS=4;COMMON\n"
    )
    path = write("dbsnp.vcf", text)
    config = compose("train", ["+recipe=dna_snp_113m", f"data.fasta={small.source}", f"data.variants={path}"])
    variants = VariantTable.from_vcf(config.data.variants, small, instantiate(config.data.variant_filter))
    assert [row[:3] for row in table(variants)] == [(0, 1, "G")] and slices(variants) == [0.1]
    assert variants.report.skipped == {"no INFO flag COMMON": 1, "frequency out of bounds": 1, "no frequency stated": 1}


@pytest.mark.skipif(not shutil.which("bcftools"), reason="needs bcftools")
@pytest.mark.parametrize("form", ["v", "z", "b"])
def test_genotypes_and_their_frequencies_are_those_of_bcftools(small, write, tmp_path, form):
    """Forty phased samples and no INFO field at all, as phased panels are written."""
    rng = np.random.default_rng(0)
    names = [f"s{i}" for i in range(40)]
    records = []
    for p in range(1, 41):
        ref = GENOME["chr1"][p - 1]
        alts = [b for b in "ACGT" if b != ref][: 1 + p % 3]
        calls = rng.integers(0, len(alts) + 1, (40, 2))
        records.append(f"chr1 {p} . {ref} {','.join(alts)} . PASS . GT:DP {' '.join(f'{a}|{b}:9' for a, b in calls)}")
    path = tmp_path / f"x.{form}"
    subprocess.run(["bcftools", "view", f"-O{form}", "-o", str(path), str(write("x.vcf", text_of(*records, samples=" ".join(names), declared=DECLARED)))], check=True)  # fmt: skip
    asked = ["s31", "s2", "s7"]
    variants = VariantTable.from_vcf(path, small, VariantFilter(samples=asked))

    def query(*words: str) -> list[list[str]]:
        lines = subprocess.run(["bcftools", "query", *words, str(path)], capture_output=True, text=True, check=True).stdout.splitlines()
        return [line.split() for line in lines]

    assert [[f"{a}|{b}" for a, b in record] for record in variants.genotypes] == query("-s", ",".join(asked), "-f", "[ %GT]\n")
    for record, row in enumerate(query("-f", "%ALT[ %GT]\n")):
        alleles = "|".join(row[1:]).split("|")
        expected = [alleles.count(str(a + 1)) / len(alleles) for a in range(row[0].count(",") + 1)]
        found = variants.high[variants.record == record] - variants.low[variants.record == record]
        assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_bar_follows_the_bytes_of_the_file(slice_reference, tmp_path, monkeypatch):
    bars = []

    class Bar:
        def __init__(self, total, **options):
            self.total, self.n, self.options = total, 0, options
            bars.append(self)

        def update(self, n):
            self.n += n

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr("tqdm.tqdm", Bar)
    VariantTable.from_vcf(SLICE_VCF, slice_reference, cache_dir=tmp_path)
    assert bars[0].total == SLICE_VCF.stat().st_size and 0.9 * bars[0].total < bars[0].n <= bars[0].total
    VariantTable.from_vcf(SLICE_VCF, slice_reference, cache_dir=tmp_path)
    assert len(bars) == 1  # the store is there


def test_a_run_is_told_that_no_allele_was_taken(small, write, capsys):
    path = write("x.vcf", text_of("chr1 1 . A G . . ."))
    module = DnaDataModule(str(small.source), lambda *sources: None, {}, {}, {}, 8, 1, variants=str(path))
    module.report()
    said = " ".join(capsys.readouterr().out.split())
    assert "No allele was taken" in said and "no frequency stated; data.variant_filter.missing_frequency gives one" in said


@pytest.mark.skipif(not shutil.which("bcftools"), reason="needs bcftools")
@pytest.mark.parametrize("given", ["list", "pattern"])
def test_files_of_chromosomes_make_the_table_of_their_concatenation(small, write, tmp_path, given):
    one = ("chr1 5 . A G . . AF=0.25 GT 0|1", "chr1 8 . TAC T . . AF=0.5 GT 1|1", "9 1 . A C . . AF=0.5 GT 1|1")
    other = ("chrM 1 . A AG . . AF=0.25 GT 0|1", "chrM 4 . T C . . AF=0.125 GT 1|0")
    files = [write("ens1.vcf", text_of(*one, samples="s1")), write("ens2.vcf", text_of(*other, samples="s1"))]
    whole = tmp_path / "all.vcf.gz"
    subprocess.run(["bcftools", "concat", "-Oz", "-o", str(whole), *map(str, files)], check=True, capture_output=True)
    keep = VariantFilter(samples=["s1"])
    expected = VariantTable.from_vcf(whole, small, keep)
    variants = VariantTable.from_vcf(files if given == "list" else str(tmp_path / "ens*.vcf"), small, keep)
    assert table(variants) == table(expected) and variants.genotypes.tolist() == expected.genotypes.tolist()
    assert variants.report.skipped == expected.report.skipped and variants.report.noted == expected.report.noted
    assert variants.report.records == 5 and variants.report.path == f"{files[0]} and 1 more"
    assert table(VariantTable.from_vcf(files[::-1], small, keep))[0][:3] == table(expected)[0][:3]
    with pytest.raises(ValueError, match=r"bad\.vcf: record 2 at chrM:2 cannot be read"):
        bad = write("bad.vcf", text_of(other[0], "chrM 2 . C T . . AF=9 GT 0|1", samples="s1"))
        VariantTable.from_vcf([files[0], bad], small, keep)
    with pytest.raises(ValueError, match=r"cat a\.fa b\.fa > genome\.fa"):
        Reference.from_fasta(["a.fa", "b.fa"])
