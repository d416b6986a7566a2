"""Commands and settings that the documentation shows exist: they compose."""

import json
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from bmfm.cli import compose, config_folder, options, readable
from bmfm.console import commands
from tests.shown_code import BLOCK, renewed

ROOT = Path(__file__).parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "generated"),
    *(ROOT / f / "README.md" for f in ("benchmarks", "docker", "leaderboard")),
]
NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
SETS = {
    "train": ["dna_snp", "dna_haplotype", "rna_wced", "rna_rda", "rna_multitask", "dna_finetune", "rna_finetune", "dna_snp_113m"],
    "tokenize": ["dna_tokenizer"],
}
ADDED = {"data.split.column", "data.census", "objectives.label.columns", "objectives.label.class_weights", "model.lora"}


def shell_lines(page):
    """Lines of a page's shell blocks; of a notebook, those after an exclamation mark; and commands in code within a table."""
    text = page.read_text()
    if page.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) + "\n" for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")
        blocks = [re.sub(r"^!", "", line) for line in text.replace("\\\n", " ").splitlines() if line.startswith("!")]
    else:
        blocks = re.findall(r"^```bash[^\n]*\n(.*?)^```", text, re.M | re.S)
        blocks += [
            span.replace("; ", "\n") for row in re.findall(r"^\|.*\|$", text, re.M) for span in re.findall(r"`(bmfm \w+ [^`]+)`", row)
        ]
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            yield from line.split("&& ")


def shown_commands():
    """Of every page, the commands that it shows, as lists of words."""
    for page in [*PAGES, *NOTEBOOKS]:
        for line in shell_lines(page):
            words = shlex.split(line, comments=True)
            if words[:2] == ["python", "-m"] and words[2].startswith("bmfm."):
                words = ["bmfm", words[2].removeprefix("bmfm."), *words[3:]]
            if words[:1] == ["bmfm"] and words[1:2] and not words[1].startswith("-"):
                yield pytest.param(words[1], words[2:], id=f"{page.name}: {line.strip()[:60]}")


@pytest.mark.parametrize(("command", "words"), shown_commands())
def test_commands_exist(command, words):
    assert command in commands() or (ROOT / "bmfm" / f"{command.replace('.', '/')}.py").is_file()
    command = command.rpartition(".")[2]  # of python -m bmfm.experiments.snp_aware
    if not (config_folder() / f"{command}.yaml").is_file():
        return  # not one of Hydra's
    if "--config-dir" in words:
        return  # of the page on tasks of one's own, which is run by its own test
    if "--cfg" in words:
        words = [w for w in words if w not in ("--cfg", "job")]
    overrides = [readable(w) for w in words if not w.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(overrides)
    compose(command, [next(o.sweep_string_iterator()) and f"{o.get_key_element()}={next(o.sweep_string_iterator())}" if o.is_sweep_override() else o.input_line for o in parsed])  # fmt: skip


@cache
def trees(command):
    """Configurations that a setting may belong to."""
    if command == "train":
        overrides = [[f"+recipe={r}"] for r in SETS["train"]] + [
            ["+recipe=rna_counts"],
            ["+recipe=rna_wced", "data=census"],
            ["+recipe=dna_snp", "logger=wandb"],
        ]
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
        command = {"haplotypes.md": "predict", "variants_benchmark.md": "benchmark"}.get(
            page.name, page.stem if page.stem in commands() else "train"
        )
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


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "extend").glob("*.md")), ids=lambda p: p.name)
def test_shown_code_is_that_of_the_extension(page):
    """Otherwise: ``python -m tests.shown_code``."""
    text = page.read_text()
    assert text == renewed(text)
    assert page.name == "README.md" or BLOCK.search(text)


def test_the_python_of_the_page_on_tokens_runs(dna_model):
    import bmfm

    (block,) = re.findall(r'^```python title="tokens"\n(.*?)^```', (ROOT / "docs" / "predict.md").read_text(), re.M | re.S)
    names = {"model": bmfm.load(dna_model), "sequences": ["ACGTTAGC", "GATTACA"]}
    exec(block, names)
    assert len(names["scores"].total()) == 2 and names["gradient"].abs().sum() > 0 and names["states"].states[0].shape[0] == 2


def keys_of(tree, prefix=""):
    if isinstance(tree, dict):
        for name, child in tree.items():
            yield from (f"{prefix}{name}", *keys_of(child, f"{prefix}{name}."))


def test_renamed_settings_are_as_the_changelog_says():
    """Of the release that is in the making: what is named as new exists, and the old name does not."""
    section = (ROOT / "CHANGELOG.md").read_text().split("\n## [")[1]
    rows = re.findall(r"^\| `([\w.*=]+)`[^|]* \| `([\w.*=]+)`", section, re.M)
    keys = {key for tree in trees("train") for key in keys_of(tree)}
    for old, new in rows:
        exists = [
            any(re.fullmatch(name.split("=")[0].replace(".", r"\.").replace("*", r"\w+"), key) for key in keys) for name in (old, new)
        ]
        assert exists == [False, True], (old, new)
    assert len(rows) > 5
