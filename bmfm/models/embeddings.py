"""From the fields of a batch to one embedding a token: every field has an encoder, and their outputs are summed.

An encoder of values may multiply the row of the gene instead (`FieldEncoder.scales`), and what describes a whole example is added to its first
token (`ExampleEncoder`). A continuous field holds a real number at ordinary tokens and -(id + 1) at special ones (BMFM-RNA, arXiv 2506.14861).
"""

import math
from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import nn

from bmfm.targets import find_class, make
from bmfm.tokenizers.batch import Batch


class FieldEncoder(nn.Module):
    """The contract of encoders: a field [B, L] to vectors [B, L, H], which are summed over the fields.

    One is made from ``hidden_size`` and its settings, which are saved with the model in ``config.json``; the class is named there by its
    dotted path, and may lie in any installed package. Of a tokenizer the encoder of ``values`` gets ``n_special``, and ``n_bins`` if
    it reads bins.

    Attributes
    ----------
    reads_bins
        Whether it reads whole numbers from 0 to `n_bins`, which the tokenizer's values must then be; else any real number.
    scales
        Whether its vectors multiply the embedding of ``input_ids``, feature by feature, instead of being added to it.
    """

    reads_bins: bool = False
    scales: bool = False

    def table(self) -> torch.Tensor:
        """The vector of every value that the field can have [V, H], for heads that are tied to it."""
        raise ValueError(f"{type(self).__name__} has no row for each value: a head cannot be tied to its field")

    def initialize(self) -> None:
        """Draw new weights in another way than the model does, which is normal for linear maps and embeddings."""

    def undecayed(self) -> list[nn.Parameter]:
        """Matrices that weight decay must leave alone; vectors are never decayed."""
        return []


class ExampleEncoder(FieldEncoder):
    """The contract of encoders of whole examples: one vector for each [N, H], which is added to the embedding of its first token, [CLS].

    Its field is known by a name of its own; what it reads of the batch, it says itself.
    """

    def forward(self, batch: Batch, tokens: FieldEncoder) -> torch.Tensor:
        """Vectors [N, H] of the examples of a batch; `tokens` is the encoder of ``input_ids``, whose rows it may read."""
        raise NotImplementedError


class TokenEmbedding(FieldEncoder):
    """A row for each id; through a linear map where the rows are not as wide as the model.

    Parameters
    ----------
    size
        Number of ids.
    dim
        Width of the rows; None for the model's.
    frozen
        Some rows never change: those that `trained` [size, 1] is 0 for.
    """

    trained: torch.Tensor

    def __init__(self, hidden_size: int, size: int, dim: int | None = None, frozen: bool = False):
        super().__init__()
        self.embedding = nn.Embedding(size, dim or hidden_size)
        self.project = nn.Linear(dim, hidden_size, bias=False) if dim and dim != hidden_size else nn.Identity()
        self.frozen = frozen
        if frozen:
            self.register_buffer("trained", torch.ones(size, 1))
            self.embedding.weight.register_hook(lambda gradient: gradient * self.trained)

    def table(self) -> torch.Tensor:
        return self.project(self.embedding.weight)

    def undecayed(self) -> list[nn.Parameter]:
        """Of frozen rows: decay would move those that no gradient reaches."""
        return list(self.embedding.parameters()) if self.frozen else []

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.project(self.embedding(ids))


def split_special(values: torch.Tensor, n_special: int, zero_is_special: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Row of the special table [...] for each value (0 where it is none), and which values are special."""
    special = values < 0
    row = (-values - 1).clamp(0, n_special - 1).long() * special
    if zero_is_special:
        zero = values == 0
        row, special = torch.where(zero, n_special, row), special | zero
    return row, special


class BinEncoder(FieldEncoder):
    """A row for each bin of an integer-valued field."""

    reads_bins = True

    def __init__(self, hidden_size: int, n_special: int, n_bins: int):
        super().__init__()
        self.n_special = n_special
        self.embedding = nn.Embedding(n_special + n_bins, hidden_size)

    def table(self) -> torch.Tensor:
        """The embedding of every special token and bin [V, H]."""
        return self.embedding.weight

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        bins = values.long()
        last = self.embedding.num_embeddings - 1
        return self.embedding(torch.where(values < 0, -bins - 1, (bins + self.n_special).clamp(max=last)))


class MlpEncoder(FieldEncoder):
    """A number through 1 -> inner -> H; with `special`, special tokens and the value 0 have learned inner states instead."""

    def __init__(self, hidden_size: int, n_special: int, inner: int = 128, special: bool = True):
        super().__init__()
        self.n_special = n_special
        self.dense_1 = nn.Linear(1, inner)
        self.dense_2 = nn.Linear(inner, hidden_size)
        self.special = nn.Embedding(n_special + 1, inner) if special else None

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        values = values.to(self.dense_1.weight.dtype)
        inner = nn.functional.leaky_relu(self.dense_1(values[..., None]))  # and again below, as the published encoder does
        if self.special is not None:
            row, special = split_special(values, self.n_special, True)
            inner = torch.where(special[..., None], self.special(row).to(inner.dtype), inner)
        return self.dense_2(nn.functional.leaky_relu(inner))


class ScaleAdaptEncoder(FieldEncoder):
    """Sines and cosines of a number at several frequencies, then a linear map; special tokens and 0 have learned rows."""

    def __init__(self, hidden_size: int, n_special: int, n_frequencies: int = 48, trainable: bool = True):
        super().__init__()
        self.n_special = n_special
        self.basis = nn.Parameter(torch.logspace(-1, 1, n_frequencies), requires_grad=trainable)
        self.dense = nn.Linear(2 * n_frequencies, hidden_size, bias=False)
        self.special = nn.Embedding(n_special + 1, hidden_size)

    def initialize(self) -> None:
        nn.init.normal_(self.dense.weight, 0.0, 1 / math.sqrt(self.dense.in_features))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        angle = values.float()[..., None] * self.basis.float()
        dense = self.dense(torch.cat([angle.sin(), angle.cos()], -1).to(self.dense.weight.dtype))
        row, special = split_special(values, self.n_special, True)
        return torch.where(special[..., None], self.special(row).to(dense.dtype), dense)


class GeneScaledEncoder(FieldEncoder):
    """Factors for each feature of a gene's embedding, which rise with its value; special tokens keep their embedding.

    An embedding that is multiplied by the value is what a weighted sum of gene embeddings is made of; one that is added to it makes all genes
    of a value alike. The factors are 1 + f(value), where f is linear between learned knots.

    Parameters
    ----------
    n_knots
        Number of values at which the slope of f changes, one of which is 0.
    largest
        The knots begin evenly spread from 0 to below this value.
    """

    scales = True

    def __init__(self, hidden_size: int, n_special: int, n_knots: int = 8, largest: float = 8.0):
        super().__init__()
        self.knots = nn.Parameter(torch.arange(n_knots) * (largest / n_knots))
        self.dense = nn.Linear(n_knots, hidden_size)

    def initialize(self) -> None:
        """Every feature begins with a slope of its own, so that the value shows in an embedding whose length is normed."""
        nn.init.normal_(self.dense.weight, 0.0, 1 / math.sqrt(self.dense.in_features))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        weight, bias = self.dense.weight, self.dense.bias
        hinges = (values.to(weight.dtype)[..., None] - self.knots).relu()
        is_value = (values >= 0).to(weight.dtype)[..., None]
        terms = torch.cat([hinges * is_value, is_value, torch.ones_like(is_value)], -1)  # one product for f, its bias and the 1
        return nn.functional.linear(terms, torch.cat([weight, bias[:, None], torch.ones_like(bias)[:, None]], 1))


class FieldEmbeddings(nn.Module):
    """Sum of the encoded fields: {name: [B, L]} -> [B, L, H]. A field's name is the batch's key for it, but for those of whole examples.

    Parameters
    ----------
    fields
        {name: ``{_target_: dotted path of a `FieldEncoder`, ...}`` with its settings}.
    """

    def __init__(self, hidden_size: int, fields: Mapping[str, Mapping[str, Any]]):
        super().__init__()
        for name, description in fields.items():
            kind: type[FieldEncoder] = find_class(description.get("_target_"), FieldEncoder, f"fields.{name}._target_")
            settings = {"hidden_size": hidden_size} | {key: value for key, value in description.items() if key != "_target_"}
            self.add_module(name, make(kind, settings, f"fields.{name}"))

    def encoder(self, name: str) -> FieldEncoder:
        """The encoder of a field."""
        encoder = self.get_submodule(name)
        assert isinstance(encoder, FieldEncoder)
        return encoder

    def forward(self, batch: Batch) -> torch.Tensor:
        fields: Mapping[str, Any] = batch
        encoders = {name: self.encoder(name) for name, _ in self.named_children()}
        of_examples = [encode for encode in encoders.values() if isinstance(encode, ExampleEncoder)]
        encoded = {name: encode(fields[name]) for name, encode in encoders.items() if encode not in of_examples}
        for name in [name for name in encoded if encoders[name].scales]:
            encoded["input_ids"] = encoded["input_ids"] * encoded.pop(name)
        total = reduce(add, encoded.values())
        for encode in of_examples:
            vectors = encode(batch, encoders["input_ids"]).to(total.dtype)
            total = total.flatten(0, 1).index_add(0, batch["cls_index"], vectors).view_as(total)
        return total
