"""What learning without labels has in common: heads, measures, momentum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tests.objectives.ssl import CLASSES, LABELS, Network, arrays, log_softmax, units
from vision.models.layers.streams import Streams
from vision.objectives.representation import (
    Head,
    follow,
    matched,
    neighbors,
    online_probe,
    rising,
    spread,
    unit,
)

X = np.random.RandomState(0).randn(9, 4).astype(np.float32)


def normalized(x):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)


def kernels(head):
    return [np.asarray(layer.kernel[...]) for layer in head.layers]


def test_a_head_with_batch_norm():
    """Dense, BatchNorm, ReLU, dense, BatchNorm: no biases but BatchNorm's in the middle."""
    head = Head(4, 6, 3, output_norm=True, output_scale=True, rngs=Streams(0))
    head.train()
    first, last = kernels(head)
    expected = normalized(np.maximum(normalized(X @ first), 0) @ last)
    np.testing.assert_allclose(head(X), expected, atol=1e-5)
    names = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(head, nnx.Param))}
    inner = {"norms.0.scale", "norms.0.bias"}
    assert names == {"layers.0.kernel", "layers.1.kernel", "output_norm.scale"} | inner


def test_a_head_without_batch_norm():
    head = Head(4, 6, 3, layers=3, norm=False, rngs=Streams(0))
    assert [kernel.shape for kernel in kernels(head)] == [(4, 6), (6, 6), (6, 3)]
    for layer in head.layers:
        layer.bias[...] = jnp.arange(layer.out_features) * 0.1
    hidden = X
    for number, kernel in enumerate(kernels(head)):
        hidden = np.maximum(hidden, 0) if number else hidden
        hidden = hidden @ kernel + np.arange(kernel.shape[1]) * 0.1
    np.testing.assert_allclose(head(X), hidden, atol=1e-5)
    assert not arrays(Head(4, 6, 3, norm=False, rngs=Streams(0))).keys() & {("norms", 0, "mean")}


def test_a_head_of_one_layer():
    head = Head(4, 6, 3, layers=1, rngs=Streams(0))
    np.testing.assert_allclose(head(X), X @ kernels(head)[0], atol=1e-6)


def test_vectors_of_length_1():
    np.testing.assert_allclose(unit(X), X / np.linalg.norm(X, axis=1, keepdims=True), atol=1e-6)
    zero = jnp.zeros((2, 3))
    assert not unit(zero).any()
    assert np.isfinite(jax.grad(lambda x: unit(x).sum())(zero)).all()


def test_the_spread_tells_a_collapse():
    even = units(4000, 16)
    assert spread(jnp.asarray(even)) == pytest.approx(1, abs=0.02)
    assert spread(jnp.asarray(np.repeat(even[:1], 8, 0))) == pytest.approx(0, abs=1e-5)
    on_a_line = np.zeros((8, 16))
    on_a_line[:, 0] = [1, -1] * 4
    assert spread(jnp.asarray(on_a_line)) == pytest.approx(1 / 4)


def test_matched():
    similarities = jnp.asarray([[3.0, 1, 2], [5, 4, 0], [0, 1, 2]])
    assert matched(similarities) == pytest.approx(2 / 3)


def test_momentum_rises_by_a_cosine():
    assert rising(0.996, 0.0) == pytest.approx(0.996)
    assert rising(0.996, 0.5) == pytest.approx(0.998)
    assert rising(0.99, 0.25) == pytest.approx(1 - 0.01 * (np.cos(np.pi / 4) + 1) / 2)
    assert rising(0.996, 1.0) == 1


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_following_is_exact(momentum):
    slow = Network(Streams(0))
    fast = Network(Streams(1))
    fast.norm.mean[...] += 3
    before = arrays(slow)
    follow(slow, fast, momentum)
    for path, value in arrays(slow).items():
        mixed = momentum * before[path] + (1 - momentum) * arrays(fast)[path]
        np.testing.assert_allclose(value, mixed, rtol=1e-6)


def test_the_probe_is_a_linear_classifier():
    model = Network(Streams(0))
    embeddings = np.random.RandomState(1).randn(len(LABELS), 8).astype(np.float32)
    loss, scalars = online_probe(model, jnp.asarray(embeddings), jnp.asarray(LABELS))
    logits = embeddings @ np.asarray(model.head.kernel[...]) + np.asarray(model.head.bias[...])
    assert loss == pytest.approx(-(LABELS * log_softmax(logits)).sum(-1).mean(), abs=1e-5)
    assert scalars["accuracy"] == pytest.approx((logits.argmax(1) == LABELS.argmax(1)).mean())
    slope = jax.grad(lambda x: online_probe(model, x, jnp.asarray(LABELS))[0])
    assert not slope(jnp.asarray(embeddings)).any()


class Loader:
    """Embeddings that stand for images."""

    def __init__(self, embeddings, labels):
        self.arrays = (embeddings, labels)

    def __len__(self):
        return len(self.arrays[0])

    def part(self, rows):
        return Loader(*(values[rows] for values in self.arrays))


def test_neighbors_are_sought_among_some_training_images(monkeypatch):
    monkeypatch.setattr("vision.objectives.representation.REFERENCES", 30)
    labels = np.arange(90) % CLASSES
    embeddings = np.eye(CLASSES, dtype=np.float32)[labels]
    seen = []

    def embed(loader):
        seen.append(len(loader))
        return loader.arrays

    loaders = {"train": Loader(embeddings, labels), "val": Loader(embeddings[:9], labels[:9])}
    assert neighbors(embed, loaders) == {"knn": 1.0} and seen == [30, 9]
