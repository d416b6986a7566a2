"""Where sequences stand in a genome: at one place, by their coordinates or by search on both strands, or else why at none."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bmfm.genome.alphabet import CODE_BITS, COMPLEMENT, decode
from bmfm.genome.occurrences import find_occurrences, is_searched
from bmfm.genome.reference import Reference
from bmfm.genome.variants import VariantTable

PLACED, NOT_FOUND, SEVERAL, TOO_SHORT, DISAGREES, NOT_COVERED, DELETED = range(7)
STATUSES = ("placed", "not found", "several places", "too short", "disagrees with the genome", "beyond the variants", "deleted")
"""Names of the numbers above."""


@dataclass
class Placements:
    """Where n sequences stand.

    Attributes
    ----------
    start : int64 [n]
        Place in `Reference.codes` of the first base on the forward strand, -1 where there is none.
    length : int64 [n]
    reverse : bool [n]
        Whether the sequence is the reverse complement of what stands there.
    status : int8 [n]
        Number of one of `STATUSES`.
    """

    start: np.ndarray
    length: np.ndarray
    reverse: np.ndarray
    status: np.ndarray

    @property
    def end(self) -> np.ndarray:
        """Place after the last base on the forward strand."""
        return self.start + self.length

    @property
    def is_placed(self) -> np.ndarray:
        """Which stand at one place, where the variants are known, bool [n]."""
        return self.status == PLACED

    def take(self, numbers: np.ndarray) -> "Placements":
        """Those of some sequences."""
        return Placements(self.start[numbers], self.length[numbers], self.reverse[numbers], self.status[numbers])


def reference_bases(reference: Reference, start: int, length: int, reverse: bool) -> np.ndarray:
    """State codes of a place as it is read, ``uint8`` [length]."""
    codes = reference.codes[start : start + length] & CODE_BITS
    return COMPLEMENT[codes][::-1] if reverse else codes


def place_by_search(sequences: Sequence[np.ndarray], reference: Reference, max_mismatches: int = 0) -> Placements:
    """Look for sequences on both strands of a genome.

    A sequence that stands at several places is placed where the fewest bases differ, if there is one such place.

    Parameters
    ----------
    sequences
        State codes of each, ``uint8`` [L]; N is the same as N alone.
    max_mismatches
        Bases that may differ; see `occurrences.find_occurrences` for sequences that are too short for them.
    """
    texts: dict[str, int] = {}
    number = np.array([texts.setdefault(decode(codes), len(texts)) for codes in sequences], np.int64)
    different = list(texts)
    length = np.array([len(text) for text in different], np.int64)
    result = Placements(
        np.full(len(different), -1, np.int64), length, np.zeros(len(different), bool), np.full(len(different), NOT_FOUND, np.int8)
    )
    result.status[~is_searched(different)] = TOO_SHORT
    found = find_occurrences(different, reference, max_mismatches)
    codes_of = {n: codes for n, codes in zip(number.tolist(), sequences, strict=True)}
    fewest = np.full(len(different), max_mismatches + 1, np.int64)
    for (start, end), n, reverse in zip(found.intervals.tolist(), found.sequence.tolist(), found.reverse.tolist(), strict=True):
        n_mismatches = int((reference_bases(reference, start, end - start, reverse) != codes_of[n]).sum())
        if n_mismatches < fewest[n]:
            fewest[n], result.start[n], result.reverse[n], result.status[n] = n_mismatches, start, reverse, PLACED
        elif n_mismatches == fewest[n] and start != result.start[n]:  # of a palindrome, both strands are the same place
            result.status[n] = SEVERAL
    result.start[result.status != PLACED] = -1
    return result.take(number)


def place_by_coordinates(
    sequences: Sequence[np.ndarray],
    reference: Reference,
    start: np.ndarray,
    end: np.ndarray,
    reverse: np.ndarray | None,
    max_mismatches: int = 0,
) -> Placements:
    """Check sequences against the genome where they are said to stand.

    Parameters
    ----------
    start, end : int64 [n]
        Places in `Reference.codes`, within one contig.
    reverse : bool [n] or None
        None takes for each the strand on which fewer bases differ, of both the same the forward one.
    """
    length = np.array([len(codes) for codes in sequences], np.int64)
    result = Placements(start.astype(np.int64), length, np.zeros(len(length), bool), np.full(len(length), DISAGREES, np.int8))
    for n, codes in enumerate(sequences):
        if end[n] - start[n] != length[n]:
            continue
        strands = (False, True) if reverse is None else (bool(reverse[n]),)
        mismatches = [int((reference_bases(reference, int(start[n]), int(length[n]), strand) != codes).sum()) for strand in strands]
        result.reverse[n] = strands[int(np.argmin(mismatches))]
        if min(mismatches) <= max_mismatches:
            result.status[n] = PLACED
    result.start[result.status != PLACED] = -1
    return result


def require_covered(placements: Placements, reference: Reference, variants: VariantTable) -> None:
    """Take the place from sequences that lie before the first or after the last variant of their contig.

    There a file of variants that is one of a part of the genome says nothing, and a sequence without variants would look like one
    of a region that has none.
    """
    placed = np.flatnonzero(placements.is_placed)
    contig = np.searchsorted(reference.starts, placements.start[placed], "right") - 1
    first = np.searchsorted(variants.start, reference.starts)
    last = np.searchsorted(variants.start, reference.ends, "right") - 1
    has_any = last >= first
    covered_from = np.where(has_any, variants.start[np.minimum(first, len(variants) - 1)], np.iinfo(np.int64).max)
    covered_to = np.where(has_any, np.maximum(variants.end[last], variants.start[last] + 1), -1)
    beyond = placed[(placements.end[placed] <= covered_from[contig]) | (placements.start[placed] >= covered_to[contig])]
    placements.status[beyond], placements.start[beyond] = NOT_COVERED, -1
