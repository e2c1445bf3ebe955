"""Images of one split at their fixed size, and what to do where one cannot be read. Knows nothing
of JAX."""

import copy

import numpy as np

from vision.data.decode import UnreadableImage, resize_crop, to_channels
from vision.data.splits import Subset
from vision.errors import UserError

SIZES = "the model needs square images of one size, but {}: set data.image_size, for example 224"
NONE = "none of the {} images of a split can be read, beginning with {}"


class Unreadable:
    """Counts the images of all splits that cannot be learned from: unreadable, or lost when the
    source was opened.

    Args:
        total: images of all splits.
        share: how much of them may be missing.
        lost: {name: reason} of what the source has lost.
        whole: images that the source has, of which the splits may be a small draw; None = the
            total.

    Attributes:
        found: {name: reason}.

    Raises:
        UserError: too many are lost.
    """

    def __init__(self, total, share, lost=None, whole=None):
        self.found = dict(lost or {})
        self._lost = len(self.found)
        self._share = share
        self._total = total
        self._whole = (total if whole is None else whole) + self._lost
        self.add({})

    def add(self, found):
        """Adds {name: reason}; raises `UserError` if that makes too many."""
        self.found |= found
        unreadable = len(self.found) - self._lost
        if unreadable / self._total + self._lost / self._whole <= self._share:
            return
        counts = [f"{self._lost} of {self._whole} images are lost"] if self._lost else []
        counts += [f"{unreadable} of {self._total} images are unreadable"] if unreadable else []
        newest = list(self.found.items())[::-1][:3]
        some = "; ".join(
            reason if name in reason else f"{name}: {reason}" for name, reason in newest
        )
        raise UserError(
            f"{' and '.join(counts)}, more than data.max_unreadable = {self._share:g} allows:\n"
            f"{some}{'; and more' if len(self.found) > 3 else ''}. Mend or remove them, or raise it"
        )


class Dataset:
    """Images of one split at their fixed size. Worker processes hold a copy: it knows nothing of
    JAX.

    Args:
        source: a `Source`.
        image_size, channels: what each image is brought to.
        crop_fraction, area, interpolation: see `resize_crop`.
        exact: True where images must have the size already; any other is then a `UserError`.
        order: the `Sampler` of its training batches; its seed draws the random crops.
    """

    def __init__(
        self, source, image_size, channels, crop_fraction, area, exact, order, interpolation="area"
    ):
        self.source = source
        self.sampler = order
        self._exact = exact
        self.image_size = image_size
        self.channels = channels
        self._crop_fraction = crop_fraction
        self._area = area
        self._interpolation = interpolation

    def __len__(self):
        return len(self.source)

    def part(self, indices):
        """Returns the dataset of some of the images, int (M,)."""
        new = copy.copy(self)
        new.source = Subset(self.source, indices)
        return new

    def image(self, index, position=0):
        """Decodes an image to uint8 (image_size, image_size, channels); `position` in the run draws
        the crop."""
        rng = (
            np.random.Generator(np.random.PCG64([self.sampler.seed, position]))
            if self._area
            else None
        )
        image = to_channels(self.source[index]["image"], self.channels)
        if self._exact and image.shape[:2] != (self.image_size, self.image_size):
            raise UserError(
                SIZES.format(f"{self.source.name(index)} is {image.shape[1]}x{image.shape[0]}")
            )
        return resize_crop(
            image, self.image_size, self._crop_fraction, rng, self._area, self._interpolation
        )

    def readable(self, index, position):
        """Returns (image, index, bad): where an image is unreadable the next readable one stands in
        for it."""
        bad = []
        for i in range(len(self)):
            try:
                return self.image((index + i) % len(self), position), (index + i) % len(self), bad
            except UnreadableImage:
                bad.append((index + i) % len(self))
        raise UserError(NONE.format(len(self), self.source.name(index)))

    def names(self, step, batch_size):
        """The names of a training step's images."""
        return [self.source.name(int(i)) for i in self.sampler.indices(step, batch_size)]
