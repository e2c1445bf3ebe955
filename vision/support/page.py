"""HTML pages for people: self-contained, nothing fetched, in the frame of page.html.

The frame has a table of contents, light and dark colors, pictures that can be enlarged and tables
that scroll: base.css, frame.css, zoom.js and frame.js, which are copied into each page. The model
server's pages and the exported page have base.css and zoom.js too.
"""

import base64
import collections
import dataclasses
import hashlib
import html
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from vision.support.files import filling, write_json

HERE = pathlib.Path(__file__).parent
# to serve or to copy beside a page that is not made here
BASE_STYLE = HERE / "base.css"
FRAME_STYLE = HERE / "frame.css"
ZOOM_SCRIPT = HERE / "zoom.js"
FRAME_SCRIPT = HERE / "frame.js"
REPEATS = 2  # how often a page shows the same picture, at most
_HEADING = re.compile(r"<h2([^>]*)>(.*?)</h2>", re.DOTALL)
_IDENTIFIER = re.compile(r'\bid="([^"]*)"')
_TAG = re.compile(r"<[^>]*>")
_PICTURE = re.compile(r'<img ([^>]*)src="(data:[^"]+)"')
_WHOLE_PICTURE = re.compile(r'<img [^>]*src="(data:[^"]+)"[^>]*>')


@dataclasses.dataclass(frozen=True)
class Section:
    """A line of the table of contents.

    Attributes:
        name: id of its heading.
        title: the heading's text.
    """

    name: str
    title: str


@dataclasses.dataclass(frozen=True)
class Outline:
    """The content of a page.

    Attributes:
        content: HTML, a `markupsafe.Markup`; each h2 has an id.
        sections: the headings h2, in order.
    """

    content: str
    sections: list[Section]


def render(template: pathlib.Path, context: Mapping[str, Any], script: str = "") -> str:
    """Returns the text of a page.

    Args:
        template: path of a Jinja template that extends "page.html" with the blocks `title` and
            `content`, whose headings h2 become the table of contents. It may also fill `style`,
            with CSS of its own, and `data`, after the content. It may use the filters `number`
            (12,345), `percent` (0.0123 %) and `probability` (12.3 % or < 0.1 %). A table that may
            be wider than a phone is in a <div class="wide">; pictures are <img>, plots of the class
            "figure"; series in drawings have the classes c0 to c6 and currentColor.
        context: {name: value} of what the template shows. Text is escaped.
        script: JavaScript of the page, run after the frame's.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, HERE]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = lambda n: f"{n:,}"
    environment.filters["percent"] = lambda x: f"{100 * x:.3g} %"
    environment.filters["probability"] = _probability
    environment.filters["outlined"] = outlined
    scripts = "\n".join([_text(ZOOM_SCRIPT), _text(FRAME_SCRIPT), script])
    digest = base64.b64encode(hashlib.sha256(scripts.encode()).digest()).decode()
    frame = {
        "style": _text(BASE_STYLE) + _text(FRAME_STYLE),
        "script": scripts,
        "script_hash": f"sha256-{digest}",  # the only script that the page may run
    }
    return environment.get_template(template.name).render({**context, **frame})


def outlined(content: str) -> Outline:
    """Returns a page's content with its sections.

    Headings h2 without an id get one. Pictures that were shown `REPEATS` times before are replaced
    by a link to the first of them.

    Args:
        content: HTML, as Jinja made it.
    """
    import markupsafe

    sections: list[Section] = []

    def named(match):
        attributes, title = match.groups()
        identifier = _IDENTIFIER.search(attributes)
        name = identifier[1] if identifier else f"section-{len(sections) + 1}"
        text = " ".join(html.unescape(_TAG.sub("", title)).split())
        sections.append(Section(html.unescape(name), text))
        return match[0] if identifier else f'<h2 id="{name}"{attributes}>{title}</h2>'

    text = _HEADING.sub(named, _without_repeats(str(content)))
    return Outline(markupsafe.Markup(text), sections)


def _without_repeats(content):
    """Returns HTML in which no picture is shown more than `REPEATS` times."""
    counts = collections.Counter(source for _, source in _PICTURE.findall(content))
    numbers = {
        source: number
        for number, source in enumerate(source for source in counts if counts[source] > REPEATS)
    }
    shown: collections.Counter[str] = collections.Counter()

    def limited(match):
        source = match[1]
        shown[source] += 1
        if source not in numbers or 1 < shown[source] <= REPEATS:
            return match[0]
        name = f"picture-{numbers[source]}"
        if shown[source] == 1:
            return f'<img id="{name}" {match[0].removeprefix("<img ")}'
        return f'<a class="none" href="#{name}">the same picture as above</a>'

    return _WHOLE_PICTURE.sub(limited, content)


def _text(path):
    return path.read_text("utf-8")


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
