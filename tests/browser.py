"""A headless Chromium that a test looks at a page with, over its DevTools protocol."""

import contextlib
import itertools
import json
import re
import shutil
import subprocess
import time
import urllib.request

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# Boxes that hold text or pictures and lie over one another, though neither is inside the other.
OVERLAPS = """
(() => {
  const boxes = [...document.querySelectorAll('p, h1, h2, h3, li, td, th, img, pre, .card, .chip')]
    .filter(e => e.getClientRects().length).map(e => [e, e.getBoundingClientRect()]);
  const found = [];
  for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length && found.length < 5; j++) {
    const [a, p] = boxes[i], [b, q] = boxes[j];
    if (a.contains(b) || b.contains(a)) continue;
    const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    if (wide > 1 && high > 1) found.push(a.outerHTML.slice(0, 99) + ' / ' + b.outerHTML.slice(0, 99));
  }
  return found;
})()
"""


@contextlib.contextmanager
def browse(url, width=1120, height=900):
    """Opens a page and yields a `Page`; skips the test where there is no Chromium."""
    websockets = pytest.importorskip("websockets.sync.client")
    program = next(filter(shutil.which, PROGRAMS), None)
    if program is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0"]
    command = [program, *flags, "--disable-background-networking", f"--window-size={width},{height}", "about:blank"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        where = next(filter(None, (re.search(r"ws://([\d.:]+)/", line) for line in process.stderr))).group(1)
        target = _first_page(f"http://{where}/json")
        with websockets.connect(target["webSocketDebuggerUrl"], max_size=None) as socket:
            page = Page(socket)
            page.open(url, width, height)
            yield page
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


def _first_page(url, patience=20.0):
    """Returns the first page of the browser, which says where it listens a little before it does."""
    begun = time.monotonic()
    while True:
        try:
            with urllib.request.urlopen(url) as reply:
                return next(one for one in json.load(reply) if one["type"] == "page")
        except (OSError, StopIteration):
            if time.monotonic() - begun > patience:
                raise
            time.sleep(0.1)


class Page:
    """An open page.

    Attributes:
        requests: URLs that it asked for, without data: ones.
    """

    def __init__(self, socket):
        self._socket, self._numbers, self.requests = socket, itertools.count(1), []

    def open(self, url, width, height):
        """Loads a URL and waits until it is shown."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        for method, parameters in (("Network.enable", {}), ("Page.enable", {})):
            self.call(method, parameters)
        self.call("Emulation.setDeviceMetricsOverride", size)
        self.call("Page.navigate", {"url": url})
        while self._receive().get("method") != "Page.loadEventFired":
            pass

    def call(self, method, parameters):
        """Calls a method of the protocol; returns its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (message := self._receive()).get("id") != number:
            pass
        return message["result"]

    def evaluate(self, expression):
        """Returns the value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", {"expression": expression, "returnByValue": True, "awaitPromise": True})
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def check(self):
        """Asserts what holds for each of our pages: it fits its window, shows its pictures and asks nobody."""
        assert self.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)"
        assert self.evaluate(broken) == []
        assert self.evaluate(OVERLAPS) == []
        assert [url for url in self.requests if not url.startswith("file:")] == []

    def _receive(self):
        message = json.loads(self._socket.recv(timeout=60))
        if message.get("method") == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if not url.startswith("data:"):
                self.requests.append(url)
        return message
