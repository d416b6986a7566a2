"""How well embeddings of cells keep their types together and their batches mixed, without any training (scIB, Nature Methods 2022)."""

import time
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.neighbors import NearestNeighbors

from bmfm.evaluation.examples.base import Examples
from bmfm.evaluation.methods.base import EmbeddingMethod, check_finite
from bmfm.evaluation.protocols.base import Outcome, Protocol
from bmfm.evaluation.task_spec import TaskSpec
from bmfm.metrics import METRICS, Metric

OF_TYPES = ("nmi", "ari", "asw_label", "avg_bio")
OF_BATCHES = ("graph_connectivity", "asw_batch", "avg_batch")


class CellIntegration(Protocol[EmbeddingMethod, Examples]):
    """Types of cells (`TaskSpec.label`) and batches (`TaskSpec.batch`) in the embeddings of all cells.

    ``avg_bio`` is the mean of NMI and ARI of Leiden clusters (at the best resolution) and the silhouette of labels; with batches
    ``avg_batch`` is the mean of graph connectivity and the silhouette of batches within labels.

    Parameters
    ----------
    share
        Of the cells that every seed draws: how far figures move from seed to seed says how far they hang on single cells.
    max_exact
        Cells up to which neighbours are found exactly.
    max_drawn
        Cells in the picture of the first seed.
    """

    needs = EmbeddingMethod
    draws_by_seed = True
    scores_test_part = False
    modes = ("zero_shot", "baseline")

    def __init__(self, share: float = 0.9, max_exact: int = 20_000, max_drawn: int = 3000):
        self.share, self.max_exact, self.max_drawn = share, max_exact, max_drawn

    def metrics(self, task: TaskSpec) -> Mapping[str, Metric]:
        return {name: METRICS[name] for name in (*OF_TYPES, *(OF_BATCHES if task.batch else ()))}

    def check(self, task: TaskSpec) -> None:
        super().check(task)
        if not task.label:
            raise ValueError("task.label is missing: the .obs column of cell types that integration is scored with")

    def run(self, examples: Examples, method: EmbeddingMethod, seed: int, folder: Path, n_bootstrap: int) -> Outcome:
        task = examples.task
        start_time = time.perf_counter()
        embeddings = check_finite(method.embed(examples, seed, learn_from=np.arange(len(examples))), examples)
        duration = time.perf_counter() - start_time
        objective = next(iter(task.config.objectives.values()))
        types = examples.column(str(task.label))
        is_typed = ~pd.isna(examples.data.column(str(task.label))) & ~np.isin(types, [*objective.ignore_labels, "", "nan"])
        cells = np.flatnonzero(is_typed)
        drawn = np.sort(np.random.default_rng(seed).permutation(cells)[: round(self.share * len(cells))])
        batches = examples.column(task.batch)[drawn] if task.batch else None
        figures = scib(embeddings[drawn], np.unique(types[drawn], return_inverse=True)[1], batches, seed, self.max_exact)
        counts = {"cells without a type, not scored": int((~is_typed).sum())}
        umap = None if seed else draw_umap(embeddings[drawn], types[drawn], batches, self.max_drawn)
        return Outcome(figures, duration, counts=counts, umap=umap)


def scib(
    embeddings: np.ndarray, labels: np.ndarray, batches: np.ndarray | None, seed: int = 0, max_exact: int = 20_000
) -> dict[str, float]:
    """Figures of embeddings [n, H] by scib-metrics, from labels [n] (numbers of types) and batches [n].

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
    embeddings = np.ascontiguousarray(embeddings, np.float32)
    n = min(15, len(embeddings) - 1)
    if len(embeddings) <= max_exact:
        distances, indices = NearestNeighbors(n_neighbors=n).fit(embeddings).kneighbors()
        neighbours = NeighborsResults(indices, distances)
    else:
        neighbours = pynndescent(embeddings, n_neighbors=n, random_state=seed, n_jobs=1)
    clusters = scib_metrics.nmi_ari_cluster_labels_leiden(neighbours, labels, optimize_resolution=True, n_jobs=1, seed=seed)
    figures = {"nmi": clusters["nmi"], "ari": clusters["ari"], "asw_label": scib_metrics.silhouette_label(embeddings, labels)}
    figures["avg_bio"] = float(np.mean(list(figures.values())))
    if batches is not None:
        mixing = {
            "graph_connectivity": scib_metrics.graph_connectivity(neighbours, labels),
            "asw_batch": scib_metrics.silhouette_batch(embeddings, labels, batches),
        }
        figures |= mixing | {"avg_batch": float(np.mean(list(mixing.values())))}
    return {k: float(v) for k, v in figures.items()}


def draw_umap(embeddings: np.ndarray, labels: np.ndarray, batches: np.ndarray | None, max_drawn: int) -> dict:
    """Places of some cells on a map, with their labels and batches: {x, y, label, batch}, lists of equal length."""
    import scanpy as sc

    drawn = np.sort(np.random.default_rng(0).permutation(len(embeddings))[:max_drawn])
    adata = sc.AnnData(embeddings[drawn])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.neighbors(adata, use_rep="X", n_neighbors=15)
        sc.tl.umap(adata, random_state=0)
    x, y = adata.obsm["X_umap"].round(2).T.tolist()
    return {"x": x, "y": y, "label": labels[drawn].tolist(), "batch": None if batches is None else batches[drawn].tolist()}
