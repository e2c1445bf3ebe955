"""The size and the channels of the images that a model sees."""

from ml_collections import ConfigDict

from vision.data.loading.dataset import SIZES
from vision.data.sample import Sample, has_color
from vision.data.sources import Source
from vision.errors import UserError


def image_shape(c: ConfigDict, source: Source, sample: Sample) -> tuple[int, int]:
    """Returns (image_size, channels): what the config sets, else what the images are.

    Args:
        c: config.data.
        source: the images.
        sample: some of them, from `vision.data.sample.look`.

    Raises:
        UserError: the config has other numbers, or sets none and the images differ in size.
    """
    if c.image_size < 0 or c.channels not in (0, 1, 3):
        raise UserError(
            f"data.image_size = {c.image_size}, data.channels = {c.channels}: the size must be at "
            "least 0, and channels 0, 1 or 3"
        )
    if c.image_size and c.channels:
        return c.image_size, c.channels
    if not sample.shapes:
        raise UserError(f"cannot read {source.name(0)} or any other image of {c.source}")
    channels = c.channels or max(shape[2] for shape in sample.shapes.values())
    if not c.channels and channels == 1 and source.encoded and has_color(source):
        channels = 3
    by_size: dict[tuple[int, ...], str] = {}
    for name, shape in sample.shapes.items():
        by_size.setdefault(shape[:2], name)
    height, width = next(iter(by_size))
    if not c.image_size and (len(by_size) > 1 or height != width):
        examples = [f"{name} is {w}x{h}" for (h, w), name in list(by_size.items())[:2]]
        raise UserError(SIZES.format(", ".join(examples)))
    return c.image_size or height, channels
