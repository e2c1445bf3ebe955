"""Published weights: the options that they imply, and the arrays that a model starts from."""

import pathlib
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from vision.errors import LONGEST_REASON, UserError, printable
from vision.models import build
from vision.models.layers.streams import Streams
from vision.models.surgery import variables
from vision.models.weights.files import beside, locate, published_config, read, weights_in
from vision.models.weights.hub_config import read_weights
from vision.models.weights.kept import PREFIX, find_kept
from vision.models.weights.names import translate
from vision.models.weights.published import Weights
from vision.support.modules import find

INTERPOLATIONS = ("bilinear", "bicubic")


def is_run(spec: str) -> bool:
    """Returns whether `config.model.pretrained` is a run directory, or can only be one."""
    path = pathlib.Path(spec).expanduser()
    if spec.startswith(("hf:", "package:", PREFIX)) or path.is_file():
        return False
    if path.is_dir():
        return (path / "data.json").is_file() or weights_in(path) is None
    return not path.suffix


def describe(spec: str, module: ModuleType, variant: str = "") -> Weights | None:
    """Returns the `Weights` that `config.model.pretrained` names, or None if it is unknown.

    An architecture lists its published weights by the hub's name or by the file name; other weights
    of the hub, and files beside a hub's config.json, are described by that file. A file of another
    name may be told by the names of its tensors, if its `variant` is given.
    """
    if spec.startswith(PREFIX):
        return find_kept(spec).weights
    published: dict[str, Weights] = getattr(module, "WEIGHTS", {})
    tag = spec.partition("@")[0] if spec.startswith("hf:") else spec.rpartition("/")[2]
    if tag in published:
        return published[tag]
    config = published_config(spec)
    if "architectures" in config and "pretrained_cfg" not in config:
        return _by_transformers(spec)
    prepared = config.get("pretrained_cfg") or {}
    if not {"mean", "std", "input_size"} <= prepared.keys():
        return _by_tensors(spec, [w for w in published.values() if w.variant == variant])
    interpolation = prepared.get("interpolation", "bicubic")
    prefix = f"hf:timm/{config.get('architecture')}."
    similar_options = next((w.options for t, w in published.items() if t.startswith(prefix)), {})
    return Weights(
        "",
        options=config.get("vision_options", similar_options),
        class_names=tuple(config.get("label_names") or ()),
        size=prepared["input_size"][-1],
        crop=prepared.get("crop_pct", 0.875),
        interpolation=interpolation if interpolation in INTERPOLATIONS else "bicubic",
        mean=tuple(prepared["mean"]),
        std=tuple(prepared["std"]),
        classes=prepared.get("num_classes", 1000),
    )


def _by_transformers(spec):
    """Returns what the files of transformers say; None if how it prepares images is not there."""
    try:
        path = beside(spec, "preprocessor_config.json")
    except UserError:
        return None
    return read_weights(beside(spec, "config.json"), path) if path.is_file() else None


def _by_tensors(spec, candidates):
    """Returns the published weights that have a tensor of a name that this file has, or None."""
    candidates = [weights for weights in candidates if weights.tensor]
    names = read(locate(spec)) if candidates else {}
    return next((w for w in candidates if any(re.search(w.tensor, n) for n in names)), None)


def structure(c: ConfigDict) -> dict[str, Any]:
    """Returns {option: value} of config.model, as far as the weights depend on them."""
    keys = {key: c[key] for key in ("pool", "positions", "distilled", "gate") if c[key] is not None}
    return keys | c.options.to_dict()


def heads(module: ModuleType) -> tuple[str, ...]:
    """Returns the prefixes of the variables that start anew if a model is for other classes."""
    return getattr(module, "HEADS", ("head.",))


def load(c: ConfigDict, num_classes: int, image_size: int, channels: int) -> dict[str, np.ndarray]:
    """Reads the weights that `config.model` names and adapts them to the model that it describes.

    A first convolution is adapted to other channels, and positions to another image size. The head
    is left out if the file has none, or one for another number of classes.

    Args:
        c: config.model.
        num_classes, image_size, channels: as for `vision.models.build`.

    Returns:
        {our name: float32 array} of the model's parameters and statistics, such as
        "blocks.0.conv.kernel".

    Raises:
        UserError: the file cannot be read, or does not fit: then lists every tensor that does not.
    """
    module = architecture(c)
    if not hasattr(module, "NAMES"):
        raise UserError(
            f"model '{c.name}' defines no NAMES, so it can start only from a run of this project"
        )
    path = locate(c.pretrained)
    try:
        arrays = read(path)
    except UserError as error:
        raise UserError(f"model.pretrained: {error}") from error
    model = nnx.eval_shape(lambda: build(c, num_classes, image_size, channels, Streams(0)))
    try:
        arrays = translate(module, shapes(model), arrays, optional=heads(module))
        check_finite(arrays)
    except UserError as error:
        raise UserError(
            f"model.pretrained = '{c.pretrained}', model {c.name} {c.variant}: {error}"
        ) from error
    return {name: np.asarray(array, np.float32) for name, array in arrays.items()}


def check_finite(arrays: Mapping[str, np.ndarray]) -> None:
    """Raises `UserError` if weights, {name: array}, are NaN or infinite: they predict nothing."""
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise UserError(
            f"the weights are NaN or infinite in {len(bad)} of {len(arrays)} tensors, such as "
            f"{printable(bad[0], LONGEST_REASON)}: use weights of a training that did not diverge"
        )


def shapes(model: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Returns {our name: shape} of a model's parameters and statistics."""
    return {name: variable.shape for name, variable in variables(model).items()}


def fill(model: nnx.Module, arrays: Mapping[str, np.ndarray]) -> nnx.Module:
    """Sets a model's variables from {our name: array}, all except random streams.

    The model may be abstract; it is changed in place and returned.

    Raises:
        UserError: names the variables that are missing, or the first that has another shape, or
            numbers that are not finite.
    """
    check_finite(arrays)
    model_variables = variables(model)
    missing = [name for name in model_variables if name not in arrays]
    if missing:
        more = ", ..." if len(missing) > 5 else ""
        raise UserError(f"the weights have no {', '.join(missing[:5])}{more}")
    for name, variable in model_variables.items():
        if arrays[name].shape != variable.shape:
            raise UserError(
                f"the weights' {name} is {arrays[name].shape}, the model's {variable.shape}"
            )
        variable.set_value(jnp.asarray(arrays[name], variable.dtype))
    return model


def part(c: ConfigDict) -> tuple[str, ConfigDict]:
    """Returns (prefix of its variables, config.model) of the part that weights of others fill.

    For most models that is all of it, and the prefix is "". An architecture that holds another one
    has `network(c)`, which says so.
    """
    module = architecture(c)
    return module.network(c) if hasattr(module, "network") else ("", c)


def architecture(c: ConfigDict) -> ModuleType:
    """Returns the module that `config.model.name` names."""
    return find("model", c.name, "vision.models")
