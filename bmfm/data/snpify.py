"""Known variants written into labelled sequences, those of all classes by one rule (``python -m bmfm.snpify``).

Where a sequence stands in the genome, and nothing else, decides what is written: labels are looked at only to count, and to test
that they cannot be told from how variants were written (`symbol_leak`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.data.symbol_leak import SymbolLeak, known_variants, measure_leak, symbol_presence
from bmfm.data.tables import find_tables, read_table, suffix_of
from bmfm.genome.alphabet import CODE_BITS, DEL, INSERTED, MEMBERS, VARIANT_BIT, N, decode
from bmfm.genome.placement import (
    DELETED,
    STATUSES,
    Placements,
    place_by_coordinates,
    place_by_search,
    reference_bases,
    require_covered,
)
from bmfm.genome.reference import Reference
from bmfm.genome.representation import BiAllele, Representation
from bmfm.genome.variants import VariantTable
from bmfm.genome.windows import Windows
from bmfm.hashing import example_keys
from bmfm.tokenizers.texts import read_texts

OTHERS = ("keep", "drop", "refuse")
BATCH = 4096  # sequences that are written at a time
STATUS, REGION = "snpify_status", "snpify_region"
"""Columns that the output has beside those of the input."""


@dataclass(frozen=True)
class Columns:
    """Columns of coordinates; `start` and `end` are 0-based and half-open, or with `one_based` 1-based and inclusive.

    Without `strand` (``+`` or ``-``) a sequence may stand on either.
    """

    contig: str
    start: str
    end: str
    strand: str | None = None
    one_based: bool = False

    @classmethod
    def of(cls, settings: Mapping[str, Any] | None) -> "Columns | None":
        """From the settings of a configuration, None from none; a ValueError names a key that is none, or is not there."""
        keys = {f.name for f in fields(cls)}
        if settings is None:
            return None
        if not {"contig", "start", "end"} <= settings.keys() <= keys:
            raise ValueError(
                f"data.coordinates has {', '.join(settings)}; it takes contig, start, end and, where wanted, strand and one_based"
            )
        return cls(**settings)

    @property
    def names(self) -> list[str]:
        """Of all of them."""
        return [self.contig, self.start, self.end, *([self.strand] if self.strand else [])]


@dataclass
class Labelled:
    """Labelled sequences of one or several tables.

    Attributes
    ----------
    tables
        {part: rows}, all columns of CSV and TSV files to the letter.
    files
        {part: where they come from}.
    sequence
        Name of the column of sequences.
    codes
        State codes of all sequences, one part after the other.
    labels : object [n] or None
        To the letter.
    n_replaced
        Characters that were read as N.
    """

    tables: dict[str, pd.DataFrame]
    files: dict[str, Path]
    sequence: str
    codes: list[np.ndarray]
    labels: np.ndarray | None
    n_replaced: int

    def __len__(self) -> int:
        return len(self.codes)


def read_labelled(path: Any, sequence: str | None, label: str | None, columns: Columns | None = None) -> Labelled:
    """Read tables as fine-tuning does: a folder with train, dev and test, {part: file}, or one table.

    Parameters
    ----------
    sequence, label
        Names of columns; None takes the first for the sequences, and no labels.

    Raises
    ------
    KeyError, ValueError
        Naming the file, if it lacks a column, has one of the columns that are to be written, or has sequences of the SNP-aware alphabet.
    """
    tables, files, n_replaced = {}, find_tables(path), 0
    codes: list[np.ndarray] = []
    labels: list[Any] = []
    chosen = ""
    for part, file in files.items():
        names = list(read_table(file).columns)
        chosen = chosen or (str(sequence) if sequence is not None else str(names[0]))
        if taken := [name for name in (STATUS, REGION) if name in names]:
            raise ValueError(f"{file} has a column {taken[0]!r}, which is to be written: rename or remove it; was it made by snpify?")
        if absent := [name for name in [*([label] if label else []), *(columns.names if columns else [])] if name not in names]:
            raise KeyError(
                f"{file} has no column {absent[0]!r}; it has {', '.join(map(str, names))}. Name it by data.label (null: none) or data.coordinates"
            )
        letters = [] if suffix_of(file) == ".parquet" else [name for name in names if name != chosen]
        table = read_table(file, sequences=[chosen], ids=letters)
        if aware := [row for row, text in enumerate(table[chosen]) if not text.isascii()]:
            raise ValueError(
                f"{file}: row {aware[0] + 2}, column {chosen}: there are variants in this sequence already; give plain sequences"
            )
        read, n = read_texts(table[chosen].tolist(), "plain", partial(_row, file))
        codes, n_replaced = codes + read, n_replaced + n
        labels += table[label].tolist() if label else []
        tables[part] = table
    return Labelled(tables, files, chosen, codes, np.array(labels, object) if label else None, n_replaced)


def _row(file: Path, number: int) -> str:
    return f"{file}: row {number + 2}"


def place(data: Labelled, reference: Reference, variants: VariantTable, columns: Columns | None, max_mismatches: int = 0) -> Placements:
    """Where each sequence stands, by its columns or by search; see `genome.placement`."""
    if columns is None:
        placements = place_by_search(data.codes, reference, max_mismatches)
    else:
        located = [_located(table, data.files[part], columns, reference) for part, table in data.tables.items()]
        start, end, reverse = (np.concatenate(values) for values in zip(*located, strict=True))
        placements = place_by_coordinates(data.codes, reference, start, end, reverse if columns.strand else None, max_mismatches)
    require_covered(placements, reference, variants)
    return placements


def _located(table: pd.DataFrame, file: Path, columns: Columns, reference: Reference) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places in `Reference.codes`, and which are on the reverse strand, from columns."""
    n = len(table)
    start, end, reverse = np.empty(n, np.int64), np.empty(n, np.int64), np.zeros(n, bool)
    strands = table[columns.strand].astype(str).str.strip().tolist() if columns.strand else ["+"] * n
    rows = zip(table[columns.contig].astype(str), table[columns.start], table[columns.end], strands, strict=True)
    for row, (name, first, last, strand) in enumerate(rows):
        where = _row(file, row)
        contig = reference.names.require(name.strip(), where)
        try:
            interval = int(first) - columns.one_based, int(last)
        except ValueError:
            raise ValueError(f"{where}: {columns.start} {first!r} and {columns.end} {last!r} are to be whole numbers") from None
        length = reference.contigs[contig]["length"]
        if not 0 <= interval[0] < interval[1] <= length or strand not in ("+", "-"):
            raise ValueError(
                f"{where}: {name}:{interval[0]}-{interval[1]} (0-based, half-open), strand {strand!r}: it is not inside the contig, which has "
                f"{length} bases, or the strand is neither + nor -"
            )
        start[row], end[row] = reference.starts[contig] + interval
        reverse[row] = strand == "-"
    return start, end, reverse


def write_variants(
    codes: Sequence[np.ndarray], placements: Placements, reference: Reference, represent: Representation, seed: int = 0
) -> list[np.ndarray]:
    """Symbols of each sequence, with the variants of its place; of one that is not placed, or of which nothing would be left, its own bases.

    What is drawn depends on the seed and the place alone. Where a base differs from the genome, it stays, unless it is one of the
    alleles that are written.
    """
    written = list(codes)
    placed = np.flatnonzero(placements.is_placed)
    for first in range(0, len(placed), BATCH):
        numbers = placed[first : first + BATCH]
        start = placements.start[numbers]
        windows = Windows(start, placements.end[numbers], placements.reverse[numbers], example_keys(seed, 0, start))
        encoded = represent(windows)
        for b, number in enumerate(numbers.tolist()):
            own = codes[number]
            bases = reference_bases(reference, int(start[b]), len(own), bool(windows.reverse[b]))
            symbols = encoded[b]
            if not len(symbols):
                placements.status[number] = DELETED
                continue
            if len(symbols) == len(own) and (differs := np.flatnonzero(own != bases)).size:
                symbols = symbols.copy()
                symbols[differs] = _with_own_bases(symbols[differs], own[differs])
            written[number] = symbols & CODE_BITS
    return written


def _with_own_bases(symbols: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Symbols where they are of a variant that has the sequence's own base among its alleles; or else that base."""
    members = MEMBERS[symbols & CODE_BITS]
    bases = np.where(members >= INSERTED, members - INSERTED, np.where(members == DEL, 255, members))
    is_allele = (symbols >= VARIANT_BIT) & (own != N) & (bases == own[:, None]).any(1)
    return np.where(is_allele, symbols, own)


@dataclass
class Snpified:
    """What became of labelled sequences.

    Attributes
    ----------
    symbols
        Of each sequence that is written.
    numbers : int64 [m]
        Which sequences these are.
    classes
        Names of the classes; one, ``all``, where there are no labels.
    of_class : int64 [n]
        Class of each sequence.
    leak
        None where there are no two classes to tell apart.
    """

    symbols: list[np.ndarray]
    numbers: np.ndarray
    placements: Placements
    classes: list[str]
    of_class: np.ndarray
    leak: SymbolLeak | None

    def counts(self) -> pd.DataFrame:
        """A row a class: sequences by status, those that are written, and variant symbols in 1000 bases of those that are placed."""
        rows = []
        n_symbols, n_bases = np.zeros(len(self.of_class)), np.zeros(len(self.of_class))
        n_symbols[self.numbers] = [int((s > N).sum()) for s in self.symbols]
        n_bases[self.numbers] = [len(s) for s in self.symbols]
        placed = self.placements.is_placed
        for number in range(len(self.classes)):
            members = self.of_class == number
            statuses = np.bincount(self.placements.status[members], minlength=len(STATUSES))
            bases = n_bases[members & placed].sum()
            rows.append(
                {"sequences": int(members.sum())}
                | {name: int(n) for name, n in zip(STATUSES, statuses, strict=True)}
                | {
                    "written": int(members[self.numbers].sum()),
                    "variant symbols per kb": round(1000 * n_symbols[members & placed].sum() / bases, 3) if bases else float("nan"),
                }
            )
        return pd.DataFrame(rows, index=pd.Index(self.classes, name="class"))


def snpify(
    data: Labelled,
    reference: Reference,
    variants: VariantTable,
    representation: Callable[..., Representation],
    columns: Columns | None = None,
    max_mismatches: int = 0,
    others: str = "keep",
    seed: int = 0,
) -> Snpified:
    """Write variants into labelled sequences and measure what the writing gives away.

    Parameters
    ----------
    representation
        Called with (reference, variants); one whose sequences keep their length (`BiAllele`), unless `max_mismatches` is 0.
    columns
        Of coordinates; None looks for the sequences in the genome.
    others
        What becomes of sequences that are not placed, of all classes: ``keep`` them as they are, ``drop`` them, or ``refuse`` the data.

    Raises
    ------
    ValueError
        If nothing is placed, or with `others` refuse, if anything is not.
    """
    if others not in OTHERS:
        raise ValueError(f"others={others!r} is unknown; choose from {', '.join(OTHERS)}")
    placements = place(data, reference, variants, columns, max_mismatches)
    placed = placements.is_placed
    if not placed.any() or (others == "refuse" and not placed.all()):
        first = int(np.flatnonzero(~placed)[0])
        counts = np.bincount(placements.status, minlength=len(STATUSES))
        named = ", ".join(f"{n:,} {name}" for name, n in zip(STATUSES, counts, strict=True) if n)
        raise ValueError(
            f"{', '.join(map(str, data.files.values()))}: of {len(data):,} sequences {named} (first that is not placed: "
            f"{decode(data.codes[first])[:40]}); give the FASTA that they are of, allow max_mismatches, or choose others=keep or drop"
        )
    represent = representation(reference, variants)
    if max_mismatches and not isinstance(represent, BiAllele):
        raise ValueError(
            f"max_mismatches={max_mismatches}: only representation=biallele keeps the bases that differ; give max_mismatches=0"
        )
    symbols = write_variants(data.codes, placements, reference, represent, seed)
    placed = placements.is_placed
    numbers = np.flatnonzero(placed) if others == "drop" else np.arange(len(data))
    classes, of_class = class_numbers(data.labels, len(data))
    written = [symbols[n] for n in numbers]
    leak = None
    if len(classes) > 1:
        is_always = isinstance(represent, BiAllele) and represent.pairing == "always"
        known = known_variants(placements.take(numbers), reference, variants, is_always)
        leak = measure_leak(of_class[numbers], symbol_presence(written), known, placed[numbers])
    return Snpified(written, numbers, placements, classes, of_class, leak)


def class_numbers(labels: np.ndarray | None, n: int, most: int = 50) -> tuple[list[str], np.ndarray]:
    """Names of classes and the number of each label's; of more than `most` different numbers, the halves below and above the median."""
    if labels is None:
        return ["all"], np.zeros(n, np.int64)
    texts = np.array([str(label) for label in labels], object)
    names, numbers = np.unique(texts.astype(str), return_inverse=True)
    if len(names) <= most:
        return names.tolist(), numbers
    values = pd.to_numeric(pd.Series(texts), errors="coerce").to_numpy(float)
    if np.isnan(values).mean() > 0.5:
        raise ValueError(f"the column of labels has {len(names):,} different texts, which are no classes: name another, or label=null")
    median = float(np.nanmedian(values))
    return [f"at most {median:g}", f"above {median:g}"], (values > median).astype(np.int64)
