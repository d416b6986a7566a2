"""The published checkpoints of BMFM-DNA and BMFM-RNA (``ibm-research/biomed.*``) as `BmfmModel`.

They are Lightning checkpoints with ``tokenizers/<field>/`` beside them; keys are those of the state dict without
``model.``. Older layouts (``base_model.*``, ``classifiers.<label>.*``, ``cls.predictions.transform``) are read too.
"""

import json
import re
from pathlib import Path
from typing import Any

import torch

from bmfm.models.model import BmfmConfig, BmfmModel
from bmfm.models.pickled import Bag, read_checkpoint

ENCODERS = {"scmodernbert": "modernbert", "scbert": "bert", "core": "llama"}
LLAMA = {
    "rms_1.scale": "input_layernorm.weight",
    "rms_2.scale": "post_attention_layernorm.weight",
    "attn.proj.weight": "self_attn.o_proj.weight",
    "mlp.c_fc1.weight": "mlp.gate_proj.weight",
    "mlp.c_fc2.weight": "mlp.up_proj.weight",
    "mlp.c_proj.weight": "mlp.down_proj.weight",
}
VALUE_KINDS = {"mlp": "mlp", "mlp_with_special_token_embedding": "mlp_special", "scale_adapt": "scale_adapt"}


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
        known = tuple(f"{e}." for e in ENCODERS)
        state = {
            (k[len(old) :] if k[len(old) :].startswith(known) else f"{inner}.{k[len(old) :]}") if k.startswith(old) else k: v
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
            f"the weights are of no published encoder: {sorted({k.split('.')[0] for k in named})} (expected one of {', '.join(ENCODERS)})"
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
            fields["input_ids"] = {"kind": "embedding", "size": state[f"{theirs}weight"].shape[0]}
            names[theirs] = "embeddings.input_ids.rows."
            continue
        options = dict(_get(given, "encoder_kwargs") or {})
        names[theirs] = "embeddings.values."
        if f"{theirs}weight" in state:
            n_special = int(_get(given, "num_special_tokens") or 5)
            fields["values"] = {"kind": "token", "n_special": n_special, "n_bins": state[f"{theirs}weight"].shape[0] - n_special}
            names[theirs] = "embeddings.values.rows."
            continue
        kind = VALUE_KINDS.get(options.get("kind", "mlp"))
        if kind is None:
            raise ValueError(f"value encoder {options.get('kind')!r} of field {name!r} is unknown; known are {', '.join(VALUE_KINDS)}")
        special = state.get(f"{theirs}special_token_embeddings.weight")
        fields["values"] = {
            "kind": kind,
            "n_special": len(special) - 1 if special is not None else int(_get(given, "num_special_tokens") or 5),
        }
        if kind == "scale_adapt":
            fields["values"] |= {"n_frequencies": len(state[f"{theirs}basis"])}
        else:
            fields["values"] |= {"inner": state[f"{theirs}dense_1.weight"].shape[0]}
    return fields, names


def _get(thing: Any, name: str, default: Any = None) -> Any:
    if isinstance(thing, dict):
        return thing.get(name, default)
    return thing.get(name, default) if isinstance(thing, Bag) else getattr(thing, name, default)


def _backbone(kind: str, config: Any, state: dict[str, torch.Tensor], local_rope_theta: float | None) -> dict:
    size, layers = int(_get(config, "hidden_size")), int(_get(config, "num_hidden_layers"))
    common = {
        "kind": kind,
        "hidden_size": size,
        "num_hidden_layers": layers,
        "num_attention_heads": int(_get(config, "num_attention_heads")),
    }
    if kind == "bert":
        return common | {
            "intermediate_size": int(_get(config, "intermediate_size")),
            "layer_norm_eps": float(_get(config, "layer_norm_eps", 1e-12)),
            "hidden_dropout_prob": float(_get(config, "hidden_dropout_prob", 0.1)),
            "attention_probs_dropout_prob": float(_get(config, "attention_probs_dropout_prob", 0.1)),
        }
    if kind == "llama":
        heads = common["num_attention_heads"]
        inner = state["core.encoder.blocks.0.mlp.c_fc1.weight"].shape[0]
        return common | {
            "num_key_value_heads": heads, "intermediate_size": inner, "rms_norm_eps": 1e-5, "first_norm": False, "final_norm": False,
            "embedding_eps": float(_get(config, "layer_norm_eps", 1e-12)),
        }  # fmt: skip
    global_theta = float(_get(config, "global_rope_theta", 160000.0))
    local_theta = local_rope_theta or float(_get(config, "local_rope_theta") or 10000.0)
    return common | {
        "intermediate_size": int(_get(config, "intermediate_size")),
        "norm_eps": float(_get(config, "norm_eps", 1e-5)),
        "norm_bias": True,  # the embedding's norm has a bias; where others have none it is 0
        "head_eps": float(_get(config, "layer_norm_eps", 1e-12)),
        "local_attention": int(_get(config, "local_attention", 128)),
        "global_attn_every_n_layers": int(_get(config, "global_attn_every_n_layers", 3)),
        "max_position_embeddings": int(_get(config, "max_position_embeddings", 8192)),
        "embedding_dropout": float(_get(config, "embedding_dropout", 0.0)),
        "mlp_dropout": float(_get(config, "mlp_dropout", 0.0)),
        "attention_dropout": float(_get(config, "attention_dropout", 0.0)),
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
    found = [(m[1], m[2]) for m in map(named.match, state) if m]

    def give(name: str, description: dict, sources: list[str]) -> None:
        heads[name] = description
        for part in ("weight", "bias"):
            weights[f"heads.decoders.to_{name}.{part}"] = torch.cat([state[f"{s}.{part}"] for s in sources])

    for field, output in found:
        source = f"{decoder}{field}_{output}"
        size = state[f"{source}.weight"].shape[0]
        if output == "token_scores":
            give("mlm" if kind == "modernbert" else field, {"size": size, "transform": True, "tied": None}, [source])
        elif output == "wced":
            given = next(f for f in _get(config, "fields") if _get(f, "field_name") == field)
            outputs = [o.removesuffix("_bce") for o in _get(given, "decode_modes")["wced"]["logit_outputs"]]
            give("wced", {"size": size, "transform": True, "outputs": outputs, "cls": 0}, [source])
    values = [(o, f"{decoder}{f}_{o}") for o in ("regression", "is_zero") for f, out in found if out == o]
    if values:
        kinds = {"mse" if o == "regression" else o: 1 for o, _ in values}
        give("values", {"size": len(values), "transform": True, "outputs": kinds}, [s for _, s in values])
    pooling: str | int = "pooler"
    if kind == "modernbert":
        pooling = "mean" if _get(config, "classifier_pooling") == "mean" else 0
    described = {_get(c, "label_column_name"): c for c in _get(config, "label_columns") or []}
    pattern = re.compile(r"(cls\.label_predictions\.predictions\.label_decoders\.(.+?)\.decoder(?:\.\d+)?)\.weight$")
    for key in state:
        if not (m := pattern.match(key)):
            continue
        source, label = m[1], m[2]
        if label in heads:
            raise ValueError(f"the head of label {label!r} has several layers ({source} is one of them), which is not supported")
        column = described.get(label)
        numbers = labels.get(label) or {}
        classes = sorted(numbers, key=numbers.__getitem__)
        task = (
            "mse" if _get(column, "is_regression_label") else "binary_cross_entropy" if _get(column, "is_multilabel") else "cross_entropy"
        )
        group = _get(column, "decode_from")
        description = {
            "size": state[key].shape[0], "kind": task, "column": label, "classes": [str(c) for c in classes],
            "pooling": group if isinstance(group, int) else pooling, "reversal": _get(column, "gradient_reversal_coefficient"),
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
        Its model configuration (`pickled.Bag` or dict).
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
    backbone = _backbone(kind, config, state, local_rope_theta) | {"pooler": "pooler.weight" in weights}
    model = BmfmModel(BmfmConfig(backbone=backbone, fields=fields, heads=heads))
    own = model.state_dict()
    for name, value in own.items():  # norms that have no bias there
        if kind == "modernbert" and name.endswith("norm.bias") and name not in weights:
            weights[name] = torch.zeros_like(value)
    wrong = [f"{n} is missing" for n in own if n not in weights] + [f"{n} has no place" for n in weights if n not in own]
    wrong += [
        f"{n} has shape {tuple(weights[n].shape)}, {tuple(own[n].shape)} is expected"
        for n in own
        if n in weights and own[n].shape != weights[n].shape
    ]
    if wrong:
        raise ValueError(f"{len(wrong)} weights do not fit: {'; '.join(wrong[:6])}")
    model.load_state_dict({n: w.to(own[n].dtype) for n, w in weights.items()})
    return model.eval()


def read_published(source: str | Path, local_rope_theta: float | None = None) -> tuple[BmfmModel, Path]:
    """The model of a published folder or ``.ckpt`` file, and the folder that holds its tokenizers."""
    path = Path(source).expanduser()
    if path.is_dir():
        found = sorted(path.glob("*.ckpt"), key=lambda p: (p.name != "last.ckpt", p.name))
        if not found:
            raise FileNotFoundError(f"{path} holds no .ckpt file")
        path = found[0]
    held = read_checkpoint(path)
    if "state_dict" not in held or "hyper_parameters" not in held:
        raise ValueError(f"{path} is no Lightning checkpoint of a published model: it holds {', '.join(map(str, held))}")
    parameters = held["hyper_parameters"]
    return convert(held["state_dict"], _get(parameters, "model_config"), _get(parameters, "label_dict"), local_rope_theta), path.parent


def gene_names(folder: Path) -> list[str]:
    """Tokens of a published gene tokenizer in the order of their ids, from ``tokenizers/genes``."""
    vocab = json.loads((folder / "tokenizers" / "genes" / "vocab.json").read_text())
    return sorted(vocab, key=lambda name: vocab[name])
