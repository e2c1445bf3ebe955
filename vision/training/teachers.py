"""Runs that an objective's attributes start from: how their models are built again.

A run keeps a copy of their configs, so that it can be resumed when they have moved.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

from flax import nnx
from ml_collections import ConfigDict

from vision import models, objectives
from vision.config.load import checked_config
from vision.data.pipeline import Data
from vision.errors import UserError
from vision.models.layers.streams import Streams
from vision.models.weights.pretrained import is_run
from vision.objectives.contract import COPY
from vision.run.directory import check_data, read_run
from vision.support.files import write_json
from vision.support.reading import read_json

FILE = "teachers.json"  # {attribute: {"start", "config", "data"}} in a run directory
SCHEMA = {str: {"start": str, "config": dict, "data": dict}}
Teacher = tuple[ConfigDict, dict[str, Any]]  # a run's config and the contents of its data.json


def read_teachers(
    config: ConfigDict,
    data: Data,
    definition: objectives.Definition,
    workdir: pathlib.Path | None,
) -> dict[str, Teacher]:
    """Returns {attribute: (config, data)} of the runs that attributes start from.

    Args:
        config: the run's config.
        data: what the run learns from.
        definition: of the objective.
        workdir: the run directory, whose copies count more than the runs; None if there is none.

    Raises:
        UserError: there is no such run, or its model takes other images.
    """
    copies = _read_copies(workdir)
    teachers = {}
    for attribute, start in definition.starts.items():
        if start == COPY or not is_run(start):
            continue
        if copies.get(attribute, {}).get("start") == start:
            file = f"{attribute} in {FILE}"
            teacher_config = checked_config(copies[attribute]["config"], file, "remove it")
            teacher = teacher_config, check_data(copies[attribute]["data"], file)
        else:
            teacher = _read_teacher(definition.name, attribute, start)
        _check_images(config, data, attribute, teacher)
        teachers[attribute] = teacher
    return teachers


def write_teachers(
    workdir: pathlib.Path, definition: objectives.Definition, teachers: Mapping[str, Teacher]
) -> None:
    """Copies the configs of the runs that attributes start from into a run directory."""
    if not teachers:
        return
    copies = {
        attribute: {
            "start": definition.starts[attribute],
            "config": config.to_dict(),
            "data": data,
        }
        for attribute, (config, data) in teachers.items()
    }
    write_json(workdir / FILE, copies)


class Architectures(dict[str, nnx.Module]):
    """{attribute: the model of the run that it starts from, without its weights}.

    Args:
        definition: of the objective.
        teachers: from `read_teachers`.
    """

    def __init__(self, definition: objectives.Definition, teachers: Mapping[str, Teacher]):
        super().__init__()
        self._definition = definition
        for attribute, (config, data) in teachers.items():
            self[attribute] = models.build(
                config.model,
                len(data["classes"]),
                data["image_size"],
                data["channels"],
                Streams(0),
            )

    def __missing__(self, attribute: str) -> nnx.Module:
        start = self._definition.starts.get(attribute, "")
        raise UserError(
            f"'{attribute}' of the objective '{self._definition.name}' must start from the "
            f"directory of a run, got '{start}'"
        )


def _read_copies(workdir: pathlib.Path | None) -> dict[str, Any]:
    if workdir is None or not (workdir / FILE).is_file():
        return {}
    return read_json(workdir / FILE, SCHEMA, "remove it")


def _read_teacher(objective: str, attribute: str, start: str) -> Teacher:
    try:
        return read_run(start)
    except UserError as error:
        raise UserError(
            f"'{attribute}' of the objective '{objective}' cannot start: {error}"
        ) from error


def _check_images(config: ConfigDict, data: Data, attribute: str, teacher: Teacher) -> None:
    """Both models see the same images, so they must take the same."""
    ours = _images(config, data.image_size, data.channels)
    theirs = _images(teacher[0], teacher[1]["image_size"], teacher[1]["channels"])
    for key, value in ours.items():
        if theirs[key] != value:
            raise UserError(
                f"'{attribute}' was trained with data.{key} = {theirs[key]}, but this run has "
                f"{value}, and both see the same images: set data.{key}={theirs[key]}"
            )


def _images(config: ConfigDict, image_size: int, channels: int) -> dict[str, Any]:
    c = config.data
    normalize = "symmetric" if c.normalize == "auto" else c.normalize
    images: dict[str, Any] = {"image_size": image_size, "channels": channels}
    images["normalize"] = normalize
    if normalize == "mean_std":
        images |= {"mean": tuple(c.mean), "std": tuple(c.std)}
    return images
