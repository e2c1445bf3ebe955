"""A bundle: a directory that holds all it takes to classify images without JAX.

model.onnx    takes uint8 pixels (B, image_size, image_size, channels), RGB or gray, and returns `probabilities`,
              float (B, C), and `embedding`, float (B, D). Normalization is part of it. Or model.tflite, the same
              with a fixed B
bundle.json   what there is to know of it: see `write_manifest`
"""

import hashlib
import json
import os
import pathlib
import threading
from typing import NamedTuple

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


class Model(NamedTuple):
    """A model's file, opened in its runtime.

    Attributes:
        inputs: of each (dtype's name, shape without the batch).
        outputs: their names.
        run: `run(images) -> (probabilities (B, C), embedding (B, D))`, float32, of any number of uint8 images (B, H, W,
            channels); threads may share it.
    """

    inputs: list
    outputs: list
    run: callable


class Bundle:
    """The model of a bundle, run on all cores; stands wherever a `vision.inference.Classifier` does.

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

    def __init__(self, manifest, run):
        self.classes = tuple(manifest["classes"])
        self.image_size, self.channels = manifest["image_size"], manifest["channels"]
        self.quality, self.reference = manifest["quality"], manifest["reference"]
        self.config = from_dict(manifest["config"] or {"data": {"source": ""}})
        self._resize, self._run = manifest["resize"], run

    def prepare(self, image):
        """Returns an image, uint8 (H, W, 1 or 3) of any size, as the model takes it: uint8 (size, size, channels)."""
        return resize_crop(to_channels(image, self.channels), self.image_size, **self._resize)

    def probabilities_and_embeddings(self, images):
        """Returns (probabilities (B, C), embeddings (B, D)), float32, of uint8 images (B, H, W, channels)."""
        return self._run(np.asarray(images))

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
            does not do what bundle.json says; or its runtime is not installed.
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
    model = open_model(path)
    _check_signature(model, path, manifest)
    try:
        bundle = Bundle(manifest, model.run)
    except (TypeError, ValueError, AttributeError) as error:  # a key of the config has changed its type
        raise UserError(f"{directory / MANIFEST}: its config cannot be read: {AGAIN}") from error
    _check_outputs(bundle, path)
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


def open_model(path):
    """Returns the `Model` in a file, .onnx or .tflite; raises `UserError` where it or its runtime cannot be loaded."""
    path = pathlib.Path(path)
    if path.suffix not in RUNTIMES:
        raise UserError(f"{path} cannot be run: a bundle's model is {' or '.join(RUNTIMES)}. Export to ONNX")
    return RUNTIMES[path.suffix](path)


def _open_onnx(path):
    """Opens it in ONNX Runtime."""
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
        raise _damaged(path, error) from error
    inputs, outputs = session.get_inputs(), [output.name for output in session.get_outputs()]
    batch = inputs[0].shape[0] if inputs and inputs[0].shape else None  # a number, or a name where any number goes
    run = batched(lambda images: session.run(OUTPUTS, {inputs[0].name: images}), batch if isinstance(batch, int) else 0)
    return Model([(i.type.removeprefix("tensor(").rstrip(")"), i.shape[1:]) for i in inputs], outputs, run)


def _open_tflite(path):
    """Opens it in LiteRT."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise UserError(f"{path} needs LiteRT: pip install ai-edge-litert") from error
    try:
        interpreter = Interpreter(str(path), num_threads=cores())
        interpreter.allocate_tensors()
        signature = interpreter.get_signature_runner()
    except (ValueError, RuntimeError) as error:
        raise _damaged(path, error) from error
    inputs, lock = signature.get_input_details(), threading.Lock()  # an interpreter is one buffer for each tensor

    def run(images):
        with lock:
            found = signature(**{next(iter(inputs)): images})
        return [found[name] for name in OUTPUTS]

    shapes = [(np.dtype(i["dtype"]).name, i["shape"].tolist()) for i in inputs.values()]
    known = [(name, shape[1:]) for name, shape in shapes]
    return Model(known, list(signature.get_output_details()), batched(run, shapes[0][1][0]))


RUNTIMES = {".onnx": _open_onnx, ".tflite": _open_tflite}


def _damaged(path, error):
    return UserError(f"{path} cannot be loaded, {AGAIN}:\n{(str(error).splitlines() or [type(error).__name__])[0]}")


def batched(run, size):
    """Returns a function that calls `run(images) -> arrays` with `size` images at a time, the last ones filled up.

    It then returns a tuple of arrays with as many rows as there were images. `size` 0 = all at once.
    """
    if not size:
        return lambda images: tuple(run(images))

    def run_all(images):
        found = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            padded = np.concatenate([part, np.repeat(part[:1], size - len(part), axis=0)])
            found.append([array[: len(part)] for array in run(padded)])
        return tuple(np.concatenate(arrays) for arrays in zip(*found, strict=True))

    return run_all


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
        raise UserError(f"{path} does not give probabilities, which sum to 1, and an embedding an image: {AGAIN}")


def _sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
