"""The command line: any path is a setting, mistakes end with one line, a failed run shows in the exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from bmfm.cli import compose, literal, main, override, readable
from bmfm.evaluation.benchmark import benchmark

ODD = "é \\ ${x} =1 {y} 'q' \"d\", [b] (p) #%&~"
SIGNS = st.sampled_from(list("\\${}\"'= é,[]():~#%&;!`*?|<>@+-\n\t…😀"))
TEXTS = st.text(SIGNS | st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=15).filter(lambda t: t != "???")
ROOT = Path(__file__).parents[1]


def run(*arguments, cwd=None):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=cwd, check=False)


def parsed(line):
    return OmegaConf.create({"a": OverridesParser.create().parse_override(line).value()}).a


@given(TEXTS)
@settings(max_examples=500, deadline=None)
def test_any_text_comes_back_from_an_override(text):
    assert str(parsed(override("a", text))) == text
    assert OmegaConf.create({"a": literal(text)}).a == text


@given(st.recursive(st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1e9, 1e9) | TEXTS, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.sampled_from(["r", "lora_alpha", "x-y"]), v), max_leaves=5))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_any_value_comes_back_from_an_override(value):
    parsed_value = OverridesParser.create().parse_override(override("a", value)).value()
    assert json.loads(json.dumps(OmegaConf.to_container(OmegaConf.create({"a": parsed_value}), resolve=True)["a"])) == value


@given(st.text(SIGNS, min_size=1, max_size=15))
@settings(max_examples=300, deadline=None)
def test_what_the_grammar_cannot_read_is_taken_as_it_stands(text):
    line = readable(f"a={text}")
    try:
        OverridesParser.create().parse_override(f"a={text}")
    except HydraException:
        if text[0] not in "[{('\"" and "${" not in text:
            assert str(parsed(line)) == text
    else:
        assert line == f"a={text}"


@pytest.mark.parametrize("key", ["data_root", "run_dir", "checkpoint", "name"])
@pytest.mark.parametrize("text", [ODD, "/a/b=c/é.csv", "C:\\new\\table.csv", "/a/${oc.env:HOME}/x", "/a\\${b}", "1e5", "null", "tail\\"])
def test_any_path_comes_back_from_composing(text, key):
    suite = "+suite={name: s, title: t, tasks: [demo/core_promoter_tata]}"
    config = compose("benchmark", [suite, override(key, text), *([override("run_dir", "r")] if key != "run_dir" else [])])
    assert config[key] == text and OmegaConf.to_container(config, resolve=True)[key] == text


def test_keys_that_are_no_words_are_refused():
    with pytest.raises(ValueError, match="'a b' cannot be a key"):
        override("model.lora", {"a b": 1})


@pytest.fixture
def odd_places(tmp_path, dna_model):
    """A model, a table and a folder for runs below a folder with every sign that a shell or a grammar could take amiss."""
    import shutil

    folder = tmp_path / ODD
    shutil.copytree(dna_model, folder / "model é")
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"sequence": ["".join(rng.choice(list("ACGT"), 24)) for _ in range(40)]})
    table.assign(label=table.sequence.str.count("G") > 5).to_csv(folder / "b=é.csv", index=False)
    return folder


TINY = ["trainer.max_steps=2", "trainer.val_check_interval=2", "data.batch_size=4", "trainer.accelerator=cpu"]


def test_a_benchmark_hands_odd_places_on_to_training(odd_places, monkeypatch):
    """The model, the data root and the run's folder: checkpoints, adapters and logs are written and read below such names."""
    monkeypatch.setattr("bmfm.launch.LocalPool.__call__", lambda self, run, jobs, failed: map(run, jobs))
    suite = "+suite={name: s, title: t, tasks: [demo/core_promoter_tata]}"
    tiny = [f"+finetune.{t}" for t in (*TINY, "trainer.limit_val_batches=1")]
    places = {"checkpoint": odd_places / "model é", "data_root": odd_places, "run_dir": odd_places / "run"}
    options = [suite, *tiny, "modes=[lora]", "seeds=[0]", "n_bootstrap=0", "baseline=[]", "keep_models=true"]
    (record,) = benchmark(compose("benchmark", [*options, *(override(k, v) for k, v in places.items())]))
    assert record["status"] == "ok", record["error"]
    (recipe,) = (odd_places / "run" / "jobs").glob("*/run/model/recipe.json")
    assert json.loads(recipe.read_text())["checkpoint"] == str(places["checkpoint"])


@pytest.mark.slow
def test_several_runs_in_odd_places(odd_places):
    """As typed, where the grammar cannot read it anyhow; and by `override`."""
    command = ["bmfm.train", "+recipe=dna_finetune", *TINY, "data.split.validation=0.2", "logistic_regression=false"]
    places = {"checkpoint": odd_places / "model é", "data.path": odd_places / "b=é.csv"}
    done = run(*command, *(override(k, v) for k, v in places.items()), override("run_dir", odd_places / "s") + "${seed}", "-m", "seed=0,1")
    assert done.returncode == 2 and "bmfm: " in done.stderr  # a text that is quoted ends with its quotation mark
    plain = odd_places.parent / "a=b" / "é"
    plain.mkdir(parents=True)
    (odd_places / "b=é.csv").rename(plain / "b=é.csv")
    (odd_places / "model é").rename(plain / "m")
    typed = [f"checkpoint={plain / 'm'}", f"data.path={plain / 'b=é.csv'}", f"run_dir={plain}/s${{seed}}"]
    done = run(*command, *typed, "-m", "seed=0,1")
    assert done.returncode == 0, done.stderr
    assert all((plain / f"s{i}" / "model").is_dir() for i in (0, 1)) and json.loads((plain / "seeds.json").read_text())["runs"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bmfm.train", "+recipe=dna_finetune", "checkpoint=x", "data.path=/a/${b}/c.csv"], "write \\${...} in single quotes"),
        (["bmfm.train", "+recipe=dna_finetune", "checkpoint=x", "data.path=/a,b.csv"], "'data.path=\"...\"'"),
        (["bmfm.train", "+recipe=dna_fintune", "-m", "seed=0,1"], "no recipe is named 'dna_fintune'; did you mean dna_finetune"),
        (["bmfm.train", "+recipe=dna_finetune", "checkpoint=x", "data.path=/nowhere/é=b.csv"], "'/nowhere/é=b.csv' does not exist"),
        (["bmfm.train", "+recipe=dna_finetune", "checkpoint=x", "data.path=[/a/é.csv,/b.csv]"], "put texts with signs in quotes"),
        (["bmfm.train", "+recipe=dna_finetune", "checkpoint=x", "data.path={train: /a/b.csv}"], "'/a/b.csv' does not exist"),
        (["bmfm.benchmark", "+suite=demo_dna", "--config-dir", "/nowhere"], "/nowhere is no folder"),
    ],
)
def test_mistakes_end_with_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as ended:
        main(lambda config: None, arguments[0].removeprefix("bmfm."))
    stderr = capsys.readouterr().err
    assert ended.value.code == 2 and message in stderr and stderr.startswith("bmfm: ") and stderr.count("\n") == 1, stderr


def test_processes_of_other_devices_read_the_same_folder(tmp_path, monkeypatch):
    """Lightning starts them with the command line as it is and the run's folder between quotation marks."""
    folder, seen = str(tmp_path / ODD), []
    monkeypatch.setenv("LOCAL_RANK", "1")
    more = [f'hydra.run.dir="{folder}"', "hydra.job.name=train_ddp_process_1", "hydra.output_subdir=null"]
    monkeypatch.setattr(sys, "argv", ["train", "+recipe=dna_snp", override("run_dir", folder), *more])
    main(lambda config: seen.append(config.run_dir), "train")
    assert seen == [folder]


def test_the_status_tells_of_every_run(tmp_path):
    """A run that fails does not keep the next from being tried, and is not forgotten."""
    (tmp_path / "mine.py").write_text(
        "import sys\nfrom bmfm.cli import main\n"
        "def task(config):\n    print('ran', config.seed)\n    if config.seed == 1: raise SystemExit(1)\n"
        "    if config.seed == 2: raise SystemExit('bmfm: no')\n"
        "main(task, 'train')\n"
    )
    for seeds, status in (("0,1,2,3", 2), ("1,0", 1), ("0,3", 0)):
        done = run("mine", "+recipe=dna_snp", f"run_dir={tmp_path}/${{seed}}", "-m", f"seed={seeds}", cwd=tmp_path)
        assert done.returncode == status and done.stdout.count("ran") == len(seeds.split(",")), done.stderr
