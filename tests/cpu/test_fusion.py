"""Convolutions fused with what follows them: the same numbers, in fewer passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.cpu.test_convolutions import by_onednn  # noqa: F401  the fixture
from vision import cpu, models
from vision.config import default
from vision.cpu import fusion, program
from vision.models.layers.streams import Streams

pytestmark = pytest.mark.usefixtures("by_onednn")

X = np.random.default_rng(0).normal(size=(3, 9, 8, 6)).astype(np.float32)
KERNEL = np.random.default_rng(1).normal(size=(3, 3, 6, 10)).astype(np.float32)
VECTOR = np.random.default_rng(2).normal(size=(1, 1, 1, 10)).astype(np.float32)
LIKE = np.random.default_rng(3).normal(size=(3, 9, 8, 10)).astype(np.float32)


def convolve(x, kernel=KERNEL):
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)


def _twice(x):
    y = convolve(x) + VECTOR
    return jax.nn.relu(y) + y


def _between(x):
    y = convolve(x)
    shifted = y * VECTOR
    return jax.nn.relu(shifted), shifted


def _part_of_an_activation(x):
    y = convolve(x)
    gate = jax.nn.sigmoid(y)
    return y * gate, gate


# What becomes of them: the fused convolutions' (scale, shift, residual, activation).
CASES = {
    "batch norm": (
        lambda x: jax.nn.relu((convolve(x) - VECTOR) * VECTOR + 2 * VECTOR),
        ["scale shift relu"],
    ),
    "bias": (lambda x: jax.nn.relu6(convolve(x) + VECTOR), ["shift relu6"]),
    "a number": (lambda x: 0.5 * convolve(x), ["scale"]),
    "silu": (lambda x: jax.nn.silu(convolve(x)), ["silu"]),
    "hard swish": (lambda x: jax.nn.hard_swish(convolve(x) * VECTOR), ["scale hard_swish"]),
    "residual": (lambda x: jax.nn.relu(LIKE + convolve(x) * VECTOR), ["scale residual relu"]),
    "residual, then scaled": (lambda x: (convolve(x) + LIKE) * VECTOR, ["residual"]),
    "activation, then scaled": (lambda x: jax.nn.relu(convolve(x)) * VECTOR, ["relu"]),
    "sum of two": (
        lambda x: jax.nn.relu(convolve(x) * VECTOR + (convolve(x, -KERNEL) + VECTOR)),
        ["shift", "scale residual relu"],
    ),
    "subtracted from": (lambda x: VECTOR - convolve(x), []),
    "times an array": (lambda x: convolve(x) * LIKE, []),
    "another activation": (lambda x: jnp.tanh(convolve(x)), []),
    "read twice": (_twice, ["shift"]),
    "read between": (_between, ["scale"]),
    "a part of an activation": (_part_of_an_activation, []),
    "only a convolution": (convolve, []),
    "stretched by what follows": (lambda x: convolve(x)[:1] + LIKE, []),
}


@pytest.mark.parametrize("name", CASES)
def test_results(name, epilogues):
    function, expected = CASES[name]
    plain = jax.jit(function)(X)
    result = jax.jit(cpu.fused(function))(X)
    for ours, theirs in zip(jax.tree.leaves(result), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)
    assert sorted(epilogues) == sorted(expected)


@pytest.mark.parametrize("name", CASES)
def test_without_a_fast_primitive(name, monkeypatch):
    monkeypatch.setattr(fusion, "find_target", lambda *_: None)
    function, _ = CASES[name]
    plain = jax.jit(function)(X)
    result = jax.jit(cpu.fused(function))(X)
    for ours, theirs in zip(jax.tree.leaves(result), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-5, atol=2e-5)


@pytest.fixture
def epilogues(monkeypatch):
    """What the fused convolutions that are asked for consist of."""
    names = []
    find = fusion.find_target

    def note(kind, shapes, create):
        _, epilogue = shapes
        flags = [name for name in ("scale", "shift", "residual") if getattr(epilogue, name)]
        names.append(" ".join([*flags, *filter(None, [epilogue.activation])]))
        return find(kind, shapes, create)

    monkeypatch.setattr(fusion, "find_target", note)
    return names


MODELS = ("resnet", "efficientnet", "efficientnet_lite", "mobilenet", "vgg", "wide_resnet")
# Norms come first there: nothing follows the stem and the two projections.
UNFUSED = {"wide_resnet": 3}


@pytest.mark.parametrize("name", MODELS)
def test_models(name, epilogues):
    c = default().model
    c.name = name
    c.variant = "mu"
    c.dtype = "float32"
    model = models.build(c, 5, 32, 3, Streams(0))
    model.eval()
    graph, state = nnx.split(model)
    random = np.random.default_rng(0)
    # Trained statistics are not 0 and 1.
    state = jax.tree.map(
        lambda a: (
            a * random.uniform(0.5, 1.5, a.shape).astype(np.float32)
            if a.dtype == jnp.float32
            else a
        ),
        state,
    )

    def run(state, images):
        return nnx.merge(graph, state)(images)

    images = random.normal(size=(2, 32, 32, 3)).astype(np.float32)
    plain = jax.jit(run)(state, images)
    result = jax.jit(cpu.fused(run))(state, images)
    np.testing.assert_allclose(result, plain, rtol=1e-4, atol=1e-5 * np.abs(plain).max())
    operations = program.trace(run, state, images).operations
    convolutions = [o for o in operations if o.primitive is jax.lax.conv_general_dilated_p]
    assert len(epilogues) == len(convolutions) - UNFUSED.get(name, 0) > 4


def test_not_for_several_devices(epilogues):
    function, _ = CASES["bias"]
    jax.jit(cpu.fused(function, devices=2))(X)
    assert not epilogues


def test_half_precision_is_left_alone(epilogues):
    function, _ = CASES["batch norm"]
    half = X.astype(jnp.bfloat16)
    kernel = KERNEL.astype(jnp.bfloat16)
    jax.jit(cpu.fused(lambda x: jax.nn.relu(convolve(x, kernel) + 1)))(half)
    assert not epilogues
