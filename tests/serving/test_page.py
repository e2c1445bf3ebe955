"""The page for people, in a browser, on a server in another process."""

import json
import re
import urllib.request
from urllib.parse import quote

import cv2
import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.support.browser import PALE, browse
from tests.support.live_server import serve
from tests.support.tiny_bundle import write_bundle

pytestmark = pytest.mark.long

FOLDER = REPOSITORY / "vision" / "serving" / "page"
FILES = sorted(path.name for path in FOLDER.iterdir())
CLASSES = [f"kind {i}, a <b>bold</b> one" for i in range(10)]
BARS = "document.querySelectorAll('.bars li').length"
STATUS = "document.getElementById('status').textContent"
FOCUSED = "document.activeElement"
RINGED = f"{FOCUSED}.id === 'file' ? file.nextElementSibling : {FOCUSED}"
WATCH = """
const shown = document.getElementById('status'), said = [];
new MutationObserver(() => said.push(shown.textContent)).observe(shown, { childList: true });
"""
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models")
    for version, quality in (
        ("1", None),
        ("2", {"metrics": {"accuracy": {"value": 0.875}}, "images": 8, "split": "test"}),
    ):
        write_bundle(directory / "pets" / version, CLASSES, side=8, channels=3, quality=quality)
    write_bundle(directory / "digits" / "1", side=8, channels=1, model={"heat": True})
    return directory


@pytest.fixture(scope="module")
def live(models):
    with serve(models, grpc_port=0) as server:
        yield server


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A picture in portrait, as a phone takes it."""
    file = tmp_path_factory.mktemp("photos") / "photo.jpg"
    slope = np.linspace(0, 255, 320 * 240 * 3).astype(np.uint8).reshape(320, 240, 3)
    cv2.imwrite(str(file), cv2.circle(slope, (120, 160), 60, (40, 120, 230), -1))
    return file


def choose(page, name, value):
    page.evaluate(
        f"(() => {{ {name}.value = '{value}'; {name}.dispatchEvent(new Event('change')) }})()"
    )


def classify(live, image, parameters):
    """Returns what the server answers without the page."""
    request = urllib.request.Request(f"{live.url}/classify/pets?{parameters}", image)
    with urllib.request.urlopen(request) as reply:
        return json.load(reply)


def loaded(page):
    return page.wait("model.options.length")


@pytest.mark.parametrize(
    ("width", "theme"), [(1120, "light"), (390, "dark"), (1120, "dark"), (390, "light")]
)
def test_an_image_is_classified(live, photo, width, theme, tmp_path):
    with browse(live.url + "/", width, 844, theme) as page:
        loaded(page)
        page.check()
        choose(page, "model", "pets")
        assert page.evaluate("about.textContent").endswith(
            "8 × 8 pixels; accuracy 87.5\N{NO-BREAK SPACE}% on 8 test images."
        )
        page.upload("#file", photo)
        page.wait(f"{BARS} === 5")
        percents = page.evaluate(
            "[...document.querySelectorAll('.percent')]"
            ".map(e => parseFloat(e.textContent.replace(/[<>]/, '')))"
        )
        assert percents == sorted(percents, reverse=True) and 0 < sum(percents) <= 100.3
        # Names are shown as they are, not as HTML.
        assert re.fullmatch(
            r"kind \d, a <b>bold</b> one, .* %, says version 2\.",
            page.evaluate(STATUS).replace("\xa0", " "),
        )
        parts = page.evaluate("[...document.querySelectorAll('.parts dt')].map(e => e.textContent)")
        assert parts == ["decode", "wait", "model", "network"]
        assert page.evaluate("[picture.hidden, picture.height > picture.width, seen.hidden]") == [
            False,
            True,
            False,
        ]
        page.check()
        assert page.evaluate(PALE) == [] and page.complaints == []
        page.evaluate("picture.parentElement.click()")
        enlarged = "document.querySelector('#enlarged canvas')"
        assert page.evaluate(f"{enlarged}.width === picture.width && {enlarged}.height > 99")
        page.press("Escape", 27)
        page.wait("!document.querySelector('#enlarged').open")
        page.wait("document.activeElement === picture.parentElement")
        page.screenshot(tmp_path / "page.png")
        assert cv2.imread(str(tmp_path / "page.png")).shape[1] == width


def test_two_versions_side_by_side(live, photo):
    with browse(live.url + "/") as page:
        loaded(page)
        choose(page, "model", "pets")
        choose(page, "version", "2")
        choose(page, "other", "1")
        page.upload("#file", photo)
        page.wait(f"{BARS} === 10")
        titles = page.evaluate(
            "[...document.querySelectorAll('.answer h3:first-child')].map(e => e.textContent)"
        )
        assert titles == ["pets, version 2", "pets, version 1"]
        assert page.evaluate(STATUS).startswith("Both agree. Version 2: kind ")
        lefts = page.evaluate(
            "[...document.querySelectorAll('.answer')].map(e => e.getBoundingClientRect().left)"
        )
        assert lefts[0] < lefts[1]
        choose(page, "model", "digits")  # has one version: there is nothing to compare
        page.wait(f"{BARS} === 5")
        assert page.evaluate("other.parentElement.hidden") and "class " in page.evaluate(STATUS)
        page.check()


def test_where_the_model_looks_lies_over_the_image(live, photo):
    pixels = (
        "[...picture.getContext('2d').getImageData(0, 0, picture.width, picture.height).data]"
        ".join()"
    )
    with browse(live.url + "/") as page:
        loaded(page)
        choose(page, "model", "digits")
        page.upload("#file", photo)
        page.wait(f"{BARS} === 5")
        label = page.evaluate("document.getElementById('heat-field').innerText.trim()")
        assert label == "Show where the model looks"
        assert (
            page.evaluate("picture.getAttribute('aria-label')")
            == "Your image, with where the model looks"
        )
        hot = page.evaluate(pixels)
        page.evaluate("heat.click()")
        assert (
            page.evaluate(pixels) != hot
            and page.evaluate("picture.getAttribute('aria-label')") == "Your image"
        )
        page.evaluate("heat.click()")
        assert page.evaluate(pixels) == hot
        choose(page, "model", "pets")  # knows nothing of it
        page.wait(f"{STATUS}.includes('kind')")
        assert page.evaluate("document.getElementById('heat-field').hidden") is True


def test_an_image_is_cut_into_tiles(live, tmp_path):
    """Of 4 x 4 tiles without overlap or more with it, the page shows what the server says."""
    file = tmp_path / "line.png"
    random = np.random.default_rng(0)
    cv2.imwrite(str(file), random.integers(0, 256, (64, 96, 3)).astype(np.uint8))
    image = file.read_bytes()
    said = classify(live, image, "tiles=16&version=2")
    pixels = "[...picture.getContext('2d').getImageData(0, 0, 768, 512).data].join()"
    guess = "document.querySelector('.guess')?.textContent ?? ''"
    text = "document.querySelector('.best').textContent"
    with browse(live.url + "/") as page:
        loaded(page)
        choose(page, "model", "pets")
        page.upload("#file", file)
        page.wait(f"{BARS} === 5")
        assert page.evaluate("normal.parentElement.hidden")
        page.evaluate("tiles.value = 16; tiles.dispatchEvent(new Event('input'))")
        choose(page, "tiles", "16")
        count = len(said["tiles"])
        page.wait(f"({guess}).includes('Decided by one of {count} tiles')")
        tile = said["tile"]
        assert f"at x {tile['x']}, y {tile['y']}." in page.evaluate(guess)
        assert page.evaluate(text) == said["class"]
        assert page.evaluate("[seen.textContent, normal.parentElement.hidden]") == [
            "The frame is the tile that decided.",
            False,
        ]
        mapped = page.evaluate(pixels)
        page.evaluate("heat.click()")
        assert page.evaluate(pixels) != mapped
        page.evaluate("heat.click()")
        assert page.evaluate(pixels) == mapped
        assert page.evaluate("picture.getAttribute('aria-label')").endswith("scores of its tiles")
        normal = said["class"]
        scores = [
            max(e["probability"] for e in t["top"] if e["class"] != normal) for t in said["tiles"]
        ]
        choose(page, "normal", normal)
        for threshold in ("0", "0.5", "0.99"):
            choose(page, "threshold", threshold)
            exceeding = sum(score > float(threshold) for score in scores)
            sentence = f"{exceeding} of {count} tiles exceed {threshold};"
            page.wait(f"({guess}).startsWith('{sentence}')")
            decided = classify(
                live,
                image,
                f"tiles=16&version=2&normal={quote(normal)}&defect_threshold={threshold}",
            )
            assert page.evaluate(text) == decided["class"]
        page.check()
        assert page.evaluate(PALE) == [] and page.complaints == []
        choose(page, "normal", "nonsense")
        page.wait(f"{STATUS}.includes('cannot be cut like this')")
        page.evaluate("tiles.value = ''; tiles.dispatchEvent(new Event('input'))")
        page.evaluate("again.click()")
        page.wait(f"{BARS} === 5 && !document.querySelector('.guess')")
        assert page.evaluate("seen.textContent") == "The frame is what the model sees."


def test_a_version_that_comes_meanwhile_is_shown_as_it_is(photo, tmp_path):
    """It has its own size, crop and heat map, and is in the lists once it has answered."""
    write_bundle(tmp_path / "pets" / "1", side=8, channels=1, model={"heat": True})
    with serve(tmp_path, grpc_port=0, poll=0.05) as live, browse(live.url + "/") as page:
        loaded(page)
        page.upload("#file", photo)
        page.wait(f"{BARS} === 5")
        resize = {"crop_fraction": 1.0, "interpolation": "bilinear"}
        write_bundle(tmp_path / "pets" / ".2", CLASSES, side=16, channels=3, resize=resize)
        (tmp_path / "pets" / ".2").rename(tmp_path / "pets" / "2")
        for _ in range(100):
            page.evaluate("again.click()")
            page.wait(f"{STATUS}.includes('says version')")
            if page.evaluate(STATUS).endswith("says version 2."):
                break
        page.wait("[...version.options].map(one => one.value).join() === ',2,1'")
        assert "images of 16 × 16 pixels." in page.evaluate("about.textContent")
        assert page.evaluate("document.getElementById('heat-field').hidden") is True
        choose(page, "version", "1")
        page.wait(f"{STATUS}.includes('says version 1')")
        assert "images of 8 × 8 pixels, gray." in page.evaluate("about.textContent")
        assert page.evaluate("document.getElementById('heat-field').hidden") is False
        page.check()


def test_paste_and_drop_and_camera(live, photo):
    give = """(async (name, field) => {{
      const data = new DataTransfer(), blob = await new Promise(done => {{
        const canvas = new OffscreenCanvas(40, 30);
        canvas.getContext('2d').fillRect(0, 0, 9, 9);
        canvas.convertToBlob().then(done);
      }});
      data.items.add(new File([blob], name + '.png', {{ type: blob.type }}));
      const kind = field === 'clipboardData' ? ClipboardEvent : DragEvent;
      const event = new kind(name, {{ [field]: data, cancelable: true }});
      document.dispatchEvent(event);
      return event.defaultPrevented;
    }})('{}', '{}')"""
    with browse(live.url + "/", more=CAMERA) as page:
        loaded(page)
        for name, field in (("paste", "clipboardData"), ("drop", "dataTransfer")):
            page.evaluate("answers.replaceChildren()")
            assert page.evaluate(give.format(name, field)) is True
            page.wait(f"{BARS} === 5 && hint.textContent === '{name}.png'")
        page.evaluate("answers.replaceChildren()")
        page.evaluate("camera.click()")
        page.wait("viewfinder.open && video.videoWidth > 0")
        page.evaluate("shoot.click()")
        page.wait(f"{BARS} === 5")
        assert page.evaluate("[viewfinder.open, video.srcObject, hint.textContent]") == [
            False,
            None,
            "Your image",
        ]
        assert page.complaints == []


def test_keys_and_a_screen_reader_find_everything(live, photo):
    with browse(live.url + "/", more=CAMERA) as page:
        loaded(page)
        choose(page, "model", "pets")
        focused = []
        for _ in range(8):
            page.press("Tab", 9)
            focused.append(
                page.evaluate(f"{FOCUSED}.id || {FOCUSED}.className || {FOCUSED}.textContent")
            )
            assert page.evaluate(f"getComputedStyle({RINGED}).outlineStyle") != "none", focused
        assert focused == [
            "skip",
            "model",
            "version",
            "other",
            "tiles",
            "file",
            "camera",
            "The API",
        ]
        page.upload("#file", photo)
        page.wait(f"{BARS} === 5")
        page.call("Accessibility.enable", {})
        nodes = [
            n for n in page.call("Accessibility.getFullAXTree", {})["nodes"] if not n.get("ignored")
        ]
        named = {(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes}
        assert {
            ("combobox", "Model"),
            ("combobox", "Version"),
            ("combobox", "Compare with"),
        } <= named
        assert {
            ("button", "Choose an image"),
            ("button", "Use the camera"),
            ("image", "Your image"),
        } <= named
        assert {
            ("region", "Image"),
            ("region", "Result"),
            ("list", "Most probable classes"),
        } <= named
        assert all(
            name
            for role, name in named
            if role in ("button", "combobox", "textbox", "image", "link", "checkbox")
        )
        status = next(n for n in nodes if n["role"]["value"] == "status")
        assert {"name": "live", "value": {"type": "token", "value": "polite"}} in status[
            "properties"
        ]


def test_mistakes_are_explained(models, photo, tmp_path):
    (tmp_path / "keys").write_text("lab secret 1\n")
    (tmp_path / "note.png").write_text("this is no image")
    (tmp_path / "large.png").write_bytes(photo.read_bytes() + bytes(300_000))
    with (
        serve(models, keys=tmp_path / "keys", max_body=200_000, grpc_port=0) as live,
        browse(live.url + "/") as page,
    ):
        page.wait("!document.getElementById('key-field').hidden")
        assert (
            "requires an API key" in page.evaluate(STATUS)
            and page.evaluate("document.activeElement.id") == "key"
        )
        for key, words in (("wrong", "does not know this API key"), ("secret", "Nothing yet")):
            page.evaluate(f"key.value = '{key}'; choices.requestSubmit()")
            page.wait(f"{STATUS}.includes('{words}')")
        page.evaluate(WATCH)
        page.upload("#file", photo)  # a second request at once, where the key has one a second
        page.wait(f"{BARS} === 5")
        assert page.evaluate(
            "said.some(text => text.startsWith('The server is busy. Asking again in '))"
        )
        for name, words in (
            ("note.png", "cannot be read as an image"),
            ("large.png", "too large for this server"),
        ):
            page.upload("#file", tmp_path / name)
            page.wait(f"{STATUS}.includes('{words}')")
            assert page.evaluate(BARS) == 0 and page.evaluate(PALE) == []
        page.check()
        live.process.terminate()
        live.process.wait()
        page.evaluate("again.click()")
        page.wait(f"{STATUS}.includes('cannot be reached')")


def test_the_files_obey_the_policy_of_the_server():
    """No inline script or style, and nothing from elsewhere."""
    assert {"index.html", "page.css", "page.js"} <= set(FILES)
    html = (FOLDER / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", html)
    for name in FILES:
        text = (FOLDER / name).read_text()
        assert set(re.findall(r"https?://[\w.]+", text)) <= {"http://www.w3.org"}, name
        assert len(text.splitlines()) <= 400
