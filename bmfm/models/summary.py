"""A cell at a glance: the sum of the embeddings of all its genes, weighted by their values, which goes into [CLS].

Truncation leaves genes out, and the states of a transformer say little of the values that it is shown; the sum of all genes says most of what
kind of cell it is, at the cost of a sparse matrix product.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from bmfm.models.embeddings import ExampleEncoder, FieldEncoder, TokenEmbedding
from bmfm.tokenizers.batch import Batch


class CellSummary(ExampleEncoder):
    """Value-weighted sum of the rows of a cell's genes, norm, linear map.

    The rows are those of ``input_ids``: they are learned, loaded and frozen with it. The batch brings ``shown_profile``, all genes that are shown
    of each cell before truncation.

    Parameters
    ----------
    size
        Number of genes and special tokens, of the embedding of ``input_ids``.
    """

    def __init__(self, hidden_size: int, size: int, eps: float = 1e-12):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, eps=eps)
        self.dense = nn.Linear(hidden_size, hidden_size)

    def initialize(self) -> None:
        """A rotation: [CLS] begins as long as the norm makes it, and nothing of the sum is lost."""
        nn.init.orthogonal_(self.dense.weight)

    def forward(self, batch: Batch, tokens: FieldEncoder) -> torch.Tensor:
        if "shown_profile" not in batch:
            raise ValueError("this model reads a summary of whole cells, which the batch lacks: its tokenizer needs tokenizer.summary=true")
        profile = batch["shown_profile"]
        entries = (profile["gene"], profile["value"], profile["row"], len(batch["cls_index"]))
        if isinstance(tokens, TokenEmbedding):
            sums = tokens.project(weighted_sums(tokens.embedding.weight, *entries))
        else:
            sums = weighted_sums(tokens.table(), *entries)
        return self.dense(self.norm(sums))


def weighted_sums(table: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, row: torch.Tensor, n_rows: int) -> torch.Tensor:
    """Weighted sums of rows of a table [n_rows, D]; differentiable by the table and the weights.

    Parameters
    ----------
    table
        [V, D].
    ids, weights, row
        [nnz] each: which row of the table, its weight, and which sum it belongs to, ascending.
    """
    return _WeightedSums.apply(table, ids, weights.to(table.dtype), row, n_rows)


def _bags(table: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, bag: torch.Tensor, n_bags: int) -> torch.Tensor:
    """Weighted sums [n_bags, D] of rows of a table, of sorted bags [nnz]."""
    offsets = torch.searchsorted(bag, torch.arange(n_bags + 1, device=bag.device, dtype=bag.dtype))
    return functional.embedding_bag(ids, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True)


class _WeightedSums(torch.autograd.Function):
    """`embedding_bag`, whose own backward pass adds row by row; with the entries sorted by gene it is one more product of this kind,
    which takes a third of the time on a CPU."""

    @staticmethod
    def forward(
        context: Any, table: torch.Tensor, ids: torch.Tensor, weights: torch.Tensor, row: torch.Tensor, n_rows: int
    ) -> torch.Tensor:
        context.save_for_backward(table, ids, weights, row)
        return _bags(table, ids, weights, row, n_rows)

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        table, ids, weights, row = context.saved_tensors
        (gradient,) = gradients
        by_table = by_weights = None
        if context.needs_input_grad[0]:
            gene, order = ids.to(torch.int32).sort(stable=True)
            by_table = _bags(gradient.contiguous(), row[order], weights[order], gene, len(table))
        if context.needs_input_grad[2]:
            by_weights = (gradient[row] * table[ids]).sum(-1)
        return by_table, None, by_weights, None, None
