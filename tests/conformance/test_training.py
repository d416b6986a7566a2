"""Whole runs: two processes end where one does, and a run that is stopped after any step goes on as if it had not been.

One of each kind stands for all: packed windows of DNA, cells with several objectives, a fine-tuned model, the extension's pairs.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from bmfm.cli import compose, instantiate
from bmfm.tokenizers import dna
from bmfm.train import train
from bmfm.training.report import read_curve
from tests.conformance.runs import PAIRS
from tests.conformance.shared import made_once

TINY = ["model.hidden_size=16", "model.intermediate_size=16", "model.num_hidden_layers=2", "model.num_attention_heads=2"]
TRAINER = [
    "trainer.max_steps=4", "trainer.val_check_interval=4", "trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1.0",
    "trainer.log_every_n_steps=1", "trainer.enable_progress_bar=false", "trainer.accelerator=cpu", "callbacks.progress=null",
    "callbacks.last.every_n_train_steps=1", "schedule.kind=constant", "schedule.warmup_steps=2", "logistic_regression=false",
]  # fmt: skip
RUNS = {
    "dna": ["+recipe=dna_snp", *TINY, "data.packing=true", "data.max_tokens=96", "data.windows.min_length=60", "data.windows.max_length=200", "data.held_out_windows.coverage=0.02", "data.batch_size=4"],
    "rna": ["+recipe=rna_multitask", "model=set", "values=gene_scaled", "tokenizer.summary=true", "data.path={cells}", *TINY, "data.max_tokens=32", "data.statistics_cells=32", "tokenizer.genes=from_data", "tokenizer.read_depth.mode=downsample", "data.batch_size=4", "data.split.validation=0.1", "data.split.test=0"],
    "finetune": ["+recipe=dna_finetune", "checkpoint={pretrained}", "data.path={uneven}", "objectives.label.dropout=0.0", "data.batch_size=2"],
    "pairs": [*PAIRS, "objective=[response,count]", "data.batch_size=4", "test=true"],
}  # fmt: skip
DROPOUT = {"dna": "model.mlp_dropout", "rna": "model.hidden_dropout_prob", "finetune": "objectives.label.dropout", "pairs": "model.dropout"}
ADAPTIVE = {"rna": ["objectives.genes.masking.adaptive=true"]}
every_run = pytest.mark.parametrize("name", RUNS)


@pytest.fixture(scope="module")
def inputs(files, tmp_path_factory) -> dict[str, str]:
    """And a pretrained model with a pooler that no head reads, and tables of one validation and three test examples."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    tokenizer = dna.DnaTokenizer.from_pretrained("dna_demo")
    config = compose("train", ["model=bert", *TINY]).model
    model = instantiate(config, fields={"input_ids": {"size": len(tokenizer)}}, heads={}, genes={}, pooler=True, _convert_="all")  # fmt: skip
    model.config.max_tokens = 64
    model.save_pretrained(folder / "pretrained")
    tokenizer.save_pretrained(folder / "pretrained")
    rng = np.random.default_rng(0)
    (folder / "uneven").mkdir()
    for part, n in (("train", 24), ("dev", 1), ("test", 3)):
        table = pd.DataFrame({"sequence": ["".join(rng.choice(list("ACGT"), k)) for k in rng.integers(20, 80, n)]})
        table.assign(label=["a", "b", "c"] * (n // 3) or ["a"]).to_csv(folder / "uneven" / f"{part}.csv", index=False)
    return files | {"pretrained": str(folder / "pretrained"), "uneven": str(folder / "uneven")}


def overrides(name: str, inputs: dict[str, str], run_dir: Path, *more: str) -> list[str]:
    chosen = [o.format(**inputs) for o in (*RUNS[name], *ADAPTIVE.get(name, []), *TRAINER)]
    return [*chosen, f"run_dir={run_dir}", *more]


def losses(run_dir: Path) -> dict[int, float]:
    return dict(read_curve(run_dir / "csv")["train/loss"])


@pytest.fixture(scope="module")
def both(inputs, tmp_path_factory) -> Path:
    """Every run by one process, ``alone``, and by two, ``together``."""

    def run(folder: Path) -> None:
        plain = {name: [f"{DROPOUT[name]}=0.0"] for name in RUNS}
        for name in RUNS:
            train(compose("train", overrides(name, inputs, folder / "alone" / name, "trainer.devices=1", *plain[name])))
        ddp = ["trainer=ddp", "trainer.devices=2"]
        settings = {name: [*ddp, *overrides(name, inputs, folder / "together" / name, *plain[name])] for name in RUNS}
        (folder / "overrides.json").write_text(json.dumps(settings))
        script = Path(__file__).with_name("train_each.py")
        command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script), str(folder / "overrides.json")]
        done = subprocess.run(
            [sys.executable, *command], env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-4000:]

    return made_once(tmp_path_factory, "both", run)


@every_run
def test_two_processes_end_where_one_does(both, name):
    runs = [both / how / name for how in ("alone", "together")]
    saved = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["bmfm"] for run in runs]
    metrics = [json.loads((run / "metrics.json").read_text()) for run in runs]
    weights = [load_file(run / "model" / "model.safetensors") for run in runs]
    assert [len(s["rng"]) for s in saved] == [1, 2] and saved[0]["counts"] == saved[1]["counts"]
    assert losses(runs[1]) == pytest.approx(losses(runs[0]), rel=5e-5) and len(losses(runs[0])) == 4
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3, abs=1e-4, nan_ok=True)
    assert all(torch.allclose(weights[1][key], value, atol=1e-4) for key, value in weights[0].items())
    if name == "finetune":
        assert metrics[0]["val/label/cross_entropy_n"] == 1 and metrics[0]["test/label/cross_entropy_n"] == 3
        assert saved[0]["counts"]["sequences"] == 16


@every_run
def test_a_run_goes_on_bit_for_bit_after_every_step(tmp_path, inputs, name):
    """With dropout, adaptive masks and validations between: one run of four steps, and one that is stopped after each of them."""
    more = ["trainer.devices=1", "trainer.val_check_interval=4", f"{DROPOUT[name]}=0.1"]
    whole = train(compose("train", overrides(name, inputs, tmp_path / "whole", *more)))
    for steps in (1, 2, 3, 4):
        resume = ["resume=true"] if steps > 1 else []
        metrics = train(compose("train", overrides(name, inputs, tmp_path / "stopped", *more, *resume, f"trainer.max_steps={steps}")))
    assert metrics == pytest.approx(whole, rel=0, abs=0, nan_ok=True)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole") and len(losses(tmp_path / "whole")) == 4
    a, b = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("whole", "stopped"))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
