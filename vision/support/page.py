"""HTML pages for people: self-contained, nothing fetched, styled by page.html.

They have no scripts unless a page allows one by its hash.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from vision.support.files import filling, write_json


def render(template: pathlib.Path, context: Mapping[str, Any]) -> str:
    """Returns the text of a page.

    Args:
        template: path of a Jinja template that extends "page.html" with the blocks `title` and
            `content`. It may also fill `style`, with CSS of its own, and `policy`, with what it
            allows beside styles and inline pictures, such as "; script-src 'sha256-...'". It may
            use the filters `number` (12,345), `percent` (0.0123 %) and `probability` (12.3 % or
            < 0.1 %).
        context: {name: value} of what the template shows. Text is escaped.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, pathlib.Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = lambda n: f"{n:,}"
    environment.filters["percent"] = lambda x: f"{100 * x:.3g} %"
    environment.filters["probability"] = _probability
    return environment.get_template(template.name).render(context)


def _probability(p):
    """A network is never quite sure, so rounding must not print 0 % or 100 %."""
    if p < 0.001:
        return "< 0.1 %"
    if p > 0.999:
        return "> 99.9 %"
    return f"{100 * p:.1f} %"


def write_report(out: pathlib.Path, page: str, name: str, record: Mapping[str, Any]) -> None:
    """Writes a page as report.html, and what it shows as a JSON file, into a directory, which is
    made if it is missing.

    Args:
        out: the directory.
        page: the page, from `render`.
        name: of the JSON file.
        record: its contents.

    Raises:
        UserError, RunError: it cannot be written to; what was there remains.
    """
    with filling(out) as directory:
        (directory / "report.html").write_text(page, "utf-8")
        write_json(directory / name, record)
