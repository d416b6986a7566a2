"""Tables of variants as others write them: CSV, TSV (with lines of comments, as CADD's), Parquet, or VCF; and keys to join them by."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.data.tables import read_table, read_text, suffix_of
from bmfm.evaluation.variant_card import ALIASES, COORDINATES
from bmfm.files import naming, require_file
from bmfm.genome.contigs import canonical_name

VCF_SUFFIXES = (".vcf", ".bcf")
Key = tuple[str, int, str, str]
"""Style-free contig, 1-based position, REF and ALT in upper case."""


def read_variants(path: str | Path) -> pd.DataFrame:
    """A table with its columns as they are called, or the alleles of a VCF, a row an ALT, with its INFO fields as columns.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file.
    """
    file = require_file(path, "table of variants (CSV, TSV, Parquet) or VCF")
    if suffix_of(file) in VCF_SUFFIXES:
        return _read_vcf(file)
    if suffix_of(file) in (".tsv", ".txt", ".csv"):
        return _read_commented(file)
    table = read_table(file)
    return table if isinstance(table.index, pd.RangeIndex) else table.reset_index()


def _read_commented(file: Path) -> pd.DataFrame:
    """A table of text below lines that begin with ``##``, as CADD and VEP write them; chromosomes and alleles to the letter."""
    lines = read_text(file)
    start = 0
    while lines.startswith(b"##", start):
        end = lines.find(b"\n", start)
        start = len(lines) if end < 0 else end + 1
    separator = "," if suffix_of(file) == ".csv" else "\t"
    head = lines[start : lines.find(b"\n", start)].decode("utf-8-sig", "replace").rstrip("\r").split(separator)
    text = [name for name in head if what_is(name) in ("chrom", "ref", "alt")]
    with naming(file, remedy="it is no table of the kind that its name says, or it was damaged"):
        return pd.read_csv(BytesIO(lines[start:]), sep=separator, encoding="utf-8-sig", converters=dict.fromkeys(text, str.strip))


def _read_vcf(file: Path) -> pd.DataFrame:
    import pysam

    with naming(file), pysam.VariantFile(str(file)) as records:
        fields = {name: info.number for name, info in records.header.info.items()}
        rows = [
            {"chrom": r.chrom, "pos": r.pos, "id": r.id, "ref": r.ref, "alt": alt} | _info_of(r, fields, number)
            for r in records
            for number, alt in enumerate(r.alts or ())
        ]
    return pd.DataFrame(rows, columns=None if rows else list(COORDINATES))


def _info_of(record: Any, fields: dict[str, Any], allele: int) -> dict[str, Any]:
    """INFO fields of one ALT: the allele's own value of those with one an allele; those with several others are left out."""
    values: dict[str, Any] = {}
    for name, number in fields.items():
        if name in record.info:
            value = record.info[name]
            if number in ("A", "R"):
                values[name] = value[allele + (number == "R")]
            elif not isinstance(value, tuple):
                values[name] = value
            elif len(value) == 1:
                values[name] = value[0]
    return values


def what_is(column: str) -> str | None:
    """Which coordinate a column holds, by its name."""
    return next((what for what, names in ALIASES.items() if str(column).lower() in names), None)


def coordinate_columns(table: pd.DataFrame, named: dict[str, str] | None = None, where: str = "") -> dict[str, str]:
    """{coordinate: column of the table}.

    Parameters
    ----------
    named
        Those that are called by name.
    where
        The table, for errors.

    Raises
    ------
    ValueError
        Where one is missing, or two columns may be it.
    """
    columns = {}
    for what in COORDINATES:
        if named and what in named:
            columns[what] = named[what]
            continue
        matches = [c for c in table.columns if what_is(c) == what]
        if len(matches) != 1:
            found = (
                f"{len(matches)} columns may be it ({', '.join(matches)})" if matches else f"there are {', '.join(map(str, table.columns))}"
            )
            raise ValueError(f"{where}: no single column holds {what} (as {', '.join(ALIASES[what])}): {found}; name it")
        columns[what] = matches[0]
    return columns


def positions(values: pd.Series, where: str) -> np.ndarray:
    """1-based positions, ``int64`` [n]; ValueError with the first row that holds none."""
    numbers = pd.to_numeric(values, errors="coerce")
    bad = np.flatnonzero(~np.isfinite(numbers) | (numbers != np.floor(numbers)))
    if bad.size:
        raise ValueError(f"{where}: row {int(bad[0]) + 1}, column {values.name}: {values.iloc[int(bad[0])]!r} is no position")
    return numbers.to_numpy(np.int64)


def keys_of(chrom: Any, pos: Any, ref: Any, alt: Any) -> list[Key]:
    """What rows of two tables are joined by, [n]."""
    return [(canonical_name(str(c)), int(p), str(r).upper(), str(a).upper()) for c, p, r, a in zip(chrom, pos, ref, alt, strict=True)]
