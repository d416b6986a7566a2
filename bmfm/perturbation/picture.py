"""A picture of a screen: the effect of every gene in the order of its rank, and what genes of like expression do."""

from pathlib import Path
from textwrap import fill

import numpy as np
import pandas as pd

N_NAMED = 5
"""Genes that are named at each end of a context's ranks."""


def plot_ranks(table: pd.DataFrame, path: Path) -> None:
    """Draw the table of `screen.screen`, a panel for each context."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    contexts = list(dict.fromkeys(table["context"]))
    figure, axes = plt.subplots(1, len(contexts), figsize=(4.2 * len(contexts), 3.6), squeeze=False, layout="constrained")
    for axis, context in zip(axes[0], contexts, strict=True):
        of_context = table[table["context"] == context].sort_values("effect").reset_index(drop=True)
        rank = np.arange(len(of_context))
        low, high = (of_context["matched_mean"] + sign * 1.96 * of_context["matched_sd"] for sign in (-1, 1))
        axis.fill_between(rank, low, high, color="#cfd8dc", lw=0, label="95% of genes of like expression")
        axis.scatter(rank, of_context["effect"], s=6, color="#1565c0", label="gene")
        axis.axhline(0, color="black", lw=0.5)
        ends = [", ".join(named["gene"]) for named in (of_context.head(N_NAMED), of_context.tail(N_NAMED)[::-1])]
        axis.set(title=context, ylabel=fill(table.attrs.get("readout", "effect"), 36) if context == contexts[0] else "")
        axis.set_xlabel(f"genes by rank\nleast: {ends[0]}\nmost: {ends[1]}", fontsize=6)
    axes[0][0].legend(loc="best", fontsize=6, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
