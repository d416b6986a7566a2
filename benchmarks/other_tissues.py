"""Embeddings of cells that are unlike the training cells: with permuted genes in training, and with [CLS] more or less balanced.

python benchmarks/other_tissues.py --data FOLDER --out FOLDER [--shares 0 0.25 0.5] [--powers 0.1] [--seeds 0 1] [--set SETTING=VALUE ...]

`rna_mini` is trained on the T and NK cells of PBMC 3k alone, with a share of training cells that have permuted genes (`data.permute_genes`).
Its [CLS] is balanced by some power of the covariance over these cells (`models.balance.balancing_map`); with 0 it is taken as it is.
Printed are the validation loss, and avg_bio of embeddings, without training, of the other blood cells of that file (five types), and of three
lines of glioblastoma (McFaline-Figueroa et al., 2,000 cells, 500 genes), each the mean of three draws of 90% of the cells; beside them the
principal components of the same T and NK cells, and the network with new weights. Needs bmfm[bench].
What it costs when such a model is fine-tuned, platform_shift.py says (--set checkpoint=MODEL).
"""

import argparse
from contextlib import redirect_stdout
from itertools import product
from pathlib import Path

import anndata
import numpy as np
import scipy.sparse as sp
import torch
from cells_zero_shot import components

import bmfm
from bmfm.cli import compose
from bmfm.evaluation.protocols.integration import scib
from bmfm.inference import Predictor
from bmfm.models.balance import POWER, balancing_map
from bmfm.training.run import train

SHOWN = ("CD4 T cells", "CD8 T cells", "NK cells")
QUIET = ("overwrite=true", "trainer.enable_progress_bar=false", "callbacks.progress=null", "trainer.val_check_interval=300")


def blood(data: Path) -> tuple[anndata.AnnData, anndata.AnnData]:
    """T and NK cells, and the other types."""
    adata = anndata.read_h5ad(data / "rna" / "pbmc3k.h5ad")
    types = adata.obs["cell_type"].astype(str).to_numpy()
    is_shown = np.isin(types, SHOWN)
    others = adata[~is_shown & (types != "unlabelled")].copy()
    others.obs["type"] = others.obs["cell_type"].astype(str)
    return adata[is_shown].copy(), others


def glioblastoma(data: Path) -> anndata.AnnData:
    """Cells of three lines as counts: of log-normalised values, the least of a cell is one molecule."""
    adata = anndata.read_h5ad(data / "perturbation" / "norman_mcfaline_subset.h5ad")
    adata = adata[(adata.obs["dataset"] == "mcfaline23").to_numpy()]
    adata = adata[np.sort(np.random.default_rng(0).permutation(adata.n_obs)[:2000])].copy()
    shares = np.expm1(adata.X.toarray() if sp.issparse(adata.X) else np.asarray(adata.X))
    adata.X = sp.csr_matrix(np.rint(shares / np.where(shares > 0, shares, np.inf).min(1, keepdims=True)).astype(np.float32))
    adata.obs["type"] = adata.obs["cell_type"].astype(str)
    return adata


def avg_bio(embeddings: np.ndarray, adata: anndata.AnnData) -> float:
    """The mean of three draws of the cells."""
    labels = np.unique(adata.obs["type"].to_numpy(), return_inverse=True)[1]
    draws = [np.sort(np.random.default_rng(seed).permutation(len(labels))[: round(0.9 * len(labels))]) for seed in range(3)]
    return float(np.mean([scib(embeddings[drawn], labels[drawn], None, seed)["avg_bio"] for seed, drawn in enumerate(draws)]))


def trained(cells: Path, out: Path, *settings: str) -> tuple[Path, float]:
    """A model's folder, and its validation loss."""
    with (out.parent / f"{out.name}.log").open("w") as log, redirect_stdout(log):
        metrics = train(compose("train", ["+recipe=rna_mini", f"data.path={cells}", f"run_dir={out}", *QUIET, *settings]))
    return out / "model", metrics["val/loss"]


def balanced(folder: Path, cells: anndata.AnnData, power: float) -> Predictor:
    """A model whose [CLS] is balanced by a power of the covariance over some cells."""
    model = bmfm.load(str(folder))
    states = model.embed(cells.copy(), pooling=0, progress=False)
    model.model.balance.copy_(torch.from_numpy(balancing_map(states, power)))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shares", nargs="+", type=float, default=[0, 0.25, 0.5])
    parser.add_argument("--powers", nargs="+", type=float, default=[POWER])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--set", nargs="+", default=[], help="more settings of bmfm train")
    arguments = parser.parse_args()
    settings = arguments.set
    arguments.out.mkdir(parents=True, exist_ok=True)
    shown, others = blood(arguments.data)
    cells = arguments.out / "t_and_nk.h5ad"
    shown.write_h5ad(cells)
    sets = {"other blood cells": others, "glioblastoma": glioblastoma(arguments.data)}
    for name, adata in sets.items():
        adata.write_h5ad(arguments.out / f"{name}.h5ad")
    print(f"| | validation loss | {' | '.join(sets)} |\n|{'---|' * (len(sets) + 2)}")

    def row(name: str, loss: list[float], figures: list[list[float]]) -> None:
        """Means over seeds, with the least and the largest."""
        cells = [f"{np.mean(f):.3f}" + (f" ({min(f):.3f} to {max(f):.3f})" if len(f) > 1 else "") for f in figures]
        print(f"| {name} | {f'{np.mean(loss):.4f}' if loss else ''} | {' | '.join(cells)} |", flush=True)

    def embedded(folders: list[Path], power: float) -> list[list[float]]:
        models, pooling = [balanced(folder, shown, power) for folder in folders], None if power else 0
        return [[avg_bio(model.embed(adata.copy(), pooling, progress=False), adata) for model in models] for adata in sets.values()]

    models = {
        share: [
            trained(cells, arguments.out / f"{share}_{s}", f"data.permute_genes={share}", f"seed={s}", *settings) for s in arguments.seeds
        ]
        for share in arguments.shares
    }
    first = str(models[arguments.shares[0]][0][0])
    row("principal components", [], [[avg_bio(components(first, None, str(arguments.out / f"{n}.h5ad")), a)] for n, a in sets.items()])
    once = (*settings, "trainer.max_steps=1", "trainer.val_check_interval=1", "optimizer.lr=0")
    row("new weights", [], embedded([trained(cells, arguments.out / f"new_{s}", f"seed={s}", *once)[0] for s in arguments.seeds], 0))
    for (share, runs), power in product(models.items(), arguments.powers):
        named = f"permuted genes {share:.0%}, balanced by {power:g}"
        row(named, [loss for _, loss in runs], embedded([folder for folder, _ in runs], power))


if __name__ == "__main__":
    main()
