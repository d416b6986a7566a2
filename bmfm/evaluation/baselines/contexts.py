"""How likely an allele is by its neighbours alone: rates of mutation of pentanucleotides, and a Markov model of k-mers."""

from pathlib import Path
from typing import Any

import numpy as np

from bmfm.evaluation.baselines.variants import VariantBaseline, flanks
from bmfm.evaluation.checksums import content_hash
from bmfm.evaluation.examples.variants import VariantExamples
from bmfm.evaluation.methods.variants import VariantScores
from bmfm.evaluation.task_spec import TaskSpec
from bmfm.files import cached_folder, require_file
from bmfm.genome.alphabet import base_table
from bmfm.genome.kmers import kmer_counts, reverse_complements
from bmfm.genome.reference import SOFT_MASK_BIT, Reference
from bmfm.genome.variants import VariantTable

_TABLE = base_table()
COMPLEMENT = np.array([2, 3, 0, 1])
"""Of the codes A, G, T, C = 0 to 3."""


class PentanucleotideRates(VariantBaseline):
    """How often the pentanucleotide around a base has a variant to this allele, in variants that are not the task's.

    The logarithm of the rate is a log-likelihood ratio for the card to turn. Rates are those of SNVs of a VCF by places of the
    pentanucleotide in its genome, both strands together, shrunk towards those of the trinucleotide. What is no SNV has no score.

    Parameters
    ----------
    vcf, fasta
        Variants and their genome.
    prior
        Places that the rate of the trinucleotide counts for.
    """

    def __init__(self, name: str, vcf: str, fasta: str, prior: float = 200.0):
        super().__init__(name)
        self.vcf, self.fasta, self.prior = vcf, fasta, prior

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        return super().identity(task) | {"fitted_to": content_hash([self.vcf, self.fasta]), "prior": self.prior}

    def score(self, examples: VariantExamples, seed: int = 0) -> VariantScores:
        rates = self.log_rates()
        values = np.full(len(examples), np.nan)
        for i, (before, ref, alt, after) in enumerate(flanks(examples, 2)):
            context = _codes(before + ref + after)
            if len(ref) == len(alt) == 1 and len(context) == 5 and (context < 4).all():
                values[i] = rates[_number(context), _codes(alt)[0]]
        return VariantScores(values, "log_ratio")

    def log_rates(self) -> np.ndarray:
        """Logarithm of the rate of each pentanucleotide (its bases as digits of base four) and alternative base, [1024, 4]."""

        def build(folder: Path) -> None:
            reference = Reference.from_fasta(require_file(self.fasta, f"{self.name}: FASTA"))
            counts, places = mutation_counts(reference, VariantTable.from_vcf(self.vcf, reference))
            np.save(folder / "rates.npy", mutation_rates(counts, places, self.prior))

        return np.log(np.load(cached_folder("pentanucleotides", {"version": 1} | self.identity(), build) / "rates.npy"))


def mutation_counts(reference: Reference, variants: VariantTable) -> tuple[np.ndarray, np.ndarray]:
    """SNVs of each pentanucleotide and alternative base, [1024, 4], and places of each pentanucleotide, [1024]; both strands together."""
    counts, places = np.zeros((4**5, 4)), np.zeros(4**5)
    for begin, end in zip(reference.starts, reference.ends, strict=True):
        places += kmer_counts(reference.codes[begin:end], 5)
    width = np.diff(variants.alt_start)
    is_snv = (variants.end - variants.start == 1) & (width == 1)
    start, alt = variants.start[is_snv], variants.alt[variants.alt_start[:-1][is_snv]]
    inside = (start >= 2) & (start + 2 < len(reference.codes))  # N stands between contigs
    start, alt = start[inside], alt[inside]
    context = np.stack([reference.codes[start + i] & ~SOFT_MASK_BIT for i in range(-2, 3)], 1).astype(np.int64)
    known = (context < 4).all(1) & (alt < 4)
    context, alt = context[known], alt[known].astype(np.int64)
    for words, bases in ((context, alt), (COMPLEMENT[context[:, ::-1]], COMPLEMENT[alt])):
        np.add.at(counts, (words @ 4 ** np.arange(4, -1, -1), bases), 1)
    reverse = reverse_complements(5)
    return counts, places + places[reverse]


def mutation_rates(counts: np.ndarray, places: np.ndarray, prior: float) -> np.ndarray:
    """Rates [1024, 4] of pentanucleotides, shrunk towards those of their trinucleotide, and these towards those of their base."""
    middle = np.arange(4**5) // 4 % 64
    rates = np.full((4**5, 4), 0.0)
    of_base = np.arange(4**5) // 16 % 4
    for group, previous in ((of_base, (counts.sum() + 1) / (3 * places.sum() + 1)), (middle, None), (np.arange(4**5), None)):
        n, total = np.zeros((group.max() + 1, 4)), np.zeros(group.max() + 1)
        np.add.at(n, group, counts)
        np.add.at(total, group, places)
        before = rates if previous is None else np.full((4**5, 4), previous)
        rates = (n[group] + prior * before) / (total[group] + prior)[:, None]
    return rates


class KmerLikelihood(VariantBaseline):
    """The log-likelihood ratio of the alleles under a Markov model of a genome, mean of both strands.

    Each base is predicted by the ``k - 1`` before it; k-mers of both strands of the genome are counted together, and those with an N
    left out. Windows are ``k - 1`` bases at either side of the allele.

    Parameters
    ----------
    fasta
        The genome; None is the task's own where its contigs are chromosomes, else `small`.
    small
        What stands in where the FASTA of a task holds elements: too little sequence to count, and the very alleles in question.
    k
        Bases of a k-mer.
    pseudocount
        Added to the count of each.
    """

    def __init__(self, name: str, small: str, fasta: str | None = None, k: int = 7, pseudocount: float = 1.0):
        super().__init__(name)
        self.small, self.fasta, self.k, self.pseudocount = small, fasta, k, pseudocount

    def identity(self, task: TaskSpec | None = None) -> dict[str, Any]:
        return super().identity(task) | {"fasta": content_hash([self.fasta]) if self.fasta else None, "small": content_hash([self.small]), "k": self.k, "pseudocount": self.pseudocount}  # fmt: skip

    def score(self, examples: VariantExamples, seed: int = 0) -> VariantScores:
        own = examples.fasta if examples.card.contigs == "chrom" else None
        table = self.log_probabilities(Path(self.fasta) if self.fasta else own or Path(self.small))
        values = np.full(len(examples), np.nan)
        for i, (before, ref, alt, after) in enumerate(flanks(examples, self.k - 1)):
            if "N" in before + after:
                continue
            of_ref, of_alt = (self._log_likelihood(_codes(before + allele + after), table) for allele in (ref, alt))
            values[i] = of_alt - of_ref
        return VariantScores(values, "log_ratio")

    def _log_likelihood(self, codes: np.ndarray, table: np.ndarray) -> float:
        """Mean over both strands of the sum over bases with ``k - 1`` before them."""
        weights = 4 ** np.arange(self.k - 1, -1, -1)
        total = 0.0
        for strand in (codes, COMPLEMENT[codes[::-1]]):
            if len(strand) >= self.k:
                total += table[np.lib.stride_tricks.sliding_window_view(strand, self.k) @ weights].sum()
        return total / 2

    def log_probabilities(self, fasta: Path) -> np.ndarray:
        """Logarithm of the probability of the last base of each k-mer after the others, [4^k]."""

        def build(folder: Path) -> None:
            reference = Reference.from_fasta(require_file(fasta, f"{self.name}: FASTA"))
            counts = np.zeros(4**self.k)
            for begin, end in zip(reference.starts, reference.ends, strict=True):
                counts += kmer_counts(reference.codes[begin:end], self.k)
            counts += counts[reverse_complements(self.k)]
            np.save(folder / "log_probabilities.npy", markov(counts, self.pseudocount))

        key = {"version": 1, "fasta": content_hash([fasta]), "k": self.k, "pseudocount": self.pseudocount}
        return np.load(cached_folder("markov", key, build) / "log_probabilities.npy")


def markov(counts: np.ndarray, pseudocount: float) -> np.ndarray:
    """Logarithm of the probability of the last base of each k-mer given the others, [4^k], from counts of k-mers [4^k]."""
    by_context = counts.reshape(-1, 4) + pseudocount
    return np.log(by_context / by_context.sum(1, keepdims=True)).ravel()


def _codes(text: str) -> np.ndarray:
    """Codes of bases, ``int64`` [L]; N is 4."""
    return _TABLE[np.frombuffer(text.encode(), np.uint8)].astype(np.int64) & 0x7F


def _number(codes: np.ndarray) -> int:
    return int(codes @ 4 ** np.arange(len(codes) - 1, -1, -1))
