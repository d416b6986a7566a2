"""Whether pretraining has seen test inputs of tasks: sequences anywhere in a genome, cells in files of cells.

`overlap` compares the parts of one task; here the other side is what a model was pretrained on.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bmfm.cells.formats import find_sources
from bmfm.cells.sources import open_source
from bmfm.evaluation.examples.cells import CellExamples, cell_hashes
from bmfm.evaluation.examples.sequences import SequenceExamples
from bmfm.genome.occurrences import find_occurrences, is_searched
from bmfm.genome.reference import Reference
from bmfm.genome.regions import merge


class GenomeLeakage(NamedTuple):
    """Test sequences of one task in a genome.

    Attributes
    ----------
    intervals : int64 [I, 2]
        Interval set of where they stand.
    n_test
        Sequences of the test part; of pairs both count.
    n_found
        Those that stand in the genome.
    n_short
        Those too short to be looked for, see `occurrences.find_occurrences`.
    """

    intervals: np.ndarray
    n_test: int
    n_found: int
    n_short: int


def test_sequences(examples: SequenceExamples) -> list[str]:
    """The sequences of the test part, those of pairs one by one."""
    inputs = examples.of("test")
    return [str(text) for text in (inputs.to_numpy().ravel() if examples.are_pairs else inputs)]


def genome_leakage(examples: SequenceExamples, reference: Reference, max_mismatches: int = 0) -> GenomeLeakage:
    """Where a genome holds test sequences of a task, on either strand.

    Parameters
    ----------
    max_mismatches
        Bases that may differ, as between two assemblies of one genome.
    """
    texts = test_sequences(examples)
    found = find_occurrences(texts, reference, max_mismatches)
    return GenomeLeakage(merge(found.intervals), len(texts), len(np.unique(found.sequence)), int((~is_searched(texts)).sum()))


class CellLeakage(NamedTuple):
    """Test cells of one task in files of cells.

    Attributes
    ----------
    n_test, n_found
        Test cells, and those of which the files hold an equal one.
    n_cells
        Cells of the files.
    equal
        File and name of those that equal a test cell.
    """

    n_test: int
    n_found: int
    n_cells: int
    equal: list[tuple[str, str]]


LEAST_GENES = 10
"""Genes that both files must have of a cell, with counts, before two cells can be called equal."""


def cell_leakage(examples: CellExamples, test: np.ndarray, files: Any) -> CellLeakage:
    """How many cells of some files are test cells of a task: equal counts of all genes that both files have.

    Parameters
    ----------
    test
        Numbers of the test cells.
    files
        As `cells.formats.find_sources` takes them; genes are found by name as in training.
    """
    vocabulary, expects = examples.data.tokenizer.vocabulary, examples.data.expects
    test_cells = examples.data.cells.take(test)
    found, n_cells, equal = np.zeros(len(test), bool), 0, []
    for file in find_sources(files):
        source = open_source(file, vocabulary, expects=expects, min_matched=0.0)
        shared = source.gene_panel_mask
        rows: dict[bytes, list[int]] = {}
        for row, cell_hash in enumerate(cell_hashes(test_cells, shared, LEAST_GENES)):
            rows.setdefault(cell_hash, []).append(row)
        for start in range(0, len(source), 4096):
            for number, cell_hash in enumerate(cell_hashes(source.read(start, min(start + 4096, len(source))), None, LEAST_GENES), start):
                if cell_hash and cell_hash in rows:
                    found[rows[cell_hash]] = True
                    equal.append((Path(source.name).name, str(source.view.obs.index[number])))
        n_cells += len(source)
    return CellLeakage(len(test), int(found.sum()), n_cells, equal)


def outside(intervals: np.ndarray, reference: Reference) -> np.ndarray:
    """The rest of the genome, an interval set: what pretraining may read (``data.regions``)."""
    rest = []
    for start, end in zip(reference.starts, reference.ends, strict=True):
        held = intervals[(intervals[:, 0] < end) & (intervals[:, 1] > start)]
        edges = np.concatenate([[start], held.ravel(), [end]]).reshape(-1, 2)
        rest.append(edges[edges[:, 1] > edges[:, 0]])
    return np.concatenate(rest)


def write_bed(path: str | Path, intervals: np.ndarray, reference: Reference) -> None:
    """Write an interval set as a BED file (0-based, half-open)."""
    with Path(path).open("w", encoding="utf-8") as out:
        for start, end in intervals:
            contig, first = reference.locate(int(start))
            out.write(f"{contig}\t{first}\t{first + int(end - start)}\n")
