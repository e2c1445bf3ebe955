"""A TFLite file gives in LiteRT what JAX gives, in int8 nearly so. All architectures: tests/slow/test_tflite.py."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.export.programs import images, linear, program_of
from tests.export.zoo import classifier
from vision.bundle import open_model
from vision.errors import UserError
from vision.export import tflite
from vision.export.check import compare
from vision.export.program import served


@pytest.fixture(scope="module")
def cnn(tmp_path_factory):
    """(the program of a convolutional net, the folder with its model.tflite)."""
    folder, cnn = tmp_path_factory.mktemp("cnn"), served(classifier("cnn"))
    tflite.write(cnn, folder / tflite.NAME)
    return cnn, folder


def test_it_gives_what_jax_gives(cnn):
    cnn, folder = cnn
    model = open_model(folder / tflite.NAME)
    assert model.inputs == [("uint8", [32, 32, 3])] and sorted(model.outputs) == ["embedding", "probabilities"]
    probabilities, embedding = model.run(images(5, 32))
    assert probabilities.dtype == embedding.dtype == np.float32
    assert probabilities.max(1).min() > 0.15  # not all the same
    assert compare(cnn, tflite.load(folder / tflite.NAME), images(5, 32)) < 1e-5
    assert list(folder.iterdir()) == [folder / tflite.NAME]


def test_a_batch_is_fixed(tmp_path):
    vit = served(classifier("vit"))
    tflite.write(vit, tmp_path / tflite.NAME, batch=4)
    for count in (1, 4, 6):
        assert compare(vit, tflite.load(tmp_path / tflite.NAME), images(count, 16)) < 1e-5
    code = (
        "import sys\nfrom ai_edge_litert.interpreter import Interpreter\n"
        "print(*Interpreter(sys.argv[1]).get_input_details()[0]['shape'])"
    )  # by a reader that is not ours
    shape = subprocess.check_output([sys.executable, "-c", code, tmp_path / tflite.NAME], cwd=REPOSITORY, text=True)
    assert shape.split() == ["4", "16", "16", "3"]


@pytest.mark.parametrize("batch", [1, 2])
def test_int8_is_near(cnn, batch, tmp_path):
    program, wide = cnn[0], tmp_path / "wide.tflite"
    tflite.write(program, wide, batch)
    tflite.quantize(wide, tmp_path / tflite.NAME, images(50, 32))
    found, embedding = tflite.load(tmp_path / tflite.NAME)(images(50, 32))
    expected, reference = program(images(50, 32))
    assert found.dtype == np.float32 and (found.argmax(1) == expected.argmax(1)).mean() > 0.9
    assert 0 < np.abs(found - expected).max() < 0.02
    assert 0 < np.abs(embedding - reference).max() < 0.03 * np.abs(reference).max()
    with pytest.raises(UserError, match="is int8 already"):
        tflite.quantize(tmp_path / tflite.NAME, tmp_path / "again.tflite", images(50, 32))


def test_a_thousand_classes_still_sum_to_one(tmp_path):
    """LiteRT's int8 softmax has steps of 1/256, in which they would all be 0; and the file is small."""
    kernel = np.random.default_rng(0).normal(size=(64, 1000)).astype(np.float32)

    def function(images):
        embedding = images.reshape(images.shape[0], -1) / jnp.float32(255)
        return jax.nn.softmax(0.1 * (embedding @ kernel)), embedding

    program, wide, narrow = program_of(function, classes=1000), tmp_path / "wide.tflite", tmp_path / tflite.NAME
    tflite.write(program, wide)
    tflite.quantize(wide, narrow, images(40, 8, 1))
    found, _ = tflite.load(narrow)(images(40, 8, 1))
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    assert found.min() > 0 and np.abs(found - program(images(40, 8, 1))[0]).max() < 1e-4
    assert narrow.stat().st_size < 0.36 * wide.stat().st_size


def test_mistakes(cnn, tmp_path):
    wide, out = cnn[1] / tflite.NAME, tmp_path / "out.tflite"
    for given, message in (
        (images(9, 32), "9 images are too few to calibrate with: give 10 or more"),
        (images(10, 32, 1), r"takes uint8 images of \[32, 32, 3\], not uint8 \[32, 32, 1\]"),
        (images(10, 32) / 255, r"not float64 \[32, 32, 3\]"),
    ):
        with pytest.raises(UserError, match=message):
            tflite.quantize(wide, out, given)

    def spectrum(images):
        return linear(jnp.fft.fft2(images.astype(jnp.float32), axes=(1, 2)).real)

    with pytest.raises(
        UserError, match=r"TFLite has no operation for JAX's 'fft' \(.*test_tflite.py:\d+, in .*spectrum\)"
    ):
        tflite.write(program_of(spectrum), out)
    assert not out.exists()
