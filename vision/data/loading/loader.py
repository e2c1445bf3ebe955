"""What every loader of a split can do, wherever its images live."""

from collections.abc import Generator, Iterable
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from vision.data.loading.dataset import Dataset, Unreadable
from vision.errors import RunError


class DataFailed(RunError):
    """The data can no longer be read, for example because a worker process was killed."""


# A batch on the devices: {name: array}, and {name: batch} of other loaders beside it.
Batch = dict[str, Any]
BatchGenerator = Generator[Batch, None, None]


class Loader(Protocol):
    """Batches of one split.

    `DeviceLoader` holds decoded images on every device, `WorkerLoader` decodes them batch by batch;
    both give the same batches in the same order.
    """

    data: dict[str, Any]  # what lives on the devices: {"image", "label", ...}; {} if nothing does
    dataset: Dataset
    mesh: Mesh
    unreadable: Unreadable

    @property
    def is_resident(self) -> bool:
        """Whether the images live on the devices, so that a call can run many steps."""

    def __len__(self) -> int:
        """Returns the number of images."""

    def names(self, step: int, batch_size: int) -> list[str]:
        """Returns the names of a training step's images."""

    def part(self, indices: np.ndarray) -> "Loader":
        """Returns a loader of some of the images, int (M,)."""

    def shared_memory(self, batch_size: int) -> int:
        """Returns how many bytes of shared memory the batches take on their way."""

    def train_batches(self, plan: Iterable[tuple[int, int]], batch_size: int) -> BatchGenerator:
        """Yields the batch of each call of the train step.

        Args:
            plan: yields (first step, count): one batch, or with count > 1 that many batches with a
                leading axis, which only a loader with data on the devices can give.
            batch_size: images per step, over all hosts.

        Yields:
            {"index": int32 (B,)}, places in the split; without data on the devices also
            {"image": uint8 (B, H, W, C), "label": int32 (B,)} and the source's fields.
        """

    def abstract_batch(self, batch_size: int) -> Batch:
        """Returns the shapes, dtypes and shardings of one training batch."""

    def sample(self, count: int) -> jax.Array:
        """Returns at most `count` images, evenly spaced: uint8 (N, H, W, C) on every device."""

    def eval_batches(self, batch_size: int) -> BatchGenerator:
        """Yields every readable image once, in order, the last batch padded.

        Yields:
            As `train_batches`, with "mask": bool (B,), False for padding and unreadable images.
        """
