"""DNA models of others as backbones: whatever `transformers.AutoModel` loads, with its own ids and embeddings.

Batches keep this project's ids (special tokens 0 to 4, then all others in their order); the backbone writes them in the
model's own. Where a model has no [CLS] or no [SEP], that place is not shown to it.
"""

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bmfm.special import CLS, MASK, PAD
from bmfm.storage.config import without_choices
from bmfm.storage.remote_code import asks_for_code, remote_code_is_allowed, without_hub

CODE = "code"
"""Folder, in that of a saved model, of the code and configuration that it came with."""

COMPUTED = (".position_ids", ".inv_freq", ".token_type_ids", ".attn.bias", ".masked_bias")
"""Tables that older files hold, and that transformers now computes."""


class ForeignEmbeddings(nn.Module):
    """The backbone's own token embeddings as a field's, for heads that are tied to them."""

    def __init__(self, backbone: "Foreign"):
        super().__init__()
        object.__setattr__(self, "backbone", backbone)  # no submodule: its weights are the backbone's

    @property
    def input_ids(self) -> "ForeignEmbeddings":
        return self

    @property
    def table(self) -> torch.Tensor:
        return self.backbone.body.get_input_embeddings().weight[self.backbone.their_ids.clamp(min=0)]


class Foreign(nn.Module):
    """A `transformers.AutoModel` that takes ids.

    Parameters
    ----------
    options
        ``config`` (its configuration as a dict), ``their_ids`` (see `ForeignTokenizer`), ``source`` (where its code is,
        if it brings any).
    """

    reads_ids = True

    def __init__(self, options: dict):
        from transformers import AutoModel

        super().__init__()
        given = {k: v for k, v in options["config"].items() if k != "transformers_version"}
        try:
            with without_hub():
                config = configuration(given, options.get("source"))
                self.body = AutoModel.from_config(config, trust_remote_code=remote_code_is_allowed())
        except ValueError as error:
            raise asks_for_code(error, options.get("source")) from error
        self.config = self.body.config
        self.size = next(int(given[k]) for k in ("hidden_size", "d_model", "n_embd", "dim") if k in given)
        self.eps, self.norm_bias = 1e-12, True
        self.register_buffer("their_ids", torch.tensor(options["their_ids"]), persistent=False)
        self.takes_mask = "attention_mask" in inspect.signature(self.body.forward).parameters

    @property
    def layers(self) -> nn.ModuleList:
        return max((m for m in self.body.modules() if isinstance(m, nn.ModuleList)), key=len)

    def use_attention(self, implementation: str) -> None:
        """``auto`` leaves the model's own choice."""
        if implementation != "auto":
            self.body.set_attn_implementation(implementation)

    def unread(self) -> list[str]:
        """Names of the trainable parameters that the hidden states do not depend on, found by the gradients of a few tokens."""
        before, was_training = self.config._attn_implementation, self.body.training
        trained = {name: p for name, p in self.named_parameters() if p.requires_grad}
        if not trained:
            return []
        ids = torch.tensor([[CLS, 5, 6, 7]], device=self.their_ids.device) % len(self.their_ids)
        try:
            if (before or "").startswith("flash"):  # which is for GPUs, where the model is not yet
                self.body.set_attn_implementation("eager")
            hidden = self.eval().of_batch({"input_ids": ids, "sequence_ids": torch.ones_like(ids)})
            found = torch.autograd.grad(hidden.sum(), list(trained.values()), allow_unused=True)
        finally:
            self.train(was_training)
            if (before or "").startswith("flash"):
                self.body.set_attn_implementation(before)
        return [name for name, gradient in zip(trained, found, strict=True) if gradient is None]

    def shown(self, input_ids_BL: torch.Tensor) -> torch.Tensor:
        """Which places the model sees: not those of special tokens that it lacks."""
        return self.their_ids[input_ids_BL] >= 0

    def of_batch(self, batch: dict) -> torch.Tensor:
        """Final hidden states [B, L, H] of padded rows; 0 at [CLS] where the model has none."""
        input_ids, document = batch["input_ids"], batch["sequence_ids"]
        if batch.get("packed"):
            raise ValueError("this backbone cannot keep several examples of a row apart: choose data.packing=false")
        if self.their_ids[MASK] < 0 and (input_ids == MASK).any():
            raise ValueError("this model has no [MASK] token: it cannot be trained for masked tokens")
        skip, width = int(self.their_ids[CLS] < 0), input_ids.shape[1]
        used = int((document > 0).any(0).nonzero().max()) + 1  # rows are wider than their longest, maybe than there are positions
        input_ids, document = input_ids[:, :used], document[:, :used]
        shown = self.shown(input_ids) & (document > 0)
        ids = torch.where(shown, self.their_ids[input_ids], self.their_ids[PAD].clamp(min=0))[:, skip:]
        out = self.body(ids, attention_mask=shown[:, skip:].long()) if self.takes_mask else self.body(ids)
        hidden = getattr(out, "last_hidden_state", None)
        return nn.functional.pad(out[0] if hidden is None else hidden, (0, 0, skip, width - used))


def save_code(source: str, target: Path) -> None:
    """Copy the code that a model came with into the folder it is saved to, so that it can be loaded anywhere."""
    import shutil

    (target / CODE).mkdir(parents=True, exist_ok=True)
    for file in [*Path(source).glob("*.py"), Path(source) / "config.json"]:
        if file.resolve().parent != (target / CODE).resolve():
            shutil.copyfile(file, target / CODE / file.name)


def configuration(given: dict, source: object = None) -> Any:
    """The transformers configuration of a model of others, which chooses no code for its attention.

    Parameters
    ----------
    given
        What its ``config.json`` holds.
    source
        Folder with the code of the model, where it has any; its configuration is read by that.
    """
    from transformers import AutoConfig

    if source is None:
        return AutoConfig.for_model(**without_choices(given))
    config = AutoConfig.from_pretrained(source, trust_remote_code=remote_code_is_allowed())
    config._attn_implementation = None
    return config


@torch.no_grad()
def is_causal(model) -> bool:
    """Whether tokens see only what is before them, so that the state of [CLS], the first, is the same for every input."""
    ids = torch.tensor([[CLS, 5, 6, 7], [CLS, 5, 6, 8]]) % len(model.backbone.their_ids)
    hidden = model.eval().backbone.of_batch({"input_ids": ids, "sequence_ids": torch.ones_like(ids)})
    return bool((hidden[0, 1] == hidden[1, 1]).all())
