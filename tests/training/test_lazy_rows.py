"""AdamW that is lazy in the rows of a table is `torch.optim.AdamW`, wherever it is looked at."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from bmfm.cli import compose
from bmfm.train import train
from bmfm.training.lazy_rows import LazyRowsAdamW
from tests.conformance.cases import small
from tests.training.test_train import losses

pytestmark = pytest.mark.slow  # kernels are compiled

OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1}


def both(seed=0):
    torch.manual_seed(seed)
    plain = torch.nn.Sequential(torch.nn.Embedding(60, 8), torch.nn.Linear(8, 3))
    lazy = copy.deepcopy(plain)
    return plain, lazy, torch.optim.AdamW(plain.parameters(), **OPTIONS), LazyRowsAdamW(lazy.parameters(), lazy[0], **OPTIONS)


def go_on(plain, lazy, optimizers, steps, seed):
    """Rows 0 to 9 are read often, 10 to 29 seldom, 30 to 39 once, and the others never; learning rates change."""
    draw = torch.Generator().manual_seed(seed)
    for step in range(steps):
        ids = torch.randint(0, 10, (2, 4), generator=draw)
        if step % 50 == 7:
            ids = torch.cat([ids, torch.randint(10, 30, (2, 4), generator=draw)])
        if step == 9:
            ids = torch.arange(30, 40).view(2, 5)
        target = torch.randn(*ids.shape, 3, generator=draw)
        losses = []
        for model, optimizer in zip((plain, lazy), optimizers, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = 1e-2 * (1 - step / (2 * steps))
            optimizer.zero_grad()
            loss = (model(ids) - target).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert losses[1] == pytest.approx(losses[0], rel=1e-4), step


def is_the_same(a, b):
    return all(torch.allclose(b[k], v, rtol=2e-5, atol=1e-6) for k, v in a.items())


def test_weights_and_moments_are_those_of_adamw():
    plain, lazy, dense, rows = both()
    go_on(plain, lazy, (dense, rows), 400, 1)
    assert is_the_same(plain.state_dict(), lazy.state_dict())
    expected, found = dense.state_dict()["state"], rows.state_dict()["state"]
    assert expected.keys() == found.keys() and all(is_the_same(expected[i], found[i]) for i in expected)
    assert (rows.done == 400).all() and not rows.moments[:, 40:].any()


@pytest.mark.parametrize("onto", ["lazy", "plain"])
def test_either_goes_on_from_the_state_of_the_other(onto):
    plain, lazy, dense, rows = both()
    go_on(plain, lazy, (dense, rows), 60, 1)
    again, lazy_again, dense_again, rows_again = both(5)
    source = (plain, dense) if onto == "lazy" else (lazy, rows)
    model, optimizer = (lazy_again, rows_again) if onto == "lazy" else (again, dense_again)
    model.load_state_dict(source[0].state_dict())
    optimizer.load_state_dict(copy.deepcopy(source[1].state_dict()))
    if onto == "lazy":
        go_on(plain, model, (dense, optimizer), 60, 2)
        assert is_the_same(plain.state_dict(), model.state_dict())
    else:
        go_on(model, lazy, (optimizer, rows), 60, 2)
        assert is_the_same(model.state_dict(), lazy.state_dict())


def test_a_step_without_gradients_changes_nothing():
    plain, lazy, dense, rows = both()
    go_on(plain, lazy, (dense, rows), 12, 1)
    before = {k: v.clone() for k, v in lazy.state_dict().items()}
    rows.zero_grad()
    rows.step()
    assert all(torch.equal(before[k], v) for k, v in lazy.state_dict().items()) and rows.steps == 12


RUN = [
    "+recipe=rna_mlm", *small("model", "bert"), "data.max_tokens=64", "data.batch_size=4", "data.statistics_cells=32", "data.split.validation=0.01",
    "trainer.max_steps=8", "trainer.val_check_interval=4", "trainer.log_every_n_steps=1", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu",
    "trainer.devices=1", "callbacks.progress=null", "callbacks.last.every_n_train_steps=1", "logistic_regression=false", "schedule.kind=constant", "schedule.warmup_steps=2",
    "trainer.gradient_clip_val=0.5", "trainer.accumulate_grad_batches=2",
]  # fmt: skip


def test_runs_are_those_of_adamw_and_go_on_from_one_another(tmp_path):
    def run(name, *more):
        train(compose("train", [*RUN, f"run_dir={tmp_path / name}", *more]))
        return losses(tmp_path / name)

    dense = run("dense")
    assert run("lazy", "optimizer.lazy_rows=true") == pytest.approx(dense, rel=1e-5) and len(dense) == 8
    run("both", "trainer.max_steps=4", "optimizer.lazy_rows=true")
    assert run("both", "resume=true") == pytest.approx(dense, rel=1e-5)
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("dense", "lazy", "both")]
    assert all(torch.allclose(other[k], w, atol=1e-4) for other in weights[1:] for k, w in weights[0].items())


def test_a_table_that_is_read_whole_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a head is tied to the table"):
        train(compose("train", [*RUN, "objective=[genes]", "~objectives.values", "optimizer.lazy_rows=true", f"run_dir={tmp_path}"]))


@pytest.mark.parametrize(
    ("choice", "message"), [("callbacks=ema", "callbacks=ema"), ("+trainer.gradient_clip_algorithm=value", "clipped by their norm")]
)
def test_what_passes_the_optimiser_by_is_refused(choice, message, tmp_path):
    from bmfm.training.run import Run

    with pytest.raises(ValueError, match=message):
        Run.of(compose("train", ["+recipe=rna_mlm", "optimizer.lazy_rows=true", choice, f"run_dir={tmp_path}"]))
