"""Published weights: what the config takes over from them, and the arrays that a model starts
from."""

import pathlib

import jax.numpy as jnp
import numpy as np
from flax import nnx

from vision import models  # not its `build`, by which this file would pass for an architecture
from vision.errors import UserError
from vision.models.layers.streams import Streams
from vision.models.weights.files import locate, published_config, read
from vision.models.weights.names import translate
from vision.models.weights.published import Weights
from vision.support.modules import find

INTERPOLATIONS = ("bilinear", "bicubic")


def is_run(spec):
    """True where `config.model.pretrained` is a directory, or could only be one: a run of this
    project."""
    path = pathlib.Path(spec).expanduser()
    return not spec.startswith(("hf:", "package:")) and (path.is_dir() or not path.suffix)


def describe(spec, module):
    """Returns the `Weights` of what `config.model.pretrained` names, or None where nobody says
    anything of them.

    An architecture lists the weights that it knows by the hub's name or by the file's; for others
    of the hub, and files that lie beside a hub's config.json, that file says it.
    """
    known = getattr(module, "WEIGHTS", {})
    tag = spec.partition("@")[0] if spec.startswith("hf:") else spec.rpartition("/")[2]
    if tag in known:
        return known[tag]
    whole = published_config(spec)
    found = whole.get("pretrained_cfg") or {}
    if not {"mean", "std", "input_size"} <= found.keys():
        return None
    interpolation = found.get("interpolation", "bicubic")
    name = f"hf:timm/{whole.get('architecture')}."
    similar = next((w.options for tag, w in known.items() if tag.startswith(name)), {})
    return Weights(
        "",
        options=whole.get("vision_options", similar),
        class_names=tuple(whole.get("label_names") or ()),
        size=found["input_size"][-1],
        crop=found.get("crop_pct", 0.875),
        interpolation=interpolation if interpolation in INTERPOLATIONS else "bicubic",
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
        classes=found.get("num_classes", 1000),
    )


def structure(c):
    """Returns what a config.model asks of `build` that changes the function which its weights make:
    {option: value}."""
    keys = {key: c[key] for key in ("pool", "positions", "distilled", "gate") if c[key] is not None}
    return keys | c.options.to_dict()


def heads(module):
    """Returns how the names begin of what a model for other classes starts anew."""
    return getattr(module, "HEADS", ("head.",))


def load(c, num_classes, image_size, channels):
    """Reads the weights that `config.model` names, made to fit the model that it describes.

    A first convolution is adapted to other channels and positions to another image size. The head
    is left out where the file has none or one for another number of classes.

    Args:
        c: config.model.
        num_classes, image_size, channels: as for `vision.models.build`.

    Returns:
        {our name: float32 array} of the model's parameters and statistics, such as
        "blocks.0.conv.kernel".

    Raises:
        UserError: the file cannot be read, or does not fit: then every tensor that does not is
            listed.
    """
    module = architecture(c)
    if not hasattr(module, "NAMES"):
        raise UserError(
            f"model '{c.name}' has no NAMES: it can start from a run of this project only"
        )
    path = locate(c.pretrained)
    model = nnx.eval_shape(lambda: models.build(c, num_classes, image_size, channels, Streams(0)))
    try:
        found = translate(module, shapes(model), read(path), optional=heads(module))
    except UserError as error:
        raise UserError(
            f"model.pretrained = '{c.pretrained}', model {c.name} {c.variant}: {error}"
        ) from error
    return {name: np.asarray(array, np.float32) for name, array in found.items()}


def shapes(model):
    """Returns {our name: shape} of a model's parameters and statistics."""
    state = nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngState)))
    return {".".join(map(str, path)): variable.shape for path, variable in state}


def fill(model, arrays):
    """Sets a model's variables, abstract or not, from {our name: array}; all but random streams
    must be there.

    Raises:
        UserError: names what is missing, or the first that has another shape.
    """
    state = nnx.to_flat_state(nnx.state(model, nnx.Not(nnx.RngState)))
    missing = [name for name in shapes(model) if name not in arrays]
    if missing:
        raise UserError(
            f"the weights have no {', '.join(missing[:5])}" + (", ..." if len(missing) > 5 else "")
        )
    for path, variable in state:
        name = ".".join(map(str, path))
        if arrays[name].shape != variable.shape:
            raise UserError(
                f"the weights' {name} is {arrays[name].shape}, the model's {variable.shape}"
            )
        variable.set_value(jnp.asarray(arrays[name], variable.dtype))
    return model


def architecture(c):
    """Returns the module that `config.model.name` names."""
    return find("model", c.name, "vision.models")
