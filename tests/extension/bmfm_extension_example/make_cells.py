"""A made-up screen, small enough to learn in seconds: ``python -m bmfm_extension_example.make_cells FILE.h5ad``."""

import sys
from pathlib import Path

import anndata
import numpy as np
import pandas as pd

GENES = [f"GENE{i}" for i in range(40)]
TARGETS = 8
"""Each of the first genes switches on two of the others, its own, and switches off a third."""


def make_cells(path: str | Path, n_cells: int = 30, seed: int = 0) -> None:
    """Write raw counts of `n_cells` cells for each perturbation and as many controls for each, with labels in ``.obs``."""
    rng = np.random.default_rng(seed)
    expression = 5 + rng.gamma(2.0, 5.0, len(GENES))
    counts, perturbations = [], []
    for target in range(-TARGETS, TARGETS):  # as many controls
        mean = np.tile(expression, (n_cells, 1))
        if target >= 0:
            mean[:, target] += 100
            mean[:, 8 + 2 * target : 10 + 2 * target] *= 6
            mean[:, 24 + target] = 0.5
        counts.append(rng.poisson(mean * rng.uniform(0.7, 1.3, (n_cells, 1))))
        perturbations += [GENES[target] if target >= 0 else "control"] * n_cells
    obs = pd.DataFrame({"perturbation": perturbations, "n_guides": rng.poisson(3, len(perturbations))})
    obs.index = [f"cell{i}" for i in range(len(obs))]
    cells = anndata.AnnData(np.concatenate(counts).astype(np.float32), obs, pd.DataFrame(index=GENES))
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    cells.write_h5ad(path)


if __name__ == "__main__":
    make_cells(sys.argv[1])
