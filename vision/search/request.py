"""What a user asks of a search, and what follows from it."""

import dataclasses
import pathlib
from typing import Any

from ml_collections import ConfigDict

from vision.config.load import from_dict
from vision.errors import UserError, check_choice
from vision.run.best import BUILT_IN, DIRECTIONS, LAST, direction, guess

SAMPLERS = ("tpe", "cmaes", "random", "grid", "nsga2")
PRUNERS = ("none", "hyperband", "asha", "median")


@dataclasses.dataclass(frozen=True)
class Request:
    """A search as its command line describes it; picklable, for worker processes.

    Attributes:
        values: the config that the space changes, as a plain dict.
        spec: the config's file as it was given.
        command: the command, for docstrings and the report.
        space: the file of the space; "" searches the config's own sweep.
        trials: number of trials; 0 for all of a grid.
        workers: processes on this machine.
        storage: where the study lives; "" for a journal in `out`.
        name: the study's name.
        sampler: one of `SAMPLERS`.
        pruner: one of `PRUNERS`.
        grace: share of the training before which nothing is pruned.
        objectives: {measure: "max" or "min"}, the first of which decides which config is the best.
        repeat: how many of the best configs are trained again.
        seeds: with which seeds; of a sweep, with which every override is trained.
        seed: of the sampler.
        retry: whether trials that have failed are tried again.
        out: the study's directory.
    """

    values: dict[str, Any]
    spec: str
    command: str
    space: str
    trials: int
    workers: int
    storage: str
    name: str
    sampler: str
    pruner: str
    grace: float
    objectives: dict[str, str]
    repeat: int
    seeds: tuple[int, ...]
    seed: int
    retry: bool
    out: pathlib.Path

    @property
    def config(self) -> ConfigDict:
        """The config that the space changes."""
        return from_dict(self.values)

    @property
    def objective(self) -> str:
        """The measure that decides which config is the best."""
        return next(iter(self.objectives))


def parse_objectives(text: str, config: ConfigDict) -> dict[str, str]:
    """Returns {measure: "max" or "min"} of `MEASURE[:max|min],...`.

    Args:
        text: names of measures; "" is the config's `checkpoint.metric`.
        config: the config that is searched.

    Raises:
        UserError: a measure is given twice, or a direction is neither.
    """
    c = config.checkpoint
    if not text:
        metric = "val/accuracy" if c.metric == LAST else c.metric
        return {metric: BUILT_IN.get(metric) or direction(c)}
    objectives: dict[str, str] = {}
    for part in text.split(","):
        name, colon, way = part.strip().partition(":")
        if not name or name in objectives:
            raise UserError(f"--objective {text}: give MEASURE[:max|min], each once")
        if colon:
            check_choice(f"--objective {name}", way, DIRECTIONS)
        objectives[name] = way or BUILT_IN.get(name) or _guess(name)
    return objectives


def _guess(name: str) -> str:
    """Returns which values of a measure are better: costs have no words that say so."""
    costs = ("parameters", "seconds", "images", "latency", "macs", "multiply_adds", "flops", "ms")
    return "min" if any(cost in name.lower() for cost in costs) else guess(name)


def check_request(request: Request) -> None:
    """Raises `UserError` if the choices of a search do not fit each other."""
    check_choice("--sampler", request.sampler, SAMPLERS)
    check_choice("--pruner", request.pruner, PRUNERS)
    several = len(request.objectives) > 1
    if several and request.pruner != "none":
        raise UserError(
            f"--pruner {request.pruner} needs one objective, but --objective names "
            f"{len(request.objectives)}: leave --pruner out, or name one objective"
        )
    if several and request.sampler == "cmaes":
        raise UserError(
            "--sampler cmaes takes one objective, but --objective names several: use nsga2 or tpe"
        )
    if request.pruner != "none" and not request.objective.startswith("val/"):
        raise UserError(
            f"--pruner {request.pruner} needs an objective that is measured while a run trains, "
            f"such as val/accuracy, not {request.objective}"
        )
    if request.repeat and len(request.seeds) < 2:
        raise UserError("--repeat needs at least two seeds to know the spread: --seeds 0,1,2")
