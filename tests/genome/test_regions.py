"""Regions and names as they are given on a command line: samtools and bcftools say what they mean."""

import os
import shutil
import subprocess

import numpy as np
import pytest

from bmfm.genome.alphabet import decode
from bmfm.genome.fasta import read_records
from bmfm.genome.reference import Reference
from bmfm.genome.regions import read_regions, split_by_contig
from bmfm.genome.representation import BiAllele, Haplotype
from bmfm.genome.variants import VariantFilter, VariantTable
from tests.conftest import vcf

GENOME = ">1\nACGTACGTTT\n>20\nACGTACGTAC\n>HLA:01:02\nGGGG\n"


@pytest.fixture
def numbered(write) -> Reference:
    return Reference.from_fasta(write("g.fa", GENOME))


def test_a_file_of_regions_that_changed_is_noticed_however_it_is_named(write, tmp_path, numbered, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = write("x.vcf", vcf("1 2 . C G . . AF=0.5", "1 8 . T G . . AF=0.5"))
    for number, name in enumerate(("~/y.bed", "~/z.regions", tmp_path / "y.bed")):
        file = tmp_path / str(name).removeprefix("~/")
        file.write_text("1\t0\t4\n")
        assert VariantTable.from_vcf(path, numbered, VariantFilter(regions=name)).start.tolist() == [1]
        file.write_text("1\t4\t10\n")
        os.utime(file, ns=(number, number))
        assert VariantTable.from_vcf(path, numbered, VariantFilter(regions=name)).start.tolist() == [7]


@pytest.mark.skipif(not shutil.which("bcftools"), reason="needs bcftools")
@pytest.mark.parametrize("region", ["1", "1:10-10", "1:1-9", "20", "1:3-4"])
def test_an_insertion_lies_in_the_region_of_its_anchor_base(write, tmp_path, numbered, region):
    records = ("1 3 . G GTT . . AF=0.5", "1 10 . T TAA . . AF=0.5", "20 10 . C CAA . . AF=0.5")
    path = write("x.vcf", vcf(*records).replace("ID=9>", "ID=1>\n##contig=<ID=20>"))
    subprocess.run(["bcftools", "view", "-Oz", "-o", str(tmp_path / "x.vcf.gz"), str(path)], check=True, capture_output=True)
    subprocess.run(["bcftools", "index", str(tmp_path / "x.vcf.gz")], check=True)
    output = subprocess.run(
        ["bcftools", "view", "-H", "-r", region, str(tmp_path / "x.vcf.gz")], check=True, capture_output=True, text=True
    ).stdout
    variants = VariantTable.from_vcf(path, numbered, VariantFilter(regions=[region]))
    assert [numbered.locate(s - 1)[1] + 1 for s in variants.start] == [int(line.split("\t")[1]) for line in output.splitlines()]


@pytest.mark.skipif(not shutil.which("samtools"), reason="needs samtools")
@pytest.mark.parametrize("word", ["1", "1:3-", "1:-4", "1:3-3", "1:2-7", "20:1,0-10", "HLA:01:02", "HLA:01:02:2-3"])
def test_regions_are_those_of_samtools(numbered, word):
    text = subprocess.run(["samtools", "faidx", str(numbered.source), word], check=True, capture_output=True, text=True).stdout
    (start, end), = read_regions([word], numbered)  # fmt: skip
    assert decode(numbered.codes[start:end]) == "".join(text.splitlines()[1:])


@pytest.mark.parametrize("word", ["1:3", "1:1-4,1:6-7", "1:", "1:x-y"])
def test_other_forms_of_regions_are_named(numbered, word):
    with pytest.raises(ValueError, match=r"contig:start-end.*7-7.*list of words"):
        read_regions([word], numbered)


def test_contigs_and_samples_whose_names_are_numbers(numbered, write):
    assert decode(numbered.fetch(1, 0, 3)) == "ACG"
    for words in (20, [20], "20", ["20"]):
        assert read_regions(words, numbered).tolist() == [[11, 21]]
    assert split_by_contig(numbered, {"validation": [20]})["validation"].tolist() == [[11, 21]]
    path = write("x.vcf", vcf("20 2 . C G . . AF=0.5 GT 1|1", "1 2 . C G . . AF=0.5 GT 1|1", samples="101"))
    for regions, samples in ((20, 101), ([20], [101])):
        variants = VariantTable.from_vcf(path, numbered, VariantFilter(regions=regions, samples=samples))
        assert variants.start.tolist() == [12] and variants.samples == ("101",)
        assert len(Haplotype(numbered, variants, samples).samples) == 1
    assert len(BiAllele(numbered, variants, sample=101).samples) == 1


def test_one_name_alone_is_a_name_and_not_its_letters(numbered, write):
    path = write("x.vcf", vcf("20 2 . C G . . AF=0.5 GT 1|1", "20 4 . T TA . . AF=0.5 GT 1|1", samples="NA12878"))
    variants = VariantTable.from_vcf(path, numbered, VariantFilter(samples="NA12878", kinds="snv"))
    assert variants.samples == ("NA12878",) and variants.start.tolist() == [12]
    assert np.array_equal(Haplotype(numbered, variants, "NA12878").samples, [0])


def test_digits_that_are_no_numbers_name_the_line(numbered, write):
    with pytest.raises(ValueError, match=r"x\.bed:2: expected contig, start and end"):
        read_regions(write("x.bed", "1\t0\t4\n1\t²\t4\n"), numbered)


@pytest.mark.parametrize("bounds", [{"min_frequency": 5}, {"min_frequency": 0.6, "max_frequency": 0.5}, {"max_frequency": float("nan")}])
def test_bounds_that_no_frequency_meets_are_refused(bounds):
    with pytest.raises(ValueError, match="no frequency lies between them"):
        VariantFilter(**bounds)


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"])
def test_line_ends_and_marks_of_other_systems(tmp_path, numbered, end):
    def written(name: str, text: str):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", end).encode())
        return tmp_path / name

    assert read_regions(written("x.bed", "1\t0\t4\n20\t0\t4\n"), numbered).tolist() == [[0, 4], [11, 15]]
    reference = Reference.from_fasta(written("x.fa", ">1\nACGT\nAC\n>2\nGG\n"))
    assert [(c["name"], c["length"]) for c in reference.contigs] == [("1", 6), ("2", 2)]
    assert list(read_records(written("x.fq", "@a\nACGT\n+\nIIII\n@b\nGG\n+\nII\n"))) == [("a", "ACGT"), ("b", "GG")]
    path = written("x.vcf", vcf("1 2 . C G . . AF=0.5"))
    if end == "\r":
        with pytest.raises(ValueError, match=r"x\.vcf.*carriage returns alone.*tr '.r'"):
            VariantTable.from_vcf(path, numbered)
    else:
        assert VariantTable.from_vcf(path, numbered).start.tolist() == [1]


def test_a_pipe_is_called_one(tmp_path, numbered):
    os.mkfifo(tmp_path / "p")
    for opened in (Reference.from_fasta, lambda p: VariantTable.from_vcf(p, numbered), lambda p: read_regions(p, numbered)):
        with pytest.raises(FileNotFoundError, match="is a pipe"):
            opened(tmp_path / "p")
