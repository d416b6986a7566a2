"""Submissions to the leaderboard: made from a run's results, and read. ``submission.schema.json`` documents the format."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bmfm.evaluation.leaderboard import predictions as kept_predictions
from bmfm.evaluation.report.comparison import failure
from bmfm.training.seeds import mean_and_half_width

FORMAT = "bmfm-submission/2"
MAX_BYTES = 2_000_000


def digest(submission: Mapping[str, Any]) -> str:
    """SHA-256 of the submission without its own digest: JSON with sorted keys, no spaces, ASCII."""
    content = {k: v for k, v in submission.items() if k != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def make_submission(
    results: dict,
    model: str,
    mode: str,
    *,
    url: str | None = None,
    citation: str | None = None,
    contact: str | None = None,
    predictions: Mapping[tuple[str, int], kept_predictions.Arrays] | None = None,
) -> dict:
    """What one model, used in one way, scored in a run of a suite.

    Parameters
    ----------
    results
        The content of ``results.json``.
    model, mode
        Which records: their ``model`` and ``mode``.
    url, citation, contact
        Where the model is, the work to cite, whom to ask.
    predictions
        What each run predicted, by task and seed; their hashes become part of the submission.

    Raises
    ------
    ValueError
        Where there is no such model, runs failed or are missing (names them), or its runs are not of one model and one data set.
    """
    suite, every = results["suite"], own_splits(results["records"])
    records = [r for r in every if (r["model"], r["mode"]) == (model, mode)]
    if not records:
        there = ", ".join(sorted({f"{r['model']} ({r['mode']})" for r in every}))
        raise ValueError(f"results of {suite['name']} hold no {model} ({mode}); they hold {there or 'nothing'}")
    by_task = {task: [r for r in records if r["task"] == task] for task in suite["tasks"]}
    lost = [f"{task}: not run" for task, runs in by_task.items() if not runs]
    lost += [f"{r['task']}, seed {r['seed']}: {why}" for runs in by_task.values() for r in runs if (why := failure(r))]
    if lost:
        raise ValueError(f"{model} ({mode}) lacks runs; run these again and submit then: {'; '.join(lost)}")
    used = [r for runs in by_task.values() for r in runs]
    submission = {
        "format": FORMAT,
        "status": "submitted",
        "suite": suite["name"],
        "model": {
            "name": model,
            "url": url,
            "citation": citation,
            "parameters": next((r["parameters"] for r in used if r.get("parameters") is not None), None),
            "hash": _model_hash(used),
        },
        "mode": mode,
        "tasks": [_task(task, runs, predictions or {}) for task, runs in by_task.items()],
        "groups": [],
        "cost": {
            "seconds": _mean(used, "seconds"),
            "train_seconds": _mean(used, "train_seconds"),
            "peak_memory_bytes": max((r["peak_memory_bytes"] for r in used if r.get("peak_memory_bytes") is not None), default=None),
        },
        "versions": {k: _several(r["versions"].get(k) for r in used) for k in used[0]["versions"]},
        "hardware": {"device": _several(r["device"] for r in used), "cores": _several(r["cores"] for r in used) or None},
        "commit": _several(c[:12] for r in used if (c := r.get("commit"))) or None,
        "date": max(r["date"] for r in used),
        "contact": contact,
    }
    return submission | {"digest": digest(submission)}


def own_splits(records: Iterable[dict]) -> list[dict]:
    """The records in which the parts are drawn as the task itself draws them: what the leaderboard compares."""
    return [r for r in records if r.get("split_seed") is None]


def _task(task: str, records: list[dict], predictions: Mapping[tuple[str, int], kept_predictions.Arrays]) -> dict:
    metric = records[0]["metric"]
    hashes = {seed: kept_predictions.content_hash(arrays) for (name, seed), arrays in predictions.items() if name == task}
    runs = ({"seed": r["seed"], "value": float(r["metrics"][metric]), "predictions": hashes.get(r["seed"])} for r in records)
    seeds = sorted(runs, key=lambda s: s["seed"])
    mean, low, high = summary([s["value"] for s in seeds])
    deterministic = len(seeds) == 1 and bool(records[0].get("deterministic"))
    if deterministic:
        low, high = records[0]["intervals"].get(metric, (None, None))
    same = {}
    for key in ("n_test", "data_hash"):
        values = {r[key] for r in records}
        if len(values) > 1:
            raise ValueError(f"{task}: {key} differs between seeds ({', '.join(sorted(map(str, values)))}); run them on the same data")
        same[key] = values.pop()
    uses = max(r["test_uses"] for r in records)
    figures = {"mean": mean, "low": low, "high": high, "deterministic": deterministic, "seeds": seeds}
    return {"task": task, "metric": metric, **figures, **same, "test_uses": uses}


def summary(values: list[float]) -> tuple[float, float | None, float | None]:
    """Mean of seeds, and the ends of its 95% interval by Student's t; None of one seed."""
    mean, half = mean_and_half_width(values)
    return (mean, None, None) if math.isnan(half) else (mean, mean - half, mean + half)


def _model_hash(records: list[dict]) -> str:
    hashes = {r["task"]: r["model_hash"] for r in records}
    distinct = sorted({r["model_hash"] for r in records})
    if len(distinct) == 1:
        return distinct[0]
    if any(r["model_kind"] != "baseline" for r in records):
        raise ValueError(f"{records[0]['model']}: runs are of {len(distinct)} different checkpoints; submit the runs of one")
    return digest(hashes)


def _mean(records: list[dict], key: str) -> float | None:
    values = [r[key] for r in records if r.get(key) is not None]
    return sum(values) / len(values) if values else None


def _several(values: Iterable) -> str:
    return ", ".join(dict.fromkeys(str(v) for v in values if v is not None))


def read(file: str | Path) -> Any:
    """The JSON of a submission; ValueError where it is none, too large, or holds NaN or the same key twice."""
    file = Path(file)
    if file.is_symlink() or not file.is_file():
        raise ValueError(f"{file}: not a submission: it is a folder, a link or a device, or not there; put the .json itself there")
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"{file}: more than {MAX_BYTES:,} bytes; a submission holds figures alone")

    def refuse(constant: str):
        raise ValueError(f"{constant} is no number of JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict:
        content = dict(pairs)
        if len(content) < len(pairs):
            raise ValueError("a key stands twice in one object")
        return content

    try:
        return json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not a submission: {error}") from None
