"""Opens a study, and makes sure that it is the one that the command means."""

import dataclasses
import hashlib
import json
import pathlib
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from ml_collections import ConfigDict
from optuna.storages import BaseStorage
from optuna.study import StudyDirection

from vision.config.validate import leaves
from vision.errors import UserError
from vision.search.grid import grid, sweep_of
from vision.search.pruning import PlaceHyperband, PlacePruner
from vision.search.queue import Queue, exclusively
from vision.search.request import Request
from vision.search.space import FileSpace, Space, check_space
from vision.support.extras import require
from vision.support.files import write_json
from vision.support.reading import read_json

IDENTITY = "vision"  # the user attribute of a study that says what it searches
FILE = "study.json"
# Keys that may differ when a study goes on: how a run is computed, not what.
FREE = ("log.", "parallel.", "compile_cache", "data.workers", "data.resident_gib", "profile")
ORDER = (100, 4)  # of the pruners: percent of a training; of the trials, one in so many goes on


@dataclasses.dataclass(frozen=True)
class Job:
    """Trials of one kind: those of the search, or the best configs over again.

    Attributes:
        queue: the trials.
        space: what makes their configs.
        config: what the space changes.
        folder: directory of their runs, in that of the study.
        objectives: {measure: "max" or "min"}.
        sampler, pruner: names; see `vision.search.request`.
        names: of the runs' directories, by the places of their trials; () names them by number.
    """

    queue: Queue
    space: Space
    config: ConfigDict
    folder: str
    objectives: Mapping[str, str]
    sampler: str
    pruner: str
    names: tuple[str, ...] = ()

    def name(self, place: int) -> str:
        """Returns the name of a trial, which is that of its run's directory."""
        return self.names[place] if self.names else f"{place:04d}"


def open_space(request: Request) -> tuple[Space, list[dict[str, Any]] | None, int]:
    """Returns (space, parameters of each trial or None, number of trials).

    Raises:
        UserError: the space, or the sweep, is wrong.
    """
    config = request.config
    if not request.space:
        sweep = sweep_of(request.spec, request.seeds)
        if sweep is None:
            raise UserError(
                "what is to be searched? Give --space FILE, for example "
                "--space configs/spaces/supervised.py, or a config file with sweep()"
            )
        sweep.check(config)
        count = len(sweep.points)
        return sweep, sweep.points, min(request.trials or count, count)
    space = FileSpace(request.space)
    check_space(space, config)
    if request.sampler != "grid":
        return space, None, request.trials
    points = grid(space, config, request.seed)
    return space, points, min(request.trials or len(points), len(points))


def open_search(request: Request, storage: BaseStorage) -> Job:
    """Opens the study of a search, a new one if there is none of its name.

    Raises:
        UserError: there is one of this name that searches something else.
    """
    space, points, count = open_space(request)
    identity = {
        "title": space.title,
        "space": space.digest,
        "config": compared(request.config),
        "objectives": request.objectives,
        "seed": request.seed,
        "token": _token(request),
    }
    open_study(storage, request.name, request.out, identity, request.objectives)
    return Job(
        queue=Queue(storage, request.name, request.out, count, points),
        space=space,
        config=request.config,
        folder="trials",
        objectives=request.objectives,
        sampler="random" if points is not None else request.sampler,
        pruner=request.pruner,
    )


def open_repeats(
    request: Request,
    storage: BaseStorage,
    space: Space,
    points: Sequence[Mapping[str, Any]],
    names: tuple[str, ...],
) -> Job:
    """Opens the study of the best configs that are trained again, each with every seed.

    Args:
        request: the search.
        storage: its storage.
        space: makes the configs.
        points: parameters of each trial.
        names: of their runs' directories.
    """
    name = f"{request.name}-repeats-{space.digest[:8]}"
    objectives = {request.objective: request.objectives[request.objective]}
    identity = {"title": space.title, "space": space.digest, "token": _token(request)}
    open_study(storage, name, request.out, identity, objectives)
    return Job(
        queue=Queue(storage, name, request.out, len(points), points),
        space=space,
        config=request.config,
        folder="repeats",
        objectives=objectives,
        sampler="random",
        pruner="none",
        names=names,
    )


def open_study(
    storage: BaseStorage,
    name: str,
    out: pathlib.Path,
    identity: Mapping[str, Any],
    objectives: Mapping[str, str],
) -> None:
    """Makes a study, or checks that the one of this name has the same identity.

    Raises:
        UserError: it has another one.
    """
    ways = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
    directions = [ways[way] for way in objectives.values()]
    with exclusively(out):
        names = [study.study_name for study in storage.get_all_studies()]
        if name not in names:
            optuna.create_study(storage=storage, study_name=name, directions=directions)
        study_id = storage.get_study_id_from_name(name)
        theirs = storage.get_study_user_attrs(study_id).get(IDENTITY)
        if theirs is None:
            storage.set_study_user_attr(study_id, IDENTITY, dict(identity))
            return
    _check_same(theirs, identity, f"study '{name}'")


def _check_same(theirs: Mapping[str, Any], ours: Mapping[str, Any], study: str) -> None:
    remedy = "give another --name or --out"
    if theirs["token"] != ours["token"]:
        raise UserError(f"{study} in this --storage belongs to another --out: give another --name")
    if theirs["space"] != ours["space"]:
        raise UserError(f"{study} searches another space than {ours['title']}: {remedy}")
    if theirs.get("objectives") != ours.get("objectives"):
        was = ",".join(f"{name}:{way}" for name, way in theirs["objectives"].items())
        raise UserError(f"{study} has the objective {was}: {remedy}, or --objective {was}")
    if theirs.get("seed") != ours.get("seed"):
        raise UserError(f"{study} has --seed {theirs.get('seed')}: {remedy}, or that seed")
    config = theirs.get("config", {})
    own = ours.get("config", {})
    different = [key for key in sorted(config | own) if config.get(key) != own.get(key)]
    if different:
        listed = "; ".join(
            f"{key} is {config.get(key)!r} there, {own.get(key)!r} here" for key in different[:5]
        )
        raise UserError(f"{study} searches another config: {listed}.\n{remedy.capitalize()}")


def _token(request: Request) -> str:
    """Returns what tells a study's directory from others, also for workers on other machines."""
    with exclusively(request.out):
        path = request.out / FILE
        if path.is_file():
            record = read_json(path, {"token": str, "name": str}, "give another --out")
            if record["name"] != request.name:
                raise UserError(
                    f"--out {request.out} has the study '{record['name']}', not "
                    f"'{request.name}': give another --out"
                )
            return str(record["token"])
        token = secrets.token_hex(8)
        write_json(path, {"name": request.name, "token": token, "command": request.command})
        return token


def compared(config: ConfigDict) -> dict[str, Any]:
    """Returns {key: value} of a config without `FREE`: what a study must not change.

    The values are those of JSON.
    """
    values = json.loads(json.dumps(dict(leaves(config))))
    return {key: value for key, value in values.items() if not key.startswith(FREE)}


def make_sampler(name: str, seed: int, place: int) -> optuna.samplers.BaseSampler:
    """Returns the sampler of one trial.

    Each trial has its own random stream, which follows from the seed and its place: two workers
    never draw the same, and whatever a sampler knows it reads from the storage.
    """
    digits = hashlib.sha256(f"{seed} {place}".encode()).digest()
    own = int.from_bytes(digits[:4], "big")
    if name == "cmaes":
        require("--sampler cmaes", only=("cmaes",))
        return optuna.samplers.CmaEsSampler(seed=own, warn_independent_sampling=False)
    if name == "random":
        return optuna.samplers.RandomSampler(seed=own)
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=own, population_size=20)
    # constant_liar: several workers keep away from what the others are trying.
    return optuna.samplers.TPESampler(seed=own, constant_liar=True)


def make_pruner(name: str, grace: float) -> optuna.pruners.BasePruner:
    """Returns a pruner that counts in percent of the training of the study's config.

    Args:
        name: one of `vision.search.request.PRUNERS`.
        grace: share of the training before which nothing is pruned.
    """
    most, factor = ORDER
    least = max(1, round(most * grace))
    if name == "hyperband":
        return PlaceHyperband(least, most, factor)
    if name == "asha":
        return PlacePruner(optuna.pruners.SuccessiveHalvingPruner(least, factor))
    if name == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=least)
    return optuna.pruners.NopPruner()


def default_name(out: pathlib.Path) -> str:
    """Returns the name of a study from its directory."""
    return re.sub(r"[^\w.-]+", "-", str(out.resolve().name)) or "study"
