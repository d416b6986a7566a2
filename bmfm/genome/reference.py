"""A reference genome as one memory-mapped byte array: ``codes[starts[contig] + position]``.

On disk, a folder with ``codes.u8`` (one byte a base: state code 0-4 in the low bits, bit 7 set where the FASTA was
lower case, i.e. soft-masked as repeat) and ``contigs.json`` (names, lengths, counts of what was rewritten). A byte that
is no base stands after each contig, so that "after the last base of this contig" and "before the first base of the next"
are two places.
"""

import json
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numba
import numpy as np

from bmfm.files import cached_folder, fingerprint, require_file
from bmfm.genome.alphabet import N, base_table
from bmfm.genome.contigs import ContigNames
from bmfm.genome.derived import derived_arrays
from bmfm.genome.fasta import fasta_pieces

SOFT_MASK_BIT = np.uint8(0x80)
_FORMAT = 2


@numba.njit(cache=True)
def _encode_lines(chunk, table, out, counts):
    """Write codes of the sequence bytes of `chunk` (no white space) to `out`; counts = [IUPAC, soft-masked]. Returns (written, bad)."""
    n = 0
    for i in range(len(chunk)):
        byte = chunk[i]
        if byte == 10 or byte == 13 or byte == 32 or byte == 9:
            continue
        code = table[byte]
        if code == 255:
            return n, i
        upper = byte & 0xDF
        if (code & 0x7F) == 4 and upper != 78:
            counts[0] += 1
        counts[1] += code >> 7
        out[n] = code
        n += 1
    return n, -1


def _build(fasta: Path, folder: Path) -> None:
    table = base_table()
    contigs: list[dict] = []
    scratch = np.empty(0, np.uint8)
    counts = np.zeros(2, np.int64)

    def finish_contig(sink) -> None:
        if contigs:
            sink.write(bytes([N]))
            contigs[-1]["n_ambiguous"], contigs[-1]["n_soft_masked"] = (int(c) for c in counts)
            counts[:] = 0

    with (folder / "codes.u8").open("wb") as sink:
        for name, data in fasta_pieces(fasta):
            if name is not None:
                finish_contig(sink)
                contigs.append({"name": name, "length": 0})
                continue
            if len(scratch) < len(data):
                scratch = np.empty(len(data), np.uint8)
            piece = np.frombuffer(data, np.uint8)
            n, bad = _encode_lines(piece, table, scratch, counts)
            if bad >= 0:
                raise ValueError(
                    f"{fasta}: contig {contigs[-1]['name']!r} has {chr(piece[bad])!r} at position "
                    f"{contigs[-1]['length'] + n + 1}, which is no nucleotide code; correct it, or write N for it"
                )
            scratch[:n].tofile(sink)
            contigs[-1]["length"] += n
        finish_contig(sink)
    if repeated := [name for name, n in Counter(c["name"] for c in contigs).items() if n > 1]:
        shown = ", ".join(sorted(repeated)[:5]) + (f" and {len(repeated) - 5} more" if len(repeated) > 5 else "")
        raise ValueError(f"{fasta}: contig names occur more than once: {shown}; remove or rename the copies")
    (folder / "contigs.json").write_text(json.dumps(contigs, indent=1))


@dataclass(frozen=True)
class Reference:
    """A reference genome; open one with `Reference.from_fasta`.

    Attributes
    ----------
    folder
        Where the store lies.
    codes
        Read-only memory map, ``uint8`` [bases + contigs]; see the module's text for the bits.
    starts, ends
        ``int64`` [contigs]; contig c is ``codes[starts[c]:ends[c]]``.
    """

    folder: Path
    source: Path
    codes: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    contigs: tuple[dict, ...]

    @classmethod
    def from_fasta(cls, fasta: str | Path, cache_dir: str | Path | None = None) -> "Reference":
        """Open the genome of a FASTA file (plain, gzip or bgzip; no index needed), building its store the first time.

        Lower case is kept as the soft-mask bit; IUPAC ambiguity codes become N and are counted in `contigs`.

        Raises
        ------
        FileNotFoundError
            With near matches, if the file is not there.
        ValueError
            If it is no FASTA, or holds a character that is no nucleotide code (names contig and 1-based position).
        """
        if not isinstance(fasta, (str, Path)):
            raise ValueError(f"a genome is one FASTA file; join several: cat {' '.join(str(f) for f in fasta)} > genome.fa")
        if any(c in str(fasta) for c in "*?[") and not Path(fasta).expanduser().exists():
            raise ValueError(f"a genome is one FASTA file; join those of a pattern: cat {fasta} > genome.fa")
        path = require_file(fasta, "FASTA file")
        key = {"format": _FORMAT, "fasta": fingerprint(path)}
        folder = cached_folder("genomes", key, lambda partial: _build(path, partial), cache_dir)
        contigs = tuple(json.loads((folder / "contigs.json").read_text()))
        lengths = np.array([c["length"] for c in contigs], np.int64)
        ends = np.cumsum(lengths + 1) - 1
        codes = np.memmap(folder / "codes.u8", np.uint8, "r").view(np.ndarray)
        return cls(folder, path, codes, ends - lengths, ends, contigs)

    @cached_property
    def names(self) -> ContigNames:
        return ContigNames(c["name"] for c in self.contigs)

    def __len__(self) -> int:
        return int((self.ends - self.starts).sum())

    def locate(self, position: int) -> tuple[str, int]:
        """Contig name and 0-based position of a place in `codes`."""
        contig = int(np.searchsorted(self.starts, position, "right")) - 1
        return self.contigs[contig]["name"], int(position - self.starts[contig])

    def fetch(self, contig: str | int, start: int, end: int) -> np.ndarray:
        """State codes, ``uint8`` [end - start], of a 0-based half-open interval, without the soft-mask bit."""
        return self._interval(contig, start, end) & ~SOFT_MASK_BIT

    def soft_masked(self, contig: str | int, start: int, end: int) -> np.ndarray:
        """Whether each base of the interval was lower case in the FASTA, ``bool`` [end - start]."""
        return self._interval(contig, start, end) >= SOFT_MASK_BIT

    def _interval(self, contig: str | int, start: int, end: int) -> np.ndarray:
        index = self.names.require(contig, str(self.source))
        length = self.contigs[index]["length"]
        if not 0 <= start <= end <= length:
            raise ValueError(f"{self.source}: interval {contig}:{start}-{end} is outside the contig's {length} bases")
        return self.codes[self.starts[index] + start : self.starts[index] + end]

    def known_intervals(self, max_n_run: int = 10) -> np.ndarray:
        """Intervals of `codes` free of N runs longer than `max_n_run`, ``int64`` [I, 2], none crossing contigs.

        Found once for a genome, and kept beside its store.
        """
        arrays = derived_arrays(
            "known_intervals",
            self.folder,
            {"format": 1, "max_n_run": max_n_run},
            lambda: {"intervals": _known_intervals(self.codes, self.starts, self.ends, max_n_run)},
        )
        return np.array(arrays["intervals"])


@numba.njit(cache=True)
def _known_intervals(codes, starts, ends, max_n_run):
    intervals = []
    for contig in range(len(starts)):
        start = starts[contig]
        run = 0
        for i in range(starts[contig], ends[contig]):
            if (codes[i] & 0x7F) == N:
                run += 1
            elif run:
                if run > max_n_run:
                    if i - run > start:
                        intervals.append((start, i - run))
                    start = i
                run = 0
        end = ends[contig]
        if run > max_n_run:
            end -= run
        if end > start:
            intervals.append((start, end))
    out = np.empty((len(intervals), 2), np.int64)
    for i in range(len(intervals)):
        out[i, 0], out[i, 1] = intervals[i]
    return out
