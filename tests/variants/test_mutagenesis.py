"""Every substitution scores what its mutant does, by hand."""

import numpy as np
import pandas as pd
import pytest

import bmfm
from bmfm.genome.alphabet import decode
from tests.variants.conftest import TABLE

COMPLEMENT = str.maketrans("ACGT", "TGCA")


def test_hidden_bases_are_the_matrix(table_model, base_model):
    text = "GATTACAGNCCGT"
    found = table_model.mutagenesis([text], strands="forward")
    for i, base in enumerate(text):
        for channel, other in enumerate("ACGT"):
            value = found.values[0, channel, i]
            assert np.isnan(value) if base == "N" else value == pytest.approx(TABLE[other] - TABLE[base], abs=1e-5)
    both = base_model.mutagenesis([text[:8]])
    names = base_model.tokenizer.names
    ids = [names.index(b) for b in "ACGT"]
    forward = base_model.log_probs([text[:8]], tokens=ids).log_probs
    back = base_model.log_probs([text[:8].translate(COMPLEMENT)[::-1]], tokens=[names.index(b) for b in "TGCA"]).log_probs[::-1]
    mean = (forward + back).T / 2
    own = mean[["ACGT".index(b) for b in text[:8]], range(8)]
    np.testing.assert_allclose(both.values[0], mean - own, atol=1e-5)
    np.testing.assert_allclose(both.attribution()[0], [-(c.sum() / 3) for c in (mean - own).T], atol=1e-5)
    np.testing.assert_allclose(both.attribution("centered"), both.attribution() * 3 / 4, rtol=1e-6)


def test_heads_are_asked_about_mutants(base_model, reference, tmp_path):
    found = base_model.mutagenesis(fasta=reference, regions=["chr1:101-112", "1:1,201-1,212"], score="type=b", strands="forward")
    text = decode(reference.fetch("chr1", 1200, 1212))
    mutant = text[:5] + "ACGT".replace(text[5], "")[0] + text[6:]
    logits = base_model.logits([text, mutant])["type"]
    channel = "ACGT".index(mutant[5])
    assert found.values[1, channel, 5] == pytest.approx(float(logits[1, 1] - logits[0, 1]), abs=1e-5)
    table = found.frame()
    row = table[(table["pos"] == 1206) & (table["alt"] == mutant[5])].iloc[0]
    assert (row.chrom, row.ref, row["name"]) == ("chr1", text[5], "1:1,201-1,212") and row.score == pytest.approx(
        found.values[1, channel, 5]
    )
    assert len(table) == 2 * 12 * 3
    for name in ("m.npz", "m.parquet", "m.csv", "m.bw", "m.png"):
        found.plot(tmp_path / name) if name.endswith("png") else found.save(tmp_path / name)
    saved = np.load(tmp_path / "m.npz")
    assert saved["one_hot"].shape == saved["attributions"].shape == (2, 4, 12) and (saved["one_hot"].sum(1) == 1).all()
    assert decode(np.array([0, 3, 1, 2])[saved["one_hot"][1].argmax(0)]) == text
    assert len(pd.read_parquet(tmp_path / "m.parquet")) == len(pd.read_csv(tmp_path / "m.csv")) == 72
    import pyBigWig

    with pyBigWig.open(str(tmp_path / "m.bw")) as track:
        np.testing.assert_allclose(track.values("chr1", 1200, 1212), found.attribution()[1], rtol=1e-5)
        assert track.chroms()["chr1"] == reference.contigs[0]["length"]
    files = found.save_modisco(tmp_path / "modisco")
    assert [file.name for file in files] == ["modisco.ohe.npz", "modisco.hyp.npz", "modisco.regions.bed"]
    assert files[2].read_text().splitlines()[1] == "chr1\t1200\t1212\t1:1,201-1,212"
    one_hot, hypothetical = (np.load(file)["arr_0"] for file in files[:2])
    np.testing.assert_allclose(one_hot * hypothetical, saved["attributions"], atol=1e-6)
    np.testing.assert_allclose(hypothetical.sum(1), 0, atol=1e-5)
    assert (tmp_path / "m.png").stat().st_size > 5000


def test_the_command(base_folder, genome, tmp_path):
    from bmfm.cli import compose
    from bmfm.mutagenesis import mutate

    options = [f"checkpoint={base_folder}", f"fasta={genome}", "regions=[chr1:101-120]"]
    mutate(compose("mutagenesis", [*options, f"output=[{tmp_path / 'm.npz'},{tmp_path / 'm.tsv'}]"]))
    expected = bmfm.load(base_folder).mutagenesis(fasta=genome, regions="chr1:101-120")
    np.testing.assert_allclose(np.load(tmp_path / "m.npz")["values"], expected.values, atol=1e-6)
    with pytest.raises(SystemExit, match="exists already"):
        mutate(compose("mutagenesis", [*options, f"output={tmp_path / 'm.npz'}"]))


def test_mistakes_are_named(base_model, bpe_model, reference):
    for options, message in (
        ({}, "give sequences, or fasta and regions"),
        ({"sequences": ["ACGT", "ACG"]}, "sequences of 3, 4 bases"),
        ({"sequences": ["ACGT"], "score": "size"}, "no head 'size' that labels sequences; it has score, type"),
        ({"sequences": ["ACGT"], "score": "type"}, "say which class: score=type=a"),
        ({"sequences": ["ACGT"], "score": "type=z"}, "no class 'z'; it has a, b, c"),
        ({"fasta": reference, "regions": ["chr1:5"]}, "region 'chr1:5': it is no contig"),
        ({"fasta": reference, "regions": ["chr3:5-9"]}, "contig 'chr3' is not in the genome"),
    ):
        with pytest.raises(ValueError, match=message):
            base_model.mutagenesis(**options)
    with pytest.raises(ValueError, match="needs a masked model of single bases"):
        bpe_model.mutagenesis(["ACGTACGT"])
