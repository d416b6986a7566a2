"""Made-up counts after knock-downs: every perturbation lowers its own gene and moves some others."""

from dataclasses import replace

import numpy as np
from scipy.sparse import csr_matrix

from bmfm.evaluation.perturbation.comparison import CONTROL, Comparison, GroupedCells

N_PERTURBATIONS, N_CELLS, N_GENES = 8, 40, 150
NAMES = [f"G{i:03d}" for i in range(N_GENES)]


def effects(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mean counts of control cells [G], and log2 fold changes [P, G]."""
    rng = np.random.default_rng(seed)
    base = rng.gamma(1.0, 3.0, N_GENES)
    lfc = np.where(rng.random((N_PERTURBATIONS, N_GENES)) < 0.2, rng.normal(0, 1.0, (N_PERTURBATIONS, N_GENES)), 0.0)
    np.fill_diagonal(lfc, -3.0)
    return base, lfc


def draw(base: np.ndarray, lfc: np.ndarray, seed: int, n_cells: int = N_CELLS) -> GroupedCells:
    """Poisson counts of cells of each condition."""
    rng = np.random.default_rng(seed)
    depth = rng.lognormal(0, 0.3, (len(lfc), n_cells, 1))
    counts = rng.poisson(depth * base * np.exp2(lfc)[:, None]).reshape(-1, len(base))
    return GroupedCells(csr_matrix(counts.astype(np.float32)), np.repeat(np.arange(len(lfc)), n_cells))


def joined(*parts: GroupedCells) -> GroupedCells:
    from scipy.sparse import vstack

    return GroupedCells(vstack([p.values for p in parts], format="csr"), np.concatenate([p.codes for p in parts]))


def controls(base: np.ndarray, seed: int, n_cells: int = 3 * N_CELLS) -> GroupedCells:
    cells = draw(base, np.zeros((1, len(base))), seed, n_cells)
    return GroupedCells(cells.values, np.full(n_cells, CONTROL))


def toy(predicted: str = "imperfect") -> Comparison:
    """Counts, with a prediction that is ``imperfect``, another ``replicate``, the ``real`` cells, or cells without ``no change``."""
    base, lfc = effects()
    real = draw(base, lfc, 1)
    guess = {"imperfect": 0.5 * lfc + 0.3 * np.roll(lfc, 1, 0), "replicate": lfc, "no change": 0 * lfc}
    cells = real if predicted == "real" else draw(base, guess[predicted], 3)
    return Comparison(
        context="toy",
        conditions=NAMES[:N_PERTURBATIONS],
        genes=NAMES,
        targets=[np.array([i]) for i in range(N_PERTURBATIONS)],
        real=joined(real, controls(base, 2)),
        predicted=cells,
        unit="counts",
        training={"mean": np.log1p(base / base.sum() * 1e4)},
    )


def with_means(comparison: Comparison, means: np.ndarray) -> Comparison:
    return replace(comparison, means=means)
