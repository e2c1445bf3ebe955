"""A repository that follows a directory, for tests that change what is there."""

import asyncio

import numpy as np
import pytest

from vision.serving.errors import Unavailable
from vision.serving.models.repository import Repository
from vision.serving.settings import Settings


class Telemetry:
    def batch(self, model, version, size, waiting):
        pass

    def loaded(self, version, written):
        pass


def serve(folder, scenario):
    """Runs `scenario(repository)` in a new event loop; the directory is scanned every 10 ms."""

    async def main():
        repository = Repository(
            Settings(models=str(folder), poll=0.01, max_batch=2, threads=1), Telemetry()
        )
        assert not repository.ready
        await repository.start()
        watch = asyncio.create_task(repository.watch())
        try:
            await asyncio.wait_for(scenario(repository), 30)
        finally:
            await repository.close()
            watch.cancel()
        assert not repository.ready
        for call in (lambda: repository.pick("digits"), lambda: repository.get("digits")):
            with pytest.raises(Unavailable, match="the server is stopping"):
                call()

    asyncio.run(main())


async def until(condition):
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the condition did not become true in time")


async def scans(repository, count=3):
    """Waits until the directory has been scanned `count` times."""
    for _ in range(count):
        await repository._update()


async def answer(version, count=1):
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 1), np.uint8)
    with version.in_use():
        prediction = await version.batcher.submit(images)
    expected = version.bundle.probabilities_and_embeddings(images)
    np.testing.assert_allclose(prediction.probabilities, expected[0], rtol=1e-5)
    np.testing.assert_allclose(prediction.embedding, expected[1], rtol=1e-4, atol=1e-5)


def state(repository, version, model="digits"):
    return repository.states()[model]["versions"][version]
