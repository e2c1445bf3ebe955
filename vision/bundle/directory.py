"""A bundle: a directory that holds all it takes to classify images without JAX.

model.onnx    takes uint8 pixels (B, image_size, image_size, channels), RGB or gray, and returns
              `probabilities`, float (B, C), and `embedding`, float (B, D). Normalization is part of
              it. Or model.tflite, the same with a fixed B. model.onnx may return `heatmap`, float
              (B, h, w) in [0, 1], too
bundle.json   what there is to know of it: see `write_manifest`
sample.png    an image of the size that the model takes. What the model said of it is in
              bundle.json, so that whoever opens the bundle can see whether it still does. Bundles
              whose export had no images are without
"""

import hashlib
import json
import os
import pathlib

import cv2
import numpy as np

from vision import __version__
from vision.bundle.runtimes import AGAIN, OUTPUTS, open_model
from vision.config.load import from_dict
from vision.data.decode import INTERPOLATIONS, UnreadableImage, decode, resize_crop, to_channels
from vision.errors import UserError
from vision.support.files import write_json

MANIFEST = "bundle.json"
FORMAT = 1
SAMPLE = "sample.png"
MOVED = 0.05  # by how much another CPU or provider may move a probability
TIE = 0.02  # how near two of them are where it may turn their order


class Bundle:
    """The model of a bundle, run on all cores; stands wherever a `vision.inference.Classifier`
    does.

    Attributes:
        classes: names, in the order of the probabilities.
        file: name of the model's file, which tells its runtime.
        image_size, channels: of the images that it takes.
        resize: {"crop_fraction", "interpolation"}, what `prepare` does to images.
        config: the `ConfigDict` of its training; where the exporter had none, the defaults without
            a data.source.
        quality: what was measured when it was exported; None where nothing was.
        reference: statistics of the training data, for drift; None where there are none.
        model: None: there are no parameters to look into.
        temperature: 1: the probabilities are final.
        explain: `explain(images) -> (probabilities, embeddings, heat maps)`: as
            `probabilities_and_embeddings`, and of each image where its most probable class is seen,
            float32 (B, h, w) in [0, 1]; None where there are none.
    """

    model = None
    temperature = 1.0

    def __init__(self, manifest, run, explain=None):
        self.classes = tuple(manifest["classes"])
        self.file = manifest["model"]
        self.image_size = manifest["image_size"]
        self.channels = manifest["channels"]
        self.quality = manifest["quality"]
        self.reference = manifest["reference"]
        self.config = from_dict(manifest["config"] or {"data": {"source": ""}})
        self.resize = manifest["resize"]
        self._run = run
        self.explain = explain

    def prepare(self, image):
        """Returns an image, uint8 (H, W, 1 or 3) of any size, as the model takes it: uint8 (size,
        size, channels)."""
        return resize_crop(to_channels(image, self.channels), self.image_size, **self.resize)

    def probabilities_and_embeddings(self, images):
        """Returns (probabilities (B, C), embeddings (B, D)), float32, of uint8 images (B, H, W,
        channels)."""
        return self._run(np.asarray(images))

    def __call__(self, images):
        """Returns (logits (B, C), embeddings (B, D)), float32, of uint8 images (B, H, W, channels).

        The logits are the logarithms of the probabilities; of one that is 0, that of the smallest
        normal float32.
        """
        probabilities, embeddings = self.probabilities_and_embeddings(images)
        return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)), embeddings


def write_manifest(
    directory,
    *,
    classes,
    image_size,
    channels,
    resize,
    model="model.onnx",
    quality=None,
    reference=None,
    config=None,
    sample=None,
    version=__version__,
):
    """Writes a bundle's `bundle.json`, with the SHA-256 of every other file that the directory
    holds by then.

    Args:
        directory: of the bundle.
        classes: names, in the order of the probabilities.
        image_size: side of the images, pixels.
        channels: of the images, 1 or 3.
        resize: {"crop_fraction", "interpolation"}, as `vision.data.decode.resize_crop` takes them.
        model: name of the model's file in the directory.
        quality: what was measured of it, a dict.
        reference: statistics of the training data, for drift, a dict.
        config: of its training, a dict.
        sample: an image of the directory and what the model says of it, as `write_sample` returns
            it.
        version: of what exported it.

    Raises:
        UserError: the model's file is not there.
    """
    directory = pathlib.Path(directory)
    if not (directory / model).is_file():
        raise UserError(f"{directory} holds no {model}: export the model first")
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p != directory / MANIFEST)
    manifest = {
        "format": FORMAT,
        "version": version,
        "model": model,
        "classes": list(classes),
        "image_size": image_size,
        "channels": channels,
        "resize": dict(resize),
        "quality": quality,
        "reference": reference,
        "config": config,
        "sample": sample,
        "sha256": {path.relative_to(directory).as_posix(): _sha256(path) for path in files},
    }
    write_json(directory / MANIFEST, manifest)


def write_sample(directory, image, run):
    """Writes an image into a bundle's directory, before its `bundle.json`.

    Args:
        directory: of the bundle.
        image: uint8 (image_size, image_size, channels), as the model takes it.
        run: `run(images) -> (probabilities (B, C), embedding)`, the model.

    Returns:
        {"file": its name, "probabilities": a list of the C that the model gives it}.
    """
    pixels = image if image.shape[-1] == 1 else image[..., ::-1]  # cv2 has blue first
    pathlib.Path(directory, SAMPLE).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return {"file": SAMPLE, "probabilities": run(image[None])[0][0].astype(float).tolist()}


def open_bundle(directory, threads=0, provider="cpu"):
    """Returns the `Bundle` in a directory, once it is sure that nothing of it is missing or has
    changed.

    Args:
        directory: of the bundle.
        threads, provider: as `open_model` takes them.

    Raises:
        UserError: there is none; its format is newer; a file is missing, or is not the one that was
            exported; the model does not do what bundle.json says, or says something else of the
            sample image than when it was exported; or its runtime is not installed.
    """
    directory = pathlib.Path(directory)
    manifest = _read(directory)
    for name, digest in manifest["sha256"].items():
        path = directory / name
        if not path.is_file():
            raise UserError(f"{path} is missing from its bundle: {AGAIN}")
        if _sha256(path) != digest:
            raise UserError(f"{path} has changed since it was exported: {AGAIN}")
    path = directory / manifest["model"]
    model = open_model(path, threads, provider)
    _check_signature(model, path, manifest)
    try:
        bundle = Bundle(manifest, model.run, model.explain)
    # a key of the config has changed its type
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{directory / MANIFEST}: its config cannot be read: {AGAIN}") from error
    _check_outputs(bundle, path)
    if manifest.get("sample"):
        _check_sample(bundle, directory, manifest["sample"])
    return bundle


def _read(directory):
    """Returns the dict of a bundle.json in which every key is there and has its kind."""
    file = directory / MANIFEST
    if not directory.is_dir():
        raise UserError(f"there is no bundle {directory}")
    if not file.is_file():
        raise UserError(
            f"{directory} is no bundle: it has no {MANIFEST}. Give what an export has written"
        )
    try:
        manifest = json.loads(file.read_text("utf-8"))
        number = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged: {AGAIN}") from error
    if number != FORMAT:
        raise UserError(
            f"{directory} is a bundle of format {number}, this version reads {FORMAT}: {AGAIN}, or update"
        )
    wrong = [
        key for key, is_valid in VALID.items() if key not in manifest or not is_valid(manifest[key])
    ]
    if not wrong and not _is_sample(manifest.get("sample"), manifest):
        wrong = ["sample"]
    if wrong or manifest["model"] not in manifest["sha256"]:
        raise UserError(
            f"{file} is damaged, its {(wrong or ['sha256'])[0]!r} is not valid: {AGAIN}"
        )
    return manifest


def _is_sample(value, manifest):
    """Whether it is none, as of bundles before there were any, or a file of the bundle with a
    number for each class."""
    if value is None:
        return True
    if not isinstance(value, dict) or value.keys() != {"file", "probabilities"}:
        return False
    numbers = value["probabilities"]
    if not isinstance(numbers, list) or not all(isinstance(n, int | float) for n in numbers):
        return False
    return value["file"] in list(manifest["sha256"]) and len(numbers) == len(manifest["classes"])


def _is_resize(value):
    if not isinstance(value, dict) or value.keys() != {"crop_fraction", "interpolation"}:
        return False
    fraction = value["crop_fraction"]
    return (
        isinstance(fraction, int | float)
        and 0 < fraction <= 1
        and value["interpolation"] in INTERPOLATIONS
    )


def _is_digests(value):
    """Whether it maps files inside the bundle to texts."""
    return isinstance(value, dict) and not any(
        os.path.isabs(name) or ".." in pathlib.PurePosixPath(name).parts for name in value
    )


def _is_dict_or_none(value):
    return value is None or isinstance(value, dict)


VALID = {
    "model": lambda v: isinstance(v, str),
    "classes": lambda v: isinstance(v, list) and v and all(isinstance(name, str) for name in v),
    "image_size": lambda v: type(v) is int and v > 0,
    "channels": lambda v: v in (1, 3),
    "resize": _is_resize,
    "quality": _is_dict_or_none,
    "reference": _is_dict_or_none,
    "config": _is_dict_or_none,
    "sha256": _is_digests,
}


def _check_signature(model, path, manifest):
    """Raises `UserError` unless a model's inputs and outputs are as its manifest says."""
    side = manifest["image_size"]
    if model.inputs != [("uint8", [side, side, manifest["channels"]])]:
        raise UserError(
            f"{path} takes {model.inputs}, but {MANIFEST} says uint8 images of "
            f"{side}x{side}x{manifest['channels']}: {AGAIN}"
        )
    missing = [name for name in OUTPUTS if name not in model.outputs]
    if missing:
        raise UserError(f"{path} has no output '{missing[0]}': {AGAIN}")


def _check_outputs(bundle, path):
    """Runs the model once, on a black image: a graph need not say what shapes come out of it."""
    image = np.zeros((1, bundle.image_size, bundle.image_size, bundle.channels), np.uint8)
    try:
        probabilities, embeddings = bundle.probabilities_and_embeddings(image)
    except Exception as error:  # its exceptions have no common type
        raise UserError(f"{path} cannot be run, {AGAIN}:\n{str(error).splitlines()[0]}") from error
    if probabilities.shape != (1, len(bundle.classes)):
        raise UserError(
            f"{path} gives {probabilities.shape[-1]} probabilities an image, but {MANIFEST} names "
            f"{len(bundle.classes)} classes: {AGAIN}"
        )
    if not abs(probabilities.sum() - 1) < 1e-2 or embeddings.ndim != 2 or len(embeddings) != 1:
        raise UserError(
            f"{path} does not give probabilities, which sum to 1, and an embedding an image: {AGAIN}"
        )
    if bundle.explain is not None:
        heat = bundle.explain(image)[2]
        if (
            heat.ndim != 3
            or len(heat) != 1
            or not heat.size
            or not (heat >= 0).all()
            or not (heat <= 1).all()
        ):
            raise UserError(
                f"{path} does not give a heat map an image, with numbers from 0 to 1: {AGAIN}"
            )


def _check_sample(bundle, directory, sample):
    """Raises `UserError` where the model says something else of its sample image than when it was
    exported."""
    path = directory / sample["file"]
    try:
        image = bundle.prepare(decode(path))
    except UnreadableImage as error:
        raise UserError(f"{error}: {AGAIN}") from error
    found = bundle.probabilities_and_embeddings(image[None])[0][0].astype(np.float64)
    expected = np.array(sample["probabilities"], np.float64)
    moved = np.abs(found - expected).max()
    if not moved <= MOVED or expected.max() - expected[found.argmax()] > TIE:
        raise UserError(
            f"{directory} fails its self-test: of {sample['file']} it says {bundle.classes[found.argmax()]!r}, "
            f"{found.max():.3f}, and said {bundle.classes[expected.argmax()]!r}, {expected.max():.3f}, when it was "
            f"exported (a probability moved by {moved:.3f}): {AGAIN}, or another CPU or provider computes otherwise"
        )


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
