"""Pictures of attributions: the genes that speak most for each class, and what they say in all classes."""

from pathlib import Path
from typing import Any

import numpy as np

N_GENES = 10
"""Genes of each class in the bars; half as many in the heat map."""


def plot_table(adata: Any, key: str, path: Path) -> None:
    """Draw what `explain.explain` wrote: above, bars for the genes with the largest means of each class, with their 95% intervals; below, the means of the first of these in all classes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    about, means = adata.uns[key], adata.varm[f"{key}_mean"]
    means = means[~means.index.duplicated()]
    table, classes = about["table"], list(about["classes"])
    n = max(1, len(classes))
    figure = plt.figure(figsize=(max(5, 2.1 * n), 5.5), layout="constrained")
    grid = figure.add_gridspec(2, n, height_ratios=[1, max(0.5, 0.12 * n)])
    chosen: list[str] = []
    for i, name in enumerate(classes):
        axis = figure.add_subplot(grid[0, i])
        top = table[table["class"] == name].head(N_GENES)
        places = np.arange(len(top))[::-1]
        axis.barh(
            places,
            top["mean"],
            xerr=np.abs(1.96 * top["mean"] / top["t"]).fillna(0),
            color=np.where(top["mean"] > 0, "#1565c0", "#c62828"),
            error_kw={"lw": 0.6},
        )
        axis.set_yticks(places, top["gene"], fontsize=6)
        axis.tick_params(axis="x", labelsize=6)
        axis.axvline(0, color="black", lw=0.5)
        axis.set_title(name, fontsize=7)
        if not len(top):
            axis.text(0.5, 0.5, "no gene stands out", ha="center", transform=axis.transAxes, fontsize=6)
        speaking = top[top["mean"] > 0]["gene"].head(N_GENES // 2)
        chosen += [gene for gene in speaking if gene not in chosen]
    below = figure.add_subplot(grid[1, :])
    values = means.loc[chosen].to_numpy().T if chosen else np.zeros((n, 1))
    limit = float(np.abs(values).max()) or 1.0
    image = below.imshow(values, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    below.set_xticks(range(len(chosen)), chosen, rotation=90, fontsize=6)
    below.set_yticks(range(len(classes)), classes, fontsize=6)
    figure.colorbar(image, ax=below, aspect=8).set_label(f"mean attribution ({about['unit']})", fontsize=6)
    figure.suptitle(f"{about['target']}, {about['method']}, baseline {about['baseline']}", fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
