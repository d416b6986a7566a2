"""Where a model's files are: a folder, the package, or the cache of the Hub. No torch: asked before anything heavy is imported."""

import json
import re
from pathlib import Path

from bmfm.files import ASSETS, require_file

SHIPPED = ASSETS / "models"
"""Model folders that come with the package, each called by its name alone, as ``bmfm-rna-mini``."""

FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.py", "README.md")


def on_disk(name: str | Path, revision: str | None = None, files: tuple[str, ...] = FILES, **hub) -> Path:
    """A path that exists as it is; else the name of a model that ships as its folder in the package; else a Hub id as its folder in
    the Hub's cache, whose settings for tokens and offline use hold.

    A folder of the user that has the name of a model that ships comes first: write ``./NAME`` for nothing but it.

    Parameters
    ----------
    files
        Patterns of the files to download.
    hub
        Further options of `huggingface_hub.snapshot_download`, as ``token`` and ``cache_dir``.
    """
    path = Path(str(name)).expanduser()
    if not path.exists() and is_bare(name) and (SHIPPED / name / "config.json").is_file():
        return SHIPPED / name
    if path.exists() or str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path}, though there is {path.parent}; to mean a Hub id, call it where that is not")
    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=list(files), **hub))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FileNotFoundError(f"{name} is neither a folder nor a Hub id that could be fetched: {reason}") from error


def is_bare(name: str | Path) -> bool:
    """Whether a name is neither a path through folders nor a Hub id, as ``bmfm-rna-mini``."""
    return Path(str(name)).name == str(name)


def shipped_models() -> list[str]:
    """Names of the models that come with the package, sorted."""
    return sorted(file.parent.name for file in SHIPPED.glob("*/config.json"))


def find_folder(name: str | Path, revision: str | None = None, **hub) -> Path:
    """The folder of a model on disk, in the package or on the Hub, in that order (see `on_disk`); of PyTorch weights on the Hub only
    where no safetensors are."""
    folder = on_disk(name, revision, **hub)
    if not folder.exists() and is_bare(name):
        raise FileNotFoundError(
            f"there is no model folder {str(name)!r} in {Path.cwd()}, and no model of that name comes with the package, which has "
            f"{', '.join(shipped_models()) or 'none'}; a Hub id is OWNER/NAME"
        )
    if not (folder / "config.json").is_file() and (
        folder.suffix == ".ckpt" or any(folder.glob("*.ckpt")) or (folder / "tokenizers").is_dir()
    ):
        raise FileNotFoundError(
            f"{name} is a published checkpoint, not a model folder: python -m bmfm.convert {name} TARGET, and load TARGET"
        )
    require_file(folder / "config.json", "model folder (checkpoint), its")
    return folder if any(folder.glob("*.safetensors")) else on_disk(name, revision, (*FILES, "*.bin"), **hub)


def read_json(file: Path) -> dict:
    """The object in a JSON file.

    Raises
    ------
    ValueError
        Naming the file and the line, if it holds anything else.
    """
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not valid JSON ({error}): copy or download it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds a {type(content).__name__}, an object with named settings is expected")
    return content


def default_pooling(folder: Path) -> str | int:
    """How examples become one state by a model folder's own default, see `models.model.BmfmConfig`."""
    config = read_json(folder / "config.json")
    kept = config.get("pooling")
    return kept if kept is not None else pooling_by_kind(config.get("fields") or {})


def pooling_by_kind(fields: dict) -> str | int:
    """The first CLS token for models of cells, whose fields have values; the mean over tokens for DNA."""
    return 0 if "values" in fields else "mean"


def trained_max_tokens(folder: Path) -> int | None:
    """The longest input that a model folder's model was trained with, special tokens included; None where nothing says so."""
    file = folder / "config.json"
    return read_json(file).get("max_tokens") if file.is_file() else None


TRAINING_DATA, PROJECTION = "training_data.json", "pca.safetensors"
"""Files of models that ship: what they were trained on, with checksums; the principal components of these data."""

CALIBRATION, BACKGROUND = "variant_calibration.json", "variant_background.parquet"
"""What random variants score, by which scores of others are measured (`bmfm.calibrate`)."""

WRITTEN = {
    "README.md", "recipe.json", "config.json", "generation_config.json", "model.safetensors", "model.safetensors.index.json",
    TRAINING_DATA, PROJECTION, CALIBRATION, BACKGROUND,
}  # fmt: skip
CELLS = {"cell_tokenizer.json", "genes.txt", "gene_medians.txt"}
WORDS = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt", "vocab.json", "merges.txt"}
"""Files of a model folder by their exact names, and those of its tokenizer; beside them shards of weights, and ``code``."""


def written_files(folder: Path) -> list[str]:
    """The files of a model folder that saving it wrote, relative to it; whatever else lies there is not among them.

    Shards are those that the index names, ``code`` is taken where ``config.json`` says that the model brings some, and no link
    that leads out of the folder is followed.
    """
    config, index = read_json(folder / "config.json"), folder / "model.safetensors.index.json"
    names = WRITTEN | (CELLS if (folder / "cell_tokenizer.json").is_file() else WORDS)
    if (folder / "model.safetensors").is_file():
        names = names - {index.name}
    elif index.is_file():
        shards = read_json(index).get("weight_map")
        named = map(str, shards.values()) if isinstance(shards, dict) else ()
        names = names | {name for name in named if re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", name)}
    files = [folder / name for name in names]
    backbone = config.get("backbone")
    if isinstance(backbone, dict) and backbone.get("source"):
        files += [folder / "code" / "config.json"]
        files += [p for p in (folder / "code").glob("*.py") if re.fullmatch(r"[A-Za-z_]\w*\.py", p.name)]
    whole = folder.resolve()
    return sorted(p.relative_to(folder).as_posix() for p in files if p.is_file() and _is_own(p, whole))


def _is_own(file: Path, folder: Path) -> bool:
    """Whether a file is one of the folder, or of the Hub's cache, which keeps a model's files as links into ``blobs`` beside it."""
    there = file.resolve()
    blobs = folder.parent.parent / "blobs" if folder.parent.name == "snapshots" else None
    return there.is_relative_to(folder) or (blobs is not None and there.parent == blobs)
