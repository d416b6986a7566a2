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
    measures the gene; ``bin_log_frequency`` [n_bins] where values are bins.
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
    return statistics
