"""Submissions to the leaderboard: made from a run's results, and checked. ``submission.schema.json`` documents the format."""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from bmfm.evaluation import predictions as kept_predictions
from bmfm.evaluation import standing
from bmfm.evaluation.report.comparison import failure
from bmfm.metrics import METRICS
from bmfm.training.seeds import interval

FORMAT = "bmfm-submission/2"
MIN_SEEDS = 3
ONCE = ("linear_probe", "knn_probe", "baseline")
"""Modes of which one seed may say all."""
MAX_BYTES = 2_000_000
TOLERANCE = 1e-6
LARGEST = 1e100


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
    suite, every = results["suite"], results["records"]
    records = [r for r in every if (r["model"], r["mode"]) == (model, mode)]
    if not records:
        there = ", ".join(sorted({f"{r['model']} ({r['mode']})" for r in every}))
        raise ValueError(f"results of {suite['name']} hold no {model} ({mode}); they hold {there or 'nothing'}")
    by = {task: [r for r in records if r["task"] == task] for task in suite["tasks"]}
    lost = [f"{task}: not run" for task, own in by.items() if not own]
    lost += [f"{r['task']}, seed {r['seed']}: {why}" for own in by.values() for r in own if (why := failure(r))]
    if lost:
        raise ValueError(f"{model} ({mode}) lacks runs; run these again and submit then: {'; '.join(lost)}")
    used = [r for own in by.values() for r in own]
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
        "tasks": [_task(task, own, predictions or {}) for task, own in by.items()],
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
        found = {r[key] for r in records}
        if len(found) > 1:
            raise ValueError(f"{task}: {key} differs between seeds ({', '.join(sorted(map(str, found)))}); run them on the same data")
        same[key] = found.pop()
    uses = max(r["test_uses"] for r in records)
    figures = {"mean": mean, "low": low, "high": high, "deterministic": deterministic, "seeds": seeds}
    return {"task": task, "metric": metric, **figures, **same, "test_uses": uses}


def summary(values: list[float]) -> tuple[float, float | None, float | None]:
    """Mean of seeds, and the ends of its 95% interval by Student's t; None of one seed."""
    mean, half = interval(values)
    return (mean, None, None) if math.isnan(half) else (mean, mean - half, mean + half)


def _model_hash(records: list[dict]) -> str:
    hashes = {r["task"]: r["model_hash"] for r in records}
    found = sorted({r["model_hash"] for r in records})
    if len(found) == 1:
        return found[0]
    if any(r["model_kind"] != "baseline" for r in records):
        raise ValueError(f"{records[0]['model']}: runs are of {len(found)} different checkpoints; submit the runs of one")
    return digest(hashes)


def _mean(records: list[dict], key: str) -> float | None:
    values = [r[key] for r in records if r.get(key) is not None]
    return sum(values) / len(values) if values else None


def _several(values: Iterable) -> str:
    return ", ".join(dict.fromkeys(str(v) for v in values if v is not None))


# --- checking -----------------------------------------------------------------------------------------------------------


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


@cache
def schema() -> dict:
    """The JSON Schema of the format."""
    return json.loads(Path(__file__).with_suffix(".schema.json").read_text())


def check(
    submission: Any,
    suite_tasks: Mapping[str, str] | Iterable[str],
    known_hashes: Mapping[str, str] | None = None,
    n_test: Mapping[str, int] | None = None,
    protocols: Mapping[str, str] | None = None,
) -> list[str]:
    """Every reason why a submission is invalid by itself; none where it is valid.

    What its predictions say of it is told by `predictions.compare`, what others say by `standing.among`.

    Parameters
    ----------
    submission
        What ``read`` returned.
    suite_tasks
        Names of the suite's tasks; as a mapping with the metric of each, which is then compared too.
    known_hashes, n_test
        SHA-256 of the data of tasks, and examples of their test parts, where known.
    protocols
        How tasks are scored, where known.
    """
    if reasons := _shape(submission, schema(), ""):
        return reasons
    known = known_hashes or {}
    metrics = dict(suite_tasks) if isinstance(suite_tasks, Mapping) else {}
    wanted, run_here = list(suite_tasks), submission["status"] == "submitted"
    names = [t["task"] for t in submission["tasks"]]
    reasons += [f"tasks: {n} stands {names.count(n)} times; give each task once" for n in dict.fromkeys(names) if names.count(n) > 1]
    reasons += [f"tasks: {n} is not of suite {submission['suite']}; leave it out" for n in dict.fromkeys(names) if n not in wanted]
    if run_here:
        reasons += [f"tasks: {n} is missing; a submission has every task of the suite" for n in wanted if n not in names]
        if submission["model"]["hash"] is None:
            reasons.append("model.hash is missing; a submission says which weights it is of")
        if submission["groups"]:
            reasons.append("groups are for reported submissions; leave them empty")
    else:
        if not submission["model"]["citation"]:
            reasons.append("model.citation is missing; a reported submission says where its figures stand")
        if not submission["tasks"] and not submission["groups"]:
            reasons.append("tasks and groups are empty; report at least one figure")
    if submission["mode"] not in ONCE and (sure := [t["task"] for t in submission["tasks"] if t["deterministic"]]):
        reasons.append(f"{sure[0]}: {submission['mode']} depends on its seed; deterministic is for {', '.join(ONCE)}")
    if unknown := [t for t in submission["tasks"] if t["metric"] not in METRICS]:
        return [f"{t['task']}: metric {t['metric']!r} is unknown; choose {', '.join(METRICS)}" for t in unknown]
    for t in submission["tasks"]:
        reasons += [f"{t['task']}: {why}" for why in _task_reasons(t, run_here, metrics.get(t["task"]), known.get(t["task"]))]
    if not reasons:
        reasons += standing.impossible(submission, n_test or {}, protocols=protocols)
    if submission["digest"] != digest(submission):
        reasons.append("digest is not that of the content, which was changed after it was made; make the submission anew from its results")
    return reasons


def _task_reasons(t: dict, run_here: bool, metric: str | None, data_hash: str | None) -> list[str]:
    reasons, seeds = [], [s["seed"] for s in t["seeds"]]
    if metric and t["metric"] != metric:
        reasons.append(f"metric is {t['metric']}, the suite's is {metric}")
    low, high = METRICS[t["metric"]].low, METRICS[t["metric"]].high
    for where, value in [("mean", t["mean"]), *((f"value of seed {s['seed']}", s["value"]) for s in t["seeds"])]:
        if not low <= value <= high:
            reasons.append(f"{where} is {value}, outside the range of {t['metric']} ({low} to {high}); give fractions, not per cent")
    if len(set(seeds)) < len(seeds):
        reasons.append("a seed stands twice; give each seed once")
    if run_here:
        if len(set(seeds)) < MIN_SEEDS and not (t["deterministic"] and seeds):
            reasons.append(f"{len(set(seeds))} seeds; a submission has {MIN_SEEDS} or more")
        reasons += [f"{key} is missing" for key in ("n_test", "data_hash") if t[key] is None]
    if t["test_uses"] != 1 and (run_here or t["test_uses"] is not None):
        reasons.append(f"test_uses is {t['test_uses']}; the test part is used once, after every choice is made")
    if data_hash and t["data_hash"] and t["data_hash"] != data_hash:
        reasons.append(f"data_hash is {t['data_hash'][:12]}..., the card's data are {data_hash[:12]}...; run on the card's data")
    if t["seeds"] and not reasons:
        expected = dict(zip(("mean", "low", "high"), summary([float(s["value"]) for s in t["seeds"]]), strict=True))
        if t["deterministic"]:
            expected = {"mean": expected["mean"]}
            reasons += [
                f"{key} is missing; a bootstrap over test examples gives it" for key in ("low", "high") if run_here and t[key] is None
            ]
        for key, value in expected.items():
            if (run_here or None not in (t[key], value)) and not _close(t[key], value):
                reasons.append(f"{key} is {t[key]}, of its seeds it is {value}")
    elif not t["seeds"] and (t["low"] is None) != (t["high"] is None):
        reasons.append("low and high come together or not at all")
    if t["low"] is not None and t["high"] is not None and not t["low"] <= t["mean"] <= t["high"]:
        reasons.append(f"mean {t['mean']} is not between low {t['low']} and high {t['high']}")
    return reasons


def _close(a: float | None, b: float | None) -> bool:
    return a == b if a is None or b is None else abs(a - b) <= TOLERANCE * max(1, abs(b))


TYPES: dict[str, tuple[Any, str]] = {
    "object": (dict, "an object"),
    "array": (list, "a list"),
    "string": (str, "text"),
    "integer": (int, "a whole number"),
    "number": ((int, float), "a number"),
    "null": (type(None), "null"),
    "boolean": (bool, "true or false"),
}


def _shape(value: Any, rule: dict, where: str) -> list[str]:
    """Where a value departs from a rule of the schema: the keywords that ``submission.schema.json`` uses, and no others."""
    name = where or "submission"
    if "enum" in rule:
        return [] if value in rule["enum"] else [f"{name} is {value!r:.60}; choose {', '.join(rule['enum'])}"]
    kinds = [rule["type"]] if isinstance(rule["type"], str) else rule["type"]
    if not any(isinstance(value, TYPES[k][0]) and isinstance(value, bool) == (k == "boolean") for k in kinds):
        return [f"{name} is {value!r:.60}; it must be {' or '.join(TYPES[k][1] for k in kinds)}"]
    if isinstance(value, str):
        return _text_shape(value, rule, name)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not abs(value) < LARGEST:
            return [f"{name} is {value!r:.60}; it must be finite"]
        return [f"{name} is {value}; it must be {rule['minimum']} or more"] if value < rule.get("minimum", -math.inf) else []
    if isinstance(value, list):
        return [why for i, item in enumerate(value) for why in _shape(item, rule["items"], f"{where}[{i}]")]
    return _object_shape(value, rule, where) if isinstance(value, dict) else []


def _object_shape(value: dict, rule: dict, where: str) -> list[str]:
    known, others, prefix = rule.get("properties", {}), rule["additionalProperties"], f"{where}." if where else ""
    reasons = [f"{prefix}{key} is missing" for key in rule.get("required", ()) if key not in value]
    for key, item in value.items():
        if not key.isprintable():
            reasons.append(f"{where or 'submission'} has a key that is not printable")
        elif key in known or others:
            reasons += _shape(item, known.get(key, others), f"{prefix}{key}")
        else:
            reasons.append(f"{prefix}{key:.60} is no field of the format; it has {', '.join(known)}")
    return reasons


def _text_shape(value: str, rule: dict, name: str) -> list[str]:
    fewest, most = rule.get("minLength", 0), rule.get("maxLength", math.inf)
    if not value.isprintable():
        return [f"{name} holds characters that are not printable; write one line of plain text"]
    if not fewest <= len(value) <= most:
        return [f"{name} has {len(value)} characters; {fewest} to {most} are allowed"]
    if "pattern" in rule and not re.search(rule["pattern"], value):
        return [f"{name} is {value!r:.60}; it must match {rule['pattern']}"]
    return []
