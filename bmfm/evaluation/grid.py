"""The grid of a benchmark: jobs of (task, method, seed), each with a key by which finished work is found again."""

import hashlib
import inspect
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bmfm.cli import instantiate
from bmfm.evaluation.checksums import content_hash
from bmfm.evaluation.methods.base import Method
from bmfm.evaluation.protocols.base import Protocol, protocol_of, protocol_settings
from bmfm.evaluation.task_spec import TaskSpec

CONFIGURED = ("objectives", "model", "optimizer", "schedule", "trainer", "callbacks")
"""Parts of a task's configuration, beside its data, that figures depend on."""


@dataclass(frozen=True)
class Job:
    """One cell of the grid, as a process that runs it needs it.

    Parameters
    ----------
    suite, task
        Names.
    method
        Configuration with a ``_target_``, see `methods.base`.
    key
        Hash of everything that the figures depend on.
    folder
        Where its record goes, and whatever it leaves.
    n_bootstrap
        Times that test examples are drawn again.
    shared
        A key of work that several jobs need, see `Method.shared_work`.
    split_seed
        See `TaskSpec.split_seed`.
    """

    suite: str
    task: str
    method: dict
    seed: int
    key: str
    data_root: str
    folder: str
    n_bootstrap: int
    shared: str | None = None
    split_seed: int | None = None

    @property
    def record(self) -> Path:
        return Path(self.folder) / "record.json"

    def finished_record(self) -> dict | None:
        """The record of a job that has been run, or None; one that failed is run again."""
        if not self.record.is_file():
            return None
        record = json.loads(self.record.read_text())
        return record if record["status"] == "ok" else None


@dataclass(frozen=True)
class RunSettings:
    """What all jobs of a run have in common.

    Parameters
    ----------
    suite
        Its name.
    seeds
        Of every method on which chance plays a part; others have the first.
    data_root, folder
        Where the data are, and where results go.
    n_bootstrap
        Times that test examples are drawn again.
    """

    suite: str
    seeds: Sequence[int]
    data_root: str
    folder: Path
    n_bootstrap: int


def takes(method: Method, task: TaskSpec, protocol: Protocol[Any, Any]) -> bool:
    """Whether a method can do a task."""
    return isinstance(method, protocol.needs) and method.takes(task)


def build_grid(tasks: Sequence[TaskSpec], methods: Iterable[dict], run: RunSettings) -> tuple[list[Job], list[str]]:
    """All jobs, and a sentence on each method that is left out: that cannot be run here, or, of those that are no baselines, that has
    no task to do.

    A job's key is a hash of all that its figures depend on: content of the data, the task's configuration, model or
    settings, seed, source of code outside of the package. What changes one of them makes another job.

    Raises
    ------
    FileNotFoundError, ValueError
        Where data are missing or others than the task's, or a setting of a method is mistaken.
    """
    instantiated: list[tuple[dict, Method]] = []
    left_out: dict[str, None] = {}
    for settings in methods:
        method = instantiate(settings, _convert_="all")
        if why := method.unavailable():
            left_out[f"{method.name} is left out: {why}"] = None
        else:
            instantiated.append((settings, method))
    jobs: list[Job] = []
    unused = {_who(method) for _, method in instantiated if method.kind != "baseline"}
    for task in tasks:
        task.verify(run.data_root)
        protocol = protocol_of(task)
        data_hash = content_hash(task.data_paths(run.data_root))
        settings_of_task = figures_depend_on(task, protocol)
        for settings, method in instantiated:
            if not takes(method, task, protocol):
                continue
            unused.discard(_who(method))
            method.check(task)
            sources = [source_hash(c) for c in method.components()]
            identity = method.identity(task) | ({"code": sources} if any(sources) else {})
            one_seed_is_enough = method.deterministic and not protocol.draws_by_seed
            for seed in run.seeds[:1] if one_seed_is_enough else run.seeds:
                content = [task.name, data_hash, settings_of_task, method.name, identity, method.mode, seed, run.n_bootstrap]
                key = digest_of([*content, version("bmfm")])
                folder, shared = str(run.folder / "jobs" / key), method.shared_work(data_hash)
                fixed = (run.data_root, folder, run.n_bootstrap, shared, task.split_seed)
                jobs.append(Job(run.suite, task.name, settings, seed, key, *fixed))
    return jobs, [*left_out] + [f"{name} has no task in this suite" for name in sorted(unused)]


def _who(method: Method) -> str:
    return f"{method.name} ({method.mode})"


def figures_depend_on(task: TaskSpec, protocol: Protocol[Any, Any]) -> dict[str, Any]:
    """What of a task, other than the content of its data, changes figures."""
    from omegaconf import OmegaConf

    config: Any = OmegaConf.to_container(task.config, resolve=False)
    return {k: config.get(k) for k in CONFIGURED} | {
        "data": {k: v for k, v in config["data"].items() if k != "path"},
        "protocol": protocol_settings(task),
        "metric": task.metric,
        "metrics": dict(task.metrics),
        "label": task.label,
        "batch": task.batch,
        "examples": dict(task.examples),
        "code": [source_hash(c) for c in protocol.components(task)],
    }


def digest_of(content: Any) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of content as JSON; what JSON has no form for is written as text."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def source_hash(component: Any) -> str | None:
    """SHA-256 of the source of a function, or of an object's class, that lies outside of this package; None of what ships.

    What was measured with another version of it is then not taken for finished.
    """
    code = component.func if isinstance(component, partial) else component if inspect.isfunction(component) else type(component)
    if code.__module__.split(".")[0] == "bmfm":
        return None
    try:
        return hashlib.sha256(inspect.getsource(inspect.getmodule(code) or code).encode()).hexdigest()
    except (OSError, TypeError):
        return None


def schedule_shared_first(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, before all others one of each shared work, so that few wait for what another is doing."""
    first: dict[str | None, Job] = {job.shared: job for job in reversed(jobs) if job.shared}
    return sorted(jobs, key=lambda job: first.get(job.shared) is not job)
