"""The page for browsers in Chromium, with the real runtimes: it answers as its bundle does."""

import io
import struct
import tarfile

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms

from experiments.edge.web import measure, serving
from tests.conftest import REPOSITORY
from tests.support.axe import check_accessible
from tests.support.browser import PALE, browse
from vision import cli
from vision.data.decode import decode
from vision.data.sources import open_splits
from vision.errors import RunError, UserError
from vision.export import __main__ as command
from vision.export import web

BARS = "document.querySelectorAll('.bars li').length"
STATUS = "document.getElementById('status').textContent"
READY = f"{STATUS} === 'Nothing yet.'"
FOCUSED = "document.activeElement"
RINGED = f"{FOCUSED}.id === 'file' ? file.nextElementSibling : {FOCUSED}"
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
SOFTWARE_GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
ON_GPU = """
(async () => {
  const runtime = await import('./litert.js'), { decode } = await import('./decode.js');
  const { toChannels } = await import('./resize.js');
  const about = await (await fetch('model.json')).json();
  const bytes = new Uint8Array(await (await fetch(about.model)).arrayBuffer());
  runtime.close(); // the page's own
  const { image_size: side, channels } = about;
  const engine = await runtime.open(bytes, [1, side, side, channels], 'WebGPU');
  const sample = await decode(await (await fetch('sample.png')).blob());
  const answer = await engine.run(toChannels(sample, channels).data);
  const shifts = [...answer].map((value, i) => Math.abs(value - about.sample.probabilities[i]));
  return [engine.name, Math.max(...shifts)];
})()
"""
PIXELS = """
(async () => {{
  const {{ decode }} = await import('/web/decode.js');
  const image = await decode(await (await fetch('/images/{}')).blob());
  return [image.width, image.height, [...image.data].filter((_, i) => i % 4 < 3)];
}})()
"""
# what a browser may lack, as a script that runs before the page
LACKS = (
    ("delete globalThis.WebAssembly", "it lacks WebAssembly with SIMD. Update it"),
    ("WebAssembly.validate = () => false", "it lacks WebAssembly with SIMD. Update it"),
    ("HTMLScriptElement.supports = () => false", "it lacks import maps. Update it"),
    ("delete globalThis.createImageBitmap", "it lacks createImageBitmap. Update it"),
)


@pytest.fixture(scope="module", autouse=True)
def runtimes():
    """The runtimes' packages, in the cache; without them, nothing here can run."""
    try:
        for runtime in web.RUNTIMES:
            web.fetch(runtime)
    except (UserError, RunError) as error:
        pytest.skip(f"the runtimes for browsers cannot be downloaded: {error}")


@pytest.fixture(scope="module")
def digits(tiny_run, tmp_path_factory):
    """A bundle of a model of gray images of 8 px."""
    out = tmp_path_factory.mktemp("bundles") / "digits"
    cli.run(command.main, [f"--workdir={tiny_run}", "--format=web", f"--out={out}"])
    return out


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of digits, and a picture in portrait, as a phone takes it."""
    folder = tmp_path_factory.mktemp("images")
    source = open_splits("digits")["all"]
    for number in range(50):
        cv2.imwrite(str(folder / f"{number:02d}.png"), source[number]["image"])
    slope = np.linspace(0, 255, 320 * 240 * 3).astype(np.uint8).reshape(320, 240, 3)
    cv2.imwrite(str(folder / "photo.jpg"), cv2.circle(slope, (120, 160), 60, (40, 120, 230), -1))
    return folder


@pytest.fixture(scope="module")
def url(digits, images):
    with serving(digits / "web", images, {}) as url:
        yield url


@pytest.mark.parametrize(
    ("flags", "engine"),
    [
        ((), "LiteRT.js (WebAssembly, 1 thread)"),
        (("--precision=float16",), "LiteRT.js (WebAssembly, 1 thread)"),
        (("--precision=int8",), "LiteRT.js (WebAssembly, 1 thread)"),
        (("--web-runtime=onnxruntime",), "ONNX Runtime Web (WebAssembly, 1 thread)"),
    ],
)
def test_fifty_photos(flags, engine, shared_data, tmp_path):
    """The classes and probabilities of `vision.predict --bundle`."""
    photos = tmp_path / "photos"
    photos.mkdir()
    with tarfile.open(shared_data / "imagenet_samples.tar") as archive:
        members = [member for member in archive.getmembers() if member.isfile()][::4]
        for number, member in enumerate(members):
            data = archive.extractfile(member).read()
            (photos / f"{number:02d}.jpg").write_bytes(data)
            folder = tmp_path / "data" / "ab"[number % 2]  # a source has two classes or more
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:02d}.jpg").write_bytes(data)
    config = f"--config={REPOSITORY}/configs/efficientnet_lite_imagenet.py"
    argv = [config, f"--data=folder:{tmp_path}/data", "--format=web"]
    cli.run(command.main, [*argv, f"--out={tmp_path}/lite0", *flags])
    row = measure(tmp_path / "lite0", photos, rounds=1, threads=False)
    assert (row["images"], row["same_class"], row["engine"]) == (50, 50, engine)
    assert float(row["largest_difference"]) < 1e-3


def test_gray_images_and_threads(digits, images):
    for threads in (False, True):
        row = measure(digits, images, rounds=1, threads=threads)
        assert row["same_class"] == row["images"] == 51
        assert float(row["largest_difference"]) < 1e-5
        assert row["engine"].endswith("threads)" if threads else "1 thread)")


def swapped_profile():
    """Returns the bytes of a color profile in which red and blue have changed places."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", data, 128)
    tags = {bytes(data[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    red = data[tags[b"rXYZ"] + 4 : tags[b"rXYZ"] + 12]
    data[tags[b"rXYZ"] + 4 : tags[b"rXYZ"] + 12] = data[tags[b"bXYZ"] + 4 : tags[b"bXYZ"] + 12]
    data[tags[b"bXYZ"] + 4 : tags[b"bXYZ"] + 12] = red
    return bytes(data)


def test_decoding(digits, tmp_path):
    """EXIF orientation, color profiles, transparency and the kinds of files, as in Python."""
    y, x = np.mgrid[:48, :65]
    waves = [127 + 120 * np.sin(x / 9 + y / 13 + shift) for shift in (0, 2, 4)]
    picture = Image.fromarray(np.stack(waves, -1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    clear = picture.copy()
    clear.putalpha(Image.fromarray((3 * x).astype(np.uint8)))
    deep = (np.stack(waves, -1)[..., 0] * 257).astype(np.uint16)
    kinds = {
        "plain.jpg": (picture, {"quality": 90}, 0),
        "turned.jpg": (picture, {"exif": exif}, 0),
        "progressive.jpg": (picture, {"progressive": True, "quality": 60}, 0),
        "gray.jpg": (picture.convert("L"), {}, 0),
        "profile.jpg": (picture, {"icc_profile": swapped_profile()}, 0),
        "profile.png": (picture, {"icc_profile": swapped_profile()}, 0),
        "palette.png": (picture.quantize(32), {}, 0),
        "clear.png": (clear, {}, 1),
        "deep.png": (Image.fromarray(deep), {}, 1),
        "lossless.webp": (picture, {"lossless": True}, 0),
        "lossy.webp": (picture, {}, 2),
        "picture.gif": (picture.quantize(32), {}, 0),
        "picture.bmp": (picture, {}, 0),
    }
    for name, (image, options, _) in kinds.items():
        buffer = io.BytesIO()
        image.save(buffer, Image.registered_extensions()["." + name.partition(".")[2]], **options)
        (tmp_path / name).write_bytes(buffer.getvalue())
    worst = {}
    with serving(digits / "web", tmp_path, {}) as url, browse(url) as page:
        for name, (_, _, tolerance) in kinds.items():
            width, height, values = page.evaluate(PIXELS.format(name))
            expected = decode(tmp_path / name, 3)
            assert (height, width) == expected.shape[:2], name
            worst[name] = np.abs(np.array(values) - expected.ravel()).max(), tolerance
    assert all(level <= tolerance for level, tolerance in worst.values()), worst


def test_the_page_is_accessible(url, tmp_path):
    check_accessible(url, tmp_path)


@pytest.mark.parametrize(
    ("width", "theme"), [(1280, "light"), (390, "dark"), (1280, "dark"), (390, "light")]
)
def test_an_image_is_classified(url, images, width, theme, tmp_path):
    with browse(url, width, 844, theme) as page:
        page.wait(READY)
        page.check()
        about = page.evaluate("about.textContent")
        assert about.startswith("digits distinguishes 10 classes in images of 8 × 8 pixels, gray")
        assert about.endswith("It runs in this browser by LiteRT.js (WebAssembly, 1 thread).")
        page.upload("#file", images / "photo.jpg")
        page.wait(f"{BARS} === 5")
        parts = page.evaluate("[...document.querySelectorAll('.parts dt')].map(e => e.textContent)")
        assert parts == ["decode", "resize", "model"]
        assert page.evaluate("[picture.hidden, view.hidden]") == [False, False]
        page.check()  # nothing from another host, among others
        assert page.evaluate(PALE) == [] and page.complaints == []
        page.screenshot(tmp_path / "page.png")
        assert cv2.imread(str(tmp_path / "page.png")).shape[1] == width


def test_by_keyboard_and_camera(url, images):
    with browse(url, more=CAMERA) as page:
        page.wait(READY)
        page.upload("#file", images / "00.png")
        page.wait(f"{BARS} === 5")
        focused = []
        for _ in range(6):
            page.press("Tab", 9)
            focused.append(page.evaluate(f"{FOCUSED}.id || {FOCUSED}.className || {FOCUSED}.text"))
            assert page.evaluate(f"getComputedStyle({RINGED}).outlineStyle") != "none", focused
        assert focused == ["skip", "zoom", "file", "camera", "again", "Licenses"]
        page.evaluate("answers.replaceChildren()")
        page.evaluate("camera.click()")
        page.wait("viewfinder.open && video.videoWidth > 0")
        page.evaluate("shoot.click()")
        page.wait(f"{BARS} === 5 && hint.textContent === 'Your image'")
        assert page.complaints == []


def test_what_is_not_an_image_leaves_the_page_as_it_is(url, images, tmp_path):
    (tmp_path / "note.png").write_text("this is text")
    (tmp_path / "note.txt").write_text("this is text")
    with browse(url) as page:
        page.wait(READY)
        page.upload("#file", images / "photo.jpg")
        page.wait(f"{BARS} === 5")
        before = page.evaluate("answers.innerHTML")
        for name, sentence in (
            ("note.png", "This browser cannot read note.png as an image."),
            ("note.txt", "That is not an image."),
        ):
            page.upload("#file", tmp_path / name)
            page.wait(f"{STATUS} === '{sentence}'")
            assert page.evaluate("answers.innerHTML") == before
            assert page.evaluate("hint.textContent") == "photo.jpg"
        page.evaluate("again.click()")
        page.wait(f"{STATUS}.endsWith('%.')")


def test_a_gpu_computes_the_same(url):
    """A GPU in software: the page itself does not choose it, since it is slower."""
    with browse(url, more=SOFTWARE_GPU) as page:
        page.wait(READY)
        assert "WebAssembly, 1 thread" in page.evaluate("about.textContent")
        if not page.evaluate("navigator.gpu?.requestAdapter().then(Boolean)"):
            pytest.skip("this Chromium has no WebGPU in software")
        name, shift = page.evaluate(ON_GPU)
        assert name == "LiteRT.js (WebGPU)" and shift < 1e-4


@pytest.mark.parametrize(
    ("script", "sentence"), LACKS, ids=("WebAssembly", "SIMD", "import maps", "createImageBitmap")
)
def test_a_browser_that_lacks_something(url, script, sentence):
    with browse(url + "licenses.txt") as page:
        page.call("Page.addScriptToEvaluateOnNewDocument", {"source": script})
        page.open(url, 390, 844)
        page.wait(f"{STATUS}.includes('{sentence}')")
        assert page.evaluate("getComputedStyle(zone).display") == "none"
        assert page.evaluate(PALE) == []
        page.check()


def test_a_folder_that_is_not_served_or_not_complete(digits, images, tmp_path):
    with browse((digits / "web" / "index.html").as_uri()) as page:
        page.wait(f"{STATUS}.includes('runs this page only from a web server')")
    site = tmp_path / "site"
    site.mkdir()
    for file in (digits / "web").iterdir():
        (site / file.name).symlink_to(file)
    (site / "model.tflite").unlink()
    with serving(site, images, {}) as url, browse(url) as page:
        page.wait(f"{STATUS}.startsWith('model.tflite is missing on the web server')")
        (site / "model.tflite").symlink_to(digits / "web" / "model.tflite")
        page.upload("#file", images / "00.png")  # it is tried again
        page.wait(f"{BARS} === 5")
        assert page.evaluate("about.textContent").startswith("digits distinguishes 10 classes")


def test_a_runtime_that_computes_something_else_is_not_used(digits, images, tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    for file in (digits / "web").iterdir():
        (site / file.name).symlink_to(file)
    about = (digits / "web" / "model.json").read_text()
    (site / "model.json").unlink()
    values = about.index('"probabilities"')
    (site / "model.json").write_text(about[:values] + about[values:].replace("0.", "0.9", 3))
    with serving(site, images, {}) as url, browse(url) as page:
        page.wait(f"{STATUS}.includes('it gives other probabilities than at its export')")
