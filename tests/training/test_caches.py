"""Caches that cannot be written, and that several jobs fill at once."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bmfm
from bmfm.files import cached_folder
from tests.conftest import SLICE_FASTA, SLICE_VCF

BUILD = f"""
import sys, time
from pathlib import Path
import filelock
if "no locks" in sys.argv:  # as on some network drives
    filelock.FileLock.acquire = lambda self: None
    filelock.FileLock.release = lambda self: None
from bmfm.genome.reference import Reference
from bmfm.genome.variants import VariantTable
Path(sys.argv[1]).touch()
while not Path(sys.argv[2]).exists():
    time.sleep(0.001)
reference = Reference.from_fasta({str(SLICE_FASTA)!r})
print(len(VariantTable.from_vcf({str(SLICE_VCF)!r}, reference)))
"""


def test_a_cache_that_cannot_be_written_is_named_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("BMFM_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"the cache folder .*file/cache cannot be written .*BMFM_CACHE=FOLDER"):
        cached_folder("kind", {"a": 1}, lambda folder: None)


def stores(cache: Path) -> dict[str, str]:
    """SHA-256 of every file that was built."""
    files = (f for f in cache.rglob("*") if f.is_file() and not f.name.endswith(".lock"))
    return {str(f.relative_to(cache)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def build_together(folder: Path, n: int, *more: str) -> tuple[dict[str, str], set[str]]:
    """What n processes that begin at once leave in a new cache, and what they said."""
    environment = os.environ | {"BMFM_CACHE": str(folder / "cache")}
    folder.mkdir()
    started = [folder / f"ready{i}" for i in range(n)]
    processes = [
        subprocess.Popen([sys.executable, "-c", BUILD, ready, folder / "go", *more], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for ready in started
    ]  # fmt: skip
    while not all(ready.exists() for ready in started) and all(p.poll() is None for p in processes):
        pass
    (folder / "go").touch()
    said = [process.communicate(timeout=120) for process in processes]
    assert not any(process.returncode for process in processes), said
    return stores(folder / "cache"), {out for out, _ in said}


@pytest.mark.slow
def test_jobs_that_build_one_store_at_once(tmp_path):
    """Each gets what a job alone builds, byte for byte, also where locks mean nothing; nothing else is left."""
    alone = build_together(tmp_path / "alone", 1)
    assert len(alone[0]) > 4
    assert build_together(tmp_path / "together", 4) == alone
    assert build_together(tmp_path / "without_locks", 4, "no locks") == alone


@pytest.mark.slow
@pytest.mark.parametrize("cache", [None, "cache"])
def test_a_package_and_a_home_that_are_read_only(tmp_path, cache):
    """Kernels are compiled all the same, and what cannot be kept names the variable to set."""
    if os.geteuid() or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("mounts need root")
    package, home = Path(bmfm.__file__).parent, tmp_path / "home"
    home.mkdir()
    read_only = " && ".join(f"mount --bind {f} {f} && mount -o remount,ro,bind {f}" for f in (package, home))
    unset = "env -u BMFM_CACHE -u XDG_CACHE_HOME -u NUMBA_CACHE_DIR"
    chosen = f"BMFM_CACHE={tmp_path / cache}" if cache else ""
    (tmp_path / "go").touch()
    command = f"{read_only} && {unset} HOME={home} {chosen} {sys.executable} - {tmp_path / 'ready'} {tmp_path / 'go'}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", command], input=BUILD, capture_output=True, text=True, check=False)
    if cache:
        assert done.returncode == 0, done.stderr[-2000:]
        assert list((tmp_path / cache / "numba").rglob("*.nbc"))
    else:
        assert done.returncode and "BMFM_CACHE=FOLDER" in done.stderr.splitlines()[-1], done.stderr[-2000:]
