"""Which alleles of a VCF are wanted, and the report of what became of all of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

KINDS = ("snv", "mnv", "insertion", "deletion", "complex")
NO_FREQUENCY = "no frequency stated"
"""Why an allele is left out whose record states no frequency, where none is given by the filter."""


def names_of(names: str | int | Sequence[str | int]) -> tuple[str, ...]:
    """Names as texts: of one name alone, of several, and of numbers, which YAML and the command line make of names of digits."""
    return (str(names),) if isinstance(names, (str, int)) else tuple(str(name) for name in names)


@dataclass(frozen=True)
class VariantFilter:
    """Which alleles of a VCF to take; whatever is left out is counted by reason.

    Attributes
    ----------
    min_frequency, max_frequency
        Bounds of the allele frequency, inclusive.
    missing_frequency
        Frequency to give an allele whose record states none; None leaves such alleles out.
    frequency_source
        ``auto`` tries INFO/AF, AC over AN, dbSNP's FREQ, dbSNP's older CAF, and the genotypes, in that order;
        ``genotypes`` counts the alleles that the samples carry; any other word is the name of an INFO field that the
        header declares, with one figure for each ALT (say, ``EUR_AF``). A frequency below 0 or above 1, or text where a
        figure should be, is an error.
    pass_only
        Take only records whose FILTER is PASS or absent.
    info_flag
        Take only records with this INFO flag (``COMMON`` for the published dbSNP scheme); ``COMMON=1``, as older files
        write it, is the same. The header has to declare it.
    kinds
        Subset of ``snv mnv insertion deletion complex``.
    regions
        BED file or ``contig:start-end`` words (1-based, inclusive) that an edit must lie in; an insertion lies where the
        base before it or the base after it does.
    samples
        Samples whose genotypes are kept, for phased haplotypes. One name alone, here and in `kinds`, and numbers, which
        YAML and the command line make of names of digits, are taken for names. A copy that is not called is the reference; of a genotype
        of more than two copies the first two are read.
    max_ref_mismatch
        Share of records whose REF may disagree with the genome before the file is refused.
    """

    min_frequency: float = 0.0
    max_frequency: float = 1.0
    missing_frequency: float | None = None
    frequency_source: str = "auto"
    pass_only: bool = False
    info_flag: str | None = None
    kinds: Sequence[str] = KINDS
    regions: str | Path | Sequence[str] | None = None
    samples: Sequence[str] = ()
    max_ref_mismatch: float = 0.01

    def __post_init__(self) -> None:
        for name in ("kinds", "samples"):
            object.__setattr__(self, name, names_of(getattr(self, name)))
        if self.regions is not None:
            regions = str(self.regions) if isinstance(self.regions, (str, Path, int)) else names_of(self.regions)
            object.__setattr__(self, "regions", regions)
        if not 0 <= self.min_frequency <= self.max_frequency <= 1:
            raise ValueError(
                f"min_frequency={self.min_frequency}, max_frequency={self.max_frequency}: no frequency lies between them; "
                "frequencies are from 0 to 1"
            )
        if unknown := set(self.kinds) - set(KINDS):
            raise ValueError(f"variant kinds {sorted(unknown)} are unknown; choose from {', '.join(KINDS)}")
        if self.missing_frequency is not None and not 0 <= self.missing_frequency <= 1:
            raise ValueError(f"missing_frequency={self.missing_frequency} is no frequency, which lies between 0 and 1")


@dataclass
class VariantReport:
    """What a VCF held and what became of it."""

    path: str
    records: int = 0
    kept: Counter = field(default_factory=Counter)
    skipped: Counter = field(default_factory=Counter)
    noted: Counter = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def skip(self, reason: str, where: str, n: int = 1) -> None:
        """Count `n` alleles that are left out for a reason; `where` is the example that is shown, if it is the first."""
        self.skipped[reason] += n
        self.examples.setdefault(reason, where)

    def note(self, reason: str, where: str, n: int = 1) -> None:
        """Count `n` alleles or records that are taken although something about them is odd."""
        self.noted[reason] += n
        self.examples.setdefault(reason, where)

    def rows(self) -> list[tuple[str, str, int, str]]:
        """(verdict, kind or reason, alleles, first example) for a table."""
        rows = [("kept", kind, self.kept[kind], "") for kind in KINDS if self.kept[kind]]
        rows += [("left out", reason, n, self.examples.get(reason, "")) for reason, n in self.skipped.most_common()]
        rows += [("noted", reason, n, self.examples.get(reason, "")) for reason, n in self.noted.most_common()]
        return rows
