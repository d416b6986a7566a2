"""Ways in which the states of an example's tokens become one."""

import torch

from bmfm.tokenizers.batch import Batch

POOLINGS = ("mean", "mean_all", "max_mean", "pooler", "balanced")


def cls_of(pooling: str | int) -> int | None:
    """The number of the CLS token that a way of pooling reads alone, see `model.BmfmModel.pool`; None where it reads all tokens."""
    if isinstance(pooling, int):
        return pooling
    return 0 if pooling in ("pooler", "balanced") else None


def pooled_tokens(hidden_BLH: torch.Tensor, batch: Batch, is_token_BL: torch.Tensor, pooling: str) -> torch.Tensor:
    """``mean``, ``mean_all`` or ``max_mean`` of the tokens of each example [N, H], see `model.BmfmModel.pool`."""
    states, first = hidden_BLH.flatten(0, 1), batch["cls_index"]
    n, example = len(first), batch["example_ids"]
    where = torch.where(is_token_BL, example, n).flatten()
    if pooling != "mean_all":
        where = where.index_fill(0, first, n)
    total = states.new_zeros(n + 1, states.shape[1]).index_add_(0, where, states)
    mean = total[:n] / torch.bincount(where, minlength=n + 1)[:n, None].clamp(min=1).to(states.dtype)
    if pooling != "max_mean":
        return mean
    largest = torch.zeros_like(total).scatter_reduce(0, where[:, None].expand_as(states), states, "amax", include_self=False)
    return mean + largest[:n]
