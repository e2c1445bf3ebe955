"""The images of one split at a fixed size, and what happens if one cannot be read.

Imports no JAX: worker processes hold copies.
"""

import copy
from collections.abc import Mapping

import numpy as np

from vision.data.decode import UnreadableImage, resize_crop, to_channels
from vision.data.loading.sampler import Sampler
from vision.data.sources import Source
from vision.data.subset import Subset
from vision.errors import UserError

SIZES = "the model needs square images of one size, but {}: set data.image_size, for example 224"
NONE_READABLE = "none of the {} images of a split can be read, beginning with {}"


class Unreadable:
    """Counts the images of all splits that cannot be used: unreadable ones, and ones that were lost
    when the source was opened.

    Args:
        total: number of images in all splits.
        share: share of them that may be missing, in [0, 1].
        lost: {name: reason} of the images that the source has lost.
        available: number of images in the source, of which the splits may be a small draw; None if
            that is the total.

    Attributes:
        reasons: {name: reason} of every image that is missing so far.

    Raises:
        UserError: too many are lost.
    """

    def __init__(
        self,
        total: int,
        share: float,
        lost: Mapping[str, str] | None = None,
        available: int | None = None,
    ):
        self.reasons: dict[str, str] = dict(lost or {})
        self._lost = len(self.reasons)
        self._share = share
        self._total = total
        self._available = (total if available is None else available) + self._lost
        self.add({})

    def add(self, reasons: Mapping[str, str]) -> None:
        """Adds {name: reason}; raises `UserError` if that makes too many."""
        self.reasons |= reasons
        unreadable = len(self.reasons) - self._lost
        if unreadable / self._total + self._lost / self._available <= self._share:
            return
        counts = []
        if self._lost:
            counts.append(f"{self._lost} of {self._available} images are lost")
        if unreadable:
            counts.append(f"{unreadable} of {self._total} images are unreadable")
        newest = list(self.reasons.items())[::-1][:3]
        examples = "; ".join(
            reason if name in reason else f"{name}: {reason}" for name, reason in newest
        )
        more = "; and more" if len(self.reasons) > 3 else ""
        raise UserError(
            f"{' and '.join(counts)}, more than data.max_unreadable = {self._share:g} allows:\n"
            f"{examples}{more}. Fix or remove them, or raise data.max_unreadable"
        )


class Dataset:
    """The images of one split at a fixed size.

    Args:
        source: the split's `Source`.
        image_size: side of every image, pixels.
        channels: 1 (gray) or 3 (RGB).
        crop_fraction, area, interpolation: see `resize_crop`.
        exact: True if images must already have the size; any other is then a `UserError`.
        sampler: the `Sampler` of its training batches; its seed draws the random crops.
    """

    def __init__(
        self,
        source: Source,
        image_size: int,
        channels: int,
        crop_fraction: float,
        area: tuple[float, ...],
        exact: bool,
        sampler: Sampler,
        interpolation: str = "area",
    ):
        self.source = source
        self.sampler = sampler
        self.image_size = image_size
        self.channels = channels
        self._exact = exact
        self._crop_fraction = crop_fraction
        self._area = area
        self._interpolation = interpolation

    def __len__(self) -> int:
        return len(self.source)

    @property
    def fields(self) -> dict[str, np.ndarray]:
        """The source's further fields, {name: (N, ...)}."""
        return dict(getattr(self.source, "fields", {}))

    def part(self, indices: np.ndarray) -> "Dataset":
        """Returns the dataset of some of the images, int (M,)."""
        new = copy.copy(self)
        new.source = Subset(self.source, indices)
        return new

    def image(self, index: int, position: int = 0) -> np.ndarray:
        """Decodes an image to uint8 (image_size, image_size, channels).

        Args:
            index: place of the image in the split.
            position: place of the image in the run, which draws its random crop.

        Raises:
            UnreadableImage: the image cannot be decoded.
            UserError: the image must have the size already, and does not.
        """
        generator = None
        if self._area:
            generator = np.random.Generator(np.random.PCG64([self.sampler.seed, position]))
        image = to_channels(self.source[index]["image"], self.channels)
        if self._exact and image.shape[:2] != (self.image_size, self.image_size):
            name = self.source.name(index)
            raise UserError(SIZES.format(f"{name} is {image.shape[1]}x{image.shape[0]}"))
        return resize_crop(
            image,
            self.image_size,
            self._crop_fraction,
            generator,
            self._area,
            self._interpolation,
        )

    def readable(self, index: int, position: int) -> tuple[np.ndarray, int, list[int]]:
        """Decodes an image, or the next readable one in its place.

        Returns:
            (image, index of the image that was read, indices of those that could not be read).
        """
        unreadable: list[int] = []
        for offset in range(len(self)):
            candidate = (index + offset) % len(self)
            try:
                return self.image(candidate, position), candidate, unreadable
            except UnreadableImage:
                unreadable.append(candidate)
        raise UserError(NONE_READABLE.format(len(self), self.source.name(index)))

    def names(self, step: int, batch_size: int) -> list[str]:
        """Returns the names of a training step's images."""
        return [self.source.name(int(i)) for i in self.sampler.indices(step, batch_size)]
