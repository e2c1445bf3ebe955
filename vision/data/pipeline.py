"""From a source's name to batches on the device.

Data that fit (`config.data.resident_gib`) are decoded once and live on the device as uint8; a batch is then a list of
indices. Larger data are decoded for each batch by Grain's workers. Both give the same batches in the same order.
"""

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
import time
import weakref

import numpy as np
from absl import flags

from vision import parallel
from vision.data import order
from vision.data.decode import UnreadableImage, resize_crop, to_channels
from vision.data.sources import open_splits
from vision.data.splits import Subset, make_splits
from vision.errors import UserError

_SIZES = "the model needs square images of one size, but {}: set data.image_size, for example 224"
_NONE = "none of the {} images of a split can be read, beginning with {}"


@dataclasses.dataclass(frozen=True)
class Data:
    """What a run learns from: three feeds, and what they have in common.

    Attributes:
        feeds: {"train", "val", "test"}, each a `ResidentFeed` or a `LoadedFeed`.
        classes: names, in the labels' order.
        image_size, channels: of every image that a feed gives.
        class_counts: int (C,), images of each class in train.
    """

    feeds: dict
    classes: tuple
    image_size: int
    channels: int
    class_counts: np.ndarray

    @property
    def unreadable(self):
        """{name: reason} of every image found unreadable so far, in any split."""
        return self.feeds["train"].unreadable.found

    def describe(self):
        sizes = ", ".join(f"{len(f):,} {name}" for name, f in self.feeds.items())
        kind = "on the device" if isinstance(self.feeds["train"], ResidentFeed) else "loaded for each batch"
        side = self.image_size
        return f"{sizes} images of {side}x{side}x{self.channels}, {len(self.classes)} classes, {kind}"


def open_data(c, seed, mesh):
    """Opens the splits of `config.data`.

    Raises:
        UserError: see `open_splits` and `make_splits`; also where images differ in size and none is configured, and
            where more images are unreadable than `max_unreadable` allows.
    """
    splits = make_splits(open_splits(c.source), c.fractions, c.val_fraction, seed)
    if c.limit:
        splits = {name: _draw(split, c.limit, seed) for name, split in splits.items()}
    image_size, channels = _image_shape(c, splits["train"])
    size = sum(map(len, splits.values())) * image_size**2 * channels
    resident = size <= c.resident_gib * 2**30 and not c.random_crop_area
    unreadable = Unreadable(sum(map(len, splits.values())), c.max_unreadable)
    feeds = {}
    for name, split in splits.items():
        area = tuple(c.random_crop_area) if name == "train" else ()
        rows = Rows(split, image_size, channels, c.crop_fraction, area, not c.image_size, seed)
        feeds[name] = (
            ResidentFeed(rows, unreadable, mesh)
            if resident
            else LoadedFeed(rows, unreadable, c.workers if split.encoded else 0, mesh)
        )
    classes = splits["train"].classes
    counts = np.bincount(splits["train"].labels, minlength=len(classes))
    return Data(feeds, classes, image_size, channels, counts)


class Unreadable:
    """Counts the unreadable images of all splits.

    Args:
        total: images of all splits.
        share: how much of them may be unreadable.

    Attributes:
        found: {name: reason}.
    """

    def __init__(self, total, share):
        self._total, self._share = total, share
        self.found = {}

    def add(self, found):
        """Adds {name: reason}; raises `UserError` if that makes too many."""
        self.found |= found
        if len(self.found) > self._share * self._total:
            some = ", ".join(list(self.found)[:5]) + (", ..." if len(self.found) > 5 else "")
            raise UserError(
                f"{len(self.found)} of {self._total} images are unreadable, more than data.max_unreadable = "
                f"{self._share:g} allows:\n{some}. Mend or remove them, or raise it"
            )


class Rows:
    """Images of one split at their fixed size. Worker processes hold a copy: it knows nothing of JAX.

    Args:
        source: a `Source`.
        image_size, channels: what each image is brought to.
        crop_fraction, area: see `resize_crop`.
        exact: True where images must have the size already; any other is then a `UserError`.
        seed: of the random crops.
    """

    def __init__(self, source, image_size, channels, crop_fraction, area, exact, seed):
        self.source, self.seed, self._exact = source, seed % 2**32, exact
        self.image_size, self.channels = image_size, channels
        self._crop_fraction, self._area = crop_fraction, area

    def __len__(self):
        return len(self.source)

    def image(self, index, position=0):
        """Decodes an image to uint8 (image_size, image_size, channels); `position` in the run draws the crop."""
        rng = np.random.Generator(np.random.PCG64([self.seed, position])) if self._area else None
        image = to_channels(self.source[index]["image"], self.channels)
        if self._exact and image.shape[:2] != (self.image_size, self.image_size):
            raise UserError(_SIZES.format(f"{self.source.name(index)} is {image.shape[1]}x{image.shape[0]}"))
        return resize_crop(image, self.image_size, self._crop_fraction, rng, self._area)

    def readable(self, index, position):
        """Returns (image, index, bad): where an image is unreadable the next readable one stands in for it."""
        bad = []
        for i in range(len(self)):
            try:
                return self.image((index + i) % len(self), position), (index + i) % len(self), bad
            except UnreadableImage:
                bad.append((index + i) % len(self))
        raise UserError(_NONE.format(len(self), self.source.name(index)))


class ResidentFeed:
    """A split that lives on every device, decoded once."""

    def __init__(self, rows, unreadable, mesh):
        self._source, self._mesh, self._seed = rows.source, mesh, rows.seed
        self.unreadable = unreadable
        images, found = _decode_all(rows)
        unreadable.add(found)
        self._readable = np.array([image is not None for image in images])
        used = np.flatnonzero(self._readable)
        if not len(used):
            raise UserError(_NONE.format(len(rows), rows.source.name(0)))
        # As `Rows.readable`: the next readable image stands in for an unreadable one.
        used = used[np.searchsorted(used, np.arange(len(images))) % len(used)]
        data = {"image": np.stack([images[i] for i in used]), "label": rows.source.labels[used].astype(np.int32)}
        self.data = parallel.put_replicated(data, mesh)

    def __len__(self):
        return len(self._source)

    def train_batches(self, plan, batch_size):
        """Yields what each call of the training step takes.

        Args:
            plan: yields (step, count): a batch, or with count > 1 so many of them with a leading axis.
            batch_size: images a step, over all hosts.
        """
        host = parallel.this_host(batch_size)
        for first, count in plan:
            steps = range(first, first + count)
            indices = [order.train_indices(self._seed, step, batch_size, len(self))[host] for step in steps]
            batch = {"index": indices[0] if count == 1 else np.stack(indices)}
            yield parallel.put_batch(batch, self._mesh, stacked=count > 1)

    def abstract_batch(self, batch_size):
        """Returns a training batch's shapes, dtypes and shardings."""
        return parallel.abstract_batch({"index": ((batch_size,), np.int32)}, self._mesh)

    def first_images(self, count):
        """Returns the first `count` images, or all: uint8 (N, H, W, C) on every device."""
        return self.data["image"][:count]

    def eval_batches(self, batch_size):
        """Yields each readable image once, the last batch padded and masked."""
        for step in range(order.batches(batch_size, len(self))):
            indices, mask = order.eval_indices(step, batch_size, len(self))
            mask &= self._readable[indices]
            host = parallel.this_host(batch_size)
            yield parallel.put_batch({"index": indices[host], "mask": mask[host]}, self._mesh)

    def names(self, step, batch_size):
        """The names of a training step's images."""
        indices = order.train_indices(self._seed, step, batch_size, len(self))
        return [self._source.name(int(i)) for i in indices]


class LoadedFeed:
    """A split that is decoded batch by batch, in `workers` processes, or with 0 in threads of this one."""

    data = {}  # nothing lives on the device

    def __init__(self, rows, unreadable, workers, mesh):
        self._rows, self._workers, self._mesh = rows, workers, mesh
        self.unreadable = unreadable
        self._passes = {}  # {batch size: iterator} of evaluations to come
        weakref.finalize(self, _close_all, self._passes)  # also where the program ends

    def __len__(self):
        return len(self._rows)

    def train_batches(self, plan, batch_size):
        """Yields a batch for each (step, 1) of `plan`; the next is on its way to the device while one is used."""
        steps = [step for step, _ in plan]
        load = _LoadTrain(self._rows, batch_size, parallel.this_host(batch_size))
        ahead = None
        with contextlib.closing(self._iterate(load, steps[0], steps[-1] + 1)) as batches:
            for batch in batches:
                placed = self._place(batch)
                if ahead is not None:
                    yield ahead
                ahead = placed
            yield ahead

    def abstract_batch(self, batch_size):
        """Returns a training batch's shapes, dtypes and shardings."""
        shape = (batch_size, self._rows.image_size, self._rows.image_size, self._rows.channels)
        known = {"image": (shape, np.uint8), "label": ((batch_size,), np.int32), "index": ((batch_size,), np.int32)}
        return parallel.abstract_batch(known, self._mesh)

    def first_images(self, count):
        """Returns the first `count` images, or all, by the next readable one where one is unreadable: uint8."""
        indices = range(min(count, len(self)))
        return parallel.put_replicated(np.stack([self._rows.readable(i, i)[0] for i in indices]), self._mesh)

    def eval_batches(self, batch_size):
        """Yields each readable image once, the last batch padded and masked."""
        count = order.batches(batch_size, len(self))
        # Workers take seconds to start, so an endless iterator serves every evaluation. A broken-off one is not kept.
        batches = self._passes.pop(batch_size, None)
        if batches is None:
            load = _LoadEval(self._rows, batch_size, parallel.this_host(batch_size))
            batches = self._iterate(load, 0, count, repeat=True)
        with contextlib.ExitStack() as broken_off:
            broken_off.callback(batches.close)
            for _ in range(count):
                yield self._place(next(batches))
            broken_off.pop_all()
        self._passes[batch_size] = batches

    def names(self, step, batch_size):
        """The names of a training step's images."""
        indices = order.train_indices(self._rows.seed, step, batch_size, len(self))
        return [self._rows.source.name(int(i)) for i in indices]

    def _iterate(self, load, start, stop, repeat=False):
        import grain

        steps = grain.MapDataset.range(start, stop)
        steps = (steps.repeat() if repeat else steps).map(load)
        # A batch is one element: a few of them in flight keep every core busy.
        threads = 0 if self._workers else min(16, os.cpu_count() or 1)
        batches = steps.to_iter_dataset(grain.ReadOptions(num_threads=max(1, threads), prefetch_buffer_size=4))
        if self._workers:
            if not flags.FLAGS.is_parsed():  # Grain's workers read absl's flags; a notebook or a test has parsed none
                flags.FLAGS.mark_as_parsed()
            options = grain.multiprocessing.MultiprocessingOptions(self._workers, per_worker_buffer_size=2)
            batches = batches.mp_prefetch(options, worker_init_fn=_begin_worker)
        return iter(batches)

    def _place(self, batch):
        bad = batch.pop("bad")
        new = {self._rows.source.name(int(i)): int(i) for i in bad[bad >= 0]}
        new = {name: self._reason(i) for name, i in new.items() if name not in self.unreadable.found}
        self.unreadable.add(new)
        return parallel.put_batch(batch, self._mesh)

    def _reason(self, index):
        """Reads again what a worker could not: only numbers come back from there."""
        try:
            self._rows.source[index]
        except UnreadableImage as error:
            return error.reason
        return "unreadable at first, but not the second time"


def _begin_worker(index, count):
    """Runs first in each worker. A signal to all processes is for the trainer, which needs a last batch to end well."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: _end_after(time.sleep, 10))
    _end_after(multiprocessing.parent_process().join)  # Grain's workers would outlive a trainer that is killed


def _end_after(wait, *arguments):
    """Ends this process after `wait(*arguments)`."""
    threading.Thread(target=lambda: (wait(*arguments), os._exit(1)), daemon=True).start()


class _LoadTrain:
    def __init__(self, rows, batch_size, host):
        self._rows, self._batch_size, self._host = rows, batch_size, host

    def __call__(self, step):
        indices = order.train_indices(self._rows.seed, step, self._batch_size, len(self._rows))
        positions = step * self._batch_size + np.arange(self._batch_size)
        images, labels, bad = [], [], []
        indices = indices[self._host]
        for index, position in zip(indices, positions[self._host], strict=True):
            image, used, skipped = self._rows.readable(int(index), int(position))
            images.append(image)
            labels.append(self._rows.source.labels[used])
            bad.extend(skipped)
        batch = {"image": np.stack(images), "label": np.array(labels, np.int32), "index": indices}
        return batch | {"bad": _fixed(bad, len(images))}


class _LoadEval:
    def __init__(self, rows, batch_size, host):
        self._rows, self._batch_size, self._host = rows, batch_size, host

    def __call__(self, step):
        indices, mask = order.eval_indices(step, self._batch_size, len(self._rows))
        indices, mask = indices[self._host], mask[self._host].copy()
        side, channels = self._rows.image_size, self._rows.channels
        images, bad = np.zeros((len(indices), side, side, channels), np.uint8), []
        for row in np.flatnonzero(mask):
            try:
                images[row] = self._rows.image(int(indices[row]))
            except UnreadableImage:
                mask[row] = False
                bad.append(indices[row])
        labels = self._rows.source.labels[indices].astype(np.int32)
        return {"image": images, "label": labels, "mask": mask, "bad": _fixed(bad, len(indices))}


def _close_all(passes):
    """Ends the workers of Grain's iterators, which complain where the interpreter does it at its own end."""
    while passes:
        passes.popitem()[1].close()


def _fixed(indices, length):
    """Pads a list of indices with -1: batches that cross between processes keep one shape."""
    return np.array((list(indices) + [-1] * length)[:length], np.int32)


def _draw(split, limit, seed):
    """A fixed random draw of at most `limit` images."""
    chosen = np.random.RandomState(seed % 2**32).permutation(len(split))[:limit]
    return split if limit >= len(split) else Subset(split, np.sort(chosen))


def _image_shape(c, source):
    """Returns (image_size, channels): what the config says, else what the images themselves are."""
    if c.image_size < 0 or c.channels not in (0, 1, 3):
        raise UserError(f"data.image_size = {c.image_size}, data.channels = {c.channels}: a size, and 1, 3 or 0")
    if c.image_size and c.channels:
        return c.image_size, c.channels
    shapes = {}
    for index in np.linspace(0, len(source) - 1, min(len(source), 16)).astype(int):
        try:
            shapes.setdefault(source[int(index)]["image"].shape, source.name(int(index)))
        except UnreadableImage:
            continue
    if not shapes:
        raise UserError(f"cannot read {source.name(0)} nor any other image of {c.source}")
    channels = c.channels or max(shape[2] for shape in shapes)
    sides = {shape[:2]: name for shape, name in shapes.items()}
    if not c.image_size and (len(sides) > 1 or len(set(next(iter(sides)))) > 1):
        raise UserError(_SIZES.format(", ".join(f"{name} is {w}x{h}" for (h, w), name in list(sides.items())[:2])))
    return c.image_size or next(iter(sides))[0], channels


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
