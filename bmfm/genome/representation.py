"""How a window of the genome is written: `reference`, `biallele`, `haplotype` or `soft_labels`.

Each representation turns `Windows` into `Encoded` symbols of `alphabet`, already on the window's strand. Bit 7
(`alphabet.VARIANT_BIT`) marks what was written from a variant. The kernels (`haplotype`, `biallele`, `sites`, over
`copies`) take a whole batch of windows and release no per-window Python objects;
`tests/genome/reference_representation.py` says the same in plain Python.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numba
import numpy as np

from bmfm.genome.alphabet import CODE_BITS, COMPLEMENT, PAIR
from bmfm.genome.biallele import write_pairs
from bmfm.genome.copies import index_edits
from bmfm.genome.haplotype import haplotype_edits, haplotype_lengths, write_haplotypes
from bmfm.genome.reference import Reference
from bmfm.genome.sites import stored_sites, write_sites
from bmfm.genome.soft_labels import base_distributions, write_distributions
from bmfm.genome.variants import VariantTable
from bmfm.genome.vcf_filter import names_of
from bmfm.genome.windows import Windows

PAIRINGS = ("frequency", "always")


@dataclass(frozen=True)
class Encoded:
    """Symbols of a batch of windows: window b is ``symbols[offsets[b]:offsets[b + 1]]``.

    `positions`, where asked for, gives each symbol's place in `Reference.codes` (an inserted base has that of the base
    before it, and before a contig's first base that of this). `label_probs`, of `SoftLabels`, gives each symbol the probabilities of A, G,
    T and C as its label, [symbols, 4]; NaN where the symbol itself is the label.
    """

    symbols: np.ndarray
    offsets: np.ndarray
    positions: np.ndarray | None = None
    label_probs: np.ndarray | None = None

    def __getitem__(self, b: int) -> np.ndarray:
        return self.symbols[self.offsets[b] : self.offsets[b + 1]]

    def __len__(self) -> int:
        return len(self.offsets) - 1


class Representation(Protocol):
    """What a data module needs of a representation."""

    def __call__(self, windows: Windows) -> Encoded: ...


class ReferenceSequence:
    """The genome as it is, without variants."""

    def __init__(self, reference: Reference, variants: VariantTable | None = None):
        self.reference = reference

    def __call__(self, windows: Windows) -> Encoded:
        offsets = _offsets(windows.end - windows.start)
        out = np.empty(offsets[-1], np.uint8)
        _write_reference(self.reference.codes, windows.layout(offsets), out)
        return Encoded(out, offsets)


class BiAllele:
    """Reference coordinates, one symbol a locus; a locus with two alleles is written as their pair symbol.

    Parameters
    ----------
    pairing
        ``frequency``: two chromosome copies are drawn for each window, every record's allele by its frequency (so a
        pair appears with probability 2p(1-p)); a deletion is deleted whole. ``always``: every locus with a variant is
        written as a pair, whatever its frequency; two states are drawn by frequency where it has more (the scheme of
        BMFM-DNA, arXiv 2507.05265).
    sample
        Name of a sample whose genotypes are written instead of drawn alleles.

    An insertion marks the base that it follows on the strand that is read, over deleted ones; the inserted letters are not
    written. Before the first base of a contig, as it is read, there is none to mark.
    """

    def __init__(self, reference: Reference, variants: VariantTable | None, pairing: str = "frequency", sample: str | int | None = None):
        if pairing not in PAIRINGS:
            raise ValueError(f"pairing {pairing!r} is unknown; choose from {', '.join(PAIRINGS)}")
        self.reference, self.pairing = reference, pairing
        self.variants = _require(variants, "biallele")
        self.samples = _sample_numbers(self.variants, () if sample is None else sample)
        if pairing == "always":
            self.sites = [stored_sites(reference, self.variants, reverse) for reverse in (False, True)]
        else:
            self.edits = index_edits(self.variants)

    def __call__(self, windows: Windows) -> Encoded:
        offsets = _offsets(windows.end - windows.start)
        layout = windows.layout(offsets)
        out = np.empty(offsets[-1], np.uint8)
        _write_reference(self.reference.codes, layout, out)
        if self.pairing == "always":
            for strand, sites in zip((False, True), self.sites, strict=True):
                write_sites(layout, np.flatnonzero(windows.reverse == strand), strand, sites, out, PAIR, COMPLEMENT)
        else:
            write_pairs(layout, self.edits, self.samples, out, PAIR)
        return Encoded(out, offsets)


class Haplotype:
    """Plain A, C, G, T of one chromosome copy, insertions and deletions applied; length may differ from the window's.

    Parameters
    ----------
    samples
        Names of samples: each window shows one of their phased copies, chosen at random. Without samples every
        record's allele is drawn by its frequency, independently of the others (no linkage).
    positions
        Also give each base's place in the genome.

    Where edits overlap on a copy, the first in the genome is applied, whether or not the window shows where it begins: a
    window is a slice of its copy. Of an edit that lies across a window's edge it holds the bases that stand at its loci:
    base k of the new ones at the k-th of those replaced, what is longer at the last. An insertion belongs to the window
    that holds the base after it, and after a contig's last base to the window that ends there.
    """

    def __init__(
        self,
        reference: Reference,
        variants: VariantTable | None,
        samples: str | int | Sequence[str | int] | None = None,
        positions: bool = False,
    ):
        self.reference, self.positions = reference, positions
        self.variants = _require(variants, "haplotype")
        self.samples = _sample_numbers(self.variants, () if samples is None else samples)
        self.edits = index_edits(self.variants)

    def __call__(self, windows: Windows) -> Encoded:
        start, end = windows.start, windows.end
        contig = np.searchsorted(self.reference.starts, start, "right") - 1
        limit = end + (end == self.reference.ends[contig])
        chosen, first_edit = haplotype_edits(start, limit, windows.key, self.edits, self.samples)
        offsets = _offsets(haplotype_lengths(start, end, self.edits, chosen, first_edit))
        out = np.empty(offsets[-1], np.uint8)
        positions = np.empty(offsets[-1] if self.positions else 0, np.int64)
        contig_start = self.reference.starts[contig]
        write_haplotypes(self.reference.codes, windows.layout(offsets), contig_start, self.edits, chosen, first_edit, out, positions)
        return Encoded(out, offsets, positions if self.positions else None)


class SoftLabels:
    """The reference as the input; the label of a locus with several known bases is their distribution by allele frequency.

    Masked language modelling then learns, at such a locus, the frequencies themselves, rather than one allele at a time (the labels of
    MutBERT, bioRxiv 2025.01.23.634452, whose input is a distribution, too). Such symbols carry `alphabet.VARIANT_BIT`. An insertion after
    a base counts for that base; a deletion leaves its share to the bases that are there. Each token must be one base
    (``tokenizer=single_base``).
    """

    def __init__(self, reference: Reference, variants: VariantTable | None):
        self.reference = reference
        self.position, self.probs = base_distributions(stored_sites(reference, _require(variants, "soft_labels"), False))

    def __call__(self, windows: Windows) -> Encoded:
        offsets = _offsets(windows.end - windows.start)
        out, label_probs = np.empty(offsets[-1], np.uint8), np.full((offsets[-1], 4), np.nan, np.float32)
        layout = windows.layout(offsets)
        _write_reference(self.reference.codes, layout, out)
        write_distributions(layout, self.position, self.probs, out, label_probs)
        return Encoded(out, offsets, label_probs=label_probs)


def _require(variants: VariantTable | None, name: str) -> VariantTable:
    if variants is None:
        raise ValueError(f"representation {name!r} writes variants into the sequence: give a VCF or BCF (data.variants)")
    return variants


def _sample_numbers(variants: VariantTable, samples: str | int | Sequence[str | int]) -> np.ndarray:
    names = names_of(samples)
    if absent := [name for name in names if name not in variants.samples]:
        raise ValueError(f"genotypes of {', '.join(absent)} were not read; name them in the variant filter's samples")
    return np.array([variants.samples.index(name) for name in names], np.int64)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


@numba.njit(cache=True)
def _write_reference(codes, windows, out):
    start, end, reverse, offsets = windows.start, windows.end, windows.reverse, windows.offsets
    for b in range(len(start)):
        source, target = codes[start[b] : end[b]], out[offsets[b] : offsets[b + 1]]
        if reverse[b]:
            last = len(source) - 1
            for i in range(len(source)):
                code = source[last - i] & CODE_BITS
                target[i] = code ^ ((np.uint8(code >> 2) ^ np.uint8(1)) << np.uint8(1))
        else:
            for i in range(len(source)):
                target[i] = source[i] & CODE_BITS
