"""Looks at some images of a source: sizes, colors, formats, and what decoding them loses."""

import collections
import dataclasses
import io
import os

import numpy as np
from PIL import Image

from vision.data.decode import UnreadableImage, largest_value
from vision.data.findings import Finding
from vision.data.formats import format_of, register_formats
from vision.data.sources import Source

HEADERS = 4096  # images whose headers are read to see whether any has colors
_GRAY = ("1", "L", "LA", "La")
_FEW = 14  # bits: images of 15 lose no more than a factor of 2


@dataclasses.dataclass
class Sample:
    """What some images of a source are like.

    Attributes:
        shapes: {name: (height, width, channels)} of those that can be read.
        formats: how many there are of each format.
        unreadable: {name: reason} of the others.
        findings: what decoding them loses.
    """

    shapes: dict[str, tuple[int, ...]]
    formats: collections.Counter[str]
    unreadable: dict[str, str]
    findings: list[Finding]

    @property
    def channels(self) -> set[int]:
        """The numbers of channels of those that can be read."""
        return {shape[2] for shape in self.shapes.values()}


def positions(source: Source, count: int) -> list[int]:
    """Returns at most `count` positions that are spread over a source."""
    return np.linspace(0, len(source) - 1, min(len(source), count)).astype(int).tolist()


def look(source: Source, count: int) -> Sample:
    """Decodes at most `count` images that are spread over a source."""
    sample = Sample({}, collections.Counter(), {}, [])
    largest = {}  # of the 16-bit images
    for index in positions(source, count):
        try:
            shape = source[index]["image"].shape
            data = source.file(index)
        except UnreadableImage as error:
            sample.unreadable[error.name or source.name(index)] = error.reason
            continue
        name = source.name(index)
        sample.shapes[name] = shape
        sample.formats[format_of(data)] += 1
        if data is None:
            continue
        if (value := largest_value(data)) is not None:
            largest[name] = value
        if (frames := _count_frames(data)) > 1:
            kind = "files have several frames or pages; only the first is used"
            sample.findings.append(Finding(kind, name, f"{frames:,}"))
    if largest and not getattr(source, "bits", 0):
        sample.findings += _check_bits(largest)
    return sample


def _check_bits(largest):
    """Returns a finding for each 16-bit image if all leave their upper bits empty.

    `largest` is {name: largest value} of the 16-bit images.
    """
    bits = max(8, max(largest.values()).bit_length())
    if bits > _FEW or not any(largest.values()):
        return []
    kind = f"16-bit images use {bits} bits, so few gray values are left: set data.bits={bits}"
    return [
        Finding(kind, name, f"{value // 256 + 1} of at most {value + 1:,}")
        for name, value in largest.items()
    ]


def _count_frames(data):
    """Returns the number of frames or pages of a file; 1 if its format has but one."""
    if format_of(data) not in ("GIF", "TIFF", "WebP", "AVIF"):
        return 1
    try:
        with Image.open(io.BytesIO(data)) as image:
            return getattr(image, "n_frames", 1)
    except Exception:  # PIL's parsers raise all kinds of errors, which decoding reports
        return 1


def has_color(source: Source) -> bool:
    """Whether any of `HEADERS` images, spread over a source, decodes to RGB by its header.

    Images that are in no file are decoded, of which there may be fewer.
    """
    register_formats()
    return any(_is_color(source, index) for index in positions(source, HEADERS))


def _is_color(source, index):
    try:
        name = source.name(index)
        data = name if os.path.isfile(name) else source.file(index)
        if data is None:
            return source[index]["image"].shape[2] == 3
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            return image.mode not in _GRAY and not image.mode.startswith("I")
    except Exception:  # PIL's parsers raise all kinds of errors, which decoding reports
        return False
