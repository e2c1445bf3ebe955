"""Twenty versions take over from each other while clients ask without a pause: no request fails, none is mixed up."""

import asyncio
import gc
import itertools
import shutil
import threading

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from tests.tiny_bundle import RESIZE, weights, write_bundle
from vision import inference
from vision.bundle import write_manifest
from vision.serving.repository import Repository
from vision.serving.settings import Settings

SWAPS, CLIENTS = 20, 16
IMAGES = np.random.default_rng(1).integers(0, 256, (64, 8, 8, 1), np.uint8)


class Telemetry:
    def batch(self, model, version, size, waiting):
        pass


def write(folder, number):
    """Writes a bundle whose logits are `number` times those of the tiny one, and moves it to its place."""
    hidden = write_bundle(folder.with_name(f".{folder.name}"))
    model = onnx.load(hidden / "model.onnx")
    second = next(array for array in model.graph.initializer if array.name == "second")
    second.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(second) * np.float32(number), "second"))
    onnx.save(model, hidden / "model.onnx")
    classes = [f"class {i}" for i in range(10)]
    write_manifest(hidden, classes=classes, image_size=8, channels=1, resize=RESIZE)
    hidden.rename(folder)


def expected():
    """Returns the probabilities that each version gives each image."""
    first, second = weights()
    logits = IMAGES.reshape(len(IMAGES), -1).astype(np.float64) @ first @ second
    return {str(n): inference.softmax(logits * n) for n in range(1, SWAPS + 2)}


async def client(repository, number, answers, stop):
    """Asks again as soon as it has an answer."""
    for i in itertools.count(number):
        if stop.is_set():
            return
        start, count = i % 60, i % 4 + 1
        version, shadow = repository.pick("digits", key=f"{number} {i}")
        with version.in_use():
            found = await version.batcher.submit(IMAGES[start : start + count])
        answers.append((version.name, start, found.probabilities, shadow))


async def until(condition):
    for _ in range(2000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it has not come to be in time")


def serve(folder, scenario):
    async def main():
        repository = Repository(Settings(models=str(folder), poll=0.02, threads=1, max_batch=8), Telemetry())
        await repository.start()
        watch = asyncio.create_task(repository.watch())
        answers, stop = [], asyncio.Event()
        clients = [asyncio.create_task(client(repository, i, answers, stop)) for i in range(CLIENTS)]
        try:
            await scenario(repository, answers)
        finally:
            stop.set()
            done = await asyncio.gather(*clients, return_exceptions=True)
            await repository.close()
            watch.cancel()
        assert done == [None] * CLIENTS  # nobody has met an error
        return answers

    return asyncio.run(main())


def check(answers, reference):
    for name, start, probabilities, _ in answers:
        np.testing.assert_allclose(probabilities, reference[name][start : start + len(probabilities)], atol=1e-4)


def test_no_request_fails_while_versions_are_swapped(tmp_path):
    (tmp_path / "digits").mkdir()
    write(tmp_path / "digits/1", 1)
    threads = threading.active_count()

    async def scenario(repository, answers):
        for number in range(2, SWAPS + 2):
            write(tmp_path / f"digits/{number}", number)
            await until(lambda: repository.pick("digits")[0].name == str(number))  # noqa: B023
            shutil.rmtree(tmp_path / f"digits/{number - 1}")
            await until(lambda: repository.models() == {"digits": [str(number)]})  # noqa: B023
            seen = len(answers)
            await until(lambda: len(answers) > seen + 50)  # noqa: B023
        gc.collect()
        open_sessions = sum(isinstance(found, onnxruntime.InferenceSession) for found in gc.get_objects())
        assert open_sessions <= 2  # those that went are gone from memory too

    answers = serve(tmp_path, scenario)
    check(answers, expected())
    assert {name for name, *_ in answers} == {str(n) for n in range(1, SWAPS + 2)}
    assert threading.active_count() <= threads + 1


def test_a_canary_gets_its_share_under_load_and_a_bad_version_none(tmp_path):
    (tmp_path / "digits").mkdir()
    for number in (1, 2, 3):
        write(tmp_path / f"digits/{number}", number)
    (tmp_path / "digits/traffic.json").write_text('{"weights": {"1": 90, "2": 10}, "shadow": "3"}')

    async def scenario(repository, answers):
        await until(lambda: len(answers) > 10_000)
        write(tmp_path / "digits/4", 4)
        (tmp_path / "digits/5").mkdir()
        (tmp_path / "digits/5/bundle.json").write_text("{}")
        await until(lambda: repository.states()["digits"]["versions"].get("5", {}).get("state") == "refused")

    answers = serve(tmp_path, scenario)
    check(answers, expected())
    share = np.mean([name == "2" for name, *_ in answers])
    assert share == pytest.approx(0.1, abs=0.02) and {name for name, *_ in answers} == {"1", "2"}
    assert {shadow.name for *_, shadow in answers} == {"3"}
