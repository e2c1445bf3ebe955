"""What a model starts from, and a trained model back from its run."""

import pathlib

import numpy as np
from flax import nnx, traverse_util

from vision import models
from vision.errors import UserError
from vision.models import pretrained, surgery
from vision.models.names import adapt
from vision.models.streams import Streams
from vision.training.checkpoint import open_checkpoints
from vision.training.transfer import prepare
from vision.training.workdir import read_run


def adopt(config, workdir=None):
    """Returns the config with what its pretrained weights ask for, wherever it says nothing itself.

    Of `data`: image_size, channels, normalize, mean, std, crop_fraction and interpolation; of `model`: what `build`
    needs. "Nothing" is the schema's 0, "auto" or None. Without pretrained weights, and where nobody says anything of
    them, the config comes back as it is.

    Args:
        config: the run's config.
        workdir: the run's directory. Where it holds the run already, that says what was asked for: the weights need
            not be there any more.

    Raises:
        UserError: there are no such weights.
    """
    c = config.model
    if not c.pretrained:
        return config
    config = config.copy_and_resolve_references()
    d, c = config.data, config.model
    if workdir and pathlib.Path(workdir, "data.json").is_file():
        ours, known = read_run(workdir)
        if ours.model.pretrained == c.pretrained:
            _take_all(config, ours, {"image_size": ours.data.image_size, "channels": ours.data.channels})
            return config
    if pretrained.is_run(c.pretrained):
        _take_all(config, *read_run(c.pretrained))
        return config
    weights = pretrained.describe(c.pretrained, pretrained.architecture(c))
    if weights is None:
        return config
    d.image_size, d.channels = d.image_size or weights.size, d.channels or len(weights.mean)
    mean, std = weights.mean, weights.std
    if d.channels == 1:  # the first convolution then sums over the colors
        mean, std = (float(np.mean(mean)),), (float(np.mean(std)),)
    _take(d, weights.crop, weights.interpolation, "mean_std", mean, std)
    _take_options(c, weights.options)
    return config


def _take_all(config, theirs, known):
    """Fills what a config leaves open from a run's config and its `data.json`."""
    d = config.data
    d.image_size, d.channels = d.image_size or known["image_size"], d.channels or known["channels"]
    data = theirs.data
    _take(d, data.crop_fraction, data.interpolation, data.normalize, data.mean, data.std)
    if config.model.name == theirs.model.name:
        _take_options(config.model, pretrained.structure(theirs.model))


def _take_options(c, options):
    for key, value in options.items():
        if key in c:
            c[key] = value if c[key] is None else c[key]
        elif key not in c.options:
            c.options[key] = value


def _take(d, crop_fraction, interpolation, normalize, mean, std):
    d.crop_fraction = d.crop_fraction or crop_fraction
    d.interpolation = interpolation if d.interpolation == "auto" else d.interpolation
    if d.normalize == "auto":
        d.normalize, d.mean, d.std = normalize, tuple(mean), tuple(std)


def initial_weights(config, data, workdir):
    """Returns {name in the model: array} of the weights that `config.model.pretrained` names, or None.

    None also where `workdir` has checkpoints already: a resumed run needs no start.

    Raises:
        UserError: they cannot be read, or do not fit the model.
    """
    arrays = _initial_weights(config, data, workdir)
    if arrays is None or not config.transfer.new_head:
        return arrays
    heads = pretrained.heads(pretrained.architecture(config.model))
    return {name: array for name, array in arrays.items() if not name.startswith(heads)}


def _initial_weights(config, data, workdir):
    c = config.model
    steps = pathlib.Path(workdir, "checkpoints").glob("*")  # those being written have longer names
    resumed = any(step.name.isdecimal() for step in steps)
    if not c.pretrained or (resumed and not config.transfer.cache_embeddings):
        return None
    if not pretrained.is_run(c.pretrained):
        return pretrained.load(c, len(data.classes), data.image_size, data.channels)
    _, _, arrays = run_weights(c.pretrained)
    return _fitting(c, arrays, len(data.classes), data.image_size, data.channels)


def run_weights(workdir):
    """Returns (config, data, arrays) of a run: as `read_run`, and {name in the plain model: array} of its best state.

    Data also has "step", which that state is from. Low-rank changes are merged into their layers. The moving average of
    the weights is taken where there is one.

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
        arrays |= {".".join(path[1:]): np.asarray(v) for path, v in flat.items() if path[0] == "model"}
    if config.transfer.mode == "lora":
        arrays = _merged(config, data, arrays)
    return config, data | {"step": step}, arrays


def open_run(workdir):
    """Returns (config, data, model): as `run_weights`, and the run's best model, in evaluation mode."""
    config, data, arrays = run_weights(workdir)
    model = _abstract(config.model, len(data["classes"]), data["image_size"], data["channels"])
    return config, data, ready(model, arrays)


def ready(model, arrays):
    """Returns an abstract model with its variables from {name: array}, in evaluation mode."""
    pretrained.fill(model, arrays)
    for i, (_, variable) in enumerate(nnx.to_flat_state(nnx.state(model, nnx.RngState))):
        key = isinstance(variable, nnx.RngKey)
        variable.set_value(nnx.Rngs(i).params() if key else np.zeros(variable.shape, variable.dtype))
    model.eval()
    return model


def _abstract(c, num_classes, image_size, channels):
    return nnx.eval_shape(lambda: models.build(c, num_classes, image_size, channels, Streams(0)))


def _merged(config, data, arrays):
    """Returns the arrays of the plain model from those of one with low-rank changes."""

    def create():
        rngs = Streams(0)
        model = models.build(config.model, len(data["classes"]), data["image_size"], data["channels"], rngs)
        prepare(config.transfer, model, rngs)
        return model

    model = ready(nnx.eval_shape(create), arrays)
    surgery.merge_low_rank(model)
    return {name: np.asarray(variable.get_value()) for name, variable in surgery.names(model).items()}


def _fitting(c, arrays, num_classes, image_size, channels):
    """Returns a run's arrays for another run's model: without the head, where it is for other classes."""
    wanted = pretrained.shapes(_abstract(c, num_classes, image_size, channels))
    module = pretrained.architecture(c)
    heads = pretrained.heads(module)
    differ = [n for n in set(wanted) ^ set(arrays) if not n.startswith(heads)]
    if differ:
        raise UserError(
            f"model.pretrained = '{c.pretrained}': that run's model is no {c.name} {c.variant} with these options; "
            f"{len(differ)} tensors are in one of them only, such as {min(differ)}"
        )
    arrays = {n: adapt(module, n, arrays[n], shape) for n, shape in wanted.items() if n in arrays}
    if any(n.startswith(heads) for n in set(wanted) ^ set(arrays)):  # another kind of head
        arrays = {n: array for n, array in arrays.items() if not n.startswith(heads)}
    faults = [n for n, shape in wanted.items() if n in arrays and arrays[n].shape != tuple(shape)]
    others = [n for n in faults if not n.startswith(heads)]
    if others:
        name = others[0]
        raise UserError(
            f"model.pretrained = '{c.pretrained}': {name} is {arrays[name].shape} there, {tuple(wanted[name])} here: "
            "use the variant and options of that run"
        )
    return {n: array for n, array in arrays.items() if n not in faults}
