"""Commands and settings that the documentation shows exist: they compose."""

import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from bmfm.cli import compose, config_folder, options, readable
from bmfm.console import commands

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / f / "README.md" for f in ("benchmarks", "docker", "leaderboard"))]
SETS = {
    "train": ["dna_snp", "dna_haplotype", "rna_wced", "rna_rda", "rna_multitask", "dna_finetune", "rna_finetune", "dna_snp_113m"],
    "tokenize": ["dna_tokenizer"],
}
ADDED = {"data.split.column", "data.census", "objectives.label.columns", "objectives.label.class_weights", "model.lora"}


def shown_commands():
    """Of every page, the commands of its shell blocks, as lists of words."""
    for page in PAGES:
        for block in re.findall(r"^```bash[^\n]*\n(.*?)^```", page.read_text(), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.split("&& ")[-1], comments=True)
                if words[:2] == ["python", "-m"] and words[2].startswith("bmfm."):
                    words = ["bmfm", words[2].removeprefix("bmfm."), *words[3:]]
                if words[:1] == ["bmfm"]:
                    yield pytest.param(words[1], words[2:], id=f"{page.name}: {line.strip()[:60]}")


@pytest.mark.parametrize(("command", "words"), shown_commands())
def test_commands_exist(command, words):
    assert command in commands()
    if not (config_folder() / f"{command}.yaml").is_file():
        return  # not one of Hydra's
    if "--config-dir" in words:
        return  # of the page on tasks of one's own, which is run by its own test
    overrides = [readable(w) for w in words if not w.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(overrides)
    compose(command, [next(o.sweep_string_iterator()) and f"{o.get_key_element()}={next(o.sweep_string_iterator())}" if o.is_sweep_override() else o.input_line for o in parsed])  # fmt: skip


@cache
def trees(command):
    """Configurations that a setting may belong to."""
    if command == "train":
        overrides = [[f"+recipe={r}"] for r in SETS["train"]] + [["+recipe=rna_wced", "data=census"], ["+recipe=dna_snp", "logger=wandb"]]
        overrides += [["+recipe=dna_finetune", f"objective=[{o}]"] for o in ("regression", "multilabel", "token_label")]
    else:
        overrides = [["+suite=demo"], ["+suite=demo", "launcher=slurm"]] if command == "benchmark" else [[]]
    return [OmegaConf.to_container(compose(command, o)) for o in overrides]


def has(tree, key):
    for part in key.split("."):
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def shown_settings():
    """Settings in the first column of tables whose heading is `setting`, and the command of the page."""
    for page in sorted((ROOT / "docs").glob("*.md")):
        command = {"predict.md": "predict", "benchmark.md": "benchmark"}.get(page.name, "train")
        for table in re.findall(r"^\| setting \|.*?(?=\n\n|\Z)", page.read_text(), re.M | re.S):
            for row in table.splitlines()[2:]:
                for span in re.findall(r"`([^`]+)`", row.split(" | ")[0]):
                    if "=" in span:
                        yield pytest.param(command, span, id=f"{page.name}: {span}")


@pytest.mark.parametrize(("command", "setting"), shown_settings())
def test_settings_exist(command, setting):
    """A setting is a key of some recipe, or a group with this choice; `+` adds what a recipe may lack."""
    word = shlex.split(setting)[-1]
    (parsed,) = OverridesParser.create().parse_overrides([readable(word)])
    key = parsed.key_or_group
    if choices := options(key.replace(".", "/")):
        value = parsed.value()
        assert set(value if isinstance(value, list) else [value]) <= {*choices}
    elif command == "benchmark" and key.startswith("finetune."):
        assert any(has(tree, key.removeprefix("finetune.")) for tree in trees("train"))
    else:
        assert any(has(tree, key) for tree in trees(command)) or parsed.is_add()
