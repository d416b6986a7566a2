"""The site of the documentation: every page has its place, and it builds without a warning."""

import base64
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

import generate  # noqa: E402
import settings  # noqa: E402

from bmfm.cli import options  # noqa: E402

PAGES = {
    p
    for p in DOCS.rglob("*")
    if p.suffix in (".md", ".ipynb") and not any(part.startswith((".", "_", "generated")) for part in p.relative_to(DOCS).parts)
}

LARGEST = 200_000
"""Bytes of a picture."""


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
    places = [page for section in PAGES if section.suffix == ".md" for page in listed(section)]
    assert PAGES - {DOCS / "index.md"} - set(places) == set()
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


TUTORIALS = sorted((DOCS / "tutorials").glob("*.ipynb"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda p: p.stem)
def test_tutorials_are_stored_with_what_they_print(path):
    """Every cell has been run, its code compiles, and pictures are small and described; `docs.check_tutorials` runs them again."""
    cells = json.loads(path.read_text())["cells"]
    code = [c for c in cells if c["cell_type"] == "code"]
    printed = [c for c in code if re.search(r"print\(|^!|plt\.subplots", "".join(c["source"]), re.M)]
    assert all(c["outputs"] for c in printed) and len(printed) >= 3
    assert not any(word in path.read_text() for word in ("Traceback", "/tmp/", str(ROOT), "\\u001b"))
    for cell in code:
        source = "".join(cell["source"]).replace("\\\n", "")
        compile(re.sub(r"^!.*", "pass", source, flags=re.M), path.name, "exec")
        pictures = [o["data"]["image/png"] for o in cell["outputs"] if "image/png" in o.get("data", {})]
        for picture in pictures:
            assert len(base64.b64decode(picture)) < LARGEST
            assert len(cell["metadata"]["mystnb"]["image"]["alt"].split()) >= 5


def test_what_counts_as_drift_of_a_tutorial():
    from docs.check_tutorials import differences

    assert differences("a 1,000 and 0.91", "a 1,010 and 0.93", 0.02) == []
    assert differences("a 1,000", "a 1,300", 0.02) == ["1000.0 is now 1300.0"]
    assert differences("3 cells", "3 genes", 0.02) and differences("3 cells", "3 cells and 4", 0.02)


def test_pictures_are_small_and_described():
    for page in (p for p in PAGES if p.suffix == ".md"):
        for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", page.read_text()):
            assert len(alt.split()) >= 4, (page, target)
            assert (page.parent / target).stat().st_size < LARGEST, (page, target)
        for block in re.findall(r"^```\{(?:image|figure)\}.*?^```", page.read_text(), re.M | re.S):
            assert re.search(r"^:alt: (?:\S+ ){3,}", block, re.M), (page, block)


def anchors(page):
    """Anchors of a page's headings, as code hosts and MyST make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for title in re.findall(r"^#{1,4} (.+)$", text, re.M):
        yield re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")


@pytest.mark.parametrize("page", sorted(p for p in PAGES if p.suffix == ".md"), ids=lambda p: p.stem)
def test_anchors_of_links_exist(page):
    for file, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", page.read_text()):
        target = (page.parent / file).resolve() if file else page
        assert anchor in anchors(target), (file, anchor)


def test_llms_txt_names_every_page():
    """Sections and pages as the site has them, each with a sentence."""
    generate.write(generate.GENERATED)
    lines = generate.llms_text().splitlines()
    entries = [re.fullmatch(r"- \[(.+)\]\((\S+)\.html\)(?:: .+\.|: .+\?.*)?", line) for line in lines if line.startswith("- ")]
    assert all(entries) and len({e[2] for e in entries}) == len(entries) > 50
    assert {e[2] for e in entries} >= {"install", "tutorials/score_a_vcf", "generated/settings", "explanation/metrics"}
    assert sum(line.startswith("## ") for line in lines) == 7


PLAIN = [p for p in PAGES if p.suffix == ".md" and p.name != "own_task.md" and p.parent.name != "extend"]


def test_settings_in_the_text_exist():
    """Whatever looks like a setting with a dot, or like the choice of a group, in code within sentences, in any page but those on files of one's own."""
    every = [(f"{f.package}.{s.path}".lstrip("."), s.default) for f in settings.files() for s in f.settings]
    known = {key for key, _ in every} | {f"{key}.{name}" for key, default in every for name in re.findall(r"[{,] ?(\w+):", default)}
    beginnings = {key.partition(".")[0] for key in known}
    groups = {p.parent.name for p in settings.CONF.glob("*/*.yaml")}
    unknown = []
    for page in PLAIN:
        for span in re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)):
            for key, value in re.findall(r"(?:^|[ '+])\+*([a-z_]+(?:\.\w+)*)=([\w.-]+|\[[\w,]+\])", span):
                is_own = key.startswith(("finetune.", "launcher.slurm_")) or any(part.isupper() for part in key.split("."))
                if "." in key and key.partition(".")[0] in beginnings and key not in known and not is_own:
                    unknown.append((page.name, span))
                if key in groups and not {*value.strip("[]").split(",")} <= {*options(key), "null", "NAME", "mine"}:
                    unknown.append((page.name, span))
    assert not unknown, unknown


@pytest.mark.slow
@pytest.mark.parametrize("page", ["five_minutes_dna", "five_minutes_rna"])
def test_the_first_command_of_a_newcomer_runs(page, tmp_path):
    """What needs no training: every substitution of a region, and embeddings."""
    pytest.importorskip("logomaker", reason="the picture needs pip install -e '.[interpret]'")
    (line,) = re.findall(r"^bmfm (?:mutagenesis|predict) .*$", (DOCS / f"{page}.md").read_text(), re.M)
    run = subprocess.run([sys.executable, "-m", "bmfm", *shlex.split(line)[1:]], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    made = {p.name for p in tmp_path.iterdir()}
    assert made >= ({"map.png", "map.tsv"} if page == "five_minutes_dna" else {"annotated.h5ad"})
