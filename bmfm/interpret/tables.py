"""What attributions say of groups of cells: means, one-sample t-tests, ranks, and what they are in the other groups."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix
from scipy.stats import false_discovery_control, rankdata, t

LEAST_CELLS = 3
"""Cells of a group, at least, for a test."""
COLUMNS = ("class", "gene", "n_cells", "mean", "sd", "t", "p", "p_bh", "mean_rank", "direction", "contrast")


def group_tables(
    attributions: csr_matrix, seen: csr_matrix, groups: Sequence[str | None], genes: pd.Index, alpha: float = 0.05, top: int | None = 50
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Means of groups of cells, and the genes that stand out.

    Parameters
    ----------
    attributions, seen
        [n, G]: attributions, and 1 where the model was shown the gene; where it was not, an attribution is 0 and counts as that.
    groups
        [n] names; None of cells of no group.
    genes
        [G] names.
    alpha, top
        The table keeps genes of an adjusted p (Benjamini and Hochberg, over the genes seen in a group) below `alpha`, and of each group
        the `top` of the largest mean, in either direction. A group of fewer than `LEAST_CELLS` cells is not tested, its p are NaN, and
        its `top` are kept.

    Returns
    -------
    means
        [G, groups].
    table
        A row for each group (``class``) and gene: ``n_cells`` that showed it, ``mean`` and ``sd`` over all cells of the group, ``t``, ``p`` and ``p_bh`` that the
        mean is not 0, ``mean_rank`` (of its size in the cells that showed it, 1 is the largest), ``direction`` (``for`` or ``against``), ``contrast``
        (the mean over the cells of all other groups).
    """
    attributions = attributions.astype(np.float64)
    ranks = _ranks(attributions, seen)
    names = sorted({g for g in groups if g is not None})
    means, tables = {}, []
    for name in names:
        is_in = np.array([g == name for g in groups])
        others = np.array([g is not None and g != name for g in groups])
        of_group = _statistics(attributions[is_in], seen[is_in], ranks[is_in])
        of_group["gene"], of_group["class"] = np.asarray(genes), name
        of_group["contrast"] = _mean(attributions[others]) if others.any() else np.nan
        means[name] = of_group["mean"].to_numpy()
        of_group = of_group[of_group["n_cells"] > 0]
        of_group = of_group.reindex(of_group["mean"].abs().sort_values(ascending=False, kind="stable").index)
        if top is not None:
            of_group = of_group[(of_group["p_bh"] < alpha) | of_group["p_bh"].isna()].head(top)
        tables.append(of_group[list(COLUMNS)])
    tables = [table for table in tables if len(table)]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))
    return pd.DataFrame(means, index=genes), table


def _mean(matrix: csr_matrix) -> np.ndarray:
    return np.asarray(matrix.mean(0)).ravel()


def _statistics(attributions: csr_matrix, seen: csr_matrix, ranks: csr_matrix) -> pd.DataFrame:
    """A row for each gene, of the cells of one group."""
    n = attributions.shape[0]
    n_seen = np.asarray(seen.sum(0)).ravel()
    mean = _mean(attributions)
    table: dict[str, Any] = {"n_cells": n_seen.astype(np.int64), "mean": mean}
    variance = np.maximum(_mean(attributions.multiply(attributions).tocsr()) - mean**2, 0) * n / max(1, n - 1)
    table["sd"] = np.sqrt(variance) if n > 1 else np.full(len(mean), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        table["t"] = mean / (table["sd"] / np.sqrt(n))
        table["mean_rank"] = np.asarray(ranks.sum(0)).ravel() / n_seen
    table["p"], table["p_bh"] = (np.full(len(mean), np.nan) for _ in range(2))
    if n >= LEAST_CELLS:
        table["p"] = 2 * t.sf(np.abs(table["t"]), n - 1)
        tested = (n_seen > 0) & ~np.isnan(table["p"])
        if tested.any():
            table["p_bh"][tested] = false_discovery_control(table["p"][tested])
        table["p_bh"][(n_seen > 0) & ~tested] = 1.0  # an attribution of 0 in every cell
    table["direction"] = np.where(mean > 0, "for", np.where(mean < 0, "against", "none"))
    return pd.DataFrame(table)


def _ranks(attributions: csr_matrix, seen: csr_matrix) -> csr_matrix:
    """Ranks by size, of the genes that each cell showed."""
    ranks = seen.astype(np.float32).tocsr(copy=True)
    ranks.sort_indices()
    for row in range(ranks.shape[0]):
        some = slice(ranks.indptr[row], ranks.indptr[row + 1])
        values = attributions[row, ranks.indices[some]].toarray().ravel() if some.stop > some.start else np.empty(0)
        ranks.data[some] = rankdata(-np.abs(values))
    return ranks
