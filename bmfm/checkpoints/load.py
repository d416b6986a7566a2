"""Models from folders and the Hub, whole or as the beginning of a fine-tuning."""

import copy
import warnings
from pathlib import Path
from typing import Any

import torch

from bmfm.checkpoints.huggingface import is_huggingface, read_huggingface
from bmfm.files import naming
from bmfm.models.backbones.huggingface import HuggingFaceBackbone
from bmfm.models.config import BmfmConfig
from bmfm.models.heads import predicts_tokens
from bmfm.models.lora import add_lora
from bmfm.models.model import BmfmModel, described_field, read_folder
from bmfm.storage.config import plain, read_config, shown
from bmfm.storage.folders import find_folder
from bmfm.storage.remote_code import remote_code as allow_remote_code
from bmfm.storage.remote_code import remote_code_is_allowed
from bmfm.storage.weights import load_strictly
from bmfm.targets import class_path, find_class
from bmfm.tokenizers.base import Tokenizer
from bmfm.tokenizers.dna import DnaTokenizer
from bmfm.tokenizers.huggingface import HuggingFaceTokenizer
from bmfm.tokenizers.rna import CellTokenizer
from bmfm.tokenizers.sequences import SequenceTokenizer

PERTURBATION = "perturbation"
"""The field of perturbations, which a model may begin to read when it is fine-tuned."""
DROPOUTS = ("hidden_dropout_prob", "mlp_dropout", "embedding_dropout", "dropout")
"""Settings of backbones that `from_checkpoint` changes by ``dropout``."""


def read_model(folder: Path) -> BmfmModel:
    """The model of a folder: ours, a plain ModernBERT of DNA tokens, or a model of others (see `checkpoints.huggingface`).

    Weights of ours are read from safetensors alone. Every weight that the model needs is there and no other, or it is
    an error that names the keys.
    """
    from bmfm.checkpoints.transformers_format import read_modernbert

    with naming(folder, "its model", "its files are damaged, or belong to another model"):
        if read_config(folder).get("model_type") == "bmfm":
            return read_folder(folder).eval()
        return (read_huggingface if is_huggingface(folder) else read_modernbert)(folder).eval()


def read_tokenizer(folder: Path, **changes):
    """The tokenizer of a model folder: one of ours, or of the class that its ``config.json`` names (``tokenizer._target_``).

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the folder, and what of it is no tokenizer's.
    """
    try:
        tokenizer = _read_tokenizer(folder, **changes)
        _check_described(tokenizer, folder, changes)
        return tokenizer
    except FileNotFoundError:
        raise
    except Exception as error:
        if str(folder) in str(error) or changes:
            raise
        reason = plain(f"{type(error).__name__}: {error}")
        raise ValueError(f"{folder}: the files of its tokenizer are damaged or of another kind ({reason})") from error


def _read_tokenizer(folder: Path, **changes):
    if other := _class_of_others(folder):
        return other.from_pretrained(folder, **changes)
    if (folder / CellTokenizer.FILES[0]).is_file():
        return CellTokenizer.from_pretrained(folder, **changes)
    if changes:
        raise ValueError(f"a DNA tokenizer has no settings to change, {sorted(changes)} were given")
    if is_huggingface(folder):
        return HuggingFaceTokenizer.from_pretrained(folder)
    return DnaTokenizer.from_pretrained(folder)


def _class_of_others(folder: Path) -> Any:
    """The class of the tokenizer that a model was saved with, where that is of another package; else None."""
    file = folder / "config.json"
    described = read_config(folder).get("tokenizer") if file.is_file() else None
    if not isinstance(described, dict) or "_target_" not in described:
        return None
    path, outside = described["_target_"], None if remote_code_is_allowed() else folder
    named = find_class(path, object, f"{file}: tokenizer._target_", outside)
    if not {Tokenizer, SequenceTokenizer, CellTokenizer} & set(named.__mro__):
        raise ValueError(
            f"{file}: tokenizer._target_ is {path}, which is no tokenizer: a subclass of bmfm.tokenizers.sequences.SequenceTokenizer, "
            "bmfm.tokenizers.rna.CellTokenizer or bmfm.tokenizers.base.Tokenizer is expected"
        )
    return named


def tokenizer_of(checkpoint: str, revision: str | None = None, remote_code: bool = False, **changes):
    """The tokenizer of a model folder or Hub id, as training takes it."""
    with allow_remote_code(remote_code):
        return read_tokenizer(find_folder(checkpoint, revision), **changes)


def from_checkpoint(
    fields: dict[str, dict],
    heads: dict[str, dict],
    checkpoint: str,
    revision: str | None = None,
    remote_code: bool = False,
    genes: dict[str, int] | None = None,
    dropout: float | None = None,
    random_init: bool = False,
    strands: str | None = None,
    **trained: Any,
) -> BmfmModel:
    """A model that begins with the weights of another and has the heads that objectives ask for.

    A head keeps its weights if the checkpoint has one of its name, size, kind and classes (in another order: its rows are
    put into the new order); any other begins anew, which is said where a head of that name is there. Heads that predict tokens are the
    backbone's own language-model head, where it has one. The encoder of perturbations begins anew where the checkpoint has none, and so do the
    rows of drugs that it does not know. All other weights are the checkpoint's, or it is an error.

    Parameters
    ----------
    checkpoint
        Folder or Hub id.
    remote_code
        Run Python code that comes with the checkpoint, if it needs any.
    genes
        {token: id} of the tokenizer in use, which must be the checkpoint's; None does not compare them.
    dropout
        Of the encoder, in place of the checkpoint's, which must have a setting of `DROPOUTS`.
    random_init
        The same network with new weights: what pretraining is compared with.
    strands
        ``forward`` or ``average``, in place of the checkpoint's, see `BmfmConfig`.
    trained
        What of it is trained, and how: ``attention``, ``freeze_encoder`` and ``lora``, see `set_trained`.
    """
    with allow_remote_code(remote_code):
        folder = find_folder(checkpoint, revision)
        before = read_model(folder)
        if genes is not None:
            _check_tokens(genes, read_tokenizer(folder), checkpoint)
    added = {name: described_field(name, options) for name, options in fields.items() if name == PERTURBATION}
    for name, options in fields.items():
        there = before.config.fields.get(name, {})
        if name in added:
            continue
        if name not in before.config.fields or options.get("size", there.get("size")) != there.get("size"):
            raise ValueError(
                f"{checkpoint}: its field {name} is {there or 'absent'}, the tokenizer gives {options}; use the checkpoint's tokenizer"
            )
    backbone = copy.deepcopy(before.config.backbone)
    settings = backbone.get("config", backbone)
    if dropout is not None:
        if not (names := [name for name in DROPOUTS if name in settings]):
            raise ValueError(
                f"model.dropout={dropout}: the backbone of {checkpoint}, {before.backbone.name}, has no setting {' or '.join(DROPOUTS)}: "
                "leave it out (model.dropout=null)"
            )
        settings |= dict.fromkeys(names, dropout)
    if before.backbone.capabilities.lm_head:
        n = before.n_tokens
        heads = {name: {"size": n, "own": True} if predicts_tokens(head, n) else head for name, head in heads.items()}
    kept = {key: getattr(before.config, key) for key in ("fields", "pooling", "positions", "head_bias", "head_eps", "pooler", "strands")}
    kept |= {} if strands is None else {"strands": strands}
    kept["fields"] = kept["fields"] | added
    config = BmfmConfig(backbone=backbone, heads=heads, **kept)
    with allow_remote_code(remote_code):
        model = BmfmModel(config)
    if random_init:  # the backbone's own head begins as its makers begin it
        model.pretrained_heads = frozenset(name for name, head in config.heads.items() if head.get("own"))
    else:
        model.pretrained_heads = _take_weights(model, before, checkpoint)
    set_trained(model, **trained)
    return model


def set_trained(model: BmfmModel, attention: str = "auto", freeze_encoder: bool = False, lora: dict | None = None) -> None:
    """Choose the attention kernel, and which weights are trained: all; the heads alone; the heads and low-rank adapters.

    Parameters
    ----------
    lora
        ``{r, alpha, dropout, dora}``: low-rank adapters on all linear maps of the backbone; the rest of the encoder stays.
    """
    model.use_attention(attention)
    if freeze_encoder or lora:
        model.requires_grad_(False)
        model.heads.requires_grad_(True)
        if not lora and any(head.get("own") for head in model.config.heads.values()):
            encoder = {id(p) for p in model.backbone.encoder.parameters()}
            for parameter in model.backbone.parameters():
                parameter.requires_grad = id(parameter) not in encoder
    if lora:
        add_lora(model, **lora)


def _take_weights(model: BmfmModel, before: BmfmModel, checkpoint: str) -> frozenset[str]:
    """Give a model the weights of another, but for heads that begin anew; the names of the heads that do not."""
    weights, old = model.state_dict(), before.state_dict()
    if (drugs := f"embeddings.{PERTURBATION}.drugs.weight") in weights.keys() & old.keys():  # those of the checkpoint come first
        old[drugs] = torch.cat([old[drugs], weights[drugs][len(old[drugs]) :]])
    for name, head in model.config.heads.items():
        if not head.get("own"):
            old |= _head_weights(name, before, model, old)
    may_be_new = ("heads.", f"embeddings.{PERTURBATION}.")
    new = {k for k in weights if k.startswith(may_be_new) and (k not in old or old[k].shape != weights[k].shape)}
    load_strictly(model, {k: weights[k] if k in new else old[k] for k in weights if k in new or k in old}, checkpoint)
    return frozenset(n for n in model.config.heads if not any(k.startswith(model.heads.path(n) + ".") for k in new))


def _check_tokens(tokens: dict[str, int], tokenizer: Any, checkpoint: str) -> None:
    """Raise a ValueError if a token stands for something else in the checkpoint: rows of an embedding have no names of their own."""
    other = {name: i for i, name in enumerate(tokenizer.names)}
    if moved := [name for name, number in tokens.items() if other.get(name) != number]:
        there = f"has number {other[moved[0]]} there" if moved[0] in other else "is not there"
        raise ValueError(
            f"{checkpoint}: {len(moved):,} of {len(tokens):,} tokens of the tokenizer are others in the checkpoint "
            f"(first: {moved[0]!r}, number {tokens[moved[0]]}, {there}): use the checkpoint's tokenizer, tokenizer=checkpoint"
        )


def _head_weights(name: str, before: BmfmModel, model: BmfmModel, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of one head as the new model can take them over: in the order of its classes, or of no rows at all."""
    old, new, path = before.config.heads.get(name), model.config.heads[name], model.heads.path(name)
    if old is None:
        return {}
    of_head = {k: v for k, v in weights.items() if k.startswith(f"{path}.")}
    differs = [key for key in ("size", "kind") if old.get(key) != new.get(key)]
    differs += ["places"] if (old.get("places") or 0) != (new.get("places") or 0) else []
    differs += ["outputs"] if list(old.get("outputs") or []) != list(new.get("outputs") or []) else []
    classes, before_classes = new.get("classes") or [], old.get("classes") or []
    if not differs and classes == before_classes:
        return of_head
    if not differs and sorted(classes) == sorted(before_classes):
        order = torch.tensor([before_classes.index(c) for c in classes])
        return {k: v if k.endswith(".places.channels") else v[order] for k, v in of_head.items()}
    what = f"its {' and '.join(differs)}" if differs else f"its classes ({', '.join(map(str, before_classes[:3]))}, ... there)"
    warnings.warn(f"the head {name!r} of the checkpoint is for something else ({what} differ): it begins anew here", stacklevel=3)
    return {k: v.new_empty(0) for k, v in of_head.items()}


def check_vocabulary(model: BmfmModel, tokenizer: Any, folder: Path) -> None:
    """Raise a ValueError unless the tokenizer has the model's tokens, kind of values, and the CLS tokens that its heads read."""
    n, where, rows = len(tokenizer), folder / "config.json", model.n_tokens
    if n != rows:
        raise ValueError(
            f"{folder / _tokens_file(folder)} has {n:,} tokens, the model of {where} has {rows:,}: they do not belong together"
        )
    ids = tokenizer.tokenizer.get_vocab().values() if isinstance(tokenizer, DnaTokenizer | HuggingFaceTokenizer) else []
    if isinstance(model.backbone, HuggingFaceBackbone):
        if not isinstance(tokenizer, HuggingFaceTokenizer) or model.backbone.hf_token_ids.tolist() != tokenizer.hf_token_ids.tolist():
            raise ValueError(
                f"{folder / _tokens_file(folder)} has other ids of tokens than backbone.hf_token_ids of {where}: they do not belong together"
            )
    elif max(ids, default=0) >= rows:
        raise ValueError(f"{folder / _tokens_file(folder)} has a token with id {max(ids):,}, the model of {where} has {rows:,} rows")
    reads_values = "values" in model.config.fields
    if reads_values != ("values" in tokenizer.fields):
        raise ValueError(f"{where} describes a model of {'cells' if reads_values else 'DNA'}, and the tokenizer beside it is not for that")
    if (of_model := "summary" in model.config.fields) != ("summary" in tokenizer.fields):
        raise ValueError(
            f"{where} describes a model that reads {'a' if of_model else 'no'} summary of cells, and the tokenizer beside it gives "
            f"{'none' if of_model else 'one'} (summary of {CellTokenizer.FILES[0]})"
        )
    if isinstance(tokenizer, CellTokenizer):
        encoder, kind = model.embeddings.encoder("values"), tokenizer.values["kind"]
        expected = model.config.fields["values"]["n_bins"] if encoder.reads_bins else None
        if tokenizer.n_bins != expected:
            reads = f"{expected} bins of values" if expected else f"values that are numbers (by its {type(encoder).__name__})"
            writes = f"{tokenizer.n_bins} bins" if tokenizer.n_bins else "numbers"
            raise ValueError(f"{where}: the model reads {reads}; {CellTokenizer.FILES[0]} beside it gives {writes} (values.kind {kind})")
    readers = {"pooling": model.config.pooling}
    readers |= {f"heads.{name}.{key}": head.get(key) for name, head in model.config.heads.items() for key in ("pooling", "cls")}
    for what, number in readers.items():
        if isinstance(number, int):
            try:
                tokenizer.check_cls(number, what)
            except ValueError as error:
                raise ValueError(f"{where}: {what} is {number}: {error}") from None


def _tokens_file(folder: Path) -> str:
    return next((f for f in ("genes.txt", "tokenizer.json", "vocab.txt") if (folder / f).is_file()), "its tokenizer")


def save_together(model: BmfmModel, tokenizer: Any, folder: Path) -> None:
    """Write a model and its tokenizer into a folder, so that it is seen at loading if one of them was exchanged.

    A model of DNA tokens alone is written as a `ModernBertForMaskedLM`, which transformers loads without this package.
    """
    from bmfm.checkpoints.transformers_format import is_hf_compatible, to_transformers

    folder.mkdir(parents=True, exist_ok=True)
    kind = type(tokenizer)
    target = {} if kind in (DnaTokenizer, CellTokenizer, HuggingFaceTokenizer) else {"_target_": class_path(kind)}
    model.config.tokenizer = target | tokenizer.description()
    (to_transformers(model) if is_hf_compatible(model) else model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _check_described(tokenizer: Any, folder: Path, changes: dict) -> None:
    """Raise a ValueError if the tokenizer of a folder is not the one that its model was saved with; folders that do not say are taken
    as they are."""
    if not (folder / "config.json").is_file():
        return
    saved = read_config(folder).get("tokenizer")
    if not isinstance(saved, dict):
        return
    now = tokenizer.description()
    if "tokens" in saved and saved["tokens"] != now["tokens"]:
        raise ValueError(
            f"{folder / _tokens_file(folder)} holds other tokens, or in another order, than the model of {folder / 'config.json'} was "
            "saved with: copy both from the same folder"
        )
    for key in saved.keys() & now.keys() - {"tokens"}:
        if saved[key] != now[key] and not changes:
            raise ValueError(
                f"{folder / CellTokenizer.FILES[0]}: {key} is {shown(now[key])}, the model of {folder / 'config.json'} was saved with "
                f"{shown(saved[key])}: copy both from the same folder"
            )
