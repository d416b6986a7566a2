"""Which strand is explained: labels of one strand are read as they were learned, and minus-strand regions as their BED file says."""

import numpy as np
import pytest

from bmfm.interpret.dna_dependency import dependency_map
from bmfm.interpret.dna_explain import explain_sequences
from bmfm.variants.mutagenesis import mutagenesis
from bmfm.variants.sequence_sets import read_sequence_set, strands_to_read
from tests.interpret.dna_toys import TEXT, toy_predictor

COMPLEMENT = str.maketrans("ACGT", "TGCA")


@pytest.fixture
def stranded(tmp_path):
    """A genome that holds the toy's text on the minus strand and on the plus strand, and a BED file that says so."""
    other = TEXT.translate(COMPLEMENT)[::-1]
    (tmp_path / "g.fa").write_text(f">1\n{'A' * 10}{other}{'C' * 10}{TEXT}\n")
    n = len(TEXT)
    (tmp_path / "r.bed").write_text(f"1\t10\t{10 + n}\ta\t0\t-\n1\t{20 + n}\t{20 + 2 * n}\tb\t0\t+\n")
    return {"fasta": tmp_path / "g.fa", "regions": tmp_path / "r.bed"}


@pytest.mark.parametrize("method", ["ism", "ig"])
@pytest.mark.parametrize("strands", ["auto", "given"])
def test_labels_are_explained_on_the_strand_of_the_region(stranded, method, strands):
    toy = toy_predictor()
    assert toy.model.config.strands == "forward"
    as_text = explain_sequences(toy, [TEXT], method=method, target="head:site", strands="forward").contributions.hypothetical[0]
    minus, plus = explain_sequences(toy, method=method, target="head:site", strands=strands, **stranded).contributions.hypothetical
    assert np.abs(as_text).max() > 0
    np.testing.assert_allclose(plus, as_text, atol=1e-6)
    np.testing.assert_allclose(minus[::-1, ::-1], as_text, atol=1e-6)  # written on the forward strand
    both = explain_sequences(toy, method=method, target="head:site", strands="both", **stranded).contributions.hypothetical
    assert np.abs(both[1] - as_text).max() > 1e-3
    toy.model.config.strands = "average"
    again = explain_sequences(toy, method=method, target="head:site", **stranded).contributions.hypothetical
    np.testing.assert_allclose(again, both, atol=1e-6)


def test_likelihoods_are_read_on_both_strands_unless_asked_otherwise(stranded):
    toy = toy_predictor()
    values = {strands: mutagenesis(toy, strands=strands, **stranded).values for strands in ("auto", "both", "forward", "given")}
    np.testing.assert_array_equal(values["auto"], values["both"])
    np.testing.assert_array_equal(values["given"][1], values["forward"][1])
    np.testing.assert_allclose(values["given"][0, ::-1, ::-1], values["given"][1], atol=1e-6)
    assert np.nanmax(np.abs(values["both"] - values["forward"])) > 1e-3
    maps = {strands: dependency_map(toy, strands=strands, **stranded).values for strands in ("auto", "both", "given")}
    np.testing.assert_array_equal(maps["auto"], maps["both"])
    np.testing.assert_allclose(maps["given"][0, ::-1, ::-1], maps["given"][1], atol=1e-6)


def test_strands_of_sequences_and_some_of_the_regions(stranded):
    regions = read_sequence_set(**stranded)
    assert regions.is_reverse.tolist() == [True, False] and regions.take(np.array([1])).is_reverse.tolist() == [False]
    assert [(reverse, rows.tolist(), share) for reverse, rows, share in regions.readings("given")] == [(False, [1], 1), (True, [0], 1)]
    assert [reverse for reverse, _, _ in regions.take(np.array([0])).readings("given")] == [True]
    assert [reverse for reverse, _, _ in read_sequence_set([TEXT]).readings("given")] == [False]
    with pytest.raises(ValueError, match="strands='reverse' is unknown; choose from auto, both, forward, given"):
        strands_to_read("reverse", None)
