"""The published checkpoints of BMFM-DNA and BMFM-RNA (``ibm-research/biomed.*``) as `BmfmModel`.

They are Lightning checkpoints with ``tokenizers/<field>/`` beside them; keys are those of the state dict without
``model.``. Older layouts (``base_model.*``, ``classifiers.<label>.*``, ``cls.predictions.transform``) are read too.
"""

import math
import re
from pathlib import Path
from typing import Any

import torch

from bmfm.files import require_file
from bmfm.label_kinds import Classification, LabelKind, MultiLabel, Regression
from bmfm.models.backbones.bert import Bert
from bmfm.models.backbones.llama import Llama
from bmfm.models.backbones.modernbert import ModernBert
from bmfm.models.config import BmfmConfig
from bmfm.models.embeddings import BinEncoder, FieldEncoder, MlpEncoder, ScaleAdaptEncoder, TokenEmbedding
from bmfm.models.model import BmfmModel
from bmfm.storage.config import plain, shown
from bmfm.storage.folders import read_json
from bmfm.storage.pickled import StubConfig, check_size, read_checkpoint
from bmfm.storage.weights import check_fit, some
from bmfm.targets import class_path

ENCODERS = {"scmodernbert": "modernbert", "scbert": "bert", "core": "llama"}
BACKBONES = {"modernbert": class_path(ModernBert), "bert": class_path(Bert), "llama": class_path(Llama)}
LLAMA = {
    "rms_1.scale": "input_layernorm.weight",
    "rms_2.scale": "post_attention_layernorm.weight",
    "attn.proj.weight": "self_attn.o_proj.weight",
    "mlp.c_fc1.weight": "mlp.gate_proj.weight",
    "mlp.c_fc2.weight": "mlp.up_proj.weight",
    "mlp.c_proj.weight": "mlp.down_proj.weight",
}
KNOWN: dict[str, tuple[int, str | int]] = {
    "biomed.rna.bert.110m.mlm.rda": (4096, 0),
    "biomed.rna.bert.110m.mlm.multitask": (4096, "pooler"),
    "biomed.rna.bert.110m.wced": (1024, 0),
    "biomed.rna.llama.32m.mlm.multitask": (8192, "pooler"),
    "biomed.rna.llama.47m.wced.multitask": (8192, 1),
    "biomed.dna.": (2048, "mean"),
}
"""{beginning of a published model's name: (longest input in training, how it is pooled)}, which its checkpoint does not hold."""
VALUE_ENCODERS: dict[str, type[FieldEncoder]] = {
    "mlp": MlpEncoder, "mlp_with_special_token_embedding": MlpEncoder, "scale_adapt": ScaleAdaptEncoder,
}  # fmt: skip


def normalise(state: dict[str, torch.Tensor]) -> tuple[str, dict[str, torch.Tensor]]:
    """The encoder's kind, and the weights under the names of the newest layout."""
    state = {k.removeprefix("model."): v for k, v in state.items() if isinstance(v, torch.Tensor)}
    old = "base_model."
    if any(k.startswith(old) for k in state):
        layers = [k for k in state if k.startswith(old)]
        inner = (
            "scmodernbert"
            if any(".attn.Wqkv." in k for k in layers)
            else "core.encoder"
            if any(".c_attn." in k for k in layers)
            else "scbert"
        )
        encoders = tuple(f"{e}." for e in ENCODERS)
        state = {
            (k[len(old) :] if k[len(old) :].startswith(encoders) else f"{inner}.{k[len(old) :]}") if k.startswith(old) else k: v
            for k, v in state.items()
        }
    named = {}
    for key, value in state.items():
        key = re.sub(r"^cls\.predictions\.(transform|decoder)\.", r"cls.predictions.predictions.\1.", key)
        key = re.sub(
            r"^classifiers\.([^.]+)\.(?:[\w.]*\.)?(weight|bias)$", r"cls.label_predictions.predictions.label_decoders.\1.decoder.\2", key
        )
        named[key] = value
    kinds = {kind for prefix, kind in ENCODERS.items() if any(k.startswith(f"{prefix}.") for k in named)}
    if len(kinds) != 1:
        raise ValueError(
            f"the weights are of no published encoder: {some(sorted({shown(k.split('.')[0]) for k in named}))} (expected one of {', '.join(ENCODERS)})"
        )
    return kinds.pop(), named


def _fields(config: Any, state: dict[str, torch.Tensor], prefix: str) -> tuple[dict[str, dict], dict[str, str]]:
    """Field encoders of our model, and {their prefix: our prefix}."""
    fields: dict[str, dict] = {}
    names = {}
    for given in _get(config, "fields") or []:
        if not _get(given, "is_input", True):
            continue
        name = _get(given, "field_name")
        theirs = f"{prefix}embeddings.{name}_embeddings."
        if _get(given, "tokenization_strategy") == "tokenize" and "input_ids" not in fields and f"{theirs}weight" in state:
            fields["input_ids"] = {"_target_": class_path(TokenEmbedding), "size": state[f"{theirs}weight"].shape[0]}
            names[theirs] = "embeddings.input_ids.embedding."
            continue
        options = dict(_get(given, "encoder_kwargs") or {})
        names[theirs] = "embeddings.values."
        if f"{theirs}weight" in state:
            n_special = int(_get(given, "num_special_tokens") or 5)
            fields["values"] = {
                "_target_": class_path(BinEncoder),
                "n_special": n_special,
                "n_bins": state[f"{theirs}weight"].shape[0] - n_special,
            }
            names[theirs] = "embeddings.values.embedding."
            continue
        kind = options.get("kind", "mlp")
        encoder = VALUE_ENCODERS.get(kind) if isinstance(kind, str) else None
        if encoder is None:
            raise ValueError(f"value encoder {shown(kind)} of field {shown(name)} is unknown; known are {', '.join(VALUE_ENCODERS)}")
        special = state.get(f"{theirs}special_token_embeddings.weight")
        n_special = len(special) - 1 if special is not None else int(_get(given, "num_special_tokens") or 5)
        fields["values"] = {"_target_": class_path(encoder), "n_special": n_special}
        if encoder is ScaleAdaptEncoder:
            fields["values"] |= {"n_frequencies": len(state[f"{theirs}basis"])}
        else:
            fields["values"] |= {"inner": state[f"{theirs}dense_1.weight"].shape[0], "special": kind != "mlp"}
    return fields, names


def _get(thing: Any, name: str, default: Any = None) -> Any:
    return thing.get(name, default) if isinstance(thing, dict | StubConfig) else default


def _number(kind: type, config: Any, name: str, default: float | None = None) -> Any:
    """A number of the configuration; `default` where it is absent or None."""
    value = _get(config, name)
    value = default if value is None else value
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise ValueError(f"its model_config.{name} is {shown(value, 40)}, a number of at least 0 is expected")
    return kind(value)


def _backbone(kind: str, config: Any, state: dict[str, torch.Tensor], local_rope_theta: float | None) -> dict:
    size, layers = _number(int, config, "hidden_size"), _number(int, config, "num_hidden_layers")
    common = {
        "_target_": BACKBONES[kind],
        "hidden_size": size,
        "num_hidden_layers": layers,
        "num_attention_heads": _number(int, config, "num_attention_heads"),
    }
    if kind == "bert":
        return common | {
            "intermediate_size": _number(int, config, "intermediate_size"),
            "layer_norm_eps": _number(float, config, "layer_norm_eps", 1e-12),
            "hidden_dropout_prob": _number(float, config, "hidden_dropout_prob", 0.1),
            "attention_probs_dropout_prob": _number(float, config, "attention_probs_dropout_prob", 0.1),
        }
    if kind == "llama":
        heads = common["num_attention_heads"]
        inner = state["core.encoder.blocks.0.mlp.c_fc1.weight"].shape[0]
        return common | {
            "num_key_value_heads": heads, "intermediate_size": inner, "rms_norm_eps": 1e-5, "first_norm": False, "final_norm": False,
            "embedding_eps": _number(float, config, "layer_norm_eps", 1e-12),
        }  # fmt: skip
    global_theta = _number(float, config, "global_rope_theta", 160000.0)
    local_theta = local_rope_theta or _number(float, config, "local_rope_theta", 10000.0)
    return common | {
        "intermediate_size": _number(int, config, "intermediate_size"),
        "norm_eps": _number(float, config, "norm_eps", 1e-5),
        "norm_bias": True,  # the embedding's norm has a bias; where others have none it is 0
        "local_attention": _number(int, config, "local_attention", 128),
        "global_attn_every_n_layers": _number(int, config, "global_attn_every_n_layers", 3),
        "max_position_embeddings": _number(int, config, "max_position_embeddings", 8192),
        "embedding_dropout": _number(float, config, "embedding_dropout", 0.0),
        "mlp_dropout": _number(float, config, "mlp_dropout", 0.0),
        "attention_dropout": _number(float, config, "attention_dropout", 0.0),
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": global_theta},
            "sliding_attention": {"rope_type": "default", "rope_theta": local_theta},
        },
    }


def _encoder_weights(kind: str, state: dict[str, torch.Tensor], fields: dict[str, str]) -> dict[str, torch.Tensor]:
    """Weights of the fields, the backbone and the pooler under our names."""
    out = {}
    for key, value in state.items():
        if key.startswith("cls."):
            continue
        if (theirs := next((p for p in fields if key.startswith(p)), None)) is not None:
            out[fields[theirs] + key.removeprefix(theirs).replace("special_token_embeddings", "special")] = value
            continue
        _, _, name = key.partition(".")
        name = name.removeprefix("encoder.") if kind == "llama" else name
        if name.startswith("pooler."):
            out[name.replace("pooler.dense.", "pooler.")] = value
        elif name.startswith("embeddings.LayerNorm."):
            out[("backbone.body.embeddings.norm." if kind == "modernbert" else "backbone.norm.") + name.split(".")[-1]] = value
        elif kind == "bert":
            out["backbone.body." + name.removeprefix("encoder.")] = value
        elif kind == "modernbert":
            out["backbone.body." + name] = value
        else:
            _, number, rest = name.split(".", 2)
            layer = f"backbone.layers.{number}."
            if rest == "attn.c_attn.weight":
                for part, weight in zip("qkv", value.chunk(3), strict=True):
                    out[f"{layer}self_attn.{part}_proj.weight"] = weight.contiguous()
            else:
                out[layer + LLAMA[rest]] = value
    return out


def _heads(config: Any, labels: dict, state: dict[str, torch.Tensor], kind: str) -> tuple[dict[str, dict], dict[str, torch.Tensor]]:
    """Descriptions and weights of the heads."""
    heads: dict[str, dict] = {}
    weights: dict[str, torch.Tensor] = {}
    transform = "cls.predictions.predictions.transform."
    for key, value in state.items():
        if key.startswith(transform):
            weights["heads.transform." + key.removeprefix(transform).replace("LayerNorm", "norm")] = value
    decoder = "cls.predictions.predictions.decoder.field_decoders."
    named = re.compile(re.escape(decoder) + r"(.+)_(token_scores|regression|is_zero|wced)\.weight$")
    decoders = [(m[1], m[2]) for m in map(named.match, state) if m]

    def give(name: str, description: dict, sources: list[str]) -> None:
        heads[name] = description
        for part in ("weight", "bias"):
            weights[f"heads.decoders.to_{name}.{part}"] = torch.cat([state[f"{s}.{part}"] for s in sources])

    for field, output in decoders:
        source = f"{decoder}{field}_{output}"
        size = state[f"{source}.weight"].shape[0]
        if output == "token_scores":
            give("mlm" if kind == "modernbert" else field, {"size": size, "transform": True, "tied": None}, [source])
        elif output == "wced":
            of_field = next(f for f in _get(config, "fields") if _get(f, "field_name") == field)
            outputs = [o.removesuffix("_bce") for o in _get(of_field, "decode_modes")["wced"]["logit_outputs"]]
            give("wced", {"size": size, "transform": True, "outputs": outputs, "cls": 0}, [source])
    values = [(o, f"{decoder}{f}_{o}") for o in ("regression", "is_zero") for f, out in decoders if out == o]
    if values:
        kinds = {"mse" if o == "regression" else o: 1 for o, _ in values}
        give("values", {"size": len(values), "transform": True, "outputs": kinds}, [s for _, s in values])
    pooling: str | int = "pooler"
    if kind == "modernbert":
        pooling = "mean_all" if _get(config, "classifier_pooling") == "mean" else 0
    described = {_get(c, "label_column_name"): c for c in _get(config, "label_columns") or []}
    pattern = re.compile(r"(cls\.label_predictions\.predictions\.label_decoders\.(.+?)\.decoder(?:\.\d+)?)\.weight$")
    for key in state:
        if not (m := pattern.match(key)):
            continue
        source, label = m[1], m[2]
        if label in heads:
            raise ValueError(
                f"the head of label {shown(label)} has several layers ({shown(source)[1:-1]} is one of them), which is not supported"
            )
        column = described.get(label)
        numbers = labels.get(label) or {}
        classes = sorted(numbers, key=numbers.__getitem__)
        label_kind: type[LabelKind] = Regression if _get(column, "is_regression_label") else Classification
        if _get(column, "is_multilabel") and label_kind is not Regression:
            label_kind = MultiLabel
        group = _get(column, "decode_from")
        description = {
            "size": state[key].shape[0], "kind": class_path(label_kind), "column": label, "classes": [str(c) for c in classes],
            "pooling": group if isinstance(group, int) else pooling, "gradient_reversal": _get(column, "gradient_reversal_coefficient"),
        }  # fmt: skip
        give(label, description, [source])
    return heads, weights


def convert(state: dict[str, torch.Tensor], config: Any, labels: dict | None = None, local_rope_theta: float | None = None) -> BmfmModel:
    """A model with the weights of a published checkpoint.

    Parameters
    ----------
    state
        Its state dict.
    config
        Its model configuration (`pickled.StubConfig` or dict).
    labels
        {label: {class: number}}.
    local_rope_theta
        Rotary base of ModernBERT's local layers where it is not what the configuration says.

    Raises
    ------
    ValueError
        If weights are missing, left over or of another shape; names them.
    """
    kind, state = normalise(state)
    prefix = {"modernbert": "scmodernbert.", "bert": "scbert.", "llama": "core.encoder."}[kind]
    fields, names = _fields(config, state, prefix)
    heads, head_weights = _heads(config, labels or {}, state, kind)
    weights = _encoder_weights(kind, state, names) | head_weights
    if kind == "modernbert":  # its pooler is never used
        weights = {name: w for name, w in weights.items() if not name.startswith("pooler.")}
    backbone = _backbone(kind, config, state, local_rope_theta)
    given_layers = len({m[1] for m in (re.match(r"backbone\.(?:body\.)?layers?\.(\d+)\.", name) for name in weights) if m})
    if backbone["num_hidden_layers"] != given_layers:
        raise ValueError(f"the configuration says {backbone['num_hidden_layers']:,} layers, there are weights of {given_layers:,}")
    head_eps = _number(float, config, "layer_norm_eps", 1e-12) if kind == "modernbert" else None
    described = BmfmConfig(backbone=backbone, fields=fields, heads=heads, head_eps=head_eps, pooler="pooler.weight" in weights)
    with torch.device("meta"):  # sizes first: they are what the configuration says, and nobody knows how large that is
        expected = BmfmModel(described).state_dict()
    for name, value in expected.items():  # norms that have no bias there
        if kind == "modernbert" and name.endswith("norm.bias") and name not in weights:
            weights[name] = torch.zeros(value.shape)
    check_fit(expected, weights, "the published model")
    model = BmfmModel(described)
    model.load_state_dict(weights)
    return model.eval()


def read_published(source: str | Path, local_rope_theta: float | None = None) -> tuple[BmfmModel, Path]:
    """The model of a published folder or ``.ckpt`` file, and the folder that holds its tokenizers.

    Its ``config.max_tokens`` is the longest input in training, or None where neither the checkpoint nor its name tells.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(path.glob("*.ckpt"), key=lambda p: (p.name != "last.ckpt", p.name))
        if not files:
            raise FileNotFoundError(f"{path} holds no .ckpt file")
        path = files[0]
    checkpoint = read_checkpoint(path)
    if not isinstance(checkpoint.get("state_dict"), dict) or not isinstance(checkpoint.get("hyper_parameters"), dict):
        raise ValueError(f"{path} is no Lightning checkpoint of a published model: it holds {some([shown(k) for k in checkpoint])}")
    parameters = checkpoint["hyper_parameters"]
    config = _get(parameters, "model_config")
    try:
        check_size([config, _get(parameters, "label_dict")])
        model = convert(checkpoint["state_dict"], config, _get(parameters, "label_dict"), local_rope_theta)
    except ValueError as error:
        raise ValueError(f"{path}: {plain(str(error), 400)}") from error
    except Exception as error:
        reason = plain(f"{type(error).__name__}: {error}")
        raise ValueError(f"{path}: its configuration and weights are not those of a published model ({reason})") from error
    published = next((value for name, value in KNOWN.items() if any(part.startswith(name) for part in _names(source, path))), None)
    model.config.max_tokens = _trained_length(checkpoint) or (published[0] if published else None)
    model.config.pooling = _pooling(_get(_get(parameters, "trainer_config"), "pooling_method"), model, config, published)
    return model, path.parent


def _names(source: str | Path, path: Path) -> list[str]:
    """What a checkpoint may be called by: its repository, in a folder's name or the path of the Hub's cache, or its file."""
    folder = path.resolve().parent
    return [part.split("--")[-1] for part in (Path(str(source)).name, path.name, folder.name, folder.parent.parent.name)]


def _trained_length(checkpoint: dict) -> int | None:
    """Longest input in training, where the checkpoint says it (Lightning keeps a data module's settings, if it is asked to)."""
    for group in ("hyper_parameters", "datamodule_hyper_parameters"):
        for place in (checkpoint.get(group), _get(checkpoint.get(group), "data_module"), _get(checkpoint.get(group), "data_module_config")):
            length = _get(place, "max_length")
            if isinstance(length, int) and not isinstance(length, bool) and length > 2:
                return length
    return None


def _pooling(method: Any, model: BmfmModel, config: Any, published: tuple[int, str | int] | None) -> str | int:
    """How the model's examples become one state: as its makers use it, else as its training configuration says."""
    pooled: str | int = "pooler" if model.pooler is not None else 0
    if isinstance(model.backbone, ModernBert):
        pooled = "mean_all" if _get(config, "classifier_pooling") == "mean" else 0
    ways = {"first_token": 0, "mean_pooling": "mean", "pooling_layer": pooled}
    pooling = published[1] if published else ways.get(str(method), method) if isinstance(method, str | int) else model.config.pooling
    if pooling not in ("mean", "mean_all", "pooler") and not (isinstance(pooling, int) and pooling >= 0):
        pooling = model.config.pooling
    return pooled if pooling == "pooler" else pooling


def gene_names(folder: Path) -> list[str]:
    """Tokens of a published gene tokenizer in the order of their ids, from ``tokenizers/genes``.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or its ids do not count from 0.
    """
    file = require_file(folder / "tokenizers" / "genes" / "vocab.json", "gene vocabulary of a published model")
    vocab = read_json(file)
    if odd := [name for name in vocab if not name.strip() or not name.isprintable()]:
        raise ValueError(f"{file}: {shown(odd[0])} is no name of a gene, which is a line of text")
    names = sorted(vocab, key=lambda name: vocab[name] if isinstance(vocab[name], int) else -1)
    if [vocab[name] for name in names] != list(range(len(names))):
        raise ValueError(f"{file}: ids of tokens do not count from 0 to {len(names) - 1:,}")
    return names
