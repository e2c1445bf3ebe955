"""A bundle that says how good it was, logs of its answers, and late labels."""

import csv

import numpy as np
import pytest

from tests.monitoring.conftest import START
from tests.support.answering import answer
from tests.support.commands import outcome
from tests.support.tiny_bundle import write_bundle
from vision.bundle.directory import open_bundle
from vision.monitoring.quality.__main__ import main
from vision.reference import quality
from vision.serving.logs.prediction_log import PredictionLog
from vision.serving.request import Answer, Description, Request

CLASSES = ("ant", "bee", "cat", "dog")
IMAGES = 10  # of a request


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """A bundle with the quality of 1,000 images."""
    reference = {"quality": quality.describe(*answer(1000, np.random.default_rng(0)))}
    folder = tmp_path_factory.mktemp("measured")
    return open_bundle(write_bundle(folder / "bundle", CLASSES, reference=reference)), folder


class Served:
    """Writes a log as the server does, and files of labels.

    Attributes:
        truth: {(request's identifier, index): name of the class}, of all answers.
    """

    def __init__(self, folder, fingerprint, monkeypatch):
        self.folder = folder
        self.truth = {}
        self._fingerprint = fingerprint
        self._patch = monkeypatch
        self._random = np.random.default_rng(1)
        self._log = PredictionLog(folder / "log", 400, 60.0)

    def put(self, count, start, version="3", fingerprint=None, shadow=False, **options):
        """Logs answers, ten images a second."""
        probabilities, truth = answer(count, self._random, **options)
        looks = np.zeros((IMAGES, 7), np.float32)
        description = Description(looks, fingerprint or self._fingerprint, None)
        for first in range(0, count, IMAGES):
            part = probabilities[first : first + IMAGES]
            request = Request("zoo", [b""] * len(part), id=f"r{len(self.truth)}")
            embedding = np.zeros((len(part), 6), np.float32)
            own = Answer("zoo", version, CLASSES, part, embedding, {}, None, description)
            with self._patch.context() as patch:
                patch.setattr("time.time", lambda moment=start + first // IMAGES: float(moment))
                self._log.put(request, own, shadow)
            for index in range(len(part)):
                self.truth[request.id, index] = CLASSES[truth[first + index]]

    def close(self):
        self._log.write(everything=True)

    def label(self, share=1.0, name="labels.csv", more=()):
        """Writes the labels of a random share of the answers; returns the file."""
        file = self.folder / name
        file.parent.mkdir(exist_ok=True)
        with file.open("w", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["id", "image", "label"])
            for (request, index), label in self.truth.items():
                if self._random.random() < share:
                    writer.writerow([request, index, label])
            writer.writerows(more)
        return file


@pytest.fixture
def served(bundle, tmp_path, monkeypatch):
    return Served(tmp_path, bundle[0].fingerprint, monkeypatch)


@pytest.fixture
def decayed(served):
    """1,200 answers, of which the last 400 are wrong more often, and their labels."""
    served.put(800, START)
    served.put(400, START + 80, wrong=0.3)
    served.close()
    return served.label()


@pytest.fixture
def command(bundle, tmp_path, capsys):
    """`command(*flags)` runs the command; returns (exit code, stdout, stderr)."""

    def run(*flags, bundle=bundle[1] / "bundle"):
        argv = [f"--bundle={bundle}", f"--log={tmp_path / 'log'}", f"--out={tmp_path / 'out'}"]
        return outcome(main, capsys, *argv, *flags)

    return run
