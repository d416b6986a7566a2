"""What embeddings of a checkpoint say of cells that it has not seen, beside the principal components of its own pretraining cells.

python benchmarks/cells_zero_shot.py CHECKPOINT CELLS.h5ad LABEL [--pretraining FILE ...] [--ignore unlabelled]

Both embed the same cells. Printed are macro F1 of a linear probe and of the 10 nearest neighbours (three folds), and the mutual information
of k-means with the labels, of three seeds.
"""

import argparse

import anndata
import numpy as np
from sklearn.cluster import KMeans
from sklearn.metrics import f1_score, normalized_mutual_info_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

import bmfm
from bmfm.cells.formats import find_sources
from bmfm.cells.sources import Cells, open_source
from bmfm.evaluation.baselines.pretrained import ProjectedPca
from bmfm.evaluation.baselines.projection import log_normalised
from bmfm.evaluation.probes import estimator


def components(checkpoint: str, pretraining: list[str] | None, cells: str) -> np.ndarray:
    """Cells in the principal components of the checkpoint's pretraining cells [n, C]."""
    yardstick = ProjectedPca("PCA of the pretraining cells", checkpoint, pretraining)
    tokenizer = yardstick.pretraining.tokenizer
    (source,) = (open_source(path, tokenizer.vocabulary) for path in find_sources(cells))
    source.load()
    counts = Cells([source]).take(np.arange(len(source)))
    return yardstick.projection().transform(log_normalised(counts, len(tokenizer)))


def scores(embeddings: np.ndarray, labels: np.ndarray) -> str:
    """The figures of one embedding [n, H]."""
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    f1 = {
        probe: f1_score(labels, cross_val_predict(estimator("classification", probe), embeddings, labels, cv=folds), average="macro")
        for probe in ("linear", "knn")
    }
    n = len(np.unique(labels))
    nmi = [normalized_mutual_info_score(labels, KMeans(n, n_init=5, random_state=seed).fit_predict(embeddings)) for seed in range(3)]
    return f"linear {f1['linear']:.3f}   kNN {f1['knn']:.3f}   NMI {np.mean(nmi):.3f} ({min(nmi):.3f} to {max(nmi):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("cells")
    parser.add_argument("label")
    parser.add_argument("--pretraining", nargs="+", help="the pretraining cells, if not where the recipe says")
    parser.add_argument("--ignore", nargs="*", default=[], help="labels that are left out")
    arguments = parser.parse_args()
    adata = anndata.read_h5ad(arguments.cells)
    labels = adata.obs[arguments.label].astype(str).to_numpy()
    kept = ~np.isin(labels, arguments.ignore)
    embedded = {
        arguments.checkpoint: bmfm.load(arguments.checkpoint).embed(adata, progress=False),
        "PCA of its pretraining cells": components(arguments.checkpoint, arguments.pretraining, arguments.cells),
    }
    print(f"{arguments.cells}: {kept.sum():,} cells, {len(np.unique(labels[kept]))} labels")
    for name, embeddings in embedded.items():
        print(f"{name[-40:]:40s} {scores(embeddings[kept], labels[kept])}")


if __name__ == "__main__":
    main()
