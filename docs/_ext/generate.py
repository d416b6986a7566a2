"""The pages that follow from something else: ``python docs/_ext/generate.py FOLDER`` writes them, and so does every build of the site.

`WRITERS` names them; each is a function that gives the text of one page.
"""

import base64
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import commands
import results
import settings

from bmfm.files import whole_file

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
GENERATED = DOCS / "generated"

COPIED = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "leaderboard/README.md": "leaderboard.md",
    "docker/README.md": "containers.md",
    "benchmarks/README.md": "speed.md",
    "bmfm/assets/NOTICE.md": "data.md",
}
"""{file of the repository: the page of the site that it becomes}"""

PICTURES = {"embed_cells.png": 0, "score_a_vcf.png": -1}
"""Pictures of tutorials that the start page shows: {name of the tutorial: which of its pictures}."""

LINK = re.compile(r"(\]\()(?!\w+:|#|/)([^)#\s]+)((?:#[^)\s]*)?(?:\s+\"[^\"]*\")?\))")

TOCTREE = re.compile(r"^```\{toctree\}$.*?^```$", re.M | re.S)


def relinked(text: str, folder: Path, target: Path) -> str:
    """The text of a page of `folder` as one of `target`: relative links lead to the same files, copied ones to their pages."""

    def lead(match: re.Match) -> str:
        file = (folder / match[2]).resolve()
        if file.is_relative_to(ROOT) and (name := COPIED.get(file.relative_to(ROOT).as_posix())):
            file = GENERATED / name
        return match[1] + Path(os.path.relpath(file, target)).as_posix() + match[3]

    return LINK.sub(lead, text)


def without_empty_patterns(text: str, folder: Path) -> str:
    """The text of a page without those patterns of its toctrees that no page matches: a section may expect pages that are not there yet."""

    def matches(line: str) -> bool:
        base = DOCS if line.startswith("/") else folder
        return "*" not in line or any(p.suffix in (".md", ".ipynb") for p in base.glob(line.strip("/")))

    return TOCTREE.sub(lambda block: "\n".join(filter(matches, block[0].split("\n"))), text)


def copied(name: str) -> Callable[[], str]:
    """A writer of the page that a file of the repository becomes."""
    return lambda: relinked((ROOT / name).read_text(encoding="utf-8"), (ROOT / name).parent, GENERATED)


def picture_of(name: str) -> bytes:
    """A picture in the outputs of the tutorial of that name, as PNG."""
    cells = json.loads((DOCS / "tutorials" / f"{Path(name).stem}.ipynb").read_text(encoding="utf-8"))["cells"]
    pictures = [o["data"]["image/png"] for c in cells for o in c.get("outputs", []) if "image/png" in o.get("data", {})]
    return base64.b64decode(pictures[PICTURES[name]])


def title_of(page: Path) -> str:
    """The first heading of a page, of a notebook that of its first cell."""
    text = page.read_text(encoding="utf-8")
    text = "".join(json.loads(text)["cells"][0]["source"]) if page.suffix == ".ipynb" else text
    return text[text.index("# ") :].partition("\n")[0].lstrip("# ")


def first_sentence(page: Path) -> str:
    """The first sentence of a page that is no heading, block, picture or table."""
    text = page.read_text(encoding="utf-8")
    text = "".join(json.loads(text)["cells"][0]["source"]) if page.suffix == ".ipynb" else text
    for block in re.sub(r"^```.*?^```|^:::.*?^:::", "", text, flags=re.M | re.S).split("\n\n"):
        if block.strip() and not block.strip().startswith(("#", "|", "!", "-", "<", "```", "(")):
            plain = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", " ".join(block.split()))
            return re.split(r"(?<=[a-z`)])[.:](?:\s|$)", plain)[0] + "."
    return ""


def pages_of(section: Path) -> list[Path]:
    """Pages that a section's toctrees name, in their order, and those that these name."""
    found: list[Path] = []
    for block in TOCTREE.findall(without_empty_patterns(section.read_text(encoding="utf-8"), section.parent)):
        for line in (x for x in block.splitlines()[1:-1] if x and not x.startswith(":")):
            base = DOCS if line.startswith("/") else section.parent
            matches = sorted(p for p in base.glob(line.strip("/") + ".*") if p.suffix in (".md", ".ipynb"))
            found += [p for p in matches if p not in found and p != section]
    return found


def llms_text() -> str:
    """``llms.txt`` (llmstxt.org): what there is to read, by section, with the first sentence of each page; sources are named beside the site's pages."""
    parts = [LLMS]
    for section in pages_of(DOCS / "index.md"):
        parts.append(f"## {title_of(section)}\n")
        for page in pages_of(section):
            name = page.relative_to(DOCS).with_suffix("").as_posix()
            sentence = first_sentence(page)
            parts.append(f"- [{title_of(page)}]({name}.html){f': {sentence}' if sentence else ''}")
        parts.append("")
    return "\n".join(parts)


WRITERS: dict[str, Callable[[], str]] = {
    "commands.md": commands.commands_page,
    "settings.md": settings.commands_page,
    "choices.md": settings.choices_page,
    "recipes.md": commands.recipes_page,
    "results.md": results.results_page,
    "zoo.md": results.zoo_page,
    "citation.md": results.citation_page,
    **{page: copied(name) for name, page in COPIED.items()},
}
"""{page: what writes it}"""

LLMS = """# bmfm

> Foundation models of genomic DNA with its known variants, and of single-cell RNA: trained, fine-tuned, evaluated and explained from one set of parts,
> all of it chosen by configuration.

Coding agents begin with `docs/_skill/SKILL.md` in the repository. Pages are Markdown files below `docs/` under the same names.
"""


def write(folder: Path) -> None:
    """Write all pages; one whose text is as before is left alone, so that Sphinx does not read it again."""
    folder.mkdir(exist_ok=True)
    for name, content in [*((n, writer().encode()) for n, writer in WRITERS.items()), *((n, picture_of(n)) for n in PICTURES)]:
        file = folder / name
        if not file.is_file() or file.read_bytes() != content:
            with whole_file(file) as whole:  # two builds may run at once
                whole.write(content)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
