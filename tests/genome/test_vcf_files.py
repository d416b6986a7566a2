"""Files of variants as a whole: compressed, cut, empty, several of them, and what a user is shown while they are read."""

import gzip
import shutil
import subprocess

import pysam
import pysam.bcftools
import pytest

from bmfm.data.dna import DnaDataModule
from bmfm.genome.reference import Reference
from bmfm.genome.variants import VariantFilter, VariantTable
from tests.conftest import SLICE_VCF
from tests.genome.vcf_texts import GENOME, table, text_of


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
    ("records", "message"),
    [
        ([], "a header and no records"),
        (["chr1 1 . A . . . .", "chr1 2 . C <NON_REF> . . END=9"], "no alternative alleles in its 2 records"),
        (["chr1 1 . A G . . .", "chr1 2 . C"], "record 2 cannot be read: it has fewer than the 8 columns.*'chr1.t2"),
        (["chr1 x . A G . . ."], "record 1 cannot be read: its POS is no whole number"),
        (["chr1 -5 . A G . . ."], "record 1 cannot be read: its POS is no whole number"),
        (["9 1 . A G . . ."], "none of its 1 records lies on a contig"),
    ],
)
def test_files_with_nothing_to_give(small, write, records, message):
    with pytest.raises(ValueError, match=rf"x\.vcf: {message}"):
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
    output = " ".join(capsys.readouterr().out.split())
    assert "No allele was taken" in output and "no frequency stated; data.variant_filter.missing_frequency gives one" in output


@pytest.mark.skipif(not shutil.which("bcftools"), reason="needs bcftools")
@pytest.mark.parametrize("form", ["list", "pattern"])
def test_files_of_chromosomes_make_the_table_of_their_concatenation(small, write, tmp_path, form):
    one = ("chr1 5 . A G . . AF=0.25 GT 0|1", "chr1 8 . TAC T . . AF=0.5 GT 1|1", "9 1 . A C . . AF=0.5 GT 1|1")
    other = ("chrM 1 . A AG . . AF=0.25 GT 0|1", "chrM 4 . T C . . AF=0.125 GT 1|0")
    files = [write("ens1.vcf", text_of(*one, samples="s1")), write("ens2.vcf", text_of(*other, samples="s1"))]
    whole = tmp_path / "all.vcf.gz"
    subprocess.run(["bcftools", "concat", "-Oz", "-o", str(whole), *map(str, files)], check=True, capture_output=True)
    keep = VariantFilter(samples=["s1"])
    expected = VariantTable.from_vcf(whole, small, keep)
    variants = VariantTable.from_vcf(files if form == "list" else str(tmp_path / "ens*.vcf"), small, keep)
    assert table(variants) == table(expected) and variants.genotypes.tolist() == expected.genotypes.tolist()
    assert variants.report.skipped == expected.report.skipped and variants.report.noted == expected.report.noted
    assert variants.report.records == 5 and variants.report.path == f"{files[0]} and 1 more"
    assert table(VariantTable.from_vcf(files[::-1], small, keep))[0][:3] == table(expected)[0][:3]
    with pytest.raises(ValueError, match=r"bad\.vcf: record 2 at chrM:2 cannot be read"):
        bad = write("bad.vcf", text_of(other[0], "chrM 2 . C T . . AF=9 GT 0|1", samples="s1"))
        VariantTable.from_vcf([files[0], bad], small, keep)
    with pytest.raises(ValueError, match=r"cat a\.fa b\.fa > genome\.fa"):
        Reference.from_fasta(["a.fa", "b.fa"])
