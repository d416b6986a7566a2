"""A made-up screen with known answers, and a model that was trained on it."""

import anndata
import numpy as np
import pandas as pd
import pytest

from bmfm.cli import compose
from bmfm.train import train

GENES = [f"GENE{i}" for i in range(30)]
TARGETS = 6
"""Each of the first genes, knocked down, switches on one of the others: GENE0 GENE10, GENE1 GENE11, ..."""


@pytest.fixture(scope="session")
def screen_cells() -> anndata.AnnData:
    """40 cells of each condition and 80 controls, in two contexts of which the second expresses more of GENE20 to GENE29."""
    rng = np.random.default_rng(0)
    mean = 3 + rng.gamma(2.0, 4.0, len(GENES))
    counts, conditions, contexts = [], [], []
    for context in ("a", "b"):
        base = mean * np.where((np.arange(len(GENES)) >= 20) & (context == "b"), 3, 1)
        for target, n in [(None, 80)] + [(t, 40) for t in range(TARGETS)]:
            of_condition = base.copy()
            if target is not None:
                of_condition[target] *= 0.1
                of_condition[10 + target] *= 8
            counts.append(rng.poisson(of_condition * rng.uniform(0.7, 1.3, (n, 1))))
            conditions += ["non-targeting" if target is None else GENES[target]] * n
            contexts += [context] * n
    obs = pd.DataFrame({"target_gene": conditions, "cell_type": contexts}, index=[f"cell{i}" for i in range(len(conditions))])
    return anndata.AnnData(np.concatenate(counts).astype(np.float32), obs, pd.DataFrame(index=GENES))


@pytest.fixture(scope="session")
def screen_file(screen_cells, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("screen") / "screen.h5ad"
    screen_cells.write_h5ad(path)
    return str(path)


TRAINED = [
    "+recipe=rna_perturbation", "data=perturbation", "data.source.condition=target_gene", "data.source.context=cell_type", "data.split.column=group", "data.split.validation=0.09", "data.split.test=0",
    "data.max_tokens=40", "data.batch_size=32", "checkpoint=null", "tokenizer=cells", "tokenizer.genes=from_data", "tokenizer.summary=true", "model=set",
    "values=gene_scaled", "model.hidden_size=32", "model.intermediate_size=48", "model.num_latents=4", "optimizer.lr=5e-3", "trainer.max_steps=150", "trainer.val_check_interval=50",
    "trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "callbacks.progress=null",
]  # fmt: skip


@pytest.fixture(scope="session")
def screen_model(screen_file, tmp_path_factory):
    """A folder with a model that was trained on the screen."""
    folder = tmp_path_factory.mktemp("trained")
    train(compose("train", [*TRAINED, f"data.source.path={screen_file}", f"run_dir={folder}"]))
    return folder / "model"
