"""Data that fit on the devices: decoded once, kept as uint8. A batch is then a list of indices."""

import concurrent.futures
import copy
from collections.abc import Iterable, Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from vision import parallel
from vision.data.decode import UnreadableImage
from vision.data.loading import sampler
from vision.data.loading.dataset import NONE_READABLE, Dataset, Unreadable
from vision.data.loading.loader import Batch, BatchGenerator
from vision.data.loading.sampler import Sampler
from vision.data.sources import Source
from vision.errors import UserError
from vision.support.processes import cores
from vision.support.progress import Progress


class DeviceLoader:
    """A split whose arrays live on every device.

    Args:
        dataset: the split's `Dataset`.
        unreadable: counts the images that cannot be decoded.
        mesh: from `vision.parallel.make_mesh`.
        arrays: one array per image, in order, all of one shape and dtype, None for an unreadable
            one: embeddings, for example. None decodes the images.

    Attributes:
        data: {"image": (N, ...), uint8 (N, H, W, C) if decoded, "label": int32 (N,), and the
            source's fields} on every device.
    """

    is_resident = True

    def __init__(
        self,
        dataset: Dataset,
        unreadable: Unreadable,
        mesh: Mesh,
        arrays: Sequence[np.ndarray | None] | None = None,
    ):
        self.dataset = dataset
        self.unreadable = unreadable
        self.mesh = mesh
        if arrays is None:
            arrays, reasons = _decode_all(dataset)
            unreadable.add(reasons)
        self._readable = np.array([array is not None for array in arrays])
        readable = np.flatnonzero(self._readable)
        if not len(readable):
            raise UserError(NONE_READABLE.format(len(dataset), dataset.source.name(0)))
        # As in `Dataset.readable`, the next readable image stands in for an unreadable one.
        used = readable[np.searchsorted(readable, np.arange(len(arrays))) % len(readable)]
        data = {
            "image": np.stack([arrays[i] for i in used]),
            "label": dataset.source.labels[used].astype(np.int32),
        }
        data |= {name: values[used] for name, values in dataset.fields.items()}
        advice = "placing the data on the device: set data.resident_gib=0 to load batches"
        with parallel.out_of_memory(lambda: advice):
            self.data = parallel.put_replicated(data, mesh)

    def __len__(self) -> int:
        return len(self.dataset)

    def names(self, step: int, batch_size: int) -> list[str]:
        """Returns the names of a training step's images."""
        return self.dataset.names(step, batch_size)

    def part(self, indices: np.ndarray) -> "DeviceLoader":
        """Returns a loader of some of the images, int (M,)."""
        images = np.asarray(self.data["image"][indices])
        arrays = [
            image if readable else None
            for image, readable in zip(images, self._readable[indices], strict=True)
        ]
        return DeviceLoader(self.dataset.part(indices), self.unreadable, self.mesh, arrays)

    def with_sampler(self, sampler: Sampler) -> "DeviceLoader":
        """Returns a loader of the same arrays, which are shared, in another order."""
        loader = copy.copy(self)
        loader.dataset = copy.copy(self.dataset)
        loader.dataset.sampler = sampler
        return loader

    def train_batches(self, plan: Iterable[tuple[int, int]], batch_size: int) -> BatchGenerator:
        """Yields {"index": int32 (B,)}, or (count, B), for each (first step, count) of the plan."""
        host = parallel.this_host(batch_size)
        for first, count in plan:
            steps = range(first, first + count)
            indices = [self.dataset.sampler.indices(step, batch_size)[host] for step in steps]
            batch = {"index": indices[0] if count == 1 else np.stack(indices)}
            yield parallel.put_batch(batch, self.mesh, stacked=count > 1)

    def abstract_batch(self, batch_size: int) -> Batch:
        """Returns the shapes, dtypes and shardings of one training batch."""
        return parallel.abstract_batch({"index": ((batch_size,), np.int32)}, self.mesh)

    def shared_memory(self, batch_size: int) -> int:
        """Returns 0: batches are lists of indices."""
        return 0

    def sample(self, count: int) -> jax.Array:
        """Returns at most `count` images, evenly spaced: uint8 (N, H, W, C) on every device."""
        return self.data["image"][sampler.spread(count, len(self))]

    def eval_batches(self, batch_size: int) -> BatchGenerator:
        """Yields {"index": int32 (B,), "mask": bool (B,)}: every readable image once."""
        for step in range(sampler.batch_count(batch_size, len(self))):
            indices, mask = sampler.eval_indices(step, batch_size, len(self))
            mask &= self._readable[indices]
            host = parallel.this_host(batch_size)
            yield parallel.put_batch({"index": indices[host], "mask": mask[host]}, self.mesh)


def _decode_all(dataset: Dataset) -> tuple[list[np.ndarray | None], dict[str, str]]:
    """Returns (images, {name: reason}): uint8 images, None if unreadable."""

    def decode(index: int) -> tuple[np.ndarray | None, str]:
        try:
            return dataset.image(index), ""
        except UnreadableImage as error:
            return None, error.reason
        finally:
            work.advance()

    # Decoders release the interpreter lock, so threads suffice; for tiny images, handing the lock
    # over costs more than it gains.
    threads = 1
    if dataset.source.encoded and _first_image_pixels(dataset.source) > 64**2:
        threads = cores()
    work = Progress("decoding", len(dataset), "images")
    with work, concurrent.futures.ThreadPoolExecutor(threads) as pool:
        decoded = list((pool.map if threads > 1 else map)(decode, range(len(dataset))))
    reasons = {
        dataset.source.name(i): reason for i, (image, reason) in enumerate(decoded) if image is None
    }
    return [image for image, _ in decoded], reasons


def _first_image_pixels(source: Source) -> int:
    """Returns the number of pixels of the first image; 0 if it is unreadable."""
    try:
        return source[0]["image"][..., 0].size
    except UnreadableImage:
        return 0
