"""What users may choose of a scoring."""

from collections.abc import Sequence
from dataclasses import dataclass

from bmfm.variants.alleles import LEAST_SIDE
from bmfm.variants.rules import RULES

SCORES = ("llr", "embedding", "heads", "jsd", "pop")
RULE_NAMES = ("auto", "uniform", *RULES, "pll_cal", "likelihood")
STRANDS = {"both": ("forward", "reverse"), "forward": ("forward",), "reverse": ("reverse",)}


@dataclass(frozen=True)
class ScoreOptions:
    """How variants are scored.

    Attributes
    ----------
    scores
        Of ``llr`` (log-likelihood ratio), ``embedding`` (distances between states), ``heads`` (changes of what fine-tuned heads predict), ``jsd`` (divergence
        of predictions around, single bases only), ``pop`` (polymorphism, models of pair symbols).
    allele_model
        One rule for all alleles, see `rules`; ``auto`` chooses one for each, ``uniform`` one for all, as rankings need.
    window
        Bases; None is what surely fits in the model's input, at most 1,001, and no more than can change a score.
    strands
        ``both``, of which each is kept beside the mean; ``forward`` or ``reverse``.
    radius
        Bases on each side of the change whose states are compared.
    layer
        Of the states that are compared, 0 the first; None is the last with its norm.
    max_indel
        Longest REF or ALT that is scored.
    sample, sample_vcf
        Score on what a sample carries: its other variants, of both phased copies in turn, stand in both windows; from which VCF or BCF.
    background
        What ``quantile`` compares SNVs with: ``auto``, the random SNVs that are kept with the model, if there are any; how many random SNVs
        of the genome to score now; a file of variants; None for no quantiles.
    batch_size, precision
        See `inference.runner.RunOptions`.
    """

    scores: Sequence[str] = ("llr",)
    allele_model: str = "auto"
    window: int | None = None
    strands: str = "both"
    radius: int = 128
    layer: int | None = None
    max_indel: int = 50
    sample: str | None = None
    sample_vcf: str | None = None
    background: str | int | None = "auto"
    batch_size: int = 32
    precision: str | None = None

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.scores) - set(SCORES)):
            raise ValueError(f"scores: {', '.join(unknown)} is unknown; choose from {', '.join(SCORES)}")
        for name, value, choices in (("allele_model", self.allele_model, RULE_NAMES), ("strands", self.strands, tuple(STRANDS))):
            if value not in choices:
                raise ValueError(f"{name}={value!r} is unknown; choose from {', '.join(choices)}")
        if self.sample is not None and self.sample_vcf is None:
            raise ValueError(f"sample={self.sample}: say in which VCF or BCF its genotypes are (sample_vcf)")
        if self.window is not None and self.window < 2 * (self.max_indel + LEAST_SIDE):
            raise ValueError(
                f"window={self.window}: at least {2 * (self.max_indel + LEAST_SIDE)} bases are needed for alleles of up to {self.max_indel} bases (max_indel)"
            )
