"""A bundle: a directory with everything needed to classify images without JAX.

model.onnx    takes uint8 pixels (B, image_size, image_size, channels), RGB or gray, and returns
              `probabilities`, float (B, C), and `embedding`, float (B, D). Normalization is part of
              the model. May also return `heatmap`, float (B, h, w) in [0, 1]. Alternatively
              model.tflite, the same with a fixed B. A model of more than images has further
              inputs, see `vision.data.fields`, and tokenizer.json if it reads texts.
bundle.json   a description of the bundle: see `Manifest`.
sample.png    an image of the model's input size. The probabilities that the model gave for it are
              in bundle.json, so that opening the bundle can verify that it still gives them.
              Missing from bundles that were exported without images.
splits.csv.gz the names of the images of each split of the training data, so that whatever evaluates
              or calibrates the bundle on its own data uses exactly those. Optional.
"""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from ml_collections import ConfigDict

from vision.bundle import encoder
from vision.bundle.checks import MANIFEST, check_outputs, check_signature
from vision.bundle.runtimes import EXPORT_AGAIN, open_model
from vision.config.load import from_dict
from vision.data import inputs
from vision.data.decode import INTERPOLATIONS, UnreadableImage, decode, prepare
from vision.data.division import DIGESTS, FILE, write_division
from vision.data.fields import FieldEncoder
from vision.data.recall import Past
from vision.errors import UserError, shown
from vision.reference.unsure import Evidence, parse_evidence
from vision.support.digest import sha256
from vision.support.files import write_json
from vision.support.reading import read_json
from vision.support.schema import SIDE, among, check, damaged, filled, numbers_within
from vision.version import __version__

FORMAT = 1
SAMPLE = "sample.png"
MAX_SHIFT = 0.05  # how far another CPU or provider may shift a probability
TIE_MARGIN = 0.02  # two probabilities closer than this may swap their order there
SCHEMA: dict[str, Any] = {
    "model": str,
    "classes": filled(str),
    "image_size": SIDE,
    "channels": among(1, 3),
    "resize": {
        "crop_fraction": numbers_within(1e-3, 1),
        "interpolation": among(*INTERPOLATIONS),
    },
    "quality": (dict, None),
    "reference": (dict, None),
    "config": (dict, None),
    "sha256": {str: str},
    "version?": str,
    "sample?": ({"file": str, "probabilities": [float], "inputs?": ({str: list}, None)}, None),
    "splits?": (DIGESTS, None),
    "inputs?": (encoder.SCHEMA, None),
    "seen?": (numbers_within(1e-3, 1), None),
    "unsure?": (dict, None),
}


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The contents of a bundle.json.

    Attributes:
        classes: names, in the order of the probabilities.
        image_size: side of the images, pixels.
        channels: channels of the images, 1 or 3.
        resize: {"crop_fraction", "interpolation"}, as `vision.data.decode.resize_crop` takes them.
        model: name of the model's file in the directory.
        quality: the model's measured quality; None if nothing was measured.
        reference: statistics of the training data, for drift; None if there are none.
        config: the config of its training, as a dict; None if unknown.
        sample: a sample image and the probabilities of it, as `write_sample` returns them; None if
            there is none.
        splits: {split: {"images", "sha256"}} of its splits.csv.gz, as `write_splits` returns them;
            None if there is none.
        inputs: what the model takes beside images, as `vision.bundle.encoder.write_encoder` returns
            it; None for images alone.
        seen: the part of the shorter side that the model sees, if its graph crops further than
            `resize`; None otherwise.
        unsure: what validation images say about unsure answers, as
            `vision.reference.unsure.Evidence` has it; None if nothing was measured.
        version: version of the exporter.
        sha256: SHA-256 of every other file of the directory, by name; set by `write_manifest`.
    """

    classes: Sequence[str]
    image_size: int
    channels: int
    resize: dict[str, Any]
    model: str = "model.onnx"
    quality: dict[str, Any] | None = None
    reference: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    sample: dict[str, Any] | None = None
    splits: dict[str, Any] | None = None
    inputs: dict[str, Any] | None = None
    seen: float | None = None
    unsure: Mapping[str, Any] | None = None
    version: str = __version__
    sha256: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the model's file; "" if unknown."""
        return self.sha256.get(self.model, "")[:16]


class Bundle:
    """A bundle's model, run on all cores; usable wherever a `vision.inference.Classifier` is.

    Attributes:
        classes: names, in the order of the probabilities.
        file: name of the model's file, whose suffix determines the runtime.
        image_size, channels: size and channels of the input images.
        bits: significant bits of 16-bit images, as `vision.data.decode.decode` takes them.
        resize: {"crop_fraction", "interpolation"}, how `prepare` resizes images.
        seen: the part of an image's shorter side that the model sees.
        config: the `ConfigDict` of its training; if the exporter had none, the defaults without a
            data.source.
        quality: measurements made at export; None if there are none.
        reference: statistics of the training data, for drift; None if there are none.
        fingerprint: the first 16 hexadecimal digits of the SHA-256 of the model's file, by which
            the prediction log names it; "" if that is unknown.
        past: the division of its training data into splits; None if it has no list of them.
        evidence: what validation images say about unsure answers; None if nothing was measured.
        written: when its bundle.json was written, seconds since the epoch; 0 if unknown.
        encoder: makes the fields that a batch has beside its images; None for images alone.
        fields: names of these fields.
        model: None: there are no parameters to inspect.
        temperature: 1: the probabilities are final.
        explain: `explain(images) -> (probabilities, embeddings, heat maps)`: as
            `probabilities_and_embeddings`, and for each image a map of where its most probable
            class is seen, float32 (B, h, w) in [0, 1]; None if the model has no heat maps.
    """

    model: None = None
    temperature: float = 1.0

    def __init__(
        self,
        manifest: Manifest,
        run: Callable,
        explain: Callable | None = None,
        encoder: FieldEncoder | None = None,
    ):
        self.encoder = encoder
        self.fields: tuple[str, ...] = tuple(encoder.signature) if encoder else ()
        self.classes = tuple(manifest.classes)
        self.file = manifest.model
        self.image_size = manifest.image_size
        self.channels = manifest.channels
        self.quality = manifest.quality
        self.reference = manifest.reference
        self.fingerprint = manifest.fingerprint
        self.past: Past | None = None
        self.evidence: Evidence | None = None
        self.written = 0.0
        self.config: ConfigDict = from_dict(manifest.config or {"data": {"source": ""}})
        self.bits: int = self.config.data.bits
        self.resize = manifest.resize
        self.seen: float = manifest.seen or manifest.resize["crop_fraction"]
        self._run = run
        self.explain = explain

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Returns an image as the model takes it: uint8 (size, size, channels).

        Args:
            image: uint8 (H, W, 1 or 3), of any size.
        """
        return prepare(image, self.image_size, self.channels, self.resize)

    def probabilities_and_embeddings(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (probabilities (B, C), embeddings (B, D)), float32.

        Args:
            images: uint8 (B, H, W, channels), or with `fields` a batch of `vision.data.inputs`.

        Raises:
            UserError: the model takes more than images, and is given images alone.
        """
        images = np.asarray(images)
        inputs.check(images, self.fields)
        return self._run(images)

    def blank(self, count: int) -> np.ndarray:
        """Returns a batch of black images that have nothing beside them."""
        images = np.zeros((count, self.image_size, self.image_size, self.channels), np.uint8)
        return inputs.pack(images, self.encoder.missing(count) if self.encoder else {})

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (logits (B, C), embeddings (B, D)), float32, of uint8 images (B, H, W, channels).

        The logits are the logarithms of the probabilities; a probability of 0 counts as the
        smallest normal float32.
        """
        probabilities, embeddings = self.probabilities_and_embeddings(images)
        return np.log(np.maximum(probabilities, np.finfo(np.float32).tiny)), embeddings


def write_manifest(directory: pathlib.Path | str, manifest: Manifest) -> None:
    """Writes a bundle's `bundle.json`.

    The file also contains the SHA-256 of every other file in the directory; the manifest's own
    `sha256` is ignored.

    Args:
        directory: the bundle's directory.
        manifest: the contents.

    Raises:
        UserError: the model's file is missing.
    """
    directory = pathlib.Path(directory)
    if not (directory / manifest.model).is_file():
        raise UserError(f"{directory} has no {manifest.model}: export the model first")
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p != directory / MANIFEST)
    contents = {
        "format": FORMAT,
        "version": manifest.version,
        "model": manifest.model,
        "classes": list(manifest.classes),
        "image_size": manifest.image_size,
        "channels": manifest.channels,
        "resize": dict(manifest.resize),
        "quality": manifest.quality,
        "reference": manifest.reference,
        "config": manifest.config,
        "sample": manifest.sample,
        "splits": manifest.splits,
        "inputs": manifest.inputs,
        "seen": manifest.seen,
        "unsure": manifest.unsure,
        "sha256": {path.relative_to(directory).as_posix(): sha256(path) for path in files},
    }
    write_json(directory / MANIFEST, contents)


def write_sample(directory: pathlib.Path | str, image: np.ndarray, run: Callable) -> dict[str, Any]:
    """Writes a sample image into a bundle's directory, before its `bundle.json`.

    Args:
        directory: the bundle's directory.
        image: uint8 (image_size, image_size, channels), as the model takes it, or an element of a
            batch with the fields that it takes too.
        run: `run(images) -> (probabilities (B, C), embeddings)`, the model.

    Returns:
        {"file": the image's name, "probabilities": a list of the C that the model gives it, and
        "inputs": its fields, if there are any}.
    """
    batch = np.asarray(image)[None]
    (pixels,) = inputs.image_of(batch)
    pixels = pixels if pixels.shape[-1] == 1 else pixels[..., ::-1]  # cv2 expects BGR
    pathlib.Path(directory, SAMPLE).write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    sample = {"file": SAMPLE, "probabilities": run(batch)[0][0].astype(float).tolist()}
    return sample if batch.dtype.names is None else sample | {"inputs": encoder.to_lists(batch[0])}


def write_splits(directory: pathlib.Path | str, past: Past) -> dict[str, Any]:
    """Writes the list of a run's images into a bundle's directory, before its `bundle.json`.

    Args:
        directory: the bundle's directory.
        past: the run's division into splits.

    Returns:
        {split: {"images", "sha256"}}, for `Manifest.splits`.

    Raises:
        UserError: the run's own list is missing or damaged.
    """
    write_division(pathlib.Path(directory, FILE), past.read())
    return {split: dict(entry) for split, entry in past.digests.items()}


def open_bundle(directory: pathlib.Path | str, threads: int = 0, provider: str = "cpu") -> Bundle:
    """Returns the `Bundle` in a directory, after verifying that it is complete and unchanged.

    Args:
        directory: the bundle's directory.
        threads, provider: as `open_model` takes them.

    Raises:
        UserError: there is no bundle; its format is newer; a file is missing or has changed since
            the export; the model does not match bundle.json, or gives other probabilities for the
            sample image than at export; or its runtime is not installed.
    """
    directory = pathlib.Path(directory)
    manifest = read_manifest(directory)
    for name, digest in manifest.sha256.items():
        path = directory / name
        if not path.is_file():
            raise UserError(f"{path} is missing from its bundle: {EXPORT_AGAIN}")
        if sha256(path) != digest:
            raise UserError(f"{path} has changed since it was exported: {EXPORT_AGAIN}")
    path = directory / manifest.model
    model = open_model(path, threads, provider)
    fields = encoder.read_encoder(directory, manifest.inputs)
    check_signature(model, path, manifest, fields)
    try:
        bundle = Bundle(manifest, model.run, model.explain, fields)
    except UserError as error:  # the type of a config key has changed
        reason = f"its config cannot be read ({error})"
        raise damaged(directory / MANIFEST, reason, EXPORT_AGAIN) from error
    bundle.written = os.stat(directory / MANIFEST).st_mtime
    if manifest.unsure is not None:
        bundle.evidence = parse_evidence(
            manifest.unsure, directory / MANIFEST, EXPORT_AGAIN, "unsure"
        )
    if manifest.splits:
        bundle.past = Past(directory, manifest.splits)
    check_outputs(bundle, path)
    if manifest.sample:
        _check_sample(bundle, directory, manifest.sample)
    return bundle


def read_manifest(directory: pathlib.Path | str) -> Manifest:
    """Returns the `Manifest` in a bundle's directory.

    Raises:
        UserError: there is none, its format is newer, or a key is missing or has the wrong type.
    """
    directory = pathlib.Path(directory)
    file = directory / MANIFEST
    if not directory.is_dir():
        raise UserError(f"there is no bundle {directory}")
    if not file.is_file():
        raise UserError(
            f"{directory} is not a bundle: it has no {MANIFEST}. Give a directory that "
            "vision.export has written"
        )
    contents = read_json(file, {"format": int}, EXPORT_AGAIN)
    version = contents["format"]
    if version != FORMAT:
        raise UserError(
            f"{directory} is a bundle of format {version}, but this version reads {FORMAT}: "
            f"{EXPORT_AGAIN}, or update"
        )
    check(contents, SCHEMA, file, EXPORT_AGAIN)
    sample = contents.get("sample")
    if sample is not None:
        is_complete = len(sample["probabilities"]) == len(contents["classes"])
        is_complete &= (contents.get("inputs") is None) == (sample.get("inputs") is None)
        if not is_complete or sample["file"] not in contents["sha256"]:
            reason = "sample must name one of its files, with a number for each class"
            raise damaged(file, reason, EXPORT_AGAIN)
    if contents["model"] not in contents["sha256"]:
        raise damaged(file, "sha256 must list the model", EXPORT_AGAIN)
    if contents.get("splits") and FILE not in contents["sha256"]:
        raise damaged(file, f"sha256 must list {FILE}, which splits describes", EXPORT_AGAIN)
    outside = [name for name in contents["sha256"] if _leads_out(name)]
    if outside:
        reason = f"sha256 must name files inside the bundle, got {shown(outside[0])}"
        raise damaged(file, reason, EXPORT_AGAIN)
    contents["resize"] = {key: contents["resize"][key] for key in SCHEMA["resize"]}
    fields = {field.name for field in dataclasses.fields(Manifest)}
    return Manifest(**{key: value for key, value in contents.items() if key in fields})


def _leads_out(name):
    """Whether a file's name leads out of its directory."""
    return os.path.isabs(name) or ".." in pathlib.PurePosixPath(name).parts or "\0" in name


def _check_sample(bundle, directory, sample):
    """Raises `UserError` if the model's answer to its sample image is not that of its export."""
    path = directory / sample["file"]
    try:
        image = bundle.prepare(decode(path))
    except UnreadableImage as error:
        raise UserError(f"{error}: {EXPORT_AGAIN}") from error
    fields = encoder.from_lists(sample["inputs"], bundle.encoder) if bundle.encoder else {}
    batch = inputs.pack(image[None], fields)
    actual = bundle.probabilities_and_embeddings(batch)[0][0].astype(np.float64)
    expected = np.array(sample["probabilities"], np.float64)
    shift = np.abs(actual - expected).max()
    top = actual.argmax()
    expected_top = expected.argmax()
    if not shift <= MAX_SHIFT or expected[expected_top] - expected[top] > TIE_MARGIN:
        raise UserError(
            f"{directory} fails its self-test: {sample['file']} gives {bundle.classes[top]!r}, "
            f"{actual[top]:.3f}, but gave {bundle.classes[expected_top]!r}, "
            f"{expected[expected_top]:.3f}, when it was exported (a probability shifted by "
            f"{shift:.3f}): {EXPORT_AGAIN}, or this CPU or provider computes differently"
        )
