"""Reads a trained model back from its run."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx, traverse_util
from ml_collections import ConfigDict

from vision import models
from vision.errors import UserError
from vision.models import surgery
from vision.models.layers.streams import Streams
from vision.models.surgery.transfer import prepare
from vision.models.weights import pretrained
from vision.run.checkpoints import open_checkpoints
from vision.run.directory import read_run

MODEL = "model."  # in names: the objective's attribute that is validated and served


def run_weights(
    workdir: pathlib.Path | str, attribute: str = "model"
) -> tuple[ConfigDict, dict[str, Any], dict[str, np.ndarray]]:
    """Reads a run's config, its data and its best weights.

    Low-rank updates are merged into their layers. If the run keeps a moving average of the weights,
    that is read.

    Args:
        workdir: the run's directory.
        attribute: of the run's objective.

    Returns:
        (config, data, arrays): as `read_run`, data also with "step", the checkpoint's step; and
        {name in the plain model, or in that attribute: array}.

    Raises:
        UserError: there is no run, or no intact checkpoint.
    """
    config, data, arrays = objective_weights(workdir)
    return config, data, _of_attribute(arrays, attribute)


def objective_weights(
    workdir: pathlib.Path | str,
) -> tuple[ConfigDict, dict[str, Any], dict[str, np.ndarray]]:
    """Returns what `run_weights` does, of all of the objective: {"model.head.kernel": array}.

    Attributes that never change are not in the checkpoints, nor here.
    """
    config, data = read_run(workdir)
    if not pathlib.Path(workdir, "checkpoints").is_dir():
        raise UserError(f"{workdir} has no checkpoints yet: train it further")
    with open_checkpoints(pathlib.Path(workdir), config) as checkpoints:
        step, state = checkpoints.read_best()
    arrays = {}
    for tree in (state["rest"], state.get("ema", state["params"])):
        for path, array in traverse_util.flatten_dict(tree).items():
            arrays[".".join(path)] = np.asarray(array)
    if config.transfer.mode == "lora":
        own = _of_attribute(arrays, "model")
        merged = _merge_low_rank(config, data, own)
        arrays = {name: a for name, a in arrays.items() if name.removeprefix(MODEL) not in own}
        arrays |= {f"{MODEL}{name}": array for name, array in merged.items()}
    return config, data | {"step": step}, arrays


def _of_attribute(arrays: Mapping[str, np.ndarray], attribute: str) -> dict[str, np.ndarray]:
    """Returns {name in an attribute of an objective: array} of the objective's arrays."""
    prefix = f"{attribute}."
    return {k.removeprefix(prefix): a for k, a in arrays.items() if k.startswith(prefix)}


def open_run(workdir: pathlib.Path | str) -> tuple[ConfigDict, dict[str, Any], nnx.Module]:
    """Returns (config, data, model): as `run_weights`, and the best model in evaluation mode."""
    config, data, arrays = run_weights(workdir)
    model = abstract_model(config.model, len(data["classes"]), data["image_size"], data["channels"])
    return config, data, ready(model, arrays)


def ready(model: nnx.Module, arrays: Mapping[str, np.ndarray]) -> nnx.Module:
    """Gives an abstract model its variables, {name: array}, and puts it into evaluation mode."""
    pretrained.fill(model, arrays)
    for i, (_, variable) in enumerate(nnx.to_flat_state(nnx.state(model, nnx.RngState))):
        if isinstance(variable, nnx.RngKey):
            variable.set_value(nnx.Rngs(i).params())
        else:
            variable.set_value(np.zeros(variable.shape, variable.dtype))
    model.eval()
    return model


def abstract_model(c: ConfigDict, num_classes: int, image_size: int, channels: int) -> nnx.Module:
    """Returns the model of `config.model` with shapes and dtypes instead of arrays."""
    return nnx.eval_shape(lambda: models.build(c, num_classes, image_size, channels, Streams(0)))


def _merge_low_rank(
    config: ConfigDict, data: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns the arrays of the plain model from those of one with low-rank updates."""

    def create() -> nnx.Module:
        rngs = Streams(0)
        model = models.build(
            config.model, len(data["classes"]), data["image_size"], data["channels"], rngs
        )
        prepare(config.transfer, model, rngs)
        return model

    model = ready(nnx.eval_shape(create), arrays)
    surgery.merge_low_rank(model)
    return {
        name: np.asarray(variable.get_value())
        for name, variable in surgery.variables(model).items()
    }
