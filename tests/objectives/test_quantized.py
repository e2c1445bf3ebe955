"""Quantization-aware training: the rounded numbers, the gradients, and the runs that come of it."""

import json
import pathlib
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.tiny_bundle import weights, write_model
from tests.test_resume import arrays, assert_same_run, make_config, send  # noqa: F401
from vision import main, models, objectives
from vision.compression import int8
from vision.config import default
from vision.errors import UserError
from vision.export.onnx import load
from vision.models import surgery
from vision.models.layers.convolution import Conv
from vision.models.layers.linear import Linear
from vision.models.layers.streams import Streams
from vision.objectives.quantized import round_activations, round_weights, simulate

pytestmark = pytest.mark.long

RNG = np.random.RandomState(0)


def signed(kernel, steps):
    """NumPy's rounding of a kernel (..., Cout): integers to ±steps, times a scale of each
    channel."""
    scale = np.abs(kernel).reshape(-1, kernel.shape[-1]).max(0) / steps
    scale = np.where(scale == 0, 1, scale)
    return np.round(kernel / scale) * scale


def unsigned(x):
    """NumPy's rounding of activations: integers of 0 to 255 less a zero point, times one scale."""
    low = min(x.min(), 0)
    high = max(x.max(), 0)
    scale = (high - low) / 255 or 1
    zero = np.round(-low / scale)
    return (np.clip(np.round(x / scale + zero), 0, 255) - zero) * scale


@pytest.mark.parametrize("steps", [127, 64])
@pytest.mark.parametrize("shape", [(3, 3, 4, 6), (3, 3, 1, 4), (7, 5)])
def test_weights_lie_on_a_grid_of_each_channel(float64, steps, shape):
    kernel = RNG.randn(*shape) * 10.0 ** RNG.randint(-3, 3, shape[-1])
    kernel[..., 0] = 0
    rounded = np.asarray(round_weights(jnp.asarray(kernel), steps))
    np.testing.assert_allclose(rounded, signed(kernel, steps), rtol=1e-12, atol=0)
    largest = np.abs(kernel).reshape(-1, shape[-1]).max(0)
    q = rounded[..., 1:] / largest[1:] * steps
    np.testing.assert_allclose(q, np.round(q), atol=1e-9)
    np.testing.assert_allclose(np.abs(q).reshape(-1, shape[-1] - 1).max(0), steps)


@pytest.mark.parametrize(("low", "high"), [(-1.3, 2.1), (0.5, 3.0), (-4.0, -1.0), (0.0, 0.0)])
def test_activations_lie_on_one_grid_with_a_zero(float64, low, high):
    x = RNG.uniform(low, high, (8, 5, 5, 3))
    x[0, 0] = 0
    rounded = np.asarray(round_activations(jnp.asarray(x)))
    np.testing.assert_allclose(rounded, unsigned(x), rtol=1e-12, atol=1e-12)
    assert len(np.unique(rounded)) <= 256 and not rounded[0, 0].any()
    assert np.abs(rounded - x).max() <= 1.01 * (max(high, 0) - min(low, 0)) / 255


@pytest.mark.parametrize("rounding", [round_activations, lambda x: round_weights(x, 127)])
def test_gradient_passes_through(rounding):
    x, weights = (jnp.asarray(RNG.randn(6, 4), jnp.float32) for _ in range(2))
    gradient = jax.jit(jax.grad(lambda x: (rounding(x) * weights).sum()))(x)
    np.testing.assert_array_equal(gradient, weights)


def layers():
    """(layer, shape of its input): all ways in which a CPU computes a layer."""
    options = {"dtype": jnp.float64, "rngs": Streams(0)}
    yield Conv(4, 6, 3, 2, **options), (4, 9, 9, 4)
    yield Conv(4, 4, 3, groups=4, bias=True, **options), (4, 7, 7, 4)
    yield nnx.Conv(4, 8, (1, 1), **options), (4, 7, 7, 4)
    yield Linear(5, 3, **options), (4, 6, 5)
    yield nnx.Linear(5, 3, **options), (4, 5)


def test_layers_compute_with_rounded_numbers(float64):
    """As the plain layer with NumPy's rounded kernel does of NumPy's rounded input, and so do their
    gradients."""
    for (layer, shape), (plain, _) in zip(layers(), layers(), strict=True):
        simulate(nnx.Sequential(layer), "int8")
        x = RNG.randn(*shape)
        unrounded = plain(jnp.asarray(x))
        plain.kernel.set_value(jnp.asarray(signed(np.asarray(layer.kernel[...], np.float64), 127)))
        expected, pull = jax.vjp(plain, jnp.asarray(unsigned(x)))
        outputs, pull_ours = jax.vjp(layer, jnp.asarray(x))
        np.testing.assert_allclose(outputs, expected, rtol=0, atol=1e-9)
        np.testing.assert_allclose(pull_ours(outputs)[0], pull(outputs)[0], rtol=0, atol=1e-9)
        assert np.abs(outputs - unrounded).max() > 1e-4


@pytest.mark.parametrize(("name", "bits"), [("int8", 8), ("int7", 7)])
def test_computes_as_onnx_runtime_does(tmp_path, name, bits):
    """Two matrix products. The range of what the second takes is measured there before the first is
    rounded."""
    if bits == 8 and int8.dot_product() == "none":
        pytest.skip("sums of products of 8 bits saturate on this CPU")
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), np.uint8)
    write_model(tmp_path / "model.onnx")
    int8.quantize(tmp_path / "model.onnx", tmp_path / "int8.onnx", images, weight_bits=bits)
    expected, _ = load(tmp_path / "int8.onnx")(images)
    model = nnx.Sequential(
        *(nnx.Linear(*w.shape, use_bias=False, rngs=Streams(0)) for w in weights())
    )
    for layer, kernel in zip(model.layers, weights(), strict=True):
        layer.kernel.set_value(jnp.asarray(kernel))
    pixels = images.reshape(20, -1).astype(np.float32)
    plain = jax.nn.softmax(model(pixels))
    simulate(model, name)
    simulated = jax.nn.softmax(model(pixels))
    assert np.abs(simulated - expected).mean() < 0.3 * np.abs(plain - expected).mean()


def built(name, variant, quantize):
    c = default()
    c.model.name = name
    c.model.variant = variant
    c.objective.quantize = quantize
    model = models.build(c.model, 10, 32, 3, Streams(0))
    return objectives.build(c.objective, model, class_counts=np.ones(10), rngs=Streams(0)).model


@pytest.mark.parametrize(("name", "variant"), [("mobilenet", "mu"), ("vit", "mu/8")])
def test_variables_are_the_same(name, variant):
    def specification(quantize):
        variables = surgery.variables(nnx.eval_shape(lambda: built(name, variant, quantize)))
        return {n: (type(v), v.shape, v.dtype) for n, v in variables.items()}

    assert specification("int8") == specification("none")


class Empty(nnx.Module):
    def __call__(self, images):
        return images


@pytest.mark.parametrize(
    ("model", "name", "message"),
    [
        (lambda: nnx.Linear(2, 2, rngs=Streams(0)), "int9", "did you mean 'int"),
        (Empty, "int8", "needs a model with nnx.Conv or nnx.Linear"),
        (
            lambda: nnx.Linear(2, 2, dtype=jnp.bfloat16, rngs=Streams(0)),
            "int8",
            "needs model.dtype=float32",
        ),
        (
            lambda: surgery.LowRank(nnx.Linear(2, 2, rngs=Streams(0)), 1, 1.0, rngs=Streams(0)),
            "int8",
            "train with lora first",
        ),
    ],
)
def test_what_cannot_be(model, name, message):
    with pytest.raises(UserError, match=message):
        simulate(model(), name)


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[compression\]'"):
        simulate(Empty(), "int8")
    simulate(Empty(), "none")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(the float run's directory, that of the run which goes on from it in INT8): a ResNet on
    digits."""
    folder = tmp_path_factory.mktemp("quantized")
    c = make_config("resnet")
    c.train.steps = 4
    c.checkpoint.every = 0
    c.train.eval_every = 4
    assert main.run(c, folder / "float")["ended"] == "finished"
    c = finetuning(folder / "float")
    assert main.run(c, folder / "int8")["ended"] == "finished"
    return folder / "float", folder / "int8"


def finetuning(start):
    c = make_config("resnet")
    c.model.pretrained = str(start)
    c.objective.quantize = "int8"
    return c


def test_run_is_an_ordinary_one(runs):
    start, finetuned = runs
    ours = arrays(finetuned, 16)
    theirs = arrays(start, 4)
    assert {n: (a.shape, a.dtype) for n, a in ours.items()} == {
        n: (a.shape, a.dtype) for n, a in theirs.items()
    }
    assert (
        json.loads(pathlib.Path(finetuned, "config.json").read_text())["objective"]["quantize"]
        == "int8"
    )


def test_resumed_run_is_the_same(runs, tmp_path, send, monkeypatch):  # noqa: F811
    start, uninterrupted = runs
    send(signal.SIGTERM, 7)
    assert main.run(finetuning(start), tmp_path / "run") is None
    monkeypatch.undo()
    main.run(finetuning(start), tmp_path / "run")
    assert_same_run(tmp_path / "run", uninterrupted, 16, extra={(7, "train")})
