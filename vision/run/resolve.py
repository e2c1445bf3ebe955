"""The settings that a config leaves open, filled in from the weights that it starts from."""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from vision.data.fields import FieldEncoder
from vision.errors import UserError
from vision.models.weights import pretrained
from vision.models.weights.published import imagenet_classes
from vision.models.weights.sizes import read_sizes
from vision.run.directory import read_run
from vision.run.outputs import with_outputs
from vision.run.previous import join_source, keeps_head


def resolve_config(config: ConfigDict, workdir: pathlib.Path | str | None = None) -> ConfigDict:
    """Returns the config with open settings filled in from its pretrained weights.

    With `continual.previous` the weights are those of that run unless others are named, the source
    is joined to that run's, and a head without groups gets those of that run's head.

    The settings are `image_size`, `channels`, `normalize`, `mean`, `std`, `crop_fraction` and
    `interpolation` of `data`, and the options of `model` that its `build` needs. A setting is open
    if it is the schema's 0, "auto" or None. Without pretrained weights, or if nothing describes
    them, the config comes back as it is.

    Args:
        config: the run's config.
        workdir: the run directory. If it holds the run already, its config has the settings: the
            weights need not exist any more.

    Raises:
        UserError: there are no such weights.
    """
    if config.continual.previous:
        config = config.copy_and_resolve_references()
        config.data.source = join_source(config, workdir)
        if not config.model.pretrained:
            # A pruned run goes on from its own weights.
            own = read_run(workdir)[0].model.pretrained if workdir and _is_run(workdir) else None
            config.model.pretrained = config.continual.previous if own is None else own
    if not config.model.pretrained:
        return config
    config = config.copy_and_resolve_references()
    c = config.model
    if workdir and _is_run(workdir):
        run_config, data = read_run(workdir)
        if run_config.model.pretrained == c.pretrained:
            d = run_config.data
            _take_all(config, run_config, d.image_size, d.channels)
            return grow_head(config, len(data["classes"]), data["image_size"], data["channels"])
    if pretrained.is_run(c.pretrained):
        run_config, data = read_run(c.pretrained)
        _take_all(config, run_config, data["image_size"], data["channels"])
        return config
    prefix, part = pretrained.part(c)
    weights = pretrained.describe(c.pretrained, pretrained.architecture(part), part.variant)
    if weights is None:
        if not prefix:
            _take_sizes(config)
        if config.data.normalize == "auto":
            print(
                f"note: the preprocessing for {c.pretrained} is unknown, so pixels are scaled to "
                "[-1, 1]; to change that, set data.normalize, data.mean and data.std",
                file=sys.stderr,
            )
        return config
    d = config.data
    d.image_size = d.image_size or weights.size
    d.channels = d.channels or len(weights.mean)
    mean = weights.mean
    std = weights.std
    if d.channels == 1:  # the first convolution then sums over the colors
        mean = (float(np.mean(mean)),)
        std = (float(np.mean(std)),)
    _take_preprocessing(d, weights.crop, weights.interpolation)
    _take_normalization(d, "mean_std", mean, std)
    if not prefix:
        _take_options(c, weights.options)
    return config


def grow_head(config: ConfigDict, num_classes: int, image_size: int, channels: int) -> ConfigDict:
    """Returns the config whose model has outputs for the classes that are new in its data.

    Args:
        config: the run's config, from `resolve_config`. Without `continual.previous` it comes back
            as it is.
        num_classes, image_size, channels: as for `vision.models.build`.

    Raises:
        UserError: see `vision.run.outputs.with_outputs`.
    """
    if not config.continual.previous:
        return config
    config = config.copy_and_resolve_references()
    config.model = with_outputs(config.model, num_classes, image_size, channels)
    return config


def describe_fields(config: ConfigDict, encoder: FieldEncoder | None) -> ConfigDict:
    """Returns the config whose model knows what the texts and columns of the data look like.

    Args:
        config: the run's config.
        encoder: of the texts and columns; None if there are none.

    Raises:
        UserError: there are columns, but the model takes images alone, or the model's weights are
            of other texts.
    """
    module = pretrained.architecture(config.model)
    encoder = encoder or FieldEncoder()
    if not hasattr(module, "fields"):
        if encoder.columns.names:
            raise UserError(
                f"data.columns = '{config.data.columns}': the model '{config.model.name}' takes "
                'only images: set model.name=fusion, or data.columns=""'
            )
        return config
    config = config.copy_and_resolve_references()
    options = config.model.options
    shape = encoder.text_shape
    if shape is not None and tuple(options.get("text", shape)) != tuple(shape):
        raise UserError(
            f"model.pretrained = '{config.model.pretrained}' encodes texts differently: set "
            f"text.tokenizer to its tokenizer.json, and text.context to {options.text[1]}"
        )
    described = {
        "text": tuple(shape or ()),
        "numbers": tuple(map(tuple, encoder.columns.numbers)),
        "categories": tuple(map(tuple, encoder.columns.categories)),
    }
    for option, value in described.items():
        if value:
            options[option] = value
    return config


def _is_run(workdir: pathlib.Path | str | None) -> bool:
    return workdir is not None and pathlib.Path(workdir, "data.json").is_file()


def published_classes(c: ConfigDict) -> tuple[int, Sequence[str]]:
    """Returns (number, names) of the classes of the weights that `config.model` names.

    The names are the weights' own; otherwise ImageNet's for a thousand classes, or numbers.
    """
    weights = pretrained.describe(c.pretrained, pretrained.architecture(c), c.variant)
    if weights:
        count = weights.classes
    else:
        heads = pretrained.heads(pretrained.architecture(c))
        count = read_sizes(c, heads).classes or len(imagenet_classes())
    if weights and weights.class_names:
        return count, weights.class_names
    if count == 1000:
        return count, [name for _, name in imagenet_classes()]
    return count, [str(i) for i in range(count)]


def _take_sizes(config: ConfigDict) -> None:
    """Fills in the images' size and channels, as far as the shapes of unknown weights tell them."""
    d = config.data
    if d.image_size and d.channels:
        return
    sizes = read_sizes(config.model, pretrained.heads(pretrained.architecture(config.model)))
    d.image_size = d.image_size or sizes.image_size
    d.channels = d.channels or sizes.channels


def _take_all(config: ConfigDict, run_config: ConfigDict, image_size: int, channels: int) -> None:
    """Fills the open settings of a config from those of a run."""
    d = config.data
    d.image_size = d.image_size or image_size
    d.channels = d.channels or channels
    data = run_config.data
    _take_preprocessing(d, data.crop_fraction, data.interpolation)
    _take_normalization(d, data.normalize, data.mean, data.std)
    if config.model.name == run_config.model.name:
        _take_options(config.model, pretrained.structure(run_config.model))
        if keeps_head(config) and not config.model.head_groups:
            config.model.head_groups = run_config.model.head_groups
            config.model.head_shares = run_config.model.head_shares


def _take_options(c: ConfigDict, options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        if key in c:
            c[key] = value if c[key] is None else c[key]
        elif key not in c.options:
            c.options[key] = value


def _take_preprocessing(d: ConfigDict, crop_fraction: float, interpolation: str) -> None:
    d.crop_fraction = d.crop_fraction or crop_fraction
    d.interpolation = interpolation if d.interpolation == "auto" else d.interpolation


def _take_normalization(
    d: ConfigDict, name: str, mean: Sequence[float], std: Sequence[float]
) -> None:
    if d.normalize == "auto":
        d.normalize = name
        d.mean = tuple(mean)
        d.std = tuple(std)
