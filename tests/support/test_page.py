"""The frame of all pages: contents, palette, pictures that are enlarged, tables that scroll."""

import itertools
import re

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.support.browser import PALE, browse
from vision.data.pictures import picture
from vision.support import page as page_module
from vision.support.page import BASE_STYLE, FRAME_STYLE, REPEATS, outlined, render

TEMPLATES = sorted(
    path
    for folder in ("vision", "experiments")
    for path in (REPOSITORY / folder).rglob("*.html")
    if '{% extends "page.html" %}' in path.read_text()
)
CONTENT = """
<h1>A report</h1>
<h2 id="one">One &amp; <code>only</code></h2>
<div class="gallery">{% for name, picture in pictures.items() %}
<div class="card"><figure><img class="small" src="{{ picture }}" alt="{{ name }}"></figure></div>
{% endfor %}</div>
<h2>Two</h2>
<div class="wide"><table>{% for row in pictures %}<tr>
{% for cell in range(30) %}<td>cell {{ cell }}</td>{% endfor %}</tr>{% endfor %}</table></div>
<div style="height: 3000px"></div>
<h2>Three</h2>
"""
TEXTS = ("text", "dim", "link", "good", "bad", "look", "busy")
# (foreground, background) beside the texts on the page's own backgrounds
PAIRS = [
    ("text", "track"),
    ("text", "bad-back"),
    ("text", "note-back"),
    ("bad", "bad-back"),
    ("look", "look-back"),
    ("on-accent", "accent"),
]
DRAWN = ("accent", "edge", "blue", "gray", "violet", "green", "red", "amber")


def luminance(color):
    """Returns the relative luminance of #rrggbb, WCAG 2.2."""
    color = color if len(color) == 7 else "#" + "".join(2 * digit for digit in color[1:])
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def palettes():
    """Returns {theme: {name: color}} of base.css."""
    light, dark = BASE_STYLE.read_text().split("@media (prefers-color-scheme: dark)")
    pattern = r"--([\w-]+): (#\w+)"
    return {
        "light": dict(re.findall(pattern, light)),
        "dark": dict(re.findall(pattern, dark.split("* {")[0])),
    }


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    block = "{% block title %}A report{% endblock %}{% block content %}" + CONTENT
    (folder / "own.html").write_text('{% extends "page.html" %}' + block + "{% endblock %}")
    pictures = {
        name: picture(np.full((8, 8, 1), 60 * number, np.uint8))
        for number, name in enumerate(("first", "second", "third"))
    }
    (folder / "report.html").write_text(render(folder / "own.html", {"pictures": pictures}))
    return folder / "report.html"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_palette_can_be_read(theme):
    colors = palettes()[theme]
    assert palettes()["light"].keys() == palettes()["dark"].keys()
    pairs = [*itertools.product(TEXTS, ("back", "soft")), *PAIRS]
    pale = {pair: contrast(*(colors[name] for name in pair)) for pair in pairs}
    assert {pair: ratio for pair, ratio in pale.items() if ratio < 4.5} == {}
    # WCAG 2.2, 1.4.11: what is not text needs 3
    assert [name for name in DRAWN if contrast(colors[name], colors["back"]) < 3] == []


def test_colors_are_in_the_palette_only():
    """A color in a template would be that of one theme."""
    assert len(TEMPLATES) > 10
    for path in TEMPLATES:
        assert not re.findall(r"(?:#[0-9a-f]{3,6}\b(?=[\";])|\brgb|\bhsl)", path.read_text()), path
    # white behind plots, which have their colors
    assert set(re.findall(r"#[0-9a-f]{3,6}\b", FRAME_STYLE.read_text())) == {"#fff"}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_templates_are_structured(path):
    text = path.read_text()
    levels = [int(level) for level in re.findall(r"<h(\d)", text)]
    assert levels[0] == levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert all(" alt=" in picture for picture in re.findall(r"<img [^>]*>", text))
    drawings = re.findall(r"<svg [^>]*>", text)
    assert all('role="img"' in drawing and "aria-label=" in drawing for drawing in drawings)
    for before, attributes in re.findall(r"(.*)<table([^>]*)>", text):
        assert before.endswith('<div class="wide">') or "bars" in attributes, (path, before)
    assert "<script" not in text.replace('<script type="application/json"', "")


def test_a_page_is_whole_and_self_contained(report):
    text = report.read_text()
    assert text.startswith("<!doctype html>\n<html lang=") and text.count("<main ") == 1
    assert "http://" not in text and "https://" not in text and "src=" in text
    assert '<a href="#one">One &amp; only</a>' in text
    assert '<h2 id="section-2">Two</h2>' in text and '<a href="#section-2">Two</a>' in text
    assert 'href="#content"' in text and '<main id="content"' in text


def test_a_picture_is_shown_twice_at_most():
    figure = '<figure><img class="small" src="data:image/png;base64,{}" alt="{}"></figure>'
    content = "".join(figure.format(name, number) for number, name in enumerate("abaaba"))
    shown = outlined(content).content
    assert shown.count('base64,a"') == shown.count('base64,b"') == REPEATS == 2
    assert shown.count('<a class="none" href="#picture-0">') == 2
    assert shown.count('<img id="picture-0" class="small"') == 1
    assert outlined("<h2>Only</h2>").sections == [page_module.Section("section-1", "Only")]


def test_the_keyboard_reaches_everything(report):
    focused = "document.activeElement"
    with browse(report.as_uri(), 390, 700) as page:
        page.check()
        page.press("Tab", 9)
        assert page.evaluate(f"{focused}.className") == "skip"
        links = page.evaluate("[...document.querySelectorAll('.contents a')].map(a => a.hash)")
        assert links == ["#one", "#section-2", "#section-3"]
        for _ in range(4):
            page.press("Tab", 9)
        assert page.evaluate(f"{focused}.firstElementChild.alt") == "first"
        page.press("ArrowRight", 39)
        assert page.evaluate(f"{focused}.firstElementChild.alt") == "second"
        assert page.evaluate(f"getComputedStyle({focused}).outlineStyle") == "solid"
        page.evaluate(f"{focused}.click()")
        assert page.evaluate("document.querySelector('#enlarged').open")
        page.press("ArrowRight", 39)
        caption = "document.querySelector('#enlarged p').textContent"
        assert page.evaluate(caption).endswith("(3 of 3)")
        page.press("Escape", 27)
        page.wait("!document.querySelector('#enlarged').open")
        page.wait(f"{focused}.firstElementChild?.alt === 'third'")
        page.evaluate("document.querySelector('.wide').focus()")
        assert page.evaluate(f"{focused}.getAttribute('aria-label')").endswith(": Two")
        page.evaluate("scrollTo(0, 1e6)")
        page.wait("document.querySelector('[aria-current]')?.hash === '#section-3'")
        assert page.complaints == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_can_be_read(report, theme):
    with browse(report.as_uri(), 1280, 900, theme) as page:
        page.check()
        assert page.evaluate(PALE) == []
        back = "getComputedStyle(document.body).backgroundColor"
        assert (
            page.evaluate(back) == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[theme]
        )
        # The contents are beside the page, and stay there.
        page.evaluate("scrollTo(0, 2000)")
        assert page.evaluate("document.querySelector('.contents').getBoundingClientRect().top") == 0
