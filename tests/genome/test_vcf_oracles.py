"""Reading of VCF and BCF, held against plain Python over pysam's records and against bcftools."""

import shutil
import subprocess

import numpy as np
import pysam
import pysam.bcftools
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bmfm.genome import vcf_stream
from bmfm.genome.variants import VariantFilter, VariantTable
from tests.conftest import SLICE_VCF, vcf
from tests.genome.reference_vcf import read
from tests.genome.vcf_texts import DECLARED, GENOME, table, text_of


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


@pytest.mark.slow
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
    chosen = ["s31", "s2", "s7"]
    variants = VariantTable.from_vcf(path, small, VariantFilter(samples=chosen))

    def query(*words: str) -> list[list[str]]:
        lines = subprocess.run(["bcftools", "query", *words, str(path)], capture_output=True, text=True, check=True).stdout.splitlines()
        return [line.split() for line in lines]

    assert [[f"{a}|{b}" for a, b in record] for record in variants.genotypes] == query("-s", ",".join(chosen), "-f", "[ %GT]\n")
    for record, row in enumerate(query("-f", "%ALT[ %GT]\n")):
        alleles = "|".join(row[1:]).split("|")
        expected = [alleles.count(str(a + 1)) / len(alleles) for a in range(row[0].count(",") + 1)]
        frequencies = variants.high[variants.record == record] - variants.low[variants.record == record]
        assert frequencies.tolist() == pytest.approx(expected, abs=1e-6)
