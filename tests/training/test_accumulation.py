"""Several small batches of a step against one large batch, whose gradient torch computes in one piece."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch

from bmfm.cli import compose
from bmfm.files import ASSETS
from bmfm.training.module import LitModel
from bmfm.training.run import assemble
from tests.test_conf import SMALL_MODEL


def sgd(model):
    return torch.optim.SGD([{"name": "all", "params": [p for p in model.parameters() if p.requires_grad]}], lr=0.1)


def weights_after(overrides, batch_size, accumulate, steps=2):
    """Weights after some steps of plain gradient descent, and the losses that were logged."""
    import pytorch_lightning as pl

    pl.seed_everything(0, verbose=False)
    data, objectives, model = assemble(compose("train", [*overrides, f"data.batch_size={batch_size}"]))
    module = LitModel(model, objectives, sgd, lambda step: 1.0)
    trainer = pl.Trainer(
        max_steps=steps, accumulate_grad_batches=accumulate, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", devices=1, limit_val_batches=0, use_distributed_sampler=False, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, data)
    return {k: v.clone() for k, v in model.state_dict().items()}, {k: float(v) for k, v in trainer.callback_metrics.items()}


@pytest.fixture(scope="module")
def uneven(tmp_path_factory, dna_model):
    """Overrides of runs whose batches hold very different numbers of labels."""
    folder = tmp_path_factory.mktemp("uneven")
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"sequence": ["".join(rng.choice(list("ACGT"), n)) for n in rng.integers(20, 90, 64)]})
    table["label"] = rng.choice(["a", "b", "c", ""], 64, p=[0.1, 0.3, 0.2, 0.4])
    table["number"] = np.where(rng.random(64) < 0.6, rng.normal(size=64), np.nan)
    table.to_csv(folder / "t.csv", index=False)
    cells = anndata.read_h5ad(ASSETS / "rna" / "pbmc3k.h5ad")[:80].copy()
    cells.obs["donor"] = rng.choice(["d1", "d2", "d3"], 80)
    cells.write_h5ad(folder / "c.h5ad")
    dna = ["+recipe=dna_ref", *SMALL_MODEL, "data.windows.min_length=60", "data.windows.max_length=600"]
    rna = ["+recipe=rna_wced", *SMALL_MODEL, f"data.path={folder / 'c.h5ad'}", "data.max_tokens=48", "data.statistics_cells=64"]
    shared = "_target_: bmfm.objectives.labels"
    labels = [
        f"+objectives.label={{{shared}.Classification, column: label, class_weights: {{a: 5.0}}, focal: 1.0, weight: 2.0}}",
        f"+objectives.number={{{shared}.Regression, column: number}}",
    ]
    donor = f"+objectives.donor={{{shared}.Classification, column: donor, gradient_reversal: 1.0}}"
    table_of = ["+recipe=dna_finetune", f"checkpoint={dna_model}", f"data.path={folder / 't.csv'}", "objective=[mlm]", *labels]
    return {"dna": dna, "rna": [*rna, "objective=[wced,values]", donor], "labels": table_of}


@pytest.mark.parametrize("kind", ["dna", pytest.param("rna", marks=pytest.mark.slow), "labels"])
def test_small_batches_of_a_step_equal_one_large_batch(uneven, kind):
    (whole, logged_whole), (pieces, logged) = (weights_after(uneven[kind], size, 8 // size) for size in (8, 2))
    begun, _ = weights_after(uneven[kind], 8, 1, steps=0)
    moved = [k for k, v in whole.items() if v.is_floating_point() and (v - begun[k]).abs().max() > 1e-5]
    assert len(moved) > 5
    for name, value in whole.items():
        torch.testing.assert_close(pieces[name], value, atol=1e-6, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
    assert logged["train/loss"] == pytest.approx(logged_whole["train/loss"], rel=1e-5)
    assert {k for k in logged if k.startswith("train/")} >= {"train/loss", "train/lr"}
