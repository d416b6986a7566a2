"""Sequences of one length, of a genome or by themselves: what a number for every base is computed for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bmfm.files import require_file
from bmfm.genome.alphabet import COMPLEMENT, N, read_text
from bmfm.genome.fasta import read_records
from bmfm.genome.reference import Reference
from bmfm.genome.regions import bed_rows, locate, locate_word, regions_file

LETTERS = "ACGT"
CODES = np.array([0, 3, 1, 2], np.uint8)
"""Codes of the symbols A, C, G and T, in the order of the channels."""
STRANDS = ("auto", "both", "forward", "given")
_CHANNEL = np.array([0, 2, 3, 1, -1], np.int8)  # of the codes A, G, T, C, N


@dataclass
class SequenceSet:
    """n sequences of L bases; see `read_sequence_set`.

    Attributes
    ----------
    codes : uint8 [n, context + L + context]
        Symbols that a model reads, see `genome.alphabet`.
    names
        Of the sequences.
    chrom, start
        Where each begins (0-based), of regions of a genome; else None.
    contigs
        {name: length} of that genome.
    context
        Bases before and behind each sequence that are read with it, and that nothing is computed for.
    is_reverse : bool [n]
        Which regions a BED file says to be of the reverse strand; None is none of them.
    """

    codes: np.ndarray
    names: list[str]
    chrom: list[str] | None = None
    start: np.ndarray | None = None
    contigs: dict[str, int] = field(default_factory=dict)
    context: int = 0
    is_reverse: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def length(self) -> int:
        """L, bases of each sequence."""
        return self.codes.shape[1] - 2 * self.context

    @property
    def places_in_codes(self) -> np.ndarray:
        """Where the bases [L] stand in `codes`; the same on the other strand, counted from its beginning."""
        return np.arange(self.context, self.context + self.length)

    @property
    def bases(self) -> np.ndarray:
        """Channel of the base that is there, in the order A, C, G, T, int8 [n, L]; -1 for N."""
        return _CHANNEL[self.codes[:, self.places_in_codes]]

    def readings(self, strands: str) -> list[tuple[bool, np.ndarray, float]]:
        """How the sequences are read: whether as their reverse complements, which of them [m], and with what share of the mean.

        Parameters
        ----------
        strands
            ``both``; ``forward``; ``given``, the forward strand of sequences, and of regions the strand that their BED file names.
        """
        every = np.arange(len(self))
        if strands == "both":
            return [(False, every, 0.5), (True, every, 0.5)]
        if strands == "forward" or self.is_reverse is None:
            return [(False, every, 1.0)]
        return [(reverse, rows, 1.0) for reverse in (False, True) if len(rows := np.flatnonzero(self.is_reverse == reverse))]

    def as_read(self, rows: Any, reverse: bool) -> np.ndarray:
        """Codes of some sequences [m, context + L + context], as they are or of their reverse complements."""
        return COMPLEMENT[self.codes[rows]][:, ::-1] if reverse else self.codes[rows]

    def one_hot(self) -> np.ndarray:
        """The sequences [n, 4, L], float32."""
        return (self.bases[:, None] == np.arange(4)[None, :, None]).astype(np.float32)

    def take(self, rows: np.ndarray) -> "SequenceSet":
        """Some sequences, in the order of `rows` [m]."""
        chrom = None if self.chrom is None else [self.chrom[r] for r in rows]
        start, is_reverse = (None if of is None else of[rows] for of in (self.start, self.is_reverse))
        return SequenceSet(self.codes[rows], [self.names[r] for r in rows], chrom, start, self.contigs, self.context, is_reverse)

    def places(self, file: Path) -> tuple[list[str], np.ndarray]:
        """Contig and first base (0-based) of each sequence; a ValueError names the file that needs them where there are none."""
        if self.chrom is None or self.start is None:
            raise ValueError(f"{file}: it holds places in a genome: give fasta and regions")
        return self.chrom, self.start


Sequences = Sequence[str] | Mapping[str, str] | str | SequenceSet


def strands_to_read(strands: str, of_model: str | None) -> str:
    """``both``, ``forward`` or ``given``, see `SequenceSet.readings`.

    Parameters
    ----------
    strands
        One of these, or ``auto``: both, but ``given`` where a label is asked for that the model learned from one strand.
    of_model
        What the model reads for the label (`BmfmConfig.strands`); None of likelihoods.

    Raises
    ------
    ValueError
        If it is none of these.
    """
    if strands not in STRANDS:
        raise ValueError(f"strands={strands!r} is unknown; choose from {', '.join(STRANDS)}")
    return strands if strands != "auto" else "given" if of_model == "forward" else "both"


def read_sequence_set(
    sequences: Sequences | None = None,
    fasta: Any = None,
    regions: Sequence[str] | str | Path | None = None,
    length: int | None = None,
    context: int = 0,
) -> SequenceSet:
    """Sequences as they are; regions of a genome, on its forward strand; or, without regions, the records of a FASTA file.

    Parameters
    ----------
    sequences
        Of A, C, G, T and N, in either case; a mapping gives names. A `SequenceSet` is returned as it is.
    fasta
        A file or, with regions, a `Reference`.
    regions
        Places, as ``chr20:1,000-1,200`` (counted from 1, ends included), or a BED file, whose rows keep their order, repeats among them.
    length
        Take as many bases around the middle of each region; None takes the regions as they are.
    context
        Read so many bases on either side of each region with it; those beyond the end of a contig are N.

    Raises
    ------
    ValueError
        If lengths differ, or a region is malformed or not inside its contig.
    """
    if (sequences is None) == (fasta is None) or (regions is not None and fasta is None):
        raise ValueError("give sequences, or fasta and regions")
    if length is not None and regions is None:
        raise ValueError("length takes bases around the middle of regions of a genome: give fasta and regions with it")
    if isinstance(context, bool) or not isinstance(context, int) or context < 0:
        raise ValueError(f"context={context!r} must be a whole number of bases, at least 0")
    if context and regions is None:
        raise ValueError("context takes bases on either side of regions of a genome: give fasta and regions with it")
    if isinstance(sequences, SequenceSet):
        return sequences
    if regions is not None:
        return _of_regions(fasta if isinstance(fasta, Reference) else Reference.from_fasta(fasta), regions, length, context)
    if sequences is None:
        records = list(read_records(require_file(fasta, "FASTA file")))
        names, texts = [name for name, _ in records], [text for _, text in records]
    elif isinstance(sequences, Mapping):
        names, texts = [str(name) for name in sequences], list(sequences.values())
    else:
        texts = [sequences] if isinstance(sequences, str) else list(sequences)
        names = [str(i) for i in range(len(texts))]
    return SequenceSet(_stack([_codes(name, text) for name, text in zip(names, texts, strict=True)]), names)


def _codes(name: str, text: str) -> np.ndarray:
    codes, n_replaced = read_text(text, "plain")
    if n_replaced:
        raise ValueError(f"sequence {name!r}: {n_replaced:,} of its characters are not A, C, G, T or N: write N for them")
    return codes


def _of_regions(reference: Reference, regions: Sequence[str] | str | Path, length: int | None, context: int) -> SequenceSet:
    if file := regions_file(regions):
        bed = list(bed_rows(require_file(file, "BED file")))
        rows, is_reverse = [(row.name, *locate(row, reference)) for row in bed], np.array([row.strand == "-" for row in bed], bool)
    else:
        words = [str(regions)] if isinstance(regions, str | Path) else [str(word) for word in regions]
        rows, is_reverse = [(word, *locate_word(word, reference)) for word in words], None
    names, chrom, starts, symbols = [], [], [], []
    for name, contig, start, end in rows:
        if length is not None:
            start = (start + end) // 2 - length // 2
            end = start + length
            if start < 0 or end > reference.contigs[contig]["length"]:
                raise ValueError(f"region {name!r}: {length:,} bases around its middle are not inside the contig: give a smaller length")
        names.append(name)
        chrom.append(reference.contigs[contig]["name"])
        starts.append(start)
        first, last = max(0, start - context), min(reference.contigs[contig]["length"], end + context)
        beyond = (first - (start - context), end + context - last)
        symbols.append(np.pad(reference.fetch(chrom[-1], first, last), beyond, constant_values=N))
    contigs = {c["name"]: c["length"] for c in reference.contigs}
    return SequenceSet(_stack(symbols, 2 * context), names, chrom, np.array(starts, np.int64), contigs, context, is_reverse)


def _stack(symbols: list[np.ndarray], n_around: int = 0) -> np.ndarray:
    lengths = sorted({len(s) - n_around for s in symbols})
    if len(lengths) != 1:
        shown = ", ".join(map(str, lengths[:8])) + (", ..." if len(lengths) > 8 else "")
        raise ValueError(f"sequences of {shown} bases: one length is needed; give length=... for regions, or ask for each length by itself")
    return np.stack(symbols)
