"""The state before the first step: initialized, pretrained, or copied from somewhere."""

import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vision import objectives
from vision.data.loading.loader import Loader
from vision.data.pipeline import Data
from vision.errors import UserError
from vision.objectives.contract import COPY
from vision.objectives.importance import FOLDER
from vision.run.directory import has_checkpoints
from vision.run.initial import initial_weights
from vision.run.teacher import Teacher
from vision.support.progress import waiting
from vision.training.step import TrainStep
from vision.training.teachers import load_arrays, read_constant

SAMPLE = 5000  # images shown to a model that initializes itself from data


class Starts:
    """What the variables of an objective start from.

    Args:
        config: the run's config.
        data: what the run learns from.
        workdir: the run directory; a run that has checkpoints needs no start, except for what these
            leave out.
        definition: of the objective.
        teachers: from `vision.training.teachers.read_teachers`.
        constant: attributes that checkpoints leave out.

    Attributes:
        arrays: {attribute: {name: array}}, "model" for `model.pretrained`.
        constants: those of `arrays` that checkpoints leave out.
        copies: attributes that become copies of the model.

    Raises:
        UserError: weights cannot be read, or do not fit.
    """

    def __init__(
        self,
        config: ConfigDict,
        data: Data,
        workdir: pathlib.Path,
        definition: objectives.Definition,
        teachers: Mapping[str, Teacher],
        constant: Collection[str],
    ):
        self.arrays: dict[str, dict[str, np.ndarray]] = {}
        self.copies: tuple[str, ...] = ()
        with waiting("reading the weights that the model starts from"):
            weights = initial_weights(config, data, workdir)
        if weights is not None:
            self.arrays["model"] = weights
        # A resumed run restores its variables, but a frozen network that embeds is needed before.
        resumed = has_checkpoints(workdir) and not config.transfer.cache_embeddings
        for attribute, start in definition.starts.items():
            if resumed and attribute not in constant:
                continue
            if start == COPY:
                self.copies += (attribute,)
                continue
            arrays = read_constant(workdir, attribute, start) if attribute in constant else None
            if arrays is None and attribute in teachers:
                arrays = teachers[attribute].weights()
            self.arrays[attribute] = arrays or _read_file(definition, attribute, start, data)
        self.constants = {name: self.arrays[name] for name in constant if name in self.arrays}

    def state(self, train_step: TrainStep, loader: Loader) -> dict[str, Any]:
        """Returns the state before the first step; `loader` is the training split's."""
        with waiting("initializing the model"):
            state = train_step.initialize()
            if train_step.adapts_to_data and "model" not in self.arrays:
                state = train_step.initialize_from_data(state, loader.sample(SAMPLE))
            if self.arrays or self.copies:
                state = train_step.start_from(state, self.arrays, self.copies)
        return state


def _read_file(
    definition: objectives.Definition, attribute: str, start: str, data: Data
) -> dict[str, np.ndarray]:
    if hasattr(definition.module, "read_start"):
        return definition.module.read_start(definition.config, attribute, start, data.text_shape)
    path = pathlib.Path(start).expanduser()
    if path.parent.name == FOLDER and not path.is_file():
        raise UserError(
            f"objective.options.{attribute} needs to know which weights matter: run python -m "
            f"vision.continual.importance --workdir {path.parent.parent} --kind {path.stem}"
        )
    if path.suffix != ".safetensors" or not path.is_file():
        raise UserError(
            f"'{attribute}' of the objective '{definition.name}' cannot start from '{start}': it "
            f"must be '{COPY}', a trained model (a run or a bundle, by its directory, or "
            "ARCHITECTURE:VARIANT@WEIGHTS) or a .safetensors file"
        )
    return load_arrays(path)
