"""A trained model back from its run."""

import pathlib

import numpy as np
from flax import nnx, traverse_util

from vision import models
from vision.errors import UserError
from vision.models import surgery
from vision.models.layers.streams import Streams
from vision.models.surgery.transfer import prepare
from vision.models.weights import pretrained
from vision.run.checkpoints import open_checkpoints
from vision.run.directory import read_run


def run_weights(workdir):
    """Returns (config, data, arrays) of a run: as `read_run`, and {name in the plain model: array}
    of its best state.

    Data also has "step", which that state is from. Low-rank changes are merged into their layers.
    The moving average of the weights is taken where there is one.

    Raises:
        UserError: no run is there, or no whole checkpoint.
    """
    config, data = read_run(workdir)
    if not pathlib.Path(workdir, "checkpoints").is_dir():
        raise UserError(f"{workdir} has no checkpoints yet: train it further")
    with open_checkpoints(pathlib.Path(workdir), config) as checkpoints:
        step, state = checkpoints.read_best()
    arrays = {}
    for tree in (state["rest"], state.get("ema", state["params"])):
        flat = traverse_util.flatten_dict(tree)
        arrays |= {
            ".".join(path[1:]): np.asarray(v) for path, v in flat.items() if path[0] == "model"
        }
    if config.transfer.mode == "lora":
        arrays = _merged(config, data, arrays)
    return config, data | {"step": step}, arrays


def open_run(workdir):
    """Returns (config, data, model): as `run_weights`, and the run's best model, in evaluation
    mode."""
    config, data, arrays = run_weights(workdir)
    model = abstract_model(config.model, len(data["classes"]), data["image_size"], data["channels"])
    return config, data, ready(model, arrays)


def ready(model, arrays):
    """Returns an abstract model with its variables from {name: array}, in evaluation mode."""
    pretrained.fill(model, arrays)
    for i, (_, variable) in enumerate(nnx.to_flat_state(nnx.state(model, nnx.RngState))):
        key = isinstance(variable, nnx.RngKey)
        variable.set_value(
            nnx.Rngs(i).params() if key else np.zeros(variable.shape, variable.dtype)
        )
    model.eval()
    return model


def abstract_model(c, num_classes, image_size, channels):
    return nnx.eval_shape(lambda: models.build(c, num_classes, image_size, channels, Streams(0)))


def _merged(config, data, arrays):
    """Returns the arrays of the plain model from those of one with low-rank changes."""

    def create():
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
