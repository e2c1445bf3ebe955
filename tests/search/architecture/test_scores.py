"""Scores before any training, against NumPy and against what the papers say of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.support.classifiers import classifier
from vision.models.layers.convolution import ConvNorm
from vision.models.layers.norms import BatchNorm
from vision.models.layers.streams import Streams
from vision.search.architecture.scores import grad_norm, naswot, synflow

RANDOM = np.random.default_rng(0)


class Linear(nnx.Module):
    """Layers without biases or activations, on flat images."""

    def __init__(self, widths):
        pairs = zip(widths[:-1], widths[1:], strict=True)
        rngs = Streams(0)
        self.layers = nnx.List([nnx.Linear(a, b, use_bias=False, rngs=rngs) for a, b in pairs])

    def __call__(self, images):
        x = images.reshape(len(images), -1)
        for layer in self.layers:
            x = layer(x)
        return x


class Rectified(nnx.Module):
    """One convolution of 1 x 1 with a norm and an activation."""

    def __init__(self):
        def norm(features, zero_scale=False):
            return BatchNorm(features, zero_scale=zero_scale, rngs=Streams(0))

        make = {"norm": norm, "dtype": jnp.float32, "rngs": Streams(1)}
        self.conv = ConvNorm(3, 5, 1, act=jax.nn.hard_swish, **make)
        self.last = ConvNorm(5, 2, 1, **make)  # without an activation, so without a code

    def __call__(self, images):
        return self.last(self.conv(images)).mean((1, 2))


def test_synflow_of_linear_layers():
    """Each layer's flow is the same, the sum of all paths: Tanaka et al., theorem 1."""
    model = Linear((12, 7, 6, 4))
    images = RANDOM.normal(size=(3, 2, 2, 3)).astype(np.float32)
    x = np.ones(12)
    for layer in model.layers:
        x = x @ np.abs(np.asarray(layer.kernel[...], np.float64))
    expected = np.log(3 * x.sum())
    assert synflow(model, images, np.zeros(3, int)) == pytest.approx(expected, rel=1e-6)


def test_synflow_looks_at_no_images():
    model = Linear((12, 4))
    scores = {synflow(model, RANDOM.normal(size=(n, 2, 2, 3)), np.zeros(n)) for n in (1, 5)}
    assert len(scores) == 1


def test_naswot_against_numpy():
    model = Rectified()
    images = RANDOM.normal(size=(4, 2, 2, 3)).astype(np.float32)
    mapped = images @ np.asarray(model.conv.conv.kernel[...])[0, 0]
    normalized = mapped - mapped.mean((0, 1, 2))
    code = (normalized > 0).reshape(4, -1)
    distance = (code[:, None] != code[None]).sum(-1)
    expected = np.linalg.slogdet(code.shape[1] - distance)[1]
    assert naswot(model, images, np.zeros(4)) == pytest.approx(expected, rel=1e-6)


def test_naswot_of_images_that_are_the_same_to_the_network():
    images = RANDOM.normal(size=(1, 2, 2, 3)).astype(np.float32).repeat(3, 0)
    assert naswot(Rectified(), images, np.zeros(3)) == -np.inf


def test_grad_norm_against_numpy():
    """Of softmax regression: the gradient is x^T (p - y) / B."""
    model = Linear((12, 4))
    images = RANDOM.normal(size=(5, 2, 2, 3)).astype(np.float32)
    labels = RANDOM.integers(0, 4, 5)
    flat = images.reshape(5, -1).astype(np.float64)
    logits = np.exp(flat @ np.asarray(model.layers[0].kernel[...], np.float64))
    p = logits / logits.sum(1, keepdims=True)
    expected = np.linalg.norm(flat.T @ (p - np.eye(4)[labels]) / 5)
    assert grad_norm(model, images, labels) == pytest.approx(expected, rel=1e-5)


def test_scores_of_a_mobile_network_are_finite():
    model = classifier("mobile_space").model
    images = RANDOM.normal(size=(6, 16, 16, 3)).astype(np.float32)
    labels = RANDOM.integers(0, 5, 6)
    assert np.isfinite(
        [score(model, images, labels) for score in (synflow, naswot, grad_norm)]
    ).all()
