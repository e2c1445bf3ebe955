"""A page that classifies images in the browser: a folder that any static web server can host.

index.html    the page, in the look of the server's (`vision/serving/page`), from which it takes
              page.css, icon.svg, show.js and take.js, and with it and the reports base.css and
              zoom.js (`vision/support`). Nothing is requested from another host.
model.json    the classes, how an image is resized, and which runtime runs the model.
model.tflite  the bundle's model for LiteRT.js; or model.onnx for ONNX Runtime Web.
sample.png    an image of the model's size, made of noise: the page uses a way to run the model
              only if it gives the probabilities for it that are in model.json.
runtime/      the runtime's own files, of its npm packages.
licenses.txt  what the folder contains, and its licenses.
"""

import dataclasses
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from vision.bundle.directory import Manifest, write_sample
from vision.errors import UserError
from vision.export import npm
from vision.support.digest import sha256
from vision.support.directories import files_in
from vision.support.files import write_json
from vision.support.page import BASE_STYLE, ZOOM_SCRIPT
from vision.support.reading import read_json
from vision.support.schema import FILE_NAME
from vision.version import __version__

FOLDER = "web"
DESCRIPTION = "model.json"
# the format of the model's file by its runtime; the first is the default
RUNTIMES = {"litert": "tflite", "onnxruntime": "onnx"}
PAGE = pathlib.Path(__file__).with_name("web_page")
LICENSES = PAGE / "licenses"
# of the server's page, which has the same look and takes images in the same ways, and of all pages
SERVER = pathlib.Path(__file__).parents[1] / "serving" / "page"
SHARED_FILES = (
    *(SERVER / name for name in ("page.css", "icon.svg", "show.js", "take.js")),
    BASE_STYLE,
    ZOOM_SCRIPT,
)
# parts of the names of LiteRT.js's other variants: for threads, for WebGPU, for old browsers
OTHER_VARIANTS = ("_threaded_", "_jspi_", "_compat_")
LICENSES_FILE = "licenses.txt"
PATCHES = 8  # in each direction, of a sample image


@dataclasses.dataclass(frozen=True)
class Runtime:
    """A runtime for the browser.

    Attributes:
        name: one of `RUNTIMES`.
        tarballs: the npm packages of it, in the order of `vision.export.npm.pinned`.
    """

    name: str
    tarballs: list[bytes]


def fetch(name: str, folder: str = "") -> Runtime:
    """Returns a runtime for the browser; its packages are downloaded if they have not been before.

    Args:
        name: one of `RUNTIMES`.
        folder: a folder with the tarballs of its npm packages; "" to download them.

    Raises:
        UserError, RunError: a package cannot be downloaded or read; the message has a command
            that helps.
    """
    return Runtime(name, npm.fetch(npm.pinned()[name], folder))


def check_bits(bits: int) -> None:
    """Raises `UserError` if a browser decodes 16-bit images differently from the training.

    Args:
        bits: the config's data.bits.
    """
    if bits not in (0, 16):
        raise UserError(
            f"--format web: browsers show the upper 8 bits of 16-bit images, and this model was "
            f"trained on the upper 8 of {bits} (data.bits): leave out web"
        )


def sample_image(side: int, channels: int) -> np.ndarray:
    """Returns an image for the self-test, uint8 (side, side, channels): smooth noise.

    It is always the same. An image of the training data would be published with the page.
    """
    patches = np.random.default_rng(0).uniform(0, 255, (PATCHES, PATCHES, channels))
    smooth = cv2.resize(patches, (side, side), interpolation=cv2.INTER_CUBIC)
    return smooth.reshape(side, side, channels).round().clip(0, 255).astype(np.uint8)


def title(out: pathlib.Path) -> str:
    """Returns what the page calls a model: its folder's name, or if that is a version the next."""
    return out.parent.name if out.name.isdecimal() and out.parent.name else out.name


def write(
    directory: pathlib.Path,
    name: str,
    manifest: Manifest,
    runtime: Runtime,
    run: Callable,
) -> None:
    """Writes the folder `FOLDER` into a bundle's directory, before its bundle.json.

    Args:
        directory: the bundle's directory, which has the model's file.
        name: what the page calls the model.
        manifest: of the bundle.
        runtime: what runs the model.
        run: `run(images) -> (probabilities, embeddings)` of the model's file.
    """
    model = f"model.{RUNTIMES[runtime.name]}"
    folder = directory / FOLDER
    folder.mkdir()
    for file in PAGE.iterdir():
        is_other_runtime = file.stem in RUNTIMES and file.stem != runtime.name
        if file.is_file() and not is_other_runtime:
            shutil.copyfile(file, folder / file.name)
    for file in SHARED_FILES:
        shutil.copyfile(file, folder / file.name)
    shutil.copyfile(directory / model, folder / model)
    packages = npm.pinned()[runtime.name]
    for package, tarball in zip(packages, runtime.tarballs, strict=True):
        npm.unpack(tarball, package, folder / "runtime")
    (folder / LICENSES_FILE).write_text(_licenses(packages))
    image = sample_image(manifest.image_size, manifest.channels)
    quality = manifest.quality or {}
    precision = quality.get("precision", "float32")
    # otherwise it was measured on another computation than the page's
    is_measured = precision == "float32" and manifest.seen is None
    contents = {
        "name": name,
        "classes": list(manifest.classes),
        "image_size": manifest.image_size,
        "channels": manifest.channels,
        "resize": dict(manifest.resize),
        "seen": manifest.seen or manifest.resize["crop_fraction"],
        "precision": precision,
        "accuracy": _accuracy(quality) if is_measured else None,
        "runtime": runtime.name,
        "model": model,
        "bytes": (folder / model).stat().st_size,
        "sha256": sha256(folder / model),
        "sample": write_sample(folder, image, run),
    }
    write_json(folder / DESCRIPTION, contents)


def loaded_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the files of a folder `FOLDER` that a visitor's browser loads.

    That is the page, the model and the runtime in its variant for WebAssembly with one thread, of
    which there is a counterpart for threads, for WebGPU and for old browsers.
    """
    return [
        path
        for path in files_in(folder)
        if path.name != LICENSES_FILE and not any(part in path.name for part in OTHER_VARIANTS)
    ]


def model_name(folder: pathlib.Path) -> str:
    """Returns the name of the model's file in a folder `FOLDER`.

    Raises:
        UserError: its model.json cannot be read.
    """
    return read_json(folder / DESCRIPTION, {"model": FILE_NAME})["model"]


def _accuracy(quality: dict[str, Any]) -> dict[str, Any] | None:
    """Returns {"value", "images", "split"} of a measured accuracy; None if it was not measured."""
    value = quality.get("metrics", {}).get("accuracy", {}).get("value")
    if value is None:
        return None
    return {"value": value, "images": quality["images"], "split": quality["split"]}


def _licenses(packages):
    """Returns the text of licenses.txt."""
    ours = {
        "name": "The page",
        "version": __version__,
        "copyright": "The authors of the exporter",
        "license": "Apache-2.0",
    }
    parts = ["What this folder contains. The model belongs to the people who trained it.\n"]
    for package in (ours, *packages):
        lines = [f"{package['name']} {package['version']}", package["copyright"]]
        lines.append(f"License: {package['license']}")
        if "source" in package:
            lines.append(f"Source: {package['source']}")
            lines.append(f"Libraries compiled into it: {package['notices']}")
        parts.append("\n".join(lines) + "\n")
    for name in dict.fromkeys(package["license"] for package in (ours, *packages)):
        parts.append(f"{'-' * 80}\n{name}\n\n{(LICENSES / f'{name}.txt').read_text()}")
    return "\n".join(parts)
