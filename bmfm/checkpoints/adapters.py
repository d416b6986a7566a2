"""What fine-tuning with low-rank adapters changed, in a folder of its own beside the model that it belongs to."""

import json
import warnings
from pathlib import Path
from typing import Any

from bmfm.checkpoints.load import from_checkpoint, read_tokenizer
from bmfm.files import require_file
from bmfm.models.config import check_strands
from bmfm.models.lora import merge_lora
from bmfm.models.model import BmfmModel
from bmfm.storage.config import check_head, shown
from bmfm.storage.folders import on_disk, read_json
from bmfm.storage.remote_code import remote_code_is_allowed
from bmfm.storage.weights import load_strictly, some
from bmfm.tokenizers.rna import CellTokenizer

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
    settings = {"base": base, "lora": lora, "heads": model.config.heads, "max_tokens": max_tokens, "strands": model.config.strands}
    (folder / ADAPTER[0]).write_text(json.dumps(settings, indent=1))
    if isinstance(tokenizer, CellTokenizer):
        tokenizer.save_pretrained(folder)


def _is_adapted(name: str) -> bool:
    """Whether a weight is an adapter's or a head's, rather than the model's that it began with."""
    return "lora_" in name or name.startswith("heads.")


def _read_adapter_settings(folder: Path) -> dict:
    """``adapter.json`` of a folder; like a ``config.json`` it is data of others, and its heads are checked as those are."""
    file = require_file(folder / ADAPTER[0], "adapter folder, its")
    settings = read_json(file)
    for key, kind in (("base", str), ("lora", dict), ("heads", dict)):
        if not isinstance(settings.get(key), kind):
            raise ValueError(f"{file} has no {key!r}: an adapter that training saved is expected")
    for name, head in settings["heads"].items():
        check_head(head, f"{file}: heads.{shown(name)[1:-1]}", folder)
    if settings.get("strands") is not None:
        check_strands(settings["strands"], f"{file}: strands")
    return settings


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

    settings, file = _read_adapter_settings(folder), require_file(folder / ADAPTER[1], "adapter folder, its")
    try:
        weights = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged or no safetensors file ({error}): copy or download it again") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # heads of the base that this adapter replaces
        model = from_checkpoint(
            {}, settings["heads"], str(base), lora=settings["lora"], remote_code=remote_code_is_allowed(), strands=settings.get("strands")
        )
    fixed = {name: weight for name, weight in model.state_dict().items() if not _is_adapted(name)}
    if twice := sorted(weights.keys() & fixed.keys()):
        raise ValueError(f"{file}: weights {some(twice)} have no place: they belong to the model, which an adapter leaves as it is")
    load_strictly(model, fixed | weights, file)
    if settings.get("max_tokens"):
        model.config.max_tokens = settings["max_tokens"]
    has_tokenizer = (folder / CellTokenizer.FILES[0]).is_file()
    return merge_lora(model).eval(), read_tokenizer(folder if has_tokenizer else base)
