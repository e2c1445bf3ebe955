"""Which runs are shown, in which order, and which of them are one config with several seeds."""

import dataclasses
import json
import math
import operator
import pathlib
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vision.config import default
from vision.errors import UserError, check_choice
from vision.run.best import BUILT_IN, LAST
from vision.run.directory import FREE, flatten
from vision.runs.record import Run
from vision.support.schema import is_number

CONDITION = re.compile(r"([\w./-]+)\s*(!=|<=|>=|==|=|<|>|~)\s*(.*)", re.DOTALL)
COMPARISONS = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
}
SEED = "seed"
# What every training logs.
TRAINING = ("train/loss", "train/grad_norm", "train/learning_rate", "train/images_per_second")


@dataclasses.dataclass(frozen=True)
class Condition:
    """What a run must be to be shown.

    Attributes:
        key: a key of `Run.values`.
        sign: =, !=, <, <=, >, >= or ~, which is "contains".
        value: what the run's value is compared with.
    """

    key: str
    sign: str
    value: str

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Returns whether it holds for the values of a run; one that lacks the key has none."""
        value = values.get(self.key)
        if value is None or value == "":
            return self.sign == "!=" or (self.sign == "=" and self.value in ("", "None"))
        if self.sign == "~":
            return self.value.lower() in str(value).lower()
        number = _number(self.value)
        if self.sign in COMPARISONS:
            if is_number(value) and number is not None:
                return bool(COMPARISONS[self.sign](value, number))
            return bool(COMPARISONS[self.sign](str(value), self.value))
        is_equal = _text(value).lower() == self.value.lower()
        if number is not None and is_number(value):
            is_equal = math.isclose(value, number, rel_tol=1e-9)
        return is_equal == (self.sign == "=")


def parse_condition(text: str) -> Condition:
    """Returns the condition that a value of --filter is.

    Raises:
        UserError: it is not KEY, a sign and a value.
    """
    match = CONDITION.fullmatch(text.strip())
    if not match:
        raise UserError(
            f"--filter {text!r} must be KEY=VALUE, with one of =, !=, <, <=, >, >= and ~ "
            "(contains), such as 'model.name=vit' or 'accuracy>0.9'"
        )
    key, sign, value = match.groups()
    return Condition(key, "=" if sign == "==" else sign, value.strip())


def check_keys(conditions: Iterable[Condition], order: str, runs: Sequence[Run]) -> None:
    """Raises `UserError` if a condition or the order names a key that no run can have.

    A run may have it later: a measure of the test split has a value only once a run is finished.

    Args:
        conditions: of --filter.
        order: of --sort.
        runs: the runs, whose own keys count as well.
    """
    keys = _documented_keys()
    for run in runs:
        keys |= dict.fromkeys((*run.values(), run.metric))
    for condition in conditions:
        _check_key("--filter", condition.key, keys)
    _check_key("--sort", order.removeprefix("-"), keys)


def select(runs: Sequence[Run], conditions: Sequence[Condition]) -> list[Run]:
    """Returns the runs for which every condition holds."""
    return [run for run in runs if all(c.holds(run.values()) for c in conditions)]


def ordered(runs: Sequence[Run], key: str) -> list[Run]:
    """Returns the runs by the value of a key, "-KEY" from the highest; those without it come
    last."""
    name = key.removeprefix("-")
    with_value = [run for run in runs if run.values().get(name) not in (None, "")]
    without = [run for run in runs if run.values().get(name) in (None, "")]
    values = {run.path: run.values()[name] for run in with_value}
    is_numeric = all(map(is_number, values.values()))

    def place(run: Run) -> Any:
        value = values[run.path]
        return value if is_numeric else _text(value)

    return sorted(with_value, key=place, reverse=key.startswith("-")) + without


@dataclasses.dataclass(frozen=True)
class Spread:
    """A measure over several seeds.

    Attributes:
        mean: its mean.
        deviation: its standard deviation (of a sample: n - 1), None of a single run.
        count: runs that have it.
    """

    mean: float
    deviation: float | None
    count: int


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs whose configs differ in `seed` only.

    Attributes:
        runs: the runs, by seed.
        test: {measure: spread} on the test split.
        validation: {measure: spread} at each run's best step.
        seconds: of training.
    """

    runs: tuple[Run, ...]
    test: Mapping[str, Spread]
    validation: Mapping[str, Spread]
    seconds: Spread | None

    @property
    def seeds(self) -> list[int]:
        """The seeds, rising."""
        return [run.config[SEED] for run in self.runs]


def grouped(runs: Sequence[Run]) -> list[Group]:
    """Returns the groups of the runs that can be read, in the order of their first ones.

    Keys that change how a run is computed or shown, not what it computes, may differ too.
    """
    members: dict[str, list[Run]] = {}
    for run in runs:
        if run.config:
            members.setdefault(_identity(run.config), []).append(run)
    return [_group(sorted(group, key=lambda run: run.config[SEED])) for group in members.values()]


def _group(runs):
    finished = [run for run in runs if run.state == "finished"]
    return Group(
        tuple(runs),
        _spreads([run.test for run in finished]),
        _spreads([run.validation for run in finished]),
        _spread([run.seconds for run in finished if run.seconds is not None]),
    )


def _spreads(measures):
    names = dict.fromkeys(name for values in measures for name in values)
    spreads = {name: _spread([v[name] for v in measures if name in v]) for name in names}
    return {name: spread for name, spread in spreads.items() if spread is not None}


def _spread(values):
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Spread(statistics.fmean(values), deviation, len(values))


def _identity(config):
    own = {key: value for key, value in config.items() if key != SEED and not key.startswith(FREE)}
    return json.dumps(own, sort_keys=True, default=str)


def _documented_keys() -> dict[str, None]:
    """Returns the keys that any run may have, as those of a dict: in the order of messages."""
    own = Run("", pathlib.Path(), "unreadable").values()
    results = (name.removeprefix("val/") for name in BUILT_IN if name != LAST)
    schema = flatten(default().to_dict())
    return dict.fromkeys((*own, *results, *BUILT_IN, *TRAINING, *schema))


def _check_key(flag: str, key: str, keys: Mapping[str, None]) -> None:
    if key not in keys:
        # All of them would fill pages.
        near = [name for name in keys if name.rpartition(".")[2] == key.rpartition(".")[2]]
        check_choice(
            f"the key of {flag}", key, near or _main_keys(keys), ", or a key of the config"
        )


def _main_keys(keys):
    return [name for name in keys if "." not in name]


def _number(text):
    try:
        return float(text)
    except ValueError:
        return None


def _text(value):
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
