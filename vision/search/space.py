"""Spaces: which configs a study may try.

A space is a Python file with a function that changes a config by what a trial suggests:

    def space(trial, config):
        config.optimizer.learning_rate = trial.suggest_float("rate", 1e-4, 1e-1, log=True)

`trial` is Optuna's. A third argument of the function is what follows the file's name in --space
FILE:ARGUMENT, as text. The file may also have `measure(config, workdir) -> {name: number}`, called
when a trial has been trained: what it returns may be an objective of the study.
"""

import ast
import contextlib
import hashlib
import inspect
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import optuna
from ml_collections import ConfigDict
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import UpdateFinishedTrialError

from vision.config import shipped
from vision.config.load import explain, nearest_file, read_module
from vision.config.validate import validate
from vision.errors import UserError
from vision.search.storage import is_unreachable
from vision.support.reading import read_text

FOLDER = "configs/spaces"
PROBES = 50  # configs that are made of a space before it is searched, to find its mistakes


class Space(Protocol):
    """What a study takes its trials' configs from."""

    @property
    def title(self) -> str:
        """What it is, for messages and the report."""

    @property
    def digest(self) -> str:
        """Hexadecimal digits that two spaces share only if they are the same."""

    def apply(self, trial: optuna.Trial, config: ConfigDict) -> ConfigDict:
        """Returns the config of a trial, a changed copy of the study's.

        Raises:
            UserError: the space makes no valid config.
        """

    def measure(self, config: ConfigDict, workdir: pathlib.Path) -> Mapping[str, float]:
        """Returns further measures of a trained run."""


class FileSpace:
    """The space of a Python file.

    Args:
        spec: FILE, or FILE:ARGUMENT.

    Raises:
        UserError: there is no such file, it fails, it has no `space(trial, config)`, or that takes
            no argument.
    """

    def __init__(self, spec: str):
        path, colon, argument = spec.partition(":")
        self._arguments = (argument,) if colon else ()
        path = shipped.locate(path)
        if not pathlib.Path(path).is_file():
            raise UserError(f"--space: no file '{path}'{nearest_file(path, FOLDER)}")
        self.path = path
        self.text = read_text(path)
        module = self._guarded(read_module, path)
        function = getattr(module, "space", None)
        if not callable(function):
            raise UserError(
                f"{path} has no space(trial, config): see {FOLDER}/supervised.py for the form"
            )
        try:
            inspect.signature(function).bind(None, None, *self._arguments)
        except TypeError as error:
            given = f"the argument '{argument}'" if colon else "no argument after the file's name"
            raise UserError(f"--space {spec}: its space() does not take {given}") from error
        self._function: Callable[..., Any] = function
        self._measure: Callable[..., Any] | None = getattr(module, "measure", None)

    @property
    def title(self) -> str:
        """What it is, for messages and the report."""
        return ":".join((self.path, *self._arguments))

    @property
    def digest(self) -> str:
        """Digits that follow from the code and the argument, not from comments or empty lines."""
        contents = ":".join((ast.dump(ast.parse(self.text)), *self._arguments))
        return hashlib.sha256(contents.encode()).hexdigest()

    def apply(self, trial: optuna.Trial, config: ConfigDict) -> ConfigDict:
        """Returns the config of a trial; see `Space`."""
        changed = config.copy_and_resolve_references()
        self._guarded(self._function, trial, changed, *self._arguments)
        try:
            validate(changed)
        except UserError as error:
            raise UserError(f"{self.path}: {error}") from error
        return changed

    def measure(self, config: ConfigDict, workdir: pathlib.Path) -> Mapping[str, float]:
        """Returns what the file's own `measure` does; {} if it has none."""
        if self._measure is None:
            return {}
        values = self._guarded(self._measure, config, workdir)
        try:
            return {str(name): float(value) for name, value in values.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise UserError(
                f"{self.path}: measure() must return {{name: number}}, got {values!r:.200}"
            ) from error

    def _guarded(self, function: Callable[..., Any], *args: Any) -> Any:
        """Calls the user's code, and turns what it raises into a message that names the line."""
        try:
            return function(*args)
        except (UserError, optuna.TrialPruned):
            raise
        except Exception as error:
            if not _is_ours(error, self.path):
                raise
            raise UserError(explain(error, self.path)) from error


def _is_ours(error: Exception, path: str) -> bool:
    """Returns whether the user's code is at fault: not a storage that cannot be reached."""
    return not is_unreachable(error) and not isinstance(error, UpdateFinishedTrialError)


class _Choice(optuna.samplers.BaseSampler):
    """Suggests what a function chooses of a distribution: neither drawn nor learned."""

    def __init__(self, choose: Callable[[str, BaseDistribution], Any]):
        self._choose = choose

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(
        self, study: Any, trial: Any, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._choose(param_name, param_distribution)


def ask(choose: Callable[[str, BaseDistribution], Any]) -> optuna.Trial:
    """Returns a trial of no study, whose values a function of (name, distribution) chooses."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(sampler=_Choice(choose)).ask()


def check_space(space: Space, config: ConfigDict) -> dict[str, BaseDistribution]:
    """Tries a space at its ends: the lowest and the highest numbers, and every choice.

    Returns:
        {name: distribution} of what it suggests there.

    Raises:
        UserError: it suggests nothing, changes nothing, names a key that does not exist, or leaves
            a key's range.
    """
    distributions: dict[str, BaseDistribution] = {}
    configs = []
    number = 0
    most = 2
    while number < most:
        trial = ask(lambda _, distribution: _end(distribution, number))  # noqa: B023
        with contextlib.suppress(optuna.TrialPruned):  # the space itself refuses a combination
            configs.append(space.apply(trial, config).to_dict())
        distributions |= trial.distributions
        choices = [
            len(d.choices) for d in distributions.values() if isinstance(d, CategoricalDistribution)
        ]
        most = min(PROBES, max([2, *choices]))
        number += 1
    if not distributions:
        raise UserError(
            f"{space.title} is empty: its space(trial, config) must call trial.suggest_float, "
            "suggest_int or suggest_categorical"
        )
    if configs and all(values == config.to_dict() for values in configs):
        raise UserError(
            f"{space.title} changes nothing: set keys of config to what the trial suggests, as in "
            "config.optimizer.learning_rate = trial.suggest_float(...)"
        )
    return distributions


def _end(distribution: BaseDistribution, number: int) -> Any:
    """Returns the choice of a number, or the lowest or highest value in turn."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[min(number, len(distribution.choices) - 1)]
    assert isinstance(
        distribution, optuna.distributions.FloatDistribution | optuna.distributions.IntDistribution
    )
    return distribution.high if number % 2 else distribution.low
