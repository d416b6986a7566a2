"""Logos and dependency maps of a toy whose answers are known by hand."""

import numpy as np
import pytest

from bmfm.interpret.dna_dependency import dependency_map
from bmfm.interpret.dna_likelihood import information, information_logo, probabilities
from bmfm.variants.mutagenesis import Mutagenesis, mutagenesis
from bmfm.variants.sequence_sets import SequenceSet, read_sequence_set
from tests.interpret.dna_toys import COUPLED, MOTIF, SITE, TEXT, toy_predictor

COMPLEMENT = str.maketrans("ACGT", "TGCA")


@pytest.fixture(scope="module")
def toy():
    return toy_predictor()


def test_mutagenesis_finds_the_planted_motif(toy):
    found = mutagenesis(toy, [TEXT], score="site", strands="forward")
    expected = np.zeros((4, len(TEXT)))
    share = 1 / (len(TEXT) + 1)  # the head reads a mean, over [SEP] too
    for place, letter in enumerate(MOTIF):  # without any one letter there is no site
        expected[["ACGT".index(c) for c in "ACGT" if c != letter], SITE + place] = -share
    np.testing.assert_allclose(found.values[0], expected, atol=1e-6)
    contributions = found.contributions("mean")
    np.testing.assert_allclose(contributions.hypothetical.sum(1), 0, atol=1e-7)
    np.testing.assert_allclose(contributions.attribution()[0, SITE : SITE + len(MOTIF)], share, rtol=1e-5)
    assert not contributions.attribution()[0, :SITE].any() and not contributions.attribution()[0, SITE + len(MOTIF) :].any()


def test_contributions_of_both_strands_are_symmetric(toy):
    forward = mutagenesis(toy, [TEXT]).contributions("centered").hypothetical
    reverse = mutagenesis(toy, [TEXT.translate(COMPLEMENT)[::-1]]).contributions("centered").hypothetical
    np.testing.assert_allclose(reverse[:, ::-1, ::-1], forward, atol=1e-6)
    assert np.abs(forward).max() > 0.5


def test_likelihood_logo(toy):
    scores = mutagenesis(toy, ["N" + TEXT[1:]], strands="forward")
    probs = probabilities(scores)[0]
    coupled = np.exp([3.0 * (c == TEXT[COUPLED[0]]) + 0.1 * (c == TEXT[COUPLED[1] - 2]) for c in "ACGT"])
    np.testing.assert_allclose(probs[:, COUPLED[1]], coupled / coupled.sum(), rtol=1e-5)
    np.testing.assert_allclose(probs[:, 0], 0.25)
    np.testing.assert_allclose(information(np.array([[[1, 0.25, 0.5], [0, 0.25, 0.5], [0, 0.25, 0], [0, 0.25, 0]]])), [[2, 0, 1]])
    logo = information_logo(scores)[0]
    assert logo.sum(0).argmax() == COUPLED[1] and logo[:, COUPLED[1]].argmax() == "ACGT".index(TEXT[COUPLED[0]])
    with pytest.raises(ValueError, match="no log-likelihoods"):
        probabilities(Mutagenesis(scores.values, scores.sequences, "site"))


@pytest.mark.parametrize("hide_target", [False, True])
def test_coupled_bases_depend_most(toy, hide_target, tmp_path):
    text = TEXT[:3] + "N" + TEXT[4:]
    found = dependency_map(toy, [text], hide_target=hide_target, batch_size=7)
    values = found.values[0]
    first, second = COUPLED

    def log2_odds(base, at_first):
        logits = [3.0 * (c == at_first) + 0.1 * (c == text[second - 2]) for c in "ACGT"]
        p = np.exp(logits)["ACGT".index(base)] / np.exp(logits).sum()
        return np.log2(p / (1 - p))

    changes = [abs(log2_odds(b, new) - log2_odds(b, text[first])) for b in "ACGT" for new in "ACGT" if new != text[first]]
    assert values[first, second] == pytest.approx(max(changes), rel=1e-5)
    off = np.where(np.eye(len(text), dtype=bool), np.nan, values)
    assert np.unravel_index(np.nanargmax(off), off.shape) == (first, second)
    assert values[second, first] == values[0, 7] == 0 < values[5, 7]
    assert np.isnan(values[3]).all() and np.isnan(values[:, 3]).all() and (np.delete(np.diag(values), 3) == 0).all()
    assert found.frame().iloc[0][["i", "j", "base_i"]].tolist() == [first, second, text[first]]
    assert found.influence()[0, first] == pytest.approx((values[first, second] + values[first, first + 2]) / (len(text) - 2))
    for name in ("d.npz", "d.tsv", "d.png"):
        found.save(tmp_path / name)
    assert np.load(tmp_path / "d.npz")["dependency"].shape == (1, len(text), len(text))


def test_the_other_strand_of_a_map_is_turned_back(toy):
    both = dependency_map(toy, [TEXT], strands="both").values[0]
    forward = dependency_map(toy, [TEXT]).values[0]
    reverse = dependency_map(toy, [TEXT.translate(COMPLEMENT)[::-1]]).values[0]
    np.testing.assert_allclose(both, (forward + reverse[::-1, ::-1]) / 2, atol=1e-6)


def test_regions_have_one_length_or_are_given_one(tmp_path):
    (tmp_path / "genome.fa").write_text(f">chr1\n{'ACGTACGTAC' * 6}\n")
    bed = tmp_path / "places.bed"
    bed.write_text("chr1\t20\t30\n1\t3\t10\n")
    found = read_sequence_set(fasta=tmp_path / "genome.fa", regions=bed, length=6)
    assert found.start.tolist() == [22, 3] and found.chrom == ["chr1", "chr1"] and found.names == ["chr1:20-30", "1:3-10"]
    assert ["".join("ACGT"[c] for c in row) for row in found.bases] == ["GTACGT", "TACGTA"]
    with pytest.raises(ValueError, match="sequences of 7, 10 bases: one length is needed; give length"):
        read_sequence_set(fasta=tmp_path / "genome.fa", regions=bed)
    with pytest.raises(ValueError, match="20 bases around its middle are not inside"):
        read_sequence_set(fasta=tmp_path / "genome.fa", regions=bed, length=20)
    with pytest.raises(ValueError, match="sequence 'x': 1 of its characters"):
        read_sequence_set({"x": "ACGR"})


def test_overlapping_regions_are_averaged(tmp_path):
    pyBigWig = pytest.importorskip("pyBigWig")
    from bmfm.variants.contributions import write_bigwig

    sequences = SequenceSet(np.zeros((3, 3), np.uint8), ["a", "b", "c"], ["2", "1", "2"], np.array([5, 0, 7]), {"1": 9, "2": 20})
    write_bigwig(tmp_path / "x.bw", sequences, np.array([[1.0, 2, 3], [4, 5, 6], [5, 8, 9]]))
    with pyBigWig.open(str(tmp_path / "x.bw")) as track:
        assert track.values("2", 5, 10) == [1, 2, 4, 8, 9] and track.values("1", 0, 3) == [4, 5, 6]
        assert np.isnan(track.values("2", 10, 11)[0])
