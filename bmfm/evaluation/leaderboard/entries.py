"""What is known of the submissions in files, each looked at by itself and beside the others."""

from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bmfm.evaluation.leaderboard.board import Board, read_board
from bmfm.evaluation.leaderboard.check import check
from bmfm.evaluation.leaderboard.predictions import alike
from bmfm.evaluation.leaderboard.recompute import compare
from bmfm.evaluation.leaderboard.standing import among
from bmfm.evaluation.leaderboard.submission import read


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
        board = read_board(suite) if isinstance(suite, str) else Board("", "", {}, {})
    except ValueError as error:
        return Inspected(submission, [f"suite: {error}"])
    reasons = check(submission, board)
    if reasons or submission["status"] == "reported":
        return Inspected(submission, reasons)
    more, evidence = compare(submission, file.with_suffix(".npz"), board.tasks, data_root)
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
    valid: dict[Path, Inspected] = {}
    file_of: dict[str, Path] = {}
    for file in sorted(files, key=lambda file: (file in new, file)):
        inspected = inspect(file, data_root)
        reasons, digest = inspected.reasons, str(inspected.submission.get("digest")) if not inspected.reasons else ""
        if digest in file_of:
            reasons = [f"the same submission as {file_of[digest]}; keep one"]
        if reasons:
            refused[file] = reasons
        else:
            file_of[digest], valid[file] = file, inspected
    entries: dict[Path, Entry] = {}
    for suite in {inspected.submission["suite"] for inspected in valid.values()}:
        of_suite = {file: inspected for file, inspected in valid.items() if inspected.submission["suite"] == suite}
        again, repeated_by = _beside_one_another(of_suite, new)
        refused |= {file: [why] for file, why in again.items()}
        for file, inspected in of_suite.items():
            if file not in again:
                entries[file] = Entry(inspected.submission, inspected.evidence, tuple(dict.fromkeys(repeated_by.get(file, ()))))
    return entries, refused


def _beside_one_another(of_suite: dict[Path, Inspected], new: Container[Path]) -> tuple[dict[Path, str], dict[Path, list[str]]]:
    """Why submissions of one suite are refused, and who repeated them, by file; see `standing.among`."""
    file_of = {inspected.submission["digest"]: file for file, inspected in of_suite.items()}

    def are_alike(a: Mapping, b: Mapping) -> bool:
        places = (file_of[s["digest"]].with_suffix(".npz") for s in (a, b))
        return a["mode"] == b["mode"] and a["contact"] != b["contact"] and alike(a, next(places), b, next(places))

    new_digests = {digest for digest, file in file_of.items() if file in new}
    again, repeated_by = among([inspected.submission for inspected in of_suite.values()], new_digests, are_alike)
    return {file_of[d]: why for d, why in again.items()}, {file_of[d]: names for d, names in repeated_by.items()}
