"""Variants that are no variation: controls of what a model can have learned from real ones.

`shuffle_frequencies` leaves every variant at its place and gives it the frequency of another one with the same trinucleotide and the same
alternative base, so that places and the spectrum of mutation are those of the data and the frequencies mean nothing. `random_snvs` leaves
the spectrum and the frequencies alone and draws the places.
"""

import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pysam

from bmfm.genome.alphabet import BASES, N
from bmfm.genome.reference import Reference
from bmfm.genome.regions import within
from bmfm.genome.variants import VariantTable

_CODE = 0x7F


@dataclass(frozen=True)
class Snvs:
    """Single-base alternatives, one an ALT, sorted by position.

    Attributes
    ----------
    position : int64 [E]
        Places in `Reference.codes`.
    alt : uint8 [E]
        State code of the alternative base.
    frequency : float64 [E]
    """

    position: np.ndarray
    alt: np.ndarray
    frequency: np.ndarray

    def __len__(self) -> int:
        return len(self.position)

    def take(self, chosen: np.ndarray) -> "Snvs":
        """Some of them: a mask, or their numbers."""
        return Snvs(self.position[chosen], self.alt[chosen], self.frequency[chosen])

    def inside(self, intervals: np.ndarray) -> "Snvs":
        """Those in an interval set."""
        return self.take(within(self.position, self.position + 1, intervals))


def snvs_of(variants: VariantTable) -> Snvs:
    """The single-base alternatives of a table; a multi-allelic record has several. Other alleles are passed over."""
    single = np.flatnonzero((variants.end - variants.start == 1) & (np.diff(variants.alt_start) == 1))
    frequency = variants.high[single].astype(np.float64) - variants.low[single]
    return Snvs(np.array(variants.start[single]), variants.alt[variants.alt_start[single]], frequency)


def contexts(reference: Reference, position: np.ndarray, width: int = 3) -> np.ndarray:
    """Number of the word of `width` bases around each place [E], in base 5; what lies beyond a contig counts as N."""
    padded = np.concatenate([np.full(width // 2, N), reference.codes & _CODE, np.full(width // 2, N)])
    number = np.zeros(len(position), np.int64)
    for offset in range(width):
        number = number * 5 + padded[position + offset]
    return number


def classes_of(reference: Reference, snvs: Snvs) -> np.ndarray:
    """Number of the trinucleotide and the alternative base of each variant [E]."""
    return contexts(reference, snvs.position) * 5 + snvs.alt


def shuffle_frequencies(reference: Reference, snvs: Snvs, rng: np.random.Generator) -> Snvs:
    """The same variants; frequencies are permuted among those with the same trinucleotide and the same alternative base."""
    group, frequency = classes_of(reference, snvs), snvs.frequency.copy()
    for members in _groups(group):
        frequency[members] = frequency[rng.permutation(members)]
    return replace(snvs, frequency=frequency)


def random_snvs(reference: Reference, snvs: Snvs, intervals: np.ndarray, avoided: np.ndarray, rng: np.random.Generator) -> Snvs:
    """As many variants at other places, with the same trinucleotides, alternative bases and, for each of these, frequencies.

    Parameters
    ----------
    intervals
        Interval set that they are drawn in.
    avoided
        Places at which no variant is drawn: those of all that are known.

    Raises
    ------
    ValueError
        If a trinucleotide has fewer free places than variants.
    """
    free = np.concatenate([np.arange(start, end) for start, end in intervals])
    free = rng.permutation(free[~np.isin(free, avoided)])
    of_free, of_variants = contexts(reference, free), contexts(reference, snvs.position)
    position = np.empty_like(snvs.position)
    for members in _groups(of_variants):
        places = free[of_free == of_variants[members[0]]]
        if len(places) < len(members):
            raise ValueError(
                f"{reference.source}: {len(members):,} random variants are asked for in a trinucleotide that has {len(places):,} places "
                "without a known variant; widen the regions, or take fewer variants (by their frequency)"
            )
        position[members] = places[: len(members)]
    order = np.lexsort((snvs.alt, position))
    return Snvs(position[order], snvs.alt[order], snvs.frequency[order])


def _groups(number: np.ndarray) -> list[np.ndarray]:
    """Members of each group, ascending."""
    order = np.argsort(number, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number[order])) + 1) if len(number) else []


def write_snvs(path: str | Path, snvs: Snvs, reference: Reference, source: str) -> None:
    """Write variants as a VCF (bgzip where the name ends in .gz), one record an ALT, with INFO/AF.

    Parameters
    ----------
    source
        What made them, for the header.
    """
    lengths = "".join(f"##contig=<ID={c['name']},length={c['length']}>\n" for c in reference.contigs)
    header = (
        f'##fileformat=VCFv4.2\n##source={source}\n{lengths}##INFO=<ID=AF,Number=A,Type=Float,Description="Allele frequency">\n'
        "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    )
    contig = np.searchsorted(reference.starts, snvs.position, "right") - 1
    names = [c["name"] for c in reference.contigs]
    place, ref = snvs.position - reference.starts[contig] + 1, reference.codes[snvs.position] & _CODE
    rows = zip(contig.tolist(), place.tolist(), ref.tolist(), snvs.alt.tolist(), snvs.frequency.tolist(), strict=True)
    text = io.StringIO()
    text.write(header)
    text.writelines(f"{names[c]}\t{p}\t.\t{BASES[r]}\t{BASES[a]}\t.\tPASS\tAF={f:.9g}\n" for c, p, r, a, f in rows)
    with pysam.BGZFile(str(path), "wb", None) if str(path).endswith(".gz") else Path(path).open("wb") as out:
        out.write(text.getvalue().encode())
