"""Frequencies of alleles: where a record states them, how they are declared, and what is refused."""

import pysam
import pysam.bcftools
import pytest
from hydra.utils import instantiate

from bmfm.cli import compose
from bmfm.genome.variants import VariantFilter, VariantTable
from tests.genome.vcf_texts import DECLARED, slices, table, text_of


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
    ("declared", "info", "message"),
    [("Float", "FREQ=0.125", "FREQ=0.125"), ("String", "FREQ=12.5%", "FREQ=12.5%"), ("Float", "AF=1.00002", "AF=1.00002: 1.0000")],
)
def test_a_freq_that_is_not_that_of_dbsnp_is_named(small, write, tmp_path, binary, declared, info, message):
    text = text_of("chr1 1 . A G . . AF=0.5;FREQ=.", f"chr1 3 . G T . . {info}").replace(
        "ID=FREQ,Number=.,Type=String", f"ID=FREQ,Number=.,Type={declared}"
    )
    path = write("x.vcf", text)
    if binary:
        pysam.bcftools.view("-Ob", "-o", str(tmp_path / "x.bcf"), str(path), catch_stdout=False)
        path = tmp_path / "x.bcf"
    with pytest.raises(ValueError) as caught:
        VariantTable.from_vcf(path, small)
    assert f"{path}: record 2 at chr1:3" in str(caught.value) and message in str(caught.value)
    if "FREQ" in info:
        assert "STUDY:0.9,0.1" in str(caught.value) and "+fill-tags" in str(caught.value)
        with_af = write("y.vcf", text.replace(info, f"{info};AF=0.25"))  # as long as AF is there, FREQ may be anything
        assert slices(VariantTable.from_vcf(with_af, small)) == [0.5, 0.25]


def test_what_is_above_1_by_rounding_is_1(small, write):
    text = text_of("chr1 1 . A G . . AF=1.0000001", "chr1 2 . C G,T . . AF=0.6,0.4", "chr1 3 . G T,A . . AF=0.7,0.4")
    variants = VariantTable.from_vcf(write("x.vcf", text), small)
    assert slices(variants) == [1.0, 0.6, 0.4, 0.6364, 0.3636]
    assert variants.report.noted == {"frequencies add up to more than 1 (rescaled)": 1}


@pytest.mark.parametrize(
    ("info", "message"),
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
def test_impossible_frequencies_name_their_record(small, write, tmp_path, binary, info, message):
    path = write("x.vcf", text_of("chr1 1 . A G . . AF=0.5", f"chr1 3 . G T . . {info}", declared=DECLARED))
    if binary:
        if "half" in info or "many" in info:
            pytest.skip("a BCF holds numbers where numbers are declared")
        pysam.bcftools.view("-Ob", "-o", str(tmp_path / "x.bcf"), str(path), catch_stdout=False)
        path = tmp_path / "x.bcf"
    with pytest.raises(ValueError) as caught:
        VariantTable.from_vcf(path, small)
    assert f"{path}: record 2 at chr1:3 cannot be read" in str(caught.value) and message in str(caught.value)


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
