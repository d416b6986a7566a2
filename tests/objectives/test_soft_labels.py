"""Labels that are distributions over bases: how they are made of variants, and the loss that is learned from them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bmfm.data.spec import DataSpec
from bmfm.genome.alphabet import BASES, COMPLEMENT
from bmfm.genome.reference import Reference
from bmfm.genome.representation import Haplotype, SoftLabels
from bmfm.genome.variants import VariantTable
from bmfm.genome.windows import Windows
from bmfm.objectives.masking import Masking
from bmfm.objectives.mlm import MaskedLanguageModel
from bmfm.objectives.multitask import Objectives
from bmfm.special import IGNORE
from bmfm.tokenizers.collate import to_tensors
from bmfm.tokenizers.dna import DnaTokenizer, kmer, single_base
from tests.conftest import vcf
from tests.objectives.conftest import made_up_spec

RECORDS = (
    "chr1 5 . G A 9 PASS AF=0.25",
    "chr1 9 . C A,T 9 PASS AF=0.5,0.125",
    "chr1 12 . TA CG 9 PASS AF=0.5",  # two bases at once
    "chr1 15 . GCC G 9 PASS AF=0.5",  # deletes 16 and 17
    "chr1 17 . C G 9 PASS AF=0.25",  # a quarter is G, a quarter C, and half is not there
    "chr1 20 . A ATT 9 PASS AF=0.5",
    "chr1 22 . G T 9 PASS AF=0",
)
#              123456789012345678901234
SEQUENCE = "ACGTGACGCATTAAGCCTGAAGTC"
EXPECTED = {  # 1-based: probabilities of A, G, T, C
    5: (0.25, 0.75, 0, 0),
    9: (0.5, 0, 0.125, 0.375),
    12: (0, 0, 0.5, 0.5),
    13: (0.5, 0.5, 0, 0),
    17: (0, 0.5, 0, 0.5),
}


@pytest.fixture
def genome(write):
    reference = Reference.from_fasta(write("g.fa", f">chr1\n{SEQUENCE}\n"))
    return reference, VariantTable.from_vcf(write("v.vcf", vcf(*RECORDS)), reference)


def test_distributions_of_loci_on_both_strands(genome):
    windows = Windows(np.array([0, 2, 2]), np.array([24, 18, 18]), np.array([False, False, True]), np.arange(3, dtype=np.uint64))
    encoded = SoftLabels(*genome)(windows)
    assert encoded.label_probs is not None
    at = encoded.offsets
    expected = np.full((24, 4), np.nan, np.float32)
    for pos, probs in EXPECTED.items():
        expected[pos - 1] = probs
    np.testing.assert_allclose(encoded.label_probs[at[0] : at[1]], expected, atol=1e-6)
    np.testing.assert_allclose(encoded.label_probs[at[1] : at[2]], expected[2:18], atol=1e-6)
    backwards = expected[2:18][::-1][:, [BASES.index(base) for base in "TCAG"]]  # the complements of A, G, T, C
    np.testing.assert_allclose(encoded.label_probs[at[2] : at[3]], backwards, atol=1e-6)
    letters = "".join(BASES[code] for code in encoded[0] & 0x7F)
    assert letters == SEQUENCE and (encoded[2] & 0x7F == COMPLEMENT[encoded[1] & 0x7F][::-1]).all()
    assert (np.flatnonzero(encoded[0] > 127) + 1).tolist() == list(EXPECTED)


def test_distributions_are_the_mean_of_haplotypes(slice_reference, slice_variants):
    """Of the SNVs of the genome that ships: a locus is written by `Haplotype` as often as its label says."""
    n = 4000
    windows = Windows(np.full(n, 60), np.full(n, 160), np.zeros(n, bool), np.arange(n, dtype=np.uint64))
    one = Windows(windows.start[:1], windows.end[:1], windows.reverse[:1], windows.key[:1])
    labels = SoftLabels(slice_reference, slice_variants)(one).label_probs
    assert labels is not None
    drawn = (Haplotype(slice_reference, slice_variants)(windows).symbols & 0x7F).reshape(n, -1)
    has_label = ~np.isnan(labels[:, 0])
    counts = np.stack([(drawn == base).mean(0) for base in range(4)], 1)
    assert has_label.sum() > 3 and labels[has_label, :].max(1).min() < 0.9
    np.testing.assert_allclose(labels[has_label], counts[has_label], atol=0.03)
    assert (counts[~has_label].max(1) == 1).all()


def _batch(tokenizer, raw, n_rows=None):
    return to_tensors(tokenizer.collate(tokenizer.encode(raw), n_rows))


def _spec(tokenizer: DnaTokenizer) -> DataSpec:
    return replace(made_up_spec(n_tokens=len(tokenizer)), vocabulary=tokenizer.names)


@pytest.mark.parametrize("row_length", [None, 60])
def test_loss_is_the_cross_entropy_with_the_distribution(genome, small_model, row_length):
    tokenizer, (reference, variants) = single_base(), genome
    windows = Windows(np.array([0, 2]), np.array([24, 20]), np.array([False, True]), np.arange(2, dtype=np.uint64))
    objectives = Objectives({"mlm": MaskedLanguageModel(Masking(mask_prob=0.8))})
    objectives.setup(_spec(tokenizer))
    model = small_model(objectives.heads, n_tokens=len(tokenizer))
    batch = objectives.prepare(_batch(tokenizer, SoftLabels(reference, variants)(windows), row_length), windows.key)
    hidden = model.encode(batch)
    chosen = batch["labels"]["mlm"] != IGNORE
    labels, logits = batch["labels"]["mlm"][chosen], model.head("mlm", hidden)[chosen]
    probs = torch.nn.functional.one_hot(labels, len(tokenizer)).float()
    soft = batch["label_probs"][chosen]
    is_soft = ~soft.isnan().any(1)
    for column, base in enumerate("AGTC"):
        probs[is_soft, tokenizer.names.index(base)] = soft[is_soft, column]
    assert 3 < is_soft.sum() < len(labels)
    expected = torch.nn.functional.cross_entropy(logits, probs, reduction="sum")
    total, n, _ = objectives.losses(model, batch, hidden)["mlm/cross_entropy"]
    torch.testing.assert_close(total, expected)
    assert n == len(labels)
    metrics = objectives.compute_metrics(objectives.update_metrics(model, batch, hidden))
    assert metrics["mlm/loss"] == pytest.approx(expected.item() / len(labels), rel=1e-5)
    hits = probs[torch.arange(len(labels)), logits.argmax(1)]
    assert metrics["mlm/accuracy"] == pytest.approx(hits.mean().item(), rel=1e-5)
    assert metrics["mlm/accuracy_variant"] == pytest.approx(hits[is_soft].mean().item(), rel=1e-5)
    unigram = -(probs @ objectives.tasks["mlm"].baseline)
    assert metrics["mlm/unigram_loss"] == pytest.approx(unigram.mean().item(), rel=1e-5)


def test_without_frequencies_it_is_the_plain_loss(genome, small_model):
    tokenizer, (reference, variants) = single_base(), genome
    windows = Windows(np.array([21]), np.array([24]), np.array([True]), np.zeros(1, np.uint64))  # its one variant has frequency 0
    objectives = Objectives({"mlm": MaskedLanguageModel(Masking(mask_prob=0.9))})
    objectives.setup(_spec(tokenizer))
    model = small_model(objectives.heads, n_tokens=len(tokenizer))
    batch = objectives.prepare(_batch(tokenizer, SoftLabels(reference, variants)(windows)), windows.key)
    plain = {name: value for name, value in batch.items() if name != "label_probs"}
    hidden = model.encode(batch)
    assert batch["label_probs"].isnan().all()
    one, other = (objectives.losses(model, b, hidden)["mlm/cross_entropy"] for b in (batch, plain))
    torch.testing.assert_close(one.total, other.total)
    assert one.n == other.n
    sums = [objectives.update_metrics(model, b, hidden)["mlm/parts"] for b in (batch, plain)]
    torch.testing.assert_close(*sums)


def test_longer_tokens_are_refused(genome):
    windows = Windows(np.array([0]), np.array([24]), np.array([False]), np.zeros(1, np.uint64))
    raw = SoftLabels(*genome)(windows)
    assert kmer(1).encode(raw, max_tokens=12).fields["label_probs"].shape == (10, 4)
    for tokenizer in (kmer(3), DnaTokenizer.from_pretrained("dna_demo")):
        with pytest.raises(ValueError, match=r"soft_labels.*choose tokenizer=single_base"):
            tokenizer.encode(raw)
    with pytest.raises(ValueError, match=r"soft_labels.*data.variants"):
        SoftLabels(genome[0], None)
