"""Where a model's files are: a folder, or the cache of the Hub. No torch: asked before anything heavy is imported."""

from pathlib import Path

from bmfm.files import require_file

FILES = ("*.json", "*.txt", "*.model", "*.safetensors", "*.py", "README.md")


def on_disk(name: str | Path, revision: str | None = None, files: tuple[str, ...] = FILES) -> Path:
    """A path that exists as it is; a Hub id as its folder in the Hub's cache, whose settings for tokens and offline use hold."""
    path = Path(name).expanduser()
    if path.exists() or str(name).count("/") != 1 or str(name).startswith((".", "/", "~")):
        return path
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(name), revision=revision, allow_patterns=list(files)))


def find_folder(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a model on disk or on the Hub; of PyTorch weights there only where no safetensors are."""
    folder = require_file(on_disk(name, revision) / "config.json", "model folder (checkpoint), its").parent
    return folder if any(folder.glob("*.safetensors")) else on_disk(name, revision, (*FILES, "*.bin"))
