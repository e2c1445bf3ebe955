"""A tiny bundle with a reference, and logs of what it answered."""

import dataclasses

import numpy as np
import pytest

from tests.support.tiny_bundle import write_bundle
from vision.bundle.directory import open_bundle
from vision.reference import appearance, statistics
from vision.serving.logs.prediction_log import PredictionLog
from vision.serving.request import Answer, Description, Request

START = 1_760_000_000.0  # seconds since the epoch


def photos(count, seed, light=1.0):
    """Returns uint8 (N, 8, 8, 1): smooth patterns of any brightness; less light darkens them."""
    random = np.random.default_rng(seed)
    steps = random.normal(size=(count, 8, 8, 1)).cumsum(1).cumsum(2) * 16
    images = 128 + steps + random.normal(0, 40, (count, 1, 1, 1))
    return np.clip(images * light, 0, 255).astype(np.uint8)


def reference_of(bundle, images, unseen):
    looks = np.stack([appearance.measure(image, image.shape) for image in images])
    outputs = bundle.probabilities_and_embeddings(unseen)
    return {statistics.KEY: statistics.describe(looks, *outputs)}


@pytest.fixture(scope="session")
def watched(tmp_path_factory):
    """(directory of a bundle with a reference, the bundle opened)."""
    folder = tmp_path_factory.mktemp("watched")
    plain = open_bundle(write_bundle(folder / "plain"))
    reference = reference_of(plain, photos(1000, 1), photos(600, 2))
    directory = write_bundle(folder / "bundle", reference=reference)
    return directory, open_bundle(directory)


class Writer:
    """Writes a log as the server does, with times as the test wants them."""

    def __init__(self, directory, bundle, monkeypatch, rows=10_000, **options):
        self.bundle = bundle
        self.log = PredictionLog(directory, rows, 60.0, **options)
        self._monkeypatch = monkeypatch
        self._count = 0

    def put(self, images, seconds, model="pets", version="3", **changes):
        """Logs images, each a request of its own, at times (N,)."""
        outputs = self.bundle.probabilities_and_embeddings(images)
        for i, (image, moment) in enumerate(zip(images, seconds, strict=True)):
            looks = appearance.measure(image, image.shape)[None]
            description = Description(looks, self.bundle.fingerprint, self.bundle.reference)
            rows = [array[i : i + 1] for array in outputs]
            answer = Answer(model, version, self.bundle.classes, *rows, {}, None, description)
            self._count += 1
            request = Request(model, image[None], id=f"r{self._count}")
            with self._monkeypatch.context() as patch:
                patch.setattr("time.time", lambda moment=moment: float(moment))
                self.log.put(request, dataclasses.replace(answer, **changes), shadow=False)

    def close(self):
        self.log.write(everything=True)


@pytest.fixture
def writer(watched, tmp_path, monkeypatch):
    """`writer(**options)`: a `Writer` into `log`, below the test's own directory."""

    def make(directory="log", **options):
        return Writer(tmp_path / directory, watched[1], monkeypatch, **options)

    return make
