"""Data that fit: decoded once, living on every device as uint8. A batch is then a list of
indices."""

import concurrent.futures
import os

import numpy as np

from vision import parallel
from vision.data.decode import UnreadableImage
from vision.data.loading import sampler
from vision.data.loading.dataset import NONE
from vision.errors import UserError


class DeviceLoader:
    """A split that lives on every device, decoded once.

    Attributes:
        data: {"image": uint8 (N, H, W, C), "label": int32 (N,)} on every device.
        dataset, mesh, unreadable: what it was made of.
        names: `Dataset.names`.
    """

    def __init__(self, dataset, unreadable, mesh):
        images, found = _decode_all(dataset)
        unreadable.add(found)
        self._set(dataset, unreadable, images, mesh)

    @classmethod
    def of(cls, loader, images, dataset=None):
        """Returns a loader of the same split as `loader` that holds other arrays in place of its
        images.

        Args:
            loader: a `DeviceLoader` or a `WorkerLoader`.
            images: one array for each image, all of one shape and dtype, in order; None for an
                unreadable one.
            dataset: the split's `Dataset`, where they are no longer the loader's.
        """
        new = cls.__new__(cls)
        new._set(dataset or loader.dataset, loader.unreadable, images, loader.mesh)
        return new

    def _set(self, dataset, unreadable, images, mesh):
        self.dataset = dataset
        self.mesh = mesh
        self.names = dataset.names
        self.unreadable = unreadable
        self._readable = np.array([image is not None for image in images])
        used = np.flatnonzero(self._readable)
        if not len(used):
            raise UserError(NONE.format(len(dataset), dataset.source.name(0)))
        # As `Dataset.readable`: the next readable image stands in for an unreadable one.
        used = used[np.searchsorted(used, np.arange(len(images))) % len(used)]
        data = {
            "image": np.stack([images[i] for i in used]),
            "label": dataset.source.labels[used].astype(np.int32),
        }
        with parallel.out_of_memory(
            lambda: "placing the data on the device: set data.resident_gib=0 to load batches"
        ):
            self.data = parallel.put_replicated(data, mesh)

    def __len__(self):
        return len(self.dataset)

    def part(self, indices):
        """Returns a loader of some of the images, int (M,)."""
        images = np.asarray(self.data["image"][indices])
        images = [
            image if ok else None for image, ok in zip(images, self._readable[indices], strict=True)
        ]
        return DeviceLoader.of(self, images, self.dataset.part(indices))

    def train_batches(self, plan, batch_size):
        """Yields what each call of the training step takes.

        Args:
            plan: yields (step, count): a batch, or with count > 1 so many of them with a leading
                axis.
            batch_size: images a step, over all hosts.
        """
        host = parallel.this_host(batch_size)
        for first, count in plan:
            steps = range(first, first + count)
            indices = [self.dataset.sampler.indices(step, batch_size)[host] for step in steps]
            batch = {"index": indices[0] if count == 1 else np.stack(indices)}
            yield parallel.put_batch(batch, self.mesh, stacked=count > 1)

    def abstract_batch(self, batch_size):
        """Returns a training batch's shapes, dtypes and shardings."""
        return parallel.abstract_batch({"index": ((batch_size,), np.int32)}, self.mesh)

    def sample(self, count):
        """Returns `count` images from all over the split, or all: uint8 (N, H, W, C) on every
        device."""
        return self.data["image"][sampler.spread(count, len(self))]

    def eval_batches(self, batch_size):
        """Yields each readable image once, the last batch padded and masked."""
        for step in range(sampler.batches(batch_size, len(self))):
            indices, mask = sampler.eval_indices(step, batch_size, len(self))
            mask &= self._readable[indices]
            host = parallel.this_host(batch_size)
            yield parallel.put_batch({"index": indices[host], "mask": mask[host]}, self.mesh)


def _decode_all(dataset):
    """Returns (images, {name: reason}): uint8 images, None where unreadable."""

    def one(index):
        try:
            return dataset.image(index), ""
        except UnreadableImage as error:
            return None, error.reason

    # Decoders release the interpreter lock, so threads suffice; for tiny images handing it over
    # costs more than that.
    threads = os.cpu_count() if dataset.source.encoded and _pixels(dataset.source) > 64**2 else 1
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        done = list((pool.map if threads > 1 else map)(one, range(len(dataset))))
    bad = {
        dataset.source.name(i): reason for i, (image, reason) in enumerate(done) if image is None
    }
    return [image for image, _ in done], bad


def _pixels(source):
    """How many pixels the first image has; 0 where it is unreadable."""
    try:
        return source[0]["image"][..., 0].size
    except UnreadableImage:
        return 0
