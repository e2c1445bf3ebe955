"""Train steps that several trainings of one process share, so that each is compiled once."""

import collections
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from vision.data.loading.loader import Loader
from vision.data.pipeline import Data
from vision.training.dispatch import RATES, CompiledSteps
from vision.training.step import TrainStep

MOST = 8  # train steps that are kept; each holds its programs
# Sections of a config, and keys, that no compiled program depends on.
UNCOMPILED = ("audit", "checkpoint", "early_stopping", "evaluation", "log", "profile")


class SharedSteps:
    """The train steps of the latest trainings, by what they were compiled for.

    Two trainings have one if their configs agree in all except the rate, the weight decay and what
    no program depends on, and their data have the same shapes and classes.
    """

    def __init__(self) -> None:
        self._steps: collections.OrderedDict[str, TrainStep] = collections.OrderedDict()
        self._updates: dict[TrainStep, CompiledSteps] = {}

    def step(
        self, config: ConfigDict, data: Data, mesh: Mesh, build: Callable[[], TrainStep]
    ) -> TrainStep:
        """Returns the train step of a training, a new one from `build` if none fits."""
        key = _key(config, data, mesh)
        if key not in self._steps:
            self._steps[key] = build()
        self._steps.move_to_end(key)
        while len(self._steps) > MOST:
            _, dropped = self._steps.popitem(last=False)
            self._updates.pop(dropped, None)
        return self._steps[key]

    def updates(
        self, config: ConfigDict, step: TrainStep, loader: Loader, mesh: Mesh
    ) -> CompiledSteps:
        """Returns the programs of a train step, for the data of a training's loader."""
        if step not in self._updates:
            self._updates[step] = CompiledSteps(config, step, loader, mesh, with_rates=True)
        updates = self._updates[step]
        for other in self._updates.values():  # or every run's images would stay on the devices
            other.forget()
        updates.use(config, loader)
        return updates


def can_share(config: ConfigDict, teachers: Mapping[str, Any]) -> bool:
    """Returns whether a training may use another one's programs.

    Not with what a program could hold as a constant: weights of teachers and of earlier runs, or
    embeddings that are computed once.
    """
    return not (teachers or config.continual.previous or config.transfer.cache_embeddings)


def _key(config: ConfigDict, data: Data, mesh: Mesh) -> str:
    """Returns all that a train step and its programs depend on, as text."""
    values = json.loads(json.dumps(config.to_dict()))
    for name in UNCOMPILED:
        values.pop(name, None)
    # Whether there is any changes the optimizer's state.
    decays = bool(values["optimizer"]["weight_decay"])
    for name in RATES:
        values["optimizer"].pop(name)
    sizes = {name: len(loader) for name, loader in data.loaders.items()}
    parts = [values, decays, data.classes, data.class_counts.tolist(), sizes, data.text_shape]
    parts += [data.image_size, data.channels, data.loaders["train"].is_resident]
    parts += [dict(mesh.shape), [device.id for device in mesh.devices.flat]]
    return json.dumps([*parts, jax.dtypes.canonicalize_dtype(float).name], sort_keys=True)
