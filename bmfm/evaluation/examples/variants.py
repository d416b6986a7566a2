"""Examples that are variants: places and alleles in a table, read against a genome or the sequences of elements."""

import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from bmfm.evaluation.checksums import content_hash
from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.task_spec import TaskSpec
from bmfm.evaluation.variant_card import COORDINATES, DESCRIBED, MEASURED, VariantCard, card_of
from bmfm.evaluation.variant_tables import coordinate_columns, keys_of, positions, read_variants
from bmfm.expressions import evaluate
from bmfm.files import open_whole
from bmfm.genome.alphabet import decode
from bmfm.genome.contigs import canonical_name
from bmfm.genome.reference import Reference

STATUSES = {
    "OK": "scored",
    "NO_LABEL": "neither a positive or negative label nor an effect",
    "NO_CONTIG": "the contig is not in the FASTA",
    "OUTSIDE": "the position is not on the contig",
    "BAD_ALLELE": "REF or ALT is no sequence of A, C, G, T, or both are the same",
    "REF_MISMATCH": "the FASTA has another REF",
    "N_REFERENCE": "the FASTA has N at REF",
    "DUPLICATE": "the same variant stands further up with the same label and effect",
    "CONTRADICTING": "the same variant stands elsewhere with another label or effect",
}
"""Why rows of a table are not scored, by any method."""
PLACE = re.compile(rb"(\S+):(\d+)-(\d+)(?:\s|$)")


class Spelling(NamedTuple):
    """A variant on a contig of the FASTA, as VCF spells it (1-based), what is wrong with it (``OK`` for nothing), and how far VCF's
    position is from that of the table."""

    contig: str
    pos: int
    ref: str
    alt: str
    status: str
    shift: int = 0


class VariantExamples(Examples):
    """Variants of a table (`inputs` is a frame of ``chrom``, ``pos``, ``ref``, ``alt`` on the FASTA's contigs).

    The first file of the task is the table; `VariantCard` says what its columns are. All variants that can be scored are the test part:
    methods that learn from labels do so with whole chromosomes left out. Rows that cannot be scored are counted by `STATUSES`.

    Attributes
    ----------
    card
        Columns, direction and strata.
    table
        Of the variants that are scored: ``chrom, pos, ref, alt`` as the table has them, ``label`` (1, 0, NaN), ``effect``,
        and what else the card names; the index is the row of the file.
    variants
        The same variants as the FASTA's contigs have them, in VCF's spelling.
    unusable
        {status: rows}, of rows that are not scored.
    left_out
        Rows that the card does not keep.
    """

    def __init__(self, task: TaskSpec, root: str | Path, **_settings: Any):
        self.task, self.test_uses = task, 0
        self.card: VariantCard = card_of(task)
        self.hash = content_hash(task.data_paths(root))
        files = {f.path: path for f in task.files if (path := f.find(root))}
        if not task.files or (self.card.fasta is not None and self.card.fasta not in files):
            raise ValueError(f"{task.name}: task.files must list the table first, and task.examples.fasta={self.card.fasta!r}")
        self.file = files[task.files[0].path]
        self.fasta = files[self.card.fasta] if self.card.fasta else None
        self.reference = Reference.from_fasta(self.fasta) if self.fasta else None
        kept, self.left_out = self._kept(read_variants(self.file))
        everything = self._columns(kept)
        spellings = self._spellings(everything)
        self._require_assembly(everything.index, np.array([s.status for s in spellings], dtype=object))
        status = self._statuses(everything, spellings)
        usable = np.flatnonzero(status == "OK")
        self.unusable = dict(Counter(s for s in status.tolist() if s != "OK"))
        self.n_rows = len(everything)
        if not usable.size:
            raise ValueError(f"{self.file}: none of {self.n_rows:,} rows can be scored: {in_words(self.unusable)}")
        self.table = everything.iloc[usable]
        self.variants = pd.DataFrame([spellings[i][:4] for i in usable], columns=list(COORDINATES))
        self._shifts = [spellings[i].shift for i in usable]
        self.parts = {"test": np.arange(len(usable))}
        self.kinds = {}

    def __len__(self) -> int:
        return len(self.table)

    def lossless_tokenizer(self) -> Any:
        """One token a base."""
        from bmfm.tokenizers import dna

        return dna.single_base()

    @property
    def inputs(self) -> pd.DataFrame:
        return self.variants

    def of(self, part: str) -> pd.DataFrame:
        return self.variants.iloc[self.parts[part]]

    def input_hashes(self) -> list[bytes]:
        return [":".join(map(str, row)).encode() for row in self.variants.itertuples(index=False)]

    def column(self, name: str) -> np.ndarray:
        """``chrom``, or a column that the card describes, as text."""
        return self.table[name].to_numpy(str)

    def where(self, number: int) -> str:
        return f"{self.file}: row {int(self.table.index[number]) + 1}"

    def target(self) -> pd.DataFrame:
        """``label`` and ``effect`` (turned by the card) of the test part; each call is counted."""
        self.test_uses += 1
        return self.learned_target()

    def learned_target(self) -> pd.DataFrame:
        """The same for methods that learn from some chromosomes to score others; not counted."""
        return self.table[["label"]].assign(effect=turned(self.table["effect"].to_numpy(), self.card.effect_sign))

    def _kept(self, raw: pd.DataFrame) -> tuple[pd.DataFrame, int]:
        is_kept = np.ones(len(raw), bool)
        if self.card.keep:
            try:
                values = evaluate(self.card.keep, raw)
            except ValueError as error:
                raise ValueError(f"{self.file}: task.examples.keep={self.card.keep!r}: {error}") from error
            is_kept &= values.astype(bool)
        if self.card.elements is not None:
            elements = self._named(raw, "element").astype(str)
            if unknown := sorted(set(self.card.elements) - set(elements)):
                raise ValueError(f"{self.file}: task.examples.elements has {unknown[0]!r}, which is not in column {elements.name!r}")
            is_kept &= elements.isin(list(self.card.elements)).to_numpy()
        return raw[is_kept], int((~is_kept).sum())

    def _named(self, raw: pd.DataFrame, what: str) -> pd.Series:
        name = self.card.columns[what]
        if name not in raw:
            raise ValueError(
                f"{self.file} has no column {name!r} (task.examples.columns.{what}); it has {', '.join(map(str, raw.columns))}"
            )
        return raw[name]

    def _columns(self, raw: pd.DataFrame) -> pd.DataFrame:
        """The columns that the card describes under their own names."""
        named = {k: self._named(raw, k).name for k in self.card.columns if k in COORDINATES}
        places = coordinate_columns(raw, named, str(self.file))
        table = pd.DataFrame({what: raw[column] for what, column in places.items()})
        table["chrom"] = table["chrom"].map(lambda c: str(int(c)) if isinstance(c, float) and c.is_integer() else str(c))
        table["pos"] = positions(raw[places["pos"]], str(self.file))
        for what in ("ref", "alt"):
            table[what] = table[what].fillna("").astype(str).str.upper()
        for what in (*MEASURED, *DESCRIBED):
            table[what] = self._named(raw, what) if what in self.card.columns else np.nan
        if self.card.is_labelled:
            table["label"] = table["label"].map(self.card.label_of)
        for what in ("effect", "frequency", "tss_distance", "covariate"):
            table[what] = pd.to_numeric(table[what], errors="coerce")
        if self.card.missing_frequency is not None:
            table["frequency"] = table["frequency"].fillna(self.card.missing_frequency)
        return table

    def _spellings(self, table: pd.DataFrame) -> list[Spelling]:
        by_element = self.card.contigs == "element"
        places = _places(self.fasta) if by_element and self.fasta else {}
        columns = table["element" if by_element else "chrom"], table["chrom"], table["pos"], table["ref"], table["alt"]
        return [self._spell(*row, places) for row in zip(*columns, strict=True)]

    def _spell(self, contig: Any, chrom: str, pos: int, ref: str, alt: str, places: dict[str, tuple[str, int, int]]) -> Spelling:
        """A variant in VCF's spelling on a contig of the FASTA; ``-`` as ALT is a deletion of REF."""
        name = str(contig)
        if place := places.get(name):
            if canonical_name(place[0]) != canonical_name(chrom):
                return Spelling(name, pos, ref, alt, "OUTSIDE")
            pos = pos - place[1] + 1
        is_deletion = alt in ("-", "")
        if not _is_sequence(ref) or ref == alt or not (is_deletion or _is_sequence(alt)):
            return Spelling(name, pos, ref, alt, "BAD_ALLELE")
        if self.reference is None:
            return Spelling(name, pos, ref, alt, "OK")
        index = self.reference.names.find(name)
        if index is None:
            return Spelling(name, pos, ref, alt, "NO_CONTIG")
        length, start = self.reference.contigs[index]["length"], pos - 1
        if start < 0 or start + len(ref) > length:
            return Spelling(name, pos, ref, alt, "OUTSIDE")
        stands = decode(self.reference.fetch(name, start, start + len(ref)))
        status = "OK" if stands == ref else "N_REFERENCE" if "N" in stands else "REF_MISMATCH"
        if not is_deletion or status != "OK":
            return Spelling(name, pos, ref, alt, status)
        if start:  # the base before stays
            anchor = decode(self.reference.fetch(name, start - 1, start))
            return Spelling(name, pos - 1, anchor + ref, anchor, "OK" if anchor != "N" else "N_REFERENCE", -1)
        if len(ref) == length:
            return Spelling(name, pos, ref, alt, "BAD_ALLELE")
        anchor = decode(self.reference.fetch(name, len(ref), len(ref) + 1))
        return Spelling(name, pos, ref + anchor, anchor, "OK" if anchor != "N" else "N_REFERENCE")

    def _statuses(self, table: pd.DataFrame, spellings: list[Spelling]) -> np.ndarray:
        """A status a row."""
        is_known = table[list(MEASURED)].notna().any(axis=1).to_numpy()
        status = np.array([s.status for s in spellings], dtype=object)
        status[(status == "OK") & ~is_known] = "NO_LABEL"
        rows: dict[tuple, list[int]] = {}
        for i in np.flatnonzero(status == "OK"):
            rows.setdefault(tuple(spellings[i][:4]), []).append(int(i))
        measured = table[list(MEASURED)].fillna(0.0).to_numpy(float)
        for same in (r for r in rows.values() if len(r) > 1):
            if (measured[same] == measured[same[0]]).all():
                status[same[1:]] = "DUPLICATE"
            else:
                status[same] = "CONTRADICTING"
        return status

    def _require_assembly(self, rows: pd.Index, status: np.ndarray) -> None:
        wrong = np.isin(status, ["OUTSIDE", "REF_MISMATCH"])
        compared = wrong | (status == "OK")
        if compared.any() and wrong.sum() > self.card.max_ref_mismatch * compared.sum():
            raise ValueError(
                f"{self.file}: {int(wrong.sum()):,} of {int(compared.sum()):,} rows do not have the REF of {self.fasta} (first: row "
                f"{int(rows[wrong][0]) + 1}): it is the FASTA of another assembly, or positions are not 1-based"
            )

    def score_keys(self) -> list[set]:
        """The names that each variant may have in a table of scores: as this table spells it, as VCF does, and on the FASTA's contig."""
        as_written = keys_of(*(self.table[c] for c in COORDINATES))
        on_fasta = keys_of(*(self.variants[c] for c in COORDINATES))
        as_vcf = [(a[0], a[1] + shift, f[2], f[3]) for a, f, shift in zip(as_written, on_fasta, self._shifts, strict=True)]
        return [set(names) for names in zip(as_written, as_vcf, on_fasta, strict=True)]


def _is_sequence(allele: str) -> bool:
    return bool(allele) and set(allele) <= set("ACGT")


def _places(fasta: Path) -> dict[str, tuple[str, int, int]]:
    """{contig: chromosome, first and last base (1-based)} of a FASTA whose headers say so, as ``>HBB GRCh37 11:5248252-5248438``."""
    places = {}
    with open_whole(fasta) as stream:
        for line in stream:
            if line.startswith(b">") and (match := PLACE.search(line)):
                places[line[1:].split()[0].decode()] = (match[1].decode(), int(match[2]), int(match[3]))
    return places


def turned(values: np.ndarray, sign: str) -> np.ndarray:
    """Values [n] as they are (``plus``), negated (``minus``) or without their sign (``abs``)."""
    return -values if sign == "minus" else np.abs(values) if sign == "abs" else values


def in_words(counts: dict[str, int]) -> str:
    """Counts of statuses, each with its meaning."""
    return "; ".join(f"{n:,} {status} ({STATUSES.get(status, status)})" for status, n in sorted(counts.items()))
