"""Scores of a submission computed again, from the predictions beside it and the labels of the tasks."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from bmfm.cli import override
from bmfm.evaluation.checksums import content_hash as hash_of_files
from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.leaderboard.predictions import Arrays, content_hash, read
from bmfm.evaluation.protocols.labels import score_predictions
from bmfm.evaluation.task_files import read_examples, read_task
from bmfm.evaluation.task_spec import TaskSpec

TOLERANCE = 1e-6


def compare(submission: Mapping, file: Path | None, tasks: Iterable[TaskSpec], data_root: str | Path) -> tuple[list[str], str]:
    """What the predictions beside a submission say of it.

    Parameters
    ----------
    submission
        Of the right form.
    file
        Where its predictions should lie.
    tasks
        Of its suite.
    data_root
        Where the data of tasks are, if they are here.

    Returns
    -------
    list of str, str
        Every reason why the submission is invalid; and what is known: ``recomputed`` where each score followed from its
        predictions and the task's labels, else why that was not tried.
    """
    hashes = {(t["task"], s["seed"]): s["predictions"] for t in submission["tasks"] for s in t["seeds"]}
    reasons: list[str] = []
    kept: dict[tuple[str, int], Arrays] = {}
    if not all(hashes.values()):
        evidence = "predictions not kept" if not any(hashes.values()) else "predictions of some tasks not kept"
    elif file is None or not (file.exists() or file.is_symlink()):
        evidence = "predictions named by their hash, not at hand"
    else:
        evidence = "recomputed"
        kept, reasons = _those_of(hashes, file)
    by_task, n_away = {t["task"]: t for t in submission["tasks"]}, 0
    for task in (t for t in tasks if t.name in by_task and not reasons):
        examples = examples_at_hand(task, data_root)
        n_away += examples is None
        if examples is not None:
            reasons = _recompute(by_task[task.name], examples, kept)
    if evidence == "recomputed" and n_away:
        evidence = f"scores not recomputed here: data not at hand of {n_away} of {len(by_task)} tasks"
    return reasons, evidence


def _those_of(hashes: Mapping[tuple[str, int], str], file: Path) -> tuple[dict[tuple[str, int], Arrays], list[str]]:
    """The arrays of a file, and why they are not those that the hashes are of."""
    try:
        kept = read(file)
    except ValueError as error:
        return {}, [str(error)]
    reasons = [f"{file.name}: predictions of {task}, seed {seed}, are missing" for task, seed in hashes if (task, seed) not in kept]
    reasons += [f"{file.name}: {task}, seed {seed}, is not of the submission" for task, seed in kept if (task, seed) not in hashes]
    for where, arrays in kept.items():
        if where in hashes and content_hash(arrays) != hashes[where]:
            reasons.append(f"{file.name}: predictions of {where[0]}, seed {where[1]}, are not those that the submission was made with")
    return kept, reasons


def examples_at_hand(task: TaskSpec, data_root: str | Path) -> Examples | None:
    """The examples of a task whose files are here, as its checksums say; else None."""
    if task.missing_files(data_root):
        return None
    expected = task.expected_hash
    if expected and hash_of_files(task.data_paths(data_root)) != expected:
        return None
    return _examples(task.name, str(data_root))


@lru_cache(8)
def _examples(task: str, data_root: str) -> Examples:
    return read_examples(read_task(task, ["checkpoint=none", override("data_root", data_root)]), data_root)


def _recompute(submitted: Mapping, examples: Examples, kept: Mapping[tuple[str, int], Arrays]) -> list[str]:
    """Reasons against what was submitted for one task: the number of its test examples, and each seed's score."""
    name, n_test = submitted["task"], len(examples.parts["test"])
    if submitted["n_test"] != n_test:
        return [f"{name}: n_test is {submitted['n_test']}, the task's test part has {n_test} examples"]
    reasons = []
    for seed in submitted["seeds"] if kept else ():
        where = f"{name}: seed {seed['seed']}"
        try:
            score = score_predictions(examples, kept[name, seed["seed"]], 0).metrics[submitted["metric"]]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            reasons.append(f"{where}: its predictions cannot be scored: {error}")
            continue
        if not abs(score - seed["value"]) <= TOLERANCE * max(1.0, abs(score)):
            reasons.append(f"{where}: value is {seed['value']}, of its predictions it is {score}")
    return reasons
