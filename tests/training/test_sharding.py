"""Parameters cut over devices (FSDP2): two processes end where one does, with the whole model, and runs go on from one way to the other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bmfm.cli import compose
from bmfm.train import train
from tests.conformance import train_each
from tests.conformance.cases import small
from tests.training.test_faults import DNA
from tests.training.test_train import losses

STEPS = [
    "trainer.max_steps=6",
    "trainer.accumulate_grad_batches=2",
    "schedule.kind=constant",
    "schedule.warmup_steps=0",
    "optimizer.lr=1e-3",
]
SINGLE = [o for o in DNA if not o.startswith("model")] + STEPS
RNA = [
    "+recipe=rna_multitask", *small("model", "set"), "data.max_tokens=32", "data.statistics_cells=32", "tokenizer.genes=from_data", "data.split.validation=0.01",
    "logistic_regression=false", *SINGLE[1:],
]  # fmt: skip
FINETUNE = [
    "+recipe=dna_finetune", "checkpoint={model}", "data.path={table}", "objectives.label.dropout=0.0", "callbacks.best.monitor=val/loss", "callbacks=default",
    "logistic_regression=false", "trainer.limit_val_batches=null", *SINGLE[1:], "data.batch_size=2",
]  # fmt: skip
LORA = "model.lora={{r: 2, alpha: 4, dropout: 0.0, dora: false}}"
RUNS = {
    **{name: [*SINGLE, f"model={name}", *small("model", name)] for name in ("bert", "conv", "hybrid", "modernbert")},
    "set": [*RNA, "model=set", "values=gene_scaled"],
    "llama": [*RNA, "model=llama", *small("model", "llama"), "~objectives.cell_type"],
    "finetune": FINETUNE,
    "lora": [*FINETUNE, LORA],
}
DROPOUT = {
    "conv": ["model.dropout=0.0"],
    "hybrid": ["model.conv_dropout=0.0"],
    "bert": ["model.hidden_dropout_prob=0.0", "model.attention_probs_dropout_prob=0.0"],
}
SHARDED = ["trainer=fsdp2", "trainer.devices=2"]


def overrides(name: str, files: dict[str, str], folder: Path, *more: str) -> list[str]:
    return [*(o.format(**files) for o in RUNS[name]), *DROPOUT.get(name, []), *more, f"run_dir={folder / name}"]


def together(folder: Path, settings: dict[str, list[str]]) -> None:
    """Runs of two processes, one after the other."""
    (folder / "runs.json").write_text(json.dumps(settings))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", train_each.__file__, str(folder / "runs.json")]
    done = subprocess.run(
        [sys.executable, *command], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def files(dna_model, sequence_table) -> dict[str, str]:
    return {"model": str(dna_model), "table": str(sequence_table)}


@pytest.fixture(scope="module")
def both(files, tmp_path_factory) -> Path:
    """Every run by one process, ``alone``, and by two with parts of the parameters, ``together``."""
    folder = tmp_path_factory.mktemp("sharded")
    for name in RUNS:
        train(compose("train", overrides(name, files, folder / "alone")))
    together(folder, {name: overrides(name, files, folder / "together", *SHARDED) for name in RUNS})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_end_where_one_does(both, name):
    alone, cut = (both / how / name for how in ("alone", "together"))
    assert losses(cut) == pytest.approx(losses(alone), rel=5e-5) and len(losses(alone)) == 6
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (alone, cut)]
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3, abs=1e-4, nan_ok=True)
    weights = [load_file(run / "model" / "model.safetensors") for run in (alone, cut)]
    assert weights[0].keys() == weights[1].keys() and all(torch.allclose(weights[1][k], w, atol=1e-4) for k, w in weights[0].items())
    assert (alone / "model" / "config.json").read_text() == (cut / "model" / "config.json").read_text()
    saved = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (alone, cut)]
    assert {k: v.shape for k, v in saved[0]["state_dict"].items()} == {k: v.shape for k, v in saved[1]["state_dict"].items()}
    moments = [s["optimizer_states"][0]["state"] for s in saved]
    assert moments[0].keys() == moments[1].keys()
    assert all(torch.allclose(moments[1][i][k], v, atol=1e-4) for i, m in moments[0].items() for k, v in m.items())


@pytest.mark.slow
def test_runs_go_on_from_one_way_to_the_other(both, files, tmp_path):
    """And with activations that are computed again, which changes nothing; weights that are sent in bfloat16 change little."""
    half = ["trainer.precision=bf16-mixed", "trainer.strategy.param_dtype=bf16"]
    again = ["trainer.strategy.checkpoint_activations=true"]
    train(compose("train", overrides("modernbert", files, tmp_path / "from_one", "trainer.max_steps=3")))
    together(
        tmp_path,
        {
            "from_one": overrides("modernbert", files, tmp_path / "from_one", *SHARDED, *again, "resume=true"),
            "from_two": overrides("modernbert", files, tmp_path / "from_two", *SHARDED, *again, "trainer.max_steps=3"),
            "half": overrides("set", files, tmp_path / "half", *SHARDED, *half),
        },
    )
    train(compose("train", overrides("modernbert", files, tmp_path / "from_two", "resume=true")))
    for run in ("from_one", "from_two"):
        assert losses(tmp_path / run / "modernbert") == pytest.approx(losses(both / "alone" / "modernbert"), rel=5e-5), run
    assert losses(tmp_path / "half" / "set") == pytest.approx(losses(both / "alone" / "set"), rel=0.02)


@pytest.mark.parametrize(
    "more, said",
    [
        (["trainer=fsdp2", "trainer.precision=bf16-true"], "choose bf16-mixed or 32-true"),
        (["trainer=fsdp2", "trainer.strategy.param_dtype=bf16"], "needs trainer.precision=bf16-mixed"),
        (["trainer=fsdp2", "callbacks=ema"], "choose trainer=ddp or callbacks=default"),
        (["trainer.strategy={_target_: pytorch_lightning.strategies.ModelParallelStrategy}"], "choose trainer=ddp, or trainer=fsdp2"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_sharding_is_named(tmp_path, more, said):
    from bmfm.cli import instantiate
    from bmfm.training.run import _module_for

    config = compose("train", [*DNA, *more, f"run_dir={tmp_path}"])
    callbacks = [instantiate(config.callbacks.ema)] if "ema" in config.callbacks else []
    with pytest.raises(ValueError, match=said):
        _module_for(instantiate(config.trainer, callbacks=callbacks, _convert_="all"))
