"""Models from folders and the Hub, whole or as the beginning of a fine-tuning."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import torch

from bmfm.checkpoints.huggingface import is_foreign
from bmfm.files import require_file
from bmfm.models.model import BmfmConfig, BmfmModel, read_folder
from bmfm.storage.config import plain, read_config, shown
from bmfm.storage.folders import find_folder, on_disk, read_json
from bmfm.storage.remote_code import remote_code as allow_remote_code
from bmfm.storage.remote_code import remote_code_is_allowed
from bmfm.storage.weights import load_strictly, some
from bmfm.tokenizers.huggingface import ForeignTokenizer
from bmfm.tokenizers.rna import CellTokenizer


def read_model(folder: Path) -> BmfmModel:
    """The model of a folder: ours, a plain ModernBERT of DNA tokens, or a DNA model of others (see `foreign`).

    Weights of ours are read from safetensors alone. Every weight that the model needs is there and no other, or it is
    an error that names the keys.
    """
    from bmfm.checkpoints import huggingface, transformers_format

    if read_config(folder).get("model_type") == "bmfm":
        return read_folder(folder).eval()
    return (huggingface if is_foreign(folder) else transformers_format).read(folder).eval()


def read_tokenizer(folder: Path, **changes):
    """The tokenizer of a model folder: `CellTokenizer` or `DnaTokenizer`.

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
        said = plain(f"{type(error).__name__}: {error}")
        raise ValueError(f"{folder}: the files of its tokenizer are damaged or of another kind ({said})") from error


def _read_tokenizer(folder: Path, **changes):
    if (folder / CellTokenizer.FILES[0]).is_file():
        return CellTokenizer.from_pretrained(folder, **changes)
    from bmfm.tokenizers import dna

    if changes:
        raise ValueError(f"a DNA tokenizer has no settings to change, {sorted(changes)} were given")
    if is_foreign(folder):
        return ForeignTokenizer.from_folder(folder)
    return dna.DnaTokenizer(dna.load(folder))


def tokenizer_of(checkpoint: str, revision: str | None = None, remote_code: bool = False, **changes):
    """The tokenizer of a model folder or Hub id, as training takes it."""
    with allow_remote_code(remote_code):
        return read_tokenizer(find_folder(checkpoint, revision), **changes)


def from_checkpoint(
    fields: dict[str, dict],
    heads: dict[str, dict],
    checkpoint: str,
    attention: str = "auto",
    trained: str = "all",
    lora: dict | None = None,
    dropout: float | None = None,
    scratch: bool = False,
    revision: str | None = None,
    genes: dict[str, int] | None = None,
    remote_code: bool = False,
) -> BmfmModel:
    """A model that begins with the weights of another and has the heads that objectives ask for.

    A head keeps its weights if the checkpoint has one of its name, size, kind and classes (in another order: its rows are
    put into the new order); any other begins anew, which is said where a head of that name is there. All other weights are
    the checkpoint's, or it is an error.

    Parameters
    ----------
    checkpoint
        Folder or Hub id.
    trained
        ``all``, or ``heads``: the encoder stays as it is.
    lora
        ``{r, alpha, dropout, dora}``: low-rank adapters on all linear maps of the backbone; the rest of the encoder stays.
    dropout
        Of the encoder, in place of the checkpoint's.
    scratch
        The same network with new weights: what pretraining is compared with.
    genes
        {token: id} of the tokenizer in use, which must be the checkpoint's; None does not compare them.
    remote_code
        Run Python code that comes with the checkpoint, if it needs any.
    """
    if trained not in ("all", "heads"):
        raise ValueError(f"model.trained={trained!r} is unknown; choose all or heads")
    with allow_remote_code(remote_code):
        folder = find_folder(checkpoint, revision)
        before = read_model(folder)
        if genes is not None:
            _check_tokens(genes, read_tokenizer(folder), checkpoint)
    for name, options in fields.items():
        held = before.config.fields.get(name, {})
        if name not in before.config.fields or options.get("size", held.get("size")) != held.get("size"):
            raise ValueError(
                f"{checkpoint}: its field {name} is {held or 'absent'}, the tokenizer gives {options}; use the checkpoint's tokenizer"
            )
    backbone = copy.deepcopy(before.config.backbone)
    body = backbone.get("config", backbone)
    if dropout is not None:
        body |= {k: dropout for k in ("hidden_dropout_prob", "mlp_dropout", "embedding_dropout") if k in body}
    with allow_remote_code(remote_code):
        config = BmfmConfig(backbone=backbone, fields=before.config.fields, heads=heads, pooling=before.config.pooling)
        model = BmfmModel(config)
    if not scratch:
        own, given = model.state_dict(), before.state_dict()
        for name in heads:
            given |= _head_weights(name, before, model, given)
        new = {k for k in own if k.startswith("heads.") and (k not in given or given[k].shape != own[k].shape)}
        load_strictly(model, {k: own[k] if k in new else given[k] for k in own if k in new or k in given}, checkpoint)
        model.begun = frozenset(n for n in heads if not any(k.startswith(model.heads.path(n) + ".") for k in new))
    model.use_attention(attention)
    if trained == "heads" or lora:
        for name, parameter in model.named_parameters():
            parameter.requires_grad = name.startswith("heads.")
    if lora:
        add_lora(model, **lora)
    return model


def _check_tokens(given: dict[str, int], tokenizer: Any, checkpoint: str) -> None:
    """Raise a ValueError if a token stands for something else in the checkpoint: rows of an embedding have no names of their own."""
    other = {name: i for i, name in enumerate(tokenizer.names)}
    if moved := [name for name in given if other.get(name) != given[name]]:
        there = f"has number {other[moved[0]]} there" if moved[0] in other else "is not there"
        raise ValueError(
            f"{checkpoint}: {len(moved):,} of {len(given):,} tokens of the tokenizer are others in the checkpoint "
            f"(first: {moved[0]!r}, number {given[moved[0]]}, {there}): use the checkpoint's tokenizer, tokenizer=checkpoint"
        )


def _head_weights(name: str, before: BmfmModel, model: BmfmModel, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of one head as the new model can take them over: in the order of its classes, or of no rows at all."""
    old, new, path = before.config.heads.get(name), model.config.heads[name], model.heads.path(name)
    if old is None:
        return {}
    held = {k: v for k, v in given.items() if k.startswith(f"{path}.")}
    differs = [key for key in ("size", "kind") if old.get(key) != new.get(key)]
    differs += ["outputs"] if list(old.get("outputs") or []) != list(new.get("outputs") or []) else []
    mine, theirs = new.get("classes") or [], old.get("classes") or []
    if not differs and mine == theirs:
        return held
    if not differs and sorted(mine) == sorted(theirs):
        order = torch.tensor([theirs.index(c) for c in mine])
        return {k: v[order] for k, v in held.items()}
    what = f"its {' and '.join(differs)}" if differs else f"its classes ({', '.join(map(str, theirs[:3]))}, ... there)"
    warnings.warn(f"the head {name!r} of the checkpoint is for something else ({what} differ): it begins anew here", stacklevel=3)
    return {k: v.new_empty(0) for k, v in held.items()}


def add_lora(model: BmfmModel, r: int = 8, alpha: int = 16, dropout: float = 0.0, dora: bool = False) -> None:
    """Put low-rank adapters into all linear maps of the backbone, by peft."""
    from peft import LoraConfig, inject_adapter_in_model

    targets = sorted({name.split(".")[-1] for name, m in model.backbone.named_modules() if isinstance(m, torch.nn.Linear)})
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, use_dora=dora, target_modules=targets)
    kept = {name for name, p in model.named_parameters() if p.requires_grad}
    inject_adapter_in_model(config, model.backbone)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name in kept or "lora_" in name


def merge_lora(model: BmfmModel) -> BmfmModel:
    """Adapters added into the matrices they adapt, so that the model is as any other."""
    from peft.tuners.lora import LoraLayer

    for parent in list(model.backbone.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, LoraLayer):
                child.merge()  # type: ignore[attr-defined]
                setattr(parent, name, child.get_base_layer())
    for parameter in model.parameters():
        parameter.requires_grad = True
    return model


def has_lora(model: BmfmModel) -> bool:
    return any("lora_" in name for name, _ in model.named_parameters())


ADAPTER = ("adapter.json", "adapter.safetensors")


def save_adapter(model: BmfmModel, folder: Path, base: str, lora: dict, tokenizer: Any = None, max_tokens: int | None = None) -> None:
    """What training changed: adapters and heads in one safetensors file, with the name of the model they belong to.

    Parameters
    ----------
    tokenizer
        Of cells, whose settings may differ from those of the model it began with; it is saved, too.
    max_tokens
        Longest input in training.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: w.detach().contiguous() for n, w in model.state_dict().items() if _is_adapted(n)}, folder / ADAPTER[1])
    held = {"base": base, "lora": lora, "heads": model.config.heads, "max_tokens": max_tokens}
    (folder / ADAPTER[0]).write_text(json.dumps(held, indent=1))
    if isinstance(tokenizer, CellTokenizer):
        tokenizer.save_pretrained(folder)


def _is_adapted(name: str) -> bool:
    """Whether a weight is an adapter's or a head's, rather than the model's that it began with."""
    return "lora_" in name or name.startswith("heads.")


def _read_adapter_settings(folder: Path) -> dict:
    file = require_file(folder / ADAPTER[0], "adapter folder, its")
    held = read_json(file)
    for key, kind in (("base", str), ("lora", dict), ("heads", dict)):
        if not isinstance(held.get(key), kind):
            raise ValueError(f"{file} has no {key!r}: an adapter that training saved is expected")
    return held


def adapter_base(folder: Path) -> str:
    """The model that an adapter belongs to: a Hub id, or a folder, which must be there.

    Raises
    ------
    FileNotFoundError
        If it is a folder that is not there.
    """
    base = _read_adapter_settings(folder)["base"]
    if not on_disk(base).exists():
        raise FileNotFoundError(
            f"{folder / ADAPTER[0]} is for the model {base!r}, which is not there: bmfm.load(MODEL, adapter={str(folder)!r})"
        )
    return base


def read_adapter(folder: Path, base: Path) -> tuple[BmfmModel, Any]:
    """The model of a folder with the adapters and heads of another merged into it, and the tokenizer."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    held, file = _read_adapter_settings(folder), require_file(folder / ADAPTER[1], "adapter folder, its")
    try:
        given = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged or no safetensors file ({error}): copy or download it again") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # heads of the base that this adapter replaces
        model = from_checkpoint({}, held["heads"], str(base), lora=held["lora"], remote_code=remote_code_is_allowed())
    fixed = {name: weight for name, weight in model.state_dict().items() if not _is_adapted(name)}
    if twice := sorted(given.keys() & fixed.keys()):
        raise ValueError(f"{file}: weights {some(twice)} have no place: they belong to the model, which an adapter leaves as it is")
    load_strictly(model, fixed | given, file)
    if held.get("max_tokens"):
        model.config.max_tokens = held["max_tokens"]
    own = (folder / CellTokenizer.FILES[0]).is_file()
    return merge_lora(model).eval(), read_tokenizer(folder if own else base)


def check_vocabulary(model: BmfmModel, tokenizer: Any, folder: Path) -> None:
    """Raise a ValueError unless the tokenizer has the model's tokens, kind of values, and the CLS tokens that its heads read."""
    n, where = len(tokenizer), folder / "config.json"
    rows = len(model.backbone.their_ids) if model.reads_ids else model.config.fields["input_ids"]["size"]
    if n != rows:
        raise ValueError(
            f"{folder / _tokens_file(folder)} has {n:,} tokens, the model of {where} has {rows:,}: they do not belong together"
        )
    ids = [] if isinstance(tokenizer, CellTokenizer) else tokenizer.tokenizer.get_vocab().values()
    if model.reads_ids:
        if model.backbone.their_ids.tolist() != tokenizer.their_ids.tolist():
            raise ValueError(
                f"{folder / _tokens_file(folder)} has other ids of tokens than backbone.their_ids of {where}: they do not belong together"
            )
    elif max(ids, default=0) >= rows:
        raise ValueError(f"{folder / _tokens_file(folder)} has a token with id {max(ids):,}, the model of {where} has {rows:,} rows")
    reads_values = "values" in model.config.fields
    if reads_values != isinstance(tokenizer, CellTokenizer):
        raise ValueError(f"{where} describes a model of {'cells' if reads_values else 'DNA'}, and the tokenizer beside it is not for that")
    if isinstance(tokenizer, CellTokenizer):
        encoder, kind = model.config.fields["values"], tokenizer.values["kind"]
        expected = encoder.get("n_bins") if encoder["kind"] == "token" else None
        if tokenizer.n_bins != expected:
            reads = f"{expected} bins of values" if expected else f"values that are numbers (its encoder is {encoder['kind']})"
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
    from bmfm.checkpoints.transformers_format import is_plain, to_transformers

    folder.mkdir(parents=True, exist_ok=True)
    model.config.tokenizer = tokenizer.description()
    (to_transformers(model) if is_plain(model) else model).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _check_described(tokenizer: Any, folder: Path, changes: dict) -> None:
    """Raise a ValueError if the tokenizer of a folder is not the one that its model was saved with; folders that do not say are taken
    as they are."""
    if not (folder / "config.json").is_file():
        return
    held = read_config(folder).get("tokenizer")
    if not isinstance(held, dict):
        return
    now = tokenizer.description()
    if "tokens" in held and held["tokens"] != now["tokens"]:
        raise ValueError(
            f"{folder / _tokens_file(folder)} holds other tokens, or in another order, than the model of {folder / 'config.json'} was "
            "saved with: copy both from the same folder"
        )
    for key in held.keys() & now.keys() - {"tokens"}:
        if held[key] != now[key] and not changes:
            raise ValueError(
                f"{folder / CellTokenizer.FILES[0]}: {key} is {shown(now[key])}, the model of {folder / 'config.json'} was saved with "
                f"{shown(held[key])}: copy both from the same folder"
            )
