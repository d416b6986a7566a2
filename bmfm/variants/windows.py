"""The two windows of an allele, with REF and with ALT, equally long and on either strand."""

from dataclasses import dataclass, replace
from functools import cached_property

import numba
import numpy as np

from bmfm.genome.alphabet import COMPLEMENT
from bmfm.genome.personal import PersonalGenome
from bmfm.genome.reference import Reference
from bmfm.genome.representation import Encoded
from bmfm.variants.alleles import Alleles

STRANDS = ("forward", "reverse")


@dataclass(frozen=True)
class AlleleWindows:
    """Windows of A alleles on one strand: both of an allele have the same length W, and end at the same base on the left of the genome.

    Positions count from 0 in the window, on its own strand.

    Attributes
    ----------
    reference
        The genome.
    alleles
        [A], all of which are scored.
    start, width : int64 [A]
        First base of both windows in the contig, and W.
    codes : uint8, origin : int64 [A]
        Where the windows with REF are read: each from ``codes[origin]`` on; the genome itself, or the sequences of a sample.
    reverse
        Whether they are read on the other strand.
    """

    reference: Reference
    alleles: Alleles
    start: np.ndarray
    width: np.ndarray
    codes: np.ndarray
    origin: np.ndarray
    reverse: bool = False

    def __len__(self) -> int:
        return len(self.alleles)

    @property
    def left(self) -> np.ndarray:
        """Bases of both windows to the left of the first changed base, in the genome [A]."""
        return self.alleles.start - self.start

    @property
    def at_ref(self) -> np.ndarray:
        """Where the changed bases begin in the window with REF [A]."""
        return self.width - self.left - self.alleles.n_ref if self.reverse else self.left

    @property
    def at_alt(self) -> np.ndarray:
        """Where the bases of ALT begin in its window [A]."""
        return self.width - self.left - self.alleles.n_alt if self.reverse else self.left

    @property
    def right_ref(self) -> np.ndarray:
        """Bases after the changed ones in the window with REF, on its strand [A]."""
        return self.width - self.at_ref - self.alleles.n_ref

    @property
    def right_alt(self) -> np.ndarray:
        """Bases after those of ALT in its window, on its strand [A]."""
        return self.width - self.at_alt - self.alleles.n_alt

    @cached_property
    def ref(self) -> Encoded:
        """Symbols with REF."""
        nothing = np.zeros(len(self), np.int64)
        return self._write(nothing, np.empty(0, np.uint8), np.zeros(len(self) + 1, np.int64))

    @cached_property
    def alt(self) -> Encoded:
        """Symbols with ALT."""
        return self._write(self.alleles.n_ref, self.alleles.alt, self.alleles.alt_offsets)

    def _write(self, n_ref: np.ndarray, alt: np.ndarray, alt_offsets: np.ndarray) -> Encoded:
        offsets = np.concatenate([[0], np.cumsum(self.width)]).astype(np.int64)
        out = np.empty(offsets[-1], np.uint8)
        _write(self.codes, self.origin, self.left, n_ref, alt, alt_offsets, self.reverse, COMPLEMENT[:5], offsets, out)
        return Encoded(out, offsets)

    def alt_symbols(self, numbers: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Bases of ALTs on this strand, of alleles [m] at places [m] in them."""
        offsets = self.alleles.alt_offsets
        if self.reverse:
            return COMPLEMENT[self.alleles.alt[offsets[numbers + 1] - 1 - places]]
        return self.alleles.alt[offsets[numbers] + places]

    def alt_bases_of(self, number: int) -> np.ndarray:
        """Bases of one ALT, on this strand."""
        bases = self.alleles.alt_of(number)
        return COMPLEMENT[bases][::-1] if self.reverse else bases

    def take(self, rows: np.ndarray) -> "AlleleWindows":
        """Windows of some alleles."""
        return replace(self, alleles=self.alleles.take(rows), start=self.start[rows], width=self.width[rows], origin=self.origin[rows])

    def on(self, strand: str) -> "AlleleWindows":
        """The same on ``forward`` or ``reverse``."""
        return replace(self, reverse=strand == "reverse")

    def of_sample(self, genome: PersonalGenome, sample: str, copy: int) -> "AlleleWindows":
        """The same with what else a sample carries on one of its copies (0 or 1) in both windows, so that the allele alone differs."""
        begin = self.reference.starts[self.alleles.contig] + self.alleles.start
        end = begin + self.alleles.n_ref
        right = self.width - self.left - np.minimum(self.alleles.n_ref, self.alleles.n_alt)
        copies = np.full(len(self), copy)
        backgrounds, _ = genome.backgrounds(sample, copies, begin, end, self.left, right, end + self.alleles.shifted)
        return replace(self, codes=backgrounds.symbols, origin=backgrounds.offsets[:-1])


def place_windows(reference: Reference, alleles: Alleles, width: int | np.ndarray) -> AlleleWindows:
    """Windows of `width` bases, ``(width - 1) // 2`` of them to the left of the first changed base.

    The window with ALT reaches further to the right in the genome, or less far, by as many bases as ALT lacks or has more. Near an end of the
    contig both are moved inwards; where a contig is shorter, so are they.
    """
    length = (reference.ends - reference.starts)[alleles.contig]
    missing = np.maximum(alleles.n_ref - alleles.n_alt, 0)
    width_of = np.minimum(width, length - missing)
    start = np.minimum(alleles.start - (width - 1) // 2, length - width_of - missing)
    start = np.maximum(start, 0)
    return AlleleWindows(reference, alleles, start, width_of, reference.codes, reference.starts[alleles.contig] + start)


@numba.njit(cache=True)
def _write(codes, origin, left, n_ref, alt, alt_offsets, reverse, complement, offsets, out):
    """Write bases of the genome from each origin on, with some of them, after `left`, replaced."""
    for a in range(len(origin)):
        begin, n = offsets[a], offsets[a + 1] - offsets[a]
        n_alt = alt_offsets[a + 1] - alt_offsets[a]
        for i in range(n):
            if i < left[a]:
                code = codes[origin[a] + i] & 0x7F
            elif i < left[a] + n_alt:
                code = alt[alt_offsets[a] + i - left[a]]
            else:
                code = codes[origin[a] + i - n_alt + n_ref[a]] & 0x7F
            if reverse:
                out[begin + n - 1 - i] = complement[code]
            else:
                out[begin + i] = code
