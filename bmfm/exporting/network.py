"""A model as one graph over padded rows, an example each: what runtimes without this package run."""

from collections.abc import Mapping
from copy import deepcopy
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from bmfm.models.backbones.huggingface import HuggingFaceBackbone
from bmfm.models.embeddings import ExampleEncoder, FieldEncoder
from bmfm.models.model import BmfmModel
from bmfm.models.pooling import cls_of
from bmfm.models.summary import CellSummary
from bmfm.tokenizers.batch import Batch

PROFILE = ("profile_ids", "profile_values")
"""Inputs of models that read a summary of whole cells: ids [B, G] and values [B, G] of all genes of each cell; the value 0 is padding."""

EMBEDDING, STATES = "embedding", "last_hidden_state"


def output_of(head: str) -> str:
    """The name of the output that holds the logits of a head."""
    return f"logits.{head}"


class Network(nn.Module):
    """A model whose inputs and outputs are tensors with names.

    Call it on `inputs` in their order: ``input_ids`` [B, L] int64, ``attention_mask`` [B, L] int64 (1 at tokens, special ones too, which stand before
    padding), of cells ``values`` [B, L] float32 and, of models with a summary, `PROFILE`. It returns `outputs` in their order:
    ``last_hidden_state`` [B, L, H], ``embedding`` [B, H] by the pooling of the model, and the logits of each head, [B, size] or, of heads that
    label or predict tokens, [B, L, size].

    Raises
    ------
    ValueError
        If the model is none that can be such a graph; says why.
    """

    def __init__(self, model: BmfmModel):
        super().__init__()
        if isinstance(model.backbone, HuggingFaceBackbone):
            raise ValueError("this model is one of transformers: export the folder that it came from by optimum (pip install optimum-onnx)")
        if other := sorted(model.config.fields.keys() - {"input_ids", "values", "summary"}):
            raise ValueError(f"models that read {', '.join(other)} cannot be exported: their inputs are no padded rows")
        self.model = deepcopy(model).cpu().float().eval()
        self.model.use_attention("sdpa" if model.backbone.capabilities.attention else "auto")
        self.pooling = model.check_pooling(None)
        self.inputs = ["input_ids", "attention_mask"]
        if "values" in model.config.fields:
            self.inputs.append("values")
        if "summary" in model.config.fields:
            summary = self.model.embeddings.encoder("summary")
            assert isinstance(summary, CellSummary)
            self.model.embeddings.add_module("summary", PaddedSummary(summary))
            self.inputs += PROFILE
        self.outputs = [STATES, EMBEDDING, *map(output_of, model.config.heads)]
        self.eval()

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        fields = dict(zip(self.inputs, tensors, strict=True))
        input_ids, mask = fields["input_ids"], fields["attention_mask"]
        n, length = input_ids.shape
        positions = torch.arange(length).expand(n, length) if self.model.config.positions else torch.zeros_like(input_ids)
        example = torch.arange(n)[:, None].expand(n, length)
        batch: Any = fields | {
            "sequence_ids": mask,
            "position_ids": positions,
            "example_ids": torch.where(mask > 0, example, -1),
            "cls_index": torch.arange(n) * length,
            "packed": False,
        }
        states = self.model.encode(batch)
        heads = [self._logits(name, head, states, mask) for name, head in self.model.config.heads.items()]
        return states, self._pool(states, mask, self.pooling), *heads

    def _logits(self, name: str, head: Mapping[str, Any], states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        pooling = head.get("pooling", head.get("cls", "token"))
        if pooling != "token":
            logits = self.model.head(name, self._pool(states, mask, pooling))
            return logits + self._places(name, states, mask) if head.get("places") else logits
        if head.get("constant"):
            return self.model.head(name, states.flatten(0, 1)).unflatten(0, states.shape[:2])
        return self.model.head(name, states)

    def _places(self, name: str, states_BLH: torch.Tensor, mask_BL: torch.Tensor) -> torch.Tensor:
        """As `Places`, of padded rows: what stands between [CLS] and [SEP]."""
        places = self.model.heads.decoder(name).places
        assert places is not None
        read = torch.nn.functional.linear(states_BLH, places.channels)
        number, n_tokens = torch.arange(mask_BL.shape[1]), mask_BL.sum(1, keepdim=True)
        is_content = (number > 0) & (number < n_tokens - 1)
        laid = torch.nn.functional.pad(torch.where(is_content[..., None], read, 0.0), (0, 0, 0, places.length))[:, 1 : places.length + 1]
        return torch.nn.functional.linear(laid.flatten(1), places.weight)

    def _pool(self, states_BLH: torch.Tensor, mask_BL: torch.Tensor, pooling: str | int) -> torch.Tensor:
        """As `BmfmModel.pool`, of padded rows."""
        number = cls_of(pooling)
        if number is not None:
            return self.model.pooled_cls(states_BLH[:, number], pooling)
        counted = mask_BL > 0
        if pooling != "mean_all":
            counted = counted & (torch.arange(mask_BL.shape[1]) > 0)
        counted_BL1 = counted[..., None]
        total = torch.where(counted_BL1, states_BLH, 0.0).sum(1)
        mean = total / counted.sum(1, keepdim=True).clamp(min=1).to(states_BLH.dtype)
        return mean + torch.where(counted_BL1, states_BLH, -torch.inf).amax(1) if pooling == "max_mean" else mean


class PaddedSummary(ExampleEncoder):
    """A `CellSummary` that reads the genes of each cell as a padded row."""

    def __init__(self, summary: CellSummary):
        super().__init__()
        self.summary = summary

    def forward(self, batch: Batch, tokens: FieldEncoder) -> torch.Tensor:
        fields: Mapping[str, Any] = batch
        rows = tokens(fields["profile_ids"])
        sums = torch.matmul(fields["profile_values"][:, None], rows)[:, 0]
        return self.summary.dense(self.summary.norm(sums))


def network_inputs(batch: Batch, names: list[str]) -> list[torch.Tensor]:
    """The inputs of a `Network`, of a padded batch that a `Predictor` made."""
    fields: dict[str, Any] = {"input_ids": batch["input_ids"], "attention_mask": (batch["sequence_ids"] > 0).long()}
    if "values" in names:
        fields["values"] = batch["values"]
    if "profile_ids" in names:
        profile, n = batch["shown_profile"], len(batch["cls_index"])
        ends = torch.searchsorted(profile["row"], torch.arange(n + 1)).tolist()  # its rows follow one another
        width = max(1, *(end - begin for begin, end in pairwise(ends)))
        for name, source in zip(PROFILE, (profile["gene"], profile["value"]), strict=True):
            fields[name] = source.new_zeros(n, width)
            for row, (begin, end) in enumerate(pairwise(ends)):
                fields[name][row, : end - begin] = source[begin:end]
    return [fields[name] for name in names]
