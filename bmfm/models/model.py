"""The model of both omics: summed field encoders, a backbone, named heads. The difference is configuration."""

import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from bmfm.models.attention import attention_inputs, flattened, resolve
from bmfm.models.backbones import KINDS
from bmfm.models.embeddings import FieldEmbeddings, ScaleAdaptEncoder, TokenEmbedding
from bmfm.models.foreign import CODE, ForeignEmbeddings, save_code
from bmfm.models.heads import Decoder, Heads


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
    """

    model_type = "bmfm"

    def __init__(self, backbone: dict | None = None, fields: dict | None = None, heads: dict | None = None, **kwargs):
        self.backbone, self.fields, self.heads = dict(backbone or {}), dict(fields or {}), dict(heads or {})
        body = self.backbone.get("config", self.backbone)
        self.hidden_size = body.get("hidden_size", body.get("d_model"))
        self.num_hidden_layers = body.get("num_hidden_layers", body.get("n_layer"))
        super().__init__(**kwargs)


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
        self.post_init()
        if not self.reads_ids:
            self._share_attention(config._attn_implementation)

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

    def _share_attention(self, implementation: str | None) -> None:
        self.backbone.config._attn_implementation = implementation or "sdpa"

    def use_attention(self, implementation: str) -> None:
        """Choose the attention kernel: ``auto``, ``sdpa``, ``flex_attention``, ``flash_attention_2`` or ``eager``."""
        if self.reads_ids:
            self.backbone.use_attention(implementation)
        else:
            self._share_attention(resolve(implementation))

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
        return self.embeddings.input_ids.rows

    def encode(self, batch: dict) -> torch.Tensor:
        """Final hidden states [B, L, H] of a batch (`bmfm.data`), padded or packed; those of padding mean nothing."""
        if self.reads_ids:
            return self.backbone.of_batch(batch)
        document, config = batch["document"], self.backbone.config
        if config._attn_implementation != "flash_attention_2":
            embeds = self.embeddings(batch)
            return self.backbone(embeds, batch["position_ids"], attention_inputs(config, embeds, batch))
        if "unseen" in batch:
            raise ValueError("masking.hide=true needs attention masks: choose model.attention=sdpa or flex_attention")
        places, cumulative, longest = flattened(document)
        fields = {name: batch[name].flatten()[places][None] for name in (*self.config.fields, "position_ids")}
        attention: dict = {"cu_seq_lens_q": cumulative, "cu_seq_lens_k": cumulative, "max_length_q": longest, "max_length_k": longest}
        attention["attention_mask"] = {"full_attention": None, "sliding_attention": None}
        hidden_TH = self.backbone(self.embeddings(fields), fields["position_ids"], attention)[0]
        rows = hidden_TH.new_zeros(document.numel(), hidden_TH.shape[1])
        return rows.index_copy(0, places, hidden_TH).view(*document.shape, -1)

    def pool(self, hidden_BLH: torch.Tensor, batch: dict, pooling: str | int = 0) -> torch.Tensor:
        """One state an example [N, H]: of CLS token number `pooling`, its ``pooler`` (dense, tanh), or the ``mean`` over all tokens."""
        states = hidden_BLH.flatten(0, 1)
        if pooling == "pooler":
            if self.pooler is None:
                raise ValueError("this model has no pooler: choose pooling=0 or pooling=mean")
            return self.pooler(states[batch["first"]]).tanh()
        if pooling != "mean":
            if self.config.backbone.get("looks_back"):
                raise ValueError("tokens of this model see only what is before them: the state of [CLS] says nothing, choose pooling=mean")
            return states[batch["first"] + int(pooling)]
        n, example = len(batch["first"]), batch["example"]
        if self.reads_ids:
            example = torch.where(self.backbone.shown(batch["input_ids"]), example, -1)
        where = torch.where(example < 0, n, example).flatten()
        total = states.new_zeros(n + 1, states.shape[1]).index_add_(0, where, states)
        return total[:n] / torch.bincount(where, minlength=n + 1)[:n, None].to(states.dtype)

    def head(self, name: str, states_MH: torch.Tensor) -> torch.Tensor:
        """Logits [M, size] of one head for M states."""
        return self.heads(name, states_MH, self.embeddings)

    def forward(self, input_ids: torch.Tensor, attention_mask=None, position_ids=None, document=None, **fields) -> BaseModelOutput:
        """Hidden states of padded rows, one example each (or of packed ones, numbered by `document`)."""
        if document is None:
            document = torch.ones_like(input_ids) if attention_mask is None else attention_mask.long()
        if position_ids is None:
            position_ids = torch.zeros_like(input_ids)
            if self.config.backbone["kind"] != "bert" and "values" not in self.config.fields:
                position_ids = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        batch = {"input_ids": input_ids, "document": document, "position_ids": position_ids, "packed": True, **fields}
        return BaseModelOutput(last_hidden_state=self.encode(batch))


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
