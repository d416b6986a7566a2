"""What can be known of a submission without trusting it: whether it is possible, whether it is another one again, who repeated it."""

import re
from collections.abc import Callable, Container, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import combinations

from bmfm import __version__
from bmfm.evaluation.leaderboard.board import Board
from bmfm.metrics import Metric

FIRST_RUN = date(2026, 1, 1)
"""Nothing was run by this package before."""
SAME = 1e-6
NEAR = 2e-3
"""Figures of two works that are this close in every one of `MANY` runs were not measured twice."""
MANY = 6
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""SHA-256 of nothing."""
PARAMETERS = 1_000, 10**13
"""Fewest and most parameters that a model has."""
CLAIMS = re.compile("repeated|verified|submitted|recomputed|measured|reported", re.IGNORECASE)
"""Words that stand beside a name for what is known of its figures: no name says them of itself."""


def impossible(s: Mapping, board: Board, now: datetime | None = None) -> list[str]:
    """Reasons why no run can have left these figures; of figures that are reported, dates and names alone.

    Parameters
    ----------
    s
        A submission of the right form.
    board
        Of its suite.
    now
        The present; a moment of the past in tests.
    """
    reasons = [*_dates(s, now or datetime.now(UTC)), *_texts(s)]
    if s["status"] == "reported":
        return reasons
    seeds = [(t, [x["value"] for x in t["seeds"]]) for t in s["tasks"]]
    drawn = [(t, values) for t, values in seeds if len(values) > 1]
    if seeds and all(_is_perfect(board.described[t["metric"]], v) for t, values in seeds for v in values):
        reasons.append("every score of every task is perfect, which nothing that was trained on other examples reaches")
    elif drawn and all(max(values) - min(values) <= SAME * max(map(abs, values)) for _, values in drawn):
        reasons.append("every seed of every task has the same score to the last digit: its seeds are copies of one run")
    for t, _ in drawn:
        kept = [x["predictions"] for x in t["seeds"] if x["predictions"]]
        if len(set(kept)) < len(kept):
            reasons.append(f"{t['task']}: two seeds have the same predictions; submit what does not depend on its seed with one")
    hashes = [("model.hash", s["model"]["hash"]), *((f"{t['task']}: data_hash", t["data_hash"]) for t in s["tasks"])]
    hashes += [(f"{t['task']}: predictions of seed {x['seed']}", x["predictions"]) for t in s["tasks"] for x in t["seeds"]]
    for key, value in hashes:
        if value and (len(set(value)) < 8 or value == EMPTY or value in (value + value)[1:-1]):  # the last: blocks that recur
            reasons.append(f"{key} is {value[:12]}..., which is the SHA-256 of no file")
    reasons += _mode_reasons(s, board)
    for t in s["tasks"]:
        if (n_test := board.n_test.get(t["task"])) and t["n_test"] != n_test:
            reasons.append(f"{t['task']}: n_test is {t['n_test']}, the task's test part has {n_test} examples")
    return reasons + _versions(s)


def _is_perfect(metric: Metric, value: float) -> bool:
    """Whether a score is the best there is; an error, which has a unit, is it at exactly 0."""
    return value >= metric.high - SAME if metric.more_is_better else value <= metric.low


def _mode_reasons(s: Mapping, board: Board) -> list[str]:
    """Whether the mode can score these tasks, and is one of such a model."""
    size, mode = s["model"]["parameters"], s["mode"]
    unable = [t["task"] for t in s["tasks"] if mode not in board.modes.get(t["task"], (mode,))]
    reasons = [f"{name}: {mode} cannot have scored it; its protocol is for {', '.join(board.modes[name])}" for name in unable[:1]]
    if mode == "baseline" and size is not None:
        reasons.append(f"model.parameters is {size}, a baseline has none; write null, or the mode it was run in")
    elif size is not None and not PARAMETERS[0] <= size <= PARAMETERS[1]:
        reasons.append(f"model.parameters is {size:.3g}, which no model has; write their number, or null")
    return reasons


def _versions(s: Mapping) -> list[str]:
    """Whether the package could have been what ran it."""
    reasons, version, commit = [], s["versions"].get("bmfm"), s["commit"]
    if version is None:
        reasons.append("versions.bmfm is missing; the runner writes it")
    elif not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,4}){1,3}", version) or _numbers(version) > _numbers(__version__):
        reasons.append(f"versions.bmfm is {version!r:.60}, which is no version up to the present {__version__}; the runner writes it")
    if commit is not None and not re.fullmatch("[0-9a-f]{7,40}(, [0-9a-f]{7,40})*", commit):
        reasons.append(f"commit is {commit!r:.60}, which is none of git's (7 to 40 of 0-9a-f, several with commas); the runner writes it")
    return reasons


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in version.split("."))


def _dates(s: Mapping, now: datetime) -> list[str]:
    text = s["date"]
    try:
        day = datetime.fromisoformat(text).date() if len(text) > 7 else date.fromisoformat(f"{text}-01")
    except ValueError:
        return [f"date is {text!r}, which is no day of the calendar; write it as 2026-01-31"]
    if day > (now + timedelta(days=1)).date():
        return [f"date is {text}, which is yet to come"]
    first = FIRST_RUN if s["status"] != "reported" else date(1990, 1, 1)
    return [f"date is {text}, before there was anything to run ({first})"] if day < first else []


def _texts(s: Mapping) -> list[str]:
    """Names and contacts are ASCII without double or outer spaces: what looks alike is then alike, and nothing is invisible."""
    reasons = []
    for key, value in (("model.name", s["model"]["name"]), ("contact", s["contact"])):
        if value is not None and (not value.isascii() or value != " ".join(value.split()) or not re.search("[A-Za-z0-9]", value)):
            reasons.append(f"{key} is {value!r:.60}; use the letters, digits and signs of ASCII, with single spaces between words")
    if claim := CLAIMS.search(s["model"]["name"]):
        reasons.append(f"model.name says {claim[0]!r}, which the leaderboard says of figures itself; name the model alone")
    citation = s["model"]["citation"]
    if citation is not None and not re.search("[A-Za-z0-9]", citation):
        reasons.append(f"model.citation is {citation!r:.60}, which names no work")
    return reasons


def skeleton(name: str) -> str:
    """What of a name meets the eye: without case, spaces and signs, with one letter for each group of letters that look alike."""
    plain = re.sub("[^a-z0-9]", "", name.replace("I", "l").lower())
    return plain.replace("1", "l").replace("i", "l").replace("0", "o").replace("5", "s").replace("rn", "m").replace("vv", "w")


def among(
    submissions: Sequence[Mapping], new: Container[str] = (), alike: Callable[[Mapping, Mapping], bool] = lambda a, b: False
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Submissions of one suite beside one another; the earlier of two has the right to a name and to figures.

    Parameters
    ----------
    new
        Digests of those that are being submitted: they come last, whatever date they bear.
    alike
        Whether two have all but the same predictions, as far as these are at hand.

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
        again = repeats(earlier, later)
        near = None if again else _distance(earlier, later)
        if near is None and alike(earlier, later):
            near = "by all but the same predictions"
        if near is None and again:
            continue
        if near is not None:
            named = f"{earlier['model']['name']} ({earlier['mode']}) of {earlier['date'][:10]}"
            refused[later["digest"]] = (
                f"its figures are those of {named} {near}; a repetition has another contact, the same weights and mode"
            )
        elif earlier["model"]["hash"] != later["model"]["hash"] and _look_alike(earlier, later):
            refused[later["digest"]] = (
                f"its name {later['model']['name']!r} looks like {earlier['model']['name']!r} of {earlier['date'][:10]}, which has other weights"
            )
    for earlier, later in combinations([s for s in ordered if s["digest"] not in refused], 2):
        if repeats(earlier, later):
            repeated.setdefault(earlier["digest"], []).append(later["contact"])
            repeated.setdefault(later["digest"], []).append(earlier["contact"])
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
    drawn = [task for task, one in ours.items() if not (one["deterministic"] and theirs[task]["deterministic"])]
    if drawn and all(_apart(ours[task], theirs[task]) <= SAME for task in drawn):  # no chance draws the same twice
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
    """How two submissions are one, in words; None where they are two.

    Seeds are names that anyone can give: what is compared is what each task's runs predicted and scored, in any order, and
    runs beside those of the other submission do not make it another.
    """
    ours, theirs = ({t["task"]: t for t in s["tasks"]} for s in (a, b))
    if set(ours) != set(theirs) or not any(t["seeds"] for t in ours.values()):
        return None
    pairs = [(ours[task], theirs[task]) for task in ours]
    kept = [[{x["predictions"] for x in t["seeds"]} - {None} for t in pair] for pair in pairs]
    if all(one & other for one, other in kept):
        return "by the same predictions"
    if max(_apart(*pair) for pair in pairs) <= SAME:
        return "to the last digit"
    values = [[sorted(x["value"] for x in t["seeds"]) for t in pair] for pair in pairs]
    runs = [(x, y) for one, other in values if len(one) == len(other) for x, y in zip(one, other, strict=True)]
    whole = all(len(one) == len(other) for one, other in values)
    apart = max((abs(x - y) for x, y in runs), default=0.0)
    return f"within {apart:.1g} in all {len(runs)} runs" if whole and apart <= NEAR and len(runs) >= MANY else None


def _apart(a: Mapping, b: Mapping) -> float:
    """How far the scores of a task lie from the nearest of another submission that has as many or more."""
    one, other = sorted(([x["value"] for x in t["seeds"]] for t in (a, b)), key=len)
    return max((min(abs(x - y) for y in other) for x in one), default=0.0)
