"""Sphinx builds the site from this: ./scripts/docs.

The source directory is the repository, so that a link that works on a page in the checkout works
on the site too: to a page, to a heading of it, or to any other file, which is then offered to
download. Parts of the reference are generated from the code, where a page says
<!-- generated: NAME -->.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from scripts import reference  # noqa: E402
from vision.version import __version__  # noqa: E402

project = "vision"
release = __version__
html_title = "vision"
root_doc = "docs/index"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
include_patterns = [
    "*.md",
    "docs/**.md",
    "experiments/README.md",
    "experiments/*/README.md",
    "scripts/*/README.md",
]
exclude_patterns = [".*", "site"]

myst_heading_anchors = 6
smartquotes_action = "D"  # dashes only: quotes in docstrings are those of code
highlight_language = "bash"  # of blocks that do not name one
default_role = "code"  # docstrings have names in single backticks
autodoc_typehints_format = "short"
maximum_signature_line_length = 80
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_show_copyright = False

CONTENTS = (root_doc, "experiments/README")  # pages whose links are a table of contents
SECTION = re.compile(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
PAGE = re.compile(r"^- \[([^\]]+)\]\(([^)#\s]+)\.md\)", re.MULTILINE)
GENERATED = re.compile(r"<!-- generated: (\w+) -->")


def add_navigation(text):
    """Returns a page of links with a table of contents for each of its sections.

    The page lists its links for people; the sidebar has the same, in the same order.
    """
    parts = [text]
    for title, body in SECTION.findall(text):
        pages = "\n".join(f"{name} <{path}>" for name, path in PAGE.findall(body))
        parts.append(f"```{{toctree}}\n:hidden:\n:caption: {title}\n\n{pages}\n```\n")
    return "\n".join(parts)


def read_source(app, name, source):
    """Completes a page before it is parsed: `source` is a list of its text alone."""
    if name in CONTENTS:
        source[0] = add_navigation(source[0])
    source[0] = GENERATED.sub(lambda match: reference.GENERATORS[match[1]](), source[0])


def lead_to_index(app, error):
    """Writes the page of the site's own address, which leads to docs/index.html."""
    page = f'<!doctype html><meta http-equiv="refresh" content="0; url={root_doc}.html">'
    (pathlib.Path(app.outdir) / "index.html").write_text(page + "<title>vision</title>\n")


def setup(app):
    app.connect("source-read", read_source)
    app.connect("build-finished", lead_to_index)
