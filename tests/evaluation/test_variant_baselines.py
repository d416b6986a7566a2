"""Simple baselines of variants: their directions, and their rates by counting."""

import numpy as np
import pandas as pd
import pytest

from bmfm.evaluation.baselines import contexts
from bmfm.evaluation.baselines.variants import TransitionTransversion
from bmfm.evaluation.task_files import read_task
from bmfm.genome.reference import Reference
from bmfm.genome.variants import VariantTable
from tests.evaluation.variant_tasks import COMPLEMENT, GENOME, by_name, card, read, snvs, write_fasta


def test_directions_of_simple_baselines(variant_task):
    sequence = GENOME["1"]
    cg = sequence.index("CG", 20)
    table = pd.DataFrame(
        [("1", cg + 1, "C", "T"), ("1", cg + 1, "C", "G"), ("1", cg + 1, "CG", "C")], columns=["chrom", "pos", "ref", "alt"]
    )
    more = snvs(8).assign(Label=[0, 1] * 4, Consequence="intron_variant")
    more = more[more["chrom"] != "1"]
    terms = ["stop_gained", "intron_variant&missense_variant", "what"]
    given, root = variant_task(pd.concat([table.assign(Label=[1, 0, 1], Consequence=terms, AF=[0.1, 0.2, np.nan]), more]))
    examples, named = read(given, root), by_name()
    frequency = named["variant_frequency"].score(examples).values[:3]
    assert frequency.tolist() == [-0.1, -0.2, 0]  # the card says that an allele without a frequency was never seen
    severity = named["variant_consequence"].score(examples).values[:3]
    assert severity[0] > severity[1] > named["variant_consequence"].score(examples).values[4] and np.isnan(severity[2])
    assert np.array_equal(TransitionTransversion("x").score(examples).values[:3], [0, 1, np.nan], equal_nan=True)
    loses = [
        (sequence[:cg] + alt + sequence[cg + len(ref) :]).count("CG") < sequence.count("CG")
        for ref, alt in (("C", "T"), ("C", "G"), ("CG", "C"))
    ]
    assert named["variant_cpg"].score(examples).values[:3].tolist() == loses
    takes = {name for name, method in named.items() if method.takes(given)}
    assert "variant_frequency" in takes and "variant_tss" not in takes
    clinvar, promoter = card("traitgym_mendelian"), read_task("gue/tf_0", ["checkpoint=none"])
    assert {"variant_tss", "variant_consequence"} < {n for n, m in named.items() if m.takes(clinvar)} and not named["variant_frequency"].takes(clinvar)  # fmt: skip
    assert not named["variant_tss"].takes(promoter)


def test_rates_of_pentanucleotides_by_counting(tmp_path):
    fasta = write_fasta(tmp_path / "genome.fa.gz", {"1": GENOME["1"] + "N" + GENOME["2"], "2": GENOME["3"]})
    sequences = {"1": GENOME["1"] + "N" + GENOME["2"], "2": GENOME["3"]}
    header = (
        "##fileformat=VCFv4.2\n" + "".join(f"##contig=<ID={c}>\n" for c in sequences) + "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    )
    rng, lines, expected, places = np.random.default_rng(7), [], {}, {}
    for contig, sequence in sequences.items():
        for pos in sorted(rng.choice(np.arange(3, len(sequence) - 2), 80, replace=False)):
            ref = sequence[pos - 1]
            if ref == "N":
                continue
            alt = rng.choice([b for b in "ACGT" if b != ref])
            lines.append(f"{contig}\t{pos}\t.\t{ref}\t{alt}\t.\t.\tAF=0.1")
            context = sequence[pos - 3 : pos + 2]
            for word, base in ((context, alt), (context.translate(COMPLEMENT)[::-1], alt.translate(COMPLEMENT))):
                if "N" not in word:
                    expected[word, base] = expected.get((word, base), 0) + 1
        for i in range(len(sequence) - 4):
            word = sequence[i : i + 5]
            if "N" not in word:
                for w in (word, word.translate(COMPLEMENT)[::-1]):
                    places[w] = places.get(w, 0) + 1
    lines.append(f"1\t50\t.\t{sequences['1'][49]}\t{sequences['1'][49]}AC\t.\t.\tAF=0.1")  # no SNV
    vcf = tmp_path / "x.vcf"
    vcf.write_text(header + "\n".join(sorted(lines, key=lambda x: (x.split("\t")[0], int(x.split("\t")[1])))) + "\n")
    from bmfm.genome.variants import VariantFilter

    reference = Reference.from_fasta(fasta)
    counts, at = contexts.mutation_counts(reference, VariantTable.from_vcf(vcf, reference, VariantFilter()))
    number = {b: i for i, b in enumerate("AGTC")}
    words = ["".join(w) for w in np.array(list("AGTC"))[np.arange(1024)[:, None] // 4 ** np.arange(4, -1, -1) % 4]]
    assert counts.sum() == sum(expected.values()) and all(counts[words.index(w), number[b]] == n for (w, b), n in expected.items())
    assert [places.get(w, 0) for w in words] == at.tolist()
    rates = contexts.mutation_rates(counts, at, 10.0)
    assert (rates > 0).all() and rates[words.index(next(iter(expected))[0])].max() < 1


def test_a_markov_model_by_counting(variant_task, tmp_path):
    table = snvs(12)
    given, root = variant_task(pd.concat([table, pd.DataFrame([("2", 100, GENOME["2"][99], GENOME["2"][99] + "ACG")], columns=table.columns)]).assign(Label=[0, 1] * 6 + [1]))  # fmt: skip
    background = {c: s for c, s in GENOME.items() if c in "23"}
    fasta = write_fasta(tmp_path / "background.fa.gz", background)
    values = contexts.KmerLikelihood("x", str(fasta), str(fasta), k=3).score(read(given, root)).values
    counts: dict[str, float] = {}
    for sequence in background.values():
        for strand in (sequence, sequence.translate(COMPLEMENT)[::-1]):
            for i in range(len(strand) - 2):
                counts[strand[i : i + 3]] = counts.get(strand[i : i + 3], 0) + 1

    def likelihood(text):
        total = 0.0
        for strand in (text, text.translate(COMPLEMENT)[::-1]):
            for i in range(len(strand) - 2):
                after = {b: counts.get(strand[i : i + 2] + b, 0) + 1.0 for b in "ACGT"}
                total += np.log(after[strand[i + 2]] / sum(after.values())) / 2
        return total

    examples = read(given, root)
    expected = []
    for chrom, pos, ref, alt in examples.variants.itertuples(index=False):
        sequence = GENOME[str(chrom).removeprefix("chr")]
        before, after = sequence[pos - 3 : pos - 1], sequence[pos - 1 + len(ref) : pos + 1 + len(ref)]
        expected.append(likelihood(before + alt + after) - likelihood(before + ref + after))
    assert values == pytest.approx(expected)


# cards and the runner
