"""What a config leaves open, filled in from the weights that it starts from."""

import pathlib

import numpy as np

from vision.models.weights import pretrained
from vision.run.directory import read_run


def resolve_config(config, workdir=None):
    """Returns the config with what its pretrained weights ask for, wherever it says nothing itself.

    Of `data`: image_size, channels, normalize, mean, std, crop_fraction and interpolation; of
    `model`: what `build` needs. "Nothing" is the schema's 0, "auto" or None. Without pretrained
    weights, and where nobody says anything of them, the config comes back as it is.

    Args:
        config: the run's config.
        workdir: the run's directory. Where it holds the run already, that says what was asked for:
            the weights need not be there any more.

    Raises:
        UserError: there are no such weights.
    """
    c = config.model
    if not c.pretrained:
        return config
    config = config.copy_and_resolve_references()
    d = config.data
    c = config.model
    if workdir and pathlib.Path(workdir, "data.json").is_file():
        ours, known = read_run(workdir)
        if ours.model.pretrained == c.pretrained:
            _take_all(
                config, ours, {"image_size": ours.data.image_size, "channels": ours.data.channels}
            )
            return config
    if pretrained.is_run(c.pretrained):
        _take_all(config, *read_run(c.pretrained))
        return config
    weights = pretrained.describe(c.pretrained, pretrained.architecture(c))
    if weights is None:
        return config
    d.image_size = d.image_size or weights.size
    d.channels = d.channels or len(weights.mean)
    mean = weights.mean
    std = weights.std
    if d.channels == 1:  # the first convolution then sums over the colors
        mean = (float(np.mean(mean)),)
        std = (float(np.mean(std)),)
    _take(d, weights.crop, weights.interpolation, "mean_std", mean, std)
    _take_options(c, weights.options)
    return config


def _take_all(config, theirs, known):
    """Fills what a config leaves open from a run's config and its `data.json`."""
    d = config.data
    d.image_size = d.image_size or known["image_size"]
    d.channels = d.channels or known["channels"]
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
        d.normalize = normalize
        d.mean = tuple(mean)
        d.std = tuple(std)
