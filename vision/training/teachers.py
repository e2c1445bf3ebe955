"""Trained models that an objective's attributes start from: how they are built again.

A run keeps a copy of their configs, so that it can be resumed when they have moved; and of the
weights of those that never change, since its checkpoints leave these out.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx
from ml_collections import ConfigDict
from safetensors.numpy import load_file, save_file

from vision import objectives
from vision.config.load import checked_config
from vision.data.pipeline import Data
from vision.errors import UserError, brief
from vision.objectives.contract import COPY
from vision.run.directory import check_data
from vision.run.teacher import Teacher, digest, is_teacher, open_teacher
from vision.support.files import make_directory, replacing_path, write_json
from vision.support.reading import read_json

FILE = "teachers.json"  # {attribute: {"start", "config", "data", "sha256"}} in a run directory
WEIGHTS = "teachers"  # the folder of {attribute}.safetensors in it
SCHEMA = {str: {"start": str, "config?": dict, "data?": dict, "sha256?": str}}


def read_teachers(
    config: ConfigDict,
    data: Data,
    definition: objectives.Definition,
    workdir: pathlib.Path | None,
) -> dict[str, Teacher]:
    """Returns {attribute: teacher} of the trained models that attributes start from.

    Args:
        config: the run's config.
        data: what the run learns from.
        definition: of the objective.
        workdir: the run directory, whose copies count more than the originals; None if there is
            none.

    Raises:
        UserError: there is no such model, or it takes other images.
    """
    copies = _read_copies(workdir)
    teachers = {}
    for attribute, start in definition.starts.items():
        copy = copies.get(attribute, {})
        is_copied = copy.get("start") == start and "config" in copy
        if start == COPY or not (is_copied or is_teacher(start)):
            continue
        if is_copied:
            file = f"{attribute} in {FILE}"
            teacher_config = checked_config(copy["config"], file, "remove it")
            teacher = Teacher(start, teacher_config, check_data(copy["data"], file))
        else:
            teacher = _open(definition.name, attribute, start, data, config.data)
        _check_images(config, data, attribute, teacher)
        teachers[attribute] = teacher
    return teachers


def write_teachers(
    workdir: pathlib.Path,
    definition: objectives.Definition,
    teachers: Mapping[str, Teacher],
    constants: Mapping[str, Mapping[str, np.ndarray]],
) -> None:
    """Copies what attributes start from into a run directory, which then does not need it.

    Args:
        workdir: the run directory.
        definition: of the objective.
        teachers: from `read_teachers`; their configs are copied.
        constants: {attribute: {name: array}}, whose arrays are copied.
    """
    written = _read_copies(workdir)
    copies: dict[str, dict[str, Any]] = {}
    for attribute, teacher in teachers.items():
        copies[attribute] = {
            "start": teacher.spec,
            "config": teacher.config.to_dict(),
            "data": dict(teacher.data),
        }
    for attribute, arrays in constants.items():
        copy = copies.setdefault(attribute, {"start": definition.starts[attribute]})
        copy["sha256"] = digest(arrays)
        file = _copy_of_weights(workdir, attribute)
        is_written = written.get(attribute, {}).get("sha256") == copy["sha256"]
        if not (is_written and file.is_file()):
            make_directory(file.parent)
            with replacing_path(file) as path:
                save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path)
    if copies:
        write_json(workdir / FILE, copies)


def read_constant(
    workdir: pathlib.Path, attribute: str, start: str
) -> dict[str, np.ndarray] | None:
    """Returns a run's copy of what an attribute starts from, {name: array}; None without one.

    Raises:
        UserError: the copy is damaged.
    """
    copy = _read_copies(workdir).get(attribute, {})
    file = _copy_of_weights(workdir, attribute)
    if copy.get("start") != start or not file.is_file():
        return None
    arrays = load_arrays(file, f"; {_put_back(start)}")
    if digest(arrays) != copy.get("sha256"):
        raise UserError(f"{file} is damaged: its SHA-256 differs; {_put_back(start)}")
    return arrays


def load_arrays(file: pathlib.Path, remedy: str = "") -> dict[str, np.ndarray]:
    """Returns {name: array} of a .safetensors file.

    Args:
        file: the file.
        remedy: ends the message about a damaged file.

    Raises:
        UserError: the file is damaged.
    """
    try:
        return load_file(file)
    except Exception as error:  # safetensors raises kinds of its own for damaged files
        raise UserError(f"{file} is damaged: {brief(error)}{remedy}") from error


class Architectures(dict[str, nnx.Module]):
    """{attribute: the model that it starts from, without its weights}.

    Args:
        definition: of the objective.
        teachers: from `read_teachers`.

    Attributes:
        classes: {attribute: its class names}.
        image_shapes: {attribute: (H, W, C) of its images, which are also the run's}.
    """

    def __init__(self, definition: objectives.Definition, teachers: Mapping[str, Teacher]):
        super().__init__()
        self._definition = definition
        self.classes = {attribute: teacher.classes for attribute, teacher in teachers.items()}
        self.image_shapes = {}
        for attribute, teacher in teachers.items():
            self[attribute] = teacher.build()
            side = teacher.data["image_size"]
            self.image_shapes[attribute] = (side, side, teacher.data["channels"])

    def __missing__(self, attribute: str) -> nnx.Module:
        start = self._definition.starts.get(attribute, "")
        raise UserError(
            f"'{attribute}' of the objective '{self._definition.name}' must start from a trained "
            f"model (a run or a bundle, by its directory, or ARCHITECTURE:VARIANT@WEIGHTS), got "
            f"'{start}'"
        )


def _put_back(start: str) -> str:
    return f"remove it, and {start} is read again"


def _copy_of_weights(workdir: pathlib.Path, attribute: str) -> pathlib.Path:
    return workdir / WEIGHTS / f"{attribute}.safetensors"


def _read_copies(workdir: pathlib.Path | None) -> dict[str, Any]:
    if workdir is None or not (workdir / FILE).is_file():
        return {}
    return read_json(workdir / FILE, SCHEMA, "remove it")


def _open(objective: str, attribute: str, start: str, data: Data, images: ConfigDict) -> Teacher:
    try:
        return open_teacher(start, data.image_size, data.channels, images)
    except UserError as error:
        raise UserError(
            f"'{attribute}' of the objective '{objective}' cannot start: {error}"
        ) from error


def _check_images(config: ConfigDict, data: Data, attribute: str, teacher: Teacher) -> None:
    """Both models see the same images, so they must take the same."""
    ours = _images(config, data.image_size, data.channels)
    theirs = _images(teacher.config, teacher.data["image_size"], teacher.data["channels"])
    differing = [key for key, value in theirs.items() if ours.get(key) != value]
    if differing:
        had = ", ".join(f"data.{key} = {theirs[key]}" for key in differing)
        has = ", ".join(str(ours.get(key, "unset")) for key in differing)
        remedy = " ".join(f"data.{key}={theirs[key]}".replace(" ", "") for key in differing)
        raise UserError(
            f"'{attribute}' was trained with {had}, but this run has {has}, and both see the same "
            f"images: set {remedy}"
        )


def _images(config: ConfigDict, image_size: int, channels: int) -> dict[str, Any]:
    c = config.data
    normalize = "symmetric" if c.normalize == "auto" else c.normalize
    images: dict[str, Any] = {"image_size": image_size, "channels": channels}
    images["normalize"] = normalize
    if normalize == "mean_std":
        images |= {"mean": tuple(c.mean), "std": tuple(c.std)}
    return images
