"""Data that do not fit on the devices: decoded batch by batch, in worker processes, by Grain."""

import contextlib
import functools
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh

from vision import parallel
from vision.data.decode import UnreadableImage
from vision.data.loading import sampler
from vision.data.loading.dataset import Dataset, Unreadable
from vision.data.loading.loader import Batch, BatchGenerator
from vision.data.loading.workers import BUFFER, Batches, check_limits, shared_memory
from vision.support.processes import cores, prepare_worker


class WorkerLoader:
    """A split that is decoded batch by batch.

    Args:
        dataset: the split's `Dataset`.
        unreadable: counts the images that cannot be decoded.
        workers: processes that decode; 0 decodes in threads of this process.
        mesh: from `vision.parallel.make_mesh`.
        timeout: seconds to wait for a batch; 0 = forever.
    """

    is_resident = False

    def __init__(
        self,
        dataset: Dataset,
        unreadable: Unreadable,
        workers: int,
        mesh: Mesh,
        timeout: float = 0.0,
    ):
        self.dataset = dataset
        self.unreadable = unreadable
        self.mesh = mesh
        self.data: dict[str, Any] = {}
        self._workers = workers
        self._timeout = timeout
        self._passes: dict[int, Any] = {}  # {batch size: iterator} of evaluations to come
        weakref.finalize(self, _close_all, self._passes)  # also when the program ends

    def __len__(self) -> int:
        return len(self.dataset)

    def names(self, step: int, batch_size: int) -> list[str]:
        """Returns the names of a training step's images."""
        return self.dataset.names(step, batch_size)

    def part(self, indices: np.ndarray) -> "WorkerLoader":
        """Returns a loader of some of the images, int (M,)."""
        part = self.dataset.part(indices)
        return WorkerLoader(part, self.unreadable, self._workers, self.mesh, self._timeout)

    def shared_memory(self, batch_size: int) -> int:
        """Returns how many bytes of shared memory the batches take on their way."""
        batch = self.abstract_batch(batch_size).values()
        each = sum(math.prod(array.shape) * array.dtype.itemsize for array in batch)
        return shared_memory(self._workers, each // parallel.process_count())

    def train_batches(self, plan: Iterable[tuple[int, int]], batch_size: int) -> BatchGenerator:
        """Yields a batch for each (step, 1) of the plan.

        The next batch is on its way to the devices while one is used.
        """
        steps = (step for step, _ in plan)
        first = next(steps, None)
        if first is None:
            return
        load = _TrainBatch(self.dataset, batch_size, parallel.this_host(batch_size))
        endless = np.iinfo(np.int32).max
        with contextlib.closing(self._iterate(load, first, endless, batch_size)) as batches:
            ahead = self._place(next(batches))
            for _ in steps:
                batch = ahead
                ahead = self._place(next(batches))
                yield batch
            yield ahead

    def abstract_batch(self, batch_size: int) -> Batch:
        """Returns the shapes, dtypes and shardings of one training batch."""
        side = self.dataset.image_size
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "image": ((batch_size, side, side, self.dataset.channels), np.uint8),
            "label": ((batch_size,), np.int32),
            "index": ((batch_size,), np.int32),
        }
        for name, values in self.dataset.fields.items():
            shapes[name] = ((batch_size, *values.shape[1:]), values.dtype)
        return parallel.abstract_batch(shapes, self.mesh)

    def sample(self, count: int) -> jax.Array:
        """Returns at most `count` images, evenly spaced: uint8 (N, H, W, C) on every device."""
        places = sampler.spread(count, len(self))
        images = [self.dataset.readable(int(i), int(i))[0] for i in places]
        return parallel.put_replicated(np.stack(images), self.mesh)

    def eval_batches(self, batch_size: int) -> BatchGenerator:
        """Yields every readable image once, the last batch padded and masked."""
        count = sampler.batch_count(batch_size, len(self))
        # Workers take seconds to start, so an endless iterator serves every evaluation. One that
        # was broken off is not kept.
        batches = self._passes.pop(batch_size, None)
        if batches is None:
            load = _EvalBatch(self.dataset, batch_size, parallel.this_host(batch_size))
            batches = self._iterate(load, 0, count, batch_size, repeat=True)
        with contextlib.ExitStack() as broken_off:
            broken_off.callback(batches.close)
            for _ in range(count):
                yield self._place(next(batches))
            broken_off.pop_all()
        self._passes[batch_size] = batches

    def _iterate(
        self,
        load: Callable[[int], dict[str, np.ndarray]],
        start: int,
        stop: int,
        batch_size: int,
        repeat: bool = False,
    ) -> Batches:
        check_limits(self.shared_memory(batch_size), self._workers)
        open_iterator = functools.partial(self._open, load, start, stop, repeat)
        return Batches(open_iterator, self._timeout)

    def _open(
        self, load: Callable[[int], dict[str, np.ndarray]], start: int, stop: int, repeat: bool
    ) -> Iterator[dict[str, np.ndarray]]:
        """Returns Grain's iterator."""
        import grain

        steps = grain.MapDataset.range(start, stop)
        if repeat:
            steps = steps.repeat()
        # A batch is one element: a few of them in flight keep every core busy.
        threads = 0 if self._workers else min(16, cores())
        reading = grain.ReadOptions(num_threads=max(1, threads), prefetch_buffer_size=4)
        batches = steps.map(load).to_iter_dataset(reading)
        if self._workers:
            # Grain's workers read absl's flags, which a notebook or a test has not parsed.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            processes = grain.multiprocessing.MultiprocessingOptions(
                self._workers, per_worker_buffer_size=BUFFER
            )
            batches = batches.mp_prefetch(processes, worker_init_fn=_begin_worker)
        return iter(batches)

    def _place(self, batch: dict[str, np.ndarray]) -> Batch:
        unreadable = batch.pop("unreadable")
        places = {}
        for index in map(int, unreadable[unreadable >= 0]):
            places[self.dataset.source.name(index)] = index
        self.unreadable.add(
            {
                name: self._reason(index)
                for name, index in places.items()
                if name not in self.unreadable.reasons
            }
        )
        return parallel.put_batch(batch, self.mesh)

    def _reason(self, index: int) -> str:
        """Reads again what a worker could not: only numbers come back from there."""
        try:
            self.dataset.source[index]
        except UnreadableImage as error:
            return error.reason
        return "unreadable at first, but not the second time"


def _begin_worker(index: int, count: int) -> None:
    """Prepares a worker process; Grain's would outlive a trainer that is killed."""
    prepare_worker()


class _TrainBatch:
    """Loads this host's share of a training batch."""

    def __init__(self, dataset: Dataset, batch_size: int, host: slice):
        self._dataset = dataset
        self._batch_size = batch_size
        self._host = host

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        indices = self._dataset.sampler.indices(step, self._batch_size)[self._host]
        positions = (step * self._batch_size + np.arange(self._batch_size))[self._host]
        images = []
        used = []
        unreadable: list[int] = []
        for index, position in zip(indices, positions, strict=True):
            image, place, skipped = self._dataset.readable(int(index), int(position))
            images.append(image)
            used.append(place)
            unreadable.extend(skipped)
        batch = {
            "image": np.stack(images),
            "label": self._dataset.source.labels[used].astype(np.int32),
            "index": indices,
            "unreadable": _fixed_length(unreadable, len(images)),
        }
        return batch | {name: values[used] for name, values in self._dataset.fields.items()}


class _EvalBatch:
    """Loads this host's share of an evaluation batch."""

    def __init__(self, dataset: Dataset, batch_size: int, host: slice):
        self._dataset = dataset
        self._batch_size = batch_size
        self._host = host

    def __call__(self, step: int) -> dict[str, np.ndarray]:
        indices, mask = sampler.eval_indices(step, self._batch_size, len(self._dataset))
        indices = indices[self._host]
        mask = mask[self._host].copy()
        side = self._dataset.image_size
        images = np.zeros((len(indices), side, side, self._dataset.channels), np.uint8)
        unreadable = []
        for row in np.flatnonzero(mask):
            try:
                images[row] = self._dataset.image(int(indices[row]))
            except UnreadableImage:
                mask[row] = False
                unreadable.append(indices[row])
        return {
            "image": images,
            "label": self._dataset.source.labels[indices].astype(np.int32),
            "mask": mask,
            "unreadable": _fixed_length(unreadable, len(indices)),
        } | {name: values[indices] for name, values in self._dataset.fields.items()}


def _close_all(passes: dict[int, Any]) -> None:
    """Ends the workers of Grain's iterators, which complain if the interpreter does so at exit."""
    while passes:
        passes.popitem()[1].close()


def _fixed_length(indices: Sequence[int], length: int) -> np.ndarray:
    """Pads indices with -1: batches that cross between processes keep one shape."""
    return np.array((list(indices) + [-1] * length)[:length], np.int32)
