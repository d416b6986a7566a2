"""How well embeddings of cells keep their types together and their batches mixed, without any training (scIB, Nature Methods 2022)."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors

from bmfm.evaluation.examples import Examples
from bmfm.evaluation.methods import finite
from bmfm.evaluation.protocols import Outcome
from bmfm.evaluation.tasks import TaskSpec

needs = "embed"
SHARE = 0.9
"""Of the cells that every seed draws: how far figures move from seed to seed says how far they hang on single cells."""
MAX_UMAP = 3000
EXACT = 20_000
"""Cells up to which neighbours are found exactly."""


def run(card: TaskSpec, examples: Examples, entrant, seed: int, folder: Path, n_bootstrap: int) -> Outcome:
    """``avg_bio``, the mean of NMI and ARI of Leiden clusters (at the best resolution) and the silhouette of labels;
    with batches ``avg_batch``, the mean of graph connectivity and the silhouette of batches within labels."""
    began = time.perf_counter()
    embedded = finite(entrant.embed(examples, seed), examples)
    duration = time.perf_counter() - began
    label = next(iter(card.config.objectives.values()))
    types = examples.column(str(card.label))
    given = ~pd.isna(examples.data.column(str(card.label))) & ~np.isin(types, [*label.ignore_labels, "", "nan"])
    numbers = np.flatnonzero(given)
    drawn = np.sort(np.random.default_rng(seed).permutation(numbers)[: round(SHARE * len(numbers))])
    batches = examples.column(card.batch)[drawn] if card.batch else None
    figures = scib(embedded[drawn], np.unique(types[drawn], return_inverse=True)[1], batches, seed)
    counts = {"cells without a type, not scored": int((~given).sum())}
    return Outcome(figures, duration, counts=counts, umap=_umap(embedded[drawn], types[drawn], batches, seed))


def scib(embedded: np.ndarray, labels: np.ndarray, batches: np.ndarray | None, seed: int = 0) -> dict[str, float]:
    """Figures of an embedding [n, H] by scib-metrics.

    Raises
    ------
    ImportError
        Where scib-metrics is not installed.
    """
    try:
        import scib_metrics
        from scib_metrics.nearest_neighbors import NeighborsResults, pynndescent
    except ImportError as error:
        raise ImportError("scoring of integration needs scib-metrics: pip install 'bmfm[bench]'") from error
    embedded = np.ascontiguousarray(embedded, np.float32)
    n = min(15, len(embedded) - 1)
    if len(embedded) <= EXACT:
        distances, indices = NearestNeighbors(n_neighbors=n).fit(embedded).kneighbors()
        neighbours = NeighborsResults(indices, distances)
    else:
        neighbours = pynndescent(embedded, n_neighbors=n, random_state=seed, n_jobs=1)
    clusters = scib_metrics.nmi_ari_cluster_labels_leiden(neighbours, labels, optimize_resolution=True, n_jobs=1, seed=seed)
    figures = {"nmi": clusters["nmi"], "ari": clusters["ari"], "asw_label": scib_metrics.silhouette_label(embedded, labels)}
    figures["avg_bio"] = float(np.mean(list(figures.values())))
    if batches is not None:
        mixing = {
            "graph_connectivity": scib_metrics.graph_connectivity(neighbours, labels),
            "asw_batch": scib_metrics.silhouette_batch(embedded, labels, batches),
        }
        figures |= mixing | {"avg_batch": float(np.mean(list(mixing.values())))}
    return {k: float(v) for k, v in figures.items()}


def _umap(embedded: np.ndarray, labels: np.ndarray, batches: np.ndarray | None, seed: int) -> dict | None:
    if seed:
        return None
    import warnings

    import scanpy as sc

    shown = np.sort(np.random.default_rng(0).permutation(len(embedded))[:MAX_UMAP])
    adata = sc.AnnData(embedded[shown])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.neighbors(adata, use_rep="X", n_neighbors=15)
        sc.tl.umap(adata, random_state=0)
    x, y = adata.obsm["X_umap"].round(2).T.tolist()
    return {"x": x, "y": y, "label": labels[shown].tolist(), "batch": None if batches is None else batches[shown].tolist()}
