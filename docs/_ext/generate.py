"""The pages that follow from something else: ``python docs/_ext/generate.py FOLDER`` writes them, and so does every build of the site.

`WRITERS` names them; each is a function that gives the text of one page.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import commands
import settings

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


def llms_text() -> str:
    """``llms.txt``."""
    return "# bmfm\n"


WRITERS: dict[str, Callable[[], str]] = {
    "commands.md": commands.commands_page,
    "settings.md": settings.commands_page,
    "choices.md": settings.choices_page,
    "recipes.md": commands.recipes_page,
    **{page: copied(name) for name, page in COPIED.items()},
}
"""{page: what writes it}"""


def write(folder: Path) -> None:
    """Write all pages; one whose text is as before is left alone, so that Sphinx does not read it again."""
    folder.mkdir(exist_ok=True)
    for name, writer in WRITERS.items():
        text, file = writer(), folder / name
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
