"""The trained model that another one learns from: a run, a bundle, or published weights."""

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vision import models
from vision.bundle.directory import MANIFEST, read_manifest
from vision.bundle.runtimes import EXPORT_AGAIN
from vision.config import default
from vision.config.load import from_dict
from vision.data.inputs import require_images_alone
from vision.errors import UserError, shown
from vision.models.layers.streams import Streams
from vision.models.weights import pretrained
from vision.models.weights.published import imagenet_classes
from vision.run.directory import read_run
from vision.run.resolve import published_classes, resolve_config
from vision.run.weights import run_weights
from vision.support.digest import sha256

WEIGHTS = "model.safetensors"  # of a bundle
PUBLISHED = re.compile(r"(?!hf:|package:)([\w.]+):([^@]+)@(.+)")  # ARCHITECTURE:VARIANT@WEIGHTS


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained model, not yet read.

    Attributes:
        spec: what names it: a run or a bundle by its directory, or published weights as
            ARCHITECTURE:VARIANT@WEIGHTS, with WEIGHTS as for `config.model.pretrained`:
            "resnet:50@hf:timm/resnet50.a1_in1k".
        config: the config of its training, or one that describes the published weights.
        data: its data.json: at least "classes", "image_size" and "channels".
    """

    spec: str
    config: ConfigDict
    data: Mapping[str, Any]

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the logits."""
        return tuple(self.data["classes"])

    def build(self) -> nnx.Module:
        """Returns its model without its weights.

        Raises:
            UserError: it takes more than images.
        """
        require_images_alone(models.fields_of(self.config.model), f"a teacher such as {self.spec}")
        return models.build(self.config.model, *self._sizes(), Streams(0))

    def weights(self) -> dict[str, np.ndarray]:
        """Reads {name in the model: array}, the best of a run.

        Raises:
            UserError: they cannot be read, or do not fit.
        """
        if PUBLISHED.fullmatch(self.spec) or _is_bundle(self.spec):
            return pretrained.load(self.config.model, *self._sizes())
        return run_weights(_path(self.spec))[2]

    def _sizes(self) -> tuple[int, int, int]:
        return len(self.classes), self.data["image_size"], self.data["channels"]


def is_teacher(spec: str) -> bool:
    """Returns whether a spec can name a trained model, and not only a file of arrays."""
    return bool(PUBLISHED.fullmatch(spec)) or _is_bundle(spec) or pretrained.is_run(spec)


def open_teacher(
    spec: str, image_size: int, channels: int, images: ConfigDict | None = None
) -> Teacher:
    """Finds what a spec names, and reads its description.

    Args:
        spec: see `Teacher.spec`.
        image_size: side of the images that published weights are going to see, pixels; runs and
            bundles know their own.
        channels: their channels.
        images: the learner's config.data. Weights that nothing describes are taken to see images
            that are normalized as it says.

    Raises:
        UserError: there is no such run, bundle or architecture.
    """
    if match := PUBLISHED.fullmatch(spec):
        return _published(match, image_size, channels, images)
    if _is_bundle(spec):
        return _of_bundle(spec)
    return Teacher(spec, *read_run(_path(spec)))


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns the SHA-256 of {name: array} in hexadecimal: of names, dtypes, shapes and numbers."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total.update(f"{name} {array.dtype} {array.shape}\n".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def check_same_classes(key: str, classes: Sequence[str], teacher_classes: Sequence[str]) -> None:
    """Raises `UserError` unless a teacher has a run's classes, in the same order.

    ImageNet's may be called by their WordNet IDs or by their names. Weights whose classes nobody
    has named, so that they have numbers, are only counted.

    Args:
        key: of the config, that names the teacher.
        classes: the run's; () if they are not known.
        teacher_classes: from `Teacher.classes`.
    """
    if not classes:
        return
    ours = _named(classes)
    theirs = _named(teacher_classes)
    if len(ours) != len(theirs):
        raise UserError(
            f"{key}: the teacher has {len(theirs)} classes, but the data of this run have "
            f"{len(ours)}: choose a teacher that was trained on these classes"
        )
    if theirs == tuple(map(str, range(len(theirs)))):
        return
    for number, (name, teacher_name) in enumerate(zip(ours, theirs, strict=True)):
        if name != teacher_name:
            raise UserError(
                f"{key}: class {number} is {shown(teacher_name)} for the teacher, but "
                f"{shown(name)} in the data of this run: both need the same classes in the same "
                "order"
            )


def _named(classes: Sequence[str]) -> tuple[str, ...]:
    """Returns class names, those of ImageNet in words."""
    if len(classes) == 1000 and tuple(classes) == tuple(wnid for wnid, _ in imagenet_classes()):
        return tuple(name for _, name in imagenet_classes())
    return tuple(classes)


def _path(spec: str) -> pathlib.Path:
    return pathlib.Path(spec).expanduser()


def _is_bundle(spec: str) -> bool:
    return (_path(spec) / MANIFEST).is_file()


def _published(
    match: re.Match[str], image_size: int, channels: int, images: ConfigDict | None
) -> Teacher:
    config = default()
    name, variant, weights = match.groups()
    config.model.name = name
    config.model.variant = variant
    config.model.pretrained = weights
    described = pretrained.describe(weights, pretrained.architecture(config.model), variant)
    if described is None and images is not None:
        config.data.normalize = images.normalize
        config.data.mean = images.mean
        config.data.std = images.std
    config.data.image_size = image_size
    config.data.channels = channels
    config = resolve_config(config)
    _, classes = published_classes(config.model)
    data = {"classes": list(classes), "image_size": image_size, "channels": channels}
    return Teacher(match.string, config, data)


def _of_bundle(spec: str) -> Teacher:
    manifest = read_manifest(_path(spec))
    file = _path(spec) / WEIGHTS
    if manifest.config is None or not file.is_file():
        raise UserError(
            f"the bundle {spec} has no {WEIGHTS} to learn from: export its run again with "
            "--format onnx,safetensors, or name the run"
        )
    if sha256(file) != manifest.sha256.get(WEIGHTS):
        raise UserError(f"{file} has changed since it was exported: {EXPORT_AGAIN}")
    config = from_dict(manifest.config)
    config.model.pretrained = str(file)
    data = {
        "classes": list(manifest.classes),
        "image_size": manifest.image_size,
        "channels": manifest.channels,
    }
    return Teacher(spec, config, data)
