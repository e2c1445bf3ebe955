"""axe-core, which finds what people with a disability cannot use, in the tests' browser.

It is under the MPL 2.0, so it is not kept here: npm downloads the pinned version into the cache of
the web export.
"""

import functools
import itertools

import pytest

from tests.support.browser import PALE, browse
from vision.errors import RunError, UserError
from vision.export import npm

PACKAGE = {
    "name": "axe-core",
    "version": "4.11.0",
    "integrity": "sha512-ilYanEU8vxxBexpJd8cWM4ElSQq4QctCLKih0TSfjIfCQTeyH/6zVrmIJfLPrKTKJRbiG+cfn"
    "ZbQIjAlJmF1jQ==",
    "files": {"axe.min.js": "axe.min.js"},
}
GRAVE = ("serious", "critical")
RUN = """
axe.run(document, { resultTypes: ["violations"], preload: false })
  .then(({ violations }) => violations
  .filter((fault) => %s.includes(fault.impact))
  .flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html.slice(0, 120)}`)))
"""
# (width, height) of windows, in pixels: a desktop and a phone
SIZES = ((1280, 900), (390, 844))


@functools.cache
def _script(directory):
    """Returns axe-core's script; skips the test if it cannot be downloaded."""
    try:
        (tarball,) = npm.fetch([PACKAGE])
    except (UserError, RunError) as error:
        pytest.skip(f"no axe-core: {error}")
    npm.unpack(tarball, PACKAGE, directory)
    return (directory / "axe.min.js").read_text("utf-8")


def faults(page, directory):
    """Returns the serious and critical faults that axe-core finds in an open page, as text.

    Args:
        page: a `tests.support.browser.Page`.
        directory: where the script is unpacked.
    """
    page.evaluate(_script(directory) + "\n0")
    return page.evaluate(RUN % list(GRAVE))


def check_accessible(url, directory):
    """Asserts that a page is accessible, on a desktop and a phone, in light and in dark.

    Args:
        url: the page.
        directory: for temporary files.
    """
    with browse(url) as page:
        for (width, height), theme in itertools.product(SIZES, ("light", "dark")):
            page.open(url, width, height, theme)
            page.check()
            assert page.evaluate(PALE) == [], (width, theme)
            assert faults(page, directory) == [], (width, theme)
            if page.evaluate("document.querySelector('main button.zoom img') !== null"):
                page.evaluate("document.querySelector('main button.zoom').click()")
                page.wait("document.querySelector('#enlarged').open")
                assert faults(page, directory) == [], (width, theme)
            assert page.complaints == []
