"""The site of the documentation: every page has its place, and it builds without a warning."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

import generate  # noqa: E402
import settings  # noqa: E402

PAGES = {
    p for p in DOCS.rglob("*") if p.suffix in (".md", ".ipynb") and not any(part.startswith("_") for part in p.relative_to(DOCS).parts)
}


def listed(page):
    """Pages that the toctrees of a page name."""
    for block in generate.TOCTREE.findall(page.read_text()):
        for line in block.splitlines()[1:-1]:
            if line and not line.startswith(":"):
                base = DOCS if line.startswith("/") else page.parent
                names = {p.with_suffix("") for p in base.glob(line.strip("/") + ".*")}
                yield from (p for p in PAGES if p.with_suffix("") in names)


def test_every_page_has_one_place():
    """A new page is named in a toctree: of a section in docs/tutorials, docs/howto, docs/reference, docs/explanation or docs/*.md."""
    generate.write(generate.GENERATED)
    places = [page for section in PAGES if section.suffix == ".md" for page in listed(section)]
    pages = {p for p in PAGES if p != DOCS / "index.md"} - set(generate.GENERATED.iterdir())
    assert pages - set(places) == set()
    assert sorted(p for p in set(places) if places.count(p) > 1) == []


def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("myst_nb", reason="the site needs pip install -e '.[docs]'")
    build = subprocess.run(
        [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-E", "-d", tmp_path / "trees", DOCS, tmp_path / "site"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert build.returncode == 0, build.stderr
    assert not re.findall(r"https?://", (tmp_path / "site" / "_static" / "bmfm.css").read_text())
    assert (tmp_path / "site" / "llms.txt").is_file()


def test_every_setting_of_conf_has_a_comment(tmp_path):
    """Of all files but recipes, suites and tasks, which set what is explained elsewhere; what a comment covers is said in `settings`."""
    assert settings.missing(settings.files()) == []
    file = tmp_path / "data" / "made_up.yaml"
    file.parent.mkdir()
    file.write_text("path: x  # where\n# Of a, and `b` of B.\na: 1\nb:\n  c: 1\nseed: 0\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "CONF", tmp_path)
        read = settings.read(file)
    assert [(s.path, s.default, s.meaning) for s in read.settings[:3]] == [
        ("path", "x", "where"), ("a", "1", "Of a, and `b` of B."), ("b", "", "Of a, and `b` of B."),
    ]  # fmt: skip
    assert settings.missing([read]) == ["conf/data/made_up.yaml:5: b.c", "conf/data/made_up.yaml:6: seed"]
    assert (read.package, settings.type_of("???"), settings.type_of("1.0e-3"), settings.type_of("[a]")) == (
        "data",
        "required",
        "number",
        "list",
    )
