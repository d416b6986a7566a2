"""The model of both omics: summed field encoders, a backbone, named heads. The difference is configuration."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.modeling_outputs import BaseModelOutput

from bmfm.models.attention import attention_inputs, check_name, choose_for, flattened
from bmfm.models.backbones import KINDS
from bmfm.models.backbones.huggingface import CODE, ForeignEmbeddings, save_code
from bmfm.models.embeddings import FieldEmbeddings, ScaleAdaptEncoder, TokenEmbedding
from bmfm.models.heads import Decoder, Heads
from bmfm.storage.config import plain, read_config, without_choices
from bmfm.storage.folders import find_folder, pooling_by_kind
from bmfm.storage.weights import load_strictly, read_weights

POOLINGS = ("mean", "mean_all", "pooler")


class BmfmConfig(PreTrainedConfig):
    """What `BmfmModel` is made of.

    Parameters
    ----------
    backbone
        ``{kind: modernbert | bert | llama, ...}`` with the fields of that transformers configuration, or
        ``{kind: foreign, ...}``, see `foreign.Foreign`.
    fields
        {batch key: encoder settings}, see `embeddings.encoder`.
    heads
        {name: head settings}, see `heads.Heads`; label heads also hold the names of their classes.
    pooling
        How an example becomes one state where nothing else is asked for (see `BmfmModel.pool`): by `bmfm.load(...).embed`,
        by probes and benchmarks, and by label heads whose pooling is ``auto``. None is the first CLS token for cells and
        ``mean`` for DNA, whose [CLS] is trained for nothing by masked-language modelling.
    positions
        Whether the place in the input means something to the model; None: for DNA alone, unless it is a BERT, which has none.
    """

    model_type = "bmfm"

    def __init__(
        self,
        backbone: dict | None = None,
        fields: dict | None = None,
        heads: dict | None = None,
        pooling: str | int | None = None,
        positions: bool | None = None,
        **kwargs,
    ):
        self.backbone, self.fields, self.heads = without_choices(backbone or {}), dict(fields or {}), dict(heads or {})
        self.positions = positions if positions is not None else "values" not in self.fields and self.backbone.get("kind") != "bert"
        self.pooling = pooling if pooling is not None else pooling_by_kind(self.fields)
        self.heads = {
            name: head | {"pooling": self.pooling} if head.get("pooling") == "auto" else head for name, head in self.heads.items()
        }
        body = self.backbone.get("config", self.backbone)
        self.hidden_size = body.get("hidden_size", body.get("d_model"))
        self.num_hidden_layers = body.get("num_hidden_layers", body.get("n_layer"))
        super().__init__(**without_choices(kwargs))


class BmfmModel(PreTrainedModel):
    """Encoder of tokens with any number of fields, and its heads.

    Call it on a batch's fields for hidden states [B, L, H]; call `head` on the states that a head needs.
    """

    config_class = BmfmConfig
    base_model_prefix = "bmfm"
    _supports_sdpa = _supports_flash_attn = _supports_flex_attn = _supports_attention_backend = True
    _no_split_modules = ["ModernBertEncoderLayer", "BertLayer", "LlamaDecoderLayer"]  # noqa: RUF012

    begun: frozenset[str] = frozenset()  # heads whose weights come from a checkpoint

    def __init__(self, config: BmfmConfig):
        super().__init__(config)
        options = {k: v for k, v in config.backbone.items() if k != "kind"}
        head_bias, head_eps, pooler = (
            options.pop(name, default) for name, default in (("head_bias", True), ("head_eps", None), ("pooler", False))
        )
        self.backbone: Any = KINDS[config.backbone["kind"]](options)
        self.reads_ids = getattr(self.backbone, "reads_ids", False)
        size = self.backbone.size if self.reads_ids else self.backbone.config.hidden_size
        self.embeddings: Any = ForeignEmbeddings(self.backbone) if self.reads_ids else FieldEmbeddings(size, config.fields)
        self.heads = Heads(size, config.heads, head_bias, self.backbone.norm_bias, head_eps or self.backbone.eps)
        self.pooler = nn.Linear(size, size) if pooler else None
        self.attention = "auto"
        self.post_init()
        if not self.reads_ids:
            self.backbone.config._attn_implementation = "sdpa"  # until the first call chooses, see `encode`

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
        told: dict = {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
        return (model, told) if output_loading_info else model

    def _init_weights(self, module: nn.Module) -> None:
        std = getattr(self.backbone.config, "initializer_range", 0.02)
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, 0.0, std)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Decoder) and module.weight is not None:
            nn.init.normal_(module.weight, 0.0, std)
        elif isinstance(module, ScaleAdaptEncoder):
            nn.init.normal_(module.dense.weight, 0.0, 1 / math.sqrt(module.dense.in_features))
        elif type(module).__name__ in ("LayerNorm", "LlamaRMSNorm"):
            nn.init.ones_(module.weight)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)

    def use_attention(self, implementation: str) -> None:
        """Choose the attention kernel: ``auto``, ``sdpa``, ``flex_attention``, ``flash_attention_2`` or ``eager``.

        What ``auto`` is depends on what each call computes in, see `attention.choose`.
        """
        if self.reads_ids:
            self.backbone.use_attention(implementation)
        else:
            self.attention = check_name(implementation)

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
        return self.backbone.body.get_input_embeddings() if self.reads_ids else self.embeddings.input_ids.rows

    @property
    def head_size(self) -> int:
        """Of the backbone's queries and keys."""
        config = self.backbone.config
        return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    def encode(self, batch: dict) -> torch.Tensor:
        """Final hidden states [B, L, H] of a batch (`bmfm.data`), padded or packed; those of padding mean nothing."""
        if self.reads_ids:
            return self.backbone.of_batch(batch)
        document, config = batch["sequence_ids"], self.backbone.config
        embeds, unseen = self.embeddings(batch), "isolated_mask" in batch
        if unseen and self.attention == "flash_attention_2":
            raise ValueError("masking.hide_masked_positions=true needs attention masks: choose model.attention=sdpa or flex_attention")
        chosen = choose_for("sdpa" if unseen and self.attention == "auto" else self.attention, embeds, self.head_size)
        if config._attn_implementation != chosen:
            config._attn_implementation = chosen
        if chosen != "flash_attention_2":
            return self.backbone(embeds, batch["position_ids"], attention_inputs(config, embeds, batch))
        places, cumulative, longest = flattened(document)
        positions = batch["position_ids"].flatten()[places][None]
        attention: dict = {"cu_seq_lens_q": cumulative, "cu_seq_lens_k": cumulative, "max_length_q": longest, "max_length_k": longest}
        attention["attention_mask"] = {"full_attention": None, "sliding_attention": None}
        hidden_TH = self.backbone(embeds.flatten(0, 1)[places][None], positions, attention)[0]
        rows = hidden_TH.new_zeros(document.numel(), hidden_TH.shape[1])
        return rows.index_copy(0, places, hidden_TH).view(*document.shape, -1)

    def pool(self, hidden_BLH: torch.Tensor, batch: dict, pooling: str | int | None = None) -> torch.Tensor:
        """One state an example [N, H].

        Parameters
        ----------
        pooling
            The number of a CLS token (0 is the first); ``mean``: over all tokens but that first one, as the published
            models define it ([SEP] counts); ``mean_all``: over that one too; ``pooler``: a dense layer and tanh on it,
            where the model has one. None or ``auto`` is the model's own, ``config.pooling``.
        """
        pooling = self.check_pooling(pooling)
        states, first = hidden_BLH.flatten(0, 1), batch["cls_index"]
        if pooling == "pooler":
            assert self.pooler is not None
            return self.pooler(states[first]).tanh()
        if isinstance(pooling, int):
            return states[first + pooling]
        n, example = len(first), batch["example_ids"]
        if self.reads_ids:
            example = torch.where(self.backbone.shown(batch["input_ids"]), example, -1)
        where = torch.where(example < 0, n, example).flatten()
        if pooling == "mean":
            where = where.index_fill(0, first, n)
        total = states.new_zeros(n + 1, states.shape[1]).index_add_(0, where, states)
        return total[:n] / torch.bincount(where, minlength=n + 1)[:n, None].clamp(min=1).to(states.dtype)

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
        known = "the number of a CLS token, mean, mean_all" + (", pooler" if self.pooler is not None else "")
        if pooling == "pooler" and self.pooler is None:
            raise ValueError(f"pooling=pooler: this model has no pooler; choose {known}")
        if isinstance(pooling, bool) or not isinstance(pooling, int | str) or (isinstance(pooling, str) and pooling not in POOLINGS):
            raise ValueError(f"pooling={pooling!r} is unknown; choose {known}, or auto for the model's own ({self.config.pooling})")
        if isinstance(pooling, int) and pooling < 0:
            raise ValueError(f"pooling={pooling} is no number of a CLS token, which count from 0; choose {known}")
        if isinstance(pooling, int) and self.config.backbone.get("looks_back"):
            raise ValueError("tokens of this model see only what is before them: the state of [CLS] says nothing, choose pooling=mean")
        return pooling

    def head(self, name: str, states_MH: torch.Tensor) -> torch.Tensor:
        """Logits [M, size] of one head for M states."""
        return self.heads(name, states_MH, self.embeddings)

    def forward(self, input_ids: torch.Tensor, attention_mask=None, position_ids=None, sequence_ids=None, **fields) -> BaseModelOutput:
        """Hidden states of padded rows, one example each (or of packed ones, numbered by `sequence_ids`)."""
        if sequence_ids is None:
            sequence_ids = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        if position_ids is None:
            position_ids = torch.zeros_like(input_ids)
            if self.config.positions:
                position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        batch = {"input_ids": input_ids, "sequence_ids": sequence_ids, "position_ids": position_ids, "packed": True, **fields}
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
    if config.backbone["kind"] not in KINDS:
        raise ValueError(f"{folder / 'config.json'}: backbone {config.backbone['kind']!r} is unknown; known are {', '.join(KINDS)}")
    if config.backbone.get("source"):
        config.backbone["source"] = str(folder / CODE)
    weights = read_weights(folder)
    if config.backbone["kind"] == "foreign":
        model = BmfmModel(config)  # made whole, as code of others may compute tables on the way
    else:
        try:
            with no_init_weights():
                model = BmfmModel(config)
        except Exception as error:
            raise ValueError(f"{folder / 'config.json'} describes no model that can be built: {plain(_line(error))}") from error
    load_strictly(model, weights, folder)
    return model


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype:
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype or torch.float32
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype={dtype!r} is no kind of floating-point number that torch has, as bfloat16")
    return found


AutoConfig.register("bmfm", BmfmConfig, exist_ok=True)
AutoModel.register(BmfmConfig, BmfmModel, exist_ok=True)


def build(
    fields: dict[str, dict],
    heads: dict[str, dict],
    backbone: str,
    attention: str = "auto",
    values: dict | None = None,
    pretrained_genes: dict | None = None,
    genes: dict[str, int] | None = None,
    **settings,
) -> BmfmModel:
    """A randomly initialised model.

    Parameters
    ----------
    fields
        What the tokenizer's fields need: {batch key: {kind, ...}}.
    heads
        What the objectives ask for.
    values
        Settings of the value encoder, for tokenizers that have a ``values`` field.
    pretrained_genes
        ``{path, freeze}``: a table of gene vectors (see `pretrained.read_vectors`) to begin with.
    genes
        {name: id} of the tokenizer's genes, needed for `pretrained_genes`.
    settings
        Fields of the backbone's transformers configuration, and ``head_bias``.
    """
    if backbone not in KINDS:
        raise ValueError(f"model.backbone={backbone!r} is unknown; choose from {', '.join(KINDS)}")
    fields = {name: dict(options) for name, options in fields.items()}
    if "values" in fields:
        if values is None:
            raise ValueError("cells have values: choose their encoder by a group `values`, as values=mlp_special")
        shared = {k: v for k, v in fields["values"].items() if k != "n_bins" or values["kind"] == "token"}
        fields["values"] = shared | values
    vectors = None
    if pretrained_genes:
        from bmfm.models.pretrained import read_vectors

        vectors = read_vectors(pretrained_genes["path"])
        fields["input_ids"] |= {"dim": vectors.shape[1], "frozen": bool(pretrained_genes.get("freeze"))}
    model = BmfmModel(BmfmConfig(backbone={"kind": backbone, **settings}, fields=fields, heads=heads))
    model.use_attention(attention)
    if vectors is not None:
        from bmfm.models.pretrained import plant

        embedding = model.embeddings.input_ids
        assert isinstance(embedding, TokenEmbedding)
        plant(embedding, vectors, genes or {})
    return model
