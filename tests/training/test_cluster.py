"""Runs of two nodes, made of this machine's loopback: the same figures, another number of devices on resume, and what a dead process does."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from tests.training.test_faults import DNA
from tests.training.test_train import losses

pytestmark = pytest.mark.slow


def start(folder, steps, world, *more):
    """The processes of a run, one for each node of one device; of one node, the plain command."""
    settings = [*DNA, "model.dropout=0.0", f"run_dir={folder}", f"trainer.max_steps={steps}", "trainer.enable_progress_bar=false", *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if world == 1:
        commands = [[sys.executable, "-m", "bmfm.train", *settings]]
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={world}", "--nproc-per-node=1", "--master-addr=127.0.0.1"]
        run = ["-m", "bmfm.train", *settings, "trainer=ddp", "trainer.devices=1", f"trainer.num_nodes={world}"]
        commands = [[*torchrun, f"--master-port={port}", f"--node-rank={rank}", *run] for rank in range(world)]
    return [
        subprocess.Popen(c, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
        for c in commands
    ]


def finish(processes):
    said = [process.communicate(timeout=300)[0] for process in processes]
    assert not any(process.returncode for process in processes), said[0][-3000:] + said[-1][-3000:]


def test_two_nodes_and_another_number_on_resume(tmp_path):
    finish(start(tmp_path / "one", 8, 1))
    finish(start(tmp_path / "two", 8, 2))
    finish(start(tmp_path / "both", 4, 1))
    finish(start(tmp_path / "both", 8, 2, "resume=true"))
    expected = losses(tmp_path / "one")
    assert len(expected) == 8
    for name in ("two", "both"):
        assert losses(tmp_path / name) == pytest.approx(expected, rel=2e-4), name


def test_a_dead_process_ends_the_run_everywhere(tmp_path):
    processes = start(tmp_path / "run", 100_000, 2, "trainer.val_check_interval=100000", "callbacks.last.every_n_train_steps=1")
    last, deadline = tmp_path / "run" / "checkpoints" / "last.ckpt", time.time() + 200
    while not last.exists() and time.time() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    children = subprocess.run(["pgrep", "-P", str(processes[1].pid)], capture_output=True, text=True).stdout.split()
    os.kill(int(children[0]), signal.SIGKILL)
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert all(process.returncode for process in processes)
    assert "SIGKILL" in said[1] or "-9" in said[1], said[1][-2000:]
    assert "onnection" in said[0] or "SIGTERM" in said[0] or "closed" in said[0], said[0][-2000:]
    finish(start(tmp_path / "run", 1, 1, "trainer.val_check_interval=100000", "resume=true"))  # from a checkpoint that is whole
