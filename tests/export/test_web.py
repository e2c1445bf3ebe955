"""The page for browsers: its files, what they may request, and its resizing, which is the bundle's.

In a browser: tests/slow/test_web.py.
"""

import base64
import hashlib
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest

from tests.support.npm_packages import packages
from tests.support.tiny_bundle import RESIZE, write_bundle
from vision import cli
from vision.bundle.directory import open_bundle, read_manifest
from vision.data.decode import INTERPOLATIONS, decode, resize_crop, to_channels
from vision.errors import UserError
from vision.export import __main__ as command
from vision.export import npm, web
from vision.export.options import ExportOptions
from vision.support import extras

FILES = (*web.PAGE.iterdir(), *web.SHARED_FILES)
OWN = sorted(path for path in web.PAGE.iterdir() if path.is_file())
IMPORTS = r"""(?:from|import|import\() ?["'`]([^"'`]+)["'`]"""
# (height, width) of an image, side of the result
SIZES = [(97, 141, 32), (64, 64, 32), (96, 160, 32), (100, 300, 56), (33, 31, 31), (28, 28, 28)]
GROWING = [(20, 31, 32), (30, 200, 64), (7, 1, 8)]
RESIZING = """
import fs from "node:fs";
const { resizeCrop, toChannels } = await import(process.argv[1]);
for (const { file, width, height, channels, size, resize } of JSON.parse(fs.readFileSync(0))) {
  const image = toChannels({ data: fs.readFileSync(file), width, height }, channels);
  fs.writeFileSync(`${file}.resized`, resizeCrop(image, size, resize).data);
}
"""
# Runtimes that cannot be made to fail at will: one that, like LiteRT.js, has one model at a time.
RUNTIME = """
let opened = 0;
globalThis.log = [];
export const ways = async () => ["WebGPU", "WebAssembly"];
export async function open(bytes, shape, way) {
  if (opened++) throw new Error("LiteRT is already loading / loaded.");
  log.push(`open ${way} for ${shape}`);
  return { name: way, run: (pixels) => globalThis.run(way, pixels) };
}
export function close() {
  opened = 0;
  log.push("close");
}
"""
DECODE = "export const decode = async () => ({ width: 2, height: 2, data: new Uint8Array(16) });"
LOAD = """
import fs from "node:fs";
const [, folder, precision] = process.argv;
const about = {
  classes: ["a", "b"], image_size: 2, channels: 1, resize: {}, precision, runtime: "runtime",
  model: "model", bytes: 2, sha256: "0123456789abcdef",
  sample: { file: "sample.png", probabilities: [0.25, 0.75] },
};
const requests = [];
globalThis.fetch = async (file, options) => {
  requests.push([file, options?.cache]);
  return new Response(file === "model.json" ? JSON.stringify(about) : "ab");
};
console.warn = () => {};
const { load } = await import(`${folder}/classifier.js`);
const image = { width: 2, height: 2, data: new Uint8Array(16) };
const result = await (async () => { %s })();
fs.writeFileSync(1, JSON.stringify({ result, log, requests }));
"""
FIRST_FAILS = """
globalThis.run = async (way) => {
  if (way === "WebGPU") throw new Error("out of memory");
  return [0.25, 0.75];
};
return (await load(() => {})).engine;
"""
LATER_FAILS = """
let isLost = false;
globalThis.run = async (way) => {
  if (isLost && way === "WebGPU") throw new Error("device lost");
  return [0.25, 0.75];
};
const first = await load(() => {});
isLost = true;
const failed = await Promise.allSettled([first.classify(image), first.classify(image)]);
const second = await load(() => {});
const { probabilities } = await second.classify(image);
return [first.engine, failed.map((one) => one.status), second.engine, probabilities];
"""
ANSWERS = """
globalThis.run = async () => %s;
return (await load(() => {})).engine;
"""


def run_classifier(folder, script, precision="float32"):
    """Returns what a script about `load` of classifier.js returns, and its log and requests."""
    if shutil.which("node") is None:
        pytest.skip("no Node.js is installed: apt-get install nodejs")
    for name in ("classifier.js", "resize.js"):
        shutil.copyfile(web.PAGE / name, folder / name)
    (folder / "runtime.js").write_text(RUNTIME)
    (folder / "decode.js").write_text(DECODE)
    (folder / "package.json").write_text('{"type": "module"}')
    argv = ["node", "--input-type=module", "-e", LOAD % script, str(folder), precision]
    finished = subprocess.run(argv, text=True, capture_output=True)
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)


def images(height, width):
    """Yields noise and a smooth picture, uint8 (height, width, 3)."""
    random = np.random.default_rng(height * width)
    yield random.integers(0, 256, (height, width, 3), np.uint8)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([127 + 120 * np.sin(x / 7 + y / 13 + shift) for shift in range(3)], -1)
    yield waves.astype(np.uint8)


def differences(folder, sizes, interpolations):
    """Returns the largest differences of JavaScript's resizing from the bundle's, in gray levels,
    and the share of the values that differ."""
    if shutil.which("node") is None:
        pytest.skip("no Node.js is installed: apt-get install nodejs")
    cases = []
    expected = []
    for (height, width, size), fraction, name, channels in itertools.product(
        sizes, (1.0, 0.875), interpolations, (1, 3)
    ):
        for image in images(height, width):
            file = folder / f"{len(cases)}"
            np.concatenate([image, np.full_like(image[..., :1], 255)], -1).tofile(file)
            resize = {"crop_fraction": fraction, "interpolation": name}
            case = {"file": str(file), "width": width, "height": height, "channels": channels}
            cases.append(case | {"size": size, "resize": resize})
            expected.append(resize_crop(to_channels(image, channels), size, **resize))
    argv = ["node", "--input-type=module", "-e", RESIZING, str(web.PAGE / "resize.js")]
    subprocess.run(argv, input=json.dumps(cases), text=True, check=True)
    actual = [np.fromfile(f"{case['file']}.resized", np.uint8) for case in cases]
    pairs = zip(actual, expected, strict=True)
    levels = np.concatenate([np.abs(a.astype(int) - e.ravel()) for a, e in pairs])
    return levels.max(), (levels > 0).mean()


def test_it_resizes_to_the_gray_level(tmp_path):
    assert differences(tmp_path, SIZES, INTERPOLATIONS) == (0, 0)


def test_it_enlarges_to_the_gray_level(tmp_path):
    assert differences(tmp_path, GROWING, ("bilinear", "bicubic")) == (0, 0)


def test_what_opencv_enlarges_may_round_differently(tmp_path):
    """Its bicubic is another one on each processor: single values round differently."""
    largest, share = differences(tmp_path, GROWING, ("area",))
    assert largest <= 1 and share < 0.05


def test_it_falls_back_if_the_first_run_fails(tmp_path):
    ended = run_classifier(tmp_path, FIRST_FAILS)
    assert ended["result"] == "WebAssembly"
    first = "open WebGPU for 1,2,2,1"
    second = "open WebAssembly for 1,2,2,1"
    assert ended["log"] == [first, "close", second]
    caches = [["model.json", "no-cache"], ["model?0123456789abcdef", None]]
    assert ended["requests"] == [*caches, ["sample.png", "no-cache"]]  # nothing of earlier exports


def test_it_starts_again_after_a_device_is_lost(tmp_path):
    ended = run_classifier(tmp_path, LATER_FAILS)
    statuses = ["rejected", "rejected"]
    assert ended["result"] == ["WebGPU", statuses, "WebAssembly", [0.25, 0.75]]
    assert ended["log"].count("close") == 2  # of the lost one and of the next try with WebGPU


@pytest.mark.parametrize(
    ("answer", "precision", "is_used"),
    [
        ("[0.2501, 0.7499]", "float32", True),
        ("[0.27, 0.73]", "float32", False),
        ("[0.27, 0.73]", "int8", True),
        ("[0.31, 0.69]", "int8", False),
        ("[NaN, 0.75]", "int8", False),
        ("[0.25]", "float32", False),
        ("[0.25, 0.75, 0]", "float32", False),
    ],
)
def test_it_uses_only_a_runtime_that_gives_the_probabilities(answer, precision, is_used, tmp_path):
    script = ANSWERS.replace("%s", answer)
    script = (
        f"try {{ return await (async () => {{ {script} }})() }} catch (e) {{ return e.message }}"
    )
    result = run_classifier(tmp_path, script, precision)["result"]
    assert (result == "WebGPU") if is_used else ("it gives other probabilities" in result)


def test_the_sample_image_is_made_of_noise():
    for side, channels in ((8, 1), (224, 3), (5, 3)):
        image = web.sample_image(side, channels)
        assert image.shape == (side, side, channels) and image.dtype == np.uint8
        np.testing.assert_array_equal(image, web.sample_image(side, channels))
        assert image.std() > 30


def test_what_the_page_calls_a_model():
    for path, name in (("models/pets", "pets"), ("models/pets/1", "pets"), ("/1", "1")):
        assert web.title(pathlib.Path(path)) == name


def test_the_page_requests_only_what_lies_beside_it():
    html = (web.PAGE / "index.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html).group(1)
    assert "default-src 'none'" in policy and "http" not in policy and "*" not in policy
    assert not re.search(r"<style|\sstyle=|\son\w+=", html)
    inline = re.findall(r"<script(?![^>]*src=)[^>]*>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(inline[0].encode()).digest()).decode()
    assert len(inline) == 1 and f"'sha256-{digest}'" in policy
    names = {path.name for path in FILES} | {"licenses.txt"}
    for target in re.findall(r'(?:src|href)="([^"#]+)"', html):
        assert target in names
    for path in [*OWN, *web.SHARED_FILES]:
        text = path.read_text()
        assert set(re.findall(r"(?:https?:)?//[\w-]+\.[\w.]+", text)) <= {"http://www.w3.org"}
        assert len(text.splitlines()) <= 400
        if path.suffix == ".js":
            assert all(target.startswith("./") for target in re.findall(IMPORTS, text)), path


@pytest.mark.parametrize("runtime", web.RUNTIMES)
def test_what_the_folder_contains(runtime, tmp_path):
    quality = {"metrics": {"accuracy": {"value": 0.875}}, "images": 8, "split": "test"}
    directory = write_bundle(tmp_path / "pets", quality=quality)
    manifest = read_manifest(directory)
    model = f"model.{web.RUNTIMES[runtime]}"
    (directory / model).write_bytes((directory / "model.onnx").read_bytes())
    run = open_bundle(directory).probabilities_and_embeddings
    given = web.Runtime(runtime, packages(runtime))
    web.write(directory, "pets", manifest, given, run)
    folder = directory / "web"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    own = {path.name for path in OWN} - {f"{name}.js" for name in web.RUNTIMES}
    own |= {f"{runtime}.js", model, "model.json", "sample.png", "licenses.txt"} | {
        path.name for path in web.SHARED_FILES
    }
    targets = [name for package in npm.pinned()[runtime] for name in package["files"].values()]
    assert files == own | {f"runtime/{name}" for name in targets}
    for path in folder.glob("*.js"):  # each module's imports are there
        for target in re.findall(IMPORTS, path.read_text()):
            assert "${" in target or (folder / target).is_file(), (path, target)
    about = json.loads((folder / "model.json").read_text())
    assert about["classes"] == [f"class {i}" for i in range(10)] and about["name"] == "pets"
    assert about["resize"] == RESIZE and (about["image_size"], about["channels"]) == (8, 1)
    assert about["accuracy"] == {"value": 0.875, "images": 8, "split": "test"}
    assert (about["runtime"], about["model"]) == (runtime, model)
    assert (about["precision"], about["seen"]) == ("float32", RESIZE["crop_fraction"])
    data = (folder / model).read_bytes()
    assert about["sha256"] == hashlib.sha256(data).hexdigest() and about["bytes"] == len(data)
    image = web.sample_image(8, 1)
    np.testing.assert_array_equal(decode(folder / "sample.png"), image)
    np.testing.assert_allclose(about["sample"]["probabilities"], run(image[None])[0][0])
    licenses = (folder / "licenses.txt").read_text()
    for package in npm.pinned()[runtime]:
        assert f"{package['name']} {package['version']}\n{package['copyright']}" in licenses
        assert package["notices"] in licenses
    assert "TERMS AND CONDITIONS FOR USE" in licenses
    assert ("Permission is hereby granted" in licenses) == (runtime == "onnxruntime")


@pytest.mark.parametrize("change", [{"precision": "int8"}, {"seen": 0.5}])
def test_an_accuracy_of_another_computation_is_left_out(change, tmp_path):
    quality = {"metrics": {"accuracy": {"value": 0.875}}, "images": 8, "split": "test"}
    quality |= {"precision": change.get("precision", "float32")}
    directory = write_bundle(tmp_path / "pets", quality=quality, seen=change.get("seen"))
    bundle = open_bundle(directory)
    given = web.Runtime("onnxruntime", packages("onnxruntime"))
    run = bundle.probabilities_and_embeddings
    web.write(directory, "pets", read_manifest(directory), given, run)
    about = json.loads((directory / "web" / "model.json").read_text())
    assert about["accuracy"] is None and about["precision"] == quality["precision"]
    assert about["seen"] == bundle.seen == change.get("seen", RESIZE["crop_fraction"])


def test_it_is_a_part_of_its_bundle(tiny_run, tmp_path, monkeypatch):
    """Written and replaced with it, and checked when the bundle is opened."""
    monkeypatch.setattr(npm, "fetch", lambda pinned, folder: packages("litert"))
    out = tmp_path / "digits"
    flags = [f"--workdir={tiny_run}", "--format=web", "--resize-inside=32", f"--out={out}"]
    cli.run(command.main, flags)
    manifest = read_manifest(out)
    assert manifest.model == "model.tflite" and "web/runtime/litert.js" in manifest.sha256
    assert (out / "web/model.tflite").read_bytes() == (out / "model.tflite").read_bytes()
    about = json.loads((out / "web" / "model.json").read_text())
    assert manifest.seen == about["seen"] == 1  # the run crops nothing
    assert (about["image_size"], about["name"]) == (32, "digits")
    assert tuple(about["classes"]) == open_bundle(out).classes
    page = (out / "web" / "page.js").read_text()
    (out / "web" / "page.js").write_text(page + "//")
    with pytest.raises(UserError, match=r"web/page\.js has changed since it was exported"):
        open_bundle(out)
    before = sorted(out.rglob("*"))

    def fail(*arguments):
        raise UserError("no package")

    monkeypatch.setattr(npm, "unpack", fail)
    with pytest.raises(UserError, match="no package"):
        command.main([f"--workdir={tiny_run}", "--format=web", f"--out={out}"])
    assert sorted(out.rglob("*")) == before and os.listdir(tmp_path) == ["digits"]


def test_mistakes(tiny_run, tmp_path):
    for flags, message in (
        (["--web-packages", str(tmp_path)], "--web-packages needs --format web"),
        (["--web-runtime=litert"], "--web-runtime needs --format web"),
        (["--format=web", "--web-runtime=litret"], "--web-runtime"),
        (["--format=web", "--batch=2"], "--format web takes one image at a time"),
        (["--format=web", "--web-packages", str(tmp_path)], "has no litertjs-core-"),
        (["--format=web,stablehlo", "--precision=int8"], "export stablehlo separately"),
    ):
        with pytest.raises(UserError, match=message):
            command.main([*flags, f"--workdir={tiny_run}", f"--out={tmp_path / 'out'}"])
        assert os.listdir(tmp_path) == []
    for bits in (0, 16):
        web.check_bits(bits)
    with pytest.raises(UserError, match=r"trained on the upper 8 of 12 \(data\.bits\)"):
        web.check_bits(12)


def test_missing_packages_are_those_of_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "is_missing", lambda name: True)
    for formats, name in (("web", "web"), ("web,tflite", "tflite")):
        with pytest.raises(UserError, match=f"--format {name} needs ai-edge-litert"):
            command.main([f"--format={formats}", "--workdir=x", f"--out={tmp_path}"])


def test_options():
    with pytest.raises(UserError, match="only for --format onnx, tflite, coreml, web: export"):
        ExportOptions(("saved_model",), "int8")
    assert ExportOptions(("web",)).formats == ("tflite", "web")
    options = ExportOptions(("web", "safetensors"), "float32", web_runtime="onnxruntime")
    assert options.formats == ("onnx", "safetensors", "web")
    assert ExportOptions(("web",), "int8").precision == "int8"
