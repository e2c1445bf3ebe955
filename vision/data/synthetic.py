"""Synthetic images that join the training split: what `config.data.synthetic` names.

They join only what a training learns from. Evaluation, the validation split and the test split have
real images alone.
"""

from collections.abc import Collection

import numpy as np

from vision.data.changes import Relabeled
from vision.data.sample import look
from vision.data.sources import Source, compose, is_same, members, open_splits, parse
from vision.errors import UserError, printable

SYNTHETIC = "synthetic"  # the split under which a run lists them
KEY = "data.synthetic"
SAMPLE = 16  # images that are decoded to learn their channels


def open_synthetic(spec: str, real: str, bits: int) -> Source:
    """Opens the images that a source has for training.

    Args:
        spec: config.data.synthetic.
        real: config.data.source.
        bits: config.data.bits.

    Raises:
        UserError: it is the source of the real images, or has no images to train on.
    """
    kind, argument, _ = parse(spec)
    addresses = [compose(*parse(name)[:2], {}) for name in members(real)]
    if any(is_same(compose(kind, argument, {}), address) for address in addresses):
        raise UserError(
            f"{KEY} = '{spec}' is data.source or a part of it, so training would see test images: "
            "give what `python -m vision.synthesize` has written"
        )
    opened = open_splits(spec, bits, 1)
    source = opened.get("train", opened.get("all"))
    if source is None or not len(source):
        raise UserError(
            f"{KEY} = '{spec}' has no images to train on, only {', '.join(opened) or 'nothing'}"
        )
    return source


def match_classes(spec: str, source: Source, classes: tuple[str, ...]) -> Source:
    """Returns synthetic images with the labels that their classes have among the real ones.

    Args:
        spec: config.data.synthetic.
        source: from `open_synthetic`.
        classes: names of the real classes.

    Raises:
        UserError: there are images of a class that the real ones do not have.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    present = np.unique(source.labels)
    unknown = [source.classes[i] for i in present if source.classes[i] not in numbers]
    if unknown:
        raise UserError(
            f"{KEY} = '{spec}' has images of the class '{printable(unknown[0], 60)}', which "
            "data.source does not have: make them from a run on the same classes"
        )
    if source.classes == classes:
        return source
    lookup = np.array([numbers.get(name, 0) for name in source.classes], np.int32)
    return Relabeled(source, lookup[source.labels])


def check_channels(spec: str, source: Source, real: Collection[int]) -> None:
    """Raises `UserError` if synthetic images have other numbers of channels than the real ones."""
    shapes = look(source, SAMPLE).shapes
    if not shapes:
        raise UserError(f"{KEY} = '{spec}': none of its first images can be read")
    for name, shape in shapes.items():
        if shape[2] not in real:
            raise UserError(
                f"{KEY}: {name} has {shape[2]} channels, but the images of data.source have "
                f"{max(real)}: make them from a run with data.channels={max(real)}"
            )


def check_fields(spec: str, source: Source, real: Source) -> None:
    """Raises `UserError` if synthetic images lack a field of the real ones, such as captions."""
    lost = getattr(real, "fields", {}).keys() - getattr(source, "fields", {}).keys()
    if lost:
        raise UserError(
            f"{KEY} = '{spec}' has no field '{min(lost)}', which the images of data.source have: "
            f'set {KEY}=""'
        )
