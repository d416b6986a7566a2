"""Personal sequences: both phased copies of a sample's genome, each base with its place in the reference.

A copy is what ``bcftools consensus -H 1`` (copy 0 here) or ``-H 2`` (copy 1) writes: `copies` says which edits are applied where they
overlap. A window of it is a slice, wherever it begins.

>>> people = PersonalGenome.from_vcf("phased.vcf.gz", reference, ["NA12878"])
>>> first, second = people.region("NA12878", "chr20:1,001-2,000")
>>> first.symbols, first.positions  # bases as codes of `alphabet`, and the 0-based position on chr20 of each
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from bmfm.genome.alphabet import CODE_BITS, COMPLEMENT
from bmfm.genome.copies import _BLOCK, Edits, index_edits
from bmfm.genome.haplotype import _source_of, haplotype_edits, haplotype_lengths, write_haplotypes
from bmfm.genome.reference import Reference
from bmfm.genome.regions import locate_word
from bmfm.genome.representation import Encoded
from bmfm.genome.variants import VariantFilter, VariantTable, variant_files
from bmfm.genome.vcf_filter import names_of
from bmfm.genome.vcf_genotypes import NOTES, UNPHASED
from bmfm.genome.vcf_header import read_header
from bmfm.genome.vcf_stream import read_pieces
from bmfm.genome.windows import Windows

UNPHASED_CHOICES = ("refuse", "as_written")


@cache
def _keys_of_copies() -> np.ndarray:
    """The keys by which kernels show the first and the second copy of one sample; they draw nothing else where there are genotypes."""
    one = np.zeros(1, np.int64)
    shown = {_source_of(np.uint64(key), one)[1]: key for key in range(64)}
    return np.array([shown[0], shown[1]], np.uint64)


class PersonalSequence(NamedTuple):
    """Bases of one copy, forward strand of the reference.

    Attributes
    ----------
    symbols : uint8 [L]
        State codes of `alphabet`: A, G, T, C, N are 0 to 4. L differs from the window's length by its insertions and deletions.
    positions : int64 [L]
        0-based position on the contig of each base, ascending. An inserted base has that of the base before it (before a contig's
        first base, 0), and of a longer replacement what goes beyond has that of the last base that is replaced.
    """

    symbols: np.ndarray
    positions: np.ndarray

    def reverse_complement(self) -> "PersonalSequence":
        """The same bases as the other strand is read, with their positions, descending."""
        return PersonalSequence(COMPLEMENT[self.symbols][::-1], self.positions[::-1])


class PersonalGenome:
    """The copies of all samples whose genotypes a table of variants holds.

    Attributes
    ----------
    samples
        Their names.
    """

    def __init__(self, reference: Reference, variants: VariantTable):
        self.reference, self.variants, self.samples = reference, variants, variants.samples
        self.edits = index_edits(variants)

    @classmethod
    def from_vcf(
        cls,
        vcf: str | Path | Sequence[str | Path],
        reference: Reference,
        samples: str | int | Sequence[str | int] | None = None,
        unphased: str = "refuse",
        cache_dir: str | Path | None = None,
    ) -> Self:
        """Read genotypes of a VCF or BCF, or of several as for `VariantTable.from_vcf`.

        Alleles are taken whatever their frequency is. Genotypes that are not called are read as the reference, and counted in the
        report of the table.

        Parameters
        ----------
        samples
            Names; None takes all samples of the file.
        unphased
            What becomes of heterozygous genotypes without phase (``0/1``): ``refuse`` them, or read them ``as_written``, the first
            allele on the first copy, which mixes the copies of the parents.

        Raises
        ------
        ValueError
            If the file has no samples, or lacks one of these; or of genotypes without phase, how many there are and the first.
        """
        if unphased not in UNPHASED_CHOICES:
            raise ValueError(f"unphased={unphased!r} is unknown; choose from {', '.join(UNPHASED_CHOICES)}")
        chosen = sample_names(vcf) if samples is None else names_of(samples)
        if not chosen:
            raise ValueError(f"{vcf}: no samples: give a file with columns of genotypes, and name at least one of them")
        keep = VariantFilter(samples=chosen, frequency_source="genotypes", missing_frequency=0.5)
        variants = VariantTable.from_vcf(vcf, reference, keep, cache_dir)
        if unphased == "refuse" and (n := variants.report.noted[NOTES[UNPHASED]]):
            raise ValueError(
                f"{variants.report.path}: {n:,} heterozygous genotypes of {len(chosen):,} samples have no phase (first: "
                f"{variants.report.examples[NOTES[UNPHASED]]}), so that which allele is on which copy is not known: phase the file "
                "(with SHAPEIT, Eagle or Beagle), leave samples out, or set unphased=as_written to take the order in the file"
            )
        return cls(reference, variants)

    def sequences(self, sample: str, copies: np.ndarray, start: np.ndarray, end: np.ndarray, excluded: np.ndarray | None = None) -> Encoded:
        """Windows of copies of one sample, all in one pass.

        Parameters
        ----------
        copies : int [B]
            0 or 1.
        start, end : int64 [B]
            Places in `Reference.codes`; each window lies within one contig.
        excluded : int64 [B, 2]
            Of each window an interval that is left as the reference has it, also in `Reference.codes`: edits that replace one of its
            bases, and insertions in it or at either end, give way, as if the sample did not carry them.

        Returns
        -------
        Encoded
            Without variant bits; its positions are places in `Reference.codes`.
        """
        chosen, first_edit = self.applied_edits(sample, copies, start, end, excluded)
        return self.write(start, end, chosen, first_edit)

    def backgrounds(
        self,
        sample: str,
        copies: np.ndarray,
        start: np.ndarray,
        end: np.ndarray,
        left: np.ndarray,
        right: np.ndarray,
        spelled_to: np.ndarray,
    ) -> tuple[Encoded, np.ndarray]:
        """Bases of a sample around places where other alleles are to be written, so many on each side whatever indels the sample has there.

        Parameters
        ----------
        start, end : int64 [A]
            The bases that an allele replaces, in `Reference.codes`: they are left as the reference has them, and edits of the sample that
            touch them give way (see `sequences`).
        left, right : int64 [A]
            Bases before and after them; on the reference so many lie within the contig.
        spelled_to : int64 [A]
            Where the allele would end, spelled as far to the right as it can be (an indel in a repeat), or `end`: up to there edits give
            way, too.

        Returns
        -------
        backgrounds : Encoded
            ``left + (end - start) + right`` symbols of each.
        is_reference : bool [A]
            Where the sample has too few bases, since the contig ends, and the background is the reference.
        """
        contig = np.searchsorted(self.reference.starts, start, "right") - 1
        first, last = self.reference.starts[contig], self.reference.ends[contig]
        length = left + end - start + right
        offsets = np.append(0, np.cumsum(length))
        symbols, positions = np.empty(offsets[-1], np.uint8), np.empty(offsets[-1], np.int64)
        excluded, waiting, is_reference, slack = np.stack([start, spelled_to], 1), np.arange(len(start)), np.zeros(len(start), bool), 64
        while len(waiting):
            begin = np.maximum(start - left - slack, first)[waiting]
            stop = np.minimum(np.maximum(end + right, spelled_to) + slack, last)[waiting]
            found = self.sequences(sample, copies[waiting], begin, stop, excluded[waiting])
            again = []
            for b, a in enumerate(waiting.tolist()):
                own, own_positions = found[b], found.positions[found.offsets[b] : found.offsets[b + 1]]  # type: ignore[index]
                at = int(np.searchsorted(own_positions, start[a])) - int(left[a])
                if at >= 0 and at + length[a] <= len(own):
                    chosen = slice(at, at + int(length[a]))
                    symbols[offsets[a] : offsets[a + 1]], positions[offsets[a] : offsets[a + 1]] = own[chosen], own_positions[chosen]
                elif (at < 0 and begin[b] > first[a]) or (at >= 0 and stop[b] < last[a]):
                    again.append(a)
                else:
                    places, is_reference[a] = np.arange(start[a] - left[a], end[a] + right[a]), True
                    symbols[offsets[a] : offsets[a + 1]], positions[offsets[a] : offsets[a + 1]] = (
                        self.reference.codes[places] & CODE_BITS,
                        places,
                    )
            waiting, slack = np.array(again, np.int64), slack * 16
        return Encoded(symbols, offsets, positions), is_reference

    def applied_edits(
        self, sample: str, copies: np.ndarray, start: np.ndarray, end: np.ndarray, excluded: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the edits that each window of `sequences` shows: window b has ``chosen[first[b]:first[b + 1]]``."""
        numbers, key = np.array([self._number(sample)]), _keys_of_copies()[copies]
        contig = np.searchsorted(self.reference.starts, start, "right") - 1
        limit = end + (end == self.reference.ends[contig])  # what is inserted after the last base of a contig belongs to its last window
        chosen, first_edit = haplotype_edits(start, limit, key, self.edits, numbers)
        if excluded is None:
            return chosen, first_edit
        applied = np.split(chosen, first_edit[1:-1])
        for b, interval in enumerate(excluded.tolist()):
            hidden = touching_edits(self.edits, *interval)
            is_carried = self.edits.genotypes[self.edits.record[hidden], numbers[0], copies[b]] == self.edits.allele[hidden]
            if is_carried.any():
                one = slice(b, b + 1)
                applied[b], _ = haplotype_edits(start[one], limit[one], key[one], self._without(hidden[is_carried]), numbers)
        return np.concatenate(applied), np.append(0, np.cumsum([len(edits) for edits in applied]))

    def write(self, start: np.ndarray, end: np.ndarray, chosen: np.ndarray, first_edit: np.ndarray) -> Encoded:
        """Windows with the edits that `applied_edits` gives; see `sequences`."""
        n = len(start)
        windows = Windows(start, end, np.zeros(n, bool), np.zeros(n, np.uint64))
        contig_start = self.reference.starts[np.searchsorted(self.reference.starts, start, "right") - 1]
        offsets = np.append(0, np.cumsum(haplotype_lengths(start, end, self.edits, chosen, first_edit)))
        symbols, positions = np.empty(offsets[-1], np.uint8), np.empty(offsets[-1], np.int64)
        layout = windows.layout(offsets)
        write_haplotypes(self.reference.codes, layout, contig_start, self.edits, chosen, first_edit, symbols, positions)
        return Encoded(symbols & CODE_BITS, offsets, positions)

    def window(
        self, sample: str, copy: int, contig: int, start: int, end: int, excluded: tuple[int, int] | None = None
    ) -> PersonalSequence:
        """One window of a copy; see `personal_window`."""
        length = int(self.reference.ends[contig] - self.reference.starts[contig])
        if copy not in (0, 1) or not 0 <= start < end <= length:
            raise ValueError(
                f"copy {copy}, interval {start}-{end} (0-based, half-open) of {self.reference.contigs[contig]['name']}: copies are 0 and 1, "
                f"and the contig has {length} bases"
            )
        first = int(self.reference.starts[contig])
        interval = None if excluded is None else np.array([excluded], np.int64) + first
        encoded = self.sequences(sample, np.array([copy]), np.array([first + start]), np.array([first + end]), interval)
        assert encoded.positions is not None
        return PersonalSequence(encoded.symbols, encoded.positions - first)

    def region(self, sample: str, word: str) -> tuple[PersonalSequence, PersonalSequence]:
        """Both copies of a region in the words of samtools, ``chr20:1,001-2,000`` (1-based, inclusive); see `regions.read_regions`."""
        contig, start, end = locate_word(word, self.reference)
        return self.window(sample, 0, contig, start, end), self.window(sample, 1, contig, start, end)

    def _number(self, sample: str) -> int:
        if sample not in self.samples:
            shown = ", ".join(self.samples[:5]) + (", ..." if len(self.samples) > 5 else "")
            raise ValueError(f"sample {sample!r}: its genotypes were not read; there are {len(self.samples):,} samples: {shown}")
        return self.samples.index(sample)

    def _without(self, hidden: np.ndarray) -> Edits:
        """The edits as if nobody carried these."""
        allele = np.array(self.edits.allele)
        allele[hidden] = -2  # of no genotype
        allele.flags.writeable = self.edits.allele.flags.writeable  # for kernels, arrays that can be written to are of another type
        return self.edits._replace(allele=allele)


def touching_edits(edits: Edits, start: int, end: int) -> np.ndarray:
    """Numbers of the edits that replace a base of an interval of `Reference.codes`, or are inserted in it or at either end."""
    first = int(np.searchsorted(edits.reach, start)) << _BLOCK  # all edits of the blocks before end before it
    last = int(np.searchsorted(edits.start, end, "right"))
    v_start, v_end = edits.start[first:last], edits.end[first:last]
    touches = np.where(v_start == v_end, v_start >= start, (v_start < end) & (v_end > start))
    return first + np.flatnonzero(touches)


def personal_window(
    reference: Reference,
    variants: VariantTable,
    sample: str,
    copy: int,
    contig: int,
    start: int,
    end: int,
    excluded: tuple[int, int] | None = None,
) -> PersonalSequence:
    """The bases that one copy of a sample has in a window of the reference.

    For many windows, make a `PersonalGenome` once and ask that.

    Parameters
    ----------
    copy
        0 or 1.
    contig
        Its number in the reference.
    start, end
        Of the window on the contig, 0-based and half-open. An insertion belongs to the window that holds the base after it.
    excluded
        An interval of the contig that is left as the reference has it, so that another allele can be written there: edits of the sample
        that replace one of its bases, and insertions in it or at either end, give way, as if the sample did not carry them. For an
        insertion, it is empty. An indel in a repeat can be spelled at several places: give all of these.

    Raises
    ------
    ValueError
        If the genotypes of the sample were not read, or there is no such copy or interval.
    """
    return PersonalGenome(reference, variants).window(sample, copy, contig, start, end, excluded)


def sample_names(vcf: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    """Names of the samples of a VCF or BCF, of several files those of the first."""
    path = variant_files(vcf)[0]
    with ThreadPoolExecutor(1) as pool:
        header, _ = read_header(path, read_pieces(path, pool, 1))
    return header.samples
