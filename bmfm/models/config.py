"""What a model is made of, as its ``config.json`` keeps it."""

from transformers import PreTrainedConfig

from bmfm.storage.config import without_choices
from bmfm.storage.folders import pooling_by_kind

STRANDS = ("forward", "average")


def check_strands(strands: str, key: str) -> str:
    """A way of reading DNA as it is, see `BmfmConfig`; ValueError, naming the key, if it is none."""
    if strands not in STRANDS:
        raise ValueError(f"{key}={strands!r} is unknown; choose from {', '.join(STRANDS)}")
    return strands


class BmfmConfig(PreTrainedConfig):
    """What `BmfmModel` is made of.

    Parameters
    ----------
    backbone
        ``{_target_: dotted path of a `Backbone`, ...}`` with the settings of that class.
    fields
        {batch key: ``{_target_: dotted path of a `FieldEncoder`, ...}`` with the settings of that class}.
    heads
        {name: head settings}, see `heads.Heads`; label heads also hold the names of their classes.
    pooling
        How an example becomes one state where nothing else is asked for (see `BmfmModel.pool`): by `bmfm.load(...).embed`,
        by probes and benchmarks, and by label heads whose pooling is ``auto``. None is the first CLS token for cells and
        ``mean`` for DNA, whose [CLS] is trained for nothing by masked-language modelling. Label heads of models of cells that pool by
        ``balanced``, a linear map of the first CLS token, read that token, as they have linear maps of their own.
    positions
        Whether the place in the input means something to the model; None: for DNA alone, where its backbone has positions.
    head_bias, head_eps
        Whether the dense layer of the heads' shared transform has a bias; epsilon of its norm, None for the backbone's own.
    pooler
        Whether there is a dense layer and tanh on the first CLS token, see `BmfmModel.pool`.
    max_tokens
        Longest input in training, special tokens included; None where nobody says.
    strands
        Of DNA, what embeddings and labels of whole examples are made of when the model is used: ``forward``, the sequence as it is given,
        or ``average``, the mean over both of its strands. States and log-probabilities of tokens are always those of the given strand.
    tokenizer
        What the model depends on of its tokenizer (`tokenizers.base.Tokenizer.description`); None where nobody says.
    """

    model_type = "bmfm"

    def __init__(
        self,
        backbone: dict | None = None,
        fields: dict | None = None,
        heads: dict | None = None,
        pooling: str | int | None = None,
        positions: bool | None = None,
        head_bias: bool = True,
        head_eps: float | None = None,
        pooler: bool = False,
        max_tokens: int | None = None,
        tokenizer: dict | None = None,
        **kwargs,
    ):
        self.backbone, self.fields, self.heads = without_choices(backbone or {}), dict(fields or {}), dict(heads or {})
        self.positions, self.head_bias, self.head_eps, self.pooler = positions, head_bias, head_eps, pooler
        self.max_tokens, self.tokenizer = max_tokens, tokenizer
        self.strands = check_strands(kwargs.pop("strands", "forward"), "model.strands")
        if self.strands != "forward" and "values" in self.fields:
            raise ValueError(f"model.strands={self.strands}: cells have no strands; leave it out")
        self.pooling = pooling if pooling is not None else pooling_by_kind(self.fields)
        if self.pooling == "balanced" and "values" not in self.fields:
            raise ValueError("model.pooling=balanced: it is of [CLS] of cells, which DNA trains for nothing; leave it out")
        of_heads = 0 if self.pooling == "balanced" else self.pooling
        self.heads = {name: head | {"pooling": of_heads} if head.get("pooling") == "auto" else head for name, head in self.heads.items()}
        super().__init__(**without_choices(kwargs))
