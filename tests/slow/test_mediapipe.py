"""MediaPipe, in an environment of its own, reads a file's labels and computes what LiteRT does."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPOSITORY
from tests.support.programs import images
from vision import cli
from vision.bundle.directory import open_bundle
from vision.export import __main__ as command

# MediaPipe has its own release of TFLite, whose integers round differently: by 0.0015 when measured
TOLERANCE = {"float32": 1e-4, "float16": 1e-4, "int8": 1e-2}
CLASSIFY = REPOSITORY / "experiments" / "edge" / "mediapipe_classify.py"


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """A Python with MediaPipe and none of our packages."""
    folder = tmp_path_factory.mktemp("mediapipe")
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "-q", "mediapipe==1.2.2"]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"MediaPipe cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    started = subprocess.run([python, "-c", "import mediapipe"], capture_output=True, text=True)
    if started.returncode:
        pytest.skip(f"MediaPipe cannot be imported: {started.stderr.strip().splitlines()[-1]}")
    return python


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of three RGB images of 16 px, and one twice as wide with its image in the middle."""
    folder = tmp_path_factory.mktemp("photos")
    for index, image in enumerate(images(3, 16)):
        Image.fromarray(image).save(folder / f"{index}.png")
    wide = np.zeros((16, 32, 3), np.uint8)
    wide[:, 8:24] = images(1, 16)[0]
    Image.fromarray(wide).save(folder / "wide.png")
    return folder


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_labels_and_probabilities(tiny_run, python, photos, precision, tmp_path):
    """Of a gray model that takes RGB images and resizes them in its graph."""
    out = tmp_path / "bundle"
    flags = ["--format=tflite", f"--precision={precision}", "--rgb", "--resize-inside=16"]
    cli.run(command.main, ["--workdir", str(tiny_run), "--out", str(out), *flags])
    bundle = open_bundle(out)
    answers = classify(python, out, "crop", photos)
    assert len(answers) == 4 and answers[3] == answers[0]  # the region is the middle
    stretched = classify(python, out, "whole", photos)
    assert stretched[:3] == answers[:3] and stretched[3] != stretched[0]
    expected, _ = bundle.probabilities_and_embeddings(images(3, 16))
    for answer, probabilities in zip(answers, expected, strict=False):
        wanted = dict(zip(bundle.classes, probabilities.tolist(), strict=True))
        allowed = TOLERANCE[precision]
        np.testing.assert_allclose(
            list(answer.values()), [wanted[name] for name in answer], atol=allowed
        )
        assert len(answer) == 5  # the most probable; two that are nearly equal may change places
        left_out = max(value for name, value in wanted.items() if name not in answer)
        assert left_out <= min(answer.values()) + allowed


def classify(python, bundle, region, photos):
    """Returns {class: probability} of each photo, of the five most probable classes."""
    command = [python, CLASSIFY, bundle, region, photos]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line)["classes"] for line in printed.splitlines()]
