"""The weights that a training starts from."""

import os
import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vision.errors import UserError
from vision.models.surgery.variables import can_grow
from vision.models.weights import pretrained
from vision.models.weights.names import adapt
from vision.run.directory import has_checkpoints
from vision.run.weights import abstract_model, run_weights


def initial_weights(
    config: ConfigDict, data: Any, workdir: pathlib.Path | str
) -> dict[str, np.ndarray] | None:
    """Returns the weights that `config.model.pretrained` names.

    Args:
        config: the run's config.
        data: the run's `vision.data.pipeline.Data`.
        workdir: the run directory.

    Returns:
        {name in the model: array}; None without pretrained weights, and if `workdir` has
        checkpoints already: a resumed run does not start again.

    Raises:
        UserError: they cannot be read, or do not fit the model.
    """
    c = config.model
    # A head on cached embeddings needs the network that makes them in any case.
    resumed = has_checkpoints(workdir) and not config.transfer.cache_embeddings
    if not c.pretrained or resumed:
        return None
    sizes = (len(data.classes), data.image_size, data.channels)
    prefix = ""
    part = c
    if pretrained.is_run(c.pretrained):
        run_config, _, run_arrays = run_weights(c.pretrained)
        if run_config.model.name != c.name:
            prefix, part = pretrained.part(c)
        previous = config.continual.previous
        goes_on = bool(previous) and os.path.realpath(previous) == os.path.realpath(c.pretrained)
        arrays = fit_run_weights(part, run_arrays, *sizes, grows=goes_on)
    else:
        prefix, part = pretrained.part(c)
        arrays = pretrained.load(part, *sizes)
    if prefix:
        body = _without_head(part, arrays)
        return {f"{prefix}{name}": array for name, array in body.items()}
    return _without_head(c, arrays) if config.transfer.new_head else arrays


def fit_run_weights(
    c: ConfigDict,
    arrays: dict[str, np.ndarray],
    num_classes: int,
    image_size: int,
    channels: int,
    grows: bool = False,
) -> dict[str, np.ndarray]:
    """Returns a run's arrays for another run's model: without the head, if it does not fit.

    If it `grows`, a head for fewer classes stays as it is, see `vision.training.variables.placed`.
    """
    shapes = pretrained.shapes(abstract_model(c, num_classes, image_size, channels))
    module = pretrained.architecture(c)
    heads = pretrained.heads(module)
    unmatched = set(shapes) ^ set(arrays)
    unmatched_body = [name for name in unmatched if not name.startswith(heads)]
    if unmatched_body:
        raise UserError(
            f"model.pretrained = '{c.pretrained}': that run's model is not {c.name} {c.variant} "
            f"with these options; {len(unmatched_body)} tensors are in only one of the two, such "
            f"as {min(unmatched_body)}"
        )
    fitted = {
        name: adapt(module, name, arrays[name], shape)
        for name, shape in shapes.items()
        if name in arrays
    }
    if unmatched:  # another kind of head
        fitted = _without_head(c, fitted)
    misfits = [name for name, array in fitted.items() if array.shape != tuple(shapes[name])]
    for name in misfits:
        if not name.startswith(heads):
            raise UserError(
                f"model.pretrained = '{c.pretrained}': {name} is {fitted[name].shape} there, "
                f"{tuple(shapes[name])} here: use the variant and options of that run"
            )
    if grows:
        misfits = [name for name in misfits if not can_grow(fitted[name].shape, shapes[name])]
    return {name: array for name, array in fitted.items() if name not in misfits}


def _without_head(c: ConfigDict, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    heads = pretrained.heads(pretrained.architecture(c))
    return {name: array for name, array in arrays.items() if not name.startswith(heads)}
