"""Sphinx: write the generated pages before a build, and lead links between Markdown files to pages of the site."""

from pathlib import Path

import generate
from sphinx.application import Sphinx


def _write(app: Sphinx) -> None:
    generate.write(Path(app.srcdir) / "generated")


def _relink(app: Sphinx, docname: str, source: list[str]) -> None:
    file = Path(app.env.doc2path(docname))
    if file.suffix == ".md" and not docname.startswith("generated/"):
        source[0] = generate.relinked(generate.without_empty_patterns(source[0], file.parent), file.parent, file.parent)


def _add_llms(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        (Path(app.outdir) / "llms.txt").write_text(generate.llms_text(), encoding="utf-8")


def setup(app: Sphinx) -> dict:
    """Called by Sphinx."""
    app.connect("builder-inited", _write)
    app.connect("source-read", _relink)
    app.connect("build-finished", _add_llms)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
