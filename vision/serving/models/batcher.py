"""Gathers the images of many requests into batches, which a thread of its own runs one after the
other.

While the model computes, the next batch gathers: it starts the moment that the model is free. Only
a model that is free may wait for more images, and only while fewer have come than were in flight
when its last run ended, because those who got an answer then are likely to ask again. A client that
is alone never waits. A wait ends after `max_delay`, or after the time of a run where that is
shorter, so that waiting can cost no more than running twice would.

Requests take turns: one of more images than a batch holds gives one batch at a time, and then
stands behind all others that wait, so that it holds nobody up for longer than a batch takes. What
plainly cannot be answered in time is refused when it comes.
"""

import asyncio
import collections
import dataclasses
import threading
import time
from typing import NamedTuple

import numpy as np

from vision.serving.errors import Refused, TooLarge, TooMany, Unavailable

RECENT = 0.2  # weight of the last run in the averages
# refused is what seems to take so many times the time that an answer has: averages may mislead
DOUBT = 2.0


class Found(NamedTuple):
    """What a model says of a request's images.

    Attributes:
        probabilities: float32 (N, C).
        embedding: float32 (N, D).
        queued: seconds until the first of the images was run.
        computed: seconds from there until the last was done.
        heat: float32 (N, h, w); None where the model has no heat maps.
    """

    probabilities: np.ndarray
    embedding: np.ndarray
    queued: float
    computed: float
    heat: np.ndarray | None = None


@dataclasses.dataclass(eq=False)
class _Request:
    """A request's images, of which the first `taken` have been given to the model, in parts of a
    batch at most.

    `future` gets the list of the parts' `Found`, with the times of `perf_counter`.
    """

    images: np.ndarray
    future: asyncio.Future
    taken: int = 0
    found: list = dataclasses.field(default_factory=list)

    @property
    def left(self):
        return len(self.images) - self.taken


class Batcher:
    """Runs a model on the images of many requests at a time. Made and used in one event loop.

    Args:
        run: `run(images) -> (probabilities (B, C), embedding (B, D))`, and heat maps (B, h, w)
            where there are some, of uint8 images (B, H, W, C), B at most `settings.max_batch`.
            Called in one thread.
        settings: `vision.serving.settings.Settings`, `max_batch` at least 1.
        telemetry: `vision.serving.logs.telemetry.Telemetry`, which is told of each batch.
        labels: (model, version).
    """

    def __init__(self, run, settings, telemetry, labels):
        self._run = run
        self._settings = settings
        self._telemetry = telemetry
        self._labels = labels
        self._loop = asyncio.get_running_loop()
        # guards what follows, of which the loop and the thread both write
        # the requests that have images left, as keys, in the order of turns
        # images in the queue; those in flight when the last run ended, a batch at most
        self._changed = threading.Condition()
        self._queue = collections.OrderedDict()
        self._waiting = self._crowd = 0
        self._needed = 1  # waiting images at which the thread wakes up
        self._closing = False
        self._per_run = 0.0  # seconds, averaged
        self._per_image = 0.0  # seconds of an image in a full batch, averaged; 0 = not known
        self._known = 0.0  # when it was last measured, of `perf_counter`
        self._done = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._work, name=f"run {labels[0]} {labels[1]}", daemon=True
        )
        self._thread.start()

    @property
    def waiting(self):
        """Images in the queue."""
        return self._waiting

    async def submit(self, images):
        """Returns the `Found` of uint8 images (N, H, W, C), N at least 1; more than a batch are run
        in several.

        A call that is canceled while its images wait takes them with it.

        Raises:
            Refused: there are none.
            TooMany: the queue is full, or those before it leave it no time.
            TooLarge: there are more than the queue ever holds, or than the model can answer in
                time.
            Unavailable: the batcher is closed.
            RuntimeError: the model has failed.
        """
        begun = time.perf_counter()
        request = _Request(images, self._loop.create_future())
        self._enter(request)
        try:
            found = await request.future
        finally:
            self._leave(request)
            del request  # its failure, whose traceback has this frame, would keep its images
        first = found[0].queued
        last = found[-1].computed
        if len(found) == 1:
            return found[0]._replace(queued=first - begun, computed=last - first)
        probabilities, embedding = (
            np.concatenate([getattr(f, name) for f in found]) for name in Found._fields[:2]
        )
        heat = None if found[0].heat is None else np.concatenate([f.heat for f in found])
        return Found(probabilities, embedding, first - begun, last - first, heat)

    async def close(self):
        """Ends the thread once the queue is empty. Nothing is taken any more."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.shield(self._done)

    def _enter(self, request):
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
                    f"{self._waiting} images wait already, of at most {limit}: try again later",
                    seconds,
                )
            if (self._waiting + count) * self._per_image > DOUBT * self._settings.timeout:
                self._check_time(count)
            self._queue[request] = None
            self._waiting += count
            if self._waiting >= self._needed:
                self._changed.notify()

    def _check_time(self, count):
        """Raises `Refused` where so many more images are hardly answered in time.

        Not by an average that is old: nothing would renew it if it let nobody in.
        """
        size = self._settings.max_batch
        timeout = self._settings.timeout
        if time.perf_counter() - self._known > timeout:
            return
        if count > 1 and count * self._per_image > DOUBT * timeout:
            raise TooLarge(
                f"{count} images would take about {count * self._per_image:.0f} seconds, and an answer has "
                f"{timeout:g}: send fewer images at a time"
            )
        # so many images go before it of each request that waits, at most
        turns = -(-count // size) * size
        seconds = (sum(min(other.left, turns) for other in self._queue) + count) * self._per_image
        if self._queue and seconds > DOUBT * timeout:
            message = f"{self._waiting} images wait already, too many for an answer within {timeout:g} seconds"
            raise TooMany(f"{message}: try again later", seconds - timeout)

    def _leave(self, request):
        """Forgets what has not been run of a request that has ended."""
        with self._changed:
            if request in self._queue:
                del self._queue[request]
                self._waiting -= request.left

    def _work(self):
        """What the thread does."""
        while batch := self._next():
            begun = time.perf_counter()
            arrays = None
            error = None
            try:
                parts = [request.images[start:stop] for request, start, stop in batch]
                images = parts[0] if len(parts) == 1 else np.concatenate(parts)
                arrays = self._run(images)
                if any(len(array) != len(images) for array in arrays):
                    raise ValueError(f"it returns {len(arrays[0])} answers to {len(images)} images")
            except Exception as failure:  # the runtimes' exceptions have no common type
                error = failure
            ended = time.perf_counter()
            count = sum(stop - start for _, start, stop in batch)
            size = self._settings.max_batch
            seconds = ended - begun
            with self._changed:
                self._crowd = min(count + self._waiting, size)
                self._per_run = _average(self._per_run, seconds)
                # A smaller batch may take as long as a full one, so it can only show that an image
                # takes less.
                if error is None and (count == size or seconds < self._per_image * count):
                    self._per_image = _average(self._per_image, seconds / count)
                    self._known = ended
            self._tell(self._deliver, batch, arrays, error, begun, ended)
        self._tell(self._done.set_result, None)

    def _tell(self, function, *arguments):
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)

    def _next(self):
        """Waits for the next batch; returns [(request, start, stop)], its parts, or [] when no more
        will come."""
        with self._changed:
            while True:
                self._wait_for(1)
                self._wait_for(self._crowd, min(self._settings.max_delay, self._per_run))
                if self._queue:
                    break
                if self._closing:
                    return []
            batch = []
            count = 0
            size = self._settings.max_batch
            while self._queue:
                request = next(iter(self._queue))
                part = min(request.left, size)
                if count + part > size:
                    break
                batch.append((request, request.taken, request.taken + part))
                count += part
                request.taken += part
                if request.left:
                    self._queue.move_to_end(request)
                else:
                    del self._queue[request]
            self._waiting -= count
            return batch

    def _wait_for(self, count, timeout=None):
        """Waits until so many images wait, or the batcher closes, at most `timeout` seconds."""
        self._needed = count
        self._changed.wait_for(lambda: self._waiting >= count or self._closing, timeout)
        self._needed = self._settings.max_queue + 1  # nobody sleeps now

    def _deliver(self, batch, arrays, error, begun, ended):
        """Gives each part its rows, in the event loop."""
        first = 0
        for request, start, stop in batch:
            last = first + stop - start
            if request.future.done():  # canceled while it was computed
                pass
            elif error is not None:
                failure = RuntimeError(f"version {self._labels[1]} of {self._labels[0]} has failed")
                failure.__cause__ = error
                request.future.set_exception(failure)
            else:
                probabilities, embedding, *heat = (array[first:last] for array in arrays)
                request.found.append(Found(probabilities, embedding, begun, ended, *heat))
                if stop == len(request.images):
                    request.future.set_result(request.found)
            first = last
        self._telemetry.batch(*self._labels, first, self._waiting)


def _average(mean, value):
    return value if not mean else (1 - RECENT) * mean + RECENT * value
