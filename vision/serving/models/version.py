"""A version of a model that is loaded: its bundle, its batcher, and who uses it just now."""

import asyncio
import contextlib
import dataclasses
import logging
import time

import numpy as np

from vision.bundle.directory import open_bundle
from vision.errors import UserError, first_line
from vision.serving.errors import Unavailable
from vision.serving.models.batcher import Batcher

log = logging.getLogger(__name__)

LARGEST = 64  # images in a batch, where its size is measured
# by so much less time an image a larger batch has to be worth what it makes others wait
GAIN = 0.03
RUNS = 10  # of each size, at most: the least time counts, since other versions may be at work
ENOUGH = 0.1  # seconds of runs of a size after which no more are needed
# seconds that a run of each size has taken, all together, after which no larger one is tried
PATIENCE = 3.0


def open_warm(directory, settings):
    """Returns the `vision.bundle.directory.Bundle` in a directory, which has run batches of 1, 2,
    4, ... up to the largest, and the settings of its `Version`: with the size of batch that is
    best, where they leave it to be measured.

    The first run of each size is slower: memory is planned then, and on a GPU kernels are chosen.

    Raises:
        UserError: as `open_bundle`, or it cannot run a batch that `settings.max_batch` allows.
    """
    bundle = open_bundle(directory, settings.threads, settings.provider)
    # A class that is named after a folder whose name is no UTF-8 has surrogates, which no protocol
    # and no log can hold.
    bundle.classes = tuple(name.encode("utf-8", "replace").decode() for name in bundle.classes)
    shape = bundle.image_size, bundle.image_size, bundle.channels
    batch = settings.max_batch or best_batch(run(bundle), shape)
    if settings.max_batch:
        for size in sorted({1 << power for power in range(batch.bit_length())} | {batch}):
            _warm(run(bundle), np.zeros((size, *shape), np.uint8))
    return bundle, dataclasses.replace(settings, max_batch=batch)


def best_batch(run, shape):
    """Returns the fewest images in a batch with which a model is about as fast, an image, as with
    any number.

    A GPU, or many cores, take many images in the time of one. On few cores a model may be fastest
    with the one or two whose activations stay in the cache; then a larger batch only makes the
    first of its images wait for the last. So sizes are doubled for as long as that helps, and twice
    more; until one fails, such as for want of memory; or until they take too long.

    Args:
        run: `run(images)`, of uint8 (B, *shape). What it raises for one image is raised.
        shape: of an image.
    """
    best = 1
    least = float("inf")
    size = 1
    spent = 0.0
    while size <= min(4 * best, LARGEST) and spent < PATIENCE:
        try:
            seconds = _seconds(run, np.zeros((size, *shape), np.uint8))
        except Exception as error:  # the runtimes' exceptions have no common type
            if size == 1:
                raise
            log.warning(
                "a batch of %d images fails, so batches are smaller: %s", size, first_line(error)
            )
            break
        if seconds / size < (1 - GAIN) * least:
            best = size
            least = seconds / size
        size *= 2
        spent += seconds
    return best


def _warm(run, images):
    """Runs a model once; raises `UserError` where it fails for several images, since it may not for
    fewer."""
    try:
        run(images)
    except Exception as error:
        if len(images) == 1:
            raise
        raise UserError(
            f"a batch of {len(images)} images fails: {first_line(error)}; give a smaller --max-batch"
        ) from error


def _seconds(run, images):
    """Returns how long a model takes for a batch, once it has seen one of its size."""
    run(images)
    taken = []
    while len(taken) < RUNS and sum(taken) < ENOUGH:
        begun = time.perf_counter()
        run(images)
        taken.append(time.perf_counter() - begun)
    return min(taken)


def run(bundle):
    """Returns the function that runs a bundle's model, with its heat maps where it has some."""
    return bundle.explain or bundle.probabilities_and_embeddings


class Version:
    """A version that answers. Made and used in one event loop.

    Attributes:
        model, name: of the model and of the version.
        bundle: its `vision.bundle.directory.Bundle`, and the `settings` that `open_warm` returns
            with it.
        batcher: its `vision.serving.models.batcher.Batcher`.
    """

    def __init__(self, model, name, bundle, settings, telemetry):
        self.model = model
        self.name = name
        self.bundle = bundle
        self.batcher = Batcher(run(bundle), settings, telemetry, (model, name))
        self._users = 0
        self._retired = False
        self._idle = asyncio.Event()

    @contextlib.contextmanager
    def in_use(self):
        """Holds the version as it is for the length of a request; raises `Unavailable` where it is
        on its way out."""
        if self._retired:
            raise Unavailable(
                f"version {self.name} of {self.model} is being unloaded: try again", 1.0
            )
        self._users += 1
        try:
            yield self
        finally:
            self._users -= 1
            if self._retired and not self._users:
                self._idle.set()

    async def retire(self):
        """Takes no more requests, waits for the answers of those that there are, and ends the
        batcher."""
        self._retired = True
        if self._users:
            await self._idle.wait()
        await self.batcher.close()
