"""A run that was stopped, wherever it was, goes on as if it had not been; what it says of its progress."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bmfm.cli import compose
from bmfm.train import train
from bmfm.training.callbacks import Progress
from tests.training.test_train import losses

# val/loss goes down, so that mode=max calls its first value the best, which must be remembered over all interruptions
TINY = [
    "+recipe=rna_multitask", "model.hidden_size=16", "model.intermediate_size=16", "model.num_hidden_layers=1", "model.num_attention_heads=2",
    "model.hidden_dropout_prob=0.1", "data.batch_size=4", "data.max_tokens=32", "data.statistics_cells=64", "data.split.validation=0.01",
    "objectives.genes.masking.adaptive=true", "logistic_regression=false", "schedule.kind=constant", "schedule.warmup_steps=3",
    "trainer.accumulate_grad_batches=2", "trainer.val_check_interval=6", "trainer.log_every_n_steps=1", "trainer.enable_progress_bar=false",
    "trainer.accelerator=cpu", "trainer.devices=1", "callbacks=early_stopping", "callbacks.progress=null", "callbacks.best.mode=max",
    "callbacks.last.every_n_train_steps=4",
]  # fmt: skip


def run(folder, steps, *overrides):
    return train(compose("train", [*TINY, f"run_dir={folder}", f"trainer.max_steps={steps}", *overrides]))


def state(folder):
    """What a run's last checkpoint says of the best checkpoint and of early stopping, without the folder."""
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    held = {name.split("{")[0]: s for name, s in saved["callbacks"].items() if name.startswith(("ModelCheckpoint", "EarlyStopping"))}
    best, stopping = held["ModelCheckpoint"], held["EarlyStopping"]
    score = best["best_model_score"]
    return (
        best["best_model_path"].removeprefix(str(folder)), None if score is None else float(score), stopping["wait_count"],
        float(stopping["best_score"]), stopping["stopped_epoch"], saved["global_step"], saved["bmfm"]["counts"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder, 9)


# nowhere; at a validation; at a checkpoint; at a second validation
@pytest.mark.parametrize(
    "stop", [pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.slow), 6]
)
def test_a_run_that_ended_at_any_step_goes_on(tmp_path, whole, stop):
    folder, expected = whole
    run(tmp_path, stop)
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == stop
    metrics = run(tmp_path, 9, "resume=true")
    assert losses(tmp_path) == losses(folder) and state(tmp_path) == state(folder)
    assert state(folder)[:2] == ("/checkpoints/best.ckpt", pytest.approx(expected["val/loss"]))
    assert metrics == expected
    a, b = (load_file(f / "model" / "model.safetensors") for f in (folder, tmp_path))
    assert all((a[k] == b[k]).all() for k in a)


@pytest.mark.slow
def test_a_run_that_stopped_early_has_nothing_to_go_on_with(tmp_path):
    stopping = ["callbacks.early_stopping.patience=1", "+callbacks.early_stopping.min_delta=100", "trainer.val_check_interval=2"]
    metrics = run(tmp_path, 9, *stopping)
    stopped = max(losses(tmp_path))
    assert stopped == 1  # at the second validation
    assert run(tmp_path, 9, *stopping, "resume=true") == metrics and max(losses(tmp_path)) == stopped


def _without_bmfm(file):
    saved = torch.load(file, weights_only=True)
    del saved["bmfm"]
    torch.save(saved, file)


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: f.write_bytes(f.read_bytes()[: f.stat().st_size // 2]),
        pytest.param(lambda f: f.write_bytes(b""), marks=pytest.mark.slow),
        pytest.param(lambda f: f.write_text("no checkpoint"), marks=pytest.mark.slow),
        lambda f: torch.save([1, 2], f),
        _without_bmfm,
    ],
)
def test_a_damaged_checkpoint_is_named(tmp_path, whole, damage):
    (tmp_path / "checkpoints").mkdir()
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.write_bytes((whole[0] / "checkpoints" / "last.ckpt").read_bytes())
    damage(last)
    with pytest.raises(ValueError, match=r"last\.ckpt is damaged, .*overwrite=true.*run_dir="):
        run(tmp_path, 9, "resume=true")


@pytest.mark.parametrize("change", ["model.hidden_size=32", pytest.param("model.num_hidden_layers=2", marks=pytest.mark.slow)])
def test_a_checkpoint_of_another_model_is_named(tmp_path, whole, change):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes((whole[0] / "checkpoints" / "last.ckpt").read_bytes())
    with pytest.raises(ValueError, match=r"last\.ckpt is of another model or other objectives .*overwrite=true"):
        run(tmp_path, 9, "resume=true", change)


def test_generators_of_a_process_are_restored():
    import io
    import random

    from bmfm.training.devices import rng_state, set_rng_state

    held = io.BytesIO()
    torch.save(rng_state(), held)
    first = torch.rand(3).tolist(), np.random.normal(size=3).tolist(), random.random()
    held.seek(0)
    set_rng_state(torch.load(held, weights_only=True))
    assert (torch.rand(3).tolist(), np.random.normal(size=3).tolist(), random.random()) == first


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_of_a_resumed_run(monkeypatch, capsys, terminal):
    """Steps 450 to 500 of 1,000 in five seconds are ten a second, whatever was done before."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    now = [100.0]
    monkeypatch.setattr("bmfm.training.callbacks.time.perf_counter", lambda: now[0])
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    progress = Progress(refresh_rate=1, seconds=2)
    trainer = SimpleNamespace(global_step=450, max_steps=1000, is_global_zero=True, progress_bar_metrics={"train/loss": 4.125}, loggers=[])
    monkeypatch.setattr(progress, "get_metrics", lambda *args: trainer.progress_bar_metrics)
    progress.on_train_start(trainer)
    begun = capsys.readouterr().err
    for step in range(451, 501):
        now[0], trainer.global_step = now[0] + 0.1, step
        progress.on_train_batch_end(trainer, None, None, {}, step)
    progress.on_train_end(trainer)
    printed = capsys.readouterr().err
    if terminal:
        assert "450/1000" in begun and "500/1000" in printed and "10.00step/s" in printed and "\r" in printed
    else:
        lines = printed.splitlines()
        assert len(lines) == 3 and "\r" not in printed
        assert lines[-1] == "step 500 of 1,000, 10.00 a second, 0:00:50 left, train/loss 4.125"
