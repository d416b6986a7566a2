"""Allele frequencies as VCF files state them: INFO/AF, AC and AN, dbSNP FREQ, or the genotypes themselves."""

import math
from collections.abc import Sequence


def dbsnp_freq(fields: Sequence[str], n_alts: int) -> list[float] | None:
    """Mean frequency of each ALT over the studies of a dbSNP INFO/FREQ value; studies without a figure do not count.

    Parameters
    ----------
    fields
        The value as pysam splits it at commas, e.g. ``("1000Genomes:0.9", "0.1|TOPMED:0.8", ".")``.
    """
    sums, counts = [0.0] * n_alts, [0] * n_alts
    for study in ",".join(fields).split("|"):
        values = study.rpartition(":")[2].split(",")[1:]  # the first figure is that of REF
        for i, value in enumerate(values[:n_alts]):
            if value not in (".", ""):
                sums[i] += float(value)
                counts[i] += 1
    if not any(counts):
        return None
    return [s / c if c else 0.0 for s, c in zip(sums, counts, strict=True)]


def genotype_frequencies(record, n_alts: int) -> list[float] | None:
    """Share of each ALT among the called alleles of all samples of a pysam record."""
    counts = [0] * (n_alts + 1)
    for sample in record.samples.values():
        for allele in sample.allele_indices or ():
            if allele is not None:
                counts[allele] += 1
    total = sum(counts)
    return [c / total for c in counts[1:]] if total else None


def allele_frequencies(record, n_alts: int, source: str = "auto") -> list[float] | None:
    """Frequency of each ALT of a pysam record, or None where the record states none.

    Parameters
    ----------
    source
        ``auto`` tries AF, AC/AN, FREQ and the genotypes in that order; ``genotypes`` counts them; any other word is
        the name of an INFO field with one figure for each ALT (say, ``EUR_AF``).
    """
    info = record.info
    if source == "genotypes":
        return genotype_frequencies(record, n_alts)
    if source != "auto":
        value = info.get(source)
        return None if value is None else _figures(value, n_alts)
    if (value := info.get("AF")) is not None and (figures := _figures(value, n_alts)):
        return figures
    if (counts := info.get("AC")) is not None and info.get("AN"):
        return _figures([c / info["AN"] for c in (counts if isinstance(counts, tuple) else (counts,))], n_alts)
    if (freq := info.get("FREQ")) is not None:
        return dbsnp_freq(freq if isinstance(freq, tuple) else (freq,), n_alts)
    return genotype_frequencies(record, n_alts) if len(record.samples) else None


def _figures(value, n_alts: int) -> list[float] | None:
    figures = [float("nan") if v in (None, ".") else float(v) for v in (value if isinstance(value, (tuple, list)) else (value,))]
    if len(figures) != n_alts or all(math.isnan(f) for f in figures):
        return None
    return [0.0 if math.isnan(f) else f for f in figures]
