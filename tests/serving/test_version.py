"""A version is warm before it answers, and answers what it has begun before it goes."""

import asyncio

import numpy as np
import pytest

from tests.tiny_bundle import write_bundle
from vision import bundle
from vision.serving import version as module
from vision.serving.errors import Unavailable
from vision.serving.settings import Settings
from vision.serving.version import Version, open_warm


class Telemetry:
    def batch(self, model, version, size, waiting):
        pass


@pytest.mark.parametrize(
    ("largest", "sizes"), [(1, [1]), (8, [1, 2, 4, 8]), (20, [1, 2, 4, 8, 16, 20]), (32, [1, 2, 4, 8, 16, 32])]
)
def test_it_has_run_batches_of_all_kinds(tmp_path, monkeypatch, largest, sizes):
    run, opened = [], []

    def open_noting(*arguments):
        opened.append(arguments)
        found = bundle.open_bundle(*arguments)
        probabilities_and_embeddings = found.probabilities_and_embeddings
        found.probabilities_and_embeddings = lambda images: (
            run.append(len(images)) or probabilities_and_embeddings(images)
        )
        return found

    monkeypatch.setattr(module, "open_bundle", open_noting)
    folder = write_bundle(tmp_path)
    open_warm(folder, Settings(max_batch=largest, threads=1, provider="cpu"))
    assert run == sizes and opened == [(folder, 1, "cpu")]


def test_its_classes_can_be_written(tmp_path):
    names = ["caf\udce9", "café", *"cdefghij"]
    folder = write_bundle(tmp_path, classes=names)
    assert open_warm(folder, Settings(max_batch=1, threads=1)).classes == ("caf?", *names[1:])


def test_it_goes_when_nobody_uses_it_any_more(tmp_path):
    async def main():
        known = Settings(max_batch=2, threads=1)
        version = Version("digits", "2", open_warm(write_bundle(tmp_path), known), known, Telemetry())
        with version.in_use(), version.in_use():
            going = [asyncio.create_task(version.retire()) for _ in range(2)]
            await asyncio.sleep(0.02)
            with pytest.raises(Unavailable, match="version 2 of digits is being unloaded"), version.in_use():
                pass
            found = await version.batcher.submit(np.zeros((5, 8, 8, 1), np.uint8))
            assert found.probabilities.shape == (5, 10) and not any(task.done() for task in going)
        await asyncio.gather(*going)
        with pytest.raises(Unavailable):
            await version.batcher.submit(np.zeros((1, 8, 8, 1), np.uint8))

    asyncio.run(main())
