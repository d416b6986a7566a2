"""A suite as the leaderboard sees it, and what is known of the submissions to it."""

from collections.abc import Container, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bmfm.evaluation.predictions import alike, compare
from bmfm.evaluation.standing import among
from bmfm.evaluation.submission import check, read


class Board(NamedTuple):
    """A suite, as the leaderboard sees it, by task: metric, omics, SHA-256 of the data and examples of the test part (where known)."""

    name: str
    title: str
    metrics: dict[str, str]
    omics: dict[str, str]
    hashes: dict[str, str]
    n_test: dict[str, int] = {}  # noqa: RUF012
    cards: tuple = ()


@cache
def read_board(suite: str) -> Board:
    """The board of a suite; ValueError where there is no such suite."""
    from bmfm.evaluation.tasks import known_hash, read_suite, read_task

    found = read_suite(suite)
    cards = [read_task(task, ["checkpoint=none"]) for task in found.tasks]
    hashes = {c.name: h for c in cards if (h := known_hash(c))}
    n_test = {c.name: n for c in cards if (n := _n_test(c))}
    return Board(suite, found.title, {c.name: c.metric for c in cards}, {c.name: c.omics for c in cards}, hashes, n_test, tuple(cards))


def _n_test(card) -> int | None:
    """Rows of the one file of a card that is its test part, where there is such a file."""
    rows = [f.rows for f in card.files if Path(f.path).name.split(".")[0] == "test"]
    return rows[0] if len(rows) == 1 and len(card.files) > 1 else None


class Inspected(NamedTuple):
    """A submission in a file: its content, every reason why it is invalid, and what is known of its predictions."""

    submission: dict
    reasons: list[str]
    evidence: str = ""


def inspect(file: Path, data_root: str | Path = "data") -> Inspected:
    """Read and check one file; its scores are computed again from the predictions beside it, where they and the data are here."""
    try:
        submission = read(file)
    except OSError as error:
        return Inspected({}, [f"{file}: cannot be read: {error.strerror}"])
    except ValueError as error:
        return Inspected({}, [str(error)])
    suite = submission.get("suite") if isinstance(submission, dict) else None
    try:
        board = read_board(suite) if isinstance(suite, str) else None
    except ValueError as error:
        return Inspected(submission, [f"suite: {error}"])
    if board is None:
        return Inspected(submission, check(submission, {}))
    reasons = check(submission, board.metrics, board.hashes, board.n_test, {c.name: c.protocol for c in board.cards})
    if reasons or submission["status"] == "reported":
        return Inspected(submission, reasons)
    more, evidence = compare(submission, file.with_suffix(".npz"), board.cards, data_root)
    return Inspected(submission, more, evidence)


class Entry(NamedTuple):
    """A valid submission and what is known of it."""

    submission: dict
    evidence: str = ""
    repeated_by: tuple[str, ...] = ()

    @property
    def verified(self) -> bool:
        """Whether its scores follow from its predictions, or somebody else found the same."""
        return self.evidence == "recomputed" or bool(self.repeated_by)

    @property
    def words(self) -> list[tuple[str, bool]]:
        """What is known, in words, each with whether it speaks for the figures."""
        if self.submission["status"] == "reported":
            return [("reported", False)]
        repeated = (f"repeated by {', '.join(self.repeated_by)}", True) if self.repeated_by else ("submitted, not repeated", False)
        recomputed = self.evidence == "recomputed"
        return [repeated, ("scores recomputed from its predictions" if recomputed else self.evidence, recomputed)]


def gather(files: Sequence[Path], data_root: str | Path, new: Container[Path] = ()) -> tuple[dict[Path, Entry], dict[Path, list[str]]]:
    """The valid submissions of files, and the reasons against the others, each looked at by itself and beside the rest.

    Where two are one, that of the `new` files is refused, else the later one.
    """
    refused: dict[Path, list[str]] = {}
    found: dict[Path, Inspected] = {}
    seen: dict[str, Path] = {}
    for file in sorted(files, key=lambda file: (file in new, file)):
        found[file] = inspect(file, data_root)
        reasons, digested = found[file].reasons, found[file].submission.get("digest") if not found[file].reasons else None
        if not reasons and digested in seen:
            reasons = [f"the same submission as {seen[digested]}; keep one"]
        if reasons:
            refused[file] = reasons
        else:
            seen[str(digested)] = file
    valid = {file: one for file, one in found.items() if file not in refused}
    entries: dict[Path, Entry] = {}
    for suite in {one.submission["suite"] for one in valid.values()}:
        here = {file: one for file, one in valid.items() if one.submission["suite"] == suite}
        numbers = {one.submission["digest"] for file, one in here.items() if file in new}
        places = {one.submission["digest"]: file.with_suffix(".npz") for file, one in here.items()}
        again, repeated = among(
            [one.submission for one in here.values()],
            numbers,
            lambda a, b: a["mode"] == b["mode"] and a["contact"] != b["contact"] and alike(a, places[a["digest"]], b, places[b["digest"]]),  # noqa: B023
        )
        for file, one in here.items():
            number = one.submission["digest"]
            if number in again:
                refused[file] = [again[number]]
            else:
                entries[file] = Entry(one.submission, one.evidence, tuple(dict.fromkeys(repeated.get(number, ()))))
    return entries, refused
