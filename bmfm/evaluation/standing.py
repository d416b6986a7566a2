"""What can be known of a submission without trusting it: whether it is possible, whether it is another one again, who repeated it."""

import re
from collections.abc import Container, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import combinations

from bmfm.evaluation.metrics import METRICS

BEGAN = date(2026, 1, 1)
"""Nothing was run by this package before."""
SAME = 1e-6
NEAR = 2e-3
"""Figures of two works that are this close in every one of `MANY` runs were not measured twice."""
MANY = 6
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""SHA-256 of nothing."""


def impossible(s: Mapping, n_test: Mapping[str, int], now: datetime | None = None) -> list[str]:
    """Reasons why no run can have left these figures; of figures that are reported, dates and names alone.

    Parameters
    ----------
    n_test
        Examples of the test part of tasks whose card says so.
    """
    reasons = [*_dates(s, now or datetime.now(UTC)), *_texts(s)]
    if s["status"] == "reported":
        return reasons
    seeds = [(t, [x["value"] for x in t["seeds"]]) for t in s["tasks"]]
    drawn = [(t, values) for t, values in seeds if len(values) > 1]
    if seeds and all(v == _perfect(t["metric"]) for t, values in seeds for v in values):
        reasons.append("every score of every task is perfect, which nothing that was trained on other examples reaches")
    elif drawn and all(len(set(values)) == 1 for _, values in drawn):
        reasons.append("every seed of every task has the same score to the last digit: its seeds are copies of one run")
    for t, _ in drawn:
        kept = [x["predictions"] for x in t["seeds"] if x["predictions"]]
        if len(set(kept)) < len(kept):
            reasons.append(f"{t['task']}: two seeds have the same predictions; submit what does not depend on its seed with one")
    for key, value in [("model.hash", s["model"]["hash"]), *((f"{t['task']}: data_hash", t["data_hash"]) for t in s["tasks"])]:
        if value and (len(set(value)) < 8 or value == EMPTY):
            reasons.append(f"{key} is {value[:12]}..., which is the SHA-256 of no file")
    for t in s["tasks"]:
        if (wanted := n_test.get(t["task"])) and t["n_test"] != wanted:
            reasons.append(f"{t['task']}: n_test is {t['n_test']}, the card's test part has {wanted} examples")
    if s["versions"].get("bmfm") is None:
        reasons.append("versions.bmfm is missing; the runner writes it")
    return reasons


def _perfect(metric: str) -> float:
    return METRICS[metric].high if METRICS[metric].more_is_better else METRICS[metric].low


def _dates(s: Mapping, now: datetime) -> list[str]:
    text = s["date"]
    try:
        day = datetime.fromisoformat(text).date() if len(text) > 7 else date.fromisoformat(f"{text}-01")
    except ValueError:
        return [f"date is {text!r}, which is no day of the calendar; write it as 2026-01-31"]
    if day > (now + timedelta(days=1)).date():
        return [f"date is {text}, which is yet to come"]
    first = BEGAN if s["status"] != "reported" else date(1990, 1, 1)
    return [f"date is {text}, before there was anything to run ({first})"] if day < first else []


def _texts(s: Mapping) -> list[str]:
    """Names and contacts are ASCII without double or outer spaces: what looks alike is then alike, and nothing is invisible."""
    reasons = []
    for key, value in (("model.name", s["model"]["name"]), ("contact", s["contact"])):
        if value is not None and (not value.isascii() or value != " ".join(value.split()) or not re.search("[A-Za-z0-9]", value)):
            reasons.append(f"{key} is {value!r:.60}; use the letters, digits and signs of ASCII, with single spaces between words")
    citation = s["model"]["citation"]
    if citation is not None and not re.search("[A-Za-z0-9]", citation):
        reasons.append(f"model.citation is {citation!r:.60}, which names no work")
    return reasons


def skeleton(name: str) -> str:
    """What of a name meets the eye: without case, spaces and signs, with one letter for each group of letters that look alike."""
    plain = re.sub("[^a-z0-9]", "", name.replace("I", "l").lower())
    return plain.replace("1", "l").replace("i", "l").replace("0", "o").replace("5", "s").replace("rn", "m").replace("vv", "w")


def among(submissions: Sequence[Mapping], new: Container[str] = ()) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Submissions of one suite beside one another; the earlier of two has the right to a name and to figures.

    Parameters
    ----------
    new
        Digests of those that are being submitted: they come last, whatever date they bear.

    Returns
    -------
    dict, dict
        Reasons to refuse, and names of those who repeated it, both by digest. A repetition is a submission by another contact
        of the same weights, used in the same way, each of whose means lies within the other's interval; where the seed
        plays a part, its predictions must be others.
    """
    refused: dict[str, str] = {}
    repeated: dict[str, list[str]] = {}
    ordered = sorted((s for s in submissions if s["status"] != "reported"), key=lambda s: (s["digest"] in new, s["date"], s["digest"]))
    for earlier, later in combinations(ordered, 2):
        if later["digest"] in refused or earlier["digest"] in refused:
            continue
        if repeats(earlier, later):
            repeated.setdefault(earlier["digest"], []).append(later["contact"])
            repeated.setdefault(later["digest"], []).append(earlier["contact"])
            continue
        if (near := _distance(earlier, later)) is not None:
            named = f"{earlier['model']['name']} ({earlier['mode']}) of {earlier['date'][:10]}"
            refused[later["digest"]] = (
                f"its figures are those of {named} {near}; a repetition has another contact, the same weights and mode"
            )
        elif earlier["model"]["hash"] != later["model"]["hash"] and _look_alike(earlier, later):
            refused[later["digest"]] = (
                f"its name {later['model']['name']!r} looks like {earlier['model']['name']!r} of {earlier['date'][:10]}, which has other weights"
            )
    return refused, repeated


def _look_alike(a: Mapping, b: Mapping) -> bool:
    return a["mode"] == b["mode"] and skeleton(a["model"]["name"]) == skeleton(b["model"]["name"])


def repeats(a: Mapping, b: Mapping) -> bool:
    """Whether one is the other run again by somebody else, with the same outcome."""
    contacts = a["contact"], b["contact"]
    if None in contacts or skeleton(contacts[0]) == skeleton(contacts[1]):
        return False
    if (a["model"]["hash"], a["mode"]) != (b["model"]["hash"], b["mode"]):
        return False
    ours, theirs = ({t["task"]: t for t in s["tasks"]} for s in (a, b))
    if set(ours) != set(theirs) or not ours:
        return False
    for task, one in ours.items():
        other = theirs[task]
        if one["data_hash"] != other["data_hash"] or None in (one["low"], other["low"]):
            return False
        if not (one["low"] <= other["mean"] <= one["high"] and other["low"] <= one["mean"] <= other["high"]):
            return False
        kept = [{x["predictions"] for x in t["seeds"]} for t in (one, other)]
        if None in kept[0] | kept[1] or (not one["deterministic"] and kept[0] & kept[1]):
            return False
    return True


def _distance(a: Mapping, b: Mapping) -> str | None:
    """How two submissions are one, in words; None where they are two."""
    runs = [{(t["task"], x["seed"]): x for t in s["tasks"] for x in t["seeds"]} for s in (a, b)]
    if not runs[0] or set(runs[0]) != set(runs[1]):
        return None
    pairs = [(runs[0][k], runs[1][k]) for k in runs[0]]
    if all(x["predictions"] and x["predictions"] == y["predictions"] for x, y in pairs):
        return "by the same predictions"
    apart = max(abs(x["value"] - y["value"]) for x, y in pairs)
    if apart <= SAME:
        return "to the last digit"
    return f"within {apart:.1g} in all {len(pairs)} runs" if apart <= NEAR and len(pairs) >= MANY else None
