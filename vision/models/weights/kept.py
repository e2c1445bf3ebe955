"""Weights of finished rows of experiments/, which `model.pretrained = kept:NAME` finds by name.

experiments/weights/ of the checkout has a file for each, and index.json: what it is, how its images
were prepared, and its SHA-256. `python -m experiments.run EXPERIMENT --keep` writes both.
"""

import dataclasses
import importlib.util
import pathlib
from typing import Any

from vision.data.decode import INTERPOLATIONS
from vision.errors import UserError, check_choice
from vision.models.weights.published import Weights
from vision.support.digest import sha256
from vision.support.reading import read_json
from vision.support.schema import NATURAL, among, numbers_within

PREFIX = "kept:"
INDEX = "index.json"
ENTRY = {
    "file": str,
    "sha256": str,
    "variant": str,
    "options": dict,
    "classes": [str],
    "image_size": NATURAL,
    "crop": numbers_within(0, 1),
    "interpolation": among(*INTERPOLATIONS),
    "mean": [float],
    "std": [float],
}


@dataclasses.dataclass(frozen=True)
class Kept:
    """A file of weights, and what its index says of it.

    Attributes:
        path: the file.
        weights: how its images were prepared, and its classes.
    """

    path: pathlib.Path
    weights: Weights


def folder() -> pathlib.Path:
    """Returns experiments/weights of the checkout that runs.

    Raises:
        UserError: there is no checkout.
    """
    package = importlib.util.find_spec("experiments")
    if package is None or not package.submodule_search_locations:
        raise UserError(
            f"{PREFIX}NAME is for weights in experiments/weights of a checkout: run in the checkout"
        )
    return pathlib.Path(next(iter(package.submodule_search_locations))) / "weights"


def read_index(place: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Returns {name: entry} of a folder's index.json; {} if there is none."""
    path = place / INDEX
    return read_json(path, {str: ENTRY}) if path.is_file() else {}


def find_kept(spec: str) -> Kept:
    """Returns what kept:NAME means.

    Raises:
        UserError: there is no such name, or the file is not the one that was kept.
    """
    place = folder()
    index = read_index(place)
    name = spec.removeprefix(PREFIX)
    check_choice("model.pretrained = kept:NAME: NAME", name, tuple(index))
    entry = index[name]
    path = place / entry["file"]
    if not path.is_file() or sha256(path) != entry["sha256"]:
        raise UserError(
            f"model.pretrained = '{spec}': {path} is missing, or differs from the file that "
            f"{INDEX} describes: check it out again, or keep the row again"
        )
    weights = Weights(
        entry["variant"],
        options=entry["options"],
        class_names=tuple(entry["classes"]),
        classes=len(entry["classes"]),
        size=entry["image_size"],
        crop=entry["crop"],
        interpolation=entry["interpolation"],
        mean=tuple(entry["mean"]),
        std=tuple(entry["std"]),
    )
    return Kept(path, weights)
