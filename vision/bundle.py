"""A bundle: a directory that holds all it takes to classify images without JAX.

model.onnx    takes uint8 pixels (B, image_size, image_size, channels), RGB or gray, and returns `probabilities`,
              float (B, C), and `embedding`, float (B, D). Normalization is part of it
bundle.json   what there is to know of it: see `write_manifest`
"""

import hashlib
import json
import os
import pathlib

import numpy as np

from vision import __version__
from vision.cli import from_dict
from vision.data.decode import INTERPOLATIONS, resize_crop, to_channels
from vision.data.processes import cores
from vision.errors import UserError
from vision.files import write_json

MANIFEST = "bundle.json"
FORMAT = 1
AGAIN = "export it again"
OUTPUTS = ["probabilities", "embedding"]


class Bundle:
    """The model of a bundle, run by ONNX Runtime on all cores; stands wherever a `vision.inference.Classifier` does.

    Attributes:
        classes: names, in the order of the probabilities.
        image_size, channels: of the images that it takes.
        config: the `ConfigDict` of its training; where the exporter had none, the defaults without a data.source.
        quality: what was measured when it was exported; None where nothing was.
        reference: statistics of the training data, for drift; None where there are none.
        model: None: there are no parameters to look into.
        temperature: 1: the probabilities are final.
    """

    model, temperature = None, 1.0

    def __init__(self, manifest, session):
        self.classes = tuple(manifest["classes"])
        self.image_size, self.channels = manifest["image_size"], manifest["channels"]
        self.quality, self.reference = manifest["quality"], manifest["reference"]
        self.config = from_dict(manifest["config"] or {"data": {"source": ""}})
        self._resize = manifest["resize"]
        self._session, self._input = session, session.get_inputs()[0].name
        batch = session.get_inputs()[0].shape[0]
        self._batch = batch if isinstance(batch, int) else None  # else it is a name, and any number goes

    def prepare(self, image):
        """Returns an image, uint8 (H, W, 1 or 3) of any size, as the model takes it: uint8 (size, size, channels)."""
        return resize_crop(to_channels(image, self.channels), self.image_size, **self._resize)

    def probabilities_and_embeddings(self, images):
        """Returns (probabilities (B, C), embeddings (B, D)), float32, of uint8 images (B, H, W, channels)."""
        images = np.asarray(images)
        if self._batch is None:
            return tuple(self._session.run(OUTPUTS, {self._input: images}))
        found = []
        for start in range(0, len(images), self._batch):
            part = images[start : start + self._batch]
            padded = np.concatenate([part, np.repeat(part[:1], self._batch - len(part), axis=0)])
            found.append([array[: len(part)] for array in self._session.run(OUTPUTS, {self._input: padded})])
        return tuple(np.concatenate(arrays) for arrays in zip(*found, strict=True))

    def __call__(self, images):
        """Returns (logits (B, C), embeddings (B, D)), float32, of uint8 images (B, H, W, channels).

        The logits are the logarithms of the probabilities; of one that is 0, that of the smallest normal float32.
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
    version=__version__,
):
    """Writes a bundle's `bundle.json`, with the SHA-256 of every other file that the directory holds by then.

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
        "sha256": {path.relative_to(directory).as_posix(): _sha256(path) for path in files},
    }
    write_json(directory / MANIFEST, manifest)


def open_bundle(directory):
    """Returns the `Bundle` in a directory, once it is sure that nothing of it is missing or has changed.

    Raises:
        UserError: there is none; its format is newer; a file is missing, or is not the one that was exported; the model
            does not do what bundle.json says; or ONNX Runtime is not installed.
    """
    directory = pathlib.Path(directory)
    manifest = _read(directory)
    for name, digest in manifest["sha256"].items():
        path = directory / name
        if not path.is_file():
            raise UserError(f"{path} is missing from its bundle: {AGAIN}")
        if _sha256(path) != digest:
            raise UserError(f"{path} has changed since it was exported: {AGAIN}")
    session = _session(directory / manifest["model"], manifest)
    try:
        bundle = Bundle(manifest, session)
    except (TypeError, ValueError, AttributeError) as error:  # a key of the config has changed its type
        raise UserError(f"{directory / MANIFEST}: its config cannot be read: {AGAIN}") from error
    _check_outputs(bundle, directory / manifest["model"])
    return bundle


def _read(directory):
    """Returns the dict of a bundle.json in which every key is there and has its kind."""
    file = directory / MANIFEST
    if not directory.is_dir():
        raise UserError(f"there is no bundle {directory}")
    if not file.is_file():
        raise UserError(f"{directory} is no bundle: it has no {MANIFEST}. Give what an export has written")
    try:
        manifest = json.loads(file.read_text("utf-8"))
        number = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged: {AGAIN}") from error
    if number != FORMAT:
        raise UserError(f"{directory} is a bundle of format {number}, this version reads {FORMAT}: {AGAIN}, or update")
    wrong = [key for key, is_valid in VALID.items() if key not in manifest or not is_valid(manifest[key])]
    if wrong or manifest["model"] not in manifest["sha256"]:
        raise UserError(f"{file} is damaged, its {(wrong or ['sha256'])[0]!r} is not valid: {AGAIN}")
    return manifest


def _is_resize(value):
    if not isinstance(value, dict) or value.keys() != {"crop_fraction", "interpolation"}:
        return False
    fraction = value["crop_fraction"]
    return isinstance(fraction, int | float) and 0 < fraction <= 1 and value["interpolation"] in INTERPOLATIONS


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


def _session(path, manifest):
    """Returns the model's `onnxruntime.InferenceSession`, whose inputs and outputs are as `manifest` says."""
    if path.suffix != ".onnx":
        raise UserError(f"{path} cannot be run: of a bundle's models, only .onnx can be. Export to ONNX")
    try:
        import onnxruntime
    except ImportError as error:
        raise UserError("a bundle needs ONNX Runtime: pip install 'vision[serving]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common type
        raise UserError(f"{path} cannot be loaded, {AGAIN}:\n{str(error).splitlines()[0]}") from error
    inputs = [(i.type, i.shape[1:]) for i in session.get_inputs()]
    side = manifest["image_size"]
    if inputs != [("tensor(uint8)", [side, side, manifest["channels"]])]:
        raise UserError(
            f"{path} takes {inputs}, but {MANIFEST} says uint8 images of {side}x{side}x{manifest['channels']}: {AGAIN}"
        )
    missing = [name for name in OUTPUTS if name not in [output.name for output in session.get_outputs()]]
    if missing:
        raise UserError(f"{path} has no output '{missing[0]}': {AGAIN}")
    return session


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
        raise UserError(f"{path} does not give probabilities, which sum to 1, and an embedding an image: {AGAIN}")


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
