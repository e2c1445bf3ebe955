"""The best configs over again, with several seeds, before any of them is called better.

The best of many trials is partly the luckiest: its validation measure is biased. So the best few
and the study's own config are trained with the same seeds, and compared on the test split, which
chose none of them: the data stay divided as they were for the search.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from ml_collections import ConfigDict
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from vision.config.load import from_dict
from vision.data.splits import split_seed
from vision.errors import UserError
from vision.reference.shares import cut_difference
from vision.search.queue import place_of
from vision.search.request import Request
from vision.search.study import Job, compared, open_repeats
from vision.support.reading import read_json

DEFAULT = "default"  # the name of the study's own config among those that are compared
LEVEL = 0.95  # of the intervals
SHARES = ("accuracy", "f1")  # ends of the names of metrics in [0, 1]
NUMBER = {"parameters": {"all": int}, "train_seconds": float, "steps": int}


class Contenders:
    """The space of some configs, each with some seeds.

    Args:
        configs: {name: config as a plain dict}.
        seeds: the seeds.
    """

    title = "the best configs"

    def __init__(self, configs: Mapping[str, dict[str, Any]], seeds: Sequence[int]):
        self._configs = dict(configs)
        self._seeds = list(seeds)

    @property
    def digest(self) -> str:
        """Hexadecimal digits that follow from the configs and seeds, and from how they are used."""
        # Keys that may differ when the search goes on must not make another study of the same runs.
        configs = {name: compared(from_dict(values)) for name, values in self._configs.items()}
        text = json.dumps([configs, self._seeds, "split as for the search"], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def points(self) -> list[dict[str, Any]]:
        """The parameters of each trial, one seed of all configs before the next."""
        return [{"config": name, "seed": seed} for seed in self._seeds for name in self._configs]

    def apply(self, trial: optuna.Trial, config: ConfigDict) -> ConfigDict:
        """Returns the config of a trial; see `Space`."""
        name = trial.suggest_categorical("config", list(self._configs))
        changed = from_dict(self._configs[str(name)])
        # The images that the search has not seen must be the ones to test on.
        changed.data.split_seed = split_seed(changed)
        changed.seed = int(trial.suggest_categorical("seed", self._seeds))
        return changed

    def measure(self, config: ConfigDict, workdir: pathlib.Path) -> Mapping[str, float]:
        """Returns {}: the runs' own measures suffice."""
        return {}


@dataclasses.dataclass(frozen=True)
class Repeated:
    """What came of one config with several seeds.

    Attributes:
        name: "default", or the name of its trial.
        seeds: the seeds of the runs that have finished.
        validation: {seed: the objective on the validation split}.
        test: {seed: the same measure on the test split}; {} if it is not measured there.
        images, seconds: what all its runs have cost.
    """

    name: str
    seeds: tuple[int, ...]
    validation: Mapping[int, float]
    test: Mapping[int, float]
    images: int
    seconds: float


def plan(request: Request, storage: BaseStorage, job: Job) -> Job | None:
    """Returns the job that trains the best configs again; None if there are none."""
    chosen = best_trials(job)[: request.repeat]
    if not chosen:
        return None
    configs = {DEFAULT: request.config.to_dict()}
    for trial in chosen:
        config = job.space.apply(_fixed(trial), request.config)
        configs[job.name(place_of(trial))] = config.to_dict()
    space = Contenders(configs, request.seeds)
    names = tuple(f"{point['config']}-seed-{point['seed']}" for point in space.points)
    return open_repeats(request, storage, space, space.points, names)


def _fixed(trial: FrozenTrial) -> Any:
    return optuna.trial.FixedTrial(trial.params)


def best_trials(job: Job) -> list[FrozenTrial]:
    """Returns the complete trials of a job, the best first by its first objective."""
    sign = -1 if next(iter(job.objectives.values())) == "max" else 1
    complete = [t for t in job.queue.latest().values() if t.state == TrialState.COMPLETE]
    usable = [t for t in complete if t.values and math.isfinite(t.values[0])]
    return sorted(usable, key=lambda trial: (sign * trial.values[0], place_of(trial)))


def collect(request: Request, job: Job) -> list[Repeated]:
    """Returns what came of each config, as far as its runs have finished."""
    measure = request.objective.removeprefix("val/")
    runs: dict[str, list[tuple[int, float, float | None, Any]]] = {}
    for trial in job.queue.latest().values():
        if trial.state != TrialState.COMPLETE or not trial.values:
            continue
        directory = request.out / job.folder / job.name(place_of(trial))
        result = read_json(directory / "result.json", NUMBER)
        test = result.get(measure)
        runs.setdefault(str(trial.params["config"]), []).append(
            (int(trial.params["seed"]), trial.values[0], test, trial.user_attrs)
        )
    return [_repeated(name, of_config) for name, of_config in runs.items()]


def _repeated(name: str, runs: Sequence[tuple[int, float, float | None, Any]]) -> Repeated:
    test = {seed: float(value) for seed, _, value, _ in runs if isinstance(value, float | int)}
    return Repeated(
        name=name,
        seeds=tuple(sorted(seed for seed, *_ in runs)),
        validation={seed: value for seed, value, *_ in runs},
        test=test if len(test) == len(runs) else {},
        images=sum(int(attributes.get("images", 0)) for *_, attributes in runs),
        seconds=sum(float(attributes.get("seconds", 0)) for *_, attributes in runs),
    )


def interval(values: Sequence[float], metric: str = "") -> tuple[float, float, float]:
    """Returns (mean, low, high): the mean's interval by Student's t distribution.

    What varies are seeds, not images, so Wilson's interval of a share would be too narrow.

    Args:
        values: one of each seed. With a single one, the ends are infinite.
        metric: what they are. A share is never below 0 or above 1, so its interval is cut there;
            that of a difference is not: see `difference`.
    """
    numbers = np.asarray(values, np.float64)
    mean = float(numbers.mean())
    if len(numbers) < 2:
        return mean, -math.inf, math.inf
    from scipy import stats

    width = stats.t.ppf((1 + LEVEL) / 2, len(numbers) - 1)
    half = float(width * numbers.std(ddof=1) / math.sqrt(len(numbers)))
    if metric.endswith(SHARES):
        return mean, max(mean - half, 0.0), min(mean + half, 1.0)
    return mean, mean - half, mean + half


def difference(
    values: Mapping[int, float], baseline: Mapping[int, float], metric: str = ""
) -> tuple[float, float, float]:
    """Returns (mean, low, high) of values minus a baseline's, in pairs of the same seed.

    The interval of a share's difference, see `interval`, is cut at -1 and 1.
    """
    shared = sorted(values.keys() & baseline.keys())
    if not shared:
        raise UserError("the configs that are compared have no seed in common")
    mean, low, high = interval([values[seed] - baseline[seed] for seed in shared])
    if metric.endswith(SHARES):
        low, high = map(float, cut_difference(low, high))
    return mean, low, high


def chosen_config(repeated: Sequence[Repeated], way: str) -> str:
    """Returns the name of the config with the best mean on the validation splits."""
    sign = -1 if way == "max" else 1
    best = min(repeated, key=lambda r: sign * float(np.mean(list(r.validation.values()))))
    return best.name
