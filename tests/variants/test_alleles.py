"""Alleles are those of bcftools norm, and each that is not scored says why."""

import shutil
import subprocess

import numpy as np
import pytest

from bmfm.genome.alphabet import decode
from bmfm.variants.alleles import KINDS, STATUSES, prepare
from bmfm.variants.windows import place_windows
from tests.conftest import vcf


def prepared(reference, *variants, **options):
    chroms, positions, refs, alts = zip(*variants, strict=True)
    return prepare(reference, chroms, np.array(positions), [r.encode() for r in refs], [a.encode() for a in alts], **options)


def text_of(reference, contig="chr1"):
    return decode(reference.fetch(contig, 0, reference.contigs[0]["length"] if contig == "chr1" else 90))


@pytest.mark.skipif(not shutil.which("bcftools"), reason="bcftools is not installed")
def test_indels_lie_where_bcftools_puts_them(reference, genome, tmp_path):
    rng = np.random.default_rng(0)
    text = text_of(reference)
    rows = []
    while len(rows) < 400:
        position = int(rng.choice([rng.integers(40, 900), rng.integers(300, 312), rng.integers(610, 625)]))
        n = int(rng.integers(1, 7))
        if rng.random() < 0.5:
            ref, alt = text[position : position + 1 + n], text[position]
        else:
            ref = text[position]
            alt = ref + (text[position + 1 : position + 1 + n] if rng.random() < 0.5 else "".join(rng.choice(list("ACGT"), n)))
        if "N" not in ref:
            rows.append(("chr1", position + 1, ref, alt))
    alleles = prepared(reference, *rows)
    source = tmp_path / "in.vcf"
    source.write_text(vcf(*(f"{c} {p} v{i} {r} {a} . . ." for i, (c, p, r, a) in enumerate(rows))).replace("##contig=<ID=9>\n", ""))
    command = ["bcftools", "norm", "-f", str(genome), str(source)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = {line.split("\t")[2]: line.split("\t") for line in lines if not line.startswith("#")}
    moved = 0
    for i, (_, position, *_) in enumerate(rows):
        _, pos, _, ref, alt = found[f"v{i}"][:5]
        assert alleles.start[i] == int(pos)  # the anchor base is 1-based there, the first changed base comes after it
        assert alleles.n_ref[i] == len(ref) - 1 and decode(alleles.alt_of(i)) == alt[1:]
        assert alleles.shifted[i] == position - int(pos)
        moved += position != int(pos)
    assert moved > 50


def test_statuses_and_kinds(reference):
    text = text_of(reference)
    at = 200
    other = "ACGT".replace(text[at], "")
    n = text.index("N")
    cases = [
        ("chr1", at + 1, text[at], other[0], "OK", "SNV"),
        ("1", at + 1, text[at].lower(), other[1].lower(), "OK", "SNV"),
        ("chr1", at + 1, text[at], other[0] + "", "DUPLICATE_OK", "SNV"),
        ("chr1", at + 1, other[0], text[at], "REF_MISMATCH", "OTHER"),
        ("chr7", at + 1, text[at], other[0], "NO_CONTIG", "OTHER"),
        ("chr1", at + 1, text[at], "<DEL>", "SYMBOLIC", "OTHER"),
        ("chr1", at + 1, text[at], f"{text[at]}]chr2:5]", "SYMBOLIC", "OTHER"),
        ("chr1", at + 1, text[at], "*", "SPILL", "OTHER"),
        ("chr1", at + 1, text[at], "N", "N_ALLELE", "OTHER"),
        ("chr1", at + 1, text[at], "R", "N_ALLELE", "OTHER"),
        ("chr1", n + 1, "N", "A", "N_ALLELE", "OTHER"),
        ("chr1", n, text[n - 1], "ACGT".replace(text[n - 1], "")[0], "N_CONTEXT", "SNV"),
        ("chr1", at + 1, text[at], text[at] + "ACGT" * 20, "TOO_LONG", "INS"),
        ("chr1", at + 1, text[at : at + 70], text[at], "TOO_LONG", "DEL"),
        ("chr1", 3, text[2], "ACGT".replace(text[2], "")[0], "EDGE", "SNV"),
        ("chr1", 0, "N", "A", "EDGE", "OTHER"),
        ("chr1", len(text), text[-1], "ACGT".replace(text[-1], "")[0], "EDGE", "SNV"),
        ("chr1", len(text) + 5, "A", "C", "REF_MISMATCH", "OTHER"),
        ("chr1", at + 1, text[at], text[at], "NO_CHANGE", "OTHER"),
        ("chr1", at + 1, text[at : at + 2], "".join("ACGT"["TGCA".index(b)] for b in text[at : at + 2]), "OK", "MNV"),
        ("chr1", at + 1, text[at : at + 3], other[0] + other[0], "OK", "DELINS"),
        ("chr1", at + 1, "-", "GATTACA", "OK", "INS"),
        ("chr1", at + 1, text[at], "-", "OK", "DEL"),
    ]
    alleles = prepared(reference, *(case[:4] for case in cases))
    assert [(STATUSES[s], KINDS[k]) for s, k in zip(alleles.status, alleles.kind, strict=True)] == [case[4:] for case in cases]


def test_records_without_alt_have_no_row_and_several_have_several(reference):
    text = text_of(reference)
    alleles = prepared(reference, ("chr1", 101, text[100], "."), ("chr1", 102, text[101], "A,C,G,T"))
    assert alleles.record.tolist() == [1, 1, 1, 1] and sorted(STATUSES[s] for s in alleles.status) == ["NO_CHANGE", "OK", "OK", "OK"]


@pytest.mark.parametrize("width", [65, 132])
def test_windows_are_the_genome_with_the_allele_written_in(reference, width):
    text = text_of(reference)
    rows = [
        ("chr1", 201, text[200], "ACGT".replace(text[200], "")[0]), ("chr1", 211, text[210], text[210] + "GATTACA"),
        ("chr1", 221, text[220:226], text[220]), ("chr1", 21, text[20], "ACGT".replace(text[20], "")[0]),
        ("chrM", 45, text_of(reference, "chrM")[44:46], text_of(reference, "chrM")[44]),
    ]  # fmt: skip
    windows = place_windows(reference, prepared(reference, *rows), width)
    for a, (chrom, position, ref, alt) in enumerate(rows):
        whole = text_of(reference, chrom)
        changed = whole[: position - 1] + alt + whole[position - 1 + len(ref) :]
        start, n = int(windows.start[a]), int(windows.width[a])
        assert n == min(width, len(changed), len(whole)) and decode(windows.ref[a]) == whole[start : start + n]
        assert decode(windows.alt[a]) == changed[start : start + n]
        back = windows.on("reverse")
        complement = str.maketrans("ACGT", "TGCA")
        assert decode(back.alt[a]) == changed[start : start + n].translate(complement)[::-1]
        of_ref = decode(back.ref[a])
        assert of_ref == whole[start : start + n].translate(complement)[::-1]
        i, j = int(back.at_ref[a]), int(back.at_alt[a])  # outside the changed bases both are the same, as far as both reach
        left, right = min(i, j), min(int(back.right_ref[a]), int(back.right_alt[a]))
        assert of_ref[i - left : i] == decode(back.alt[a])[j - left : j]
        i, j = i + int(back.alleles.n_ref[a]), j + int(back.alleles.n_alt[a])
        assert of_ref[i : i + right] == decode(back.alt[a])[j : j + right]
