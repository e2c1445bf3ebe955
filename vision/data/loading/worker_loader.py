"""Larger data: decoded for each batch, in worker processes, by Grain."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import weakref

import numpy as np
from absl import flags

from vision import parallel
from vision.data.decode import UnreadableImage
from vision.data.loading import sampler


class WorkerLoader:
    """A split that is decoded batch by batch, in `workers` processes, or with 0 in threads of this
    one.

    Attributes:
        dataset, mesh, unreadable: what it was made of.
        names: `Dataset.names`.
    """

    data = {}  # nothing lives on the device

    def __init__(self, dataset, unreadable, workers, mesh):
        self.dataset = dataset
        self._workers = workers
        self.mesh = mesh
        self.names = dataset.names
        self.unreadable = unreadable
        self._passes = {}  # {batch size: iterator} of evaluations to come
        weakref.finalize(self, _close_all, self._passes)  # also where the program ends

    def __len__(self):
        return len(self.dataset)

    def part(self, indices):
        """Returns a loader of some of the images, int (M,)."""
        return WorkerLoader(self.dataset.part(indices), self.unreadable, self._workers, self.mesh)

    def train_batches(self, plan, batch_size):
        """Yields a batch for each (step, 1) of `plan`; the next is on its way to the device while
        one is used."""
        steps = (step for step, _ in plan)
        first = next(steps, None)
        if first is None:
            return
        load = _LoadTrain(self.dataset, batch_size, parallel.this_host(batch_size))
        with contextlib.closing(self._iterate(load, first, np.iinfo(np.int32).max)) as batches:
            ahead = self._place(next(batches))
            for _ in steps:
                now = ahead
                ahead = self._place(next(batches))
                yield now
            yield ahead

    def abstract_batch(self, batch_size):
        """Returns a training batch's shapes, dtypes and shardings."""
        shape = (
            batch_size,
            self.dataset.image_size,
            self.dataset.image_size,
            self.dataset.channels,
        )
        known = {
            "image": (shape, np.uint8),
            "label": ((batch_size,), np.int32),
            "index": ((batch_size,), np.int32),
        }
        return parallel.abstract_batch(known, self.mesh)

    def sample(self, count):
        """Returns `count` images from all over the split, or all: uint8 (N, H, W, C) on every
        device."""
        images = [
            self.dataset.readable(int(i), int(i))[0] for i in sampler.spread(count, len(self))
        ]
        return parallel.put_replicated(np.stack(images), self.mesh)

    def eval_batches(self, batch_size):
        """Yields each readable image once, the last batch padded and masked."""
        count = sampler.batches(batch_size, len(self))
        # Workers take seconds to start, so an endless iterator serves every evaluation. A
        # broken-off one is not kept.
        batches = self._passes.pop(batch_size, None)
        if batches is None:
            load = _LoadEval(self.dataset, batch_size, parallel.this_host(batch_size))
            batches = self._iterate(load, 0, count, repeat=True)
        with contextlib.ExitStack() as broken_off:
            broken_off.callback(batches.close)
            for _ in range(count):
                yield self._place(next(batches))
            broken_off.pop_all()
        self._passes[batch_size] = batches

    def _iterate(self, load, start, stop, repeat=False):
        import grain

        steps = grain.MapDataset.range(start, stop)
        steps = (steps.repeat() if repeat else steps).map(load)
        # A batch is one element: a few of them in flight keep every core busy.
        threads = 0 if self._workers else min(16, os.cpu_count() or 1)
        batches = steps.to_iter_dataset(
            grain.ReadOptions(num_threads=max(1, threads), prefetch_buffer_size=4)
        )
        if self._workers:
            # Grain's workers read absl's flags; a notebook or a test has parsed none
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            options = grain.multiprocessing.MultiprocessingOptions(
                self._workers, per_worker_buffer_size=2
            )
            batches = batches.mp_prefetch(options, worker_init_fn=_begin_worker)
        return iter(batches)

    def _place(self, batch):
        bad = batch.pop("bad")
        new = {self.dataset.source.name(int(i)): int(i) for i in bad[bad >= 0]}
        new = {
            name: self._reason(i) for name, i in new.items() if name not in self.unreadable.found
        }
        self.unreadable.add(new)
        return parallel.put_batch(batch, self.mesh)

    def _reason(self, index):
        """Reads again what a worker could not: only numbers come back from there."""
        try:
            self.dataset.source[index]
        except UnreadableImage as error:
            return error.reason
        return "unreadable at first, but not the second time"


def _begin_worker(index, count):
    """Runs first in each worker. A signal to all processes is for the trainer, which needs a last
    batch to end well."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: _end_after(time.sleep, 10))
    # Grain's workers would outlive a trainer that is killed
    _end_after(multiprocessing.parent_process().join)


def _end_after(wait, *arguments):
    """Ends this process after `wait(*arguments)`."""
    threading.Thread(target=lambda: (wait(*arguments), os._exit(1)), daemon=True).start()


class _LoadTrain:
    def __init__(self, dataset, batch_size, host):
        self._dataset = dataset
        self._batch_size = batch_size
        self._host = host

    def __call__(self, step):
        indices = self._dataset.sampler.indices(step, self._batch_size)
        positions = step * self._batch_size + np.arange(self._batch_size)
        images = []
        labels = []
        bad = []
        indices = indices[self._host]
        for index, position in zip(indices, positions[self._host], strict=True):
            image, used, skipped = self._dataset.readable(int(index), int(position))
            images.append(image)
            labels.append(self._dataset.source.labels[used])
            bad.extend(skipped)
        batch = {"image": np.stack(images), "label": np.array(labels, np.int32), "index": indices}
        return batch | {"bad": _fixed(bad, len(images))}


class _LoadEval:
    def __init__(self, dataset, batch_size, host):
        self._dataset = dataset
        self._batch_size = batch_size
        self._host = host

    def __call__(self, step):
        indices, mask = sampler.eval_indices(step, self._batch_size, len(self._dataset))
        indices = indices[self._host]
        mask = mask[self._host].copy()
        side = self._dataset.image_size
        channels = self._dataset.channels
        images = np.zeros((len(indices), side, side, channels), np.uint8)
        bad = []
        for row in np.flatnonzero(mask):
            try:
                images[row] = self._dataset.image(int(indices[row]))
            except UnreadableImage:
                mask[row] = False
                bad.append(indices[row])
        labels = self._dataset.source.labels[indices].astype(np.int32)
        return {"image": images, "label": labels, "mask": mask, "bad": _fixed(bad, len(indices))}


def _close_all(passes):
    """Ends the workers of Grain's iterators, which complain where the interpreter does it at its
    own end."""
    while passes:
        passes.popitem()[1].close()


def _fixed(indices, length):
    """Pads a list of indices with -1: batches that cross between processes keep one shape."""
    return np.array((list(indices) + [-1] * length)[:length], np.int32)
