"""Allele frequencies as VCF files state them: INFO/AF, AC and AN, dbSNP's FREQ and CAF, or the genotypes themselves.

All functions here take the text of an INFO value (what stands after ``KEY=``). A figure that is missing (``.``, nothing
at all or NaN) is not stated; text that is no number, and a frequency below 0 or above 1, is an error. Frequencies that
stand as such in the file are rounded to float32, the precision of BCF, so that a VCF and its BCF give the same table.
"""

import math
from collections.abc import Mapping

import numpy as np

FORMATS = {"AF": "figures", "AC": "counts", "FREQ": "freq", "CAF": "caf"}
"""How a field is read; a field of another name has one figure for each ALT, like AF."""

ROUNDING = 1e-6
"""By how much a frequency, or the sum of those of a record, may be above 1 and is taken for 1."""

NOTES = {
    "misfit": "number of frequencies does not fit the ALT alleles (not read)",
    "partial": "no frequency for one of several ALT alleles (0 used)",
}


def sources(name: str) -> tuple[str, ...]:
    """INFO fields that are tried in turn for `VariantFilter.frequency_source`."""
    return {"auto": ("AF", "AC", "FREQ", "CAF"), "genotypes": ()}.get(name, (name,))


def number(text: str) -> float:
    """A figure, NaN where it is missing; ValueError where it is no number."""
    if text in ("", "."):
        return math.nan
    if "_" in text:  # which Python would read
        raise ValueError(f"{text!r} is no number")
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None


def share(value: float) -> float:
    """A frequency, or NaN; ValueError where there can be no such frequency."""
    if value < 0 or value > 1 + ROUNDING:
        raise ValueError(f"{value:.10g} is no frequency, which lies between 0 and 1")
    return min(value, 1.0) if value > 1 else value


def _per_alt(figures: list[float], n_alts: int, notes: set[str]) -> list[float] | None:
    if all(math.isnan(f) for f in figures):
        return None
    if len(figures) != n_alts:
        notes.add("misfit")
        return None
    if any(math.isnan(f) for f in figures):
        notes.add("partial")
    return [0.0 if math.isnan(f) else f for f in figures]


def plain_figures(text: str, n_alts: int, notes: set[str]) -> list[float] | None:
    """One figure for each ALT: ``AF=0.25,0.1``."""
    return _per_alt([float(np.float32(share(number(v)))) for v in text.split(",")], n_alts, notes)


def allele_counts(ac: str, an: str, n_alts: int, notes: set[str]) -> list[float] | None:
    """AC over AN; not stated where AN is missing or 0."""
    total = number(an)
    if not total or math.isnan(total):
        return None
    return _per_alt([share(number(v) / total) for v in ac.split(",")], n_alts, notes)


def dbsnp_freq(text: str, n_alts: int, notes: set[str]) -> list[float] | None:
    """Mean over the studies of a dbSNP FREQ: ``1000Genomes:0.9,0.1|TOPMED:0.8,.`` (REF first); missing figures do not count."""
    sums, counts = [0.0] * n_alts, [0] * n_alts
    for study in text.split("|"):
        _, named, figures = study.rpartition(":")
        if not named and study not in ("", "."):
            raise ValueError(
                "FREQ is read in the form of dbSNP, STUDY:0.9,0.1 (REF first); for another form name a field that states "
                "frequencies, or genotypes, in frequency_source, or add AF by bcftools +fill-tags"
            )
        values = [share(number(v)) for v in figures.split(",")[1:]]
        if all(math.isnan(v) for v in values):
            continue
        if len(values) != n_alts:
            notes.add("misfit")
            continue
        for i, value in enumerate(values):
            if not math.isnan(value):
                sums[i] += value
                counts[i] += 1
    means = [s / c if c else math.nan for s, c in zip(sums, counts, strict=True)]
    return _per_alt(means, n_alts, notes)


def dbsnp_caf(text: str, n_alts: int, notes: set[str]) -> list[float] | None:
    """The CAF of dbSNP before 2018, REF first: ``0.9,0.1`` or ``[0.9,0.1]``."""
    values = text.removeprefix("[").removesuffix("]").split(",")
    return _per_alt([float(np.float32(share(number(v)))) for v in values[1:]], n_alts, notes)


def stated(info: Mapping[str, str], n_alts: int, source: str) -> tuple[list[float] | None, set[str]]:
    """Frequency of each ALT as the INFO fields of a record state it, or None; and keys of `NOTES`.

    Raises
    ------
    ValueError
        Names the field, what it holds and what is wrong with it.
    """
    notes: set[str] = set()
    for key in sources(source):
        if key not in info:
            continue
        text, kind = info[key], FORMATS.get(key, "figures")
        try:
            if kind == "counts":
                figures = allele_counts(text, info.get("AN", "."), n_alts, notes)
            elif kind == "freq":
                figures = dbsnp_freq(text, n_alts, notes)
            elif kind == "caf":
                figures = dbsnp_caf(text, n_alts, notes)
            else:
                figures = plain_figures(text, n_alts, notes)
        except ValueError as error:
            shown = f"AC={text};AN={info.get('AN', '.')}" if kind == "counts" else f"{key}={text}"
            raise ValueError(f"{shown[:80]}: {error}") from None
        if figures is not None:
            return figures, notes
    return None, notes
