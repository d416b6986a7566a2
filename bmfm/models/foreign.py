"""DNA models of others as backbones: whatever `transformers.AutoModel` loads, with its own ids and embeddings.

Batches keep this project's ids (special tokens 0 to 4, then all others in their order); the backbone writes them in the
model's own. Where a model has no [CLS] or no [SEP], that place is not shown to it.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from bmfm.models.described import check_foreign, offline, read_config, without_choices
from bmfm.models.folders import read_json
from bmfm.models.weights import refuse_not_finite, some, weight_files
from bmfm.special import CLS, MASK, PAD, SPECIAL_TOKENS, UNK
from bmfm.tokenizers.dna import Vocabulary
from bmfm.tokenizers.texts import by_number, read_texts

CODE = "code"
"""Folder, in that of a saved model, of the code and configuration that it came with."""

COMPUTED = (".position_ids", ".inv_freq", ".token_type_ids", ".attn.bias", ".masked_bias")
"""Tables that older files hold, and that transformers now computes."""

_REMOTE_CODE: ContextVar[bool] = ContextVar("remote_code", default=False)


@contextmanager
def remote_code(allowed: bool) -> Iterator[None]:
    """Whether models made inside may run Python code that comes with a checkpoint; otherwise they never do."""
    token = _REMOTE_CODE.set(allowed)
    try:
        yield
    finally:
        _REMOTE_CODE.reset(token)


def remote_code_is_allowed() -> bool:
    return _REMOTE_CODE.get()


def is_foreign(folder: Path) -> bool:
    """Whether a model folder is neither a `BmfmModel` with a backbone of ours nor a ModernBERT with our special tokens."""
    config = read_config(folder)
    kind = config.get("model_type")
    if kind == "bmfm":
        return config["backbone"]["kind"] == "foreign"
    if kind == "modernbert" and (folder / "tokenizer.json").is_file():
        added = read_json(folder / "tokenizer.json").get("added_tokens", [])
        return {t["content"]: t["id"] for t in added if t["id"] < 5} != {t: i for i, t in enumerate(SPECIAL_TOKENS)}
    return kind != "modernbert"


def _asks_for_code(error: Exception, source: object) -> Exception:
    return _refusal(source) if "trust_remote_code" in str(error) else error


def _refusal(source: object) -> ValueError:
    return ValueError(
        f"{source} comes with Python code of its own, which is not run unless you say so: read it, then ask for it by remote_code=true"
    )


def _shut() -> Any:
    """Without the Hub, unless code of a checkpoint may run, which may lie in another repository."""
    return nullcontext() if _REMOTE_CODE.get() else offline()


def _configuration(given: dict, source: object = None) -> Any:
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
    config = AutoConfig.from_pretrained(source, trust_remote_code=_REMOTE_CODE.get())
    config._attn_implementation = None
    return config


class ForeignTokenizer(Vocabulary):
    """A tokenizer of others behind the calls of `DnaTokenizer`, in this project's ids.

    Parameters
    ----------
    n_rows
        Rows of the model's embedding: tokens beyond them, which transformers may have added, do not exist.
    n_positions
        Longest input that the model has positions for.

    Attributes
    ----------
    their_ids
        The tokenizer's id of each of ours [V]; -1 for a special token that it lacks.
    """

    def __init__(self, tokenizer: Any, n_rows: int | None = None, n_positions: int | None = None):
        self.tokenizer, self.n_positions = tokenizer, n_positions
        special = [
            tokenizer.unk_token_id,
            _first(tokenizer.sep_token_id, tokenizer.eos_token_id),
            tokenizer.pad_token_id,
            _first(tokenizer.cls_token_id, tokenizer.bos_token_id),
            tokenizer.mask_token_id,
        ]
        known = {i for i in tokenizer.get_vocab().values() if n_rows is None or i < n_rows}
        self.their_ids = np.array([i if i in known else -1 for i in special] + sorted(known - set(special)), np.int64)
        self._ours = np.full(max(tokenizer.get_vocab().values()) + 1, UNK, np.int32)
        self._ours[self.their_ids[self.their_ids >= 0]] = np.flatnonzero(self.their_ids >= 0)

    @classmethod
    def from_folder(cls, folder: Path) -> "ForeignTokenizer":
        from transformers import AutoTokenizer

        config = read_config(folder)
        config = config.get("backbone", {}).get("config", config)
        try:
            with _shut():
                read = AutoTokenizer.from_pretrained(folder, trust_remote_code=_REMOTE_CODE.get())
            return cls(read, config.get("vocab_size"), positions(config))
        except Exception as error:
            if "trust_remote_code" in str(error):
                raise _refusal(folder) from error
            said = f"{type(error).__name__}: {error}".split("\n")[0][:200]
            raise ValueError(f"{folder}: its tokenizer cannot be read ({said})") from error

    def __len__(self) -> int:
        return len(self.their_ids)

    @cached_property
    def names(self) -> list[str]:  # type: ignore[override]
        """Every token, in the order of its id."""
        return list(SPECIAL_TOKENS) + self.tokenizer.convert_ids_to_tokens(self.their_ids[len(SPECIAL_TOKENS) :].tolist())

    @property
    def max_tokens(self) -> int | None:
        """Longest input that the model and its makers allow, in tokens; None where there is no limit."""
        made_for = int(self.tokenizer.model_max_length)
        return min((n for n in (made_for if made_for < 1 << 30 else None, self.n_positions) if n), default=None)

    def check_cls(self, number: int, who: str) -> None:
        """Raise a ValueError if there is no such CLS token."""
        if number or self.their_ids[CLS] < 0:
            raise ValueError(
                f"{who} reads CLS token {number}, which this model does not have: choose pooling=mean (of a label: objectives.NAME.pooling=mean)"
            )

    def of_texts(self, texts, max_tokens: int = 1 << 40, alphabet: str = "plain", where=by_number) -> tuple[list[np.ndarray], int]:
        """Token ids of each text, and how many characters were read as N; these models know plain bases only."""
        from bmfm.genome.alphabet import decode

        symbols, n_replaced = read_texts(texts, "plain", where)
        written = [decode(codes) for codes in symbols]
        if k := self.overlapping:
            written = [" ".join(t[i : i + k] for i in range(len(t) - k + 1)) for t in written]
        found = self.tokenizer(written, add_special_tokens=False, verbose=False)["input_ids"]
        return [self._ours[np.array(ids[:max_tokens], np.int64)] for ids in found], n_replaced

    def lengths(self, ids: np.ndarray, n_bases: int | None = None) -> np.ndarray:
        """How many bases each token covers [L]."""
        lengths = self._lengths[ids]
        if self.overlapping:
            lengths = np.append(np.ones(len(ids) - 1, np.int64), self.overlapping) if len(ids) else lengths
        if n_bases is not None and lengths.sum() != n_bases:
            raise ValueError(
                f"tokens of {self.tokenizer.__class__.__name__} cover {lengths.sum()} of {n_bases} bases: labels of bases cannot be placed"
            )
        return lengths

    @cached_property
    def overlapping(self) -> int:
        """k where the vocabulary is all k-mers of one length and nothing else: words of text, one for each base (DNABERT); else 0."""
        lengths = {len(name) for name in self.names[len(SPECIAL_TOKENS) :] if set(name) <= set("ACGT")}
        others = [n for n in self.names[len(SPECIAL_TOKENS) :] if not set(n) <= set("ACGT") and n.isalpha()]
        return lengths.pop() if len(lengths) == 1 and not others and lengths != {1} else 0


def _first(*ids: int | None) -> int | None:
    return next((i for i in ids if i is not None), None)


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
            with _shut():
                config = _configuration(given, options.get("source"))
                self.body = AutoModel.from_config(config, trust_remote_code=_REMOTE_CODE.get())
        except ValueError as error:
            raise _asks_for_code(error, options.get("source")) from error
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
            hidden = self.eval().of_batch({"input_ids": ids, "document": torch.ones_like(ids)})
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
        input_ids, document = batch["input_ids"], batch["document"]
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


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' list of weights that the encoder has no use for; those that it lacks are an error below."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def save_code(source: str, target: Path) -> None:
    """Copy the code that a model came with into the folder it is saved to, so that it can be loaded anywhere."""
    import shutil

    (target / CODE).mkdir(parents=True, exist_ok=True)
    for file in [*Path(source).glob("*.py"), Path(source) / "config.json"]:
        if file.resolve().parent != (target / CODE).resolve():
            shutil.copyfile(file, target / CODE / file.name)


def read(folder: Path):
    """A `BmfmModel` around the model of a folder; weights from safetensors, or tensors alone from PyTorch files."""
    from transformers.initialization import no_init_weights

    from bmfm.models.model import BmfmConfig, BmfmModel

    if not any(folder.glob("*.safetensors")) and not any(folder.glob("*.bin")):
        raise FileNotFoundError(f"{folder} holds no weights (safetensors or bin); a published .ckpt is made readable by bmfm.convert")
    if (folder / "adapter_config.json").exists():  # by which transformers would load another model, maybe from the Hub
        raise ValueError(f"{folder} holds a peft adapter: merge it into its model (merge_and_unload), save that, and load it")
    described = read_config(folder)
    brought = described.get("auto_map", {})
    if "AutoModel" in brought and not _REMOTE_CODE.get():
        raise _refusal(folder)
    if "AutoModel" not in brought:
        check_foreign(described, folder / "config.json")
    tokenizer = ForeignTokenizer.from_folder(folder)
    body = _read_body(folder, described, "AutoModel" in brought)
    config = {k: v for k, v in body.config.to_dict().items() if k != "_name_or_path"}  # which may be a path of this machine
    backbone = {"kind": "foreign", "config": config, "their_ids": tokenizer.their_ids.tolist()}
    backbone |= {"source": str(folder)} if "AutoModel" in brought else {}
    with no_init_weights():
        model = BmfmModel(BmfmConfig(backbone=backbone, fields=tokenizer.fields))
    model.backbone.body.load_state_dict(body.state_dict())
    model.config.max_tokens = tokenizer.max_tokens
    model.config.backbone["looks_back"] = _looks_back(model)
    return model


def _read_body(folder: Path, described: dict, with_code: bool) -> Any:
    """The encoder of a folder as `transformers.AutoModel` reads it, whole."""
    from transformers import AutoModel

    if any(folder.glob("*.safetensors")):
        weight_files(folder)
    try:
        with _quiet(), _shut():
            config = _configuration(described, folder if with_code else None)
            body, told = AutoModel.from_pretrained(
                folder, config=config, trust_remote_code=_REMOTE_CODE.get(), output_loading_info=True, ignore_mismatched_sizes=True,
                dtype=torch.float32,
            )  # fmt: skip
    except Exception as error:  # what a damaged file meets first: transformers, torch, safetensors, pickle, struct, zip, ...
        if "trust_remote_code" in str(error):
            raise _refusal(folder) from error
        said = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{folder}: its weights or configuration are damaged, or hold more than tensors, and were not read ({said})"
        ) from error
    if absent := sorted(k for k in told["missing_keys"] if "pooler" not in k):
        raise ValueError(f"{folder} has no weights for {some(absent, n=3)} of {type(body).__name__}")
    if other := sorted(told["mismatched_keys"]):
        raise ValueError(f"{folder}: weights {some([f'{k} {tuple(a)} instead of {tuple(b)}' for k, a, b in other])} have another shape")
    if extra := sorted(k for k in told["unexpected_keys"] if _belongs(k, body)):
        raise ValueError(f"{folder}: weights {some(extra)} have no place in the {type(body).__name__} that its config.json describes")
    refuse_not_finite(dict(body.named_parameters()), folder)
    return body


def _belongs(key: str, body: Any) -> bool:
    """Whether a key that the encoder has no place for names one of its parts, rather than a head or a table that is computed."""
    part, _, rest = key.removeprefix(f"{body.base_model_prefix}.").partition(".")
    return bool(rest) and part in dict(body.named_children()) and not key.endswith(COMPUTED)


@torch.no_grad()
def _looks_back(model) -> bool:
    """Whether tokens see only what is before them, so that the state of [CLS], the first, is the same for every input."""
    ids = torch.tensor([[CLS, 5, 6, 7], [CLS, 5, 6, 8]]) % len(model.backbone.their_ids)
    hidden = model.eval().backbone.of_batch({"input_ids": ids, "document": torch.ones_like(ids)})
    return bool((hidden[0, 1] == hidden[1, 1]).all())


def positions(config: dict) -> int | None:
    """How many tokens a configuration has positions for; None where they have no end."""
    n = config.get("max_position_embeddings") or config.get("max_seq_len") or config.get("n_positions")
    if n and config.get("model_type") == "esm" and config.get("position_embedding_type", "absolute") == "absolute":
        n -= (config.get("pad_token_id") or 0) + 1  # its positions begin after that of padding
    return n
