"""Shards that many processes work on: each is finished once, whole, whoever dies when."""

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from bmfm import ledger as module
from bmfm.launch import LocalPool, Ray, n_threads, share
from bmfm.ledger import Ledger

N = 24


def square(ledger, log, seconds=0.02):
    """Work on N shards; each process writes down what it computes."""

    def compute(number):
        with log.open("a") as file:
            file.write(f"{number} {os.getpid()}\n")
        time.sleep(seconds)
        return {"square": np.arange(5) * number**2, "name": np.array([f"shard {number}"])}

    return [ledger.get(number, lambda number=number: compute(number)) for number in range(N)]


def check(shards):
    assert [int(s["square"][1]) for s in shards] == [number**2 for number in range(N)]
    assert [str(s["name"][0]) for s in shards] == [f"shard {number}" for number in range(N)]


def computed(log):
    return sorted(int(line.split()[0]) for line in log.read_text().splitlines())


def test_shards_are_computed_once_and_read_afterwards(tmp_path):
    log = tmp_path / "log"
    first, again = square(Ledger(tmp_path / "l", "key"), log, 0), square(Ledger(tmp_path / "l", "key"), log, 0)
    check(first)
    check(again)
    assert computed(log) == list(range(N))
    assert not list((tmp_path / "l").glob("*.claim")) and not list((tmp_path / "l").glob(".*"))


@pytest.mark.parametrize("damage", ["cut", "empty", "another plan"])
def test_what_is_no_whole_shard_of_the_plan_is_computed_again(tmp_path, damage):
    ledger, log = Ledger(tmp_path / "l", "key"), tmp_path / "log"
    square(ledger if damage != "another plan" else Ledger(tmp_path / "l", "other"), log, 0)
    victim = tmp_path / "l" / "00000003.npz"
    if damage != "another plan":
        victim.write_bytes(victim.read_bytes()[:100] if damage == "cut" else b"")
        assert not ledger.is_finished(3) and ledger.is_open(3) and ledger.is_finished(4)
    else:
        ledger = Ledger(tmp_path / "l", "key")
    check([s for s in square(ledger, log, 0)])
    assert computed(log).count(3) == 2


def test_processes_share_the_work_and_a_killed_one_loses_nothing(tmp_path):
    log, ledger = tmp_path / "log", Ledger(tmp_path / "l", "key", is_worker=True)
    workers = [get_context("fork").Process(target=square, args=(ledger, log, 0.05)) for _ in range(3)]
    for worker in workers:
        worker.start()
    while not log.exists() or len(log.read_text().splitlines()) < 7:
        time.sleep(0.01)
    os.kill(workers[0].pid, signal.SIGKILL)
    for worker in workers:
        worker.join()
    check(square(Ledger(tmp_path / "l", "key"), log, 0))
    n_twice = len(computed(log)) - N
    assert set(computed(log)) == set(range(N)) and n_twice <= 1  # that which the killed one was computing
    assert len({line.split()[1] for line in log.read_text().splitlines()}) >= 3


def test_claims_of_the_living_are_kept_and_those_of_the_dead_taken_over(tmp_path, monkeypatch):
    ledger, worker = Ledger(tmp_path), Ledger(tmp_path, is_worker=True)
    claim = tmp_path / "00000000.claim"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    claim.write_text(json.dumps({"host": socket.gethostname(), "pid": dead.pid}))
    assert ledger.is_open(0)
    claim.write_text(json.dumps({"host": "elsewhere", "pid": dead.pid}))
    assert not worker.is_open(0) and worker.get(0, lambda: pytest.fail("another holds it")) is None
    os.utime(claim, (time.time() - module.SILENCE - 1,) * 2)
    assert worker.get(0, lambda: {"x": np.ones(1)})["x"] == 1 and not claim.exists()


def test_a_silent_worker_is_heard_again_before_it_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT", 0.05)
    ledger, claim, seen = Ledger(tmp_path), tmp_path / "00000000.claim", []

    def compute():
        os.utime(claim, (0, 0))
        time.sleep(0.5)
        seen.append(claim.stat().st_mtime)
        return {}

    ledger.get(0, compute)
    assert seen[0] > time.time() - 60


def test_the_one_that_puts_together_waits_for_a_shard_that_is_being_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PAUSE", 0.01)
    log, ledger = tmp_path / "log", Ledger(tmp_path / "l")
    worker = get_context("fork").Process(target=square, args=(Ledger(tmp_path / "l", is_worker=True), log, 0.03))
    worker.start()
    check(square(ledger, log, 0.03))
    worker.join()
    assert computed(log) == list(range(N))


@pytest.mark.parametrize("text", ["", "\0" * 40, "[]", '{"host": 1}'])
def test_a_damaged_claim_is_held_for_two_minutes_and_no_longer(tmp_path, text):
    claim = tmp_path / "00000000.claim"
    claim.write_text(text)
    assert not Ledger(tmp_path).is_open(0)
    os.utime(claim, (time.time() - module.SILENCE - 1,) * 2)
    assert Ledger(tmp_path).is_open(0)


def test_a_folder_that_another_removes_meanwhile_is_no_error(tmp_path, monkeypatch):
    """Who waits looks at claims while the one that puts together removes them."""
    ledger, plain = Ledger.of_plan(tmp_path / "o", {}), module._now
    (ledger.folder / "output.claim").write_text(json.dumps({"host": "elsewhere", "pid": 1}))

    def now(folder):
        shutil.rmtree(folder)
        return plain(folder)

    monkeypatch.setattr(module, "_now", now)
    with ledger.finishing() as is_ours:
        assert not is_ours
    assert not ledger.folder.exists() and not module._make(ledger.folder / "0.claim")


def test_the_plan_goes_before_the_claim_on_it(tmp_path, monkeypatch):
    """Or another, which waits for the claim, would begin all anew."""
    ledger, left = Ledger.of_plan(tmp_path / "o", {}), []
    monkeypatch.setattr(shutil, "rmtree", lambda folder, **_: left.extend(p.name for p in folder.iterdir()))
    with ledger.finishing():
        pass
    assert left == ["output.claim"]


def test_workers_that_come_when_all_is_done_do_nothing(tmp_path):
    ledger = Ledger.of_plan(tmp_path / "o", {})
    (ledger.folder / "plan.json").unlink()
    launcher = {"_target_": "tests.test_ledger.InThisProcess"}
    share(OmegaConf.create({"log": str(tmp_path / "log"), "dies": False, "launcher": launcher}), work, ledger)
    assert not (tmp_path / "log").exists() and ledger.n_finished() == 0


class InThisProcess:
    n_workers = 1

    def __call__(self, run, jobs, failed):
        return (run(job) for job in jobs)


def _finish(folder, output):
    ledger = Ledger.of_plan(output, {"a": 1})
    with ledger.finishing() as is_ours:
        if is_ours:
            with output.open("a") as file:
                file.write("written\n")
            time.sleep(0.3)


def test_of_two_that_put_together_one_writes(tmp_path):
    both = [get_context("fork").Process(target=_finish, args=(tmp_path, tmp_path / "o")) for _ in range(2)]
    ledger = Ledger.of_plan(tmp_path / "o", {"a": 1})
    assert json.loads((ledger.folder / "plan.json").read_text()) == {"a": 1}
    with ledger._claim("output"):  # so that both have begun
        for process in both:
            process.start()
        time.sleep(0.3)
    for process in both:
        process.join()
    assert (tmp_path / "o").read_text() == "written\n" and not ledger.folder.exists()


def test_a_full_disk_is_told_and_leaves_no_part(tmp_path):
    """Files of this process may hold no more than 4 KiB: what a full disk looks like."""
    code = f"""
import resource, signal, numpy as np
from pathlib import Path
from bmfm.ledger import Ledger
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ledger = Ledger(Path({str(tmp_path)!r}))
ledger.get(0, lambda: {{"x": np.zeros(8)}})
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, {resource.RLIM_INFINITY}))
ledger.get(1, lambda: {{"x": np.zeros(100_000)}})
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1 and "make room and start again" in ended.stderr and "00000001.npz cannot be written" in ended.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["00000000.npz"]


def work(config, ledger):
    """What the launchers' workers do; one of them dies."""
    if config.dies:
        with suppress(FileExistsError):
            Path(config.log).with_name("dead").touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
    square(ledger, Path(config.log), 0.01)


@pytest.mark.parametrize("dies", [False, True])
def test_workers_of_a_launcher(tmp_path, dies, capsys):
    log = tmp_path / "log"
    launcher = {"_target_": "bmfm.launch.LocalPool", "workers": 2}
    ledger = Ledger.of_plan(tmp_path / "o", {"a": 1})
    share(OmegaConf.create({"log": str(log), "dies": dies, "launcher": launcher}), work, ledger)
    assert ledger.n_finished() == N
    check(square(ledger, log, 0))
    assert computed(log) == list(range(N))
    out, err = capsys.readouterr()
    assert f"the workers ended, {N} more shards are finished" in out and ("ended early" in err) == dies


def test_workers_on_ray(tmp_path):
    pytest.importorskip("ray")
    log, ledger = tmp_path / "log", Ledger.of_plan(tmp_path / "o", {"a": 1})
    launcher = {"_target_": "bmfm.launch.Ray", "address": None, "workers": 2, "num_cpus": 1}
    share(OmegaConf.create({"log": str(log), "dies": True, "launcher": launcher}), work, ledger)
    check(square(ledger, log, 0))
    assert set(computed(log)) == set(range(N))
    records = list(Ray(None, num_cpus=1)(_run, range(3), lambda job, why: {"job": job, "why": why}))
    assert sorted(map(str, records)) == ["{'job': 0}", "{'job': 1, 'why': 'RayTaskError(ValueError): ValueError: one'}", "{'job': 2}"]


def _run(job):
    if job == 1:
        raise ValueError("one")
    return {"job": job}


def test_workers_share_the_gpus(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert LocalPool().n_workers == 2
    seen = {r["gpu"] for r in LocalPool(2)(_gpu, range(4), lambda job, why: {"gpu": why})}
    assert seen <= {"2", "5"} and seen
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert 1 <= LocalPool().n_workers <= 8


def _gpu(job):
    time.sleep(0.2)
    return {"gpu": os.environ["CUDA_VISIBLE_DEVICES"]}


@pytest.mark.parametrize(("allowed", "expected"), [(None, 4), ("", 4), ("3", 3), ("16", 4), ("0", 4), ("2,1", 4)])
def test_threads_of_processes_are_no_more_than_the_user_allows(monkeypatch, allowed, expected):
    monkeypatch.setattr("bmfm.launch.n_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if allowed is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", allowed)
    assert n_threads(2) == expected and n_threads(8) == 1 and n_threads(16) == 1
