"""Data that fit: decoded once, living on every device as uint8. A batch is then a list of indices."""

import concurrent.futures
import os

import numpy as np

from vision import parallel
from vision.data import order
from vision.data.decode import UnreadableImage
from vision.data.rows import NONE
from vision.errors import UserError


class ResidentFeed:
    """A split that lives on every device, decoded once.

    Attributes:
        data: {"image": uint8 (N, H, W, C), "label": int32 (N,)} on every device.
        rows, mesh, unreadable: what it was made of.
        names: `Rows.names`.
    """

    def __init__(self, rows, unreadable, mesh):
        images, found = _decode_all(rows)
        unreadable.add(found)
        self._set(rows, unreadable, images, mesh)

    @classmethod
    def of(cls, feed, images, rows=None):
        """Returns a feed of the same split as `feed` that holds other arrays in place of its images.

        Args:
            feed: a `ResidentFeed` or a `LoadedFeed`.
            images: one array for each image, all of one shape and dtype, in order; None for an unreadable one.
            rows: the split's `Rows`, where they are no longer the feed's.
        """
        new = cls.__new__(cls)
        new._set(rows or feed.rows, feed.unreadable, images, feed.mesh)
        return new

    def _set(self, rows, unreadable, images, mesh):
        self.rows, self.mesh, self.names, self.unreadable = rows, mesh, rows.names, unreadable
        self._readable = np.array([image is not None for image in images])
        used = np.flatnonzero(self._readable)
        if not len(used):
            raise UserError(NONE.format(len(rows), rows.source.name(0)))
        # As `Rows.readable`: the next readable image stands in for an unreadable one.
        used = used[np.searchsorted(used, np.arange(len(images))) % len(used)]
        data = {"image": np.stack([images[i] for i in used]), "label": rows.source.labels[used].astype(np.int32)}
        with parallel.out_of_memory(lambda: "placing the data on the device: set data.resident_gib=0 to load batches"):
            self.data = parallel.put_replicated(data, mesh)

    def __len__(self):
        return len(self.rows)

    def part(self, indices):
        """Returns a feed of some of the images, int (M,)."""
        images = np.asarray(self.data["image"][indices])
        images = [image if ok else None for image, ok in zip(images, self._readable[indices], strict=True)]
        return ResidentFeed.of(self, images, self.rows.part(indices))

    def train_batches(self, plan, batch_size):
        """Yields what each call of the training step takes.

        Args:
            plan: yields (step, count): a batch, or with count > 1 so many of them with a leading axis.
            batch_size: images a step, over all hosts.
        """
        host = parallel.this_host(batch_size)
        for first, count in plan:
            steps = range(first, first + count)
            indices = [self.rows.order.indices(step, batch_size)[host] for step in steps]
            batch = {"index": indices[0] if count == 1 else np.stack(indices)}
            yield parallel.put_batch(batch, self.mesh, stacked=count > 1)

    def abstract_batch(self, batch_size):
        """Returns a training batch's shapes, dtypes and shardings."""
        return parallel.abstract_batch({"index": ((batch_size,), np.int32)}, self.mesh)

    def sample(self, count):
        """Returns `count` images from all over the split, or all: uint8 (N, H, W, C) on every device."""
        return self.data["image"][order.spread(count, len(self))]

    def eval_batches(self, batch_size):
        """Yields each readable image once, the last batch padded and masked."""
        for step in range(order.batches(batch_size, len(self))):
            indices, mask = order.eval_indices(step, batch_size, len(self))
            mask &= self._readable[indices]
            host = parallel.this_host(batch_size)
            yield parallel.put_batch({"index": indices[host], "mask": mask[host]}, self.mesh)


def _decode_all(rows):
    """Returns (images, {name: reason}): uint8 images, None where unreadable."""

    def one(index):
        try:
            return rows.image(index), ""
        except UnreadableImage as error:
            return None, error.reason

    # Decoders release the interpreter lock, so threads suffice; for tiny images handing it over costs more than that.
    threads = os.cpu_count() if rows.source.encoded and _pixels(rows.source) > 64**2 else 1
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        done = list((pool.map if threads > 1 else map)(one, range(len(rows))))
    bad = {rows.source.name(i): reason for i, (image, reason) in enumerate(done) if image is None}
    return [image for image, _ in done], bad


def _pixels(source):
    """How many pixels the first image has; 0 where it is unreadable."""
    try:
        return source[0]["image"][..., 0].size
    except UnreadableImage:
        return 0
