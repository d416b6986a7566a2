"""What goes wrong in a run: gradients that are not finite, a full disk, kills at any moment."""

import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from itertools import pairwise
from multiprocessing import active_children, get_context

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bmfm.cli import compose
from bmfm.data.examples import ExampleDataset
from bmfm.train import train
from bmfm.training.module import LitModel
from bmfm.training.resume import WholeCheckpoints
from tests.training.test_resume import TINY
from tests.training.test_train import losses

DNA = [
    "+recipe=dna_ref", "model=conv", "model.hidden_size=8", "model.num_hidden_layers=1", "data.batch_size=4", "data.max_tokens=64", "trainer.val_check_interval=4",
    "trainer.log_every_n_steps=1", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu", "trainer.devices=1", "callbacks.progress=null",
    "callbacks.last.every_n_train_steps=2",
]  # fmt: skip


def run(folder, settings, *overrides):
    return train(compose("train", [*settings, f"run_dir={folder}", *overrides]))


def spoil(monkeypatch, batches):
    """The losses of these batches, counted from 1, are infinite."""
    plain = LitModel.training_step

    def training_step(self, batch, batch_idx):
        loss = plain(self, batch, batch_idx)
        return loss * float("inf") if self.batches_seen in batches else loss

    monkeypatch.setattr(LitModel, "training_step", training_step)


def test_a_gradient_that_is_not_finite_ends_the_run_and_names_its_cells(tmp_path, monkeypatch):
    spoil(monkeypatch, {6})  # of steps of two batches the third
    with pytest.raises(ValueError, match=r"step 2: the gradient is not finite .*step_2_device_0\.json.*resume=true nonfinite=skip"):
        run(tmp_path, TINY, "trainer.max_steps=8", "callbacks.last.every_n_train_steps=1")
    listed = json.loads((tmp_path / "nonfinite" / "step_2_device_0.json").read_text())
    assert listed["step"] == 2 and [e["batch"] for e in listed["examples"]] == [4] * 4 + [5] * 4
    assert all("pbmc3k" in e["where"] and "cell" in e["where"] for e in listed["examples"]), listed["examples"][0]
    monkeypatch.undo()
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 2 and all(torch.isfinite(w).all() for w in last["state_dict"].values() if w.is_floating_point())


def test_such_steps_are_skipped_where_that_is_asked_for(tmp_path, monkeypatch, capsys):
    weights = []
    monkeypatch.setattr(
        LitModel, "on_train_batch_start", lambda self, *_: weights.append(torch.cat([p.detach().flatten() for p in self.parameters()]))
    )
    spoil(monkeypatch, {3})
    run(tmp_path, DNA, "trainer.max_steps=6", "nonfinite=skip")
    changed = [not torch.equal(a, b) for a, b in pairwise(weights)]
    assert changed == [True, True, False, True, True] and all(torch.isfinite(w).all() for w in weights)
    (file,) = (tmp_path / "nonfinite").iterdir()
    wheres = [e["where"] for e in json.loads(file.read_text())["examples"]]
    assert len(set(wheres)) == 4 and all(w.startswith("chr20_slice:") and w[-3:] in ("(+)", "(-)") for w in wheres)
    assert "skipped steps" in capsys.readouterr().out.replace("_", " ")


def test_the_listed_windows_are_those_of_the_batch(tmp_path, monkeypatch):
    """By the bases that the model was given."""
    from bmfm.genome.alphabet import decode

    seen, listed = [], []
    plain = LitModel.training_step

    def training_step(self, batch, batch_idx):
        ids = batch["original_ids"]
        names = self.data.tokenizer.names
        seen.extend("".join(names[i] for i in row[kept > 0]) for row, kept in zip(ids, batch["sequence_ids"], strict=True))
        listed.extend(self.data.examples_of_batch(self.batches_seen))
        return plain(self, batch, batch_idx)

    monkeypatch.setattr(LitModel, "training_step", training_step)
    run(tmp_path, DNA, "trainer.max_steps=1")
    from bmfm.files import ASSETS
    from bmfm.genome.reference import Reference

    reference = Reference.from_fasta(ASSETS / "genome" / "chr20_slice.fa.gz")
    for text, example in zip(seen, listed, strict=True):
        contig, _, rest = example["where"].partition(":")
        start, end = map(int, rest[:-3].split("-"))
        bases = decode(reference.fetch(contig, start - 1, end)).upper()
        if example["where"].endswith("(-)"):
            bases = bases[::-1].translate(str.maketrans("ACGT", "TGCA"))
        shown = text.replace("[CLS]", "").replace("[SEP]", "")
        assert len(shown) > 20 and bases.startswith(shown), (text, example)


def test_ten_such_steps_in_a_row_end_it_all_the_same(tmp_path, monkeypatch):
    spoil(monkeypatch, range(2, 100))
    with pytest.raises(ValueError, match="of 10 steps in a row"):
        run(tmp_path, DNA, "trainer.max_steps=30", "nonfinite=skip")
    assert len(list((tmp_path / "nonfinite").iterdir())) == 10


def test_a_full_disk_keeps_the_checkpoint_that_is_there(tmp_path):
    code = f"""
import resource, signal, torch
from bmfm.training.resume import WholeCheckpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = {str(tmp_path / "last.ckpt")!r}
WholeCheckpoints().save_checkpoint({{"step": 1}}, path)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.RLIM_INFINITY}))
WholeCheckpoints().save_checkpoint({{"step": 2, "weights": torch.zeros(100_000)}}, path)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1 and "last.ckpt cannot be written" in ended.stderr and "is kept" in ended.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"] and torch.load(tmp_path / "last.ckpt") == {"step": 1}


def test_checkpoints_never_pass_by_another_disk(tmp_path, monkeypatch):
    """A folder for temporary files that cannot be written to is of no matter; and what a killed run left is cleared away."""
    monkeypatch.setattr("tempfile.mkstemp", lambda *a, **k: pytest.fail("a file elsewhere"))
    here, dead = socket.gethostname(), subprocess.Popen(["true"])
    dead.wait()
    of_the_dead = [f"{here}-{dead.pid}-1", "other-host-77-1"]
    of_the_living = [f"{here}-{os.getppid()}-1", "another-host-77-1"]
    for name in (*of_the_dead, *of_the_living):
        (tmp_path / f".last.ckpt.{name}.partial").write_bytes(b"x")
    os.utime(tmp_path / ".last.ckpt.other-host-77-1.partial", (0, 0))
    WholeCheckpoints().save_checkpoint({"a": torch.ones(3)}, tmp_path / "last.ckpt")
    assert {p.name for p in tmp_path.iterdir()} == {"last.ckpt", *(f".last.ckpt.{name}.partial" for name in of_the_living)}


SEEN = [*DNA, "trainer.max_steps=8", "data.num_workers=1"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of eight steps and two validations."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run(folder, SEEN)
    return folder


def goes_on_like(folder, undisturbed):
    run(folder, SEEN, "resume=true")
    assert losses(folder) == losses(undisturbed)
    a, b = (load_file(f / "model" / "model.safetensors") for f in (folder, undisturbed))
    assert all((a[k] == b[k]).all() for k in a)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "left"])
def test_a_dead_reader_of_data_ends_the_run_and_is_named(tmp_path, monkeypatch, undisturbed, how):
    plain = LitModel.training_step

    def kill_the_reader(self, batch, batch_idx):
        if self.batches_seen == 5:
            for process in active_children():
                process.kill()
        return plain(self, batch, batch_idx)

    read, calls = ExampleDataset.__getitems__, []

    def leave_at_the_seventh(self, pairs):
        calls.extend([1] * (torch.utils.data.get_worker_info() is not None))
        return read(self, pairs) if len(calls) < 7 else os._exit(3)

    with monkeypatch.context() as patch:
        if how == "killed":
            patch.setattr(LitModel, "training_step", kill_the_reader)
        else:
            patch.setattr(ExampleDataset, "__getitems__", leave_at_the_seventh)
        with pytest.raises(ChildProcessError, match=r"reads data died.*DataLoader worker.*data\.num_workers.*resume=true"):
            run(tmp_path, SEEN, "data.num_workers=1")
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] in (2, 4, 6)
    goes_on_like(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("when", ["validation", "sanity check"])
def test_sigterm_while_it_validates(tmp_path, monkeypatch, undisturbed, when):
    """The validation is finished, the checkpoint written, and no further step taken; before the first step there is nothing to write."""
    plain, sent = LitModel.validation_step, []

    def validation_step(self, batch, batch_idx):
        if not sent and self.trainer.sanity_checking == (when == "sanity check"):
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
        return plain(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(LitModel, "validation_step", validation_step)
        with pytest.raises(SystemExit, match=r"^0$") if when == "sanity check" else nullcontext():
            run(tmp_path, SEEN, "trainer.num_sanity_val_steps=1", "callbacks.last.every_n_train_steps=100")
    assert sent and (when == "sanity check" or torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4)
    goes_on_like(tmp_path, undisturbed)


def _train_on(folder, resume):
    os.setpgid(0, 0)
    os.dup2(os.open(folder.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND), 1)
    os.dup2(1, 2)
    torch.set_num_threads(1)
    run(folder, DNA, "trainer.max_steps=400", "callbacks.last.every_n_train_steps=1", f"resume={str(resume).lower()}")


@pytest.mark.slow
def test_twenty_kills_at_any_moment(tmp_path):
    """The checkpoint is written at every step, so that many kills hit it; the run ends with the curve and weights of one that nobody disturbed."""
    whole, killed = tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    whole.parent.mkdir()
    killed.parent.mkdir()
    context, draw = get_context("spawn"), random.Random(0)
    process = context.Process(target=_train_on, args=(whole, False))
    process.start()
    process.join()
    assert process.exitcode == 0, (whole.parent / "log").read_text()[-2000:]
    last, n_kills, begun = killed / "checkpoints" / "last.ckpt", 0, 0
    for _ in range(100):
        process = context.Process(target=_train_on, args=(killed, True))
        process.start()
        seen = last.stat().st_mtime_ns if last.exists() else 0
        while process.is_alive() and (not last.exists() or last.stat().st_mtime_ns == seen):
            time.sleep(0.001)  # until it trains
        if n_kills < 20:
            time.sleep(draw.uniform(0, 0.3))
            process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL), (killed.parent / "log").read_text()[-2000:]
        if process.exitcode == 0:
            break
        n_kills += 1
        steps = torch.load(last, weights_only=True)["global_step"]  # never missing, never damaged
        assert steps >= begun
        begun = steps
    assert process.exitcode == 0 and n_kills >= 15, n_kills
    assert losses(killed) == losses(whole) or all(losses(whole)[s] == x for s, x in losses(killed).items())
    a, b = (load_file(f / "model" / "model.safetensors") for f in (whole, killed))
    assert all((a[k] == b[k]).all() for k in a) and np.isfinite(list(losses(killed).values())).all()
