"""The design of the experiment: folds, controls, loci, and what a model is asked, each against a plain count."""

from collections import Counter

import numpy as np
import pysam
import pytest
import torch
from scipy import stats

from bmfm.experiments.arms import Arm, check_no_leak, variants_of
from bmfm.experiments.asking import log_probs_at, losses_of_blocks
from bmfm.experiments.control_variants import main as write_control
from bmfm.experiments.folds import Folds
from bmfm.experiments.function import correlations, read_effects
from bmfm.experiments.loci import LocusSettings, mutation_table, select_loci
from bmfm.genome.control_variants import Snvs, snvs_of
from bmfm.genome.reference import Reference
from bmfm.genome.regions import within
from bmfm.inference.predictor import Predictor
from bmfm.models.model import build
from bmfm.special import MASK
from bmfm.tokenizers.dna import single_base
from tests.conftest import SLICE_FASTA, SLICE_VCF

COMPLEMENT = {"A": "T", "C": "G", "G": "C", "T": "A", "N": "N"}


@pytest.fixture(scope="module")
def data(slice_reference, slice_variants):
    touched = {p for s, e in zip(slice_variants.start, slice_variants.end, strict=True) for p in range(s, max(e, s + 1))}
    return slice_reference, snvs_of(slice_variants), np.array(sorted(touched)), Folds.draw(slice_reference, 20_000, 5)


def test_folds_take_each_block_once_and_training_keeps_off(data):
    folds = data[3]
    assert folds.blocks.tolist() == [[i, i + 20_000] for i in range(0, 1_000_000, 20_000)]
    assert [len(folds.test_blocks(f)) for f in range(5)] == [10] * 5
    for fold in range(5):
        allowed = np.ones(1_000_000, bool)
        for number in range(50):
            if folds.fold[number] in (fold, (fold + 1) % 5):
                start, end = folds.blocks[number]
                allowed[max(0, start - 300) : end + 300] = False
        trained = np.zeros(1_000_000, bool)
        for start, end in folds.training_intervals(fold, 300):
            trained[start:end] = True
        assert (trained == allowed).all()
        assert set(folds.test_blocks(fold)).isdisjoint(folds.validation_blocks(fold))
    assert (folds.block_of(np.array([0, 19_999, 20_000, 999_999])) == [0, 0, 1, 49]).all()


def test_blocks_end_with_their_contigs(write):
    reference = Reference.from_fasta(write("g.fa", ">a\n" + "ACGT" * 25 + "\n>b\nACGTACGT\n>c\n" + "ACGT" * 12 + "\n"))
    folds = Folds.draw(reference, 30, 2)
    assert folds.blocks.tolist() == [[0, 30], [30, 60], [60, 100], [101, 109], [110, 158]]
    assert sorted(Counter(folds.fold.tolist()).values()) == [2, 3]
    for fold in range(2):
        held = folds.blocks[folds.test_blocks(fold)]
        assert not any(within(np.array([a]), np.array([b]), folds.training_intervals(fold, 0))[0] for a, b in held)
    with pytest.raises(ValueError, match="fewer than 9 folds"):
        Folds.draw(reference, 30, 9)


def _read(path, fasta):
    """(pos, trinucleotide, ALT, frequency to six digits) of every single-base ALT, trimmed of what it shares with REF, by pysam alone."""
    rows = []
    with pysam.VariantFile(str(path)) as records, pysam.FastaFile(str(fasta)) as genome:
        text = genome.fetch("chr20_slice").upper()
        for r in records:
            for alt, frequency in zip(r.alts or (), r.info["AF"], strict=True):
                if len(r.ref) == len(alt) and sum(a != b for a, b in zip(r.ref, alt, strict=True)) == 1:
                    at = next(i for i, (a, b) in enumerate(zip(r.ref, alt, strict=True)) if a != b)
                    pos = r.pos + at
                    assert text[pos - 1] == r.ref[at]
                    rows.append((pos, text[pos - 2 : pos + 1], alt[at], f"{frequency:.6f}"))
    return rows


@pytest.mark.parametrize("kind", ["shuffle", "random"])
def test_control_files(tmp_path, kind):
    out, region = tmp_path / "control.vcf.gz", "chr20_slice:200,001-400,000"
    assert write_control([kind, str(SLICE_FASTA), str(SLICE_VCF), str(out), "--regions", region, "--seed", "3"]) == 0
    every = _read(SLICE_VCF, SLICE_FASTA)
    observed = [r for r in every if 200_000 < r[0] <= 400_000]
    control = _read(out, SLICE_FASTA)
    assert Counter(r[1:] for r in control) == Counter(r[1:] for r in observed)  # trinucleotide, alternative base and frequency
    assert all(200_000 < r[0] <= 400_000 for r in control) and control == sorted(control, key=lambda r: r[0])
    if kind == "shuffle":
        assert sorted(r[:3] for r in control) == sorted(r[:3] for r in observed)
        assert sum(r in set(observed) for r in control) < 0.7 * len(observed)  # half of all variants are singletons
    else:
        with pysam.VariantFile(str(SLICE_VCF)) as records:
            deleted = {p for r in records for alt in r.alts or () if alt == r.ref[0] for p in range(r.pos + 1, r.pos + len(r.ref))}
        assert len({r[0] for r in control}) == len(control) and deleted
        assert not {r[0] for r in control} & (deleted | {r[0] for r in every})
    again = tmp_path / "again.vcf.gz"
    write_control([kind, str(SLICE_FASTA), str(SLICE_VCF), str(again), "--regions", region, "--seed", "3"])
    assert _read(again, SLICE_FASTA) == control


def test_what_an_arm_is_shown(data):
    reference, snvs, touched, folds = data
    intervals = folds.training_intervals(1, 512)
    shown = {
        kind: variants_of(Arm("", kind), reference, snvs, touched, intervals, seed)
        for kind in ("observed", "shuffled", "random")
        for seed in (0,)
    }
    assert variants_of(Arm("", None), reference, snvs, touched, intervals, 0) is None
    for variants in shown.values():
        assert variants is not None and len(variants) == len(shown["observed"])  # type: ignore[arg-type]
        check_no_leak(folds, 1, 512, intervals, variants)
    held_out = int(folds.blocks[folds.test_blocks(1)[0], 0]) + 5
    leak = Snvs(np.array([held_out]), np.array([0], np.uint8), np.array([0.5]))
    with pytest.raises(ValueError, match=r"a variant .* in the held-out block"):
        check_no_leak(folds, 1, 512, intervals, leak)
    with pytest.raises(ValueError, match="a training interval reaches into the held-out block"):
        check_no_leak(folds, 1, 512, np.array([[held_out - 600, held_out - 400]]), None)
    with pytest.raises(ValueError, match="variants='mixed' is unknown"):
        Arm("", "mixed")


def test_loci_are_matched(data):
    reference, snvs, touched, folds = data
    loci = select_loci(reference, snvs, touched, folds, 2, LocusSettings())
    with pysam.FastaFile(str(SLICE_FASTA)) as genome:
        text = genome.fetch("chr20_slice")
    inside = [r for r in _read(SLICE_VCF, SLICE_FASTA) if folds.fold[(r[0] - 1) // 20_000] == 2]
    common = loci[loci["site"] == 1]
    assert sorted(common["position"] + 1) == sorted(r[0] for r in inside if float(r[3]) >= 0.01)
    assert loci["block"].map(lambda b: folds.fold[b]).eq(2).all()
    negatives = loci[loci["site"] == 0]
    assert negatives["position"].is_unique and not np.isin(negatives["position"], touched).any()
    assert 8 * len(common) < len(negatives) <= 9 * len(common)

    def context(p):
        return text[p - 1 : p + 2].upper(), text[p].islower()

    def share(frame):
        counts = Counter(frame["position"].map(context))
        return {k: n / len(frame) for k, n in counts.items()}

    ours, theirs = share(common.drop_duplicates("position")), share(negatives)
    assert max(abs(ours[k] - theirs.get(k, 0)) for k in ours) < 0.01
    gc = [np.mean([sum(x in "GCgc" for x in text[max(0, p - 50) : p + 51]) for p in frame["position"]]) for frame in (common, negatives)]
    assert gc[0] == pytest.approx(gc[1], abs=1.0)  # of 101 bases
    frequent, rare = (loci[loci["pair"] == k] for k in (1, 0))
    kinds = [Counter(zip(f["position"].map(lambda p: text[p - 1 : p + 2].upper()), f["alt"], strict=True)) for f in (frequent, rare)]
    assert kinds[0] == kinds[1] and frequent["frequency"].min() >= 0.05 and rare["frequency"].max() <= 0.0003
    cpg = loci[loci["cpg_transition"]].head(40)
    assert all(text[p - 1 : p + 1].upper() == "CG" or text[p : p + 2].upper() == "CG" for p in cpg["position"])


def test_mutation_table_counts_both_strands(write):
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(list("ACGT"), 400))
    reference = Reference.from_fasta(write("g.fa", f">c\n{text}\n"))
    places = np.sort(rng.choice(np.arange(2, 398), 60, replace=False))
    snvs = Snvs(places, np.zeros(60, np.uint8), np.where(np.arange(60) % 3, 0.2, 0.001))
    table = mutation_table(reference, snvs, np.array([[2, 398]]), 0.01, prior=5.0)
    words = [text[p - 2 : p + 3] for p in range(2, 398)]
    words += ["".join(COMPLEMENT[b] for b in reversed(w)) for w in words]
    common = {int(p) for p, f in zip(places, snvs.frequency, strict=True) if f >= 0.01}
    hits = 2 * [p in common for p in range(2, 398)]
    total, k = Counter(words), Counter(w for w, h in zip(words, hits, strict=True) if h)
    for word in [*total][:50]:
        number = sum("AGTCN".index(b) * 5 ** (4 - i) for i, b in enumerate(word))
        assert table[number] == pytest.approx((k[word] + 5 * np.mean(hits)) / (total[word] + 5))


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    tokenizer = single_base()
    heads = {"mlm": {"size": len(tokenizer), "transform": True, "tied": "input_ids"}}
    conv = {"hidden_size": 16, "num_hidden_layers": 2, "kernel_size": 5, "max_dilation": 2, "dropout": 0.0}
    return Predictor(build(tokenizer.fields, heads, "bmfm.models.backbones.conv.Conv", **conv), tokenizer, "cpu")


def _plain(predictor, texts, place):
    """log p(A, G, T, C) at a masked place of each text, one batch by hand."""
    tokenizer = predictor.tokenizer
    ids = torch.tensor([[3, *(tokenizer.names.index(b) for b in text), 1] for text in texts])
    ids[torch.arange(len(texts)), torch.tensor(place) + 1] = MASK
    rows = {
        "input_ids": ids,
        "sequence_ids": torch.ones_like(ids),
        "packed": False,
        "position_ids": torch.arange(ids.shape[1]).expand_as(ids),
    }
    with torch.no_grad():
        hidden = predictor.model.encode(rows)[torch.arange(len(texts)), torch.tensor(place) + 1]
        logits = predictor.model.head("mlm", hidden)
    return logits[:, [tokenizer.names.index(b) for b in "AGTC"]].log_softmax(1).double().numpy()


def test_probabilities_at_a_locus_are_those_of_both_strands(write, predictor):
    rng = np.random.default_rng(1)
    texts = ["".join(rng.choice(list("ACGT"), n)) for n in (60, 15)]
    reference = Reference.from_fasta(write("g.fa", f">a\n{texts[0]}\n>b\n{texts[1].lower()}\n"))
    position = np.array([0, 7, 30, 59, 61, 75])  # contig b begins at 61
    answers = log_probs_at(predictor, reference, position, 21, 4)
    windows = [(texts[0][:21], 0), (texts[0][:21], 7), (texts[0][20:41], 10), (texts[0][39:], 20), (texts[1], 0), (texts[1], 14)]
    for answer, (window, place) in zip(answers, windows, strict=True):
        other = "".join(COMPLEMENT[b] for b in reversed(window))
        both = (_plain(predictor, [window], [place]) + _plain(predictor, [other], [len(window) - 1 - place])[:, [2, 3, 0, 1]])[0] / 2
        np.testing.assert_allclose(answer, both - np.log(np.exp(both).sum()), atol=1e-5)


def test_losses_of_blocks_leave_variants_out(write, predictor):
    text = "".join(np.random.default_rng(2).choice(list("ACGT"), 41)) + "N"
    reference = Reference.from_fasta(write("g.fa", f">a\n{text}\n"))
    losses, counts = losses_of_blocks(predictor, reference, np.array([[2, 12], [12, 42]]), np.array([3, 4, 20]), 8, window=10)
    for number, (start, end, skipped) in enumerate([(2, 12, {3, 4}), (12, 42, {20, 41})]):
        total = 0.0
        for first in range(start, end, 10):
            window = text[first : min(first + 10, end)]
            n_turns, known = 7, [i for i, b in enumerate(window) if b != "[UNK]"]
            for turn in range(n_turns):
                masked = [i for i in known if i % n_turns == turn]
                if masked:
                    values = _masked_together(predictor, window, masked)
                    total -= sum(values[i]["AGTC".index(window[i])] for i in masked if first + i not in skipped and window[i] in "ACGT")
        assert counts[number] == end - start - len(skipped) and losses[number] == pytest.approx(total, rel=1e-4)


def _masked_together(predictor, text, masked):
    names = predictor.tokenizer.names
    ids = torch.tensor([[3, *(names.index(b) for b in text), 1]])
    ids[0, [i + 1 for i in masked]] = MASK
    rows = {"input_ids": ids, "sequence_ids": torch.ones_like(ids), "packed": False, "position_ids": torch.arange(ids.shape[1])[None]}
    with torch.no_grad():
        logits = predictor.model.head("mlm", predictor.model.encode(rows)[0, 1:-1])
    return logits[:, [names.index(b) for b in "AGTC"]].log_softmax(1).double().numpy()


def test_function_is_a_rank_correlation_within_elements(write, predictor):
    rng = np.random.default_rng(3)
    texts = {name: "".join(rng.choice(list("ACGT"), 90)) for name in ("one", "two")}
    reference = Reference.from_fasta(write("g.fa", "".join(f">{name}\n{text}\n" for name, text in texts.items())))
    rows = [
        (name, p + 1, text[p], rng.choice([b for b in "ACGT" if b != text[p]]), rng.normal())
        for name, text in texts.items()
        for p in range(25, 65)
    ]
    file = write("effects.csv", "chrom,pos,ref,alt,effect\n" + "".join(f"{c},{p},{r},{a},{e:.6f}\n" for c, p, r, a, e in rows))
    answers = correlations(predictor, read_effects(file), reference)
    for number, name in enumerate(texts):
        of_element = [r for r in rows if r[0] == name]
        position = reference.starts[number] + np.array([r[1] - 1 for r in of_element])
        log_probs = log_probs_at(predictor, reference, position, 41, 16)
        ratio = [lp["AGTC".index(r[3])] - lp["AGTC".index(r[2])] for lp, r in zip(log_probs, of_element, strict=True)]
        sizes = stats.spearmanr(np.abs(ratio), [abs(r[4]) for r in of_element]).statistic
        assert correlations(predictor, read_effects(file), reference, absolute=True)[name] == pytest.approx(sizes, abs=1e-3)
        assert answers[name] == pytest.approx(stats.spearmanr(ratio, [r[4] for r in of_element]).statistic, abs=1e-3)
    with pytest.raises(ValueError, match="no column effect"):
        read_effects(write("bad.csv", "chrom,pos,ref,alt\none,1,A,C\n"))
    with pytest.raises(ValueError, match="row 2 has no number as its effect"):
        read_effects(write("bad.csv", "chrom,pos,ref,alt,effect\none,1,A,C,0.5\none,2,A,C,high\n"))
