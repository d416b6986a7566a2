"""The same targets for an hour, each in a process of its own, so that a crash in C is seen: ``pytest -n 0 -m slow tests/fuzz``.

``BMFM_FUZZ_SECONDS`` is the time of all runs together, 3600 by default, and ``BMFM_FUZZ_SEED`` the number of the first case, else the clock.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

pytestmark = pytest.mark.slow
KERNELS = ["bcf", "bed", "fasta", "h5ad", "scored", "vcf"]
"""Targets whose readers have kernels of ours: with bounds that are checked, what reads beyond an array is an error, not luck."""
GUIDED = ["bed", "h5ad", "overrides", "pickled", "scored", "table"]
"""Targets whose branches are in Python, which atheris sees."""
SHARE = float(os.environ.get("BMFM_FUZZ_SECONDS", 3600)) / (len(TARGETS) + len(KERNELS) + len(GUIDED))


def fuzz(name: str, folder: Path, *options: str, **environment: str) -> None:
    running, seed = folder / "running", os.environ.get("BMFM_FUZZ_SEED") or str(int(time.time()))
    command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", str(SHARE), "--seed", seed, "--running", str(running), *options]
    result = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=SHARE + 1200)
    reports = [json.loads(line) for line in result.stdout.splitlines() if line.startswith('{"target"')]
    case = running.read_bytes().hex() if "atheris" in options else running.read_text()
    assert reports, f"{name}: status {result.returncode} at case {case}: {result.stderr[-3000:]}"
    print(json.dumps(reports[0] | {"faults": len(reports[0]["faults"])}))
    assert not reports[0]["faults"], json.dumps(reports[0]["faults"], indent=1)
    assert result.returncode == 0 and reports[0]["read"]


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_targets(name, tmp_path):
    fuzz(name, tmp_path)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_with_bounds_checked(name, tmp_path):
    fuzz(name, tmp_path, NUMBA_BOUNDSCHECK="1", NUMBA_CACHE_DIR=str(tmp_path / "numba"))


@pytest.mark.parametrize("name", GUIDED)
def test_guided_by_coverage(name, tmp_path):
    pytest.importorskip("atheris")
    fuzz(name, tmp_path, "--engine", "atheris")
