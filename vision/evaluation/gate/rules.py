"""Rules that a new model must keep, and whether it does."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vision.errors import UserError, check_choice, check_range
from vision.evaluation.compare.comparison import Run
from vision.evaluation.measures import statistics
from vision.evaluation.measures.calibration import calibration_error

DECISIONS = ("estimate", "interval")
DRAWS = 1000
LEAST_IMAGES = 100  # of which calibration errors are bootstrapped
ROUNDING = 1e-9  # one image of a hundred is a loss of 0.01, and not of more
TITLES = {
    "min-gain": "gains at least",
    "max-loss": "loses at most",
    "max-class-loss": "no class loses more than",
    "max-calibration-loss": "calibration error rises by at most",
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """A limit.

    Attributes:
        kind: a key of `TITLES`.
        data: name of the data that it is about.
        limit: share of images, such as 0.01.
    """

    kind: str
    data: str
    limit: float

    def text(self) -> str:
        """Returns the rule in words."""
        number = f"{100 * self.limit:.3g}"
        unit = "point" if number == "1" else "points"
        return f"{self.data}: {TITLES[self.kind]} {number} {unit}"


def parse_data(values: Sequence[str]) -> dict[str, str]:
    """Returns {name: source} of --data's values, NAME=SOURCE.

    Raises:
        UserError: one is not of that form, or a name is given twice.
    """
    data: dict[str, str] = {}
    for value in values:
        name, mark, source = value.partition("=")
        if not (mark and source and re.fullmatch(r"[A-Za-z0-9_-]+", name)):
            raise UserError(f"--data must be NAME=SOURCE, such as old=folder:photos, got {value!r}")
        if name in data:
            raise UserError(f"--data {name} is given twice")
        data[name] = source
    if not data:
        raise UserError("on which images? Give --data NAME=SOURCE, such as old=folder:photos")
    return data


def parse_rules(kind: str, values: Sequence[str], data: Mapping[str, str]) -> list[Rule]:
    """Returns the rules of a flag's values, NAME=NUMBER.

    Raises:
        UserError: one is not of that form, out of range, or about data that are not given.
    """
    rules: dict[str, Rule] = {}
    for value in values:
        name, _, text = value.partition("=")
        check_choice(f"--{kind} of", name, tuple(data))
        try:
            limit = float(text)
        except ValueError:
            limit = math.nan
        low = -1 if kind == "min-gain" else 0
        check_range(f"--{kind} {name}", text, low <= limit <= 1, f"a number in [{low}, 1]")
        if name in rules:
            raise UserError(f"--{kind} {name} is given twice")
        rules[name] = Rule(kind, name, limit)
    return list(rules.values())


def measure(
    rule: Rule, runs: Sequence[Run], pair: Mapping[str, Any], class_images: int, decide: str
) -> dict[str, Any]:
    """Returns {"value", "low", "high"} of what a rule limits, and "class" of the worst class.

    A value is the change in the direction that the rule names: a gain, or a loss. All are None if
    no class has enough images. The worst class is the one that decides: the one that loses most, or
    of which the interval reaches the largest loss.

    Args:
        rule: the rule.
        runs: the old and the new model's answers, aligned.
        pair: their comparison, from `vision.evaluation.compare.comparison.compare`.
        class_images: images that a class must have to be judged.
        decide: one of `DECISIONS`.
    """
    if rule.kind == "min-gain":
        return _part(pair["differences"]["accuracy"])
    if rule.kind == "max-loss":
        return _negative(pair["differences"]["accuracy"])
    if rule.kind == "max-calibration-loss":
        return calibration_change(runs)
    judged = [row for row in pair["per_class"] if row["images"] >= class_images]
    if not judged:
        return {"value": None, "low": None, "high": None, "class": ""}
    worst = min(judged, key=lambda row: row["difference" if decide == "estimate" else "low"])
    return _negative(worst) | {"class": worst["class"]}


def keeps(rule: Rule, measured: Mapping[str, Any], decide: str) -> bool:
    """Whether a rule is kept: by the measured value, or surely, by the worse end of its interval.

    A rule about classes of which none has enough images is kept, but not surely.
    """
    if measured["value"] is None:
        return decide == "estimate"
    if rule.kind == "min-gain":
        least = measured["value" if decide == "estimate" else "low"]
        return least >= rule.limit - ROUNDING
    most = measured["value" if decide == "estimate" else "high"]
    return most <= rule.limit + ROUNDING


def calibration_change(runs: Sequence[Run], draws: int = DRAWS, seed: int = 0) -> dict[str, Any]:
    """Returns how much the expected calibration error rises, {"value", "low", "high"}.

    The interval is the 95 % percentile interval of paired bootstrap draws. Those of a few images
    tell too little; then it is all that the change can be.
    """
    columns = [(run.columns["confidence"], run.columns["correct"]) for run in runs]

    def change(weights):
        old, new = (calibration_error(*pair, weights=weights)[0] for pair in columns)
        return new - old

    size = len(columns[0][0])
    if size < LEAST_IMAGES:
        return {"value": change(None), "low": -1.0, "high": 1.0}
    random = np.random.default_rng(seed)
    drawn = [
        change(np.bincount(random.integers(0, size, size), minlength=size)) for _ in range(draws)
    ]
    interval = statistics.interval(np.array(drawn))
    return {"value": change(None), "low": interval["low"], "high": interval["high"]}


def _part(change):
    return {"value": change["difference"], "low": change["low"], "high": change["high"]}


def _negative(change):
    # 0 - x, since -x of 0 is the float -0.0
    return {
        "value": 0 - change["difference"],
        "low": 0 - change["high"],
        "high": 0 - change["low"],
    }
