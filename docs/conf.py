"""The site: ``pip install -e '.[docs]' && python -m sphinx -W docs site`` builds it, without a network and without running a notebook.

Pages are Markdown that is read on a code host, too. What follows from the code (settings, commands, the Python API, results, cards) is
written by `docs/_ext` into ``docs/generated``, which is not kept.
"""

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent)]

from bmfm import __version__  # noqa: E402

project, author, copyright = "bmfm", "The bmfm authors", "The bmfm authors, Apache-2.0"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "pages",  # docs/_ext/pages.py
    "mathml",  # docs/_ext/mathml.py
]
root_doc = "index"
exclude_patterns = ["_ext", "site", "**/.ipynb_checkpoints"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
nitpicky = True
nitpick_ignore_regex = [
    # Inventories of other projects would need a network; types of theirs are shown without a link.
    ("py:.*", r"(?!bmfm\b).*"),
    # Type variables, and what kernels alone take.
    (
        "py:.*",
        r"bmfm\.evaluation\.protocols\.base\.Needed\w+|bmfm\.genome\.(copies\.Edits|vcf_filter\.VariantReport|windows\.WindowLayout)",
    ),
]
suppress_warnings = [
    "myst.header",  # a page may begin with a picture or a table
    "misc.highlighting_failure",  # blocks of shell with placeholders
]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "attrs_inline", "attrs_block"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"show-inheritance": True}
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
default_role = "code"  # docstrings name classes by single backquotes, from wherever they are

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = "bmfm"
html_static_path = ["_static"]
html_css_files = ["bmfm.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "logo": {"text": "bmfm"},
    "show_toc_level": 2,
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "navigation_with_keys": False,
    "show_prev_next": False,
    # Tables of settings are wide: their pages have no list of sections at the right.
    "secondary_sidebar_items": {
        "**": ["page-toc"],
        "generated/settings": [],
        "generated/choices": [],
        "generated/recipes": [],
        "generated/results": [],
    },
    "footer_start": ["copyright"],
    "footer_end": [],
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
}
html_sidebars = {"index": [], "**": ["sidebar-nav-bs"]}
