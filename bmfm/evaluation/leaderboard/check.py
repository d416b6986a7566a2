"""Whether a submission is valid by itself: its form, by ``submission.schema.json``, and its figures among one another and beside its suite."""

import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

from bmfm.evaluation.leaderboard import standing
from bmfm.evaluation.leaderboard.board import Board
from bmfm.evaluation.leaderboard.submission import digest, summary

MIN_SEEDS = 3
ONE_SEED_MODES = ("linear_probe", "knn_probe", "variant_llr", "variant_l2", "variant_cosine", "variant_probe", "variant_table", "baseline")
"""Modes of which one seed may say all."""
TOLERANCE = 1e-6
LARGEST = 1e100


@cache
def schema() -> dict:
    """The JSON Schema of the format."""
    return json.loads(Path(__file__).with_name("submission.schema.json").read_text())


def check(submission: Any, board: Board) -> list[str]:
    """Every reason why a submission is invalid by itself; none where it is valid.

    What its predictions say of it is found by `recompute.compare`, what others say by `standing.among`.

    Parameters
    ----------
    submission
        What `submission.read` returned.
    board
        Of its suite.
    """
    if reasons := _shape(submission, schema(), ""):
        return reasons
    is_run = submission["status"] == "submitted"
    names = [t["task"] for t in submission["tasks"]]
    reasons += [f"tasks: {n} stands {names.count(n)} times; give each task once" for n in dict.fromkeys(names) if names.count(n) > 1]
    reasons += [f"tasks: {n} is not of suite {submission['suite']}; leave it out" for n in dict.fromkeys(names) if n not in board.metrics]
    if is_run:
        reasons += [f"tasks: {n} is missing; a submission has every task of the suite" for n in board.metrics if n not in names]
        if submission["model"]["hash"] is None:
            reasons.append("model.hash is missing; a submission says which weights it is of")
        if submission["groups"]:
            reasons.append("groups are for reported submissions; leave them empty")
    else:
        if not submission["model"]["citation"]:
            reasons.append("model.citation is missing; a reported submission says where its figures stand")
        if not submission["tasks"] and not submission["groups"]:
            reasons.append("tasks and groups are empty; report at least one figure")
    if submission["mode"] not in ONE_SEED_MODES and (sure := [t["task"] for t in submission["tasks"] if t["deterministic"]]):
        reasons.append(f"{sure[0]}: {submission['mode']} depends on its seed; deterministic is for {', '.join(ONE_SEED_MODES)}")
    if unknown := [t for t in submission["tasks"] if t["metric"] not in board.described]:
        return [f"{t['task']}: metric {t['metric']!r} is unknown; choose {', '.join(board.described)}" for t in unknown]
    for t in submission["tasks"]:
        of_task = [*_range_reasons(t, board), *_run_reasons(t, is_run, board.hashes.get(t["task"]))]
        reasons += [f"{t['task']}: {why}" for why in of_task or _summary_reasons(t, is_run)]
    if not reasons:
        reasons += standing.impossible(submission, board)
    if submission["digest"] != digest(submission):
        reasons.append("digest is not that of the content, which was changed after it was made; make the submission anew from its results")
    return reasons


def _range_reasons(t: dict, board: Board) -> list[str]:
    """Whether the metric is the suite's, and figures lie in its range."""
    reasons, metric = [], board.metrics.get(t["task"])
    if metric and t["metric"] != metric:
        reasons.append(f"metric is {t['metric']}, the suite's is {metric}")
    low, high = board.described[t["metric"]].low, board.described[t["metric"]].high
    for where, value in [("mean", t["mean"]), *((f"value of seed {s['seed']}", s["value"]) for s in t["seeds"])]:
        if not low <= value <= high:
            reasons.append(f"{where} is {value}, outside the range of {t['metric']} ({low} to {high}); give fractions, not per cent")
    return reasons


def _run_reasons(t: dict, is_run: bool, data_hash: str | None) -> list[str]:
    """Whether seeds, test part and data are those of a run."""
    reasons, seeds = [], {s["seed"] for s in t["seeds"]}
    if len(seeds) < len(t["seeds"]):
        reasons.append("a seed stands twice; give each seed once")
    if is_run:
        if len(seeds) < MIN_SEEDS and not (t["deterministic"] and seeds):
            reasons.append(f"{len(seeds)} seeds; a submission has {MIN_SEEDS} or more")
        reasons += [f"{key} is missing" for key in ("n_test", "data_hash") if t[key] is None]
    if t["test_uses"] != 1 and (is_run or t["test_uses"] is not None):
        reasons.append(f"test_uses is {t['test_uses']}; the test part is used once, after every choice is made")
    if data_hash and t["data_hash"] and t["data_hash"] != data_hash:
        reasons.append(f"data_hash is {t['data_hash'][:12]}..., the task's data are {data_hash[:12]}...; run on the task's data")
    return reasons


def _summary_reasons(t: dict, is_run: bool) -> list[str]:
    """Whether mean and interval are those of the seeds."""
    reasons = []
    if t["seeds"]:
        expected = dict(zip(("mean", "low", "high"), summary([float(s["value"]) for s in t["seeds"]]), strict=True))
        if t["deterministic"]:
            expected = {"mean": expected["mean"]}
            reasons += [
                f"{key} is missing; a bootstrap over test examples gives it" for key in ("low", "high") if is_run and t[key] is None
            ]
        for key, value in expected.items():
            if (is_run or None not in (t[key], value)) and not _close(t[key], value):
                reasons.append(f"{key} is {t[key]}, of its seeds it is {value}")
    elif (t["low"] is None) != (t["high"] is None):
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
    properties, others, prefix = rule.get("properties", {}), rule["additionalProperties"], f"{where}." if where else ""
    reasons = [f"{prefix}{key} is missing" for key in rule.get("required", ()) if key not in value]
    for key, item in value.items():
        if not key.isprintable():
            reasons.append(f"{where or 'submission'} has a key that is not printable")
        elif key in properties or others:
            reasons += _shape(item, properties.get(key, others), f"{prefix}{key}")
        else:
            reasons.append(f"{prefix}{key:.60} is no field of the format; it has {', '.join(properties)}")
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
