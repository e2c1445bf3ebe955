"""A TFLite file gives in LiteRT what JAX gives, in int8 nearly so.

All architectures: tests/slow/test_tflite.py.
"""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ai_edge_litert.tools import flatbuffer_utils

from tests.conftest import REPOSITORY
from tests.support.classifiers import classifier
from tests.support.programs import images, linear, program_of
from vision.bundle.runtimes import open_model
from vision.errors import UserError
from vision.export import tflite
from vision.export.check import compare
from vision.export.program import served
from vision.export.tflite_int8 import quantize
from vision.models.layers import activations, transformer

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def cnn(tmp_path_factory):
    """(the program of a convolutional net, the folder with its model.tflite)."""
    folder = tmp_path_factory.mktemp("cnn")
    cnn = served(classifier("cnn"))
    tflite.write(cnn, folder / tflite.NAME)
    return cnn, folder


def test_it_gives_what_jax_gives(cnn):
    cnn, folder = cnn
    model = open_model(folder / tflite.NAME)
    assert model.inputs == [("uint8", [32, 32, 3])] and sorted(model.outputs) == [
        "embedding",
        "probabilities",
    ]
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
    shape = subprocess.check_output(
        [sys.executable, "-c", code, tmp_path / tflite.NAME], cwd=REPOSITORY, text=True
    )
    assert shape.split() == ["4", "16", "16", "3"]


@pytest.mark.parametrize("batch", [1, 2])
def test_int8_is_near(cnn, batch, tmp_path):
    program = cnn[0]
    wide = tmp_path / "wide.tflite"
    tflite.write(program, wide, batch)
    quantize(wide, tmp_path / tflite.NAME, images(50, 32))
    probabilities, embedding = tflite.load(tmp_path / tflite.NAME)(images(50, 32))
    expected, reference = program(images(50, 32))
    assert probabilities.dtype == np.float32
    assert (probabilities.argmax(1) == expected.argmax(1)).mean() > 0.9
    assert 0 < np.abs(probabilities - expected).max() < 0.02
    assert 0 < np.abs(embedding - reference).max() < 0.03 * np.abs(reference).max()
    with pytest.raises(UserError, match="is int8 already"):
        quantize(tmp_path / tflite.NAME, tmp_path / "again.tflite", images(50, 32))


def test_a_thousand_classes_still_sum_to_one(tmp_path):
    """LiteRT's int8 softmax has steps of 1/256, in which all would be 0; and the file is small."""
    kernel = np.random.default_rng(0).normal(size=(64, 1000)).astype(np.float32)

    def function(images):
        embedding = images.reshape(images.shape[0], -1) / jnp.float32(255)
        return jax.nn.softmax(0.1 * (embedding @ kernel)), embedding

    program = program_of(function, classes=1000)
    wide = tmp_path / "wide.tflite"
    narrow = tmp_path / tflite.NAME
    tflite.write(program, wide)
    quantize(wide, narrow, images(40, 8, 1))
    probabilities, _ = tflite.load(narrow)(images(40, 8, 1))
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    assert probabilities.min() > 0
    assert np.abs(probabilities - program(images(40, 8, 1))[0]).max() < 1e-4
    assert narrow.stat().st_size < 0.36 * wide.stat().st_size


def test_mistakes(cnn, tmp_path):
    wide = cnn[1] / tflite.NAME
    out = tmp_path / "out.tflite"
    for given, message in (
        (images(9, 32), "9 images are too few to calibrate with: give at least 10"),
        (images(10, 32, 1), r"takes uint8 images of \[32, 32, 3\], not uint8 \[32, 32, 1\]"),
        (images(10, 32) / 255, r"not float64 \[32, 32, 3\]"),
    ):
        with pytest.raises(UserError, match=message):
            quantize(wide, out, given)
    assert not out.exists()


class Spectral:
    """A layer whose primitive LiteRT does not have."""

    def __call__(self, x):
        return jnp.fft.fft2(x, axes=(1, 2)).real


class Dilated:
    """One whose primitive it has, but not with holes between the pixels."""

    def __call__(self, x):
        kernel = jnp.ones((2, 2, 1, 1))
        padding = [(0, 1), (0, 1)]
        options = {"lhs_dilation": (2, 2), "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        return jax.lax.conv_general_dilated(x, kernel, (2, 2), padding, **options)


class Endless:
    """One that the converter refuses without a message, beside an operation on constants only."""

    def __call__(self, x):
        turned = jnp.arange(64.0).reshape(8, 8).T[None, :, :, None]
        return jax.lax.while_loop(lambda c: c.sum() < 1e6, lambda c: c * 2 + turned, x)


@pytest.mark.parametrize(
    ("layer", "primitive"),
    [(Spectral, "fft"), (Dilated, "conv_general_dilated"), (Endless, "while")],
)
def test_an_operation_that_litert_lacks_is_named_with_its_place(layer, primitive, tmp_path):
    odd = layer()
    program = program_of(lambda images: linear(odd(images.astype(jnp.float32))))
    where = rf"test_tflite.py:\d+, in {layer.__name__}.__call__"
    with pytest.raises(
        UserError, match=rf"^TFLite has no operation for JAX's '{primitive}' \(.*{where}\)$"
    ):
        tflite.write(program, tmp_path / tflite.NAME)
    assert list(tmp_path.iterdir()) == []


def test_gelu_is_one_operator_and_models_keep_theirs(tmp_path):
    """As a polynomial, in int8, it would move the probabilities of this model by 0.12."""
    vit = served(classifier("vit"))
    gelu = activations.gelu
    pixels = images(50, 16)
    vit(pixels)
    tflite.write(vit, tmp_path / "wide.tflite")
    assert "GELU" in operators(tmp_path / "wide.tflite")
    assert gelu is activations.gelu is transformer.gelu
    assert compare(vit, tflite.load(tmp_path / "wide.tflite"), pixels) < 1e-5
    quantize(tmp_path / "wide.tflite", tmp_path / tflite.NAME, pixels)
    assert compare(vit, tflite.load(tmp_path / tflite.NAME), pixels) < 0.08


def operators(path):
    """Returns the kinds of a model's operators."""
    model = flatbuffer_utils.read_model(str(path))
    return {
        flatbuffer_utils.opcode_to_name(model, o.opcodeIndex) for o in model.subgraphs[0].operators
    }


def test_float16_halves_the_file(tmp_path):
    kernel = np.random.default_rng(0).normal(size=(64, 1000)).astype(np.float32)

    def function(images):
        embedding = images.reshape(images.shape[0], -1) / jnp.float32(255)
        return jax.nn.softmax(0.1 * (embedding @ kernel)), embedding @ kernel

    program = program_of(function, classes=1000)
    wide = tmp_path / "wide.tflite"
    half = tmp_path / tflite.NAME
    tflite.write(program, wide)
    tflite.to_float16(wide, half)
    # float16 has steps of 1e-3
    assert 1e-5 < compare(program, tflite.load(half), images(5, 8, 1)) < 1e-3
    assert half.stat().st_size < 0.52 * wide.stat().st_size


def test_what_is_all_zero_can_be_int8(tmp_path):
    """Such as a new head's weights, or a layer that ReLU silences: they have no scale.

    The bias after them stays.
    """
    kernel = np.random.default_rng(0).normal(size=(64, 10))
    bias = np.linspace(-1, 1, 10)

    def function(images):
        pixels = images.reshape(images.shape[0], -1) / jnp.float32(255)
        stopped = jax.nn.relu(pixels @ -jnp.ones((64, 64)))
        embedding = stopped @ jnp.asarray(kernel) + jnp.asarray(bias)
        return jax.nn.softmax(pixels @ jnp.zeros((64, 10))), embedding

    program = program_of(function)
    tflite.write(program, tmp_path / "wide.tflite")
    quantize(tmp_path / "wide.tflite", tmp_path / tflite.NAME, images(40, 8, 1))
    probabilities, embedding = tflite.load(tmp_path / tflite.NAME)(images(5, 8, 1))
    np.testing.assert_allclose(probabilities, 0.1, rtol=1e-6)
    np.testing.assert_allclose(embedding, np.tile(bias, (5, 1)), atol=0.01)
