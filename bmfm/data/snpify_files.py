"""Tables of labelled sequences in, the same tables with known variants in their sequences out, and a report of what was done."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.cli import instantiate
from bmfm.data.snpify import REGION, STATUS, Columns, Labelled, Snpified, read_labelled, snpify
from bmfm.data.tables import is_table, suffix_of
from bmfm.genome.alphabet import decode
from bmfm.genome.placement import STATUSES
from bmfm.genome.reference import Reference
from bmfm.genome.variants import VariantTable

LEAK = ("warn", "refuse")


def run(config: Any) -> None:
    """Run a composed ``bmfm snpify``."""
    output, data = Path(config.output), config.data
    if output.exists() and not config.overwrite:
        raise SystemExit(f"bmfm: {output} exists already; choose another output, or overwrite=true")
    if config.leak not in LEAK:
        raise SystemExit(f"bmfm: leak={config.leak!r} is unknown; choose from {', '.join(LEAK)}")
    columns = Columns.of(data.coordinates)
    labelled = read_labelled(data.path, data.sequence, data.label, columns)
    is_file = list(labelled.files) == ["all"]
    if is_file != is_table(output):
        raise SystemExit(
            f"bmfm: output={output}: it is to be {'a table (.csv, .tsv, .parquet)' if is_file else 'a folder'}, as data.path is"
        )
    reference = Reference.from_fasta(data.fasta)
    variants = VariantTable.from_vcf(data.variants, reference, instantiate(data.variant_filter))
    result = snpify(
        labelled, reference, variants, instantiate(data.representation), columns, data.max_mismatches, config.others, config.seed
    )
    print(report(labelled, variants, result, data.label))
    if result.leak is not None and result.leak.is_leak and config.leak == "refuse":
        raise SystemExit("bmfm: nothing is written (leak=refuse); others=drop leaves out what is not placed, of all classes")
    write(output, labelled, result, reference, _summary(variants, result))
    print(f"written to {output}; train on it with data.alphabet=snp")


def report(labelled: Labelled, variants: VariantTable, result: Snpified, label: str | None) -> str:
    """What was done, in lines."""
    lines = [f"{verdict} {reason}: {n:,}" + (f" (first: {first})" if first else "") for verdict, reason, n, first in variants.report.rows()]
    if labelled.n_replaced:
        lines.append(f"{labelled.n_replaced:,} characters of sequences were read as N")
    counts = result.counts()
    lines.append(counts.loc[:, (counts != 0).any()].to_string())
    if result.leak is not None:
        lines.append(result.leak.sentence())
    elif label is None:
        lines.append("no labels were given (data.label): whether the classes can be told from how variants were written was not tested")
    else:
        lines.append("too few sequences of two classes to test whether they can be told from how variants were written")
    return "\n".join(lines)


def _summary(variants: VariantTable, result: Snpified) -> dict[str, Any]:
    leak = result.leak
    return {
        "variants": {"path": variants.report.path, "records": variants.report.records, "kept": dict(variants.report.kept)},
        "classes": json.loads(result.counts().to_json(orient="index")),
        "leak": None if leak is None else {**vars(leak), "is_leak": leak.is_leak},
    }


def write(output: Path, labelled: Labelled, result: Snpified, reference: Reference, summary: dict[str, Any]) -> None:
    """Write the tables under their names (of one table, to `output` itself), and the summary beside them."""
    partial = output.with_name(f".partial.{output.name}")
    _remove(partial)
    is_file = list(labelled.files) == ["all"]
    try:
        if not is_file:
            partial.mkdir(parents=True)
        first = 0
        for part, table in labelled.tables.items():
            inside = np.flatnonzero((result.numbers >= first) & (result.numbers < first + len(table)))
            rows = result.numbers[inside]
            written = table.iloc[rows - first].copy()
            written[labelled.sequence] = [decode(result.symbols[i]) for i in inside]
            written[STATUS] = [STATUSES[s] for s in result.placements.status[rows]]
            written[REGION] = [_region(result, reference, n) for n in rows.tolist()]
            _write_table(written, partial if is_file else partial / labelled.files[part].name)
            first += len(table)
        _remove(output)
        partial.rename(output)
    finally:
        _remove(partial)
    beside = output.with_name(f"{output.name}.summary.json") if is_file else output / "summary.json"
    beside.write_text(json.dumps(summary, indent=1) + "\n")


def _region(result: Snpified, reference: Reference, number: int) -> str:
    """Where a sequence stands, as ``bedtools getfasta -s`` would call it; empty where it is not placed."""
    start = int(result.placements.start[number])
    if start < 0:
        return ""
    contig, first = reference.locate(start)
    strand = "-" if result.placements.reverse[number] else "+"
    return f"{contig}:{first}-{first + int(result.placements.length[number])}({strand})"


def _write_table(table: pd.DataFrame, path: Path) -> None:
    if suffix_of(path) == ".parquet":
        table.to_parquet(path, index=False)
    else:
        table.to_csv(path, index=False, sep="\t" if suffix_of(path) in (".tsv", ".txt", ".tab") else ",")


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
