"""A prediction as the command line asks for it: files in, a file out; shards that an interrupted one left are used again, and workers share them."""

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bmfm.cells.formats import find_sources
from bmfm.genome.personal import PersonalGenome
from bmfm.genome.reference import Reference
from bmfm.genome.variants import variant_files
from bmfm.inference.annotate import check_joined, write_anndata, write_annotated
from bmfm.inference.donors import DonorPredictions, as_anndata, contigs_without_variants, predict_donors, read_donor_regions, work_on_donors
from bmfm.inference.loading import load
from bmfm.inference.predictor import Predictor
from bmfm.inference.sequence_run import SequenceRun
from bmfm.inference.shared_run import SharedRun
from bmfm.inference.tables import write_tables
from bmfm.ledger import Ledger
from bmfm.places import Place, check_outputs, place, with_local_inputs

RUN_OPTIONS = ("batch_size", "max_tokens", "precision", "progress", "strands")
"""Settings of the Predictor, whatever the data are."""
CELL_OPTIONS = ("counts", "gene_column", "orthologs", "expects", "min_matched", "depth_target", "order")
"""Settings of the group ``data`` that the reader of cells takes."""
CELL_FILES, TABLES = (".h5ad", ".zarr"), (".csv", ".tsv", ".parquet")


def run(config: Any, ledger: Ledger | None = None) -> None:
    """Run a composed prediction; an interrupted one goes on where it was when it is started again.

    Parameters
    ----------
    ledger
        Of a worker, which adds to it and writes nothing else.
    """
    output = free_output(config, ledger)
    asked, config = config, with_local_inputs(config)
    is_of_donors = any(config.data[key] is not None for key in ("fasta", "variants", "samples"))
    if config.data.path is None and not is_of_donors:
        raise SystemExit("bmfm: data.path=... is needed, a file of sequences or cells; for donors data.fasta, data.variants and data.bed")
    predictor = load(config.checkpoint, config.attention, config.device, config.revision, config.remote_code)
    of_kind = run_donors if is_of_donors else run_sequences if predictor.tokenizer.omics == "dna" else run_cells
    of_kind(SharedRun(config, predictor, run, ledger, asked), output)
    if ledger is None:
        print(f"written to {output}")


def free_output(config: Any, ledger: Ledger | None) -> Place:
    """The one output of a command; says so and ends where it is there already and must not be replaced."""
    output = place(config.output)
    check_outputs([output])
    if ledger is None and not config.overwrite and output.exists():
        raise SystemExit(f"bmfm: {output} exists already; choose another output, or overwrite=true")
    return output


def run_sequences(shared: SharedRun, output: Place) -> None:
    """Predict for the sequences of FASTA files or tables, some at a time."""
    config, predictor, ledger = shared.config, shared.predictor, shared.ledger
    _check_suffix(output, TABLES, "sequences")
    options = {k: config[k] for k in ("batch_size", "precision", "strands")}
    of = SequenceRun(predictor, config.data, _asked(config, predictor), config.max_tokens, options, config.progress)
    counts = of.check() if ledger is None else {}
    bed = [config.data.bed] if config.data.bed else []

    def compute(kept: Ledger) -> Any:
        return of.work(kept) if kept.is_worker else of.tables(kept, counts["sequences"])

    with _plain_warnings():
        shared([output], [*_paths(config), *bed], compute, lambda found, files: write_tables(found, files[0]))
    if ledger is None:
        _say(counts)


def run_cells(shared: SharedRun, output: Place) -> None:
    """Predict for cells, and write what is found into a copy of their file."""
    config, predictor = shared.config, shared.predictor
    _check_suffix(output, CELL_FILES, "cells")
    data = config.data.path if isinstance(config.data.path, str) else _paths(config)
    check_joined(find_sources(data))
    options = {k: config[k] for k in RUN_OPTIONS} | {k: config.data[k] for k in CELL_OPTIONS}
    orthologs = [config.data.orthologs] if config.data.orthologs else []

    def compute(kept: Ledger) -> Any:
        return (predictor.work if kept.is_worker else predictor.embed_and_predict)(data, *_asked(config, predictor), ledger=kept, **options)

    def write(found: Any, files: list[Path]) -> None:
        _write_cells(files[0], predictor, find_sources(data), *found)
        _say(predictor.counts)

    with _plain_warnings():
        shared([output], [*find_sources(_paths(config)), *orthologs], compute, write)


def _paths(config: Any) -> list[str]:
    return [config.data.path] if isinstance(config.data.path, str) else list(config.data.path)


def _asked(config: Any, predictor: Predictor) -> tuple[bool, bool, Any, Any]:
    predictions = bool(predictor.labels) if config.predictions == "auto" else bool(config.predictions)
    return bool(config.embeddings), predictions, config.pooling, config.layer


def _check_suffix(output: Place, suffixes: tuple[str, ...], examples: str) -> None:
    if output.suffix not in suffixes:
        raise SystemExit(f"bmfm: output={output}: for {examples} it must end in {' or '.join(suffixes)}")


def _write_cells(output: Path, predictor: Predictor, sources: Any, embeddings: np.ndarray | None, predictions: pd.DataFrame | None) -> None:
    """Write results, and say what was read and written otherwise than it is called."""
    with _plain_warnings():
        written = write_annotated(sources, output, embeddings, predictions)
    for file, match in (predictor.match if isinstance(predictor.match, dict) else {"genes": predictor.match}).items():
        print(f"{file}: {match}")
    for name, where in written.items():
        expected = "obsm/X_bmfm" if name == "embedding" else f"obs/{name}"
        if "/" in name:
            print(f"{name} is written to {where}: names in files of AnnData have no slash")
        elif where != expected:
            print(f"{name} is written to {where}: {expected} was there already")


def run_donors(shared: SharedRun, output: Place) -> None:
    """Predict for regions of a genome in each donor, see `donors`."""
    config, predictor, data = shared.config, shared.predictor, shared.config.data
    if absent := [f"data.{key}=..." for key in ("fasta", "variants", "bed") if not data[key]]:
        raise SystemExit(
            f"bmfm: predictions for donors need {', '.join(absent)}, too; for regions of the reference alone give data.path=FASTA data.bed=BED"
        )
    if data.path is not None:
        raise SystemExit(
            "bmfm: data.path is of other sequences than those of donors: leave out it, or data.fasta, data.variants and data.samples"
        )
    if predictor.tokenizer.omics != "dna":
        raise SystemExit(f"bmfm: {config.checkpoint} is a model of {predictor.reader.title}: sequences of donors need one of DNA")
    _check_suffix(output, CELL_FILES, "donors")
    reference = Reference.from_fasta(data.fasta)
    regions = read_donor_regions(data.bed, reference)
    people = PersonalGenome.from_vcf(data.variants, reference, data.samples, data.unphased)
    for verdict, reason, n, first in people.variants.report.rows():
        print(f"{verdict} {reason}: {n:,}" + (f" (first: {first})" if first else ""))
    if (bare := contigs_without_variants(people, regions)) and data.bare_contigs == "refuse":
        named = ", ".join(f"{name} ({n:,} regions)" for name, n in bare.items())
        raise SystemExit(
            f"bmfm: {data.variants} has no alleles on {named}, where all donors would be the reference: give the variants of these contigs, too "
            "(data.variants takes a list or a pattern), leave out the regions, or set data.bare_contigs=reference"
        )
    paths = [data.variants] if isinstance(data.variants, str) else list(data.variants)
    predictions = None if config.predictions == "auto" else bool(config.predictions)
    asked = predictor, people, regions, bool(config.embeddings), predictions, config.pooling, config.layer
    options = {k: config[k] for k in RUN_OPTIONS}
    about = {"checkpoint": str(config.checkpoint), "fasta": str(data.fasta), "variants": ", ".join(map(str, paths)), "bed": str(data.bed)}

    def compute(kept: Ledger) -> Any:
        return (work_on_donors if kept.is_worker else predict_donors)(*asked, ledger=kept, **options)

    def write(results: DonorPredictions, files: list[Path]) -> None:
        write_anndata(as_anndata(results, people.samples, regions, about), files[0])
        print(f"{len(people.samples):,} donors, {len(regions):,} regions, {results.counts['sequences']:,} different sequences")
        if results.n_lost:
            print(f"{results.n_lost:,} copies of regions are deleted as a whole: they and their means are NaN")
        _say(results.counts)

    with _plain_warnings():
        shared([output], [data.fasta, data.bed, *variant_files(paths)], compute, write)


def _say(counts: Mapping[str, int]) -> None:
    """Say what was seen."""
    print("; ".join(f"{name.replace('_', ' ')} {n:,}" for name, n in counts.items()))


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings as lines for people, without the place in the code."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"bmfm: {message}", file=sys.stderr)  # type: ignore[assignment]
        yield
