"""The documentation's site: it builds without a warning, and a broken link is an error."""

import html.parser
import os
import shutil
import subprocess
import sys
import urllib.parse

import pytest

from tests.conftest import REPOSITORY
from tests.support.pages import MODULES
from vision.config.schema import all_keys

pytest.importorskip("sphinx", reason="./scripts/setup docs")
pytest.importorskip("furo", reason="./scripts/setup docs")


def build(out, root=REPOSITORY):
    """Builds as ./scripts/docs does; returns the finished process."""
    options = ["--quiet", "--fail-on-warning", "--builder", "html", "--conf-dir", "docs"]
    command = [sys.executable, "-m", "sphinx", *options, "--doctree-dir", out / "doctrees"]
    return subprocess.run(
        [*command, ".", out / "html"],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    done = build(out)
    assert done.returncode == 0, done.stderr
    return out / "html"


class Page(html.parser.HTMLParser):
    """A page's links and pictures, the ids of its elements, and its text."""

    def __init__(self, path):
        super().__init__()
        self.targets = []
        self.ids = set()
        self.text = path.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.ids |= {values["id"]} if values.get("id") else set()
        self.targets += [values[name] for name in ("href", "src") if values.get(name)]


def test_every_link_leads_somewhere(site):
    pages = {path: Page(path) for path in site.rglob("*.html")}
    broken = []
    for path, page in pages.items():
        for target in page.targets:
            parts = urllib.parse.urlsplit(target)
            if parts.scheme or target == "#":
                continue
            name = urllib.parse.unquote(parts.path)
            other = (path.parent / name).resolve() if name else path
            if not other.is_file() or (
                parts.fragment and other in pages and parts.fragment not in pages[other].ids
            ):
                broken.append((path.relative_to(site).as_posix(), target))
    assert broken == []


def test_the_reference_has_every_key_and_every_stage(site):
    keys = Page(site / "docs" / "reference" / "config.html").text
    assert [key for key in all_keys() if f">{key}<" not in keys] == []
    page = Page(site / "docs" / "reference" / "commands.html")
    assert set(MODULES) <= page.ids
    assert page.text.count("--help") and "--max-batch" in page.text
    api = Page(site / "docs" / "reference" / "python.html")
    names = ("vision.load", "vision.train", "vision.evaluate", "vision.api.LoadedModel.predict")
    assert set(names) <= api.ids


def test_nothing_is_written_into_the_sources(site):
    done = subprocess.run(
        ["git", "status", "--porcelain", "docs"], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert "_build" not in done.stdout and "doctrees" not in done.stdout


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ("[x](nothing.md)", "nothing.md"),
        ("[x](data.md#nothing)", "nothing"),
        ("[x](../configs/nothing.py)", "nothing.py"),
        ("![x](nothing.png)", "nothing.png"),
    ],
)
def test_a_broken_link_is_an_error(tmp_path, link, message):
    for name in ("docs", "vision", "scripts"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    (tmp_path / "docs" / "index.md").write_text(f"# A page\n\n{link}\n\n## Pages\n\n")
    for path in (tmp_path / "docs").rglob("*.md"):
        if path.name not in ("index.md", "data.md"):
            path.unlink()
    (tmp_path / "docs" / "data.md").write_text("---\norphan: true\n---\n\n# Data\n")
    done = build(tmp_path / "out", tmp_path)
    assert done.returncode and message in done.stderr
