"""The model of both omics: summed field encoders, a backbone, named heads. The difference is configuration."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.modeling_outputs import BaseModelOutput

from bmfm.models.backbones.base import Backbone, HiddenStates
from bmfm.models.backbones.huggingface import CODE, HuggingFaceBackbone, save_code
from bmfm.models.classes import backbone_of
from bmfm.models.config import BmfmConfig
from bmfm.models.embeddings import FieldEmbeddings, FieldEncoder, TokenEmbedding
from bmfm.models.heads import Decoder, Heads, Places, predicts_tokens
from bmfm.models.perturbation import PerturbationEncoder
from bmfm.models.pooling import POOLINGS, cls_of, pooled_tokens
from bmfm.models.summary import CellSummary
from bmfm.storage.config import plain, read_config
from bmfm.storage.folders import find_folder
from bmfm.storage.weights import load_strictly, read_weights
from bmfm.targets import class_path, find_class, make
from bmfm.tokenizers.batch import Batch


class BmfmModel(PreTrainedModel):
    """Encoder of tokens with any number of fields, and its heads.

    Call it on a batch's fields for hidden states [B, L, H]; call `head` on the states that a head needs.
    """

    config_class = BmfmConfig
    base_model_prefix = "bmfm"
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    _no_split_modules = ["ModernBertEncoderLayer", "BertLayer", "LlamaDecoderLayer"]  # noqa: RUF012

    pretrained_heads: frozenset[str] = frozenset()
    """Heads whose weights come from a checkpoint."""

    def __init__(self, config: BmfmConfig):
        super().__init__(config)
        kind: type[Backbone] = find_class(config.backbone.get("_target_"), Backbone, "backbone._target_")
        self.backbone = make(kind, {k: v for k, v in config.backbone.items() if k != "_target_"}, "backbone")
        size, eps = self.backbone.hidden_size, config.head_eps or self.backbone.norm_eps
        self.embeddings = FieldEmbeddings(size, {} if self.backbone.own_embeddings else config.fields)
        self.heads = Heads(size, config.heads, config.head_bias, self.backbone.norm_bias, eps)
        self.pooler = nn.Linear(size, size) if config.pooler else None
        self.register_buffer("balance", torch.eye(size) if config.pooling == "balanced" else None)
        if config.positions is None:
            config.positions = "values" not in config.fields and self.backbone.capabilities.positions
        self.post_init()

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *args,
        config: BmfmConfig | None = None,
        revision: str | None = None,
        dtype: str | torch.dtype | None = None,
        attn_implementation: str = "auto",
        device_map: str | torch.device | None = None,
        output_loading_info: bool = False,
        **options,
    ):
        """The model of a folder or Hub id, every weight of it and nothing else, in evaluation mode.

        It is built as a new one is and then filled, so that tables which are computed rather than saved (rotary
        frequencies) are right. `AutoModel.from_pretrained` calls it too.

        Parameters
        ----------
        dtype
            Of the weights; None is float32 whatever they were saved in, ``auto`` as they were saved.
        attn_implementation
            See `use_attention`.
        device_map
            One device for the whole model.
        options
            ``token``, ``cache_dir``, ``force_download`` and ``local_files_only`` go to the Hub.

        Raises
        ------
        FileNotFoundError, ValueError
            Naming the file, and the keys that are missing, left over or of another shape.
        """
        for ignored in ("_from_auto", "adapter_kwargs", "trust_remote_code", "use_safetensors", "low_cpu_mem_usage", "weights_only"):
            options.pop(ignored, None)
        dtype = options.pop("torch_dtype", None) or dtype
        hub = {name: options.pop(name) for name in ("token", "cache_dir", "force_download", "local_files_only") if name in options}
        if args or options:
            raise ValueError(f"BmfmModel.from_pretrained does not take {', '.join(options) or 'more than a name'}")
        folder = find_folder(pretrained_model_name_or_path, revision, **hub)
        model = read_folder(folder, config)
        if dtype is not None:
            model.to(_dtype(model.config.dtype if dtype == "auto" else dtype))
        if device_map is not None:
            model.to(device_map)
        model.use_attention(attn_implementation)
        model.eval()
        report: dict = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
        return (model, report) if output_loading_info else model

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        """As in transformers, which of classes that are not its own skips those without parameters beside their modules'."""
        super()._initialize_weights(module)

    def _init_weights(self, module: nn.Module) -> None:
        std = self.backbone.initializer_range
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, 0.0, std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Decoder) and module.weight is not None:
            nn.init.normal_(module.weight, 0.0, std / 100 if module.begins_at_bias else std)
        elif isinstance(module, FieldEncoder | Places):
            module.initialize()

    def use_attention(self, implementation: str) -> None:
        """Choose the attention kernel: ``auto``, ``sdpa``, ``flex_attention``, ``flash_attention_2`` or ``eager``.

        What ``auto`` is depends on the backbone, and on what each call computes in.
        """
        self.backbone.use_attention(implementation)

    def unused_parameters(self) -> list[str]:
        """Names of the parameters that no head reads, which would get no gradient: the pooler where no head pools by it, and in
        models of others whatever the hidden states do not depend on (a pooler, a head for contacts, adapters in them)."""
        heads = self.config.heads.values()
        poolings = {self.config.pooling if h.get("pooling") == "auto" else h.get("pooling") for h in heads}
        names = [] if "pooler" in poolings else [name for name, _ in self.named_parameters() if name.startswith("pooler.")]
        return names + [f"backbone.{name}" for name in self.backbone.frozen_parameters(any(h.get("own") for h in heads))]

    def undecayed_parameters(self) -> list[nn.Parameter]:
        """Matrices that weight decay must leave alone, as it leaves all vectors."""
        return [p for module in self.modules() if isinstance(module, FieldEncoder) for p in module.undecayed()]

    def save_pretrained(self, save_directory, **options) -> None:
        """As in transformers; names of weights are written as they are here, not as an older version of a backbone had them."""
        source = self.config.backbone.get("source")
        if source:
            save_code(source, Path(save_directory))
            self.config.backbone["source"] = CODE
        try:
            super().save_pretrained(save_directory, **{"save_original_format": False} | options)
        finally:
            if source:
                self.config.backbone["source"] = source

    def get_input_embeddings(self) -> nn.Module:
        if self.backbone.own_embeddings:
            raise NotImplementedError(f"{type(self.backbone).__name__} looks its tokens up by itself")
        encoder = self.embeddings.encoder("input_ids")
        return encoder.embedding if isinstance(encoder, TokenEmbedding) else encoder

    @property
    def n_tokens(self) -> int:
        """V, how many tokens the model knows."""
        return self.config.fields["input_ids"]["size"]

    def embed(self, batch: Batch) -> torch.Tensor:
        """Embeddings [R, L, H] of a batch's fields: what the first layer of the backbone gets."""
        return self.backbone.embed(batch) if self.backbone.own_embeddings else self.embeddings(batch)

    def run(self, embeddings_BLH: torch.Tensor, batch: Batch, all_layers: bool = False) -> HiddenStates:
        """Hidden states of embedded tokens, after the last layer and on demand after each.

        Parameters
        ----------
        batch
            Says which tokens belong together, where they stand, and which are isolated; its fields were read by `embed`.

        Raises
        ------
        ValueError
            If the batch asks for something that the backbone cannot do.
        """
        can = self.backbone.capabilities
        if batch.get("packed", False) and not can.packing:
            raise ValueError("this backbone cannot keep several examples of a row apart: choose data.packing=false")
        if "isolated_mask" in batch and not can.isolation:
            raise ValueError(
                "this backbone cannot keep single tokens from being seen by others: choose masking.hide_masked_positions=false"
            )
        return self.backbone.run(embeddings_BLH, batch, all_layers)

    def encode(self, batch: Batch) -> torch.Tensor:
        """Final hidden states [R, L, H] of a batch, padded or packed; those of padding mean nothing."""
        return self.run(self.embed(batch), batch).last

    def pool(self, hidden_BLH: torch.Tensor, batch: Batch, pooling: str | int | None = None) -> torch.Tensor:
        """One state an example [N, H].

        Parameters
        ----------
        pooling
            The number of a CLS token (0 is the first); ``mean``: over all tokens but that first one, as the published
            models define it ([SEP] counts); ``mean_all``: over that one too; ``max_mean``: the largest number of each channel over
            the tokens of ``mean``, added to their mean: whether something is there, and how much of it; ``pooler``: a dense layer and
            tanh on the first CLS token, where the model has one; ``balanced``: the first CLS token of a cell, less stretched along what
            differs most between training cells (`balance.balancing_map`), where the model was trained with it. None or ``auto`` is the
            model's own, ``config.pooling``.
        """
        pooling = self.check_pooling(pooling)
        number = cls_of(pooling)
        if number is None:
            return pooled_tokens(hidden_BLH, batch, self.backbone.attention_mask(batch), str(pooling))
        return self.pooled_cls(hidden_BLH.flatten(0, 1)[batch["cls_index"] + number], pooling)

    def pooled_cls(self, cls_NH: torch.Tensor, pooling: str | int) -> torch.Tensor:
        """What a way of pooling makes of the states [N, H] of the one CLS token that it reads (`pooling.cls_of`)."""
        if pooling == "pooler":
            assert self.pooler is not None
            return self.pooler(cls_NH).tanh()
        return functional.layer_norm(functional.linear(cls_NH, self.balance), cls_NH.shape[-1:]) if pooling == "balanced" else cls_NH

    def check_pooling(self, pooling: str | int | None) -> str | int:
        """A way of pooling that this model has, the model's own for None or ``auto``; whether there are so many CLS tokens
        is the tokenizer's to say (``check_cls``).

        Raises
        ------
        ValueError
            Naming what there is.
        """
        if pooling is None or pooling == "auto":
            pooling = self.config.pooling
        own = {"pooler": self.pooler, "balanced": self.balance}
        choices = ", ".join(["the number of a CLS token, mean, mean_all, max_mean", *(name for name in own if own[name] is not None)])
        if isinstance(pooling, str) and pooling in own and own[pooling] is None:
            what = "no pooler" if pooling == "pooler" else "not been trained with it"
            raise ValueError(f"pooling={pooling}: this model has {what}; choose {choices}")
        if isinstance(pooling, bool) or not isinstance(pooling, int | str) or (isinstance(pooling, str) and pooling not in POOLINGS):
            raise ValueError(f"pooling={pooling!r} is unknown; choose {choices}, or auto for the model's own ({self.config.pooling})")
        if isinstance(pooling, int) and pooling < 0:
            raise ValueError(f"pooling={pooling} is no number of a CLS token, which count from 0; choose {choices}")
        if cls_of(pooling) is not None and pooling != "pooler" and self.backbone.capabilities.causal:
            raise ValueError("tokens of this model see only what is before them: the state of [CLS] says nothing, choose pooling=mean")
        return pooling

    def embedding_table(self, field: str = "input_ids") -> torch.Tensor:
        """The embedding of every token of a field [V, H], for heads that are tied to it."""
        return self.backbone.embedding_table() if self.backbone.own_embeddings else self.embeddings.encoder(field).table()

    def perturbation_targets(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Of a model that reads perturbations, the cell [T] and the vector [T, H] of each target of a batch.

        Raises
        ------
        ValueError
            If it reads none.
        """
        if "perturbation" not in self.config.fields:
            raise ValueError("this model reads no perturbations: train it with data=perturbation objective=[perturbation]")
        encoder = self.embeddings.encoder("perturbation")
        assert isinstance(encoder, PerturbationEncoder)
        return encoder.of_targets(batch, self.embeddings.encoder("input_ids"))

    def head(self, name: str, states_MH: torch.Tensor) -> torch.Tensor:
        """Logits [M, size] of one head for M states."""
        description = self.config.heads[name]
        if description.get("own"):
            return self.backbone.lm_logits(states_MH)
        tied = description.get("tied")
        return self.heads(name, states_MH, self.embedding_table(tied) if tied else None)

    def label(self, name: str, hidden_BLH: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Logits [N, size] of a head of examples, from the states of their tokens: of the pooled state and, where the head has them, of `Places`."""
        described, places = self.config.heads[name], self.heads.decoder(name).places
        logits = self.head(name, self.pool(hidden_BLH, batch, described["pooling"] if "pooling" in described else described["cls"]))
        return logits if places is None else logits + places(hidden_BLH, batch, self.backbone.attention_mask(batch))

    def lm_logits(self, hidden_BLH: torch.Tensor, batch: Batch | None = None) -> torch.Tensor:
        """Logits [..., V] over this project's ids of states [..., H], by the language-model head: the backbone's own, else the head
        that was trained to predict tokens.

        Raises
        ------
        ValueError
            If there is none.
        """
        if self.backbone.capabilities.lm_head:
            return self.backbone.lm_logits(hidden_BLH)
        name = next((name for name, head in self.config.heads.items() if predicts_tokens(head, self.n_tokens)), None)
        if name is None:
            raise ValueError(
                f"this model has no head that predicts tokens (its heads: {', '.join(self.config.heads) or 'none'}): train it with "
                "objective=[mlm] for DNA, objective=[genes] for cells"
            )
        return self.head(name, hidden_BLH)

    def forward(self, input_ids: torch.Tensor, attention_mask=None, position_ids=None, sequence_ids=None, **fields) -> BaseModelOutput:
        """Hidden states of padded rows, one example each (or of packed ones, numbered by `sequence_ids`)."""
        packed = sequence_ids is not None
        if sequence_ids is None:
            sequence_ids = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        if position_ids is None:
            position_ids = torch.zeros_like(input_ids)
            if self.config.positions:
                position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        begins = sequence_ids.diff(dim=1, prepend=torch.zeros_like(sequence_ids[:, :1])) > 0
        batch: Any = {"input_ids": input_ids, "sequence_ids": sequence_ids, "position_ids": position_ids, "packed": packed}
        batch |= {"cls_index": begins.flatten().nonzero().squeeze(1), **fields}
        return BaseModelOutput(last_hidden_state=self.encode(batch))


def read_folder(folder: Path, config: BmfmConfig | None = None) -> BmfmModel:
    """The `BmfmModel` that a folder holds, in float32.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file and the key that are wrong.
    """
    described = read_config(folder)
    if described.get("model_type") != "bmfm":
        raise ValueError(
            f"{folder / 'config.json'} describes a {described.get('model_type')!r}, which bmfm.load reads; this is for models of bmfm"
        )
    if config is None:
        config = BmfmConfig.from_dict(described)
    if "pooling" not in described:  # written before a model had its own, when the mean was over every token
        config.heads = {n: h | {"pooling": "mean_all"} if h.get("pooling") == "mean" else h for n, h in config.heads.items()}
    file = folder / "config.json"
    backbone = backbone_of(config, folder)
    if config.backbone.get("source"):
        config.backbone["source"] = str(folder / CODE)
    weights = read_weights(folder)
    if issubclass(backbone, HuggingFaceBackbone):
        model = BmfmModel(config)  # made whole, as code of others may compute tables on the way
    else:
        try:
            with no_init_weights():
                model = BmfmModel(config)
        except Exception as error:
            raise ValueError(f"{file} describes no model that can be built: {plain(_line(error))}") from error
    load_strictly(model, weights, folder)
    return model


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    result = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype or torch.float32
    if not isinstance(result, torch.dtype) or not result.is_floating_point:
        raise ValueError(f"dtype={dtype!r} is no kind of floating-point number that torch has, as bfloat16")
    return result


AutoConfig.register("bmfm", BmfmConfig, exist_ok=True)
AutoModel.register(BmfmConfig, BmfmModel, exist_ok=True)


FIELD_ENCODERS: dict[str, type[FieldEncoder]] = {"summary": CellSummary, "perturbation": PerturbationEncoder}
"""Of fields whose encoder is no table of rows, one for each id."""


def described_field(name: str, options: dict) -> dict:
    """A field of a tokenizer as a model's configuration keeps it, with its encoder."""
    return {"_target_": class_path(FIELD_ENCODERS.get(name, TokenEmbedding))} | options


def build(
    fields: dict[str, dict],
    heads: dict[str, dict],
    backbone: str,
    attention: str = "auto",
    values: dict | None = None,
    pretrained_genes: dict | None = None,
    genes: dict[str, int] | None = None,
    **settings: Any,
) -> BmfmModel:
    """A randomly initialised model.

    Parameters
    ----------
    fields
        What the tokenizer says of its fields, {batch key: settings of an encoder}.
    heads
        What the objectives ask for.
    backbone
        Dotted path of a `Backbone`, of this package or another that is installed.
    values
        The value encoder and its settings, ``{_target_: dotted path of a `FieldEncoder`, ...}``, for tokenizers that have a ``values`` field.
    pretrained_genes
        ``{path, freeze}``: a table of gene vectors (see `pretrained.read_vectors`) to begin with.
    genes
        {name: id} of the tokenizer's tokens in the order of their ids, needed for `pretrained_genes` and by backbones that read them.
    settings
        Those of the backbone; and of the model ``pooling``, ``head_bias``, ``head_eps``, ``pooler`` and ``strands``, see `BmfmConfig`.
    """
    kind: type[Backbone] = find_class(backbone, Backbone, "model.backbone")
    fields = {name: described_field(name, options) for name, options in fields.items()}
    if "values" in fields:
        if values is None:
            raise ValueError("cells have values: choose their encoder by a group `values`, as values=mlp_special")
        encoder: type[FieldEncoder] = find_class(values.get("_target_"), FieldEncoder, "model.values._target_")
        fields["values"] = {k: v for k, v in fields["values"].items() if k != "n_bins" or encoder.reads_bins} | values
    vectors = None
    if pretrained_genes:
        from bmfm.models.pretrained import read_vectors

        vectors = read_vectors(pretrained_genes["path"])
        fields["input_ids"] |= {"dim": vectors.shape[1], "frozen": bool(pretrained_genes.get("freeze"))}
    fields = kind.encoders(fields, settings, list(genes or ()))
    of_model = {name: settings.pop(name) for name in ("pooling", "head_bias", "head_eps", "pooler", "strands") if name in settings}
    model = BmfmModel(BmfmConfig(backbone={"_target_": backbone, **settings}, fields=fields, heads=heads, **of_model))
    model.use_attention(attention)
    if vectors is not None:
        from bmfm.models.pretrained import load_pretrained_embeddings

        embedding = model.embeddings.encoder("input_ids")
        assert isinstance(embedding, TokenEmbedding)
        load_pretrained_embeddings(embedding, vectors, genes or {})
    return model
