"""Files of the project that no program of ours reads: they are valid, and say what is true."""

import configparser
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.test_house import FOLDERS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
YAMLS = [".pre-commit-config.yaml", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / ".github").rglob("*.yml"))]


def read(name):
    return yaml.safe_load((ROOT / name).read_text())


def test_the_citation_has_what_the_format_requires():
    """Citation File Format 1.2.0: required keys of the file, of each reference and of each person; versions are one."""
    cff = read("CITATION.cff")
    assert cff["cff-version"] == "1.2.0" and cff["message"] and cff["title"] == PROJECT["name"] and cff["authors"]
    assert cff["version"] == PROJECT["version"] and cff["license"] == PROJECT["license"] and cff["type"] in ("software", "dataset")
    assert {"10.48550/arXiv.2507.05265", "10.48550/arXiv.2506.14861"} == {r["doi"] for r in cff["references"]}
    for reference in cff["references"]:
        assert {"type", "title", "authors"} <= reference.keys() and isinstance(reference["year"], int)
        assert all(set(person) == {"family-names", "given-names"} for person in reference["authors"])
        assert all(i["type"] in ("doi", "url", "swh", "other") for i in reference["identifiers"])


def test_the_changelog_knows_the_version():
    """Keep a Changelog: an Unreleased section first, then the versions, newest first."""
    titles = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert titles[0] == "Unreleased" and titles[1:] == sorted(titles[1:], reverse=True) and PROJECT["version"] in titles


@pytest.mark.parametrize("name", YAMLS)
def test_yaml_for_others_parses(name):
    assert read(name)


def test_workflows_run_what_contributors_run():
    """The tests of a pull request are `.ci/run`, for every Python version from the oldest that is allowed."""
    job = read(".github/workflows/tests.yml")["jobs"]["tests"]
    assert job["steps"][-1]["run"] == ".ci/run" and (ROOT / ".ci" / "run").is_file()
    assert ">=" + job["strategy"]["matrix"]["python"][0] == PROJECT["requires-python"]
    hooks = {hook["entry"].split(" --")[0] for hook in read(".pre-commit-config.yaml")["repos"][0]["hooks"]}
    commands = (ROOT / ".ci" / "run").read_text().splitlines()
    assert hooks == {"ruff check", "ruff format", "mypy"} and all(any(c.startswith(h) for c in commands) for h in hooks)


def test_types_travel_with_the_package():
    """PEP 561: `py.typed` beside the package's modules, and in what a wheel holds."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert (ROOT / "bmfm" / "py.typed").is_file() and "py.typed" in setup["options.package_data"]["bmfm"].split(", ")


LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)[^)]*\)")
PAGES = [
    *ROOT.glob("*.md"),
    *(p for p in (ROOT / "docs").rglob("*.md") if p.parent.name != "generated"),
    *(ROOT / f / "README.md" for f in ("benchmarks", "docker", "leaderboard")),
]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    missing = [target for target in LINK.findall(page.read_text()) if not (page.parent / target).exists()]
    assert not missing


def test_the_readme_is_one_page():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 90
    for command in (
        "python3 -m venv .venv && . .venv/bin/activate && pip install -e . && python -m bmfm.train +recipe=dna_snp",
        "python3 -m venv .venv && . .venv/bin/activate && pip install -e '.[dev]' && python -m pytest",
    ):
        assert f"```bash\n{command}\n```" in text


def test_the_house_is_as_contributors_are_told():
    """Folders stand in the order of `test_house`, and the contracts that the table names are in their files."""
    rows = re.findall(r"^\| `(\w+)/` \| .+? \|(.*)\|$", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    assert tuple(folder for folder, _ in rows) == FOLDERS
    for folder, contracts in rows:
        for contract in re.findall(r"`([\w/]+\.\w+)`", contracts):
            module, name = contract.split(".")
            path = ROOT / "bmfm" / folder / f"{module}.py"
            assert re.search(rf"^(class|def) {name}\b", path.read_text(), re.M), contract
