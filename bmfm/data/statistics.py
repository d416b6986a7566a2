"""Figures of training examples that the baselines of objectives are made of."""

from typing import Any

import numpy as np

from bmfm.cells.counts import CellBatch
from bmfm.tokenizers.base import Tokenizer, Tokens


def token_statistics(tokenizer: Tokenizer, raw: Any, tokens: Tokens) -> dict[str, np.ndarray]:
    """Figures of some examples, {name: [V]}: ``token_counts``, occurrences of each token id, and, of cells, those of `cell_statistics`."""
    counts = {"token_counts": np.bincount(tokens.ids, minlength=len(tokenizer))}
    return counts | cell_statistics(tokenizer, raw, tokens) if isinstance(raw, CellBatch) else counts


def cell_statistics(tokenizer: Tokenizer, cells: CellBatch, tokens: Tokens) -> dict[str, np.ndarray]:
    """Figures of the values of cells, [V] each.

    ``value_sums``, ``zero_counts`` of the tokens a model sees; ``profile_mean`` and ``profile_zero_rate`` over cells whose source
    measures the gene; those of `count_statistics`; ``bin_log_frequency`` [n_bins] where values are bins.
    """
    n_genes, profile = len(tokenizer), tokens.full_profile
    assert profile is not None
    targets = tokens.fields.get("targets", tokens.fields["values"])
    cells_with = np.zeros(n_genes, np.int64)
    for source, n_cells in enumerate(np.bincount(cells.source_ids, minlength=len(cells.gene_panels))):
        cells_with[cells.gene_panels[source]] += n_cells
    statistics = {
        "value_sums": np.bincount(tokens.ids, weights=targets, minlength=n_genes),
        "zero_counts": np.bincount(tokens.ids[targets == 0], minlength=n_genes),
        "profile_mean": np.bincount(profile.gene_ids, weights=profile.values, minlength=n_genes) / np.maximum(cells_with, 1),
        "profile_zero_rate": 1 - np.bincount(profile.gene_ids, minlength=n_genes) / np.maximum(cells_with, 1),
    }
    if n_bins := tokenizer.n_bins:
        frequency = np.bincount(targets.astype(np.int64), minlength=n_bins) + 1.0
        statistics["bin_log_frequency"] = np.log(frequency / frequency.sum()).astype(np.float32)
    return statistics | count_statistics(cells, n_genes)


def count_statistics(cells: CellBatch, n_genes: int) -> dict[str, np.ndarray]:
    """Figures of counts, over cells whose source measures the gene, [V] each.

    ``gene_counts``, the sum of a gene's counts; ``gene_molecules``, the sum of these cells' totals; ``gene_dispersion``, a in the variance
    m + a m^2 of a count with the mean m, the cell's total times the gene's share of all: the method of moments, not below 0.
    """
    counts, totals = cells.counts, cells.counts.totals
    molecules, squared_totals = np.zeros(n_genes), np.zeros(n_genes)
    for source, panel in enumerate(cells.gene_panels):
        of_source = totals[cells.source_ids == source]
        molecules[panel] += of_source.sum()
        squared_totals[panel] += (of_source**2).sum()

    def by_gene(weights: np.ndarray) -> np.ndarray:
        return np.bincount(counts.ids, weights=weights, minlength=n_genes)

    values, of_cells = counts.counts.astype(np.float64), np.repeat(totals, np.diff(counts.offsets))
    sums = by_gene(values)
    share = sums / np.maximum(molecules, 1)
    squared_means = share**2 * squared_totals
    squared_errors = by_gene(values**2) - 2 * share * by_gene(values * of_cells) + squared_means
    dispersion = np.divide(squared_errors - sums, squared_means, out=np.zeros(n_genes), where=squared_means > 0).clip(min=0)
    return {"gene_counts": sums, "gene_molecules": molecules, "gene_dispersion": dispersion}
