"""Code that documentation shows is that of a file: a block whose title names one, and parts of it if it likes.

A block begins ```` ```python title="tests/extension/x.py" ````, or ``title="tests/extension/x.py: Class, function"`` for some of its
definitions. ``python -m tests.shown_code`` writes the blocks of all pages anew, and the tests say where they differ.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r'^(```\w+ title="(tests/[^":]+)(?:: ([^"]+))?"\n)(.*?)^```$', re.M | re.S)


def code(file: str, names: str | None) -> str:
    """The text of a file, or of definitions in it at top level."""
    text = (ROOT / file).read_text()
    if names is None:
        return text
    lines, parts = text.splitlines(keepends=True), {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            parts[node.name] = "".join(lines[first - 1 : node.end_lineno])
    return "\n\n".join(parts[name] for name in names.split(", "))


def renewed(page: str) -> str:
    """The text of a page with its blocks as the files are."""
    return BLOCK.sub(lambda block: f"{block[1]}{code(block[2], block[3])}```", page)


if __name__ == "__main__":
    for path in (ROOT / "docs").rglob("*.md"):
        path.write_text(renewed(path.read_text()))
