"""The grid of a benchmark: (task, entrant, seed) cells, each run once, kept as a record, found again."""

import hashlib
import json
import platform
import resource
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from bmfm.cli import instantiate, override
from bmfm.evaluation import own_metrics
from bmfm.evaluation.launch import cores
from bmfm.evaluation.overlap import overlap
from bmfm.evaluation.protocols import protocol
from bmfm.evaluation.tasks import TaskSpec, content_hash, data_paths, read_task, verify, write_json
from bmfm.metrics import METRICS

REPORTED = ("bmfm", "torch", "transformers", "numpy", "scikit-learn", "anndata", "scib-metrics", "scvi-tools", "harmonypy")


@dataclass(frozen=True)
class Job:
    """One cell of the grid, as a process that runs it needs it.

    Parameters
    ----------
    entrant
        Configuration with a ``_target_``, see `entrants`.
    folder
        Where its record goes, and whatever it leaves.
    """

    suite: str
    task: str
    entrant: dict
    seed: int
    key: str
    data_root: str
    folder: str
    n_bootstrap: int
    shared: str | None = None

    @property
    def record(self) -> Path:
        return Path(self.folder) / "record.json"


def takes(entrant, card: TaskSpec) -> bool:
    """Whether an entrant can do a card."""
    able = card.omics in entrant.omics and hasattr(entrant, protocol(card.protocol).needs) and card.protocol in entrant.protocols
    return able and getattr(entrant, "takes", lambda card: True)(card)


def grid(suite: str, cards: Sequence[TaskSpec], entrants: Iterable[dict], seeds: Sequence[int], data_root: str, folder: Path,
         n_bootstrap: int) -> tuple[list[Job], list[str]]:  # fmt: skip
    """All cells, and the names of entrants, other than baselines, that have no task to do.

    A cell's key is a hash of all that its figures depend on: content of the data, the card's configuration, model or
    settings, seed, source of code outside of the package. What changes one of them makes another cell.
    """
    from omegaconf import OmegaConf

    made = [(e, instantiate(e, _convert_="all")) for e in entrants]
    cells: list[Job] = []
    unused = {f"{entrant.name} ({entrant.mode})" for _, entrant in made if entrant.kind != "baseline"}
    for card in cards:
        verify(card, data_root)
        data_hash = content_hash(data_paths(card, data_root))
        settings: Any = OmegaConf.to_container(card.config, resolve=False)
        said: dict = {k: settings[k] for k in ("objectives", "model", "optimizer", "schedule", "trainer", "callbacks")}
        said |= {"data": {k: v for k, v in settings["data"].items() if k != "path"}, "protocol": card.protocol, "metric": card.metric}
        said |= {"label": card.label, "batch": card.batch}
        if card.metrics:
            said |= {"metrics": card.metrics, "code": [own_metrics.source_hash(f) for f in own_metrics.functions(card.metrics).values()]}
        for config, entrant in made:
            if not takes(entrant, card):
                continue
            unused.discard(f"{entrant.name} ({entrant.mode})")
            if hasattr(entrant, "overrides"):  # a mistake in them is told now rather than by every cell
                read_task(card.name, ["checkpoint=none", *entrant.overrides])
            once = entrant.deterministic and card.protocol == "labels"
            for seed in seeds[:1] if once else seeds:
                code = [own_metrics.source_hash(made) for made in (entrant, getattr(entrant, "source", entrant))]
                identity = entrant.identity(card) | ({"code": code} if any(code) else {})
                key = [card.name, data_hash, said, entrant.name, identity, entrant.mode, seed, n_bootstrap, version("bmfm")]
                digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:16]
                shared = entrant.shared(data_hash)
                cells.append(Job(suite, card.name, config, seed, digest, data_root, str(folder / "cells" / digest), n_bootstrap, shared))
    return cells, sorted(unused)


def schedule_shared_first(cells: Sequence[Job]) -> list[Job]:
    """The cells, before all others one of each embedding, so that few wait for what another is making."""
    makers: dict[str | None, Job] = {cell.shared: cell for cell in reversed(cells) if cell.shared}
    return sorted(cells, key=lambda cell: makers.get(cell.shared) is not cell)


def finished(cell: Job) -> dict | None:
    """The record of a cell that has been run, or None; one that failed is run again."""
    if not cell.record.is_file():
        return None
    record = json.loads(cell.record.read_text())
    return record if record["status"] == "ok" else None


def run_job(cell: Job) -> dict:
    """Run one cell and write its record; a failure is a record too."""
    import transformers

    began = time.perf_counter()
    transformers.utils.logging.disable_progress_bar()  # several processes write to one terminal
    _forget_peak()
    card, entrant = _parts(cell)
    record = _about(cell, card, entrant)
    try:
        examples = _examples(cell.task, cell.data_root)
        examples.test_uses = 0
        outcome = protocol(card.protocol).run(card, examples, entrant, cell.seed, Path(cell.folder), cell.n_bootstrap)
        record |= {f"n_{part}": len(numbers) for part, numbers in examples.parts.items()}
        uses = examples.test_uses // max(1, len(examples.kinds)) if card.protocol == "labels" else 1
        record |= {"data_hash": examples.hash, "test_uses": uses, "train_seconds": outcome.duration, "metrics": outcome.metrics}
        record |= {"counts": outcome.counts | getattr(entrant, "counts", {})}
        record |= {"intervals": {k: list(v) for k, v in outcome.intervals.items()}, "umap": outcome.umap}
        record["overlap"] = overlap(examples)
        if card.metric not in outcome.metrics:
            raise ValueError(f"{card.name} is ranked by {card.metric}, which its protocol did not give: {sorted(outcome.metrics)}")
        if outcome.arrays:
            Path(cell.folder).mkdir(parents=True, exist_ok=True)
            np.savez_compressed(Path(cell.folder) / "predictions.npz", **outcome.arrays)
    except Exception as error:
        record |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        Path(cell.folder).mkdir(parents=True, exist_ok=True)
        (Path(cell.folder) / "error.txt").write_text(traceback.format_exc())
    record |= {"seconds": time.perf_counter() - began, "peak_memory_bytes": _peak()}
    write_json(cell.record, record)
    return record


def mark_crashed(cell: Job, why: str) -> dict:
    """The record of a cell whose process ended without one."""
    record = _about(cell, *_parts(cell)) | {"status": "failed", "error": why}
    write_json(cell.record, record)
    return record


@lru_cache(1)
def _examples(task: str, data_root: str):
    """The examples of a task; those of the last are kept, as a process often has several cells of one task to run."""
    from bmfm.evaluation.examples import Examples

    return Examples(_card(task, data_root), data_root)


@lru_cache(8)
def _card(task: str, data_root: str) -> TaskSpec:
    return read_task(task, ["checkpoint=none", override("data_root", data_root)])


def _parts(cell: Job) -> tuple[TaskSpec, Any]:

    return _card(cell.task, cell.data_root), instantiate(cell.entrant, _convert_="all")


def _about(cell: Job, card: TaskSpec, entrant) -> dict:
    """What is known of a cell before it is run."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "suite": cell.suite, "task": card.name, "title": card.title, "omics": card.omics, "protocol": card.protocol, "metric": card.metric,
        "model": entrant.name, "model_kind": entrant.kind, "model_hash": entrant.model_hash, "parameters": entrant.parameters,
        "mode": entrant.mode, "deterministic": entrant.deterministic, "seed": cell.seed, "key": cell.key, "status": "ok", "error": None,
        "metrics": {}, "intervals": {}, "counts": {}, "n_train": 0, "n_validation": 0, "n_test": 0, "data_hash": None, "test_uses": 0,
        "seconds": None, "train_seconds": None, "peak_memory_bytes": None, "device": gpu or _processor(), "cores": cores(),
        "versions": {"python": platform.python_version()} | {name: v for name in REPORTED if (v := _version(name))},
        "commit": _commit(), "date": datetime.now(UTC).isoformat(timespec="seconds"), "settings": entrant.identity(card), "umap": None, "overlap": {},
        "published": [asdict(p) for p in card.published], "own_metrics": own_metrics.as_record({m: METRICS[m] for m in card.metrics}),
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
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return asked.stdout.strip() if asked.returncode == 0 else None  # without a commit, git says "HEAD"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    named = (
        [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    )
    return named[0] if named else platform.processor() or platform.machine()


def _forget_peak() -> None:
    """Begin to measure peak memory anew, where Linux allows it; a process runs many cells."""
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


def run(cells: Sequence[Job], launcher: Callable, told: Callable[[dict], None] = lambda record: None) -> list[dict]:
    """Records of all cells, in their order; those that were finished before are read, not run."""
    records = {cell.key: found for cell in cells if (found := finished(cell))}
    for record in launcher(run_job, schedule_shared_first([cell for cell in cells if cell.key not in records]), mark_crashed):
        records[record["key"]] = record
        told(record)
    return [records[cell.key] for cell in cells]


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

    Of an entrant that was run with several settings the last ones count (those of this run, if it took part), and of each
    seed the last record.
    """

    def who(r: dict) -> tuple:
        return r["task"], r["model"], r["model_hash"], r["mode"]

    def settings(r: dict) -> tuple:
        return r["data_hash"], json.dumps(r["settings"], sort_keys=True, default=str)

    stored = [json.loads(f.read_text()) for f in (folder / "cells").glob("*/record.json")]
    known = {r["key"] for r in records}
    earlier = [r for r in stored if r["status"] == "ok" and r["task"] in tasks and r["key"] not in known]
    ordered = sorted(earlier, key=lambda r: r["date"]) + list(records)
    last = {who(r): settings(r) for r in ordered if r["status"] == "ok"}
    kept = {(*who(r), r["seed"]): r for r in ordered if r["status"] != "ok" or settings(r) == last[who(r)]}
    return sorted(kept.values(), key=lambda r: (list(tasks).index(r["task"]), r["model"], r["mode"], r["seed"]))
