"""The command `bmfm` and its doctor, each in a process of its own."""

import importlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from bmfm import console, doctor

ROOT = Path(__file__).parents[1]


def bmfm(*arguments, **environment):
    command = [sys.executable, "-X", "importtime", "-m", "bmfm", *map(str, arguments)]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"} | environment
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    lines = done.stderr.splitlines(keepends=True)
    imported = {line.rsplit("|", 1)[1].strip() for line in lines if line.startswith("import time:")}
    return done.returncode, done.stdout, "".join(line for line in lines if not line.startswith("import time:")), imported


def test_help_lists_every_module_that_can_be_run_and_imports_nothing_heavy():
    status, stdout, _, imported = bmfm("--help")
    runnable = {p.stem for p in (ROOT / "bmfm").glob("*.py") if re.search("^if __name__ ==", p.read_text(), re.M)} - {"__main__"}
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in stdout.splitlines() if line.startswith("  ")}
    assert status == 0 and set(listed) == runnable >= {"train", "predict", "benchmark", "convert", "tokenize", "leaderboard", "doctor"}
    assert all(sentence[0].isupper() and sentence.endswith(".") and "``" not in sentence for sentence in listed.values())
    assert "bmfm.console" in imported and not imported & {"torch", "numpy", "hydra", "rich", "importlib.metadata"}


def test_a_command_that_does_not_exist_ends_with_one_line():
    status, stdout, stderr, _ = bmfm("trian", "+recipe=dna_snp")
    assert (status, stdout) == (2, "") and stderr == "bmfm: there is no command 'trian'; did you mean `bmfm train`?\n"


def test_a_command_is_the_module_of_its_name():
    """Its arguments, its messages and its status are those of `python -m bmfm.train`."""
    message = "bmfm: no recipe is named 'dna_fintune'; did you mean dna_finetune"
    status, _, stderr, _ = bmfm("train", "+recipe=dna_fintune")
    assert status == 2 and stderr.startswith(message)
    status, stdout, _, _ = bmfm("train", "+recipe=dna_snp", "optimizer.lr=0.125", "--cfg", "job")
    assert status == 0 and "lr: 0.125" in stdout


def test_processes_of_other_devices_are_started_as_the_module():
    """Lightning repeats `python -m` with the name of the module that runs, and the arguments."""
    code = (
        "import sys\nfrom bmfm import cli, console\n"
        "def shown(task, name):\n    import __main__\n    print(__main__.__spec__.name, sys.argv[1:])\n"
        "cli.main = shown\nconsole.main(['train', '+recipe=x'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stdout == "bmfm.train ['+recipe=x']\n", done.stderr


def test_the_script_of_the_installed_package_is_the_same_code():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts["bmfm"].split(":")
    assert getattr(importlib.import_module(module), function) is console.main


# --- the doctor ---------------------------------------------------------------------------------------------------------


def test_packages_that_are_missing_or_too_old_are_named_with_a_command():
    numpy = importlib.metadata.version("numpy")
    lines = ["numpy>=1", "numpy>=999", "no-such-package>=1.2; extra == 'bench'", "flash-no>=1; extra == 'gpu'", "x; sys_platform == 'none'"]
    rows = doctor.packages(lines)
    assert [(r["name"], r["extra"], r["version"], r["problem"]) for r in rows] == [
        ("numpy", None, numpy, None),
        ("numpy", None, numpy, f"version {numpy} is not >=999"),
        ("no-such-package", "bench", None, "is not installed"),
        ("flash-no", "gpu", None, "is not installed"),
    ]
    assert doctor.remedies(rows) == {
        "bmfm": "pip install 'numpy>=999'",
        "bench": "pip install 'no-such-package>=1.2'",
        "gpu": "pip install --no-build-isolation 'flash-no>=1'",
    }


def test_the_cache_is_counted_by_kind(tmp_path):
    for kind, name, n in (("genomes", "a", 1000), ("genomes", "b", 24), ("embeddings", "c", 7)):
        (tmp_path / kind / name).mkdir(parents=True)
        (tmp_path / kind / name / "key.json").write_text("{}")
        (tmp_path / kind / name / "data.npy").write_bytes(b"x" * n)
    stored = doctor.cache(tmp_path)
    assert stored["kinds"] == {"embeddings": {"entries": 1, "bytes": 9}, "genomes": {"entries": 2, "bytes": 1028}} and stored["writable"]
    assert doctor.cache(tmp_path / "not" / "there")["kinds"] == {}


def test_a_kernel_that_fails_or_is_wrong_says_so(monkeypatch):
    def broken(q):
        raise RuntimeError("no\ncompiler")

    monkeypatch.setattr(doctor, "KERNELS", {"sdpa": doctor.KERNELS["sdpa"], "broken": broken, "wrong": lambda q: q})
    rows = {row["name"]: row for row in doctor.kernels()}
    assert rows["sdpa"]["runs"] and not rows["broken"]["runs"] and rows["broken"]["problem"] == "no compiler"
    assert not rows["wrong"]["runs"] and "differs from attention written out" in rows["wrong"]["problem"]


def test_the_report_for_programs_and_for_people(tmp_path):
    environment = {"BMFM_CACHE": str(tmp_path), "BMFM_CASHE": "[x]", "COLUMNS": "200"}
    status, stdout, stderr, _ = bmfm("doctor", "--json", **environment)
    facts = json.loads(stdout)
    assert status == int("bmfm" in facts["remedies"]) and facts["cache"]["folder"] == str(tmp_path), stderr
    assert all(row["version"] == importlib.metadata.version(row["name"]) for row in facts["packages"] if row["version"])
    assert {k["name"] for k in facts["kernels"]} >= {"sdpa", "flex_attention", "flash_attention_2", "eager"}
    assert next(k for k in facts["kernels"] if k["name"] == "sdpa")["runs"] and facts["devices"][0]["name"] == "cpu"
    values = {v["name"]: v["value"] for v in facts["variables"]}
    assert values["BMFM_CASHE"] == "[x]" and values["BMFM_CACHE"] == str(tmp_path) and values.keys() >= set(doctor.VARIABLES)


def test_the_tables_show_every_fact(capsys):
    facts = {"bmfm": "1", "where": "/x", "python": "3", "platform": "p", "torch": "t", "remedies": {"bench": "pip install 'a>=1'"}} | {
        "packages": [{"name": "a", "needed": ">=1", "extra": "bench", "version": None, "problem": "is not installed"}],
        "devices": [{"name": "cuda:0", "model": "H", "memory": 2**36, "free": 2**35, "capability": "9.0", "bf16": True}],
        "kernels": [{"name": "flash", "device": "cuda", "dtype": "bfloat16", "runs": False, "problem": "why [b]"}],
        "configuration": [{"folder": "/c", "exists": False}],
        "cache": {"folder": "/k", "writable": False, "free": 0, "kinds": {"genomes": {"entries": 3, "bytes": 2**30}}},
        "variables": [{"name": "BMFM_X", "value": "[y]", "meaning": None}],
    }
    doctor.show(facts)
    shown = " ".join(capsys.readouterr().out.split())
    for text in ("a >=1 bench is not installed", "pip install 'a>=1'", "cuda:0 H 64.0 GiB 32.0 GiB 9.0 yes", "why [b]", "/c is not there",
                 "genomes 3 1.0 GiB", "set BMFM_CACHE", "BMFM_X [y] is not known to bmfm"):  # fmt: skip
        assert text in shown, text
