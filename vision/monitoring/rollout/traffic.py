"""traffic.json of a model, which the server follows: docs/serving.md describes it."""

import pathlib
from typing import NamedTuple

from vision.errors import UserError
from vision.support import disk
from vision.support.files import write_json
from vision.support.reading import read_json
from vision.support.schema import numbers_within

FILE = "traffic.json"
SCHEMA = {"weights?": {str: numbers_within(0, 1e6)}, "shadow?": str}


class Traffic(NamedTuple):
    """The contents of a traffic.json.

    Attributes:
        weights: {version: weight}, without those of 0; {} if the highest version answers.
        shadow: version that answers for the log only; "" if none does.
    """

    weights: dict[str, float]
    shadow: str


def read(folder: pathlib.Path) -> Traffic:
    """Returns what a model's traffic.json says.

    Raises:
        UserError: it cannot be read, or is not valid.
    """
    file = folder / FILE
    if not file.exists():
        return Traffic({}, "")
    contents = read_json(file, SCHEMA)
    weights = {name: weight for name, weight in contents.get("weights", {}).items() if weight}
    return Traffic(weights, contents.get("shadow", ""))


def write(folder: pathlib.Path, weights: dict[str, float], shadow: str) -> None:
    """Writes a model's traffic.json, in full or not at all.

    Args:
        folder: the model's directory.
        weights: {version: weight}.
        shadow: as in `Traffic`.

    Raises:
        UserError, RunError: it cannot be written.
    """
    contents = {"weights": weights} | ({"shadow": shadow} if shadow else {})
    try:
        write_json(folder / FILE, contents)
    except OSError as error:
        raise disk.failed(f"--models: {folder / FILE}", error) from error


def matches(weights: dict[str, float], wanted: dict[str, float]) -> bool:
    """Returns whether weights, without those of 0, give the same shares as wanted ones."""
    shares = [_shares(weights), _shares(wanted)]
    return shares[0].keys() == shares[1].keys() and all(
        abs(share - shares[1][name]) < 1e-9 for name, share in shares[0].items()
    )


def describe(weights: dict[str, float]) -> str:
    """Returns weights as a message can show them."""
    if not weights:
        return "no weights: the highest version answers"
    return ", ".join(f"{name}: {weight:g}" for name, weight in weights.items())


def check_free(traffic: Traffic, old: str, new: str, folder: pathlib.Path) -> None:
    """Raises `UserError` unless all of the traffic is the old version's, or nobody has said so."""
    others = traffic.weights.keys() - {old}
    if others:
        raise UserError(
            f"{folder / FILE} gives traffic to {', '.join(sorted(others))} "
            f"({describe(traffic.weights)}): a rollout to {new} starts with {old} alone"
        )


def _shares(weights):
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items() if weight}
