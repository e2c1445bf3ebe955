"""Grids: every combination of a space, and the sweep of a config file."""

import ast
import contextlib
import hashlib
import inspect
import json
import pathlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from ml_collections import ConfigDict
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from vision.config import shipped
from vision.config.load import explain, read_module, unknown_key
from vision.config.schema import OPTION_GROUPS, all_keys
from vision.config.validate import validate
from vision.errors import UserError, shown
from vision.search.queue import PLACE
from vision.search.space import Space, ask

MOST = 10_000  # trials of a grid


def grid(space: Space, config: ConfigDict, seed: int) -> list[dict[str, Any]]:
    """Returns the parameters of each combination of a space, in an order drawn from a seed.

    A space may suggest one parameter only for some values of another.

    Raises:
        UserError: a parameter is continuous, or there are too many combinations.
    """
    walk = _Walk()
    points = []
    while True:
        walk.begin()
        trial = ask(walk.choose)
        with contextlib.suppress(optuna.TrialPruned):
            space.apply(trial, config)
            points.append(trial.params)
        if len(points) > MOST:
            raise UserError(f"{space.title} has over {MOST:,} combinations: use --sampler tpe")
        if not walk.advance():
            break
    random.Random(seed).shuffle(points)
    return points


class _Walk:
    """Goes through all combinations, like an odometer whose wheels are the suggestions."""

    def __init__(self) -> None:
        self._positions: list[int] = []
        self._sizes: list[int] = []
        self._depth = 0

    def begin(self) -> None:
        """Starts the next combination."""
        self._sizes = []
        self._depth = 0

    def choose(self, name: str, distribution: BaseDistribution) -> Any:
        """Returns the value of the next parameter."""
        values = _values(name, distribution)
        if self._depth == len(self._positions):
            self._positions.append(0)
        value = values[self._positions[self._depth]]
        self._sizes.append(len(values))
        self._depth += 1
        return value

    def advance(self) -> bool:
        """Moves on; returns False after the last combination."""
        self._positions = self._positions[: self._depth]
        while self._positions:
            self._positions[-1] += 1
            if self._positions[-1] < self._sizes[len(self._positions) - 1]:
                return True
            self._positions.pop()
        return False


def _values(name: str, distribution: BaseDistribution) -> Sequence[Any]:
    """Returns all values of a parameter."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        count = round((distribution.high - distribution.low) / distribution.step) + 1
        return [float(v) for v in np.linspace(distribution.low, distribution.high, count)]
    raise UserError(
        f"--sampler grid needs steps, but '{name}' is continuous: use "
        f"trial.suggest_categorical('{name}', [...]), or step= without log=True"
    )


def _different(values: Iterable[Any]) -> tuple[Any, ...]:
    """Returns values, each once: 1 and True are two."""
    return tuple({(type(value), value): value for value in values}.values())


class Sweep:
    """The space of a list of overrides: each trial has one of them.

    Args:
        title: where it comes from.
        points: {key: value} for each trial.

    Raises:
        UserError: there are none, or a key does not exist.
    """

    def __init__(self, title: str, points: Sequence[Mapping[str, Any]]):
        self.title = title
        if not points:
            raise UserError(f"{title} is empty: it must yield dicts such as {{'seed': 0}}")
        for point in points:
            _check_keys(title, point)
        keys = dict.fromkeys(key for point in points for key in point)
        # Text for what no storage can hold: a tuple.
        self._choices = {
            key: _different(_stored(point[key]) for point in points if key in point) for key in keys
        }
        self.points = [{key: _stored(value) for key, value in point.items()} for point in points]

    @property
    def digest(self) -> str:
        """Hexadecimal digits that follow from the overrides."""
        return hashlib.sha256(json.dumps(self.points).encode()).hexdigest()

    def apply(self, trial: optuna.Trial, config: ConfigDict) -> ConfigDict:
        """Returns the config of a trial; see `Space`."""
        changed = config.copy_and_resolve_references()
        for key in self.points[trial.user_attrs[PLACE]]:
            value = trial.suggest_categorical(key, self._choices[key])
            _set(self.title, changed, key, value)
        try:
            validate(changed)
        except UserError as error:
            raise UserError(f"{self.title}: {error}") from error
        return changed

    def measure(self, config: ConfigDict, workdir: pathlib.Path) -> Mapping[str, float]:
        """Returns {}: a sweep measures what a run does."""
        return {}

    def check(self, config: ConfigDict) -> None:
        """Raises `UserError` if the overrides of a trial do not make a valid config."""
        for point in self.points:
            changed = config.copy_and_resolve_references()
            for key, value in point.items():
                _set(self.title, changed, key, value)
            try:
                validate(changed)
            except UserError as error:
                raise UserError(f"{self.title}: {error}") from error


def sweep_of(spec: str, seeds: Sequence[int] = ()) -> Sweep | None:
    """Returns the sweep of a config file, None if it has none.

    Args:
        spec: `FILE[:ARGUMENT...][:smoke]`; `sweep` gets the arguments if it takes them.
        seeds: each override is repeated with each of them.

    Raises:
        UserError: `sweep` fails, or yields something else than dicts of overrides.
    """
    path, *arguments = spec.split(":")
    arguments = arguments[:-1] if arguments[-1:] == ["smoke"] else arguments
    title = f"sweep() of {path}"
    path = shipped.locate(path)
    try:
        function = getattr(read_module(path), "sweep", None)
        if not callable(function):
            return None
        points = [dict(point) for point in _call(function, arguments)]
    except UserError:
        raise
    except Exception as error:  # the file is the user's code, which may raise anything
        raise UserError(f"{title}: {explain(error, path)}") from error
    if seeds:
        points = [point | {"seed": seed} for point in points for seed in seeds]
    return Sweep(title, points)


def _call(function: Callable[..., Iterable[Any]], arguments: Sequence[str]) -> Iterable[Any]:
    try:
        inspect.signature(function).bind(*arguments)
    except TypeError:
        return function()
    return function(*arguments)


def _stored(value: Any) -> Any:
    """Returns a value as a storage can hold it: text for a tuple."""
    plain = value is None or isinstance(value, bool | int | float | str)
    return value if plain else repr(value)


def _check_keys(title: str, point: Mapping[str, Any]) -> None:
    """Raises `UserError` for a key that does not exist; options can have any name."""
    for key in point:
        group = str(key).rpartition(".")[0]
        if key not in all_keys() and group not in OPTION_GROUPS or key in OPTION_GROUPS:
            raise UserError(f"{title}: {unknown_key(str(key))}")


def _set(title: str, config: ConfigDict, key: str, value: Any) -> None:
    section, _, name = key.rpartition(".")
    node = config
    for part in filter(None, section.split(".")):
        node = node[part]
    if isinstance(value, str) and not isinstance(node.get(name), str):
        with contextlib.suppress(ValueError, SyntaxError):
            value = ast.literal_eval(value)  # a tuple was stored as text
    try:
        node[name] = value
    except (TypeError, ValueError) as error:
        raise UserError(f"{title}: {key} cannot be {shown(value)}") from error
