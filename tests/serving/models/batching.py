"""A model that says of each image which number it is, and a batcher in front of it."""

import asyncio
import threading
import time

import numpy as np

from vision.serving.models.batcher import Batcher
from vision.serving.settings import Settings


class Telemetry:
    def __init__(self):
        self.sizes = []

    def batch(self, model, version, size, waiting):
        assert (model, version) == ("digits", "2") and waiting >= 0
        self.sizes.append(size)


class Model:
    """Says of each image which number it is; may take its time, wait for `go`, or fail."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds
        self.batches = []
        self.failures = []
        self.go = threading.Event()
        self.go.set()

    def __call__(self, images):
        self.go.wait(10)
        time.sleep(self.seconds)
        if self.failures:
            raise self.failures.pop()
        numbers = np.ascontiguousarray(images).reshape(len(images), 4).view(np.uint32)
        self.batches.append(numbers[:, 0].tolist())
        return numbers.astype(np.float32), -numbers.astype(np.float32)


def images(first, count=1):
    return np.arange(first, first + count, dtype=np.uint32).view(np.uint8).reshape(count, 2, 2, 1)


def check(answer, first, count=1):
    assert answer.probabilities[:, 0].tolist() == list(range(first, first + count))
    np.testing.assert_array_equal(answer.embedding, -answer.probabilities)
    assert answer.queued >= 0 and answer.computed >= 0


def serve(scenario, model, **options):
    """Runs `scenario(batcher)` in an event loop of its own; returns what it returns and the sizes
    of the batches."""

    async def main():
        telemetry = Telemetry()
        batcher = Batcher(
            model, Settings(**{"max_batch": 32} | options), telemetry, ("digits", "2")
        )
        try:
            outcome = await asyncio.wait_for(scenario(batcher), 20)
        finally:
            model.go.set()
            await batcher.close()
        assert batcher.waiting == 0
        return outcome, telemetry.sizes

    return asyncio.run(main())
