"""The weights that a training starts from."""

import pathlib

from vision.errors import UserError
from vision.models.weights import pretrained
from vision.models.weights.names import adapt
from vision.run.weights import abstract_model, run_weights


def initial_weights(config, data, workdir):
    """Returns {name in the model: array} of the weights that `config.model.pretrained` names, or
    None.

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


def _fitting(c, arrays, num_classes, image_size, channels):
    """Returns a run's arrays for another run's model: without the head, where it is for other
    classes."""
    wanted = pretrained.shapes(abstract_model(c, num_classes, image_size, channels))
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
