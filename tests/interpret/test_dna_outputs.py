"""Explanations of sequences, and the files that are written of them, beside files by hand."""

import gzip
import re

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf

from bmfm.genome.contigs import ContigNames
from bmfm.inference.shared_run import SharedRun
from bmfm.interpret import dna_explain
from bmfm.interpret.command import run_explain
from bmfm.interpret.dna_annotation import Window, read_transcripts, read_variants_in
from bmfm.interpret.dna_command import explain_dna
from bmfm.interpret.dna_dependency import dependency_map
from bmfm.interpret.dna_explain import explain_sequences
from bmfm.interpret.dna_seqlets import find_seqlets, write_bed
from bmfm.ledger import Ledger
from bmfm.variants.contributions import Contributions
from bmfm.variants.sequence_sets import SequenceSet
from tests.interpret.dna_toys import MOTIF, SITE, TEXT, toy_predictor

GTF = """#!genome-build none
1\tx\tgene\t1\t60\t.\t+\t.\tgene_id "G1"; gene_name "ABC";
1\tx\ttranscript\t5\t60\t.\t+\t.\tgene_id "G1"; transcript_id "T1"; gene_name "ABC";
1\tx\texon\t5\t20\t.\t+\t.\tgene_id "G1"; transcript_id "T1"; gene_name "ABC";
1\tx\tCDS\t11\t20\t.\t+\t0\tgene_id "G1"; transcript_id "T1"; gene_name "ABC";
1\tx\texon\t41\t60\t.\t+\t.\tgene_id "G1"; transcript_id "T1"; gene_name "ABC";
2\tx\texon\t10\t12\t.\t-\t.\tgene_id "G2"; transcript_id "T2";
1\tx\texon\t70\t90\t.\t-\t.\tgene_id "G3"; transcript_id "T3";
"""


@pytest.fixture(scope="module")
def toy():
    return toy_predictor()


@pytest.fixture
def files(tmp_path):
    """A genome of the toy's text at chr1:11-41 (from 1), genes and variants of it."""
    (tmp_path / "genome.fa").write_text(f">chr1\n{'C' * 10 + TEXT + 'G' * 60}\n>chr2\n{'C' * 30}\n")
    (tmp_path / "genes.gtf.gz").write_bytes(gzip.compress(GTF.encode()))
    at = 10 + SITE + 1
    rows = [
        ("1", 5, "out", "C", "T"),
        ("1", at, "loss", "G", "C,T"),
        ("1", at + 1, "ins", "A", "AT"),
        ("1", at + 2, "wrong", "C", "A"),
        ("1", 12, "none", "C", "."),
    ]
    lines = "".join(f"{chrom}\t{pos}\t{name}\t{ref}\t{alt}\t.\t.\t.\n" for chrom, pos, name, ref, alt in rows)
    (tmp_path / "some.vcf").write_text("##fileformat=VCFv4.2\n##contig=<ID=1>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n" + lines)
    return tmp_path


def test_in_silico_mutagenesis_of_a_target(toy):
    found = explain_sequences(toy, [TEXT], method="ism", target="head:site", strands="forward")
    share = 1 / (len(TEXT) + 1)
    attribution = found.contributions.attribution()[0]
    np.testing.assert_allclose(attribution[SITE : SITE + len(MOTIF)], share * 3 / 4, rtol=1e-5)  # less the mean over all four
    one_hot = found.contributions.sequences.one_hot()
    np.testing.assert_allclose((one_hot * found.contributions.hypothetical).sum(1)[0], attribution)
    seqlets = find_seqlets(found.contributions, quantile=0.5)
    assert seqlets[["start", "end", "n_high"]].to_numpy().tolist() == [[SITE, SITE + len(MOTIF), len(MOTIF)]]
    assert seqlets["contribution"][0] == pytest.approx(len(MOTIF) * share * 3 / 4, rel=1e-5)


def test_masked_likelihood(toy):
    found = explain_sequences(toy, {"s": TEXT}, strands="forward")
    np.testing.assert_allclose(found.contributions.hypothetical.sum(1), 0, atol=1e-6)
    np.testing.assert_allclose(found.arrays["probabilities"].sum(1), 1, atol=1e-6)
    hypothetical = found.contributions.hypothetical[0]
    np.testing.assert_allclose(hypothetical[:, 1:] - hypothetical[:, :-1], np.diff(np.log(found.arrays["probabilities"][0]) - np.log(found.arrays["probabilities"][0]).mean(0)), atol=1e-5)  # fmt: skip
    for options, message in (
        ({"target": "head:site"}, "takes no target"),
        ({"method": "ig"}, "give target=head:NAME"),
        ({"n_steps": 3}, "n_steps: method=mlm has no such option; there are strands"),
        ({"method": "shap"}, "explained by mlm, ism, ig, grad_x_input"),
    ):
        with pytest.raises(ValueError, match=message):
            explain_sequences(toy, [TEXT], **options)


def test_seqlets_keep_signs_apart(tmp_path):
    values = [0, 5, 5, 0, 5, 5, -4, -4, -4, -4, 0, 0, 0, 9, 0, 0, 0, 0, 3, 3, 3]
    hypothetical = np.zeros((2, 4, len(values)), np.float32)
    hypothetical[0, 0] = values
    sequences = SequenceSet(np.zeros((2, len(values)), np.uint8), ["a", "b"], ["chr1", "chr1"], np.array([100, 500]), {"chr1": 1000})
    contributions = Contributions(hypothetical, sequences, "x")
    found = find_seqlets(contributions, quantile=0.7, max_gap=1, min_length=3)
    assert found[["start", "end", "contribution"]].to_numpy().tolist() == [[1, 6, 20], [6, 10, -16], [18, 21, 9]]
    write_bed(found, contributions, tmp_path / "s.bed")
    assert (tmp_path / "s.bed").read_text().splitlines()[:2] == [
        "chr1\t101\t106\tpositive\t1000\t.\t20",
        "chr1\t106\t110\tnegative\t800\t.\t-16",
    ]


def test_genes_and_variants_of_windows(files):
    names, windows = ContigNames(["chr1", "chr2"]), [Window("chr1", 10, 41), Window("chr1", 65, 80), Window("chr2", 0, 9)]
    first, second, third = read_transcripts(files / "genes.gtf.gz", windows, names)
    assert [(t.gene, t.name, t.strand, t.start, t.end, t.exons, t.coding) for t in first] == [
        ("ABC", "T1", "+", 4, 60, [(4, 20), (40, 60)], [(10, 20)])
    ]
    assert [(t.gene, t.start, t.end) for t in second] == [("G3", 69, 90)] and third == []
    variants = read_variants_in(files / "some.vcf", windows, names)
    assert [(v.name, v.position, v.alt) for v in variants[0]] == [
        ("loss", 22, "C"),
        ("loss", 22, "T"),
        ("ins", 23, "AT"),
        ("wrong", 24, "A"),
    ]
    assert variants[1] == variants[2] == []
    (files / "bad.gtf").write_text("1\tx\texon\t11\t20\t.\t+\t.\tID=exon1;Parent=T1\n")
    with pytest.raises(ValueError, match=r"bad.gtf:1: column 9 has no transcript_id .* not GFF3"):
        read_transcripts(files / "bad.gtf", windows, names)
    (files / "bad.gtf").write_text("\n1 x exon 1 2\n")
    with pytest.raises(ValueError, match=r"bad.gtf:2: expected the nine columns"):
        read_transcripts(files / "bad.gtf", windows, names)


def settings(files, **changed):
    return OmegaConf.create(
        {
            "checkpoint": "toy", "method": "mlm", "target": None, "seed": 0, "fasta": str(files / "genome.fa"), "regions": ["chr1:11-41"], "length": None, "context": 0,
            "attribution": {"contrast": "mean", "baseline": "mask", "n_steps": 50, "n_shuffled": 2}, "dependency": {"hide_target": False, "min_distance": 3},
            "strands": "forward", "seqlets": {"quantile": 0.5, "max_gap": 2, "min_length": 4}, "page": {"genes": None, "variants": None},
            "batch_size": 16, "precision": None, "progress": False, "overwrite": False, "launcher": None,
        }
        | changed
    )  # fmt: skip


def test_the_command(toy, files, capsys, monkeypatch):
    (files / "model").mkdir()
    monkeypatch.setattr(toy, "folder", files / "model")
    outputs = [str(files / name) for name in ("e.npz", "e.tsv", "e.bed", "e.html", "e", "e.svg", "e.bw")]
    page = {"genes": str(files / "genes.gtf.gz"), "variants": str(files / "some.vcf")}
    options = {"page": page, "method": "ism", "target": "head:site"}
    explain_dna(SharedRun(settings(files, output=outputs, **options), toy, run_explain))
    assert "head:site by ism: 1 sequences of 31 bases (resolution: base)" in capsys.readouterr().out
    table = pd.read_csv(files / "e.tsv", sep="\t")
    assert "".join(table["base"]) == TEXT and table["pos"].tolist() == list(range(11, 42))
    one_hot, hypothetical = (np.load(files / f"e.{name}.npz")["arr_0"] for name in ("ohe", "hyp"))
    assert one_hot.shape == hypothetical.shape == (1, 4, 31) and hypothetical.dtype == np.float32
    np.testing.assert_allclose((one_hot * hypothetical).sum(1)[0], table["contribution"], atol=1e-6)
    assert (files / "e.regions.bed").read_text() == "chr1\t10\t41\tchr1:11-41\n"
    assert not list(files.glob(".e.npz.*"))  # what an interrupted run would have gone on from
    start, end = (files / "e.bed").read_text().split("\t")[1:3]
    assert (int(start), int(end)) == (10 + SITE, 10 + SITE + len(MOTIF))
    text = (files / "e.html").read_text()
    assert not re.search(r"https?://|<script|<link|<img", text) and text.count('class="variant"') == 4
    for words in ("ABC T1 (+)", "REF is not what the genome has here", "no SNV", f">{MOTIF}<", f">{-1 / 32:.4g}<", "4 alleles"):
        assert words in text, words
    explain_dna(SharedRun(settings(files, output=str(files / "d.csv"), method="dependency"), toy, run_explain))
    assert pd.read_csv(files / "d.csv").iloc[0][["i", "j", "pos_i"]].tolist() == [6, 21, 17]
    for changed, message in (
        ({"output": str(files / "e.npz")}, "exists already"),
        ({"output": str(files / "x.txt")}, "it must end in .npz"),
        ({"output": str(files / "x.csv"), "method": "dependency", "target": "head:site"}, "has no target"),
        ({"output": str(files / "x.npz"), "page": page}, "shown by the page alone"),
    ):
        with pytest.raises(SystemExit, match=message):
            explain_dna(SharedRun(settings(files, **changed), toy, run_explain))


@pytest.mark.parametrize("method", ["mlm", "ism", "ig"])
def test_an_interrupted_run_goes_on_where_it_was(toy, tmp_path, monkeypatch, method):
    texts, some, calls = [TEXT, TEXT[::-1], TEXT[1:] + "C"] * 2, dna_explain._explain_some, []
    options = {"method": method, "target": None if method == "mlm" else "head:letters", "strands": "forward", "batch_size": 2}

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return some(*arguments)

    whole = explain_sequences(toy, texts, **options)
    monkeypatch.setattr(dna_explain, "SEQUENCES", 2)
    monkeypatch.setattr(dna_explain, "_explain_some", interrupted)
    with pytest.raises(KeyboardInterrupt):
        explain_sequences(toy, texts, ledger=Ledger(tmp_path), **options)
    found = explain_sequences(toy, texts, ledger=Ledger(tmp_path), **options)
    assert len(calls) == 4  # of three parts, one was there already
    np.testing.assert_allclose(found.contributions.hypothetical, whole.contributions.hypothetical, atol=1e-7)
    pd.testing.assert_frame_equal(found.report, whole.report)


def test_bases_around_a_region_are_read_and_not_explained(toy, files):
    """The same as the middle of what is said of all bases; beyond the end of a contig stands N."""
    wide = {"sequences": [TEXT, "NNNN" + "C" * 27]}
    narrow = {"fasta": files / "genome.fa", "regions": ["chr1:15-37", "chr2:1-23"], "context": 4}
    every = slice(4, -4)
    for options in ({}, {"method": "ism", "target": "head:site"}, {"method": "ig", "target": "head:letters", "n_steps": 5}):
        whole, found = explain_sequences(toy, **wide, **options), explain_sequences(toy, **narrow, **options)
        assert np.abs(found.contributions.hypothetical).max() > 0
        np.testing.assert_allclose(found.contributions.hypothetical, whole.contributions.hypothetical[:, :, every], atol=1e-6)
        assert found.contributions.frame()["pos"].iloc[[0, -1]].tolist() == [15, 23]
    around = np.delete(whole.contributions.attribution(), np.arange(4, 27), 1).sum(1)
    np.testing.assert_allclose(found.report["context"], around, atol=1e-6)
    for hide_target in (False, True):
        whole, found = (dependency_map(toy, **of, hide_target=hide_target).values for of in (wide, narrow))
        np.testing.assert_allclose(found, whole[:, every, every], atol=1e-5)
    with pytest.raises(ValueError, match="context takes bases on either side of regions"):
        explain_sequences(toy, [TEXT], context=3)
    with pytest.raises(ValueError, match="must be a whole number"):
        explain_sequences(toy, **narrow | {"context": -1})
