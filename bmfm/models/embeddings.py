"""From the fields of a batch to one embedding a token: every field has an encoder, and their outputs are summed.

A continuous field holds a real number at ordinary tokens and -(id + 1) at special ones (BMFM-RNA, arXiv 2506.14861).
"""

from functools import reduce
from operator import add

import torch
from torch import nn

from bmfm.tokenizers.batch import Batch

VALUE_ENCODERS = ("token", "mlp", "mlp_special", "scale_adapt")


class TokenEmbedding(nn.Module):
    """A row for each id; through a linear map where the rows are not as wide as the model."""

    def __init__(self, hidden_size: int, size: int, dim: int | None = None, frozen: bool = False):
        super().__init__()
        self.rows = nn.Embedding(size, dim or hidden_size)
        self.project = nn.Linear(dim, hidden_size, bias=False) if dim and dim != hidden_size else nn.Identity()
        if frozen:
            self.register_buffer("trained", torch.ones(size, 1))
            self.rows.weight.no_decay = True  # decay would move rows that no gradient reaches
            self.rows.weight.register_hook(lambda gradient: gradient * self.trained)

    @property
    def table(self) -> torch.Tensor:
        """The embedding of every id [V, H], for heads that are tied to it."""
        return self.project(self.rows.weight)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.project(self.rows(ids))


def split_special(values: torch.Tensor, n_special: int, zero_is_special: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Row of the special table [...] for each value (0 where it is none), and which values are special."""
    special = values < 0
    row = (-values - 1).clamp(0, n_special - 1).long() * special
    if zero_is_special:
        zero = values == 0
        row, special = torch.where(zero, n_special, row), special | zero
    return row, special


class BinEncoder(nn.Module):
    """A row for each bin of an integer-valued field."""

    def __init__(self, hidden_size: int, n_special: int, n_bins: int):
        super().__init__()
        self.n_special = n_special
        self.rows = nn.Embedding(n_special + n_bins, hidden_size)

    @property
    def table(self) -> torch.Tensor:
        """The embedding of every special token and bin [V, H]."""
        return self.rows.weight

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        bins = values.long()
        return self.rows(torch.where(values < 0, -bins - 1, (bins + self.n_special).clamp(max=self.rows.num_embeddings - 1)))


class MlpEncoder(nn.Module):
    """A number through 1 -> inner -> H; with `special`, special tokens and the value 0 have learned inner states instead."""

    def __init__(self, hidden_size: int, n_special: int, inner: int = 128, special: bool = True):
        super().__init__()
        self.n_special = n_special
        self.dense_1 = nn.Linear(1, inner)
        self.dense_2 = nn.Linear(inner, hidden_size)
        self.special = nn.Embedding(n_special + 1, inner) if special else None

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        inner = nn.functional.leaky_relu(self.dense_1(values[..., None]))  # and again below, as the published encoder does
        if self.special is not None:
            row, special = split_special(values, self.n_special, True)
            inner = torch.where(special[..., None], self.special(row).to(inner.dtype), inner)
        return self.dense_2(nn.functional.leaky_relu(inner))


class ScaleAdaptEncoder(nn.Module):
    """Sines and cosines of a number at several frequencies, then a linear map; special tokens and 0 have learned rows."""

    def __init__(self, hidden_size: int, n_special: int, n_frequencies: int = 48, trainable: bool = True):
        super().__init__()
        self.n_special = n_special
        self.basis = nn.Parameter(torch.logspace(-1, 1, n_frequencies), requires_grad=trainable)
        self.dense = nn.Linear(2 * n_frequencies, hidden_size, bias=False)
        self.special = nn.Embedding(n_special + 1, hidden_size)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        angle = values.float()[..., None] * self.basis.float()
        dense = self.dense(torch.cat([angle.sin(), angle.cos()], -1).to(self.dense.weight.dtype))
        row, special = split_special(values, self.n_special, True)
        return torch.where(special[..., None], self.special(row).to(dense.dtype), dense)


def encoder(hidden_size: int, kind: str, **options) -> nn.Module:
    """A field encoder by name: ``embedding`` for ids; ``token``, ``mlp``, ``mlp_special``, ``scale_adapt`` for values."""
    if kind == "embedding":
        return TokenEmbedding(hidden_size, **options)
    if kind == "token":
        return BinEncoder(hidden_size, **options)
    if kind in ("mlp", "mlp_special"):
        return MlpEncoder(hidden_size, special=kind == "mlp_special", **options)
    if kind == "scale_adapt":
        return ScaleAdaptEncoder(hidden_size, **options)
    raise ValueError(f"model.values.kind={kind!r} is unknown; choose from {', '.join(VALUE_ENCODERS)}")


class FieldEmbeddings(nn.Module):
    """Sum of the encoded fields: {name: [B, L]} -> [B, L, H]. A field's name is the batch's key for it."""

    def __init__(self, hidden_size: int, fields: dict[str, dict]):
        super().__init__()
        for name, options in fields.items():
            self.add_module(name, encoder(hidden_size, **options))

    def table(self, name: str) -> torch.Tensor:
        """The embedding of every token of a field [V, H]."""
        encoder = self.get_submodule(name)
        if not isinstance(encoder, TokenEmbedding | BinEncoder):
            raise ValueError(f"a head cannot be tied to the field {name!r}, whose encoder has no row for each value")
        return encoder.table

    def forward(self, batch: Batch) -> torch.Tensor:
        return reduce(add, (encode(batch[name]) for name, encode in self.named_children()))
