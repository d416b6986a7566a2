"""Fuzz a target for some time: ``python -m tests.fuzz vcf --seconds 600``; ``--case N`` runs one case again.

Prints one line of JSON: how many files were made, how many of them were read and how many refused, and each fault once with the
number of its case. The number of the case that runs is in the file ``--running``, so that a crash in C is found again. Memory is
limited, so that what asks for more than the file has is an error. With ``--engine atheris`` (its package must be installed), choices
are guided by the branches that they reach.
"""

import argparse
import contextlib
import faulthandler
import json
import os
import re
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random

SECONDS = 20.0
"""Of the processor, for one case; ten times as many on the clock end the process."""
ROOM = 3 << 30
"""Bytes that a reader may ask for beyond what is there when it begins."""


class Bytes(Random):
    """Choices by the bytes of atheris; where these end, zeros."""

    def __new__(cls, data: bytes):
        return super().__new__(cls)

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def getrandbits(self, k: int) -> int:
        n = -(-k // 8)
        part = self.data[self.at : self.at + n]
        self.at += n
        return int.from_bytes(part, "little") & ((1 << k) - 1)

    def random(self) -> float:
        return self.getrandbits(53) / (1 << 53)


class Record:
    """What came of the cases so far."""

    def __init__(self) -> None:
        self.counts = {"executions": 0, "read": 0, "refused": 0}
        self.faults: dict[str, dict] = {}

    def run(self, target, random: Random, case: object, seconds: float) -> None:
        from tests.fuzz.harness import Hang
        from tests.fuzz.harness import run as run_case

        self.counts["executions"] += 1
        faulthandler.dump_traceback_later(10 * seconds, exit=True)  # a hang in C
        try:
            self.counts["read" if run_case(target, random, seconds) else "refused"] += 1
        except (Exception, Hang) as error:
            root = error.__cause__ or error
            frames = [f for f in traceback.extract_tb(root.__traceback__) if "/bmfm/" in f.filename]
            where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
            kind = f"{type(root).__name__} {where} {re.sub(r'[0-9]+|/[^ ]*', '', str(error))[:90]}"
            fault = self.faults.setdefault(
                kind, {"n": 0, "case": str(case), "where": where, "error": f"{type(error).__name__}: {str(error)[:600]}"}
            )
            fault["n"] += 1
        finally:
            faulthandler.cancel_dump_traceback_later()


def limit_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() if Path("/proc/self/statm").exists() else 1 << 36
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))


def loop(target, seconds: float, seed: int, running: Path | None, record: Record) -> None:
    end, case = time.monotonic() + seconds, seed
    while time.monotonic() < end:
        if running:
            running.write_text(str(case))
        record.run(target, Random(case), case, SECONDS)
        case += 1


def guided(target, seconds: float, running: Path | None, record: Record, report: Callable[[], None]) -> None:
    import atheris

    end = time.monotonic() + seconds

    def one(data: bytes) -> None:
        if time.monotonic() > end:  # libFuzzer would end the process without a word
            report()
            os._exit(bool(record.faults))
        if running:
            running.write_bytes(data)
        record.run(target, Bytes(data), data.hex(), SECONDS)

    atheris.Setup([sys.argv[0], "-max_len=256", "-len_control=0", "-verbosity=0", "-print_final_stats=0"], one)
    with contextlib.suppress(SystemExit):
        atheris.Fuzz()


def find(name: str, is_guided: bool):
    """A target by its name; for atheris modules of ours are instrumented, but those with kernels, which numba reads."""
    if not is_guided:
        from tests.fuzz.targets import TARGETS

        return TARGETS[name]
    import atheris

    import bmfm

    package = Path(bmfm.__file__).parent
    modules = {".".join(("bmfm", *f.relative_to(package).with_suffix("").parts)) for f in package.rglob("*.py") if "numba" in f.read_text()}
    with atheris.instrument_imports(include=["bmfm"], exclude=sorted(modules)):
        from tests.fuzz.targets import TARGETS

    return TARGETS[name]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("target")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0, help="number of the first case")
    parser.add_argument("--case", help="run this case alone, and show what it raises")
    parser.add_argument("--engine", choices=["random", "atheris"], default="random")
    parser.add_argument("--running", type=Path, help="file that says which case runs")
    options = parser.parse_args()
    target, record = find(options.target, options.engine == "atheris"), Record()
    if options.case is not None:
        from tests.fuzz.harness import run as run_case

        random = Bytes(bytes.fromhex(options.case)) if options.engine == "atheris" else Random(int(options.case))
        print("read" if run_case(target, random) else "refused")
        return 0
    record.run(target, Random(options.seed), options.seed, 600.0)  # imports and kernels, before memory is limited
    limit_memory()
    began = time.monotonic()

    def report() -> None:
        seconds = round(time.monotonic() - began, 1)
        print(json.dumps({"target": options.target, "engine": options.engine, "seconds": seconds, **record.counts, "faults": list(record.faults.values())}), flush=True)  # fmt: skip

    if options.engine == "atheris":
        guided(target, options.seconds, options.running, record, report)
    else:
        loop(target, options.seconds, options.seed, options.running, record)
        report()
    return bool(record.faults)


if __name__ == "__main__":
    sys.exit(main())
