"""Personal sequences: bcftools says what a copy is, its chain file where each base comes from, and what is left when records are removed."""

import re
import shutil
import subprocess

import numpy as np
import pytest

from bmfm.genome.alphabet import decode
from bmfm.genome.personal import PersonalGenome, personal_window, sample_names
from bmfm.genome.reference import Reference
from tests.conftest import SLICE_FASTA, SLICE_VCF
from tests.genome.test_haplotypes import consensus, opened, random_genome, random_records


def read_chain(text: str) -> dict[str, np.ndarray]:
    """Of each contig, rows (place in the reference, place in the copy, bases) of what both have (UCSC chain format)."""
    blocks: dict[str, list] = {}
    name, at, at_copy = "", 0, 0
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["chain"]:
            name, at, at_copy = words[2], int(words[5]), int(words[10])
        elif words:
            size, gap, gap_copy = map(int, words + ["0"] * (3 - len(words)))
            blocks.setdefault(name, []).append((at, at_copy, size))
            at, at_copy = at + size + gap, at_copy + size + gap_copy
    return {name: np.array(rows) for name, rows in blocks.items()}


@pytest.mark.parametrize("seed", range(4))
def test_windows_and_their_positions_are_those_of_bcftools(tmp_path, seed):
    rng = np.random.default_rng(200 + seed)
    contigs = random_genome(rng)
    reference, _ = opened(tmp_path, contigs, random_records(rng, contigs, is_aligned=True))
    people = PersonalGenome.from_vcf(tmp_path / "v.vcf", reference)
    assert people.samples == ("s",)
    for copy in range(2):
        texts = consensus(tmp_path, copy, "-c", str(tmp_path / "chain"))
        chain = read_chain((tmp_path / "chain").read_text())
        for c, (name, text) in enumerate(contigs.items()):
            whole = people.window("s", copy, c, 0, len(text))
            assert decode(whole.symbols) == texts[name]
            for at, at_copy, size in chain.get(name, np.array([[0, 0, len(text)]])):
                assert whole.positions[at_copy : at_copy + size].tolist() == list(range(at, at + size))
            assert (np.diff(whole.positions) >= 0).all() and people.region("s", name)[copy].positions.tolist() == whole.positions.tolist()
            back = whole.reverse_complement()
            assert (
                decode(back.symbols) == texts[name][::-1].translate(str.maketrans("ACGT", "TGCA"))
                and back.positions[0] == whole.positions[-1]
            )
            start, end = sorted(rng.choice(len(text) + 1, 2, replace=False).tolist())
            window = personal_window(reference, people.variants, "s", copy, c, start, end)
            assert decode(window.symbols) in texts[name]
            inner = window.positions[(window.positions >= start) & (window.positions < end)]
            assert np.isin(inner, whole.positions).all() and len(window.symbols) == len(window.positions)


@pytest.mark.parametrize("seed", range(4))
def test_what_touches_the_tested_allele_gives_way(tmp_path, seed):
    """Each window is what bcftools writes of a file without the records that touch the interval."""
    rng = np.random.default_rng(300 + seed)
    contigs = {"1": "".join(rng.choice(list("ACGT"), 80))}
    records = random_records(rng, contigs, gap=1, is_aligned=True)
    reference, _ = opened(tmp_path, contigs, records)
    people = PersonalGenome.from_vcf(tmp_path / "v.vcf", reference, "s")
    starts = rng.integers(1, 78, 6)
    intervals = np.stack([starts, starts + rng.integers(0, 3, 6)], 1)
    many = {copy: people.sequences("s", np.full(6, copy), np.zeros(6, int), np.full(6, 80), intervals) for copy in range(2)}
    for number, (start, end) in enumerate(intervals.tolist()):
        left = [record for record in records if not touches(record, start, end)]
        folder = tmp_path / str(number)
        folder.mkdir()
        opened(folder, contigs, left or [("1", 1, "N", "N", "0|0")])
        for copy in range(2):
            window = people.window("s", copy, 0, 0, 80, (start, end))
            assert decode(window.symbols) == consensus(folder, copy)["1"] == decode(many[copy][number])
            assert window.positions.tolist() == many[copy].positions[many[copy].offsets[number] : many[copy].offsets[number + 1]].tolist()
            inside = (window.positions >= start) & (window.positions < end)
            assert decode(window.symbols[inside]) == contigs["1"][start:end]


@pytest.mark.parametrize("seed", range(3))
def test_backgrounds_have_as_many_bases_as_are_wanted(tmp_path, seed):
    """They are slices of the whole copy around the tested allele; where the contig ends too soon, the reference."""
    rng = np.random.default_rng(400 + seed)
    contigs = {"1": "".join(rng.choice(list("ACGT"), 300)), "2": "".join(rng.choice(list("ACGT"), 60))}
    deletion = ("2", 5, contigs["2"][4:30], contigs["2"][4], "1|1")
    reference, _ = opened(tmp_path, contigs, [*(r for r in random_records(rng, contigs, is_aligned=True) if r[0] == "1"), deletion])
    people = PersonalGenome.from_vcf(tmp_path / "v.vcf", reference)
    start = np.append(rng.integers(60, 230, 20), reference.starts[1] + 40)
    end = start + rng.integers(0, 3, 21)
    left, right, copies = np.full(21, 50), np.full(21, 60), rng.integers(0, 2, 21)
    left[-1], right[-1] = 38, 15
    spelled_to = end + rng.integers(0, 3, 21)
    found, is_reference = people.backgrounds("s", copies, start, end, left, right, spelled_to)
    assert is_reference.tolist() == [False] * 20 + [True] and decode(found[20]) == contigs["2"][2 : end[20] - reference.starts[1] + 15]
    for a in range(20):
        whole = people.window("s", int(copies[a]), 0, 0, 300, (int(start[a]), int(spelled_to[a])))
        at = int(np.flatnonzero(whole.positions >= start[a])[0])
        assert decode(found[a]) == decode(whole.symbols[at - 50 : at + end[a] - start[a] + 60])
        assert decode(found[a][50 : 50 + end[a] - start[a]]) == contigs["1"][start[a] : end[a]]
        assert found.positions[found.offsets[a]] == whole.positions[at - 50]


def touches(record, start, end) -> bool:
    """Whether a record of a substitution, an insertion or a deletion replaces a base of an interval, or inserts in it or at its ends."""
    _, position, ref, alt, _ = record
    first, last = (position, position - 1 + len(ref)) if len(ref) != len(alt) else (position - 1, position - 1 + len(ref))
    return start <= first <= end if first == last else first < end and last > start


def test_real_variants_of_two_samples(tmp_path, slice_reference):
    """Loci of 1000 Genomes with drawn genotypes, several alleles a record among them."""
    if shutil.which("bcftools") is None:
        pytest.skip("bcftools is not installed")
    rng = np.random.default_rng(0)
    lines = subprocess.run(["bcftools", "view", "-H", str(SLICE_VCF)], check=True, capture_output=True, text=True).stdout.splitlines()
    rows, reached = [], 0
    for line in lines[::6]:
        fields = line.split("\t")
        if "<" in fields[4] or int(fields[1]) <= reached:
            continue
        reached = int(fields[1]) + len(fields[3]) + 1
        alleles = rng.integers(0, fields[4].count(",") + 2, (2, 2))
        rows.append("\t".join([*fields[:5], ".", ".", ".", "GT", *("|".join(map(str, two)) for two in alleles)]))
    header = f'##fileformat=VCFv4.2\n##contig=<ID=chr20_slice,length={len(slice_reference)}>\n##FORMAT=<ID=GT,Number=1,Type=String,Description="g">\n'
    (tmp_path / "v.vcf").write_text(header + "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tx\ty\n" + "\n".join(rows) + "\n")
    for command in (["view", "-Oz", "-o", "v.vcf.gz", "v.vcf"], ["index", "v.vcf.gz"]):
        subprocess.run(["bcftools", *command], cwd=tmp_path, check=True, capture_output=True)
    people = PersonalGenome.from_vcf(tmp_path / "v.vcf.gz", slice_reference)
    (tmp_path / "g.fa").write_bytes(subprocess.run(["gzip", "-dc", str(SLICE_FASTA)], check=True, capture_output=True).stdout)
    assert sample_names(tmp_path / "v.vcf.gz") == people.samples == ("x", "y") and len(rows) > 4000
    for sample in people.samples:
        for copy in range(2):
            command = ["bcftools", "consensus", "-f", "g.fa", "-s", sample, "-H", str(copy + 1), "v.vcf.gz"]
            text = "".join(subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.split("\n")[1:])
            whole = people.window(sample, copy, 0, 0, len(slice_reference))
            assert decode(whole.symbols) == text.upper() and not np.array_equal(whole.positions, np.arange(len(text)))
            unchanged = whole.symbols == slice_reference.fetch("chr20_slice", 0, len(slice_reference))[whole.positions]
            assert 0.99 < unchanged.mean() < 1


def test_faults_are_named(tmp_path):
    contigs = {"1": "ACGTACGTAC"}
    reference, _ = opened(tmp_path, contigs, [("1", 3, "G", "A", "0/1"), ("1", 6, "C", "T", "0|1")])
    with pytest.raises(ValueError, match=r"1 heterozygous genotypes of 1 samples have no phase \(first: .*1:3"):
        PersonalGenome.from_vcf(tmp_path / "v.vcf", reference)
    people = PersonalGenome.from_vcf(tmp_path / "v.vcf", reference, unphased="as_written")
    assert [decode(copy.symbols) for copy in people.region("s", "1:3-7")] == ["GTACG", "ATATG"]
    for call, message in (
        (lambda: people.window("t", 0, 0, 0, 5), "sample 't': its genotypes were not read; there are 1 samples: s"),
        (lambda: people.window("s", 2, 0, 0, 5), "copies are 0 and 1"),
        (lambda: people.window("s", 0, 0, 5, 11), "the contig has 10 bases"),
        (lambda: people.region("s", "1:5-11"), "not inside 1"),
        (lambda: PersonalGenome.from_vcf(tmp_path / "v.vcf", reference, "t"), "samples t are not in the file"),
        (lambda: PersonalGenome.from_vcf(tmp_path / "v.vcf", reference, unphased="x"), "choose from refuse, as_written"),
        (lambda: PersonalGenome.from_vcf(SLICE_VCF, Reference.from_fasta(SLICE_FASTA)), "no samples"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            call()
