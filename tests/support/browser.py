"""A headless Chromium in which tests open pages, over its DevTools protocol."""

import base64
import contextlib
import itertools
import json
import pathlib
import re
import shutil
import subprocess
import time
import urllib.request

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# Overlapping boxes with text or images, neither of which is inside the other.
OVERLAPS = """
(() => {
  const boxes = [...document.querySelectorAll('p, h1, h2, h3, li, td, th, img, pre, .card, .chip')]
    .filter(e => e.getClientRects().length && e.checkVisibility())
    .map(e => [e, e.getBoundingClientRect()]);
  const overlaps = [];
  for (let i = 0; i < boxes.length; i++)
  for (let j = i + 1; j < boxes.length && overlaps.length < 5; j++) {
    const [a, p] = boxes[i], [b, q] = boxes[j];
    if (a.contains(b) || b.contains(a)) continue;
    const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    const texts = [a, b].map(e => e.outerHTML.slice(0, 99));
    if (wide > 1 && high > 1) overlaps.push(texts.join(' / '));
  }
  return overlaps;
})()
"""


# Texts that are hard to read: contrast with the background below 4.5, WCAG 2.2, 1.4.3.
PALE = """
(() => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 10.31 ? v / 3294.6 : ((v / 255 + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (e) => {
    for (; e; e = e.parentElement) {
      const color = numbers(getComputedStyle(e).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const pale = [];
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !e.getClientRects().length) continue;
    if (e.tagName === 'OPTION') continue;
    const lights = [light(numbers(getComputedStyle(e).color)), light(behind(e))];
    const [a, b] = lights.sort((x, y) => x - y);
    const ratio = (b + 0.05) / (a + 0.05);
    if (ratio < 4.5) pale.push(ratio.toFixed(2) + ' ' + e.outerHTML.slice(0, 99));
  }
  return pale;
})()
"""


@contextlib.contextmanager
def browse(url, width=1120, height=900, theme="light", more=()):
    """Opens a page and yields a `Page`; skips the test if there is no Chromium.

    Args:
        url: the page.
        width, height: of the window, in pixels.
        theme: "light" or "dark".
        more: further flags of Chromium.
    """
    websockets = pytest.importorskip("websockets.sync.client")
    program = next(filter(shutil.which, PROGRAMS), None)
    if program is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--remote-debugging-port=0",
    ]
    flags += ["--disable-background-networking", *more]
    command = [program, *flags, f"--window-size={width},{height}", "about:blank"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        matches = (re.search(r"ws://([\d.:]+)/", line) for line in process.stderr)
        address = next(filter(None, matches)).group(1)
        target = _first_page(f"http://{address}/json")
        with websockets.connect(target["webSocketDebuggerUrl"], max_size=None) as socket:
            page = Page(socket)
            page.open(url, width, height, theme)
            yield page
    finally:
        process.terminate()
        process.wait()
        process.stderr.close()


def _first_page(url, patience=20.0):
    """Returns the first page of the browser, which prints its address before it listens."""
    begun = time.monotonic()
    while True:
        try:
            with urllib.request.urlopen(url) as reply:
                return next(page for page in json.load(reply) if page["type"] == "page")
        except (OSError, StopIteration):
            if time.monotonic() - begun > patience:
                raise
            time.sleep(0.1)


class Page:
    """An open page.

    Attributes:
        requests: URLs that it requested, except data: URLs.
        complaints: errors that the browser reported: exceptions, violations of the policy, missing
            files.
    """

    def __init__(self, socket):
        self._socket = socket
        self._numbers = itertools.count(1)
        self._own = "file:"
        self.requests = []
        self.complaints = []

    def open(self, url, width, height, theme="light"):
        """Loads a URL and waits until it is shown."""
        if not url.startswith("file:"):
            self._own = re.match(r"\w+://[^/]+/", url).group()
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        for domain in ("Network", "Page", "Runtime", "Log"):
            self.call(f"{domain}.enable", {})
        self.call("Emulation.setDeviceMetricsOverride", size)
        self.call(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": theme}]},
        )
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
        result = self.call(
            "Runtime.evaluate",
            {"expression": expression, "returnByValue": True, "awaitPromise": True},
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, expression, patience=20.0):
        """Waits until a JavaScript expression is true, and returns its value."""
        begun = time.monotonic()
        while not (value := self.evaluate(expression)):
            assert time.monotonic() - begun < patience, (
                f"{expression} stays {value}; {self.complaints}"
            )
            time.sleep(0.05)
        return value

    def upload(self, selector, *files):
        """Chooses files in an <input type="file">."""
        root = self.call("DOM.getDocument", {})["root"]["nodeId"]
        node = self.call("DOM.querySelector", {"nodeId": root, "selector": selector})["nodeId"]
        self.call("DOM.setFileInputFiles", {"nodeId": node, "files": [str(file) for file in files]})

    def press(self, key, code):
        """Presses a key, by its name and its virtual-key code in Windows."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", {"type": kind, "key": key, "windowsVirtualKeyCode": code}
            )

    def screenshot(self, path):
        """Writes the full page as a PNG."""
        width, height = self.evaluate("[innerWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
        capture = self.call(
            "Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True, "clip": clip}
        )
        pathlib.Path(path).write_bytes(base64.b64decode(capture["data"]))

    def check(self):
        """Asserts that the page fits its window, shows its images and requests no other host."""
        assert self.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.alt)"
        assert self.evaluate(broken) == []
        assert self.evaluate(OVERLAPS) == []
        assert [url for url in self.requests if not url.startswith(self._own)] == []

    def _receive(self):
        message = json.loads(self._socket.recv(timeout=60))
        method = message.get("method")
        parameters = message.get("params", {})
        if method == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            if not url.startswith("data:"):
                self.requests.append(url)
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(parameters["exceptionDetails"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.complaints.append(
                f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}"
            )
        return message
