"""Dilated convolutions over single bases, and both strands of DNA.

A layer is a residual block (He et al., CVPR 2016) whose convolution skips bases (Yu and Koltun, ICLR 2016), twice as many in each layer, so
that a state sees far with few weights; the recipe of the published convolutional models of sequence (Basenji, SpliceAI).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from bmfm.genome.alphabet import COMPLEMENT, SYMBOLS
from bmfm.models.backbones.base import Backbone, Capabilities, HiddenStates
from bmfm.models.embeddings import FieldEncoder
from bmfm.special import CLS, SEP, SPECIAL_TOKENS
from bmfm.targets import class_path
from bmfm.tokenizers.batch import Batch

STRANDS = ("none", "average")


class Conv(Backbone):
    """Residual blocks of dilated convolutions.

    Parameters
    ----------
    kernel_size
        Width of the convolutions, in tokens; an odd number.
    max_dilation
        Layer i looks at every 2^i-th token, counted again from 1 once it would be more than this.
    reverse_complement
        ``average``: the states are the means of those of both strands, so that a sequence and its reverse complement have the same state at
        each base, and [CLS] and means are exactly the same; for labels that do not depend on the strand. Such a state cannot tell a base
        from its complement, so masked bases are learned with ``none``.
    """

    def __init__(
        self,
        hidden_size: int = 64,
        num_hidden_layers: int = 5,
        kernel_size: int = 5,
        max_dilation: int = 64,
        dropout: float = 0.1,
        reverse_complement: str = "none",
    ):
        super().__init__()
        if reverse_complement not in STRANDS:
            raise ValueError(f"model.reverse_complement={reverse_complement!r} is unknown; choose from {', '.join(STRANDS)}")
        self.hidden_size, self.reverse_complement = hidden_size, reverse_complement
        self.layers = nn.ModuleList(
            ConvBlock(hidden_size, kernel_size, dilation, dropout, self.norm_eps) for dilation in dilations(num_hidden_layers, max_dilation)
        )
        self.final_norm = nn.LayerNorm(hidden_size, eps=self.norm_eps)
        self.reach = kernel_size // 2 * sum(dilations(num_hidden_layers, max_dilation))

    @classmethod
    def encoders(cls, fields: Mapping[str, dict], settings: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, dict]:
        if settings.get("reverse_complement") != "average":
            return dict(fields)
        return dict(fields) | {
            "input_ids": {"_target_": class_path(StrandEmbedding), "size": fields["input_ids"]["size"], "complement": complements(tokens)}
        }

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(reach=self.reach if self.reverse_complement == "none" else None)

    def run(self, embeddings_BLH: torch.Tensor, batch: Batch, all_layers: bool = False) -> HiddenStates:
        forward = self._strand(embeddings_BLH, batch, all_layers)
        if self.reverse_complement == "none":
            return forward
        mirror = mirrored_places(batch)[..., None].expand_as(embeddings_BLH)
        backward = self._strand(embeddings_BLH.gather(1, mirror).flip(-1), batch, all_layers)
        layers = [(a + b.gather(1, mirror)) / 2 for a, b in zip(forward.layers, backward.layers, strict=True)]
        return HiddenStates((forward.last + backward.last.gather(1, mirror)) / 2, layers)

    def _strand(self, states_BLH: torch.Tensor, batch: Batch, all_layers: bool) -> HiddenStates:
        layers = []
        neighbours = Neighbours(batch)
        for layer in self.layers:
            states_BLH = layer(states_BLH, neighbours)
            if all_layers:
                layers.append(states_BLH)
        return HiddenStates(self.final_norm(states_BLH), layers)


def dilations(n_layers: int, most: int) -> list[int]:
    """Dilation of each layer: 1, 2, 4, ..., and from 1 again once it would be more than `most`."""
    return [2 ** (i % most.bit_length()) for i in range(n_layers)]


class Neighbours:
    """Which tokens a convolution may see: those of the same sequence, and of isolated ones nobody but themselves."""

    def __init__(self, batch: Batch):
        self.sequence_ids, self.isolated = batch["sequence_ids"], batch.get("isolated_mask")
        self.one_sequence_a_row = not batch.get("packed", True) and self.isolated is None
        self.is_token = (self.sequence_ids > 0)[..., None]

    def are_seen(self, offset: int) -> torch.Tensor:
        """Whether each token [B, L, 1] sees the one that stands `offset` places to the right of it."""
        there = shifted(self.sequence_ids[..., None], offset)
        seen = (there == self.sequence_ids[..., None]) & self.is_token
        if self.isolated is not None and offset:
            seen = seen & ~shifted(self.isolated[..., None], offset)
        return seen


class ConvBlock(nn.Module):
    """norm -> dilated convolution -> gelu -> linear map, added to what came in."""

    def __init__(self, hidden_size: int, kernel_size: int, dilation: int, dropout: float, eps: float):
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"model.kernel_size={kernel_size}: an odd number is needed, with as many tokens on either side")
        self.norm = nn.LayerNorm(hidden_size, eps=eps)
        self.conv = nn.Conv1d(hidden_size, hidden_size, kernel_size, dilation=dilation, padding=kernel_size // 2 * dilation)
        self.out = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, states_BLH: torch.Tensor, neighbours: Neighbours) -> torch.Tensor:
        normed = self.norm(states_BLH)
        mixed = self._convolve(normed * neighbours.is_token) if neighbours.one_sequence_a_row else self._apart(normed, neighbours)
        return states_BLH + self.dropout(self.out(nn.functional.gelu(mixed)))

    def _convolve(self, states_BLH: torch.Tensor) -> torch.Tensor:
        """`conv` of rows, as a convolution of images one token high: the channels of a token then lie side by side in memory, as they do in
        the states, for which processors have faster kernels than for `nn.Conv1d`, above all in bfloat16 (benchmarks/conv_speed.py)."""
        (kernel_size,), (dilation,) = self.conv.kernel_size, self.conv.dilation
        padding = kernel_size // 2 * dilation
        images = states_BLH[:, None].permute(0, 3, 1, 2)
        weight = self.conv.weight[:, :, None]
        return nn.functional.conv2d(images, weight, self.conv.bias, 1, (0, padding), (1, dilation)).permute(0, 2, 3, 1)[:, 0]

    def _apart(self, normed_BLH: torch.Tensor, neighbours: Neighbours) -> torch.Tensor:
        """The same convolution, one tap after the other, where rows hold several sequences."""
        (kernel_size,), (dilation,) = self.conv.kernel_size, self.conv.dilation
        mixed = None
        for tap in range(kernel_size):
            offset = (tap - kernel_size // 2) * dilation
            if abs(offset) >= normed_BLH.shape[1]:
                continue
            bias = self.conv.bias if mixed is None else None
            part = nn.functional.linear(shifted(normed_BLH, offset) * neighbours.are_seen(offset), self.conv.weight[..., tap], bias)
            mixed = part if mixed is None else mixed + part
        assert mixed is not None
        return mixed


def shifted(values_BLX: torch.Tensor, offset: int) -> torch.Tensor:
    """At each place what stands `offset` places to the right; 0 beyond the ends."""
    length = values_BLX.shape[1]
    padded = nn.functional.pad(values_BLX, (0, 0, max(0, -offset), max(0, offset)))
    return padded[:, max(0, offset) : max(0, offset) + length]


def mirrored_places(batch: Batch) -> torch.Tensor:
    """Column [B, L] that each base has on the other strand; special tokens at the ends, and padding, stay where they are."""
    sequence_ids, input_ids = batch["sequence_ids"], batch["input_ids"]
    column = torch.arange(sequence_ids.shape[1], device=sequence_ids.device).expand_as(sequence_ids)
    n_sequences = int(sequence_ids.max()) if batch.get("packed", True) else 1
    ends = torch.zeros(sequence_ids.shape[0], n_sequences + 1, dtype=torch.long, device=sequence_ids.device)
    first = ends.scatter_reduce(1, sequence_ids, column, "amin", include_self=False).gather(1, sequence_ids)
    last = ends.scatter_reduce(1, sequence_ids, column, "amax", include_self=False).gather(1, sequence_ids)
    stays = (sequence_ids == 0) | (input_ids == CLS) | (input_ids == SEP)
    return torch.where(stays, column, first + last - column)


class StrandEmbedding(FieldEncoder):
    """A vector for each token, whose complement has the same with its numbers in reverse order.

    So the reverse complement of an embedded sequence is that sequence read from its end, with the channels of each token reversed (the idea
    of Caduceus, arXiv 2403.03234).

    Parameters
    ----------
    size
        Number of tokens.
    complement
        The complement of each token [size], its own id where it has none.
    """

    complement: torch.Tensor

    def __init__(self, hidden_size: int, size: int, complement: list[int]):
        super().__init__()
        if hidden_size % 2:
            raise ValueError(f"model.hidden_size={hidden_size}: an even number is needed where both strands are averaged")
        if len(complement) != size or any(not 0 <= i < size or complement[complement[i]] != i for i in complement):
            raise ValueError(f"fields.input_ids.complement is no list of {size:,} ids, each the complement of its own complement")
        self.embedding = nn.Embedding(size, hidden_size // 2)
        self.register_buffer("complement", torch.tensor(complement), persistent=False)

    def table(self) -> torch.Tensor:
        rows = self.embedding.weight
        return torch.cat([rows, rows[self.complement].flip(-1)], -1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.embedding(ids), self.embedding(self.complement[ids]).flip(-1)], -1)


def complements(tokens: Sequence[str]) -> list[int]:
    """The id of each token's complement; of special tokens their own.

    Raises
    ------
    ValueError
        If a token is no single symbol of DNA, or the tokens lack the complement of one.
    """
    code = {symbol: number for number, symbol in enumerate(SYMBOLS)}
    number = {token: i for i, token in enumerate(tokens)}
    ids = np.arange(len(tokens))
    for i, token in enumerate(tokens[len(SPECIAL_TOKENS) :], len(SPECIAL_TOKENS)):
        partner = number.get(SYMBOLS[COMPLEMENT[code[token]]]) if token in code else None
        if partner is None:
            raise ValueError(
                f"model.reverse_complement=average: the token {token!r} has no complement in this vocabulary; choose tokenizer=single_base"
            )
        ids[i] = partner
    return ids.tolist()
