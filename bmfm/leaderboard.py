"""Make, check and show submissions to the leaderboard: ``python -m bmfm.leaderboard submit RESULTS.json ...``, ``check FILE...``, ``sign FILE...``, ``build FOLDER``."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bmfm.cli import exit_status
from bmfm.evaluation.leaderboard.board import read_board
from bmfm.evaluation.leaderboard.check import check
from bmfm.evaluation.leaderboard.entries import gather
from bmfm.evaluation.leaderboard.predictions import of_record, write
from bmfm.evaluation.leaderboard.site import build
from bmfm.evaluation.leaderboard.submission import digest, make_submission, own_splits, read
from bmfm.evaluation.report.comparison import MODES


def _complaints(refused: Mapping[Path, Sequence[str]]) -> Iterator[str]:
    for file, reasons in refused.items():
        yield from (f"{file}: {why.removeprefix(f'{file}: ')}" for why in reasons)


def _submit(arguments: argparse.Namespace) -> int:
    results = json.loads(arguments.results.read_text(encoding="utf-8"))
    if not isinstance(results, dict) or not {"suite", "records"} <= set(results):
        raise ValueError(f"{arguments.results} has no suite and records; give the results.json that a benchmark run left")
    used = [r for r in own_splits(results["records"]) if (r["model"], r["mode"]) == (arguments.model, arguments.mode)]
    kept = {(r["task"], r["seed"]): p for r in used if (p := of_record(r, arguments.results.parent / "jobs")) is not None}
    about = {"url": arguments.url, "citation": arguments.citation, "contact": arguments.contact}
    submission = make_submission(results, arguments.model, arguments.mode, predictions=kept, **about)
    if reasons := check(submission, read_board(submission["suite"])):
        print(*_complaints({arguments.results: reasons}), sep="\n", file=sys.stderr)
        return 1
    arguments.output.write_text(json.dumps(submission, indent=1) + "\n", encoding="utf-8")
    print(f"{arguments.output}: {arguments.model} ({arguments.mode}) on {len(submission['tasks'])} tasks of {submission['suite']}")
    file = arguments.output.with_suffix(".npz")
    if kept:
        write(file, kept)
        print(f"{file}: predictions of {len(kept)} runs, {file.stat().st_size / 1e6:.1f} MB")
    if lost := sorted({r["task"] for r in used if (r["task"], r["seed"]) not in kept}):
        print(f"without predictions, so that scores cannot be computed again: {', '.join(lost)}")
    return 0


def _sign(arguments: argparse.Namespace) -> int:
    for file in arguments.files:
        content = read(file)
        if not isinstance(content, dict) or content.get("status") != "reported":
            raise ValueError(f"{file}: status is not reported; submissions of runs are made by submit, from results.json")
        file.write_text(json.dumps(content | {"digest": digest(content)}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return _check(arguments)


def _check(arguments: argparse.Namespace) -> int:
    arguments.files = [f for f in arguments.files if f.suffix != ".npz"]
    others = {f for file in arguments.files for f in (arguments.beside or file.parent).rglob("*.json")}
    entries, refused = gather(
        list({f.resolve(): f for f in [*others, *arguments.files]}.values()), arguments.data_root, set(arguments.files)
    )
    bad = {file: refused[file] for file in arguments.files if file in refused}
    print(
        *_complaints(bad),
        *(f"{file}: valid; {'; '.join(w for w, _ in entries[file].words)}" for file in arguments.files if file in entries),
        sep="\n",
    )
    return int(bool(bad))


def _build(arguments: argparse.Namespace) -> int:
    index, refused = build(arguments.folder, arguments.output, arguments.data_root)
    print(*_complaints(refused), f"{index}: written" + (f", without {len(refused)} invalid" if refused else ""), sep="\n")
    return int(bool(refused))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; status 1 where a submission is invalid, 2 where the command cannot be run."""
    parser = argparse.ArgumentParser(prog="python -m bmfm.leaderboard", description="Make, check and show submissions.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    submit = commands.add_parser("submit", help="make a submission from a run's results")
    submit.add_argument("results", type=Path, metavar="RESULTS.json")
    submit.add_argument("--model", required=True, help="as in the report")
    submit.add_argument("--mode", required=True, choices=MODES)
    for name, what in (("url", "where the model is"), ("citation", "work to cite"), ("contact", "whom to ask")):
        submit.add_argument(f"--{name}", help=what)
    submit.add_argument("--output", type=Path, default=Path("submission.json"))
    submit.set_defaults(run=_submit)
    checked = commands.add_parser("check", help="say why submissions are invalid")
    checked.add_argument("files", type=Path, nargs="+", metavar="FILE")
    checked.add_argument("--beside", type=Path, help="folder of submissions that the files must differ from; their own by default")
    checked.set_defaults(run=_check)
    signed = commands.add_parser("sign", help="write the digest of reported submissions, which are written by hand, and check them")
    signed.add_argument("files", type=Path, nargs="+", metavar="FILE")
    signed.set_defaults(run=_sign, beside=None, data_root="data")
    built = commands.add_parser("build", help="write the site from the submissions below a folder")
    built.add_argument("folder", type=Path)
    built.add_argument("--output", type=Path, default=Path("site"))
    built.set_defaults(run=_build)
    for command in (checked, built):
        where = os.environ.get("BMFM_DATA", "data")
        command.add_argument(
            "--data-root", type=Path, default=Path(where), help="data of the tasks: where they are, scores are computed again"
        )
    parsed = parser.parse_args(arguments)
    return exit_status(lambda: parsed.run(parsed))


if __name__ == "__main__":
    sys.exit(main())
