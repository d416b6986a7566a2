"""A suite as the leaderboard sees it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from bmfm.evaluation.protocols.base import protocol_of
from bmfm.evaluation.report.comparison import in_words
from bmfm.evaluation.task_files import read_suite, read_task
from bmfm.evaluation.task_spec import TaskSpec
from bmfm.metrics import METRICS, Metric


@dataclass(frozen=True)
class Board:
    """A suite, and what is known of its tasks.

    Parameters
    ----------
    name, title
        Of the suite.
    metrics, omics
        {task: metric that ranks}, {task: kind of data}, of every task in the suite's order.
    hashes, n_test
        {task: SHA-256 of the data}, {task: examples of the test part}, where they are known.
    modes
        {task: modes that can score it}, of tasks that not every mode can.
    described
        {metric: words, range and direction}, of all that the tasks have.
    tasks
        The tasks themselves.
    """

    name: str
    title: str
    metrics: Mapping[str, str]
    omics: Mapping[str, str]
    hashes: Mapping[str, str] = field(default_factory=dict)
    n_test: Mapping[str, int] = field(default_factory=dict)
    modes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    described: Mapping[str, Metric] = field(default_factory=lambda: METRICS)
    tasks: tuple[TaskSpec, ...] = ()

    def in_words(self, metric: str) -> str:
        """A metric in words."""
        return in_words(metric, self.described)


@cache
def read_board(suite: str) -> Board:
    """The board of a suite; ValueError where there is no such suite."""
    listed = read_suite(suite)
    tasks = tuple(read_task(name, ["checkpoint=none"]) for name in listed.tasks)
    protocols = {task.name: protocol_of(task) for task in tasks}
    return Board(
        suite,
        listed.title,
        metrics={task.name: task.metric for task in tasks},
        omics={task.name: task.omics for task in tasks},
        hashes={task.name: expected for task in tasks if (expected := task.expected_hash)},
        n_test={task.name: n for task in tasks if (n := _n_test(task))},
        modes={name: protocol.modes for name, protocol in protocols.items() if protocol.modes is not None},
        described=dict(METRICS) | {name: metric for task in tasks for name, metric in protocols[task.name].metrics(task).items()},
        tasks=tasks,
    )


def _n_test(task: TaskSpec) -> int | None:
    """Rows of the one file of a task that is its test part, where there is such a file."""
    rows = [f.rows for f in task.files if Path(f.path).name.split(".")[0] == "test"]
    return rows[0] if len(rows) == 1 and len(task.files) > 1 else None
