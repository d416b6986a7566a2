"""Models of others as backbones: whatever transformers loads, with its own ids, token embeddings and language-model head.

Batches keep this project's ids (special tokens 0 to 4, then all others in their order); the backbone writes them in the
model's own. Where a model has no [CLS] or no [SEP], that place is not shown to it.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bmfm.models.backbones.base import Backbone, Capabilities, HiddenStates, record_outputs
from bmfm.special import CLS, MASK, PAD
from bmfm.storage.config import without_choices
from bmfm.storage.remote_code import asks_for_code, remote_code_is_allowed, without_hub
from bmfm.tokenizers.batch import Batch
from bmfm.tokenizers.huggingface import positions

CODE = "code"
"""Folder, in that of a saved model, of the code and configuration that it came with."""

COMPUTED = (".position_ids", ".inv_freq", ".token_type_ids", ".attn.bias", ".masked_bias")
"""Tables that older files hold, and that transformers now computes."""

AUTO_CLASSES = {None: "AutoModel", "masked": "AutoModelForMaskedLM", "causal": "AutoModelForCausalLM"}
"""{kind of language-model head: class of transformers that makes the model with it}."""


class HuggingFaceBackbone(Backbone):
    """A model that transformers makes, and that takes ids.

    Parameters
    ----------
    config
        What its ``config.json`` holds.
    hf_token_ids
        The model's id of each of this project's tokens [V], -1 for a special token that it lacks; see `HuggingFaceTokenizer`.
    lm_head
        ``masked`` or ``causal`` where it has a language-model head of that kind.
    causal
        Whether tokens see only what is before them, see `looks_back`.
    source
        Folder with its code, where it brings any.
    """

    own_embeddings = True

    def __init__(self, config: dict, hf_token_ids: list[int], lm_head: str | None = None, causal: bool = False, source: str | None = None):
        import transformers

        super().__init__()
        settings = {k: v for k, v in config.items() if k != "transformers_version"}
        try:
            with without_hub():
                described = transformers_config(settings, source)
                factory = getattr(transformers, AUTO_CLASSES[lm_head])
                self.network = factory.from_config(described, trust_remote_code=remote_code_is_allowed())
        except ValueError as error:
            raise asks_for_code(error, source) from error
        self.config, self.lm_head, self.causal = self.network.config, lm_head, causal
        self.hidden_size = next(int(settings[k]) for k in ("hidden_size", "d_model", "n_embd", "dim") if k in settings)
        self.initializer_range = float(self.config.to_dict().get("initializer_range") or 0.02)
        self.max_tokens = positions(settings)
        self.register_buffer("hf_token_ids", torch.tensor(hf_token_ids), persistent=False)
        self.takes_mask = "attention_mask" in inspect.signature(self.encoder.forward).parameters
        self.refer_to_layers(max((m for m in self.encoder.modules() if isinstance(m, nn.ModuleList)), key=len))
        self._lookup_name: str | None = None

    hf_token_ids: torch.Tensor

    @property
    def encoder(self) -> nn.Module:
        return self.network.base_model if self.lm_head else self.network

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            causal=self.causal,
            packing=False,
            isolation=False,
            attention=("sdpa", "eager", "flash_attention_2", "flex_attention"),
            lm_head=self.lm_head is not None,
            mask_token=bool(self.hf_token_ids[MASK] >= 0),
            max_tokens=self.max_tokens,
        )

    def use_attention(self, implementation: str) -> None:
        """``auto`` leaves the model's own choice."""
        if implementation != "auto":
            self.network.set_attn_implementation(implementation)

    def embed(self, batch: Batch) -> torch.Tensor:
        """The model's own token embeddings [R, L, H], before positions and norms, which `run` adds."""
        return self._lookup()(self._hf_ids(batch["input_ids"]))

    def embedding_table(self) -> torch.Tensor:
        weight = self._lookup().weight
        assert isinstance(weight, torch.Tensor)
        return weight[self.hf_token_ids.clamp(min=0)]

    def attention_mask(self, batch: Batch) -> torch.Tensor:
        return (batch["example_ids"] >= 0) & (self.hf_token_ids[batch["input_ids"]] >= 0)

    def run(self, embeddings_BLH: torch.Tensor, batch: Batch, all_layers: bool = False) -> HiddenStates:
        """Final hidden states of padded rows; 0 at [CLS] where the model has none.

        The model reads ids as ever, and gets the embeddings in place of what it looks up by them: so whatever else it makes of ids
        (positions, tokens that it drops) is as its makers meant it.
        """
        input_ids, sequence_ids = batch["input_ids"], batch["sequence_ids"]
        if self.hf_token_ids[MASK] < 0 and (input_ids == MASK).any():
            raise ValueError("this model has no [MASK] token: it cannot be trained for masked tokens")
        skip, width = int(self.hf_token_ids[CLS] < 0), input_ids.shape[1]
        used = int((sequence_ids > 0).any(0).nonzero().max()) + 1  # rows are wider than their longest, maybe than there are positions
        seen = ((sequence_ids > 0) & (self.hf_token_ids[input_ids] >= 0))[:, skip:used]
        ids = torch.where(seen, self._hf_ids(input_ids)[:, skip:used], self.hf_token_ids[PAD].clamp(min=0))
        mask = {"attention_mask": seen.long()} if self.takes_mask else {}
        with self._given(ids, embeddings_BLH[:, skip:used]), record_outputs(self.layers, all_layers) as layers:
            last = _first(self.encoder(ids, **mask))
        if odd := [tuple(hidden.shape) for hidden in layers if hidden.shape[:2] != ids.shape]:
            raise ValueError(f"layers of {type(self.network).__name__} return {odd[0]}, which is no state for each token")
        last, *layers = (nn.functional.pad(hidden, (0, 0, skip, width - used)) for hidden in (last, *layers))
        return HiddenStates(last, layers)

    def lm_logits(self, hidden_BLH: torch.Tensor) -> torch.Tensor:
        """Logits [..., V] of states [..., H], by the model's own head, which is run on them in place of its encoder's."""
        if self.lm_head is None:
            return super().lm_logits(hidden_BLH)
        states = hidden_BLH.reshape(1, -1, hidden_BLH.shape[-1])
        encoder = self.encoder
        encoder.forward = lambda *arguments, **options: _Outputs((states,))  # type: ignore[method-assign]
        try:
            logits = _first(self.network(torch.zeros(states.shape[:2], dtype=torch.long, device=states.device)))
        finally:
            del encoder.forward
        ours = logits[0].index_select(1, self.hf_token_ids.clamp(min=0)).masked_fill(self.hf_token_ids < 0, -torch.inf)
        return ours.view(*hidden_BLH.shape[:-1], -1)

    def frozen_parameters(self, lm_head: bool = False) -> list[str]:
        """Found by the gradients of a few tokens."""
        before, was_training = self.config._attn_implementation, self.network.training
        trained = {name: p for name, p in self.named_parameters() if p.requires_grad}
        if not trained:
            return []
        batch = self._few_tokens([5, 6, 7])
        try:
            if (before or "").startswith("flash"):  # which is for GPUs, where the model is not yet
                self.network.set_attn_implementation("eager")
            hidden = self.eval().run(self.embed(batch), batch).last
            total = hidden.sum() + (self.lm_logits(hidden).clamp(min=-1e9).sum() if lm_head else 0.0)
            gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
        finally:
            self.train(was_training)
            if (before or "").startswith("flash"):
                self.network.set_attn_implementation(before)
        return [name for name, gradient in zip(trained, gradients, strict=True) if gradient is None]

    @torch.no_grad()
    def looks_back(self) -> bool:
        """Whether tokens see only what is before them, so that the state of [CLS], the first, is the same for every input."""
        was_training = self.training
        self.eval()
        batches = [self._few_tokens(ids) for ids in ([5, 6, 7], [5, 6, 8])]
        one, other = (self.run(self.embed(batch), batch).last[0, 1] for batch in batches)
        self.train(was_training)
        return bool((one == other).all())

    def _few_tokens(self, ids: list[int]) -> Batch:
        input_ids = torch.tensor([[CLS, *ids]], device=self.hf_token_ids.device) % len(self.hf_token_ids)
        return {"input_ids": input_ids, "sequence_ids": torch.ones_like(input_ids)}

    def _hf_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The model's own ids; those of padding where it has none."""
        ids = self.hf_token_ids[input_ids]
        return torch.where(ids >= 0, ids, self.hf_token_ids[PAD].clamp(min=0))

    def _lookup(self) -> nn.Module:
        """The module that ids are looked up in; where the model does not say which, it is seen from what its encoder calls."""
        if self._lookup_name is None:
            self._lookup_name = _said_by(self.encoder) or self._seen_lookup()
        return self.encoder.get_submodule(self._lookup_name)

    @torch.no_grad()
    def _seen_lookup(self) -> str:
        ids = self._hf_ids(self._few_tokens([5, 6, 7])["input_ids"])
        called: list[str] = []
        tables = [(name, m) for name, m in self.encoder.named_modules() if isinstance(m, nn.Embedding)]
        hooks = [
            m.register_forward_pre_hook(lambda module, args, n=name: called.append(n) if torch.equal(args[0], ids) else None)
            for name, m in tables
        ]
        try:
            self.encoder(ids)
        finally:
            for hook in hooks:
                hook.remove()
        if not called:
            raise ValueError(
                f"{type(self.network).__name__} looks its ids up in none of its nn.Embedding: its token embeddings are not known"
            )
        return called[0]

    @contextmanager
    def _given(self, ids: torch.Tensor, embeddings: torch.Tensor) -> Iterator[None]:
        """Inside, whoever looks up `ids` gets `embeddings`."""
        hook = self._lookup().register_forward_hook(
            lambda module, args, output: embeddings if args[0] is ids or torch.equal(args[0], ids) else None
        )
        try:
            yield
        finally:
            hook.remove()


class _Outputs(tuple):
    """What an encoder returns, by number and by name; whatever else a head asks for is None."""

    def __getattr__(self, name: str) -> Any:
        return self[0] if name == "last_hidden_state" else None


def _first(outputs: Any) -> torch.Tensor:
    """The final states, or the logits: what models return alone, or first, in a tuple or a `ModelOutput`."""
    return outputs if isinstance(outputs, torch.Tensor) else outputs[0]


def _said_by(encoder: nn.Module) -> str | None:
    """The name of the module that a model says its ids are looked up in; None where it says nothing."""
    try:
        module = encoder.get_input_embeddings()  # type: ignore[operator]
    except (NotImplementedError, AttributeError):
        return None
    return next((name for name, m in encoder.named_modules() if m is module), None)


def save_code(source: str, target: Path) -> None:
    """Copy the code that a model came with into the folder it is saved to, so that it can be loaded anywhere."""
    import shutil

    (target / CODE).mkdir(parents=True, exist_ok=True)
    for file in [*Path(source).glob("*.py"), Path(source) / "config.json"]:
        if file.resolve().parent != (target / CODE).resolve():
            shutil.copyfile(file, target / CODE / file.name)


def transformers_config(settings: dict, source: object = None) -> Any:
    """The transformers configuration of a model of others, which chooses no code for its attention.

    Parameters
    ----------
    settings
        What its ``config.json`` holds.
    source
        Folder with the code of the model, where it has any; its configuration is read by that.
    """
    from transformers import AutoConfig

    if source is None:
        return AutoConfig.for_model(**without_choices(settings))
    config = AutoConfig.from_pretrained(source, trust_remote_code=remote_code_is_allowed())
    config._attn_implementation = None
    return config
