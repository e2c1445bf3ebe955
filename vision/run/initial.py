"""The weights that a training starts from."""

import pathlib
from collections.abc import Collection
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vision.errors import UserError, shown
from vision.models.surgery.variables import can_grow
from vision.models.weights import pretrained
from vision.models.weights.names import adapt
from vision.run.directory import has_checkpoints
from vision.run.previous import keeps_head
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
        previous = run_config.model if keeps_head(config) else None
        arrays = fit_run_weights(part, run_arrays, *sizes, previous)
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
    previous: ConfigDict | None = None,
) -> dict[str, np.ndarray]:
    """Returns a run's arrays for another run's model: without the head, if it does not fit.

    Args:
        c: config.model.
        arrays: {name: array} of the run.
        num_classes, image_size, channels: as for `vision.models.build`.
        previous: config.model of the run, if the training goes on from it. Its head must then fit,
            or be for fewer classes: it stays as it is, see `vision.training.variables.placed`.

    Raises:
        UserError: the run's model is another one.
    """
    shapes = pretrained.shapes(abstract_model(c, num_classes, image_size, channels))
    module = pretrained.architecture(c)
    heads = pretrained.heads(module)
    unmatched = set(shapes) ^ set(arrays)
    unmatched_body = [name for name in unmatched if not name.startswith(heads)]
    if unmatched_body:
        count = len(unmatched_body)
        detail = f"{count} tensors are in only one of the two, such as {min(unmatched_body)}"
        raise _misfit(c, previous, detail)
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
            here = tuple(shapes[name])
            raise _misfit(c, previous, f"{name} is {fitted[name].shape} there, {here} here")
    if previous is not None:
        _check_head(c, previous, unmatched)
        misfits = [name for name in misfits if not can_grow(fitted[name].shape, shapes[name])]
    return {name: array for name, array in fitted.items() if name not in misfits}


def _misfit(c: ConfigDict, previous: ConfigDict | None, detail: str) -> UserError:
    """Returns what to raise if a run's model is another one than that of `config.model`.

    Args:
        c: config.model, whose weights are the run's.
        previous: see `fit_run_weights`.
        detail: what does not fit.
    """
    ours = f"{c.name} {c.variant}"
    if previous is None:
        return UserError(
            f"model.pretrained = '{c.pretrained}': that run's model is not {ours} with these "
            f"options; {detail}: use the variant and options of that run"
        )
    return UserError(
        f"continual.previous = {c.pretrained}: that run's model is {previous.name} "
        f"{previous.variant}, this config's {ours}; {detail}.\nUse configs/incremental.py:"
        f"{c.pretrained}, or the same model.name, model.variant and options"
    )


def _check_head(c: ConfigDict, previous: ConfigDict, unmatched: Collection[str]) -> None:
    """Raises `UserError` if the old classes would get other outputs than the run's.

    Args:
        c: config.model.
        previous: that of the run.
        unmatched: names of variables that only one of the two heads has.
    """
    if unmatched:
        raise UserError(
            f"continual.previous = {c.pretrained}: that run's head is another one: only one of the "
            f"two has {min(unmatched)}. Set model.head, head_groups and head_shares as in its "
            "config.json, or transfer.new_head=True for a new head"
        )
    groups = tuple(previous.head_groups)
    shares = tuple(previous.head_shares) or (1.0,) * len(groups)
    our_shares = tuple(c.head_shares) or (1.0,) * len(c.head_groups)
    count = len(groups)
    if tuple(c.head_groups)[:count] != groups or our_shares[:count] != shares:
        raise UserError(
            f"continual.previous = {c.pretrained}: model.head_groups and head_shares must begin "
            f"with that run's, {shown(groups)} and {shown(shares)}: leave out both to take them "
            "over"
        )


def _without_head(c: ConfigDict, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    heads = pretrained.heads(pretrained.architecture(c))
    return {name: array for name, array in arrays.items() if not name.startswith(heads)}
