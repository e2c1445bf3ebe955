"""A version is warm before it answers, and answers what it has begun before it goes."""

import asyncio
import dataclasses
import os
import time

import numpy as np
import pytest

from tests.support.tiny_bundle import write_bundle
from vision.bundle import directory as bundle
from vision.errors import UserError
from vision.serving.errors import Unavailable
from vision.serving.models import loaded as module
from vision.serving.models.loaded import LoadedVersion, open_warm
from vision.serving.settings import Settings


def blank(count):
    """A batch of black images of 2 x 3 gray pixels."""
    return np.zeros((count, 2, 3, 1), np.uint8)


class Telemetry:
    def batch(self, model, version, size, waiting):
        pass

    def loaded(self, version, written):
        self.written = written


@pytest.mark.parametrize(
    ("largest", "sizes"),
    [(1, [1]), (8, [1, 2, 4, 8]), (20, [1, 2, 4, 8, 16, 20]), (32, [1, 2, 4, 8, 16, 32])],
)
def test_it_has_run_batches_of_all_kinds(tmp_path, monkeypatch, largest, sizes):
    run = []
    opened = []

    def open_noting(*arguments):
        opened.append(arguments)
        model = bundle.open_bundle(*arguments)
        probabilities_and_embeddings = model.probabilities_and_embeddings
        model.probabilities_and_embeddings = lambda images: (
            run.append(len(images)) or probabilities_and_embeddings(images)
        )
        return model

    monkeypatch.setattr(module, "open_bundle", open_noting)
    folder = write_bundle(tmp_path)
    given = Settings(max_batch=largest, threads=1, provider="cpu")
    assert open_warm(folder, given)[1] == given
    assert run == sizes and opened == [(folder, 1, "cpu")]


@pytest.mark.parametrize(
    ("seconds", "best", "largest"),
    [
        (lambda size: 1.0, 64, 64),  # a GPU that is not full yet
        (lambda size: 1.0 * size, 1, 4),  # a core that is always full
        (lambda size: 0.1 + size, 8, 32),  # an image 1.1, 1.05, 1.025, 1.0125, 1.006, 1.003
        (
            lambda size: size * (1.0 if size < 4 else 0.9 if size == 4 else 1.2),
            4,
            16,
        ),  # beyond 4 the cache is too small
        (lambda size: -(-size // 8) * 8.0, 8, 32),  # a model that always runs 8
    ],
)
def test_the_best_batch_is_the_smallest_that_is_about_as_fast(monkeypatch, seconds, best, largest):
    now = [0.0]
    run = []
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    def model(images):
        assert images.dtype == np.uint8 and images.shape[1:] == (2, 3, 1)
        run.append(len(images))
        now[0] += seconds(len(images)) / 1000

    assert module.best_batch(model, blank) == best and max(run) == largest


@pytest.mark.parametrize(("most", "best"), [(1, 1), (8, 8), (40, 32)])
def test_a_batch_that_fails_ends_the_search(caplog, most, best):
    def model(images):
        if len(images) > most:
            raise RuntimeError("out of memory\nat layer 7")
        time.sleep(0.001)

    assert module.best_batch(model, blank) == best
    assert (
        f"a batch of {2 * best} images fails, so batches are smaller: out of memory"
        in caplog.messages
    )


@pytest.mark.parametrize(("images", "batch"), [(0, 0), (0, 4), (2, 4)])
def test_a_model_that_fails_says_for_how_many(tmp_path, monkeypatch, images, batch):
    """Whether it fails for one already, or for more than `images` alone."""

    def model(batch):
        if len(batch) > images:
            raise RuntimeError("out of memory")

    monkeypatch.setattr(module, "run", lambda bundle: model)
    with pytest.raises(UserError if images else RuntimeError) as caught:
        open_warm(write_bundle(tmp_path), Settings(max_batch=batch, threads=1))
    several = "a batch of 4 images fails: out of memory; give a smaller --max-batch"
    assert str(caught.value) == (several if images else "out of memory")


@pytest.mark.parametrize(
    ("seconds", "most"), [(lambda size: 0.5 + 0.1 * size, 10), (lambda size: 20.0 * size, 40)]
)
def test_the_search_takes_seconds(monkeypatch, seconds, most):
    """Of a slow model; the first runs, in which kernels are chosen, are not counted."""
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    def model(images):
        now[0] += seconds(len(images))

    module.best_batch(model, blank)
    assert now[0] <= most


def test_a_slow_first_run_does_not_end_the_search(monkeypatch):
    now = [0.0]
    seen = set()
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])

    def model(images):
        now[0] += 0.01 if len(images) in seen else 20.0
        seen.add(len(images))

    assert module.best_batch(model, blank) == 64


def test_what_is_not_set_is_measured(tmp_path):
    bundle, measured = open_warm(write_bundle(tmp_path), Settings(threads=1))
    assert 1 <= measured.max_batch <= module.LARGEST and measured == dataclasses.replace(
        Settings(threads=1), max_batch=measured.max_batch
    )


def test_its_classes_can_be_written(tmp_path):
    names = ["caf\udce9", "café", *"cdefghij"]
    folder = write_bundle(tmp_path, classes=names)
    assert open_warm(folder, Settings(max_batch=1, threads=1))[0].classes == ("caf?", *names[1:])


def test_it_goes_when_nobody_uses_it_any_more(tmp_path):
    async def main():
        settings = Settings(max_batch=2, threads=1)
        version = LoadedVersion(
            "digits", "2", *open_warm(write_bundle(tmp_path), settings), Telemetry()
        )
        with version.in_use(), version.in_use():
            going = [asyncio.create_task(version.retire()) for _ in range(2)]
            await asyncio.sleep(0.02)
            with (
                pytest.raises(Unavailable, match="version 2 of digits is being unloaded"),
                version.in_use(),
            ):
                pass
            answer = await version.batcher.submit(np.zeros((5, 8, 8, 1), np.uint8))
            assert answer.probabilities.shape == (5, 10) and not any(task.done() for task in going)
        await asyncio.gather(*going)
        with pytest.raises(Unavailable):
            await version.batcher.submit(np.zeros((1, 8, 8, 1), np.uint8))

    asyncio.run(main())


def test_it_is_as_old_as_its_bundle(tmp_path):
    os.utime(write_bundle(tmp_path) / "bundle.json", (1e9, 1.5e9))
    telemetry = Telemetry()

    async def main():
        opened = open_warm(tmp_path, Settings(max_batch=2, threads=1))
        await LoadedVersion("digits", "2", *opened, telemetry).retire()

    asyncio.run(main())
    assert telemetry.written == 1.5e9
