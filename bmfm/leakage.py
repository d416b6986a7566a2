"""Find test inputs of tasks in pretraining data: ``python -m bmfm.leakage genome FASTA --tasks gue/tf_0 gue/tf_1 --allowed OUT.bed``.

``genome`` looks for the test sequences, on both strands, in a FASTA. ``--bed`` writes where they stand; ``--allowed`` writes the rest
of the genome, which pretraining takes as ``data.regions=OUT.bed``: no window then touches a test sequence. ``cells`` looks for test
cells in files of cells, and ``--leave-out`` writes their names, which pretraining takes as ``data.leave_out=OUT.csv``; a task without a
test part is scored on all of its cells.
"""

import argparse
import csv
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bmfm.cli import exit_status


def _examples(arguments: argparse.Namespace) -> Iterator[tuple[Any, Any]]:
    """The tasks that were named, and their examples."""
    from bmfm.cli import override
    from bmfm.evaluation.task_files import in_other_splits, read_examples, read_suite, read_task

    for name in dict.fromkeys([*arguments.tasks, *(task for suite in arguments.suites for task in read_suite(suite).tasks)]):
        overrides = ["checkpoint=none", override("data_root", arguments.data_root)]
        card = read_task(name, overrides)
        for task in in_other_splits(card, arguments.split_seeds, overrides):
            yield task, read_examples(task, arguments.data_root)


def _genome(arguments: argparse.Namespace) -> int:
    import numpy as np

    from bmfm.evaluation.examples.sequences import SequenceExamples
    from bmfm.evaluation.leakage import genome_leakage, outside, write_bed
    from bmfm.genome.reference import Reference
    from bmfm.genome.regions import merge

    reference, intervals = Reference.from_fasta(arguments.fasta), [np.empty((0, 2), np.int64)]
    for task, examples in _examples(arguments):
        if not isinstance(examples, SequenceExamples):
            print(f"{task.name}: no sequences, passed over")
            continue
        found = genome_leakage(examples, reference, arguments.mismatches)
        intervals.append(found.intervals)
        bases = int((found.intervals[:, 1] - found.intervals[:, 0]).sum())
        short = f"; {found.n_short:,} are too short to be looked for" if found.n_short else ""
        print(f"{task.name}: {found.n_found:,} of {found.n_test:,} test sequences in {arguments.fasta.name}, {bases:,} bases{short}")
    whole = merge(np.concatenate(intervals))
    print(f"together {int((whole[:, 1] - whole[:, 0]).sum()):,} of {len(reference):,} bases, {len(whole):,} intervals")
    for path, rows in ((arguments.bed, whole), (arguments.allowed, outside(whole, reference))):
        if path:
            write_bed(path, rows, reference)
            print(f"{path}: {len(rows):,} intervals")
    return 0


def _cells(arguments: argparse.Namespace) -> int:
    import numpy as np

    from bmfm.evaluation.examples.cells import CellExamples
    from bmfm.evaluation.leakage import cell_leakage
    from bmfm.evaluation.protocols.base import protocol_of

    equal: dict[tuple[str, str], None] = {}
    for task, examples in _examples(arguments):
        if not isinstance(examples, CellExamples):
            print(f"{task.name}: no cells, passed over")
            continue
        test = examples.parts["test"] if protocol_of(task).scores_test_part else np.arange(len(examples))
        found = cell_leakage(examples, test, arguments.files)
        print(
            f"{task.name}: {found.n_found:,} of {found.n_test:,} test cells are among {found.n_cells:,} cells, of which {len(found.equal):,} "
            "equal one"
        )
        equal |= dict.fromkeys(found.equal)
    if arguments.leave_out:
        with arguments.leave_out.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([("file", "cell"), *equal])
        print(f"{arguments.leave_out}: {len(equal):,} cells")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; status 2 where it cannot be run."""
    parser = argparse.ArgumentParser(prog="python -m bmfm.leakage", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    genome = commands.add_parser("genome", help="test sequences in a genome")
    genome.add_argument("fasta", type=Path, metavar="FASTA")
    genome.add_argument("--bed", type=Path, help="where to write the intervals that hold a test sequence")
    genome.add_argument("--allowed", type=Path, help="where to write the rest of the genome, for data.regions")
    genome.add_argument("--mismatches", type=int, default=0, help="bases of a test sequence that may differ")
    genome.set_defaults(run=_genome)
    cells = commands.add_parser("cells", help="test cells in files of cells")
    cells.add_argument("files", nargs="+", metavar="FILE", help=".h5ad or what else training reads")
    cells.add_argument("--leave-out", type=Path, metavar="CSV", help="where to write the cells that equal a test cell, for data.leave_out")
    cells.set_defaults(run=_cells)
    for command in (genome, cells):
        command.add_argument("--tasks", nargs="+", default=[], metavar="TASK", help="as gue/tf_0")
        command.add_argument("--suites", nargs="+", default=[], metavar="SUITE", help="all tasks of suites")
        command.add_argument(
            "--split-seeds",
            nargs="+",
            type=int,
            default=[],
            metavar="N",
            help="the test parts that these seeds draw, where a card draws its own",
        )
        command.add_argument("--data-root", default=os.environ.get("BMFM_DATA", "data"), help="folder of the tasks' data")
    parsed = parser.parse_args(arguments)
    return exit_status(lambda: parsed.run(parsed))


if __name__ == "__main__":
    sys.exit(main())
