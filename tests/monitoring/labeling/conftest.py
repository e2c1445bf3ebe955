"""A log whose images were kept, and a collection of those worth labeling."""

import csv
import shutil

import numpy as np
import pytest

from tests.monitoring.conftest import START, Writer, photos
from tests.support.commands import outcome
from vision.monitoring import collect
from vision.reference import appearance
from vision.serving.logs.kept_images import KeepRules
from vision.serving.request import Answer, Description, Request

ALL = KeepRules(share=1.0, seconds=1e12)


SHADOWED = range(0, 40, 4)  # images of which another version says another class


@pytest.fixture
def command(watched, tmp_path, capsys):
    """`command(*flags)` runs the command; returns (exit code, stdout, stderr)."""

    def run(*flags, log=tmp_path / "log", bundle=watched[0]):
        argv = (
            [] if any("--labeled" in f for f in flags) else [f"--bundle={bundle}", f"--log={log}"]
        )
        return outcome(collect.main, capsys, *argv, f"--out={tmp_path / 'out'}", *flags)

    return run


def shadow(writing, number, image, moment, monkeypatch):
    """Logs what version 4 says of an image that version 3 has answered: the next class."""
    probabilities, embedding = writing.bundle.probabilities_and_embeddings(image[None])
    other = np.full_like(probabilities, 0.01)
    other[0, (probabilities.argmax() + 1) % 10] = 0.91
    looks = appearance.measure(image, image.shape)[None]
    description = Description(looks, "another bundle", None)
    answer = Answer("pets", "4", writing.bundle.classes, other, embedding, {}, None, description)
    with monkeypatch.context() as patch:
        patch.setattr("time.time", lambda: float(moment))
        writing.log.put(Request("pets", image[None], id=f"r{number + 1}"), answer, shadow=True)


@pytest.fixture(scope="module")
def made(watched, tmp_path_factory):
    """A folder with a log and a collection of 40 of its images, `out`.

    The log has kept all of 200 images, of 100 darker ones, and of 10 that came again.
    """
    folder = tmp_path_factory.mktemp("collect")
    with pytest.MonkeyPatch.context() as patch:
        writing = Writer(folder / "log", watched[1], patch, keep=ALL)
        usual = photos(200, 3)
        writing.put(usual, START + np.arange(200))
        for number in SHADOWED:
            shadow(writing, number, usual[number], START + 200, patch)
        writing.put(photos(100, 4, light=0.5), START + 200 + np.arange(100))
        writing.put(usual[:10], START + 300 + np.arange(10))
        writing.close()
    argv = [f"--bundle={watched[0]}", f"--log={folder / 'log'}", f"--out={folder / 'out'}"]
    collect.main([*argv, "--window=100", "--count=40"])
    return folder


@pytest.fixture
def kept(made, tmp_path):
    """The log, in the test's own directory."""
    return shutil.copytree(made / "log", tmp_path / "log")


def table_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def collection(made, tmp_path):
    """The table of a collection of 40 images, which is in the test's own directory."""
    shutil.copytree(made / "out", tmp_path / "out")
    return table_of(tmp_path / "out" / "images.csv")


def error_of(result):
    code, printed, errors = result
    assert code == 2 and printed == "", result
    assert errors.startswith("error: ") and len(errors.splitlines()) <= 2
    return errors
