"""What any score of variants must beat: frequency, kind of change, class of consequence, distance to a gene's start, chance."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from bmfm.evaluation.examples.variants import VariantExamples
from bmfm.evaluation.methods.variants import VariantMethod, VariantScores
from bmfm.evaluation.task_spec import TaskSpec
from bmfm.evaluation.variant_card import card_of
from bmfm.genome.alphabet import decode
from bmfm.genome.reference import SOFT_MASK_BIT

PURINES = frozenset("AG")
SEVERITY = (
    "transcript_ablation", "splice_acceptor_variant", "splice_donor_variant", "stop_gained", "frameshift_variant", "stop_lost", "start_lost",
    "transcript_amplification", "feature_elongation", "feature_truncation", "inframe_insertion", "inframe_deletion", "missense_variant",
    "protein_altering_variant", "splice_donor_5th_base_variant", "splice_region_variant", "splice_donor_region_variant",
    "splice_polypyrimidine_tract_variant", "incomplete_terminal_codon_variant", "start_retained_variant", "stop_retained_variant",
    "synonymous_variant", "coding_sequence_variant", "mature_miRNA_variant", "5_prime_UTR_variant", "3_prime_UTR_variant",
    "non_coding_transcript_exon_variant", "intron_variant", "NMD_transcript_variant", "non_coding_transcript_variant",
    "coding_transcript_variant", "upstream_gene_variant", "downstream_gene_variant", "TFBS_ablation", "TFBS_amplification",
    "TF_binding_site_variant", "regulatory_region_ablation", "regulatory_region_amplification", "regulatory_region_variant",
    "intergenic_variant", "sequence_variant",
)  # fmt: skip
"""Consequences in the order of severity that Ensembl gives them (www.ensembl.org/info/genome/variation/prediction)."""


class VariantBaseline(VariantMethod):
    """A baseline whose direction is fixed: more of its value is more effect.

    Parameters
    ----------
    name
        Shown in tables.
    """

    def __init__(self, name: str):
        super().__init__(name)


class OfColumn(VariantBaseline):
    """A baseline that reads a column which the card must name."""

    column: str

    def takes(self, task: TaskSpec) -> bool:
        return super().takes(task) and _is_of_variants(task) and self.column in card_of(task).columns


def _is_of_variants(task: TaskSpec) -> bool:
    """Whether a task has a card of variants: methods are asked of every task."""
    return "columns" in task.examples


class AlleleFrequency(OfColumn):
    """The rarer an allele, the more effect; only where the card allows it, as labels are often made from frequencies."""

    column = "frequency"

    def takes(self, task: TaskSpec) -> bool:
        return super().takes(task) and card_of(task).frequency_allowed

    def score(self, examples: VariantExamples, seed: int = 0) -> VariantScores:
        return VariantScores(-examples.table["frequency"].to_numpy(float))


class TssDistance(OfColumn):
    """The nearer to the start of a transcript, the more effect."""

    column = "tss_distance"

    def score(self, examples: VariantExamples, seed: int = 0) -> VariantScores:
        return VariantScores(-np.abs(examples.table["tss_distance"].to_numpy(float)))


class Consequence(OfColumn):
    """Ensembl's order of severity; of several terms with ``&`` or ``,`` between them the most severe counts."""

    column = "consequence"

    def score(self, examples: VariantExamples, seed: int = 0) -> VariantScores:
        rank = {term: len(SEVERITY) - i for i, term in enumerate(SEVERITY)}

        def severity(terms: Any) -> float:
            known = [rank[t] for t in str(terms).replace(",", "&").split("&") if t in rank]
            return float(max(known)) if known else float("nan")

        return VariantScores(np.array([severity(terms) for terms in examples.table["consequence"]]))


class TransitionTransversion(VariantBaseline):
    """Transversions (1) change more than transitions (0); what is no SNV has no score."""

    def score(self, examples: VariantExamples, seed: int = 0) -> VariantScores:
        return VariantScores(
            np.array([_transversion(r, a) for r, a in zip(examples.variants["ref"], examples.variants["alt"], strict=True)])
        )


def _transversion(ref: str, alt: str) -> float:
    return float((ref in PURINES) != (alt in PURINES)) if len(ref) == len(alt) == 1 else float("nan")


class CpG(VariantBaseline):
    """Whether the alternative allele has fewer CpG than REF (1), or as many or more (0), with the bases beside it."""

    def score(self, examples: VariantExamples, seed: int = 0) -> VariantScores:
        return VariantScores(np.array([_loses_cpg(*around) for around in flanks(examples, 1)]))


def _loses_cpg(before: str, ref: str, alt: str, after: str) -> float:
    return float((before + alt + after).count("CG") < (before + ref + after).count("CG"))


class RandomScore(VariantBaseline):
    """Chance: a number a variant that the seed draws."""

    deterministic = False

    def score(self, examples: VariantExamples, seed: int = 0) -> VariantScores:
        return VariantScores(np.random.default_rng(seed).random(len(examples)))


def flanks(examples: VariantExamples, n: int) -> Iterator[tuple[str, str, str, str]]:
    """Of each variant up to `n` bases before it, REF, ALT, and up to `n` bases after it, on the FASTA's forward strand.

    Raises
    ------
    ValueError
        Where the task has no FASTA.
    """
    reference = examples.reference
    if reference is None:
        raise ValueError(f"{examples.task.name} names no FASTA (task.examples.fasta), which this baseline reads variants in")
    contigs = {name: reference.names.require(name, str(examples.fasta)) for name in examples.variants["chrom"].unique()}
    for contig, pos, ref, alt in examples.variants.itertuples(index=False, name=None):
        number = contigs[contig]
        start, end, length = pos - 1, pos - 1 + len(ref), reference.contigs[number]["length"]
        codes = reference.codes[reference.starts[number] + max(0, start - n) : reference.starts[number] + min(length, end + n)]
        around = decode(codes & ~SOFT_MASK_BIT)
        before = min(n, start)
        yield around[:before], ref, alt, around[before + len(ref) :]
