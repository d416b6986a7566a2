"""Running the jobs of a grid, each once, to a record that says what was run with what."""

import json
import platform
import resource
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from bmfm.cli import instantiate, override
from bmfm.evaluation.checksums import write_json
from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.grid import Job, schedule_shared_first
from bmfm.evaluation.methods.base import Method
from bmfm.evaluation.protocols.base import protocol_of
from bmfm.evaluation.task_files import read_examples, read_task
from bmfm.evaluation.task_metrics import to_record
from bmfm.evaluation.task_spec import TaskSpec
from bmfm.launch import Launcher, n_cores

REPORTED = ("bmfm", "torch", "transformers", "numpy", "scikit-learn", "anndata", "scib-metrics", "scvi-tools", "harmonypy")
"""Packages whose versions a record states."""


def run(jobs: Sequence[Job], launcher: Launcher, report: Callable[[dict], None] = lambda record: None) -> list[dict]:
    """Records of all jobs, in their order; those that were finished before are read, not run."""
    records = {job.key: record for job in jobs if (record := job.finished_record())}
    for record in launcher(run_job, schedule_shared_first([job for job in jobs if job.key not in records]), mark_crashed):
        records[record["key"]] = record
        report(record)
    return [records[job.key] for job in jobs]


def run_job(job: Job) -> dict:
    """Run one job and write its record; a failure is a record too."""
    import transformers

    start_time = time.perf_counter()
    transformers.utils.logging.disable_progress_bar()  # several processes write to one terminal
    _forget_peak()
    task, method = _task(job.task, job.data_root, job.split_seed), _method(job)
    record = _header(job, task, method)
    try:
        record |= _figures(job, task, method)
    except Exception as error:
        record |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        Path(job.folder).mkdir(parents=True, exist_ok=True)
        (Path(job.folder) / "error.txt").write_text(traceback.format_exc())
    record |= {"seconds": time.perf_counter() - start_time, "peak_memory_bytes": _peak()}
    write_json(job.record, record)
    return record


def mark_crashed(job: Job, why: str) -> dict:
    """The record of a job whose process ended without one."""
    record = _header(job, _task(job.task, job.data_root, job.split_seed), _method(job)) | {"status": "failed", "error": why}
    write_json(job.record, record)
    return record


def _figures(job: Job, task: TaskSpec, method: Method) -> dict[str, Any]:
    """What a record says once a job is done."""
    examples = _examples(job.task, job.data_root, job.split_seed)
    examples.test_uses = 0
    outcome = protocol_of(task).run(examples, method, job.seed, Path(job.folder), job.n_bootstrap)
    if task.metric not in outcome.metrics:
        raise ValueError(f"{task.name} is ranked by {task.metric}, which its protocol did not give: {sorted(outcome.metrics)}")
    if outcome.arrays:
        Path(job.folder).mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = dict(outcome.arrays)
        np.savez_compressed(Path(job.folder) / "predictions.npz", **arrays)
    return {f"n_{part}": len(numbers) for part, numbers in examples.parts.items()} | {
        "data_hash": examples.hash,
        "test_uses": outcome.test_uses,
        "train_seconds": outcome.duration,
        "metrics": outcome.metrics,
        "intervals": {k: list(v) for k, v in outcome.intervals.items()},
        "counts": outcome.counts | method.counts,
        "umap": outcome.umap,
        "overlap": outcome.overlap,
        "strata": outcome.strata,
    }


@lru_cache(1)
def _examples(task: str, data_root: str, split_seed: int | None) -> Examples:
    """The examples of a task; those of the last are kept, as a process often has several jobs of one task to run."""
    return read_examples(_task(task, data_root, split_seed), data_root)


@lru_cache(8)
def _task(name: str, data_root: str, split_seed: int | None) -> TaskSpec:
    return read_task(name, ["checkpoint=none", override("data_root", data_root)], split_seed)


def _method(job: Job) -> Method:
    return instantiate(job.method, _convert_="all")


def _header(job: Job, task: TaskSpec, method: Method) -> dict[str, Any]:
    """What is known of a job before it is run."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "suite": job.suite, "task": task.name, "title": task.title, "omics": task.omics, "protocol": task.protocol, "metric": task.metric,
        "model": method.name, "model_kind": method.kind, "model_hash": method.model_hash, "parameters": method.parameters,
        "mode": method.mode, "deterministic": method.deterministic, "seed": job.seed, "split_seed": job.split_seed, "key": job.key, "status": "ok", "error": None,
        "metrics": {}, "intervals": {}, "counts": {}, "n_train": 0, "n_validation": 0, "n_test": 0, "data_hash": None, "test_uses": 0,
        "seconds": None, "train_seconds": None, "peak_memory_bytes": None, "device": gpu or _processor(), "cores": n_cores(),
        "versions": {"python": platform.python_version()} | {name: v for name in REPORTED if (v := _version(name))},
        "commit": _commit(), "date": datetime.now(UTC).isoformat(timespec="seconds"), "settings": method.identity(task), "umap": None,
        "overlap": {}, "strata": [], "published": [asdict(p) for p in task.published], "metric_descriptions": to_record(protocol_of(task).metrics(task)),
    }  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Of the checkout that the package lies in, if it does and there is a git to ask."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return git.stdout.strip() if git.returncode == 0 else None  # without a commit, git says "HEAD"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _forget_peak() -> None:
    """Begin to measure peak memory anew, where Linux allows it; a process runs many jobs."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _peak() -> int:
    """Peak memory of this process in bytes, or on the GPU if it used one."""
    import torch

    if torch.cuda.is_available() and (used := torch.cuda.max_memory_allocated()):
        return int(used)
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.is_file() else ():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run_of(record: dict) -> tuple[int, int]:
    """Seed of the parts (-1 where they are the task's own) and of the method."""
    drawn_by = record.get("split_seed")
    return (-1 if drawn_by is None else drawn_by, record["seed"])


def write_results(folder: Path, suite: dict, records: list[dict]) -> Path:
    """``results.json`` with all records, and the same as a table, ``results.parquet``."""
    import pandas as pd

    write_json(folder / "results.json", {"suite": suite, "records": records})
    flat = [
        {k: v for k, v in r.items() if not isinstance(v, dict | list)}
        | {f"metric_{k}": v for k, v in r["metrics"].items()}
        | {f"{side}_{k}": bounds[i] for k, bounds in r["intervals"].items() for i, side in enumerate(("low", "high"))}
        | {"versions": json.dumps(r["versions"]), "settings": json.dumps(r["settings"], default=str)}
        for r in records
    ]
    pd.DataFrame(flat).to_parquet(folder / "results.parquet", index=False)
    return folder / "results.json"


def with_earlier(folder: Path, records: Sequence[dict], tasks: Sequence[str]) -> list[dict]:
    """The records of this run, and those of earlier runs into the same folder on the same tasks.

    Of a method that was run with several settings the last ones count (those of this run, if it took part), and of each
    seed (and each drawing of the parts) the last record.
    """

    def who(r: dict) -> tuple:
        return r["task"], r["model"], r["model_hash"], r["mode"]

    def settings(r: dict) -> tuple:
        return r["data_hash"], json.dumps(r["settings"], sort_keys=True, default=str)

    stored = [json.loads(f.read_text()) for f in (folder / "jobs").glob("*/record.json")]
    keys = {r["key"] for r in records}
    earlier = [r for r in stored if r["status"] == "ok" and r["task"] in tasks and r["key"] not in keys]
    ordered = sorted(earlier, key=lambda r: r["date"]) + list(records)
    last = {who(r): settings(r) for r in ordered if r["status"] == "ok"}
    kept = {(*who(r), r["seed"], r.get("split_seed")): r for r in ordered if r["status"] != "ok" or settings(r) == last[who(r)]}
    return sorted(kept.values(), key=lambda r: (list(tasks).index(r["task"]), r["model"], r["mode"], run_of(r)))
