"""Gathers the images of many requests into batches, which a thread of its own runs in turn.

While the model computes, the next batch gathers; it starts the moment the model is free. Only a
free model may wait for more images, and only while fewer have come than were in flight when its
last run ended, because the clients that got an answer then are likely to ask again. A single
client never waits. A wait ends after `max_delay`, or after the time of a run if that is shorter, so
waiting can cost no more than running twice would.

Requests take turns: one with more images than a batch holds gives one batch at a time and then
goes behind all others in the queue, so it holds no request up for longer than a batch takes. A
request that plainly cannot be answered in time is refused on arrival.
"""

import asyncio
import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vision.serving.errors import Refused, TooLarge, TooMany, Unavailable
from vision.serving.logs.telemetry import Telemetry
from vision.serving.settings import Settings

RECENT = 0.2  # weight of the last run in the averages
# A request is refused if it seems to take this many times the timeout: averages may mislead.
DOUBT = 2.0


class Prediction(NamedTuple):
    """The model's outputs for a request's images.

    Attributes:
        probabilities: float32 (N, C).
        embedding: float32 (N, D).
        queued: seconds until the first of the images was run.
        computed: seconds from then until the last one was done.
        heat: float32 (N, h, w); None if the model has no heat maps.
    """

    probabilities: np.ndarray
    embedding: np.ndarray
    queued: float
    computed: float
    heat: np.ndarray | None = None


@dataclasses.dataclass(eq=False)
class _Request:
    """A request's images, given to the model in parts of at most a batch; `taken` have been so far.

    `future` gets the list of the parts' `Prediction`s, whose times are those of `perf_counter`.
    """

    images: np.ndarray
    future: asyncio.Future
    taken: int = 0
    predictions: list[Prediction] = dataclasses.field(default_factory=list)

    @property
    def left(self):
        return len(self.images) - self.taken


class _Batch(NamedTuple):
    """The parts of requests that are run together, and the result.

    Attributes:
        parts: [(request, start, stop)].
        arrays: the model's outputs; None if it failed.
        error: the exception it failed with; None if it did not.
        begun, ended: times of `perf_counter`.
    """

    parts: list
    arrays: Sequence[np.ndarray] | None
    error: Exception | None
    begun: float
    ended: float


class Batcher:
    """Runs a model on the images of many requests at a time. Made and used in one event loop.

    Args:
        run: `run(images) -> (probabilities (B, C), embedding (B, D))`, plus heat maps (B, h, w) if
            there are some, for uint8 images (B, H, W, C), B at most `settings.max_batch`. Called in
            one thread.
        settings: the server's settings, with `max_batch` at least 1.
        telemetry: counts each batch.
        labels: (model, version).
    """

    def __init__(
        self,
        run: Callable[[np.ndarray], Sequence[np.ndarray]],
        settings: Settings,
        telemetry: Telemetry,
        labels: tuple[str, str],
    ):
        self._run = run
        self._settings = settings
        self._telemetry = telemetry
        self._labels = labels
        self._loop = asyncio.get_running_loop()
        # Guards all that follows, which both the loop and the thread write.
        self._changed = threading.Condition()
        # The requests with images left, as keys, in the order of their turns.
        self._queue: collections.OrderedDict[_Request, None] = collections.OrderedDict()
        self._waiting = 0  # images in the queue
        self._crowd = 0  # images in flight when the last run ended, a batch at most
        self._needed = 1  # waiting images at which the thread wakes up
        self._closing = False
        self._per_run = 0.0  # seconds, averaged
        self._per_image = 0.0  # seconds per image in a full batch, averaged; 0 if unknown
        self._measured = 0.0  # when `_per_image` was last measured, by `perf_counter`
        self._done = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._work, name=f"run {labels[0]} {labels[1]}", daemon=True
        )
        self._thread.start()

    @property
    def waiting(self) -> int:
        """The number of images in the queue."""
        return self._waiting

    async def submit(self, images: np.ndarray) -> Prediction:
        """Returns the `Prediction` for uint8 images (N, H, W, C), N at least 1.

        More images than a batch holds are run in several. A call that is canceled while its images
        wait takes them with it.

        Raises:
            Refused: there are no images.
            TooMany: the queue is full, or the requests ahead leave no time.
            TooLarge: there are more images than the queue ever holds, or than the model can answer
                in time.
            Unavailable: the batcher is closed.
            RuntimeError: the model has failed.
        """
        begun = time.perf_counter()
        request = _Request(images, self._loop.create_future())
        self._enter(request)
        try:
            parts = await request.future
        finally:
            self._leave(request)
            del request  # its exception, whose traceback has this frame, would keep its images
        first = parts[0].queued
        last = parts[-1].computed
        if len(parts) == 1:
            return parts[0]._replace(queued=first - begun, computed=last - first)
        probabilities = np.concatenate([part.probabilities for part in parts])
        embedding = np.concatenate([part.embedding for part in parts])
        heat = None
        if parts[0].heat is not None:
            heat = np.concatenate([part.heat for part in parts])
        return Prediction(probabilities, embedding, first - begun, last - first, heat)

    async def close(self) -> None:
        """Takes no more requests, and ends the thread once the queue is empty."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.shield(self._done)

    def _enter(self, request):
        """Puts a request into the queue, or raises `Refused`."""
        count = len(request.images)
        limit = self._settings.max_queue
        if not count:
            raise Refused("the request holds no image")
        if count > limit:
            raise TooLarge(f"the request holds {count} images: send at most {limit} at a time")
        with self._changed:
            if self._closing:
                raise Unavailable(
                    f"version {self._labels[1]} of {self._labels[0]} is being unloaded: try again",
                    1.0,
                )
            if self._waiting + count > limit:
                seconds = max(self._waiting * self._per_image, self._per_run, 0.01)
                raise TooMany(
                    f"{self._waiting} images are waiting (at most {limit} may): try again later",
                    seconds,
                )
            if (self._waiting + count) * self._per_image > DOUBT * self._settings.timeout:
                self._check_time(count)
            self._queue[request] = None
            self._waiting += count
            if self._waiting >= self._needed:
                self._changed.notify()

    def _check_time(self, count):
        """Raises `Refused` if `count` more images can hardly be answered in time.

        Ignores an old average: if it let no request in, nothing would ever renew it.
        """
        size = self._settings.max_batch
        timeout = self._settings.timeout
        if time.perf_counter() - self._measured > timeout:
            return
        if count > 1 and count * self._per_image > DOUBT * timeout:
            raise TooLarge(
                f"{count} images would take about {count * self._per_image:.0f} seconds, and the "
                f"timeout is {timeout:g}: send fewer images at a time"
            )
        # Each waiting request runs at most this many of its images first.
        turns = -(-count // size) * size
        ahead = sum(min(request.left, turns) for request in self._queue)
        seconds = (ahead + count) * self._per_image
        if self._queue and seconds > DOUBT * timeout:
            raise TooMany(
                f"{self._waiting} images are waiting, too many for an answer within {timeout:g} "
                "seconds: try again later",
                seconds - timeout,
            )

    def _leave(self, request):
        """Removes a request that has ended, with its images that have not been run."""
        with self._changed:
            if request in self._queue:
                del self._queue[request]
                self._waiting -= request.left

    def _work(self):
        """Runs batches until the batcher is closed; the thread's target."""
        while parts := self._next():
            begun = time.perf_counter()
            slices = [request.images[start:stop] for request, start, stop in parts]
            arrays, error = self._run_images(slices)
            batch = _Batch(parts, arrays, error, begun, time.perf_counter())
            self._measure(batch)
            self._call_in_loop(self._deliver, batch)
        self._call_in_loop(self._done.set_result, None)

    def _run_images(self, slices):
        """Returns (outputs, None) for a batch, or (None, error) if the model fails.

        The error's traceback keeps this frame, which therefore must not lead to the requests: such
        a cycle would keep their images.
        """
        try:
            images = slices[0] if len(slices) == 1 else np.concatenate(slices)
            arrays = self._run(images)
            if any(len(array) != len(images) for array in arrays):
                raise ValueError(f"it returns {len(arrays[0])} answers for {len(images)} images")
            return arrays, None
        except Exception as error:  # the runtimes' exceptions have no common type
            return None, error

    def _measure(self, batch):
        """Updates the averages after a run."""
        count = sum(stop - start for _, start, stop in batch.parts)
        size = self._settings.max_batch
        seconds = batch.ended - batch.begun
        with self._changed:
            self._crowd = min(count + self._waiting, size)
            self._per_run = _average(self._per_run, seconds)
            # A smaller batch may take as long as a full one, so it can only show that an image
            # takes less.
            is_full = count == size
            if batch.error is None and (is_full or seconds < self._per_image * count):
                self._per_image = _average(self._per_image, seconds / count)
                self._measured = batch.ended

    def _call_in_loop(self, function, *arguments):
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _next(self):
        """Waits for the next batch; returns its parts, [(request, start, stop)], or [] at the
        end."""
        with self._changed:
            while True:
                self._wait_for(1)
                self._wait_for(self._crowd, min(self._settings.max_delay, self._per_run))
                if self._queue:
                    break
                if self._closing:
                    return []
            parts = []
            count = 0
            size = self._settings.max_batch
            while self._queue:
                request = next(iter(self._queue))
                part = min(request.left, size)
                if count + part > size:
                    break
                parts.append((request, request.taken, request.taken + part))
                count += part
                request.taken += part
                if request.left:
                    self._queue.move_to_end(request)
                else:
                    del self._queue[request]
            self._waiting -= count
            return parts

    def _wait_for(self, count, timeout=None):
        """Waits, at most `timeout` seconds, until `count` images wait or the batcher closes."""
        self._needed = count
        self._changed.wait_for(lambda: self._waiting >= count or self._closing, timeout)
        self._needed = self._settings.max_queue + 1  # the thread is awake

    def _deliver(self, batch):
        """Gives each part its rows, in the event loop."""
        first = 0
        for request, start, stop in batch.parts:
            last = first + stop - start
            if request.future.done():  # canceled while it was computed
                pass
            elif batch.error is not None:
                failure = RuntimeError(f"version {self._labels[1]} of {self._labels[0]} has failed")
                failure.__cause__ = batch.error
                request.future.set_exception(failure)
            else:
                probabilities, embedding, *heat = (array[first:last] for array in batch.arrays)
                request.predictions.append(
                    Prediction(probabilities, embedding, batch.begun, batch.ended, *heat)
                )
                if stop == len(request.images):
                    request.future.set_result(request.predictions)
            first = last
        self._telemetry.batch(*self._labels, first, self._waiting)


def _average(mean, value):
    return value if not mean else (1 - RECENT) * mean + RECENT * value
