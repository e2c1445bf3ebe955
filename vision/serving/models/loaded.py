"""A version of a model that is loaded: its bundle, its batcher, and the requests that use it."""

import asyncio
import contextlib
import dataclasses
import logging
import pathlib
import time
from collections.abc import Callable, Iterator

import numpy as np

from vision.bundle.directory import Bundle, open_bundle
from vision.errors import UserError, first_line
from vision.reference.log_format import loggable
from vision.serving.errors import Unavailable
from vision.serving.logs.telemetry import Telemetry
from vision.serving.models.batcher import Batcher
from vision.serving.settings import Settings

log = logging.getLogger(__name__)

LARGEST = 64  # images in the largest batch that is tried when the batch size is measured
# A larger batch must take this much less time per image to be worth the wait that it causes.
GAIN = 0.03
RUNS = 10  # at most, per size: the least time counts, since other versions may be at work
ENOUGH = 0.1  # seconds of runs of one size after which no more are needed
# seconds: once one run of each size so far has taken this long in all, no larger one is tried
PATIENCE = 3.0


def open_warm(directory: pathlib.Path, settings: Settings) -> tuple[Bundle, Settings]:
    """Opens a bundle and runs it on batches of 1, 2, 4, ... up to the largest, so that it is warm.

    The first run of each size is slower: it plans memory and, on a GPU, chooses kernels.

    Returns:
        The bundle, and the settings of its `LoadedVersion`, whose `max_batch` is the best batch
        size if the given settings leave it to be measured.

    Raises:
        UserError: as `open_bundle`, or it cannot run a batch that `settings.max_batch` allows.
    """
    bundle = open_bundle(directory, settings.threads, settings.provider)
    bundle.classes = loggable(bundle.classes)  # no protocol can hold others either
    batch = settings.max_batch or best_batch(run(bundle), bundle.blank)
    if settings.max_batch:
        for size in sorted({1 << power for power in range(batch.bit_length())} | {batch}):
            _warm(run(bundle), bundle.blank(size))
    return bundle, dataclasses.replace(settings, max_batch=batch)


def best_batch(run: Callable[[np.ndarray], object], blank: Callable[[int], np.ndarray]) -> int:
    """Returns the smallest batch size at which a model is about as fast, per image, as at any size.

    A GPU, or many cores, take many images in the time of one. On few cores a model may be fastest
    with the one or two whose activations fit in the cache; then a larger batch only makes its first
    image wait for its last. So sizes are doubled for as long as that helps, and twice more; until
    one fails, for example for lack of memory; or until they take too long.

    Args:
        run: `run(batch)`. Exceptions for a single image propagate.
        blank: returns a batch of so many images.
    """
    best = 1
    least = float("inf")
    size = 1
    spent = 0.0
    while size <= min(4 * best, LARGEST) and spent < PATIENCE:
        try:
            seconds = _seconds(run, blank(size))
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
    """Runs a model once; raises `UserError` if it fails for several images, since fewer may
    work."""
    try:
        run(images)
    except Exception as error:
        if len(images) == 1:
            raise
        raise UserError(
            f"a batch of {len(images)} images fails: {first_line(error)}; "
            "give a smaller --max-batch"
        ) from error


def _seconds(run, images):
    """Returns the seconds that a model takes for a batch, after a first run of the same size."""
    run(images)
    timings = []
    while len(timings) < RUNS and sum(timings) < ENOUGH:
        begun = time.perf_counter()
        run(images)
        timings.append(time.perf_counter() - begun)
    return min(timings)


def run(bundle: Bundle) -> Callable[[np.ndarray], tuple]:
    """Returns the function that runs a bundle's model, with heat maps if it has some."""
    return bundle.explain or bundle.probabilities_and_embeddings


class LoadedVersion:
    """A version that answers requests. Made and used in one event loop.

    Args:
        model: the model's name.
        name: the version's name.
        bundle: its bundle.
        settings: the settings that `open_warm` returns with the bundle.
        telemetry: counts its batches, and shows its age.

    Attributes:
        model, name, bundle: as given.
        batcher: its `vision.serving.models.batcher.Batcher`.
    """

    def __init__(
        self, model: str, name: str, bundle: Bundle, settings: Settings, telemetry: Telemetry
    ):
        self.model = model
        self.name = name
        self.bundle = bundle
        self.batcher = Batcher(run(bundle), settings, telemetry, (model, name))
        self._users = 0
        self._retired = False
        self._idle = asyncio.Event()
        telemetry.loaded(self, bundle.written)

    @contextlib.contextmanager
    def in_use(self) -> Iterator["LoadedVersion"]:
        """Keeps the version loaded during a request; raises `Unavailable` if it is being
        unloaded."""
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

    async def retire(self) -> None:
        """Takes no more requests, waits for the answers to those in progress, ends the batcher."""
        self._retired = True
        if self._users:
            await self._idle.wait()
        await self.batcher.close()
