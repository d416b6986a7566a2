"""Prepare a trained model for others: ``python -m bmfm.release runs/rna_counts/model TARGET [--about NOTES.md] [--components]``.

TARGET gets the files of the model with weights in float16 (they are read as float32), a recipe without paths of this machine, and
the list of all files that the model was trained on, with their SHA-256, as ``training_data.json`` and in the model card. A model in
``bmfm/assets/models/NAME`` ships with the package: it is then ``bmfm.load("NAME")``.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bmfm.cli import exit_status

SOURCES = ("path", "fasta", "variants", "regions", "orthologs", "source", "variant_filter")
"""Settings of ``data`` in which files of training data are named."""


def release(source: Path, target: Path, about: str = "", components: bool = False, pretraining: Sequence[str] | None = None) -> list[dict]:
    """Write a model folder for others.

    Parameters
    ----------
    source
        Model folder of a run, with ``recipe.json`` and a model card; the files that it names are where it says.
    target
        New folder.
    about
        Text for the model card: where the data come from, under which licence, what training cost.
    components
        Store the principal components of the pretraining cells with the model, so that the baseline ``pca_pretrained`` needs no cells.
    pretraining
        Files of the pretraining cells, where they are not where the recipe says.

    Returns
    -------
    list
        ``{file, sha256}`` of all training data.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the file that is missing or of another kind, or a weight that float16 cannot hold.
    """
    from bmfm.evaluation.checksums import write_json
    from bmfm.files import require_file
    from bmfm.storage.folders import PROJECTION, SHIPPED, TRAINING_DATA, read_json, written_files

    recipe = read_json(require_file(source / "recipe.json", "model folder of a run, its"))
    if target.exists():
        raise ValueError(f"TARGET {target} is there already: name a new folder, or remove it")
    data = training_data(recipe)
    target.mkdir(parents=True)
    for name in written_files(source):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        if name.startswith("model") and name.endswith(".safetensors"):
            halve(source / name, target / name)
        else:
            shutil.copy(source / name, target / name)
    (target / "recipe.json").write_text(json.dumps(without_paths(recipe), indent=1))
    write_json(target / TRAINING_DATA, {"files": data})
    name = target.name if target.resolve().parent == SHIPPED.resolve() else "."
    card = (target / "README.md").read_text(encoding="utf-8") if (target / "README.md").is_file() else f"# {target.name}\n"
    rows = "".join(f"| {entry['file']} | `{entry['sha256']}` |\n" for entry in data)
    table = f"\n## Training data\n\nTrained on these files and nothing else; SHA-256 of their decompressed content.\n\n| file | SHA-256 |\n|---|---|\n{rows}"
    (target / "README.md").write_text(
        card.replace('load(".")', f'load("{name}")') + table + (f"\n{about}" if about else ""), encoding="utf-8"
    )
    if components:
        from bmfm.evaluation.baselines.pretrained import ProjectedPca
        from bmfm.evaluation.baselines.projection import save_projection

        yardstick = ProjectedPca("PCA of the pretraining cells", str(source), pretraining)
        save_projection(yardstick.fit(), yardstick.pretraining.tokenizer.vocabulary.names, target / PROJECTION)
    return data


def halve(source: Path, target: Path) -> None:
    """Copy a safetensors file with floating-point numbers as float16; ValueError, naming the weight, where one is too large."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(source)
    halved = {name: weight.half() if weight.is_floating_point() else weight for name, weight in weights.items()}
    if large := [name for name, weight in halved.items() if weight.is_floating_point() and not bool(torch.isfinite(weight).all())]:
        raise ValueError(f"{source}: {large[0]} holds a number beyond ±65,504, which float16 cannot: release it in float32")
    save_file({name: weight.contiguous() for name, weight in halved.items()}, target, {"format": "pt"})
    target.chmod(0o644)


def training_data(recipe: Mapping[str, Any]) -> list[dict]:
    """``{file, sha256}`` of the files that the ``data`` of a recipe names, and of those that its checkpoint was trained on.

    A file that ships with the package is called by its path there, another one by its name.
    """
    from bmfm.evaluation.checksums import content_hash
    from bmfm.storage.folders import TRAINING_DATA, find_folder, read_json

    before: list[dict] = []
    if recipe.get("checkpoint"):
        file = find_folder(recipe["checkpoint"]) / TRAINING_DATA
        before = read_json(file)["files"] if file.is_file() else []
        if not before:
            raise ValueError(f"{file} is missing: what the checkpoint was trained on is unknown; release that model first")
    data = recipe.get("data") or {}
    files = list(dict.fromkeys(file for key in SOURCES for file in _files(data.get(key))))
    if not files:
        raise ValueError("the recipe names no file of data (recipe.json, data): what the model was trained on is unknown")
    entries = [
        {"file": _public(str(file)).replace("${asset:", "bmfm/assets/").rstrip("}"), "sha256": content_hash([file])} for file in files
    ]
    return before + [entry for entry in entries if entry not in before]


def _files(value: Any) -> Iterator[Path]:
    """Files among the texts of a setting, patterns written out; FileNotFoundError for a pattern or an absolute path without any."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _files(part)
    elif isinstance(value, str) and not value.startswith("bmfm."):
        path = Path(value).expanduser()
        if path.exists():
            yield path
        elif matches := sorted(path.parent.glob(path.name)) if path.parent.is_dir() and set(path.name) & set("*?[") else []:
            yield from matches
        elif path.is_absolute():
            raise FileNotFoundError(f"recipe.json names {value}, which is not here: its SHA-256 cannot be told")


def _public(text: str) -> str:
    """A path as others can read it: of a file that ships its path there, of another file its name."""
    from bmfm.files import ASSETS

    path = Path(text)
    if not path.is_absolute() and not path.exists():
        return text
    whole = path.resolve()
    return f"${{asset:{whole.relative_to(ASSETS.resolve()).as_posix()}}}" if whole.is_relative_to(ASSETS.resolve()) else path.name


def without_paths(value: Any) -> Any:
    """A recipe in which `_public` stands for every absolute path."""
    if isinstance(value, Mapping):
        return {key: without_paths(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(part) for part in value]
    return _public(value) if isinstance(value, str) and Path(value).is_absolute() else value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; status 2 where it cannot be run."""
    parser = argparse.ArgumentParser(prog="python -m bmfm.release", description=__doc__)
    parser.add_argument("source", type=Path, metavar="MODEL", help="model folder of a run")
    parser.add_argument("target", type=Path, metavar="TARGET", help="new folder")
    parser.add_argument("--about", type=Path, metavar="FILE", help="text for the model card: sources, licences, cost of training")
    parser.add_argument("--components", action="store_true", help="store the principal components of the pretraining cells")
    parser.add_argument("--pretraining", nargs="+", metavar="FILE", help="the pretraining cells, if not where the recipe says")
    parsed = parser.parse_args(arguments)

    def work() -> None:
        from bmfm.training.transparency import unstated

        about = parsed.about.read_text(encoding="utf-8") if parsed.about else ""
        data = release(parsed.source, parsed.target, about, parsed.components, parsed.pretraining)
        if lacking := unstated((parsed.target / "README.md").read_text(encoding="utf-8")):
            print(f"{parsed.target / 'README.md'} does not state: {', '.join(lacking)}; write them into its table Transparency")
        size = sum(file.stat().st_size for file in parsed.target.rglob("*") if file.is_file())
        print(f"{parsed.target}: {size / 1e6:.1f} MB, trained on {', '.join(entry['file'] for entry in data)}")

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
